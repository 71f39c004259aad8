"""Ingest against a plain boto3 loop and SeaweedFS's own bulk copy, all on one real SeaweedFS in one run.

    python benchmarks/ingest.py            100,000 small images and 1,000,000 table rows (about 15 minutes on 2 cores)
    python benchmarks/ingest.py --quick    a hundredth of that

Every figure comes from this run; what is measured on a sample says so. Each ingest runs in its own process, so that
peak memory (VmHWM) is its own. Targets: 5 times the plain loop, a re-run with nothing new under 2 % of the first run,
peak memory that does not grow with the number of items.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import io
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests import services  # noqa: E402  (starts and stops the server)

FILES_PER_FOLDER = 1000
LOOP_SAMPLE = 2000
COPY_SAMPLE = 10_000
SETTLE_SECONDS = 61


def write_images(folder: Path, count: int) -> int:
    """Write `count` different 28x28 PNG files and return their bytes."""
    random = np.random.default_rng(1)
    total = 0
    for number in range(count):
        target = folder / f"{number // FILES_PER_FOLDER:04d}"
        if number % FILES_PER_FOLDER == 0:
            target.mkdir(parents=True)
        pixels = random.integers(0, 256, (28, 28), dtype=np.uint8) & 0xF0
        pixels[0, :4] = list(number.to_bytes(4, "big"))
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        total += (target / f"{number:06d}.png").write_bytes(buffer.getvalue())
    return total


def write_rows(folder: Path, count: int) -> int:
    """Write `count` rows as CSV and return their bytes."""
    folder.mkdir(parents=True)
    path = folder / "rows.csv"
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("id", "amount", "country", "label"))
        writer.writerows(
            (f"r{n}", f"{n * 7 % 9973 / 10}", ("DE", "FR", "US")[n % 3] + str(n), "") for n in range(count)
        )
    return path.stat().st_size


def write_project(folder: Path, *, kind: str) -> None:
    """Write a project of the kind that this benchmark reads: files or rows."""
    from pipeline_tasks.project.scaffold import init_project

    template = "image-classification" if kind == "files" else "tabular"
    init_project(folder.parent, name=folder.name, template=template)
    (folder / "incoming").rmdir()


def child(arguments: argparse.Namespace) -> None:
    """Run one ingest in this process and print what it took as JSON."""
    from pipeline_tasks.adapters.s3 import S3ObjectStore
    from pipeline_tasks.catalog import migrate
    from pipeline_tasks.catalog.database import Database, create_engine
    from pipeline_tasks.catalog.items import ItemRepository
    from pipeline_tasks.contracts import Attempt
    from pipeline_tasks.ingest.task import run
    from pipeline_tasks.project.loader import load_project

    project = load_project(arguments.project)
    url = f"sqlite:///{arguments.catalog}"
    migrate.upgrade(url)
    engine = create_engine(url)
    store = S3ObjectStore(
        endpoint=arguments.endpoint,
        bucket=arguments.bucket,
        access_key=services.S3_ACCESS_KEY,
        secret_key=services.S3_SECRET_KEY,
    )
    store.ensure_bucket()
    items = ItemRepository(Database(engine))
    started_cpu, started = time.process_time(), time.perf_counter()
    report = run(
        project,
        items=items,
        store=store,
        attempt=Attempt(arguments.batch, "ingest"),
        split_key="benchmark",
        environment={},
        batch_id=arguments.batch,
        now=dt.datetime.now(dt.UTC),
    )
    seconds = time.perf_counter() - started
    print(
        json.dumps(
            {
                "new": report.num_new,
                "seconds": seconds,
                "cpu": time.process_time() - started_cpu,
                "peak_mib": peak_mib(),
            }
        )
    )


def peak_mib() -> float:
    """Return the most memory that this process ever had (VmHWM), in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def ingest(project: Path, *, server: services.SeaweedServer, bucket: str, batch: str) -> dict[str, float]:
    """Run one ingest in a process of its own."""
    command = [sys.executable, __file__, "child", "--project", str(project), "--endpoint", server.endpoint]
    command += ["--bucket", bucket, "--batch", batch, "--catalog", str(project.parent / f"{project.name}.db")]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return json.loads(out.stdout.splitlines()[-1])


def plain_loop(payloads: list[tuple[str, bytes]], *, server: services.SeaweedServer, bucket: str) -> float:
    """Put each payload as one object with boto3, one after the other, as a first script does; returns items/s."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=services.S3_ACCESS_KEY,
        aws_secret_access_key=services.S3_SECRET_KEY,
    )
    client.create_bucket(Bucket=bucket)
    started = time.perf_counter()
    for key, data in payloads:
        client.put_object(Bucket=bucket, Key=key, Body=data)
    return len(payloads) / (time.perf_counter() - started)


def bulk_copy(folder: Path, *, server: services.SeaweedServer) -> float:
    """Copy files with `weed filer.copy`, which checks and records nothing; returns items/s."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    address = f"127.0.0.1:{server.ports[6]}"
    target = f"http://{address}.{server.ports[7]}/copied/"  # the second port is gRPC's
    started = time.perf_counter()
    command = [str(services.weed_path()), "-logtostderr=true", "filer.copy", "-c", "8", str(folder), target]
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    last = max(paths).relative_to(folder.parent)
    if not services.answers(f"http://{address}/copied/{last}"):
        raise RuntimeError(f"weed filer.copy must copy {last} (got no such file).")
    return len(paths) / seconds


def samples(folder: Path, *, kind: str) -> list[tuple[str, bytes]]:
    """Return the first payloads of a source, for the plain loop; reading them is not in its time."""
    if kind == "files":
        paths = sorted(path for path in folder.rglob("*.png"))[:LOOP_SAMPLE]
        return [(path.name, path.read_bytes()) for path in paths]
    with (folder / "rows.csv").open(newline="") as handle:
        rows = [row for _, row in zip(range(LOOP_SAMPLE), csv.DictReader(handle), strict=False)]
    return [
        (row["id"], json.dumps({"amount": float(row["amount"]), "country": row["country"]}).encode()) for row in rows
    ]


def measure(
    kind: str, *, count: int, scratch: Path, server: services.SeaweedServer, settle_seconds: int
) -> dict[str, Any]:
    """Measure one kind of source at a quarter and at the full size."""
    write = write_images if kind == "files" else write_rows
    figures: dict[str, Any] = {"kind": kind, "items": count}
    for part, size in (("quarter", count // 4), ("full", count)):
        project = scratch / f"{kind}_{part}"
        write_project(project, kind=kind)
        figures["bytes"] = write(project / "incoming", size)
        progress(
            f"{kind}: {size:,} written; waiting {settle_seconds} s: a source at rest has no file that is just written"
        )
        time.sleep(settle_seconds)
        figures[part] = ingest(project, server=server, bucket=f"ingest-{kind}-{part}", batch="first")
        progress(f"{kind}: {size:,} items in {figures[part]['seconds']:.1f} s")
    project = scratch / f"{kind}_full"
    figures["again"] = ingest(project, server=server, bucket=f"ingest-{kind}-full", batch="again")
    figures["loop"] = plain_loop(samples(project / "incoming", kind=kind), server=server, bucket=f"loop-{kind}")
    if kind == "files":
        folder = copy_sample(project / "incoming", scratch / "copy")
        figures["copy"] = bulk_copy(folder, server=server)
    return figures


def copy_sample(source: Path, target: Path) -> Path:
    """Copy some folders of the source, so that the bulk copy takes a fair but bounded time."""
    for folder in sorted(source.iterdir())[: COPY_SAMPLE // FILES_PER_FOLDER]:
        shutil.copytree(folder, target / folder.name)
    return target


def progress(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def table(all_figures: list[dict]) -> str:
    """Return the comparison as a Markdown table."""
    lines = ["| what | files | rows |", "| --- | --- | --- |"]

    def row(name: str, cell) -> None:
        lines.append(f"| {name} | " + " | ".join(cell(figures) for figures in all_figures) + " |")

    rate = {id(f): f["full"]["new"] / f["full"]["seconds"] for f in all_figures}
    row("items", lambda f: f"{f['full']['new']:,} ({f['bytes'] / 1e6:.0f} MB)")
    row("ingest, items/s", lambda f: f"{rate[id(f)]:,.0f}")
    row(f"plain boto3 put loop, items/s (first {LOOP_SAMPLE:,})", lambda f: f"{f['loop']:,.0f}")
    row("ingest / plain loop (target 5)", lambda f: f"{rate[id(f)] / f['loop']:.1f} x")
    row(
        f"`weed filer.copy -c 8`, items/s (first {COPY_SAMPLE:,})",
        lambda f: f"{f['copy']:,.0f}" if "copy" in f else "one file",
    )
    row("first run, s (CPU s)", lambda f: f"{f['full']['seconds']:.1f} ({f['full']['cpu']:.1f})")
    row("re-run with nothing new, s", lambda f: f"{f['again']['seconds']:.3f}")
    row("re-run / first run (target 2 %)", lambda f: f"{f['again']['seconds'] / f['full']['seconds']:.2%}")
    row("peak memory at 1/4 of the items, MiB", lambda f: f"{f['quarter']['peak_mib']:.0f}")
    row("peak memory at all items, MiB", lambda f: f"{f['full']['peak_mib']:.0f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=("child",), help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the items; too few for the targets")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON too")
    for hidden in ("endpoint", "bucket", "batch", "catalog"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    parser.add_argument("--project", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.command == "child":
        child(arguments)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the server and the files go when this goes
    share = 100 if arguments.quick else 1
    scratch = Path(tempfile.mkdtemp(prefix="bench_ingest_"))
    try:
        with services.running(services.SeaweedServer()) as server:
            sizes = {"files": 100_000 // share, "rows": 1_000_000 // share}
            settle = 1 if arguments.quick else SETTLE_SECONDS
            figures = [
                measure(kind, count=count, scratch=scratch, server=server, settle_seconds=settle)
                for kind, count in sizes.items()
            ]
    finally:
        shutil.rmtree(scratch)
    print(table(figures))
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
