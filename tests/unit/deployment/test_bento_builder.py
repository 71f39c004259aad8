"""The content and the names of bentos; building one for real is in tests/service."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline_tasks.deployment import bento_builder
from pipeline_tasks.deployment.bento_builder import build_bento, content_digest, pins, source_files, stored_digest
from pipeline_tasks.errors import ConfigError


@pytest.fixture
def model_dir(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "model.json").write_bytes(b"{}")
    return folder


def test_a_bento_holds_what_serves_and_nothing_else_of_ours():
    names = {path.as_posix() for path in source_files()}
    assert {"bento_services/inference/service.py", "pipeline_tasks/models/artifact.py"} <= names
    services, ours = (
        r"bento_services/(__init__|serve|inference/\w+)",
        r"pipeline_tasks/(__init__|contracts|errors|(guards|models)/[\w/]+)",
    )
    allowed = rf"({services}|{ours})\.py"
    assert [name for name in names if not re.fullmatch(allowed, name)] == []


def test_the_digest_changes_with_a_byte_of_the_model_and_with_a_pin(model_dir):
    digest = content_digest(model_dir, requirements=["torch==2.13.0"])
    assert digest == content_digest(model_dir, requirements=["torch==2.13.0"])
    assert digest != content_digest(model_dir, requirements=["torch==2.13.1"])
    (model_dir / "model.json").write_bytes(b"{ }")
    assert digest != content_digest(model_dir, requirements=["torch==2.13.0"])


def test_a_graph_is_part_of_what_a_release_is(model_dir):
    (model_dir / "model.json").write_bytes(b'{"config": {"runtime": "onnx"}}')
    with pytest.raises(FileNotFoundError, match=r"model\.onnx"):
        content_digest(model_dir, requirements=[])
    with pytest.raises(ConfigError, match=r"model_dir must hold the file model\.onnx"):
        build_bento(model_dir, tag="a:b", labels={}, bentoml_home=model_dir)
    (model_dir / "model.onnx").write_bytes(b"graph")
    digest = content_digest(model_dir, requirements=[])
    (model_dir / "model.onnx").write_bytes(b"another graph")
    assert content_digest(model_dir, requirements=[]) != digest


def put_bento(home: Path, model_dir: Path, *, requirements: list[str]) -> Path:
    """Lay the files of a bento and its model where BentoML keeps them; return the bento's folder."""
    bento, model = home / "bentos" / "fashion" / "r1", home / "models" / "fashion" / "r1"
    for path in source_files():
        (bento / "src" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(bento_builder.__file__).parents[2] / path, bento / "src" / path)
    (bento / "src" / "bento_services" / "__pycache__").mkdir()
    (bento / "src" / "bento_services" / "__pycache__" / "serve.cpython-311.pyc").write_bytes(b"compiled")
    (bento / "env" / "python").mkdir(parents=True)
    (bento / "env" / "python" / "requirements.txt").write_text("\n".join([*requirements, "bentoml==1.4.39", ""]))
    shutil.copytree(model_dir, model)
    return bento


def test_what_a_store_holds_has_the_digest_of_what_was_built(model_dir, tmp_path):
    digest = content_digest(model_dir, requirements=["torch==2.13.0"])
    bento = put_bento(tmp_path, model_dir, requirements=["torch==2.13.0"])
    assert stored_digest("fashion:r1", bentoml_home=tmp_path) == digest
    for path in (
        tmp_path / "models" / "fashion" / "r1" / "model.safetensors",
        bento / "src" / "bento_services" / "serve.py",
        bento / "env" / "python" / "requirements.txt",
    ):
        kept = path.read_bytes()
        path.write_bytes(kept + b"# changed\n")
        assert stored_digest("fashion:r1", bentoml_home=tmp_path) != digest
        path.write_bytes(kept)
    (bento / "src" / "sitecustomize.py").write_text("")
    assert stored_digest("fashion:r1", bentoml_home=tmp_path) != digest


@pytest.mark.parametrize(
    "name", ["models/fashion/r1/model.safetensors", "bentos/fashion/r1/src/bento_services/serve.py"]
)
def test_h12_a_link_in_a_bento_is_no_part_of_a_digest(model_dir, tmp_path, name):
    put_bento(tmp_path, model_dir, requirements=["torch==2.13.0"])
    place, outside = tmp_path / name, tmp_path / "outside"
    place.rename(outside)
    place.symlink_to(outside)
    assert stored_digest("fashion:r1", bentoml_home=tmp_path) is None


@pytest.mark.parametrize("lost", ["bentos", "models"])
def test_a_bento_that_is_not_all_there_has_no_digest(model_dir, tmp_path, lost):
    assert stored_digest("fashion:r1", bentoml_home=tmp_path) is None
    put_bento(tmp_path, model_dir, requirements=["torch==2.13.0"])
    shutil.rmtree(tmp_path / lost)
    assert stored_digest("fashion:r1", bentoml_home=tmp_path) is None


def test_pins_come_from_the_lock_or_from_here(tmp_path):
    assert all(re.fullmatch(r"[a-z]+==[0-9][0-9a-z.]*", pin) for pin in pins(None))
    lock = tmp_path / "requirements.lock"
    lock.write_text("# a comment\n" + "\n".join(f"{pin} \\\n    --hash=sha256:00" for pin in pins(None)) + "\n")
    assert pins(lock) == pins(None)
    lock.write_text("torch==2.13.0\n")
    with pytest.raises(ConfigError, match=r"requirements\.lock must pin numpy, .* \(got no such line\)"):
        pins(lock)


@pytest.mark.parametrize(
    "tag",
    [
        "fashion",
        "fashion:latest",
        "Fashion:v1",
        "fashion:",
        ":v1",
        "a:b:c",
        "a:../x",
        "fashion:v1\n",
        "-a:v1",
        "a" * 64 + ":v1",
    ],
)
def test_a_tag_is_exact_and_plain(tag, model_dir, tmp_path):
    with pytest.raises(ConfigError, match="tag must be name:version"):
        build_bento(model_dir, tag=tag, labels={}, bentoml_home=tmp_path)


@pytest.mark.parametrize("labels", [{"a b": "x"}, {"a": "x\ny"}, {"a": "x" * 64}, {"": "x"}])
def test_labels_are_plain(labels, model_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"label .* must be letters, digits"):
        build_bento(model_dir, tag="fashion:v1", labels=labels, bentoml_home=tmp_path)


def test_a_model_folder_without_its_files_or_with_links_is_refused(model_dir, tmp_path):
    (model_dir / "model.json").unlink()
    with pytest.raises(ConfigError, match=r"must hold the file model\.json"):
        build_bento(model_dir, tag="fashion:v1", labels={}, bentoml_home=tmp_path)
    (model_dir / "model.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"must hold the file model\.json"):
        build_bento(model_dir, tag="fashion:v1", labels={}, bentoml_home=tmp_path)


def test_bentoml_finds_a_uv_and_installs_none(monkeypatch, tmp_path):
    """It calls none; without one on the path it asks the network for it."""
    seen = []

    def run(command, *, env, **_):
        seen.append(shutil.which("uv", path=env["PATH"]))
        return subprocess.CompletedProcess(command, 0, stdout='{"tag": "fashion:r1"}')

    monkeypatch.setattr(bento_builder.subprocess, "run", run)
    assert bento_builder.import_bento(tmp_path / "r1.bento", bentoml_home=tmp_path / "bentoml") == "fashion:r1"
    assert seen[0] is not None
    assert not Path(seen[0]).exists()
