"""The bytes of an image: the same bento over the same base, the same digests."""

import io
import json
import tarfile

import pytest

from pipeline_tasks.adapters import release_image as images
from pipeline_tasks.errors import ConfigError

DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
BASE = images.BaseImage(
    digest="sha256:base",
    media_type=DOCKER,
    layers=({"mediaType": "x", "size": 3, "digest": "sha256:l1"},),
    config={
        "created": "2026-01-01T00:00:00Z",
        "container": "abc",
        "config": {"User": "1034:1034", "Labels": {images.PACKAGES_LABEL: "a==1", images.LOCK_LABEL: "lock"}},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:d1"]},
        "history": [{"created_by": "os"}],
    },
)
FILES = {"src/b.py": b"b", "bento.yaml": b"name: x\n"}


def test_the_order_of_the_files_changes_nothing():
    image = images.build_image(BASE, FILES, labels={"a": "1"})
    other = images.build_image(BASE, dict(reversed(FILES.items())), labels={"a": "1"})
    assert (image.digest, image.image_id) == (other.digest, other.image_id)


@pytest.mark.parametrize(
    ("files", "labels"), [({**FILES, "src/b.py": b"c"}, {"a": "1"}), (FILES, {"a": "2"})], ids=["file", "label"]
)
def test_another_file_or_label_is_another_image(files, labels):
    changed = images.build_image(BASE, files, labels=labels)
    assert changed.image_id != images.build_image(BASE, FILES, labels={"a": "1"}).image_id


def test_the_layer_is_sorted_owned_by_root_and_without_times():
    with tarfile.open(fileobj=io.BytesIO(images.pack_layer(FILES))) as tar:
        entries = tar.getmembers()
    assert [entry.name for entry in entries] == [
        "home",
        "home/bentoml",
        "home/bentoml/bento",
        "home/bentoml/bento/bento.yaml",
        "home/bentoml/bento/src",
        "home/bentoml/bento/src/b.py",
    ]
    assert {(entry.uid, entry.gid, entry.mtime, entry.mode) for entry in entries if entry.isfile()} == {
        (0, 0, 0, 0o444)
    }
    assert {entry.mode for entry in entries if entry.isdir()} == {0o755}


def test_the_config_is_the_bases_with_one_more_layer():
    built = images.build_image(BASE, FILES, labels={"io.dethrone.project": "p"})
    config, manifest = json.loads(built.config), json.loads(built.manifest)
    assert config["created"] == images.CREATED
    assert config["config"]["User"] == "1034:1034"
    assert config["config"]["Labels"] == {images.LOCK_LABEL: "lock", "io.dethrone.project": "p"}
    assert "container" not in config
    assert config["rootfs"]["diff_ids"] == ["sha256:d1", manifest["layers"][1]["digest"]]
    assert len(config["history"]) == 2
    assert manifest["layers"][0] == BASE.layers[0]
    assert manifest["layers"][1]["size"] == len(built.layer)
    assert manifest["config"]["digest"] == built.image_id
    assert BASE.config["rootfs"]["diff_ids"] == ["sha256:d1"]  # the argument is not changed


def test_a_base_of_an_unknown_kind_is_refused():
    strange = images.BaseImage(digest="d", media_type="text/plain", layers=(), config={})
    with pytest.raises(ConfigError, match=r"must be one of .* \(got text/plain\)") as error:
        images.build_image(strange, FILES, labels={})
    assert error.value.code == "BASE_IMAGE_UNUSABLE"


def bento(folder, *, when, size):
    files = {
        "bento/bento.yaml": f"name: x\ncreation_time: '{when}'\nmodels:\n- tag: x:1\n  creation_time: '{when}'\n",
        "bento/src/a.py": "a",
        "bento/src/__pycache__/a.cpython-311.pyc": when,
        "model/model.json": "{}",
        "model/serving.json": size,
        "model/model.yaml": f"creation_time: '{when}'\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return images.bento_files(folder / "bento", folder / "model", tag="x:1")


def test_two_builds_of_a_bento_differ_in_nothing_that_is_packed(tmp_path):
    first = bento(tmp_path / "1", when="2026-01-01T00:00:00+00:00", size="16")
    assert first == bento(tmp_path / "2", when="2027-02-02T00:00:00+00:00", size="32")
    assert sorted(first) == ["bento.yaml", "models/x/1/model.json", "models/x/1/model.yaml", "src/a.py"]
    assert first["bento.yaml"].decode().count(images.CREATED) == 2
    assert "  creation_time: '1970" in first["bento.yaml"].decode()


def test_the_labels_tell_model_verdict_lock_and_base():
    model = {"version": "v1", "code_revision": "c1", "lock_hash": "l1"}
    labels = images.image_labels(
        project="p", release_id="r", verdict_id="vd", bento_digest="bd", model=model, base=BASE
    )
    assert labels["org.opencontainers.image.base.digest"] == "sha256:base"
    assert labels["org.opencontainers.image.revision"] == "c1"
    assert [labels[f"io.dethrone.{name}"] for name in ("project", "release", "model-version", "verdict")] == [
        "p",
        "r",
        "v1",
        "vd",
    ]


def test_the_bill_lists_every_package_and_the_model_and_is_the_same_each_time():
    packages = ["torch==2.13.0+cpu", "Jinja2==3.1.6"]
    bill = images.sbom(packages, project="p", version="v1", digest="ab", base_digest="sha256:base")
    assert bill == images.sbom(packages[::-1], project="p", version="v1", digest="ab", base_digest="sha256:base")
    document = json.loads(bill)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert [component["type"] for component in document["components"]] == [
        "machine-learning-model",
        "library",
        "library",
    ]
    assert [component.get("purl") for component in document["components"][1:]] == [
        "pkg:pypi/jinja2@3.1.6",
        "pkg:pypi/torch@2.13.0%2Bcpu",
    ]
