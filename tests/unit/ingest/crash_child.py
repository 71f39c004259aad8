"""Runs one ingest in this process, armed to die at one point: `crash_child.py FOLDER POINT TRACE`."""

import datetime as dt
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.core import crash_points
from pipeline_tasks.errors import GateClosed
from pipeline_tasks.ingest import item_writer, task
from pipeline_tasks.project.loader import load_project


class DiskStore:
    """Objects as files; only what ingest needs. A second `put` of a key must bring the same bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, key: str, data: bytes, *, content_type: str = "") -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_bytes() != data:
            raise RuntimeError(f"{key} must keep its bytes")
        part = path.with_suffix(".part")
        part.write_bytes(data)
        part.rename(path)


def main() -> None:
    folder, point, trace = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    item_writer.CHUNK_ROWS, item_writer.LOOKUP_ROWS = 10, 5
    crash_points.arm(point or None, trace_path=trace)
    database = Database(create_engine(f"sqlite:///{folder / 'catalog.db'}"))
    try:
        task.run(
            load_project(folder / "pics"),
            items=ItemRepository(database),
            store=DiskStore(folder / "objects"),
            attempt=Attempt("run", "ingest"),
            split_key="k",
            environment={},
            batch_id="batch",
            now=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        )
    except GateClosed as error:
        print(error, file=sys.stderr)


if __name__ == "__main__":
    main()
