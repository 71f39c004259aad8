"""The dependency audit and the finding of doctor: holes, the list's age, what is accepted, images by tag."""

import datetime as dt
import importlib.util
import json
import re
import zipfile

import pytest
import yaml

from pipeline_tasks.errors import ConfigError
from pipeline_tasks.stack import advisories, doctor
from pipeline_tasks.stack.advisories import Accepted, Advisories, Advisory, Hole
from pipeline_tasks.stack.layout import StackLayout, source_root

ROOT = source_root()
REQUIREMENTS = ROOT / "requirements"
STORED = advisories.read_list(REQUIREMENTS / advisories.LIST_NAME)
ACCEPTED = advisories.read_accepted(REQUIREMENTS / advisories.ACCEPTED_NAME)
DAY = dt.date(2026, 11, 30)
DIGEST = f"sha256:{'a' * 64}"


def loaded():
    spec = importlib.util.spec_from_file_location("audit", REQUIREMENTS / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


audit = loaded()


def listed(*entries, date=DAY, complete=True):
    return Advisories(source="here", license="none", date=date, complete=complete, entries=entries)


def span(introduced="0", **ends):
    return {"introduced": introduced, **ends}


def test_no_locked_version_has_an_open_hole():
    holes = advisories.holes(advisories.locked(REQUIREMENTS.glob("*.lock")), STORED)
    assert advisories.unaccepted(holes, ACCEPTED, today=STORED.date) == []


def test_every_accepted_hole_is_still_one():
    """Else it is forgotten there and hides the next one."""
    holes = set(advisories.holes(advisories.locked(REQUIREMENTS.glob("*.lock")), STORED))
    assert [hole for hole in ACCEPTED if Hole(hole.package, hole.version, hole.id) not in holes] == []


def test_the_stored_list_flags_what_everybody_knows():
    assert advisories.unflagged(STORED) == []
    assert advisories.unflagged(listed()) == [
        "apache-airflow 3.1.3", "bentoml 1.4.2", "label-studio 1.15.0", "pillow 12.1.0", "torch 2.5.0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("version", "is_affected"),
    [
        ("0.9", False), ("1.0", True), ("1.4.2", True), ("1.5rc1", True), ("1.5", False), ("1.5+cpu", False),
        ("1.4.2+cpu", True), ("2.0", False), ("2.1", True), ("2.1.1", False), ("9", True), ("unknown", True),
    ],
)  # fmt: skip
def test_a_range_goes_from_introduced_to_before_fixed_or_through_last_affected(version, is_affected):
    ranges = (span("1.0", fixed="1.5"), span("2.1", last_affected="2.1"), span("9"))
    assert Advisory("a", "CVE-1", ranges).affects(version) is is_affected


def test_an_accepted_hole_is_open_again_for_another_version_and_after_its_day():
    accepted = [Accepted("a", "CVE-1", "1.0", "out of reach", DAY)]
    hole = Hole("a", "1.0", "CVE-1")
    assert advisories.unaccepted([hole], accepted, today=DAY) == []
    assert advisories.unaccepted([hole], accepted, today=DAY + dt.timedelta(days=1)) == [hole]
    other = Hole("a", "1.1", "CVE-1")
    assert advisories.unaccepted([other], accepted, today=DAY) == [other]


def test_a_list_of_people_says_that_it_is_not_complete():
    said = advisories.age_said(listed(Advisory("a", "CVE-1", ()), complete=False), today=DAY + dt.timedelta(days=3))
    assert said == "1 advisories on 1 packages of 2026-11-30 (3 days old, picked by hand and not complete)"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"source": 1}', '{"source": "", "license": "", "complete": true, "date": "x", "advisories": []}'],
)
def test_another_file_is_refused_by_name(tmp_path, text):
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"list.json must be a list of advisories \(got \w+"):
        advisories.read_list(path)
    with pytest.raises(ConfigError, match=r"no-such\.json must be a list of advisories"):
        advisories.read_accepted(tmp_path / "no-such.json")


def test_a_range_with_another_word_is_refused(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(advisories.as_text(listed(Advisory("a", "CVE-1", (span(limit="2"),)))))
    with pytest.raises(ConfigError, match="a range must have introduced and fixed or last_affected"):
        advisories.read_list(path)


def osv(**fields):
    package = {"ecosystem": "PyPI", "name": fields.pop("package", "Pillow")}
    affected = {"package": package, **{name: fields.pop(name) for name in ("ranges", "versions") if name in fields}}
    return {"id": "GHSA-1", "modified": "2026-11-29T01:02:03Z", "affected": [affected], **fields}


EVENTS = [{"introduced": "0"}, {"fixed": "1.5"}, {"introduced": "2.0"}, {"last_affected": "2.3"}, {"introduced": "4"}]
RECORDS = [
    osv(ranges=[{"type": "ECOSYSTEM", "events": EVENTS}, {"type": "GIT", "events": [{"introduced": "0"}]}]),
    osv(id="PYSEC-2", aliases=["GHSA-2", "CVE-2026-2"], versions=["1.0", "1.1"]),
    osv(id="GHSA-2", aliases=["CVE-2026-2"], versions=["1.1"]),
    osv(id="CVE-2026-3", ranges=[{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"last_affected": "2-NA"}]}]),
    osv(id="CVE-2026-4", package="other", versions=["1"]),
    osv(id="CVE-2026-5", versions=["1"], withdrawn="2026-01-01T00:00:00Z", modified="2026-11-30T00:00:00Z"),
]


def test_a_list_is_reduced_to_our_packages_with_one_name_for_a_hole():
    reduced = advisories.reduced(RECORDS, packages=["pillow"], source="osv.zip", license="CC-BY-4.0")
    assert reduced.date == DAY
    assert reduced.complete
    assert reduced.entries == [
        Advisory("pillow", "CVE-2026-2", tuple(span(version, last_affected=version) for version in ("1.0", "1.1"))),
        Advisory("pillow", "GHSA-1", (span(fixed="1.5"), span("2.0", last_affected="2.3"), span("4"))),
    ]


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_a_refreshed_list_is_read_as_it_was_written(tmp_path, kind, capsys):
    if kind == "zip":
        source = tmp_path / "all.zip"
        with zipfile.ZipFile(source, "w") as packed:
            for number, record in enumerate(RECORDS):
                packed.writestr(f"{number}.json", json.dumps(record))
    else:
        source = tmp_path / "clone"
        (source / "vulns" / "pillow").mkdir(parents=True)
        (source / "README.md").write_text("about")
        for number, record in enumerate(RECORDS):
            (source / "vulns" / "pillow" / f"PYSEC-{number}.yaml").write_text(yaml.safe_dump(record))
        (source / "vulns" / "broken.yaml").write_text("a: [")
    (tmp_path / "a.lock").write_text("pillow==13.0.0 \\\n    --hash=sha256:0\n    # via dethrone\n")
    arguments = ["--list", str(tmp_path / "list.json"), "--locks", str(tmp_path)]
    assert audit.main([*arguments, "refresh", str(source)]) == 0
    read = advisories.read_list(tmp_path / "list.json")
    wanted = advisories.reduced(RECORDS, packages=["pillow"], source=str(source), license=audit.LICENSE)
    assert advisories.as_text(read) == advisories.as_text(wanted)
    assert "2 advisories on 1 packages of 2026-11-30" in capsys.readouterr().out


def test_a_source_without_records_changes_nothing(tmp_path, capsys):
    (tmp_path / "list.json").write_text("before")
    arguments = ["--list", str(tmp_path / "list.json"), "refresh"]
    assert audit.main([*arguments, str(tmp_path)]) == 2
    assert audit.main([*arguments, str(tmp_path / "list.json")]) == 2
    assert (tmp_path / "list.json").read_text() == "before"
    said = capsys.readouterr().err
    assert "the source must hold OSV records (got none)" in said
    assert "the source must be a zip file, an https address or a folder" in said


@pytest.fixture
def checked(tmp_path, capsys, monkeypatch):
    """Run the audit of one locked package against a list, and return its exit code and what it says is wrong."""
    monkeypatch.setattr(advisories, "installed", lambda _folders=None: set())
    (tmp_path / "a.lock").write_text("pillow==12.1.0\n")

    def run(stored, *options, accepted=(), today=DAY):
        (tmp_path / "list.json").write_text(advisories.as_text(stored))
        (tmp_path / "accepted.json").write_text(json.dumps({"accepted": list(accepted)}))
        files = ["--list", tmp_path / "list.json", "--accepted", tmp_path / "accepted.json", "--locks", tmp_path]
        asked = audit._parser().parse_args([*map(str, files), *options])
        return audit.check(asked, today=today), capsys.readouterr().err

    return run


PLANTED = [
    Advisory(name, f"CVE-{name}", (span(last_affected=version),)) for name, version in advisories.PLANTED.items()
]
YES = {"package": "pillow", "version": "12.1.0", "id": "CVE-pillow", "reason": "no PSD is read", "until": "2026-12-31"}


def test_an_open_hole_fails_the_audit_and_an_accepted_one_does_not(checked):
    code, said = checked(listed(*PLANTED))
    assert code == 1
    assert said == (
        "audit: pillow 12.1.0 has CVE-pillow: take a newer version, or accept it in accepted.json with a reason\n"
    )
    assert checked(listed(*PLANTED), accepted=[YES]) == (0, "")
    assert checked(listed(*PLANTED), accepted=[YES], today=dt.date(2027, 1, 1))[0] == 1


@pytest.mark.parametrize(("days", "code"), [(30, 0), (31, 1), (-1, 1)])
def test_a_list_that_is_too_old_or_of_the_future_fails_the_audit(checked, days, code):
    exit_code, said = checked(listed(*PLANTED, date=DAY - dt.timedelta(days=days)), accepted=[YES])
    assert exit_code == code
    assert (f"the list must be of the last 30 days (got {days} days)" in said) is bool(code)


def test_the_limit_of_the_age_can_be_another(checked):
    assert checked(listed(*PLANTED, date=DAY - dt.timedelta(days=31)), "--max-age-days", "40", accepted=[YES])[0] == 0


def test_a_list_that_flags_too_little_fails_the_audit(checked):
    code, said = checked(listed(*PLANTED[:-1]), accepted=[YES])
    assert (code, said) == (1, "audit: the list does not flag torch 2.5.0, which everybody knows\n")


def test_images_by_tag_are_named_until_their_variables_have_a_digest():
    compose = (ROOT / "docker-compose.yml").read_text()
    named = dict(line.split("=", 1) for line in audit.by_tag(compose, environment={}))
    assert len(named) == 10
    pinned = dict.fromkeys(named, f"registry.example.com/x@{DIGEST}")
    assert audit.by_tag(compose, environment=pinned) == []
    tag = {**pinned, "DETHRONE_IMAGE_REDIS": "redis:8"}
    assert audit.by_tag(compose, environment=tag) == ["DETHRONE_IMAGE_REDIS=redis:8"]


def test_images_by_tag_fail_the_audit_where_digests_are_required(checked, monkeypatch):
    code, said = checked(listed(*PLANTED), "--require-digests", accepted=[YES])
    assert code == 1
    assert "DETHRONE_IMAGE_POSTGRES=postgres:17.6-bookworm must be name@sha256:..." in said


def test_no_image_is_started_or_built_on_but_by_its_variable():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    bases = {}
    for service in compose["services"].values():
        assert audit.IMAGE.fullmatch(service["image"])
        if "build" in service:
            bases[service["build"]["dockerfile"]] = audit.IMAGE.fullmatch(service["build"]["args"]["BASE_IMAGE"])[2]
    files = sorted((ROOT / "deploy" / "docker").glob("*/Dockerfile"))
    assert set(bases) == {file.relative_to(ROOT).as_posix() for file in files}
    for file in files:
        text = file.read_text()
        stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
        assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) <= stages | {"${BASE_IMAGE}"}
        assert re.search(r"^ARG BASE_IMAGE=(.+)$", text, re.MULTILINE)[1] == bases[file.relative_to(ROOT).as_posix()]


@pytest.fixture
def layout(tmp_path):
    (tmp_path / "requirements").mkdir()
    return StackLayout(home=tmp_path / "home", root=tmp_path)


def stored_in(layout, stored, accepted=()):
    (layout.root / "requirements" / advisories.LIST_NAME).write_text(advisories.as_text(stored))
    (layout.root / "requirements" / advisories.ACCEPTED_NAME).write_text(json.dumps({"accepted": list(accepted)}))


def test_doctor_names_an_installed_version_with_a_hole(layout, monkeypatch):
    folders = []
    monkeypatch.setattr(advisories, "installed", lambda *asked: folders.append(asked) or {("pillow", "12.1.0")})
    stored_in(layout, listed(*PLANTED))
    check = doctor.check_known_holes(layout, today=DAY)
    assert not check.ok
    assert check.detail.startswith("pillow 12.1.0 has CVE-pillow. 1 packages, 0 accepted; 5 advisories on 5 packages")
    assert check.advice == "See `make audit`."
    assert folders == [(), ([],)]


def test_doctor_looks_at_label_studios_environment_too(layout):
    folder = layout.label_studio_bin.parent / "lib" / "python3.11" / "site-packages"
    (folder / "label_studio-1.15.0.dist-info").mkdir(parents=True)
    (folder / "label_studio-1.15.0.dist-info" / "METADATA").write_text("Name: label-studio\nVersion: 1.15.0\n")
    stored_in(layout, listed(*PLANTED))
    assert "label-studio 1.15.0 has CVE-label-studio" in doctor.check_known_holes(layout, today=DAY).detail


def test_an_old_list_and_an_acceptance_that_is_over_are_told_and_fail_nothing(layout, monkeypatch):
    monkeypatch.setattr(advisories, "installed", lambda *_: {("pillow", "12.1.0")})
    stored_in(layout, listed(*PLANTED), [YES])
    now = doctor.check_known_holes(layout, today=DAY)
    assert (now.ok, now.advice) == (True, "")
    assert now.detail == "none open in 1 packages, 1 accepted; 5 advisories on 5 packages of 2026-11-30 (0 days old)"
    late = doctor.check_known_holes(layout, today=dt.date(2027, 1, 1))
    assert late.ok
    assert late.advice == (
        "Look again at pillow 12.1.0 has CVE-pillow: it was accepted for a time that is over. "
        "Refresh the list: `make advisories`."
    )


def test_a_missing_list_is_a_finding(layout):
    check = doctor.guarded("known holes", lambda: doctor.check_known_holes(layout, today=DAY), advice="")
    assert not check.ok
    assert "must be a list of advisories (got FileNotFoundError). Make it anew: make advisories." in check.detail


def test_the_lock_that_is_not_looked_at_is_said(capsys):
    locks = {path.parent for path in (ROOT / "clients").rglob("package-lock.json") if "node_modules" not in path.parts}
    assert locks == {ROOT / audit.NPM}
    audit.main(["--max-age-days", "100000"])
    said = re.search(r"not looked at: (\d+) npm packages that build clients/typescript", capsys.readouterr().out)
    assert int(said[1]) == (ROOT / audit.NPM / "package-lock.json").read_text().count('"node_modules/')
