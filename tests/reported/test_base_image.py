"""A base image that somebody else put into the registry under our tag: pushing needs no key (issue 13, point 1)."""

import types

import pytest

from pipeline_tasks.adapters.base_image import push_base, recipe
from pipeline_tasks.adapters.container_registry import Manifest
from pipeline_tasks.adapters.release_image import LOCK_LABEL
from pipeline_tasks.contracts import canonical_json, sha256_hex
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.orchestration.container_targets import _base_image
from pipeline_tasks.project.serving_schema import Images
from pipeline_tasks.stack.layout import source_root

RECIPE = recipe(source_root(), variant="cpu")
LOCK = sha256_hex(RECIPE.lock.read_bytes())
OURS, FORGED, OLDER = (f"sha256:{sha256_hex(name.encode())}" for name in ("ours", "forged", "older"))
LOCKS = {OURS: LOCK, FORGED: LOCK, OLDER: "another"}


class Registry:
    """A registry in which the tag of this lock's base image is the forged one."""

    repository = "127.0.0.1:5000/dethrone"

    def manifest(self, reference):
        digest = FORGED if reference == RECIPE.tag else reference
        document = {"config": {"digest": digest}, "layers": []}
        return Manifest(digest, "application/json", document) if digest in LOCKS else None

    def blob(self, digest):
        return canonical_json({"config": {"Labels": {LOCK_LABEL: LOCKS[digest]}}})


def base_of(digest):
    return _base_image(Registry(), Images(repository=Registry.repository, base_digest=digest)).digest


def test_releases_stand_on_the_base_image_whose_digest_is_named():
    assert base_of(OURS) == OURS
    assert base_of(None) == FORGED


def test_a_digest_of_another_lock_is_refused():
    with pytest.raises(ConfigError, match=f"base_digest must name the base image of serving.lock .*{RECIPE.tag}"):
        base_of(OLDER)


def test_a_digest_that_the_registry_lacks_is_named():
    missing = f"sha256:{'0' * 64}"
    with pytest.raises(ConfigError, match=f"must hold the base image {missing}"):
        base_of(missing)


def test_a_push_says_the_digest():
    lines = [{"status": "Pushed"}, {"aux": {"Tag": RECIPE.tag, "Digest": OURS}}, {}]
    images = types.SimpleNamespace(
        get=lambda _: types.SimpleNamespace(tag=lambda *_, **__: None), push=lambda *_, **__: iter(lines)
    )
    pushed = push_base(
        types.SimpleNamespace(images=images), f"x:{RECIPE.tag}", repository=Registry.repository, auth=None
    )
    assert pushed == f"{Registry.repository}:{RECIPE.tag}@{OURS}"
