"""Listing of a folder that others write to: files that vanish, change or never rest; patterns; folders at rest."""

import datetime as dt

import pytest

from pipeline_tasks.ingest import listing_cursor
from pipeline_tasks.ingest.sources.folder import FolderFiles
from pipeline_tasks.ingest.sources.listing import Entry, FileRead, glob_regex
from tests.unit.ingest.conftest import png
from tests.unit.ingest.sources.test_folder import report_counts


def test_a_file_that_vanishes_or_changes_is_left_to_the_next_run(images, monkeypatch):
    images.write("1.png", png(1))
    images.write("2.png", png(2))
    read = FolderFiles.read

    def vanish(self, entry):
        if entry.key == "1.png" and (images.incoming / "1.png").exists():
            (images.incoming / "1.png").unlink()
        return read(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(FolderFiles, "read", vanish)
        assert report_counts(images.run()) == (2, 1, 0, 0, 0)
    assert images.items.cursor("some_image", "source/incoming") is None
    images.write("1.png", png(1))
    assert images.run(batch="second").num_new == 1


def test_a_file_that_never_rests_is_not_taken(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"x")
    fingerprints = iter(range(100))
    monkeypatch.setattr("pipeline_tasks.ingest.sources.folder._fingerprint", lambda _: str(next(fingerprints)))
    files = FolderFiles(name="f", root=tmp_path, pattern="**/*", setting="s")
    assert files.read(Entry("a", "1-1", 1)) is None


def test_a_file_is_read_with_the_fingerprint_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"xyz")
    files = FolderFiles(name="f", root=tmp_path, pattern="**/*", setting="s")
    entry = next(files.listing())
    assert files.read(entry) == FileRead(b"xyz", entry.fingerprint)
    assert entry.fingerprint == f"3-{(tmp_path / 'a').stat().st_mtime_ns}"


def test_a_source_can_be_one_file(tmp_path):
    (tmp_path / "a").write_bytes(b"xyz")
    files = FolderFiles(name="f", root=tmp_path / "a", pattern="**/*", setting="s")
    (entry,) = files.listing()
    assert (entry.key, files.read(entry).data) == ("a", b"xyz")


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.png", ["a.png"], ["d/a.png", "a.jpg"]),
        ("**/*.png", ["a.png", "d/e/a.png"], ["a.pngx"]),
        ("d/**", ["d/a", "d/e/f"], ["a"]),
        ("a?c", ["abc"], ["a/c", "abbc"]),
        ("a+(b)", ["a+(b)"], ["aab"]),
    ],
)
def test_globs(pattern, yes, no):
    regex = glob_regex(pattern)
    assert [bool(regex.match(key)) for key in yes + no] == [True] * len(yes) + [False] * len(no)


def test_only_files_of_the_pattern_are_read(images):
    images.edit("    path: incoming", "    pattern: '**/*.png'\n    path: incoming")
    images.write("d/1.png", png(1))
    images.write("notes.txt", "x")
    assert report_counts(images.run()) == (1, 1, 0, 0, 0)


class QuickWorld:
    """Counts full listings of a folder that is big enough to be looked at by its folders only."""

    def __init__(self, world, monkeypatch):
        monkeypatch.setattr(listing_cursor, "MANY_FILES", 3)
        self.world = world
        self.listings = 0
        listing = FolderFiles.listing

        def count(files):
            self.listings += 1
            return listing(files)

        monkeypatch.setattr(FolderFiles, "listing", count)

    def run(self, *, hours):
        self.listings = 0
        now = dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)
        return self.world.run(batch=f"b{hours}", now=now).num_new, self.listings


def test_a_big_folder_at_rest_is_looked_at_by_its_folders(images, monkeypatch):
    quick = QuickWorld(images, monkeypatch)
    for number in range(4):
        images.write(f"d/{number}.png", png(number))
    assert quick.run(hours=1) == (4, 1)
    assert quick.run(hours=2) == (0, 0)
    images.write("d/5.png", png(5))
    assert quick.run(hours=3) == (1, 2), "a new file changes its folder's time"
    images.write("d/5.png", png(6))
    assert quick.run(hours=4) == (0, 0), "overwritten in place: not seen by its folder"
    assert quick.run(hours=28) == (1, 2), "but within a day"


def test_a_big_folder_that_is_written_to_is_listed_in_full(images, monkeypatch):
    quick = QuickWorld(images, monkeypatch)
    for number in range(4):
        images.write(f"d/{number}.png", png(number))
    assert quick.run(hours=0) == (4, 1)
    assert quick.run(hours=0)[1] == 1
    images.write("d/1.png", png(9))
    assert quick.run(hours=0)[1] == 2
