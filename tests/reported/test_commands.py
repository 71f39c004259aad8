"""Commands as a newcomer, a script and a pipe use them (source: a walk through every command)."""

import argparse
import io
import json
import os
import subprocess
import sys

import pytest

from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.cli import main
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.deployment.canary_schedule import Traffic
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.guards.reason import stated
from pipeline_tasks.orchestration import entrypoints, rollback_preview, rollout_warnings
from pipeline_tasks.orchestration.rollback import roll_back
from pipeline_tasks.project.loader import load_project, load_projects
from pipeline_tasks.project.scaffold import init_project
from tests.ledger_case import Case, minutes
from tests.reported.commands_case import NAME, ROOT

# The words that follow a command; a command that is not here fails the walk.
WORDS = {
    "up": [],
    "down": [],
    "status": [],
    "logs": [],
    "doctor": [],
    "demo": [],
    "init": ["second"],
    "project": ["validate", NAME],
    "ingest": [NAME],
    "annotate": [NAME],
    "collect": [NAME],
    "labels": [NAME],
    "monitor": [NAME],
    "train": [NAME],
    "rollback": [NAME, "--reason", "worse"],
    "predict": [NAME, "no-such-file.png"],
    "keys": ["issue", "--project", NAME],
    "report": [NAME],
    "quarantine": [NAME],
    "history": [NAME],
    "verify": [],
    "replay": ["abc"],
    "lineage": ["abc"],
    "blast-radius": [NAME, "--item", "abc"],
    "retrain": ["abc"],
    "latency": [NAME, "--requests", "0"],
    "graph": [NAME, "check"],
    "item": ["retire", NAME, "abcd", "--reason", "typed in wrongly"],
    "experiment": [NAME, "report"],
    "serving-base": ["--dry-run"],
    "backup": ["projects"],
    "restore": ["nowhere"],
    "serve": [NAME],
    "secrets": ["keys"],
    "upgrade": [],
    "wandb": ["sync"],
}
REFUSED_HOME = {"up", "demo"}  # these would start a stack: a home that no part can read stops them first


def commands():
    (actions,) = [action for action in main.build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return actions.choices


def test_the_walk_knows_every_command():
    assert set(WORDS) == set(commands())


@pytest.mark.parametrize("name", WORDS)
def test_e7_json_is_one_object_on_standard_output(run, name, monkeypatch, installation):
    """Whatever a command finds, a program reads one JSON object; warnings and progress are elsewhere."""
    if name in REFUSED_HOME:
        monkeypatch.setenv("DETHRONE_HOME", str(installation.home / "$x"))
    code, out, err = run(name, *WORDS[name], "--json")
    document = json.loads(out)
    assert isinstance(document, dict)
    assert ("error" in document) <= (code != 0)
    if "error" in document:
        assert set(document["error"]) == {"code", "message"}
        assert document["error"]["message"] in err
        assert document["error"]["code"] != "INTERNAL", err


@pytest.mark.parametrize("words", [["bogus"], ["train"], ["logs", "--lines", "x"], ["keys", "revoke"]])
def test_e7_a_wrong_usage_is_json_too(run, words):
    code, out, _ = run(*words, "--json")
    assert (code, set(json.loads(out)["error"])) == (2, {"code", "message"})


def test_e7_what_a_library_prints_is_not_in_the_answer(run, monkeypatch):
    """180 warnings of a library before the JSON of `ingest`, here by every way that there is."""

    def noisy(*_arguments, **_more):
        import warnings

        print("progress")
        subprocess.run(["echo", "child"], check=True)
        warnings.warn("Corrupt EXIF data", stacklevel=1)
        return {"num_new": 1}

    monkeypatch.setattr(entrypoints, "ingest", noisy)
    code, out, err = run("ingest", NAME, "--json")
    assert (code, json.loads(out)) == (0, {"num_new": 1})
    assert "EXIF" not in err


def test_e7_an_unforeseen_error_is_json_and_its_traceback_is_elsewhere(run, monkeypatch):
    monkeypatch.setattr(entrypoints, "ingest", lambda *_a, **_k: 1 / 0)
    code, out, err = run("ingest", NAME, "--json")
    assert (code, json.loads(out)["error"]["code"]) == (1, "INTERNAL")
    assert "Traceback" in err


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_e7_a_reader_that_goes_away_is_no_traceback(installation, extra):
    """`dethrone project schema | head`."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline_tasks.cli.main", "project", "schema", *extra],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def takes_a_project():
    """Return the words of every command that takes a project, with another name in its place."""
    taken = {"project": ["validate", "pet_photo"]}
    for name, parser in commands().items():
        options = {action.dest: action for action in parser._actions}
        if "project" not in options:
            continue
        words = ["pet_photo" if word == NAME else word for word in WORDS[name]]
        if options["project"].option_strings and "--project" not in words:
            words += ["--project", "pet_photo"]
        taken[name] = words
    return taken


@pytest.mark.parametrize(("name", "words"), takes_a_project().items())
def test_e5_an_unknown_project_is_refused_by_name(run, name, words, installation):
    """`history`, `quarantine`, `graph` answered, and `keys issue` issued a key."""
    code, out, err = run(name, *words)
    assert (code, out) == (2, "")
    assert "got 'pet_photo'). Did you mean pet_photos?" in err
    assert not ServingRepository(installation.parts.database).api_keys()


def test_e5_a_project_whose_folder_is_gone_still_has_its_history(run, installation):
    Case(installation.parts.database, installation.store, project="gone").tell()
    assert run("history", "gone")[0] == 0


@pytest.mark.parametrize("strategy", ["canary", "all_at_once"])
def test_a_rollout_that_cannot_end_is_told_by_validate(run, installation, monkeypatch, strategy):
    """It was said at `ship`, after the training: where yesterday's traffic is known, it is known before."""
    file = installation.projects / NAME / "project.yaml"
    text = file.read_text()
    file.write_text(text.replace("\nserving:\n", f"\nserving:\n  rollout: {{strategy: {strategy}}}\n", 1))
    assert load_project(file.parent).config.serving.rollout.strategy == strategy
    quiet = run("project", "validate", NAME)
    assert (quiet[0], "serving.rollout" in quiet[2]) == (0, False)
    monkeypatch.setattr(rollout_warnings, "newest_day", lambda *_args, **_facts: Traffic((0.01,) * 1440))
    code, _out, err = run("project", "validate", NAME)
    told = f"warning: {NAME}: serving.rollout must be able to end by its deadline_seconds (got 3600; at the traffic of"
    assert (code, told in err, "Settings that would do: " in err) == (0, *[strategy == "canary"] * 2)


@pytest.mark.parametrize("key", ["folder", "pattern", "table", "sql", "s3"])
def test_e4_validate_looks_whether_the_sources_are_there(run, installation, key):
    """A missing source folder was valid; the loader itself must not look, a source may be away for an hour."""
    if key in {"table", "sql"}:
        (installation.projects / NAME).rename(installation.home / "images")
        init_project(installation.projects, name=NAME, template="text-classification")
    file = installation.projects / NAME / "project.yaml"
    rows = "key_column: id, content_columns: [text]"
    source, code, told = {
        "folder": ("{type: folder, path: gone}", 2, "(folder).path must be an existing folder (got"),
        "pattern": ("{type: folder, path: incoming, pattern: '*.tif'}", 0, ".pattern should match files (got '*.tif'"),
        "table": (f"{{type: table, path: gone.csv, {rows}}}", 2, "(table).path must be an existing folder (got"),
        "sql": (f"{{type: sql, url_variable: SHOP_URL, query: select 1, {rows}}}", 0, "url_variable should name"),
        "s3": ("{type: s3, bucket: shop-photos, credentials: SHOP}", 0, "SHOP_ACCESS_KEY and SHOP_SECRET_KEY, not set"),
    }[key]
    text = file.read_text()
    start = text.index("\nsources:")
    following = text.index("\nlabels:", start)
    file.write_text(f"{text[:start]}\nsources:\n  - {source}{text[following:]}")
    assert load_project(file.parent).name == NAME
    assert not load_projects(installation.projects)[1]
    for words in (["validate", NAME], ["validate"]):
        got, _out, err = run("project", *words)
        assert (got, told in err, f"{NAME}: sources[0]" in err) == (code, True, True), err


@pytest.mark.parametrize("reason", ["", "   ", "\n\t", "\u200b", None])
def test_e6_a_reason_says_something(reason):
    with pytest.raises(ConfigError, match="reason must say why"):
        stated(reason)


def test_e6_a_reason_is_one_printable_line():
    assert stated(" worse \n on\0 cats\ud800 ") == "worse on cats?"


@pytest.mark.parametrize(
    "words",
    [["rollback", NAME, "--reason", ""], ["graph", NAME, "apply"], ["experiment", NAME, "stop", "--reason", " "]],
    ids=lambda words: words[0],
)
def test_e6_no_command_decides_without_a_reason(run, words):
    """`rollback --reason ""` swapped the champion."""
    code, _out, err = run(*words)
    assert (code, "reason must say why" in err) == (2, True), err


def test_e6_the_stage_itself_refuses_too(installation):
    """The form in Airflow, too."""
    with pytest.raises(ConfigError, match="reason must say why"):
        roll_back(installation.parts, NAME, attempt=Attempt("r", "t"), to_version=None, reason=" ", actor="ann")


def test_e6_a_preview_says_from_where_to_where_and_since_when(installation):
    case = Case(installation.parts.database, installation.store, project=NAME)
    for at, version in enumerate(("v1", "v2"), start=1):
        case.judge(version, at=at)
        case.move(version, at=at)
    preview = rollback_preview.preview(installation.parts, NAME, to_version=None, actor="ann", reason="worse on cats")
    assert preview == (
        f"{NAME}: back from v2, champion since {minutes(2):%Y-%m-%d %H:%M} UTC, to v1, champion since "
        f"{minutes(1):%Y-%m-%d %H:%M} UTC (worse on cats)."
    )


def test_e6_a_preview_says_that_the_same_rollback_was_done_already(installation, monkeypatch):
    """Killed before it printed, and given again, it went one champion further."""
    case = Case(installation.parts.database, installation.store, project=NAME)
    for at, version in enumerate(("v1", "v2"), start=1):
        case.judge(version, at=at)
        case.move(version, at=at)
    case.move("v1", at=3, action="rollback", run="shell__1")
    monkeypatch.setattr(rollback_preview, "utc_now", lambda: minutes(4))
    preview = rollback_preview.preview(installation.parts, NAME, to_version=None, actor="ops", reason="complaints")
    assert preview == (
        f"{NAME}: v1 is champion again since {minutes(3):%Y-%m-%d %H:%M} UTC by this same rollback (complaints). "
        "To go further back, name the champion: --to-version."
    )


@pytest.mark.parametrize(
    "said",
    [("n\n", [], True, 0), ("", [], True, 0), ("y\n", [], True, 1), ("", ["--yes"], True, 1), ("", [], False, 1)],
)
def test_e6_a_terminal_is_asked(run, monkeypatch, said):
    answer, extra, is_terminal, changed = said
    done = []
    monkeypatch.setattr(rollback_preview, "preview", lambda *_a, **_k: "from v2 to v1")
    monkeypatch.setattr(entrypoints, "rollback", lambda *_a, **_k: done.append(1) or {"generation": 3})
    stdin = io.StringIO(answer)
    stdin.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stdin", stdin)
    code, _out, err = run("rollback", NAME, "--reason", "worse", *extra)
    assert (len(done), code, "from v2 to v1" in err) == (changed, 1 - changed, True)


@pytest.mark.parametrize("action", ["list", "validate"])
def test_a_composed_project_is_shown_and_checked_with_the_others(run, installation, action):
    folder = installation.projects / "triage"
    folder.mkdir()
    facts = "version: 1\nname: triage\nowner: ann\ndescription: Cats first.\n"
    text = f"{facts}graph:\n  nodes:\n    first: {{project: pet_photos}}\n"
    (folder / "project.yaml").write_text(f"{text}  output: [first]\n")
    code, out, _ = run("project", action)
    assert (code, "triage (ann): a graph of 1 nodes. Cats first." in out) == (0, True), out
    (folder / "project.yaml").write_text(f"{text}  output: [second]\n")
    code, _, err = run("project", action)
    assert (code, "triage/project.yaml" in err) == (2, True), err


def test_e13_a_new_project_points_editors_to_a_schema_that_is_there(installation):
    """`$schema` of a new project pointed nowhere outside of the repository."""
    folder = installation.projects / NAME
    first = (folder / "project.yaml").read_text().splitlines()[0]
    path = folder / first.split("$schema=")[1]
    assert json.loads(path.read_text())["title"] == "Dethrone project.yaml"
