"""Switches the protections off one by one, each in a copy of the tree, and runs the tests that have to fail then.

First all of these tests run with every protection on: they have to pass. `--sample N` takes N of them, spread over the
table and always the same; names take those.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.protections import forks
from tests.protections.protection import ROOT, Protection, faults
from tests.protections.table import PROTECTIONS

LINKED = (".venv", ".venv-label-studio")  # not copied: what is installed stays as it is
MTIME = 1_500_000_000  # of the first changed file; a second more for each, so that no cached bytecode is taken for it
SHOWN = 1500


def main() -> int:
    """Run the named, the sampled or all protections; return 0 if each is on and each is noticed when it is off."""
    asked = _parser().parse_args()
    chosen = choose(PROTECTIONS, names=asked.names, sample=asked.sample)
    began = time.monotonic()
    wrong = [f"{protection.name}: {text}" for protection in chosen for text in faults(protection)]
    if not wrong:
        forks.preload()
        with copies(asked.jobs) as trees:
            wrong = list(with_all_on(chosen, trees=trees)) or list(one_by_one(chosen, trees=trees))
    for text in wrong:
        print(text, file=sys.stderr)
    print(f"{len(chosen)} protections switched off one by one in {time.monotonic() - began:.0f} s: ", end="")
    print(f"{len(wrong)} findings" if wrong else "each is noticed")
    return 1 if wrong else 0


def choose(protections: Sequence[Protection], *, names: Collection[str], sample: int | None) -> list[Protection]:
    """Return the protections with these names, or so many quick ones spread over all, or all."""
    known = {protection.name: protection for protection in protections}
    unknown = sorted(set(names) - set(known))
    if unknown:
        sys.exit(f"names must be among {', '.join(known)} (got {', '.join(unknown)}).")
    if names:
        return [known[name] for name in names]
    if sample is None:
        return list(protections)
    quick = [protection for protection in protections if not protection.served]
    return quick[:: max(1, len(quick) // sample)][:sample]


def with_all_on(chosen: Sequence[Protection], *, trees: Sequence[Path]) -> Iterator[str]:
    """Tell which tests fail although nothing was switched off."""
    tests = sorted({test for protection in chosen for test in protection.tests})
    parts = [part for part in (tests[number :: len(trees)] for number in range(len(trees))) if part]
    name, seconds = "with every protection on", forks.TIMEOUT_SECONDS * len(tests)
    for done in forks.run([forks.Work(name, part, seconds=seconds) for part in parts], trees=trees):
        if done.code:
            yield f"{done.work.name} these tests must pass (got exit code {done.code}):\n{done.output}"


def one_by_one(chosen: Sequence[Protection], *, trees: Sequence[Path]) -> Iterator[str]:
    """Switch each off, and tell whose tests do not fail then."""
    promises = {protection.name: protection.promise for protection in chosen}
    for done in forks.run((_work(protection, number) for number, protection in enumerate(chosen)), trees=trees):
        missed = list(unnoticed(done.work.tests, code=done.code, output=done.output))
        print(f"{'FAILED' if missed else 'ok    '} {done.seconds:4.0f} s  {done.work.name}", flush=True)
        name = done.work.name
        yield from (f"{name}: {text} It promises: {promises[name]}.\n{done.output[-SHOWN:]}" for text in missed)


def unnoticed(tests: Sequence[str], *, code: int, output: str) -> Iterator[str]:
    """Tell which tests did not fail although the protection was off."""
    if code not in (0, 1):
        yield f"its tests must run when it is off (got exit code {code})."
        return
    lines = [line.removeprefix("FAILED ") for line in output.splitlines() if line.startswith("FAILED ")]
    failed = {re.split(r"[\[ ]", line, maxsplit=1)[0] for line in lines}
    for test in tests:
        if test.partition("[")[0] not in failed:
            yield f"{test} must fail when it is off (it did not)."


def _work(protection: Protection, number: int) -> forks.Work:
    return forks.Work(
        protection.name,
        protection.tests,
        before=functools.partial(_switch_off, protection, number),
        after=lambda tree: _restore(protection, tree),
    )


def _switch_off(protection: Protection, number: int, tree: Path) -> None:
    path = tree / protection.file
    path.write_text(protection.switched_off(path.read_text()))
    os.utime(path, (MTIME + number, MTIME + number))


def _restore(protection: Protection, tree: Path) -> None:
    shutil.copy2(ROOT / protection.file, tree / protection.file)


@contextmanager
def copies(count: int) -> Iterator[list[Path]]:
    """Make copies of the tree, as git sees it with what is not committed yet, and remove them again."""
    command = ["git", "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    with tempfile.TemporaryDirectory(prefix="dethrone-protections-") as folder:
        trees = [Path(folder) / str(number) for number in range(count)]
        for tree in trees:
            for name in names:
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
            for name in LINKED:
                if (ROOT / name).exists():
                    (tree / name).symlink_to((ROOT / name).resolve())
        yield trees


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.protections.run", description=__doc__)
    parser.add_argument("names", nargs="*", help="protections to switch off; none: all")
    parser.add_argument("--sample", type=int, help="so many, spread over the table")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (2)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
