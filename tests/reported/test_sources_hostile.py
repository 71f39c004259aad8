"""Every kind of bad input of each source among good ones: the good arrive, the bad are named, the next run is quiet.

On both catalogs, since what one database stores the other may refuse (NUL, half characters, long keys).
Source: the rule behind section B of the reports.
"""

import json
import os
from types import SimpleNamespace

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_tasks.errors import ConfigError, SourceUnavailable
from pipeline_tasks.ingest.sources.folder import FolderFiles
from pipeline_tasks.ingest.sources.opening import S3Access
from pipeline_tasks.ingest.sources.s3 import FAILURES_IN_A_ROW, S3Objects
from pipeline_tasks.project.source_schema import S3Source
from tests import services
from tests.reported.sources_case import DATA, add_case, make_world, reasons
from tests.unit.ingest.conftest import png

BAD_NAME = b"caf\xe9"


@pytest.fixture
def world_of(tmp_path, any_database):
    return lambda modality: make_world(tmp_path, modality, any_database)


def check(world, *, good, bad):
    """Ingest twice and compare what arrived, what was refused, and that the second run has nothing to do."""
    report = world.run()
    assert set(world.all()) == good
    told = reasons(world)
    assert {(key, code) for key, code, _ in told} == bad
    assert report.num_quarantined == len(bad)
    assert all(text.isprintable() for key, _, said in told for text in (key, said))
    second = world.run(batch="second")
    assert (second.num_new, second.num_quarantined) == (0, 0)
    assert len(reasons(world)) == len(bad)


def write_bytes_name(world, name: bytes, data: bytes) -> None:
    with open(os.path.join(os.fsencode(world.incoming), name), "wb") as handle:  # noqa: PTH118, PTH123  (a name of bytes)
        handle.write(data)


def hostile_entries(world) -> set[tuple[str, str]]:
    """Put what is no file of a folder into it."""
    os.mkfifo(world.incoming / "pipe.png")
    (world.incoming / "broken.png").symlink_to("nowhere.png")
    (world.incoming / "out.png").symlink_to("/etc/hostname")
    (world.incoming / "loop.png").symlink_to("loop.png")
    (world.incoming / "folder.png").symlink_to(".")
    bad_links = {(name, "PATH_NOT_ALLOWED") for name in ("broken.png", "out.png", "loop.png", "folder.png")}
    return {("pipe.png", "TYPE_NOT_ALLOWED"), *bad_links}


def test_images_of_a_folder(world_of, monkeypatch):
    world = world_of("image")
    for number in range(3):
        world.write(f"labeled/cat/{number}.png", png(number))
    world.write("long/" + "ä" * 110 + ".png", png(3))
    world.write("empty.png", b"")
    world.write("text.png", b"no image \0 at all")
    world.write("cut.png", png(9)[:-20])
    world.write("labeled/c\0".replace("\0", "\x01") + "/5.png", png(5))
    world.write("labeled/a\nb/6.png", png(6))
    world.write("labeled/bird/7.png", png(7))
    write_bytes_name(world, BAD_NAME + b".png", png(8))
    links = hostile_entries(world)
    (world.incoming / "closed").mkdir()
    world.write("denied.png", png(10))
    deny(monkeypatch, world)
    bad = {
        ("empty.png", "EMPTY_FILE"),
        ("text.png", "NOT_AN_IMAGE"),
        ("cut.png", "IMAGE_TRUNCATED"),
        (r"labeled/c\x01/5.png", "KEY_INVALID"),
        (r"labeled/a\x0ab/6.png", "KEY_INVALID"),
        ("labeled/bird/7.png", "UNKNOWN_CLASS"),
        (r"caf\udce9.png", "KEY_INVALID"),
        ("closed", "FOLDER_UNREADABLE"),
        ("denied.png", "FILE_UNREADABLE"),
    }
    good = {"labeled/cat/0.png", "labeled/cat/1.png", "labeled/cat/2.png", "long/" + "ä" * 110 + ".png"}
    check(world, good=good, bad={*bad, *links})


def deny(monkeypatch, world) -> None:
    """Take away the rights to one folder and one file: who runs the tests may be root."""
    from pipeline_tasks.ingest.sources import folder

    scandir, read = os.scandir, folder._read_unchanged

    def denied(call, path):
        if str(path).endswith(("closed", "denied.png")):
            raise PermissionError(13, "Permission denied")
        return call(path)

    monkeypatch.setattr(folder.os, "scandir", lambda path: denied(scandir, path))
    monkeypatch.setattr(folder, "_read_unchanged", lambda path: denied(read, path))


def test_a_folder_of_which_the_root_is_closed_stops_its_source(world_of, monkeypatch):
    """Then nothing is known of it: the next run tries."""
    world = world_of("image")
    monkeypatch.setattr(
        FolderFiles, "root", property(lambda _: world.incoming / "closed", lambda *_: None), raising=False
    )
    (world.incoming / "closed").mkdir()
    deny(monkeypatch, world)
    with pytest.raises(SourceUnavailable, match=r"must be a readable folder \(got Permission denied"):
        world.run()


def test_texts_of_a_folder(world_of):
    world = world_of("text")
    world.edit("labels:\n", "  - type: folder\n    name: files\n    path: files\nlabels:\n")
    world.incoming = world.folder / "files"
    world.incoming.mkdir()
    world.write("good.txt", "fine")
    world.write("bom.txt", b"\xef\xbb\xbfwith a mark")
    world.write("empty.txt", b"")
    world.write("latin.txt", "größer".encode("latin-1"))
    world.write("wide.txt", "größer".encode("utf-16"))
    world.write("nul.txt", b"a\0b")
    world.write("blank.txt", b" \n ")
    write_bytes_name(world, BAD_NAME + b".txt", b"good words")
    bad = {
        ("empty.txt", "EMPTY_FILE"),
        ("latin.txt", "TEXT_NOT_UTF8"),
        ("wide.txt", "TEXT_NOT_UTF8"),
        ("nul.txt", "TEXT_CONTROL_CHARACTER"),
        ("blank.txt", "TEXT_EMPTY"),
        (r"caf\udce9.txt", "KEY_INVALID"),
    }
    check(world, good={"good.txt", "bom.txt"}, bad={*bad, *hostile_entries(world)})


GOOD_ROWS = [f"g{n},{n},DE,yes" for n in range(5)]
BAD_ROWS = [
    (b"x0,1,DE,maybe", "x0", "UNKNOWN_CLASS"),
    (b"x1,1,DE", "{}, line 8", "CELLS_WRONG"),
    (b"x2,1,gr\xfcn,yes", "{}, line 9", "TEXT_NOT_UTF8"),
    (b"x3,1,DE,gr\xfcn", "{}, line 10", "TEXT_NOT_UTF8"),
    (b"x4,1,D\0E,yes", "x4", "TEXT_CONTROL_CHARACTER"),
    (b",1,DE,yes", "{}, line 12", "KEY_INVALID"),
    (b"x\0y,1,DE,yes", "{}, line 13", "KEY_INVALID"),
    (b"x7,,,yes", "x7", "ROW_EMPTY"),
    (b"x8,1,DE,m\0\xe2\x80\xa8a" + b"y" * 500, "x8", "UNKNOWN_CLASS"),
]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_rows_of_a_csv_or_tsv_file(world_of, name):
    world = world_of("tabular")
    lines = [b"id,amount,country,label", *(row.encode() for row in GOOD_ROWS), *(row for row, _, _ in BAD_ROWS)]
    lines += [b"last,9,FR,no", b",,,"]
    data = b"\n".join(lines) + b"\n"
    world.write(name, data if name.endswith("csv") else data.replace(b",", b"\t"))
    world.write("z.csv", "id,amount,country,label\nz,26,DE,\n")
    for other in ("f01_latin1_header.csv", "f01_utf16le_no_bom.csv"):
        add_case(world, other)
    add_case(world, "f01_latin1_header.csv", as_name="b.xlsx")
    write_bytes_name(world, BAD_NAME + b".csv", (DATA / "f01_bad_row.csv").read_bytes())
    bad = {(key.format(name), code) for _, key, code in BAD_ROWS}
    bad |= {("f01_latin1_header.csv", "TEXT_NOT_UTF8"), ("f01_utf16le_no_bom.csv", "TEXT_NOT_UTF8")}
    bad |= {("b.xlsx", "TYPE_NOT_ALLOWED"), ("1", "UNKNOWN_CLASS"), *hostile_entries(world)}
    good = {*(f"g{n}" for n in range(5)), "last", "z", "2", "3"}
    check(world, good=good, bad=bad)


def test_lines_of_a_json_file(world_of):
    world = world_of("tabular")
    rows = [json.dumps({"id": f"g{n}", "amount": n, "country": "DE", "label": "yes"}).encode() for n in range(4)]
    bad_lines = [
        b'{"id": "cut"',
        b"[1]",
        b'{"id": 1, "id": 2}',
        b'{"id": "nan", "amount": NaN}',
        b"[" * 50_000,
        b'{"id": "gr\xfcn", "amount": 1, "country": "x", "label": ""}',
        b'{"id": "half\\ud800", "amount": 1, "country": "x", "label": ""}',
        b'{"id": "value", "amount": 1, "country": "\\ud800", "label": ""}',
        b'{"id": "nul", "amount": 1, "country": "\\u0000", "label": ""}',
        b'{"id": "class", "amount": 1, "country": "x", "label": "\\u0000\\n\\ud800"}',
        b'{"id": "list", "amount": [1], "country": "x", "label": ""}',
        b'{"id": "wide", "amount": ' + b"9" * 400 + b', "country": "x", "label": ""}',
        b'{"id": "long", "amount": 1, "country": "' + b"x" * 200_000 + b'", "label": ""}',
    ]
    world.write("a.jsonl", b"\n".join([*rows, *bad_lines, rows[0].replace(b"g0", b"last").replace(b"0", b"77"), b""]))
    codes = ["ROW_NOT_JSON"] * 5 + ["TEXT_NOT_UTF8", "KEY_INVALID"]
    bad = {(f"a.jsonl, line {number}", code) for number, code in enumerate(codes, start=5)}
    bad |= {("value", "TEXT_NOT_UTF8"), ("nul", "TEXT_CONTROL_CHARACTER"), ("class", "UNKNOWN_CLASS")}
    bad |= {("list", "VALUE_TYPE"), ("wide", "VALUE_INVALID"), ("a.jsonl, line 17", "LINE_TOO_LONG")}
    check(world, good={"g0", "g1", "g2", "g3", "last"}, bad=bad)


def test_rows_of_parquet_files(world_of):
    world = world_of("tabular")
    country = pa.array([b"DE", b"gr\xfcn", b"FR", b"U\0S"]).view(pa.string())
    values = {"id": ["g0", "x1", None, "nul"], "amount": [1.0, 2.0, 3.0, 4.0], "country": country, "label": ["yes"] * 4}
    pq.write_table(pa.table(values), world.incoming / "a.parquet")
    world.write("cut.parquet", (world.incoming / "a.parquet").read_bytes()[:-9])
    world.write("text.parquet", b"id,amount\n")
    world.write("z.csv", "id,amount,country,label\nz,26,DE,\n")
    bad = {
        ("a.parquet, row 2", "VALUE_UNREADABLE"),
        ("a.parquet, row 3", "KEY_INVALID"),
        ("nul", "TEXT_CONTROL_CHARACTER"),
        ("cut.parquet", "PARQUET_INVALID"),
        ("text.parquet", "PARQUET_INVALID"),
    }
    check(world, good={"g0", "z"}, bad=bad)


# S3


def refused_get(client, *, denied):
    """Let a client answer some keys with an error, as rights and storage classes do."""
    from botocore.exceptions import ClientError

    get = client.get_object

    def answer(*, Bucket, Key):  # noqa: N803  (the library's names)
        if Key in denied:
            status = {"HTTPStatusCode": 403}
            raise ClientError({"Error": {"Code": denied[Key]}, "ResponseMetadata": status}, "GetObject")
        return get(Bucket=Bucket, Key=Key)

    return answer


@pytest.fixture
def bucket(seaweed_server):
    """A bucket on a real server, with a client."""
    name = seaweed_server.new_bucket_name()
    keys = {"aws_access_key_id": services.S3_ACCESS_KEY, "aws_secret_access_key": services.S3_SECRET_KEY}
    client = boto3.client("s3", endpoint_url=seaweed_server.endpoint, region_name="us-east-1", **keys)
    client.create_bucket(Bucket=name)
    access = S3Access(seaweed_server.endpoint, services.S3_ACCESS_KEY, services.S3_SECRET_KEY)
    return SimpleNamespace(
        name=name, access=access, put=lambda key, data: client.put_object(Bucket=name, Key=key, Body=data)
    )


def read_bucket(world, bucket, *, prefix):
    path = world.folder / "project.yaml"
    text = path.read_text()
    start, end = text.index("  - type: folder"), text.index("\nlabels:")
    source = f"  - type: s3\n    name: incoming\n    bucket: {bucket.name}\n    prefix: {prefix}\n"
    source += "    label_pattern: '^labeled/(?P<label>[^/]+)/'\n"
    path.write_text(text[:start] + source + text[end:])


@pytest.mark.integration
def test_objects_of_a_bucket(world_of, bucket, monkeypatch):
    """One object that may not be read, one in the archive, odd keys; `ds` is a folder, `ds2/` another."""
    world = world_of("image")
    read_bucket(world, bucket, prefix="ds")
    for number in range(3):
        bucket.put(f"ds/labeled/cat/{number}.png", png(number))
    bucket.put("ds2/other.png", png(50))
    bucket.put("ds/odd +%20 ä&=.png", png(4))
    for name, data in (("empty", b""), ("text", b"no"), ("denied", png(5)), ("glacier", png(6))):
        bucket.put(f"ds/{name}.png", data)
    bucket.put("ds/labeled/bird/7.png", png(7))
    init = S3Objects.__init__

    def with_refusals(self, **options):
        init(self, **options)
        denied = {"ds/denied.png": "AccessDenied", "ds/glacier.png": "InvalidObjectState"}
        self._client.get_object = refused_get(self._client, denied=denied)

    monkeypatch.setattr(S3Objects, "__init__", with_refusals)
    run = world.run
    world.run = lambda **options: run(own_s3=bucket.access, **options)
    bad = {
        ("empty.png", "EMPTY_FILE"),
        ("text.png", "NOT_AN_IMAGE"),
        ("denied.png", "OBJECT_UNREADABLE"),
        ("glacier.png", "OBJECT_UNREADABLE"),
        ("labeled/bird/7.png", "UNKNOWN_CLASS"),
    }
    good = {"labeled/cat/0.png", "labeled/cat/1.png", "labeled/cat/2.png", "odd +%20 ä&=.png"}
    check(world, good=good, bad=bad)
    assert {item.source_label for item in world.all().values()} == {"cat", None}
    monkeypatch.setattr(S3Objects, "__init__", init)
    assert world.run(batch="third").num_new == 2, "with the rights given, the objects are read"


@pytest.mark.integration
def test_a_label_changes_with_an_object_that_is_moved(world_of, bucket):
    """A move in S3: a move is a copy and a deletion."""
    world = world_of("image")
    read_bucket(world, bucket, prefix="ds/")
    bucket.put("ds/labeled/cat/0.png", png(0))
    bucket.put("ds/labeled/cat/1.png", png(1))
    world.run(own_s3=bucket.access)
    files = S3Objects(source=S3Source(type="s3", bucket=bucket.name), access=bucket.access, setting="p")
    bucket.put("ds/labeled/dog/0.png", png(0))
    files._client.delete_object(Bucket=bucket.name, Key="ds/labeled/cat/0.png")
    bucket.put("ds/labeled/dog/1.png", png(1))
    report = world.run(batch="second", own_s3=bucket.access)
    assert (report.num_labels_corrected, report.num_quarantined) == (1, 1)
    assert {key: item.source_label for key, item in world.all().items()} == {
        "labeled/dog/0.png": "dog",
        "labeled/cat/1.png": "cat",
    }
    assert world.refused() == {"labeled/dog/1.png": "LABEL_CONFLICT"}


@pytest.mark.integration
def test_keys_recorded_under_the_old_form_are_nothing_new(world_of, bucket, monkeypatch):
    """An installation of before, whose keys begin with a slash: read once more, nothing twice, labels arrive."""
    world = world_of("image")
    read_bucket(world, bucket, prefix="ds")
    bucket.put("ds/labeled/cat/0.png", png(0))
    init = S3Objects.__init__

    def old(self, **options):
        init(self, **options)
        self._prefix = "ds"

    monkeypatch.setattr(S3Objects, "__init__", old)
    world.run(own_s3=bucket.access)
    assert {key: item.source_label for key, item in world.all().items()} == {"/labeled/cat/0.png": None}
    monkeypatch.setattr(S3Objects, "__init__", init)
    report = world.run(batch="second", own_s3=bucket.access)
    assert (report.num_new, report.num_known, report.num_labeled_at_source) == (0, 1, 1)


@pytest.mark.integration
def test_a_prefix_that_is_the_beginning_of_names_is_refused(world_of, bucket):
    """It would read nothing, silently."""
    world = world_of("image")
    read_bucket(world, bucket, prefix="ds/2026-")
    bucket.put("ds/2026-01.png", png(0))
    with pytest.raises(ConfigError, match=r"prefix must be a folder of the bucket \(got ds/2026-: nothing is below"):
        world.run(own_s3=bucket.access)


@pytest.mark.integration
def test_a_bucket_of_which_nothing_may_be_read_is_a_wrong_setting(world_of, bucket, monkeypatch):
    """One after the other refused is no trouble of one object."""
    world = world_of("image")
    read_bucket(world, bucket, prefix="ds/")
    keys = [f"ds/{number}.png" for number in range(FAILURES_IN_A_ROW + 10)]
    for number, key in enumerate(keys):
        bucket.put(key, png(number))
    init = S3Objects.__init__

    def with_refusals(self, **options):
        init(self, **options)
        self._client.get_object = refused_get(self._client, denied=dict.fromkeys(keys, "AccessDenied"))

    monkeypatch.setattr(S3Objects, "__init__", with_refusals)
    with pytest.raises(ConfigError, match=r"must allow to read s3://.*/ds/ \(got 403 AccessDenied\)"):
        world.run(own_s3=bucket.access)
