"""The demo's first photos appear folder by folder, whole."""

from pathlib import Path

from pipeline_tasks.demo import dataset as demo_material

MATERIAL = demo_material.Material(
    labeled=((b"one", "boot"), (b"two", "bag")), unlabeled=((b"three", "coat"),), rotated=(), blurred=()
)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_photo_arrives_once(tmp_path):
    assert demo_material.write_arrivals(MATERIAL, tmp_path) == 3
    assert demo_material.write_arrivals(MATERIAL, tmp_path) == 0
    wanted = {"labeled/boot/00000.png": b"one", "labeled/bag/00001.png": b"two", "new/00000.png": b"three"}
    assert files(tmp_path) == wanted


def test_nothing_is_seen_while_a_folder_is_being_written(tmp_path, monkeypatch):
    seen: list[list[str]] = []
    write = demo_material._write_once

    def watched(path: Path, data: bytes) -> int:
        seen.append([name.name for name in (tmp_path / "labeled").parent.iterdir() if name.name == "labeled"])
        return write(path, data)

    monkeypatch.setattr(demo_material, "_write_once", watched)
    demo_material.write_arrivals(MATERIAL, tmp_path)
    assert seen == [[], [], ["labeled"]]


def test_a_writing_that_was_cut_is_completed(tmp_path):
    (tmp_path / ".labeled" / "boot").mkdir(parents=True)
    (tmp_path / ".labeled" / "boot" / "00000.png").write_bytes(b"on")
    demo_material.write_arrivals(MATERIAL, tmp_path)
    assert files(tmp_path)["labeled/boot/00000.png"] == b"one"
    assert not (tmp_path / ".labeled").exists()
