"""The fake object store's own levers: planned errors and bad disks."""

import pytest

from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.errors import DataCorrupt, ServiceUnavailable

KEY = f"items/pets/{sha256_hex(b'cat')[:2]}/{sha256_hex(b'cat')}"


def test_a_planned_error_comes_before_the_effect(object_store):
    object_store.fail("put", ServiceUnavailable("away"), times=2)
    for _ in range(2):
        with pytest.raises(ServiceUnavailable, match="away"):
            object_store.put(KEY, b"cat")
    assert not object_store.exists(KEY)
    object_store.put(KEY, b"cat")
    assert object_store.calls["put"] == 3


def test_a_lost_answer_comes_after_the_effect(object_store):
    object_store.fail("put", ServiceUnavailable("answer lost"), after=True)
    with pytest.raises(ServiceUnavailable, match="answer lost"):
        object_store.put(KEY, b"cat")
    assert object_store.get(KEY) == b"cat"


def test_a_bad_disk_is_seen_on_reading(object_store, tmp_path):
    object_store.put(KEY, b"cat")
    object_store.corrupt(KEY)
    with pytest.raises(DataCorrupt, match="must hold bytes with the SHA-256"):
        object_store.get(KEY)
    with pytest.raises(DataCorrupt, match="must hold bytes with the SHA-256"):
        object_store.get_file(KEY, tmp_path / "file")
