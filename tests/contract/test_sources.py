"""One suite for every place with files: a folder and a real S3 prefix list, read and fail alike."""

import datetime as dt

import boto3
import pytest

from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import ConfigError, SourceUnavailable
from pipeline_tasks.ingest import task
from pipeline_tasks.ingest.sources.folder import FolderFiles
from pipeline_tasks.ingest.sources.listing import Entry, ListingDigest, digest_of
from pipeline_tasks.ingest.sources.opening import S3Access
from pipeline_tasks.ingest.sources.s3 import S3Objects, resolve_access
from pipeline_tasks.project.loader import load_project
from pipeline_tasks.project.scaffold import init_project
from pipeline_tasks.project.source_schema import S3Source
from tests import services
from tests.unit.ingest.conftest import png

SETTING = "p: sources[0] (s)"


class FolderPlace:
    """A folder to put files into."""

    def __init__(self, root) -> None:
        self.root = root
        self.files = FolderFiles(name="s", root=root, pattern="**/*", setting=SETTING)

    def put(self, key, data):
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def delete(self, key):
        (self.root / key).unlink()


class S3Place:
    """A prefix of a bucket on a real server; another prefix beside it must never show."""

    def __init__(self, server) -> None:
        self.bucket = server.new_bucket_name()
        self.access = S3Access(server.endpoint, services.S3_ACCESS_KEY, services.S3_SECRET_KEY)
        self.client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            aws_access_key_id=services.S3_ACCESS_KEY,
            aws_secret_access_key=services.S3_SECRET_KEY,
        )
        self.client.create_bucket(Bucket=self.bucket)
        self.client.put_object(Bucket=self.bucket, Key="other/x.png", Body=b"x")
        self.files = S3Objects(source=self.source(), access=self.access, setting=SETTING)

    def source(self, **changes):
        return S3Source(**{"type": "s3", "name": "s", "bucket": self.bucket, "prefix": "in/", **changes})

    def put(self, key, data):
        self.client.put_object(Bucket=self.bucket, Key=f"in/{key}", Body=data)

    def delete(self, key):
        self.client.delete_object(Bucket=self.bucket, Key=f"in/{key}")


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.integration)])
def place(request, tmp_path):
    if request.param == "folder":
        return FolderPlace(tmp_path)
    return S3Place(request.getfixturevalue("seaweed_server"))


def digest(place):
    return digest_of(place.files.listing(), into=ListingDigest("policy")).value()


def test_every_file_is_listed_once_and_read(place):
    files = {"a.png": b"one", "d/b.png": b"two", "d/e/ä ö.png": b"three"}
    for key, data in files.items():
        place.put(key, data)
    entries = list(place.files.listing())
    assert {entry.key: entry.size_bytes for entry in entries} == {key: len(data) for key, data in files.items()}
    assert len(entries) == 3
    for entry in entries:
        read = place.files.read(entry)
        assert (read.data, read.fingerprint) == (files[entry.key], entry.fingerprint)


def test_a_listing_has_a_fingerprint_that_any_change_changes(place):
    place.put("a", b"one")
    place.put("b", b"two")
    seen = [digest(place)]
    assert digest(place) == seen[0]
    place.put("c", b"three")
    seen.append(digest(place))
    place.put("a", b"uno!")
    seen.append(digest(place))
    place.delete("b")
    seen.append(digest(place))
    assert len(set(seen)) == 4


def test_a_file_that_is_gone_is_nothing(place):
    place.put("a", b"one")
    (entry,) = place.files.listing()
    place.delete("a")
    assert place.files.read(entry) is None


def test_a_file_that_changed_is_read_as_it_is_now(place):
    place.put("a", b"one")
    (entry,) = place.files.listing()
    place.put("a", b"other")
    read = place.files.read(entry)
    assert read.data == b"other"
    assert read.fingerprint != entry.fingerprint
    assert next(place.files.listing()).fingerprint == read.fingerprint


def test_an_empty_place_lists_nothing(place):
    assert list(place.files.listing()) == []


@pytest.fixture
def s3_place(seaweed_server):
    return S3Place(seaweed_server)


@pytest.mark.integration
def test_a_prefix_is_ingested_with_keys_from_the_environment(s3_place, tmp_path, database, object_store):
    folder = init_project(tmp_path, name="remote", template="image-classification")
    text = (folder / "project.yaml").read_text()
    start, end = text.index("  - type: folder"), text.index("\nlabels:")
    source = (
        f"  - type: s3\n    bucket: {s3_place.bucket}\n    prefix: in/\n"
        f"    endpoint_url: {s3_place.access.endpoint_url}\n    credentials: PARTNER\n"
        "    label_pattern: '^(?P<label>[^/]+)/'\n"
    )
    (folder / "project.yaml").write_text(text[:start] + source + text[end:])
    for number in range(30):
        s3_place.put(f"cat/{number}.png", png(number))
    s3_place.put("cat/bad.png", b"bad")
    items = ItemRepository(database)

    def run(number):
        return task.run(
            load_project(folder),
            items=items,
            store=object_store,
            attempt=Attempt("r", "ingest", number),
            split_key="k",
            environment={"PARTNER_ACCESS_KEY": services.S3_ACCESS_KEY, "PARTNER_SECRET_KEY": services.S3_SECRET_KEY},
            batch_id=f"b{number}",
            now=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        )

    first = run(1)
    assert (first.num_new, first.num_quarantined, first.num_labeled_at_source) == (30, 1, 30)
    assert items.get("remote", [item.item_id for item in items.iterate("remote")])
    s3_place.put("dog/new.png", png(99))
    second = run(2)
    assert (second.num_seen, second.num_new, second.num_quarantined) == (32, 1, 0)


@pytest.mark.integration
def test_wrong_keys_and_buckets_say_what_to_do(s3_place):
    wrong = S3Access(s3_place.access.endpoint_url, services.S3_ACCESS_KEY, "wrong-secret-key")
    files = S3Objects(source=s3_place.source(), access=wrong, setting=SETTING)
    denied = rf"must allow to list s3://{s3_place.bucket}/in/ \(got 403 SignatureDoesNotMatch\)"
    with pytest.raises(ConfigError, match=denied) as caught:
        list(files.listing())
    assert "wrong-secret-key" not in str(caught.value)
    with pytest.raises(ConfigError, match="must allow to read"):
        files.read(Entry("a", "1-x", 1))
    gone = S3Objects(source=s3_place.source(bucket="no-such-bucket"), access=s3_place.access, setting=SETTING)
    with pytest.raises(ConfigError, match=r"bucket must exist \(got NoSuchBucket for s3://no-such-bucket/in/\)"):
        list(gone.listing())


def test_a_server_that_is_away_may_come_back(free_port):
    access = S3Access(f"http://127.0.0.1:{free_port}", "key", "secret")
    files = S3Objects(source=S3Source(type="s3", bucket="data"), access=access, setting=SETTING)
    with pytest.raises(SourceUnavailable, match=r"must be reachable \(got EndpointConnectionError for s3://data/\)"):
        list(files.listing())
    with pytest.raises(SourceUnavailable, match="must be reachable"):
        files.read(Entry("a", "1-x", 1))


def test_keys_come_from_the_environment_or_the_stack():
    own = S3Access("http://own", "a", "b")
    plain = S3Source(type="s3", bucket="data")
    assert resolve_access(plain, setting=SETTING, environment={}, own=own) is own
    with pytest.raises(ConfigError, match="credentials must be set"):
        resolve_access(plain, setting=SETTING, environment={}, own=None)
    partner = S3Source(type="s3", bucket="data", endpoint_url="http://theirs", credentials="PARTNER")
    keys = {"PARTNER_ACCESS_KEY": "k", "PARTNER_SECRET_KEY": "hunter2"}
    access = resolve_access(partner, setting=SETTING, environment=keys, own=own)
    assert access == S3Access("http://theirs", "k", "hunter2")
    assert "hunter2" not in repr(access)
    with pytest.raises(ConfigError, match="got none of PARTNER_SECRET_KEY"):
        resolve_access(partner, setting=SETTING, environment={"PARTNER_ACCESS_KEY": "k"}, own=own)
