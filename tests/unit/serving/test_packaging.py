"""What a bento may hold and be called; building one for real is in tests/service."""

import re

import pytest

from bento_services.inference.packaging import build_bento, content_digest, pins, source_files
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
        r"bento_services/(__init__|parent|inference/\w+)",
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


def test_pins_come_from_the_lock_or_from_here(tmp_path):
    assert all(re.fullmatch(r"[a-z]+==[0-9][0-9a-z.]*", pin) for pin in pins(None))
    lock = tmp_path / "requirements.lock"
    lock.write_text("# a comment\n" + "\n".join(f"{pin} \\\n    --hash=sha256:00" for pin in pins(None)) + "\n")
    assert pins(lock) == pins(None)
    lock.write_text("torch==2.13.0\n")
    with pytest.raises(ConfigError, match=r"requirements\.lock must pin httptools, numpy, .* \(got no such line\)"):
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
