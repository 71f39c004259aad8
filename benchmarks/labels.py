"""Label Studio as transport: items a second beside other clients, and the cost of a few tasks in a large project.

    python -m benchmarks.labels                              10,000 items; then a project of 20,000 tasks
    python -m benchmarks.labels --items 0 --tasks 200000     the large project alone: its first full run takes long
    python -m benchmarks.labels --items 0 --tasks 200000 --seeded   its tasks and answers are written as rows

Starts a Label Studio of its own (SQLite, one process) and ends it. Objects go to files, the catalog is SQLite, and each
of our stages runs in a process of its own, whose peak memory is printed. Answers are rows made from one real answer.
Items/s: our `annotate` and `collect`, whole, beside a client that sends one request a task, and beside bare requests of
the same server's bulk import and list of tasks. Targets: ten times the first and half of the second; in the large
project a push of 100 and a collect of 10 within 5 s and 2 % of the first full run. `--seeded` has none to compare.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import sqlalchemy as sa

from benchmarks.folder_store import FolderStore
from pipeline_tasks.adapters.label_studio import LabelStudio
from pipeline_tasks.catalog import migrate
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.core.clock import utc_now
from tests.labeling_case import NAME, NOW, Case, make_item
from tests.labeling_server import LabelStudioServer

NAIVE_TASKS = 200
BULK = 1000
NEW_TASKS, NEW_ANSWERS = 100, 10
REGION = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["dog"]}}
DATA = {"image": f"data:image/png;base64,{'A' * 800}"}


def open_case(folder: Path) -> Case:
    """Return the catalog, the objects and the Label Studio of a benchmark's folder."""
    server = json.loads((folder / "server.json").read_text())
    url = f"sqlite:///{folder / 'catalog.db'}"
    migrate.upgrade(url)
    labeling = LabelStudio(server["url"], server["token"], timeout_seconds=3600)
    case = Case(Database(create_engine(url)), labeling, store=FolderStore(folder / "objects"))
    case.attempts = int(time.time())  # each process is a newer attempt
    return case


def peak_mib() -> float:
    """Return this process's peak memory; `getrusage` would tell that of the process which started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def child(folder: Path, stage: str) -> None:
    """Run one stage in this process and print what it took."""
    case = open_case(folder)
    before = peak_mib()
    began, cpu = time.perf_counter(), time.process_time()
    report = case.annotate() if stage == "annotate" else case.collect(now=utc_now())
    took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    peak = peak_mib()
    counts = {"num_pushed": getattr(report, "num_pushed", 0), "num_annotations": getattr(report, "num_annotations", 0)}
    print(json.dumps({**took, "peak_mib": peak, "before_mib": before, **counts}))


def run(folder: Path, stage: str, what: str) -> float:
    """Run a stage in a process of its own, print a line and return its seconds."""
    command = [sys.executable, "-m", "benchmarks.labels", "--child", stage, "--folder", str(folder)]
    server = psutil.Process(json.loads((folder / "server.json").read_text())["pid"])
    before = server.cpu_times()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    took, after = json.loads(done.stdout.splitlines()[-1]), server.cpu_times()
    server_seconds = after.user + after.system - before.user - before.system
    spent = f"CPU {took['cpu_seconds']:.1f} s here, {server_seconds:.1f} s the server's"
    peak = f"peak {took['peak_mib']:.0f} MiB, {took['before_mib']:.0f} MiB before"
    done_text = f"{took['num_pushed']} pushed, {took['num_annotations']} annotations"
    print(f"{what}: {took['seconds']:.1f} s ({spent}), {peak}, {done_text}", flush=True)
    return float(took["seconds"])


def add_many(case: Case, numbers: range, *, stored: bool = True) -> None:
    """Record items of 600 bytes in the catalog, and in the object store where they are pushed."""
    for start in range(numbers.start, numbers.stop, BULK):
        items = []
        for number in range(start, min(start + BULK, numbers.stop)):
            content = f"{number:0600}".encode()
            items.append(make_item(number, content=content))
            if stored:
                case.store.put(items[-1].location.object_key, content)
        case.add(*items)


class Tables:
    """Label Studio's own database, for rows that nobody can make one by one."""

    def __init__(self, server: LabelStudioServer) -> None:
        self._database = sqlite3.connect(server.folder / "label_studio.sqlite3", timeout=120)

    def answer_all(self, project_id: int) -> None:
        """Give every task without an answer the answer that another task has."""
        copied = {
            "task_id": "task.id",
            "project_id": "task.project_id",
            "created_at": self._moment(),
            "updated_at": self._moment(),
            "unique_id": "lower(hex(randomblob(16)))",
        }
        names = self._columns("task_completion")
        values = ", ".join(copied.get(name, f"answer.{name}") for name in names)
        with self._database as rows:
            rows.execute(
                f"INSERT INTO task_completion ({', '.join(names)}) SELECT {values} "
                "FROM (SELECT * FROM task_completion LIMIT 1) answer, task WHERE task.project_id = ? "
                "AND NOT EXISTS (SELECT 1 FROM task_completion other WHERE other.task_id = task.id)",
                (project_id,),
            )
            rows.execute(
                f"UPDATE task SET total_annotations = 1, is_labeled = 1, updated_at = {self._moment()} "
                "WHERE project_id = ?",
                (project_id,),
            )

    def copy_tasks(self, project_id: int, item_ids: Sequence[str]) -> None:
        """Give a project one task of each item, like the one task that it has."""
        names = self._columns("task")
        values = ", ".join({"data": "json_set(task.data, '$.item_id', ?)"}.get(name, name) for name in names)
        with self._database as rows:
            rows.executemany(
                f"INSERT INTO task ({', '.join(names)}) SELECT {values} FROM task "
                "WHERE id = (SELECT min(id) FROM task WHERE project_id = ?)",
                ((item_id, project_id) for item_id in item_ids),
            )

    def rows_of(self, project_id: int) -> list[tuple[str, int, int, str, str]]:
        """Return item, task, annotation and its two times of each answered task."""
        query = (
            "SELECT json_extract(task.data, '$.item_id'), task.id, answer.id, answer.created_at, answer.updated_at "
            "FROM task JOIN task_completion answer ON answer.task_id = task.id WHERE task.project_id = ?"
        )
        return list(self._database.execute(query, (project_id,)))

    @staticmethod
    def _moment() -> str:
        # Twelve answers a second, the last one an hour ago.
        return (
            "strftime('%Y-%m-%d %H:%M:%f', julianday('now') - 1 / 24.0 - ((SELECT max(id) FROM task) - task.id) / 1e6)"
        )

    def _columns(self, table: str) -> list[str]:
        return [row[1] for row in self._database.execute(f"PRAGMA table_info({table})") if row[1] != "id"]


def record_as_collected(case: Case, tables: Tables, ls_project_id: int) -> None:
    """Write into the catalog what a push and a collect of all would have written."""
    answers = tables.rows_of(ls_project_id)
    annotations, decisions, tasks = [], [], []
    for item_id, task_id, number, created, updated in answers:
        created_at, updated_at = (dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC) for text in (created, updated))
        annotation_id = f"{number}@{created_at:%Y%m%dT%H%M%S%f}"
        annotations.append({
            "project": NAME, "annotation_id": annotation_id, "revision": f"{updated_at:%Y-%m-%dT%H:%M:%S.%fZ}",
            "item_id": item_id, "queue": "label", "annotator": "a@x", "label": "dog", "result": [REGION],
            "cancelled": False, "deleted": False, "lead_time_seconds": 1.0, "created_at": created_at,
            "collected_at": NOW,
        })  # fmt: skip
        decisions.append({
            "project": NAME, "item_id": item_id, "version": 1, "status": "decided", "label": "dog",
            "method": "single", "annotation_ids": [annotation_id], "annotators": ["a@x"], "agreement": None,
            "schema_version": 1, "decided_at": NOW,
        })  # fmt: skip
        tasks.append({"of": item_id, "task": task_id})
    pushed = (
        t.labeling_tasks.update()
        .where(t.labeling_tasks.c.project == NAME, t.labeling_tasks.c.item_id == sa.bindparam("of"))
        .values(state="done", ls_project_id=ls_project_id, ls_task_id=sa.bindparam("task"), pushed_at=NOW)
    )
    with case.database.write() as connection:
        connection.execute(pushed, tasks)
        connection.execute(t.annotations.insert(), annotations)
        connection.execute(t.label_decisions.insert(), decisions)
    newest = max(answer[4] for answer in answers)
    moment = dt.datetime.fromisoformat(newest).replace(tzinfo=dt.UTC).isoformat()
    value = {"ls_project_id": ls_project_id, "changed_at": moment, "compared_at": utc_now().isoformat()}
    entry = {"project": NAME, "name": "annotations/label", "value": value, "generation": 1, "updated_at": NOW}
    with case.database.write() as connection:
        connection.execute(t.cursors.insert(), entry)


def first_answer(case: Case, client: httpx.Client, item_id: str) -> None:
    """Answer one item as a person does."""
    (task_id, *_) = case.labeling.task_ids(case.ls_project(), [item_id])[item_id]
    client.post(f"/api/tasks/{task_id}/annotations/", json={"result": [REGION], "lead_time": 1.0}).raise_for_status()


def rate(what: str, num_items: int, seconds: float) -> float:
    print(f"{what}: {num_items / seconds:,.0f} items/s ({num_items:,} in {seconds:.1f} s)", flush=True)
    return num_items / seconds


def compare_clients(folder: Path, server: LabelStudioServer, client: httpx.Client, num_items: int) -> None:
    """Push and collect as we do, one by one, and in bulk without anything around it."""
    config = {"title": "bare", "label_config": make_config()}
    naive, bulk = (int(client.post("/api/projects/", json=config).json()["id"]) for _ in range(2))
    began = time.perf_counter()
    made = [
        client.post("/api/tasks/", json={"project": naive, "data": {**DATA, "item_id": f"{n:064x}"}}).json()["id"]
        for n in range(NAIVE_TASKS)
    ]
    one_by_one = rate("push, one request a task", NAIVE_TASKS, time.perf_counter() - began)
    body = [{"data": {**DATA, "item_id": f"{n:064x}"}} for n in range(num_items)]
    began = time.perf_counter()
    for start in range(0, num_items, BULK):
        client.post(f"/api/projects/{bulk}/import", json=body[start : start + BULK]).raise_for_status()
    bare = rate(f"push, bare bulk import of {BULK}", num_items, time.perf_counter() - began)
    case = open_case(folder)
    add_many(case, range(num_items))
    ours = rate("push, ours", num_items, run(folder, "annotate", f"annotate of {num_items:,}"))
    print(f"ours is {ours / one_by_one:.1f} times one by one, and {bare / ours:.2f} times slower than bare bulk import")
    first_answer(case, client, make_item(0, content=f"{0:0600}".encode()).item_id)
    tables = Tables(server)
    for project_id in (naive, bulk, case.ls_project()):
        tables.answer_all(project_id)
    began = time.perf_counter()
    for task_id in made:
        client.get(f"/api/tasks/{task_id}/annotations/").raise_for_status()
    one_by_one = rate("collect, one request a task", NAIVE_TASKS, time.perf_counter() - began)
    began = time.perf_counter()
    for number in range(1, num_items // 500 + 1):
        page: dict[str, str | int] = {"project": bulk, "page": number, "page_size": 500, "fields": "all"}
        client.get("/api/tasks/", params={**page, "resolve_uri": "false"}).raise_for_status()
    bare = rate("collect, bare list of tasks by pages of 500", num_items, time.perf_counter() - began)
    ours = rate("collect, ours", num_items, run(folder, "collect", f"collect of {num_items:,}"))
    print(f"ours is {ours / one_by_one:.1f} times one by one, and {bare / ours:.2f} times slower than the bare list")


def make_config() -> str:
    from tests.labeling_case import XML

    return XML


def measure_large(
    folder: Path, server: LabelStudioServer, client: httpx.Client, num_tasks: int, *, seeded: bool
) -> None:
    """Print the first full run over a project, then the cost of a few tasks in it."""
    case, tables = open_case(folder), Tables(server)
    first = make_item(0, content=f"{0:0600}".encode())
    add_many(case, range(1 if seeded else num_tasks))
    whole = {"annotate": run(folder, "annotate", "first push"), "collect": 0.0}
    if seeded:
        add_many(case, range(1, num_tasks), stored=False)
        case.labels.request_unlabeled(NAME, now=NOW)
        waiting = case.labels.in_state(NAME, "label", "pending")
        tables.copy_tasks(case.ls_project(), waiting)
    first_answer(case, client, first.item_id)
    tables.answer_all(case.ls_project())
    if seeded:
        record_as_collected(case, tables, case.ls_project())
    else:
        whole["collect"] = run(folder, "collect", f"first collect of {num_tasks:,}")
    add_many(case, range(num_tasks, num_tasks + NEW_TASKS))
    few = {"annotate": run(folder, "annotate", f"push of {NEW_TASKS} into {num_tasks:,}")}
    run(folder, "annotate", "push of nothing")
    waiting = case.labels.in_state(NAME, "label", "pushed")
    for item_id in waiting[:NEW_ANSWERS]:
        first_answer(case, client, item_id)
    few["collect"] = run(folder, "collect", f"collect of {NEW_ANSWERS} among {num_tasks:,}")
    run(folder, "collect", "collect of nothing")
    if not seeded:
        for stage, seconds in few.items():
            print(f"{stage}: {100 * seconds / whole[stage]:.1f} % of the first full run")


def main() -> None:
    """Start a server, measure, and end it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000, help="items of the comparison of clients; 0 leaves it out")
    parser.add_argument("--tasks", type=int, default=20_000, help="tasks of the large project; 0 leaves it out")
    parser.add_argument("--seeded", action="store_true", help="write the large project as rows; no first full run")
    parser.add_argument("--child", choices=["annotate", "collect"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(chosen.folder, chosen.child)
        return
    print(f"{utc_now():%Y-%m-%d %H:%M}, {os.cpu_count()} cores, {platform.platform()}, load {os.getloadavg()[0]:.1f}")
    for count, measured in ((chosen.items, compare_clients), (chosen.tasks, None)):
        if not count:
            continue
        server = LabelStudioServer()
        server.start()
        try:
            with tempfile.TemporaryDirectory() as name, make_client(server) as client:
                folder = Path(name)
                (folder / "server.json").write_text(
                    json.dumps({"url": server.url, "token": server.token, "pid": server.pid})
                )
                if measured:
                    measured(folder, server, client, count)
                else:
                    measure_large(folder, server, client, count, seeded=chosen.seeded)
        finally:
            server.stop()


def make_client(server: LabelStudioServer) -> httpx.Client:
    """Return a plain client of the server's interface."""
    headers: dict[str, Any] = {"Authorization": f"Token {server.token}"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=3600, trust_env=False)


if __name__ == "__main__":
    main()
