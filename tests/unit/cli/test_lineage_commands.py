"""`dethrone lineage`, `blast-radius` and `retrain` as a shell runs them."""

import json
import types

import pytest

from pipeline_tasks.audit import retrain
from pipeline_tasks.cli import main
from pipeline_tasks.orchestration import resources
from pipeline_tasks.training.reproduce import MetricPair, Reproduction
from tests.lineage_case import Past, item_id


@pytest.fixture
def past(database, object_store, tmp_path, monkeypatch) -> Past:
    settings = types.SimpleNamespace(scratch_dir=tmp_path / "scratch", projects_dir=tmp_path / "projects")
    parts = types.SimpleNamespace(database=database, store=object_store, settings=settings)
    monkeypatch.setattr(resources, "build_resources", lambda: parts)
    return Past(database, object_store)


def test_lineage_is_a_tree_for_people(past, capsys):
    assert main.main(["lineage", past.version_of("m2")[:8]]) == main.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"model version {past.version_of('m2')}: image_cnn, seed 3, validation accuracy 0.8750")
    assert "│     ├─ 6 labels by ada 3, ben 3, imported 1" in lines


def test_lineage_is_json_for_programs(past, capsys):
    assert main.main(["lineage", f"item:{item_id(1)[:9]}", "--project", "pets", "--json"]) == main.DONE
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["id"], told["project"]) == ("item", item_id(1), "pets")


def test_an_unknown_id_is_wrong_usage(past, capsys):
    assert main.main(["lineage", "deadbeef"]) == main.USAGE
    assert "error [CONFIG_INVALID]: id must be (the beginning of) a known" in capsys.readouterr().err


def test_blast_radius_in_both_forms(past, capsys):
    assert main.main(["blast-radius", "pets", "--annotator", "ben"]) == main.DONE
    assert "1 live service affected" in capsys.readouterr().out
    assert main.main(["blast-radius", "pets", "--label", item_id(4), "--json"]) == main.DONE
    assert json.loads(capsys.readouterr().out)["live"][0]["deployment_id"] == "pets-m2"


@pytest.mark.parametrize(("agrees", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_of_retrain_is_the_answer(past, monkeypatch, capsys, agrees, code):
    asked = {}

    def compare(project, version, **arguments):
        asked.update(arguments, project=project, version=version)
        return Reproduction(agrees, 0.0, agrees, "a" * 64, "b" * 64, (MetricPair("accuracy", 0.5, 0.75),), ())

    monkeypatch.setattr(retrain, "retrain", compare)
    assert main.main(["retrain", past.version_of("m1")[:6], "--tolerance", "0.1"]) == code
    assert (asked["project"], asked["version"], asked["tolerance"]) == ("pets", past.version_of("m1"), 0.1)
    assert capsys.readouterr().out.startswith("Agrees" if agrees else "DIFFERS")
    assert main.main(["retrain", past.version_of("m1"), "--json"]) == code
    assert json.loads(capsys.readouterr().out)["metrics"][0]["difference"] == 0.25
