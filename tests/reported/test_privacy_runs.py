"""Personal data of items from before the deny-list reaches no W&B run, page, log or model (issue 13, point 5).

The stages that read items run as they do in a task, with the real tracker offline: what its process writes is searched.
"""

import io
import logging
import random
import types

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from pipeline_tasks.catalog import migrate
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.core.settings import load_settings
from pipeline_tasks.errors import InputError
from pipeline_tasks.orchestration import entrypoints, resources
from pipeline_tasks.project.privacy_schema import Privacy
from pipeline_tasks.project.scaffold import init_project
from tests.fakes import FolderObjectStore
from tests.fakes_labeling import FakeLabelStudio
from tests.unit.evaluation import support as s
from tests.unit.evaluation.conftest import run, verdicts, world  # noqa: F401  (fixtures)

PROJECT, CANARY, NUM_ROWS = "orders", "canary.one@example.com", 240
DENY = "privacy: {deny: {patterns: ['[\\w.]{1,64}@[\\w.]{1,64}']}}\n"
EDITS = {
    "min_new_labels: 200": "min_new_labels: 20",
    "min_items: 50": "min_items: 20",
    "exam_share: 0.2": "exam_share: 0.4",
    "  name: tabular_mlp": "  name: tabular_mlp\n  params: {epochs: 2}\n ",
}
ENVIRONMENT = {
    "DETHRONE_S3_ENDPOINT": "http://127.0.0.1:1",
    "DETHRONE_LABEL_STUDIO_URL": "http://127.0.0.1:1",
    "DETHRONE_AIRFLOW_URL": "http://127.0.0.1:1",
    "DETHRONE_GATEWAY_URL": "http://127.0.0.1:1",
    "DETHRONE_SPLIT_KEY": "the split key of this test",
    "DETHRONE_S3_ACCESS_KEY": "a",
    "DETHRONE_S3_SECRET_KEY": "s",
}


def rows(numbers: range) -> str:
    """Return labeled rows, of which each tenth has the address where a country should stand."""
    pick = random.Random(1)
    lines = ["id,amount,country,label"]
    for number in numbers:
        amount = pick.randint(1, 1000)
        country = CANARY if number % 10 == 0 else pick.choice(("DE", "FR", "US"))
        lines.append(f"{number},{amount},{country},{'yes' if amount > 500 else 'no'}")
    return "\n".join(lines)


class Installation:
    """A project with its catalog, its object store in a folder, and W&B offline."""

    def __init__(self, folder) -> None:
        self.folder, self.home = folder, folder / "home"
        url = f"sqlite:///{folder / 'catalog.db'}"
        migrate.upgrade(url)
        more = {"DETHRONE_HOME": self.home, "DETHRONE_PROJECTS": folder / "projects", "DETHRONE_CATALOG_URL": url}
        self.parts = resources.Resources(
            load_settings(ENVIRONMENT | {name: str(value) for name, value in more.items()})
        )
        vars(self.parts).update(store=FolderObjectStore(folder / "objects"), labeling=FakeLabelStudio())
        self.project = init_project(folder / "projects", name=PROJECT, template="tabular")
        for old, new in EDITS.items():
            self.edit(old, new)

    def edit(self, old: str, new: str) -> None:
        path = self.project / "project.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def run(self, stage: str, **arguments):
        attempt = Attempt(f"run-{stage}-{len(arguments)}", stage)
        return getattr(entrypoints, stage)(PROJECT, attempt=attempt, parts=self.parts, **arguments)

    def take(self, name: str, numbers: range) -> None:
        (self.project / "incoming" / name).write_text(rows(numbers))
        entrypoints.ingest(PROJECT, attempt=Attempt(name, "ingest"), parts=self.parts)
        entrypoints.annotate(PROJECT, attempt=Attempt(name, "annotate"), parts=self.parts)

    def objects(self) -> dict[str, str]:
        """Return every object as text; tables are read."""
        stored = {info.key: self.parts.store.get(info.key) for info in self.parts.store.list("")}
        return {
            key: repr(pq.read_table(io.BytesIO(data)).to_pylist() if data[:4] == b"PAR1" else data)
            for key, data in stored.items()
        }

    def rows(self) -> set[str]:
        """Return every row of the catalog as text."""
        with self.parts.database.read() as connection:
            by_table = {table.name: connection.execute(sa.select(table)).all() for table in t.metadata.sorted_tables}
        return {f"{name}: {row}" for name, rows in by_table.items() for row in rows}

    def files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.home)): path.read_bytes() for path in self.home.rglob("*") if path.is_file()}


@pytest.fixture
def installation(tmp_path):
    installed = Installation(tmp_path)
    yield installed
    installed.parts.tracker.close()


def test_items_of_before_the_list_do_not_tell_it_in_training_and_judging(installation, caplog):
    installation.take("before.csv", range(NUM_ROWS))
    before, rows_before, files_before = installation.objects(), installation.rows(), installation.files()
    assert [key for key, text in before.items() if CANARY in text]
    installation.edit("split:", f"{DENY}split:")
    caplog.set_level(logging.INFO)
    caplog.clear()
    installation.take("after.csv", range(NUM_ROWS, 2 * NUM_ROWS))
    installation.run("plan_training")
    snapshot = installation.run("snapshot")
    model = installation.run("train", snapshot_id=snapshot["snapshot_id"])
    verdict = installation.run("judge", version=model["version"], epochs=snapshot["epochs"])
    installation.parts.tracker.close()

    assert "'[removed]' (" in caplog.text  # what the recipe does not know is said, without what it is
    assert CANARY not in caplog.text
    told = {key: text for key, text in installation.objects().items() if key not in before}
    assert [name for name, text in told.items() if CANARY in text] == []
    assert [row for row in {*installation.rows()} - rows_before if CANARY in row] == []
    assert CANARY not in repr((model, verdict))
    files = {name: data for name, data in installation.files().items() if files_before.get(name) != data}
    assert [name for name, data in files.items() if name.endswith(".wandb") and b"[removed]" in data]
    assert [name for name, data in files.items() if CANARY.encode() in data] == []
    assert any(key.endswith("report.html") for key in told)
    assert files.keys() >= {f"data-docs/{PROJECT}/index.html"}


@pytest.mark.parametrize("said", ["in a key", "in a problem"])
def test_a_verdict_does_not_tell_it(said, run, world, monkeypatch):  # noqa: F811
    """Neither the values of a slice by keys, nor what a model says of an item that it cannot decode."""
    deny = {"deny": {"patterns": [r"[\w.]{1,64}@[\w.]{1,64}"]}}
    slices = [{"name": "sender", "by": "key_pattern", "pattern": "^(?P<slice>.*)$", "min_items": 1}]
    project = s.project(gate={"slices": slices if said == "in a key" else []})
    config = project.config.model_copy(update={"privacy": Privacy.model_validate(deny)})
    options = {"project": project.model_copy(update={"config": config})}
    if said == "in a key":
        options["find_items"] = lambda ids: [
            types.SimpleNamespace(item_id=item_id, key=f"to {CANARY}") for item_id in ids
        ]

    def refuse(data):
        if said == "in a problem" and data == s.payload(2, 3):
            raise InputError(f"country must be known (got {CANARY!r}).", code="VALUE_INVALID")
        return data

    monkeypatch.setattr(world.models["old"], "decode", refuse)
    key = run(**options).object_key
    told = b"".join(world.store.get(info.key) for info in world.store.list(key) if not info.key.endswith(".parquet"))
    assert (b"[removed]" in told, CANARY.encode() in told) == (True, False)
