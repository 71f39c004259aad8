"""Files of a folder: taken once, labeled, packed, refused with a reason, and read back."""

import os

import pytest

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.contracts import Attempt, sha256_hex
from pipeline_tasks.errors import (
    ConfigError,
    DataCorrupt,
    GateClosed,
    ServiceUnavailable,
    SourceUnavailable,
    StaleAttempt,
)
from pipeline_tasks.ingest import item_writer
from pipeline_tasks.ingest.exam_split import split_of
from pipeline_tasks.ingest.item_reader import read_items
from pipeline_tasks.ingest.sources.folder import FolderFiles
from tests.unit.ingest.conftest import NOW, png


def report_counts(report):
    return report.num_seen, report.num_new, report.num_known, report.num_quarantined, report.num_labeled_at_source


def test_files_become_items_with_labels_split_and_place(images):
    images.write("labeled/cat/1.png", png(1))
    images.write("labeled/dog/deep/2.png", png(2))
    images.write("3.png", png(3))
    images.write(".hidden", b"x")
    assert report_counts(images.run()) == (3, 3, 0, 0, 2)
    items = images.all()
    assert {key: item.source_label for key, item in items.items()} == {
        "labeled/cat/1.png": "cat",
        "labeled/dog/deep/2.png": "dog",
        "3.png": None,
    }
    third = items["3.png"]
    assert (third.item_id, third.source, third.group_key) == (sha256_hex(png(3)), "incoming", "3.png")
    assert (third.media_type, third.arrived_at, third.origin) == ("image/png", NOW, "source")
    assert {item.split for item in items.values()} <= {"train", "exam"}
    assert {key for key in images.store.objects if not key.startswith("packs/some_image/")} == set()
    assert {item.key: data for item, data in read_items(images.store, items.values())} == {
        "labeled/cat/1.png": png(1),
        "labeled/dog/deep/2.png": png(2),
        "3.png": png(3),
    }


def test_nothing_new_reads_nothing(images, monkeypatch):
    for number in range(5):
        images.write(f"{number}.png", png(number))
    images.run()
    monkeypatch.setattr(FolderFiles, "read", lambda *_: pytest.fail("a known file was read"))
    monkeypatch.setattr(images.items.__class__, "seen", lambda *_: pytest.fail("keys were looked up"))
    assert report_counts(images.run(batch="second")) == (5, 0, 0, 0, 0)
    assert images.store.calls["put"] == 1


def test_only_what_is_new_is_read(images):
    images.write("1.png", png(1))
    images.run()
    images.write("2.png", png(2))
    assert report_counts(images.run(batch="second")) == (2, 1, 0, 0, 0)
    assert images.items.count("some_image", batch_id="second") == 1


def test_the_same_batch_again_reports_the_same_new_items(images):
    images.write("1.png", png(1))
    assert images.run().num_new == 1
    assert images.run().num_new == 1


def test_a_changed_file_is_a_new_item(images):
    images.write("1.png", png(1))
    images.run()
    images.write("1.png", png(256 + 1))
    assert images.run(batch="second").num_new == 1
    assert images.items.count("some_image") == 2


def test_equal_content_is_one_item(images):
    images.write("a.png", png(1))
    images.write("b.png", png(1))
    assert report_counts(images.run()) == (2, 1, 1, 0, 0)
    images.write("c.png", png(1))
    assert report_counts(images.run(batch="second")) == (3, 0, 1, 0, 0)


def test_a_label_that_comes_later_is_added(images):
    images.write("1.png", png(1))
    images.run()
    images.write("labeled/dog/1.png", png(1))
    assert report_counts(images.run(batch="second")) == (2, 0, 1, 0, 1)
    assert images.all()["1.png"].source_label == "dog"


@pytest.mark.parametrize("in_two_runs", [False, True])
def test_equal_content_with_two_labels_is_a_conflict(images, in_two_runs):
    images.write("labeled/cat/1.png", png(1))
    if in_two_runs:
        images.run()
    images.write("labeled/dog/1.png", png(1))
    for number in range(2, 5):
        images.write(f"{number}.png", png(number))
    assert images.run(batch="second").num_quarantined == 1
    assert list(images.refused().values()) == ["LABEL_CONFLICT"]


def test_an_unknown_class_names_the_known_ones(images):
    images.write("labeled/Cat/1.png", png(1))
    images.write("labeled/cat/2.png", png(2))
    images.run()
    entry = images.items.quarantined("some_image")[0]
    assert (entry.key, entry.code) == ("labeled/Cat/1.png", "UNKNOWN_CLASS")
    assert "labels.classes: cat, dog (got 'Cat')" in entry.reason


def test_a_class_that_is_added_takes_what_was_refused(images):
    images.write("labeled/cow/1.png", png(1))
    images.write("labeled/cat/2.png", png(2))
    images.run()
    images.edit("[cat, dog]", "[cat, dog, cow]")
    assert report_counts(images.run(batch="second")) == (2, 1, 0, 0, 1)


def test_labels_of_the_source_can_be_ignored(images):
    images.edit("  annotators: 1", "  imported: ignore\n  annotators: 1")
    images.write("labeled/anything/1.png", png(1))
    assert report_counts(images.run()) == (1, 1, 0, 0, 0)


def test_groups_come_from_the_key_and_share_a_side(images):
    images.edit("    path: incoming", "    group_pattern: '(?P<group>user[0-9]+)_'\n    path: incoming")
    for number in range(40):
        images.write(f"user{number % 4}_{number}.png", png(number))
    images.run()
    sides = {}
    for item in images.all().values():
        sides.setdefault(item.group_key, set()).add(item.split)
    assert sorted(sides) == ["user0", "user1", "user2", "user3"]
    assert {len(splits) for splits in sides.values()} == {1}


def test_split_is_a_keyed_hash_with_the_asked_for_share():
    sides = [split_of(str(n), project="p", split_key="k", exam_share=0.1) for n in range(5000)]
    assert sides.count("exam") == 484
    assert sides != [split_of(str(n), project="p", split_key="other", exam_share=0.1) for n in range(5000)]
    assert sides != [split_of(str(n), project="q", split_key="k", exam_share=0.1) for n in range(5000)]


def test_large_items_are_objects_of_their_own(images):
    big = png(1, side=28) + b""
    noise = os.urandom(400 * 400)
    from PIL import Image  # a real image of more than 64 KiB

    path = images.incoming / "big.png"
    Image.frombytes("L", (400, 400), noise).save(path)
    images.write("small.png", big)
    images.run()
    item = images.all()["big.png"]
    assert item.location.object_key == f"items/some_image/{item.item_id[:2]}/{item.item_id}"
    assert images.store.content_types[item.location.object_key] == "image/png"
    assert [data for entry, data in read_items(images.store, [item])] == [path.read_bytes()]


def test_many_chunks_are_recorded_whole(images, monkeypatch):
    monkeypatch.setattr(item_writer, "CHUNK_ROWS", 10)
    monkeypatch.setattr(item_writer, "LOOKUP_ROWS", 4)
    for number in range(95):
        images.write(f"{number:03}.png", png(number))
    assert images.run().num_new == 95
    assert len(images.store.objects) >= 9
    assert len(dict(read_items(images.store, images.items.iterate("some_image")))) == 95


def test_bad_files_are_refused_and_good_ones_go_on(images):
    for number in range(12):
        images.write(f"good{number}.png", png(number))
    images.write("empty.png", b"")
    images.write("text.png", "I am a text")
    images.write("cut.png", png(1)[:-9])
    images.write("drawing.svg", "<svg/>")
    (images.incoming / "link.png").symlink_to("/etc/hostname")
    os.mkfifo(images.incoming / "pipe")
    (images.incoming / os.fsdecode(b"bad\xff.png")).write_bytes(png(50))
    (images.incoming / "new\nline.png").write_bytes(png(51))
    report = images.run()
    assert (report.num_new, report.num_quarantined) == (12, 8)
    assert images.refused() == {
        "empty.png": "EMPTY_FILE",
        "text.png": "NOT_AN_IMAGE",
        "cut.png": "IMAGE_TRUNCATED",
        "drawing.svg": "TYPE_NOT_ALLOWED",
        "link.png": "PATH_NOT_ALLOWED",
        "pipe": "TYPE_NOT_ALLOWED",
        "bad\\udcff.png": "KEY_INVALID",
        "new\\x0aline.png": "KEY_INVALID",
    }
    assert images.store.objects[f"quarantine/some_image/{sha256_hex(b'I am a text')}"] == b"I am a text"
    assert images.run(batch="second").num_quarantined == 0, "what was refused is not refused again"


def test_a_link_inside_the_folder_is_a_file(images):
    images.write("a/1.png", png(1))
    (images.incoming / "link.png").symlink_to(images.incoming / "a" / "1.png")
    assert report_counts(images.run()) == (2, 1, 1, 0, 0)


def test_files_that_are_too_large_are_not_read_or_not_taken(images):
    images.edit("split:", "checks:\n  max_item_bytes: 1000\nsplit:")
    for number in range(3):
        images.write(f"{number}.png", png(number))
    images.write("large.png", png(9) + bytes(2000))
    with (images.incoming / "huge.png").open("wb") as handle:
        handle.truncate(20_000_001)
    images.run()
    entries = {entry.key: entry for entry in images.items.quarantined("some_image")}
    assert {key: entry.code for key, entry in entries.items()} == {
        "large.png": "FILE_TOO_LARGE",
        "huge.png": "FILE_TOO_LARGE",
    }
    assert entries["large.png"].object_key is not None
    assert entries["huge.png"].object_key is None
    assert "at most 1,000 bytes (got 20,000,001)" in entries["huge.png"].reason


def test_too_many_bad_items_close_the_gate_after_recording(images):
    images.write("good.png", png(1))
    images.write("bad1.png", b"bad")
    images.write("bad2.png", b"worse")
    with pytest.raises(
        GateClosed, match=r"(?s)max_quarantine_share = 0.5 \(got 2 of 3\).*2 x NOT_AN_IMAGE, such as bad"
    ) as caught:
        images.run()
    assert caught.value.code == "TOO_MANY_BAD_ITEMS"
    assert list(images.all()) == ["good.png"]
    assert len(images.refused()) == 2


def test_a_missing_folder_is_one_clear_error(images):
    images.incoming.rmdir()
    with pytest.raises(
        ConfigError,
        match=r"some_image: sources\[0\] \(incoming\)\.path must be an existing folder \(got .*incoming: no such",
    ):
        images.run()


def test_a_folder_that_fails_is_tried_again(images, monkeypatch):
    def fail(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pipeline_tasks.ingest.sources.folder.os.scandir", fail)
    with pytest.raises(SourceUnavailable, match=r"must be a readable folder \(got Permission denied at"):
        images.run()


def test_one_source_that_fails_does_not_stop_the_others(images):
    images.edit("sources:\n", "sources:\n  - type: folder\n    name: gone\n    path: gone\n")
    images.write("1.png", png(1))
    with pytest.raises(ConfigError, match=r"sources\[0\] \(gone\)\.path must be an existing folder"):
        images.run()
    assert list(images.all()) == ["1.png"]


def test_errors_of_several_sources_come_together(images):
    images.edit("sources:\n", "sources:\n  - type: folder\n    name: gone\n    path: gone\n")
    images.incoming.rmdir()
    with pytest.raises(ConfigError, match=r"(?s)\(gone\).*\(incoming\)"):
        images.run()


def test_an_unreadable_file_is_tried_again_next_time(images, monkeypatch):
    for number in range(3):
        images.write(f"{number}.png", png(number))
    opened = os.open
    denied = PermissionError(13, "Permission denied")

    def deny(path, *rest):
        if str(path).endswith("1.png"):
            raise denied
        return opened(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline_tasks.ingest.sources.folder.os.open", deny)
        assert images.run().num_quarantined == 1
    assert images.refused() == {"1.png": "FILE_UNREADABLE"}
    assert images.run(batch="second").num_new == 1


def test_a_newer_attempt_stops_an_older_one(images, monkeypatch):
    images.write("1.png", png(1))
    read = FolderFiles.read

    def overtake(self, entry):
        images.items.database.acquire("some_image/ingest", Attempt("run", "ingest", 99), now=NOW)
        return read(self, entry)

    monkeypatch.setattr(FolderFiles, "read", overtake)
    with pytest.raises(StaleAttempt, match="run/ingest/1 must hold the lease some_image/ingest"):
        images.run()
    assert images.all() == {}


def test_a_store_that_fails_records_nothing(images):
    images.write("1.png", png(1))
    images.store.fail("put", ServiceUnavailable("the store must answer (got nothing)."))
    with pytest.raises(ServiceUnavailable, match="must answer"):
        images.run()
    assert images.all() == {}
    assert images.run().num_new == 1


def test_a_lost_answer_of_the_store_makes_no_second_object(images):
    images.write("1.png", png(1))
    images.store.fail("put", ServiceUnavailable("the store must answer (got nothing)."), after=True)
    with pytest.raises(ServiceUnavailable, match="must answer"):
        images.run()
    images.run()
    assert len(images.store.objects) == 1


def test_corrupt_bytes_are_found_when_they_are_read(images):
    images.write("1.png", png(1))
    images.write("2.png", png(2))
    images.run()
    (key,) = images.store.objects
    images.store.corrupt(key)
    with pytest.raises(DataCorrupt, match=r"packs/.* at 0 must hold the bytes of item"):
        list(read_items(images.store, images.items.iterate("some_image")))
    del images.store.objects[key]
    with pytest.raises(DataCorrupt, match="must exist"):
        list(read_items(images.store, images.items.iterate("some_image")))


def test_whole_packs_are_read_once(images, monkeypatch):
    monkeypatch.setattr(item_writer, "CHUNK_ROWS", 20)
    monkeypatch.setattr(item_writer, "LOOKUP_ROWS", 10)
    for number in range(60):
        images.write(f"{number:03}.png", png(number))
    images.run()
    images.store.calls.clear()
    assert len(list(read_items(images.store, images.items.iterate("some_image")))) == 60
    assert dict(images.store.calls) == {"get": len(images.store.objects)}


def test_the_cursor_is_not_in_the_listing_when_nothing_moves(images):
    images.write("1.png", png(1))
    images.run()
    first = images.items.cursor("some_image", "source/incoming")
    images.run(batch="second")
    assert images.items.cursor("some_image", "source/incoming") == first
    with images.items.database.read() as connection:
        assert len(connection.execute(t.seen_objects.select()).all()) == 1
