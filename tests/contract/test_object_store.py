"""The contract of an ObjectStore: on the fake, and on the S3 adapter with a real SeaweedFS."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline_tasks.contracts import Location, sha256_hex
from pipeline_tasks.errors import DataCorrupt
from tests.fakes import FolderObjectStore

PAYLOAD = b"three cats on a mat"


@pytest.fixture(params=["fake", "folder", pytest.param("s3", marks=pytest.mark.integration)])
def store(request, tmp_path_factory):
    if request.param == "folder":
        return FolderObjectStore(tmp_path_factory.mktemp("objects"))
    return request.getfixturevalue("object_store" if request.param == "fake" else "s3_store")


def item_key(data: bytes) -> str:
    digest = sha256_hex(data)
    return f"items/pets/{digest[:2]}/{digest}"


def test_put_then_get_returns_the_same_bytes(store):
    store.put(item_key(PAYLOAD), PAYLOAD, content_type="image/png")
    assert store.get(item_key(PAYLOAD)) == PAYLOAD


def test_put_of_the_same_bytes_again_changes_nothing(store):
    for _ in range(2):
        store.put(item_key(PAYLOAD), PAYLOAD)
    assert [info.key for info in store.list("items/")] == [item_key(PAYLOAD)]


def test_an_empty_object_is_an_object(store):
    store.put("models/pets/1/empty", b"")
    assert store.get("models/pets/1/empty") == b""
    assert store.exists("models/pets/1/empty")


def test_put_refuses_bytes_that_are_not_what_the_key_names(store):
    with pytest.raises(DataCorrupt, match="must hold bytes with the SHA-256"):
        store.put(item_key(PAYLOAD), b"something else")
    assert not store.exists(item_key(PAYLOAD))


def test_create_refuses_bytes_that_are_not_what_the_key_names(store):
    with pytest.raises(DataCorrupt, match="must hold bytes with the SHA-256"):
        store.create(item_key(PAYLOAD), b"something else")


def test_put_file_refuses_bytes_that_are_not_what_the_key_names(store, tmp_path):
    (tmp_path / "file").write_bytes(b"something else")
    with pytest.raises(DataCorrupt, match="must"):
        store.put_file(item_key(PAYLOAD), tmp_path / "file")


def test_a_missing_object_is_a_key_error(store, tmp_path):
    with pytest.raises(KeyError, match="models/none"):
        store.get("models/none")
    with pytest.raises(KeyError, match="models/none"):
        store.get_range(Location("models/none", 0, 4))
    with pytest.raises(KeyError, match="models/none"):
        store.get_file("models/none", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    assert not store.exists("models/none")


@pytest.mark.parametrize("key", ["", "/a", "a//b", "a/../b", "./a", "a/", "a\nb", "x" * 1025])
def test_a_bad_key_is_refused(store, key):
    with pytest.raises(ValueError, match="an object key must be a relative path"):
        store.put(key, b"x")


def test_a_range_of_a_pack_is_one_item(store):
    pack = b"aaaabbbbbbcc"
    digest = sha256_hex(pack)
    key = f"packs/pets/{digest[:2]}/{digest}.pack"
    store.put(key, pack)
    assert store.get_range(Location(key, 4, 6)) == b"bbbbbb"
    assert store.get_range(Location(key, 10, 2)) == b"cc"


@pytest.mark.parametrize(("offset", "size_bytes", "got"), [(10, 5, 2), (100, 5, 0)])
def test_a_range_beyond_the_end_is_corrupt(store, offset, size_bytes, got):
    store.put("models/pets/1/twelve", b"aaaabbbbbbcc")
    with pytest.raises(DataCorrupt, match=rf"must hold 5 bytes at offset {offset} \(got {got}\)"):
        store.get_range(Location("models/pets/1/twelve", offset, size_bytes))


@pytest.mark.parametrize("size_bytes", [0, 1000, 9 * 1024 * 1024])
def test_files_go_in_and_out_whole(store, tmp_path, size_bytes):
    data = (hashlib.sha256(b"seed").digest() * (size_bytes // 32 + 1))[:size_bytes]
    (tmp_path / "in").write_bytes(data)
    store.put_file("models/pets/1/model.safetensors", tmp_path / "in")
    store.get_file("models/pets/1/model.safetensors", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_create_is_true_once_and_for_the_same_bytes(store):
    assert store.create("verdicts/pets/1/verdict.json", b"one")
    assert not store.create("verdicts/pets/1/verdict.json", b"two")
    assert store.create("verdicts/pets/1/verdict.json", b"one")
    assert store.get("verdicts/pets/1/verdict.json") == b"one"


def test_of_racing_creates_one_wins_and_its_bytes_lie_there(store):
    for round_number in range(5):
        key = f"verdicts/pets/{round_number}/verdict.json"
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda number, key=key: store.create(key, b"writer %d" % number), range(8)))
        assert sum(won) == 1
        assert store.get(key) == b"writer %d" % won.index(True)


def test_list_yields_the_prefix_in_key_order(store):
    for name in ("b", "a/2", "a/10", "c", "ab"):
        store.put(f"reports/{name}", name.encode())
    listed = list(store.list("reports/a"))
    assert [info.key for info in listed] == ["reports/a/10", "reports/a/2", "reports/ab"]
    assert [info.size_bytes for info in listed] == [4, 3, 2]
    assert listed[0].etag == hashlib.md5(b"a/10").hexdigest()
    assert listed[0].modified_at.tzinfo is not None


def test_list_of_nothing_is_empty(store):
    assert list(store.list("nowhere/")) == []


def test_delete_removes_and_does_not_mind_what_is_gone(store):
    store.put("reports/a", b"1")
    store.put("reports/b", b"2")
    store.delete(["reports/a", "reports/none"])
    store.delete([])
    assert [info.key for info in store.list("reports/")] == ["reports/b"]


def test_more_objects_than_one_page_are_listed_and_deleted(store):
    keys = [f"reports/{number:04d}" for number in range(1005)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.put(key, b"x"), keys))
    assert [info.key for info in store.list("reports/")] == keys
    store.delete(keys)
    assert list(store.list("reports/")) == []
