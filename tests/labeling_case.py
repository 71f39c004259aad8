"""A small image project with items, for the tests of annotate and collect."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from pipeline_tasks.annotation import class_migration
from pipeline_tasks.annotation.class_plan import ClassOptions
from pipeline_tasks.annotation.task import annotate, collect
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.items import Chunk, ItemRepository
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.contracts import Attempt, Item, Location, sha256_hex
from pipeline_tasks.core import crash_points
from pipeline_tasks.project.schema import Labels, LoadedProject, Project
from tests.fakes import FakeObjectStore
from tests.fakes_labeling import FakeLabelStudio

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
CLASSES = ["cat", "dog", "owl"]
XML = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    '<Choice value="cat"/><Choice value="dog"/><Choice value="owl"/></Choices></View>'
)
NAME = "pets"


def make_project(*, modality="image", xml=XML, classes=CLASSES, **labels) -> LoadedProject:
    config = Project.model_validate(
        {
            "name": NAME,
            "modality": modality,
            "sources": [{"type": "folder", "path": "in"}],
            "labels": Labels(classes=classes, **labels),
            "recipe": {"name": "image_cnn"},
        }
    )
    return LoadedProject(config=config, folder=Path("projects") / NAME, labeling_xml=xml)


def with_classes(classes, **labels) -> LoadedProject:
    choices = "".join(f'<Choice value="{label}"/>' for label in classes)
    xml = f'<View><Image name="image" value="$image"/><Choices name="label" toName="image">{choices}</Choices></View>'
    return make_project(classes=classes, xml=xml, **labels)


def region(value="cat", *, name="label", kind="choices", key="choices", to="image"):
    return {"from_name": name, "to_name": to, "type": kind, "value": {key: value if key != "choices" else [value]}}


NOTES = [
    region(["a note"], name="note", kind="textarea", key="text"),
    region(4, name="sure", kind="rating", key="rating"),
    region("blurred", name="quality"),
]


def texts_of(case: Case) -> list[tuple[str, str, str]]:
    """Return code, digest and reason of what was refused."""
    return [(entry.code, entry.digest, entry.reason) for entry in case.items.quarantined(NAME)]


def codes_of(case: Case) -> list[str]:
    return sorted(entry.code for entry in case.items.quarantined(NAME))


def content_of(number: int) -> bytes:
    return f"image {number}".encode()


def make_item(number: int, *, split="train", label=None, content=None, **changes) -> Item:
    data = content_of(number) if content is None else content
    digest = sha256_hex(data)
    fields = {
        "project": NAME,
        "item_id": digest,
        "source": "folder",
        "key": f"{number}.png",
        "group_key": f"{number}",
        "media_type": "image/png",
        "location": Location(f"items/{NAME}/{digest[:2]}/{digest}", 0, len(data)),
        "arrived_at": NOW,
        "split": split,
        "source_label": label,
    }
    return Item(**(fields | changes))


class Case:
    """A catalog, an object store and a labeling tool with the stage functions bound; a run is a second later."""

    def __init__(
        self, database: Database, labeling, *, project: LoadedProject | None = None, store=None, installation="ours"
    ) -> None:
        self.installation = installation
        self.database = database
        self.labels = LabelRepository(database)
        self.items = ItemRepository(database)
        self.store = store or FakeObjectStore()
        self.labeling = labeling
        self.project = project or make_project()
        self.attempts = 0

    def add(self, *items: Item) -> list[str]:
        fence = self.database.acquire("ingest", Attempt("run", "ingest"), now=NOW)
        self.items.record(fence, Chunk(NAME, "folder", "batch", items))
        return [item.item_id for item in items]

    def add_numbers(self, numbers, *, split="train", label=None) -> list[str]:
        for number in numbers:
            item = make_item(number)
            self.store.put(item.location.object_key, content_of(number))
        return self.add(*(make_item(number, split=split, label=label) for number in numbers))

    def annotate(self, **arguments):
        self.attempts += 1
        return annotate(
            arguments.pop("project", self.project),
            labels=self.labels,
            store=self.store,
            labeling=self.labeling,
            installation=self.installation,
            attempt=Attempt("run", "annotate", self.attempts),
            database=self.database,
            now=NOW + dt.timedelta(seconds=self.attempts),
            **arguments,
        )

    def collect(self, *, now=None, project=None):
        self.attempts += 1
        return collect(
            project or self.project,
            labels=self.labels,
            items=self.items,
            labeling=self.labeling,
            installation=self.installation,
            attempt=Attempt("run", "collect", self.attempts),
            database=self.database,
            now=now or NOW + dt.timedelta(seconds=self.attempts),
        )

    def attempt(self, task: str) -> Attempt:
        self.attempts += 1
        return Attempt("run", task, self.attempts)

    def prepare(self, classes, options, *, undo=False):
        project, now = with_classes(classes), NOW + dt.timedelta(seconds=self.attempts + 1)
        return class_migration.prepare(project, options, undo=undo, database=self.database, by="ann", now=now)

    def migrate(self, classes, options, *, undo=False, **labels):
        """Migrate to a class list, which is the project's from then on."""
        project = with_classes(classes, **labels)
        attempt = self.attempt("migrate")
        migration = class_migration.migrate(
            project,
            options,
            undo=undo,
            labels=self.labels,
            labeling=self.labeling,
            installation=self.installation,
            attempt=attempt,
            database=self.database,
            by="ann",
            now=NOW + dt.timedelta(seconds=self.attempts),
        )
        self.project = project
        return migration

    def ls_project(self, queue="label") -> int:
        return self.labels.registration(NAME)[2][queue]

    def label_of(self, item_id: str):
        newest = self.labels.decisions(NAME, [item_id]).get(item_id)
        return None if newest is None else (newest.version, newest.status, newest.label)

    def tasks_per_item(self, queue="label") -> dict[str, int]:
        return {item_id: len(ids) for item_id, ids in self.labeling.task_ids(self.ls_project(queue)).items()}


def child(stage: str, folder: str, crash_at: str, trace: str) -> None:
    """Run one stage on files, dying at a crash point: what the crash matrix does in a process of its own."""
    crash_points.arm(crash_at or None, trace_path=trace or None)
    engine = create_engine(f"sqlite:///{folder}/catalog.db")
    store = FakeObjectStore()
    for number in range(20):
        store.put(make_item(number).location.object_key, content_of(number))
    case = Case(Database(engine), FakeLabelStudio(Path(folder) / "ls.json"), store=store)
    if stage == "annotate":
        case.annotate(chunk_items=3)
    elif stage == "migrate":
        case.migrate(["pet", "owl"], ClassOptions(merges=("cat,dog=pet",)))
    elif stage == "undo":
        case.migrate(CLASSES, ClassOptions(), undo=True)
    else:
        case.collect()
