"""Known holes of installed packages, from the stored list requirements/advisories.json: matching, age, exceptions.

Pure but for reading the two files. The list has ranges as OSV writes them: from `introduced` on, up to `fixed` or
through `last_affected`. Source: https://ossf.github.io/osv-schema/
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from pipeline_tasks.errors import ConfigError

LIST_NAME = "advisories.json"
ACCEPTED_NAME = "accepted-advisories.json"
MAX_AGE_DAYS = 30
# Versions with holes that everybody knows: a list that does not flag each of them is worth nothing.
PLANTED: Mapping[str, str] = {
    "apache-airflow": "3.1.3",
    "bentoml": "1.4.2",
    "label-studio": "1.15.0",
    "pillow": "12.1.0",
    "torch": "2.5.0",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Advisory:
    """A known hole of a package: the ranges of versions that have it."""

    package: str
    id: str
    ranges: Sequence[Mapping[str, str]]

    def affects(self, version: str) -> bool:
        """Return whether a version has the hole; one that is no version of the index counts as affected."""
        try:
            release = Version(Version(version).public)  # the build behind `+` changes nothing
        except InvalidVersion:
            return True
        return any(_within(release, affected) for affected in self.ranges)


@dataclasses.dataclass(frozen=True, slots=True)
class Advisories:
    """A stored list; `date` is that of its newest entry's last change, or of the look-up where people picked it.

    Such a list is not `complete`: it finds what it names and says nothing of the rest.
    """

    source: str
    license: str
    date: dt.date
    complete: bool
    entries: Sequence[Advisory]

    def age_days(self, today: dt.date) -> int:
        return (today - self.date).days


@dataclasses.dataclass(frozen=True, slots=True)
class Accepted:
    """A hole that is known, cannot be closed by another version yet, and is out of reach here; until a day."""

    package: str
    id: str
    version: str
    reason: str
    until: dt.date


@dataclasses.dataclass(frozen=True, slots=True)
class Hole:
    """An installed or locked version with a known hole."""

    package: str
    version: str
    id: str

    def __str__(self) -> str:
        return f"{self.package} {self.version} has {self.id}"


def read_list(path: Path) -> Advisories:
    """Return a stored list; ConfigError if the file is missing or something else."""
    document = _read(path)
    try:
        entries = [
            Advisory(
                str(canonicalize_name(advisory["package"])), str(advisory["id"]), tuple(map(_range, advisory["ranges"]))
            )
            for advisory in document["advisories"]
        ]
        facts = {name: str(document[name]) for name in ("source", "license")}
        date, complete = dt.date.fromisoformat(document["date"]), document["complete"] is True
        return Advisories(**facts, date=date, complete=complete, entries=entries)
    except (KeyError, TypeError, ValueError) as error:
        raise _bad(path, f"{type(error).__name__}: {error}") from None


def read_accepted(path: Path) -> list[Accepted]:
    """Return the accepted holes; ConfigError if the file is missing or something else."""
    try:
        return [
            Accepted(**accepted | {"until": dt.date.fromisoformat(accepted["until"])})
            for accepted in _read(path)["accepted"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise _bad(path, f"{type(error).__name__}: {error}") from None


def holes(versions: Iterable[tuple[str, str]], advisories: Advisories) -> list[Hole]:
    """Return the known holes of (package, version) pairs, by package and id."""
    by_package: dict[str, list[Advisory]] = {}
    for entry in advisories.entries:
        by_package.setdefault(entry.package, []).append(entry)
    known = {
        Hole(name, version, entry.id)
        for name, version in versions
        for entry in by_package.get(name, ())
        if entry.affects(version)
    }
    return sorted(known, key=lambda hole: (hole.package, hole.id, hole.version))


def unaccepted(present: Iterable[Hole], accepted: Iterable[Accepted], *, today: dt.date) -> list[Hole]:
    """Return the holes that nobody has accepted, or not for so long."""
    known = {Hole(entry.package, entry.version, entry.id) for entry in accepted if today <= entry.until}
    return [hole for hole in present if hole not in known]


def unflagged(advisories: Advisories) -> list[str]:
    """Return which of the versions with holes that everybody knows a list does not flag."""
    flagged = {hole.package for hole in holes(PLANTED.items(), advisories)}
    return [f"{name} {version}" for name, version in PLANTED.items() if name not in flagged]


def age_said(advisories: Advisories, *, today: dt.date) -> str:
    """Return what people have to know of a list."""
    kind = "" if advisories.complete else ", picked by hand and not complete"
    packages = len({entry.package for entry in advisories.entries})
    return (
        f"{len(advisories.entries)} advisories on {packages} packages of {advisories.date} "
        f"({advisories.age_days(today)} days old{kind})"
    )


def locked(locks: Iterable[Path]) -> set[tuple[str, str]]:
    """Return the packages and versions of locks."""
    lines = (line.partition(";")[0] for lock in locks for line in lock.read_text().splitlines())
    pairs = (line.removesuffix(" \\").split("==") for line in lines if "==" in line and line[0].isalnum())
    return {(str(canonicalize_name(name)), version.strip()) for name, version in pairs}


def installed(folders: Sequence[Path] | None = None) -> set[tuple[str, str]]:
    """Return the packages and versions of this environment, or of others by their site-packages, without builds."""
    path = sys.path if folders is None else list(map(str, folders))
    distributions = importlib.metadata.distributions(path=path)
    return {
        (str(canonicalize_name(distribution.name)), distribution.version.partition("+")[0])
        for distribution in distributions
        if distribution.name
    }


def reduced(records: Iterable[Mapping[str, Any]], *, packages: Iterable[str], source: str, license: str) -> Advisories:  # noqa: A002 - the document's word
    """Return the list of these packages from OSV records; the ids that several databases give one hole become one."""
    wanted = set(packages)
    entries: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    newest = ""
    for record in records:
        newest = max(newest, str(record["modified"])[:10])
        if record.get("withdrawn") is not None:
            continue
        for name, ranges in _affected(record):
            if name in wanted:
                known = entries.setdefault((name, _name_of(record)), [])
                known += [affected for affected in ranges if affected not in known]
    if not newest:
        raise ConfigError("the source must hold OSV records (got none). Give OSV's zip file, or a clone's folder.")
    advisories = [Advisory(name, key, tuple(ranges)) for (name, key), ranges in sorted(entries.items()) if ranges]
    return Advisories(
        source=source, license=license, date=dt.date.fromisoformat(newest), complete=True, entries=advisories
    )


def as_text(advisories: Advisories) -> str:
    """Return a list as its file holds it, one advisory a line."""
    facts = {"source": advisories.source, "license": advisories.license, "date": advisories.date.isoformat()}
    head = json.dumps({**facts, "complete": advisories.complete}, indent=2).removesuffix("\n}")
    lines = [json.dumps(dataclasses.asdict(entry)) for entry in advisories.entries]
    return f'{head},\n  "advisories": [\n    ' + ",\n    ".join(lines) + "\n  ]\n}\n"


def _within(version: Version, span: Mapping[str, str]) -> bool:
    if span["introduced"] != "0" and version < Version(span["introduced"]):
        return False
    if "fixed" in span:
        return version < Version(span["fixed"])
    return "last_affected" not in span or version <= Version(span["last_affected"])


def _range(span: Mapping[str, str]) -> Mapping[str, str]:
    """Return a range whose ends are versions; ValueError or KeyError for another."""
    if not set(span) <= {"introduced", "fixed", "last_affected"}:
        raise ValueError(f"a range must have introduced and fixed or last_affected (got {sorted(span)}).")
    for version in (span["introduced"], *span.values()):
        Version(version)
    return dict(span)


def _affected(record: Mapping[str, Any]) -> Iterator[tuple[str, list[Mapping[str, str]]]]:
    for affected in record.get("affected", ()):
        package = affected.get("package", {})
        if package.get("ecosystem") == "PyPI":
            spans = [
                span for part in affected.get("ranges", ()) if part["type"] == "ECOSYSTEM" for span in _spans(part)
            ]
            named = [{"introduced": version, "last_affected": version} for version in affected.get("versions", ())]
            yield str(canonicalize_name(package["name"])), [span for span in spans or named if _is_range(span)]


def _spans(part: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Yield the ranges of a list of events, which comes in order."""
    span: dict[str, str] = {}
    for event in part["events"]:
        for name, version in event.items():
            if name == "introduced":
                if span:
                    yield span
                span = {"introduced": str(version)}
            elif span and name in {"fixed", "last_affected"}:
                yield span | {name: str(version)}
                span = {}
    if span:
        yield span


def _is_range(span: Mapping[str, str]) -> bool:
    try:
        _range(span)
    except InvalidVersion:  # such as 2.6.0-NA: no version of the index, so no range to compare with
        return False
    return True


def _name_of(record: Mapping[str, Any]) -> str:
    names = [str(record["id"]), *map(str, record.get("aliases", ()))]
    return min((name for name in names if name.startswith("CVE-")), default=names[0])


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _bad(path, type(error).__name__) from None


def _bad(path: Path, got: str) -> ConfigError:
    return ConfigError(f"{path} must be a list of advisories (got {got}). Make it anew: make advisories.")
