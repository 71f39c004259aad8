"""The list of test files that `.ci/run` had to run a second time, with their causes (tests/retried.toml).

`python -m tests.retried FILE...` prints each of these files that is not in the list as a defect.
"""

import datetime as dt
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tests" / "retried.toml"
MIN_CAUSE = 20  # characters: "flaky" is no cause


def entries() -> dict[str, Any]:
    """Return the list as it stands."""
    return tomllib.loads(LIST.read_text())


def faults(listed: Mapping[str, Any], *, root: Path = ROOT) -> Iterator[str]:
    """Yield what is wrong with entries: no such file, no day, no cause."""
    for name, entry in listed.items():
        if not (root / name).is_file():
            yield f"{name} must be a file of the tests (got no such file). Remove its entry."
        if not isinstance(entry.get("seen"), dt.date):
            yield f"{name}: seen must be the day of the first retry (got {entry.get('seen')!r})."
        if len(str(entry.get("cause", "")).strip()) < MIN_CAUSE:
            yield f"{name}: cause must say why the first try fails (got {entry.get('cause', '')!r})."


def unlisted(files: Iterable[str], listed: Mapping[str, Any]) -> list[str]:
    """Return a line for each retried file without an entry."""
    return [
        f"DEFECT: {name} passed at its second try only. Mend its cause, or write it into tests/retried.toml."
        for name in sorted(set(files) - set(listed))
    ]


if __name__ == "__main__":
    print("\n".join(unlisted(sys.argv[1:], entries())))
