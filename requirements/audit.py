"""The dependency audit: locked and installed versions against the stored list of known holes. Needs no network.

`audit.py` checks; `audit.py refresh SOURCE` writes the list anew from OSV's zip file of the PyPI ecosystem (a path or
an https address) or from the folder of a clone of pypa/advisory-database (or another with OSV records).
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import json
import os
import re
import sys
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline_tasks.errors import ConfigError
from pipeline_tasks.stack import advisories as known
from pipeline_tasks.stack.layout import StackLayout

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NPM = "clients/typescript"
OSV = "https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip"
LICENSE = "CC-BY-4.0 (PyPI Advisory Database and OSV's other sources for PyPI, https://osv.dev)"
SECONDS = 300
IMAGE = re.compile(r"\$\{(DETHRONE_IMAGE_[A-Z_]+):-([^}]+)\}")
BY_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")


def main(arguments: list[str] | None = None) -> int:
    """Check or refresh; return 0 where nothing is wrong, 1 where something is, 2 for a file that cannot be read."""
    asked = _parser().parse_args(arguments)
    try:
        return refresh(asked) if asked.command == "refresh" else check(asked, today=dt.datetime.now(dt.UTC).date())
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2


def check(asked: argparse.Namespace, *, today: dt.date) -> int:
    """Say the list's age and every hole; return 1 if one is open, or if the list is too old or flags too little."""
    stored = known.read_list(asked.list)
    accepted = known.read_accepted(asked.accepted)
    locks = sorted(asked.locks.glob("*.lock"))
    versions = (
        known.locked(locks)
        | known.installed()
        | known.installed(StackLayout(home=ROOT, root=ROOT).label_studio_packages)
    )
    holes = known.holes(versions, stored)
    opened = known.unaccepted(holes, accepted, today=today)
    named = {entry.package for entry in stored.entries}
    print(f"{known.age_said(stored, today=today)}, from {stored.source}")
    packages = {name for name, _ in versions}
    print(f"{len(packages)} packages in {len(locks)} locks and 2 environments; the list names {len(packages & named)}")
    print(
        f"not looked at: {npm_packages(ROOT / NPM)} npm packages that build {NPM}, which the list does not name: "
        f"npm audit --prefix {NPM}"
    )
    reasons = {known.Hole(acceptance.package, acceptance.version, acceptance.id): acceptance for acceptance in accepted}
    for hole in holes:
        if hole not in opened:
            print(f"accepted until {reasons[hole].until}: {hole}: {reasons[hole].reason}")
    wrong = [f"{hole}: take a newer version, or accept it in {asked.accepted.name} with a reason" for hole in opened]
    wrong += [f"the list does not flag {name}, which everybody knows" for name in known.unflagged(stored)]
    age = stored.age_days(today)
    if not 0 <= age <= asked.max_age_days:
        wrong.append(f"the list must be of the last {asked.max_age_days} days (got {age} days). See make advisories")
    tags = by_tag((ROOT / "docker-compose.yml").read_text(), environment=_compose_environment())
    print(f"{len(tags)} images by tag instead of digest{': ' if tags else ''}{', '.join(tags)}")
    if asked.require_digests:
        wrong += [f"{image} must be name@sha256:..." for image in tags]
    for text in wrong:
        print(f"audit: {text}", file=sys.stderr)
    print(f"{len(wrong)} findings")
    return 1 if wrong else 0


def refresh(asked: argparse.Namespace) -> int:
    """Write the list of the locked packages, and of those with holes that everybody knows, from OSV records."""
    packages = {name for name, _ in known.locked(asked.locks.glob("*.lock"))} | set(known.PLANTED)
    reduced = known.reduced(records(asked.source), packages=packages, source=asked.source, license=LICENSE)
    asked.list.write_text(known.as_text(reduced), encoding="utf-8")
    print(f"{asked.list}: {known.age_said(reduced, today=dt.datetime.now(dt.UTC).date())}")
    return 0


def by_tag(compose: str, *, environment: Mapping[str, str]) -> list[str]:
    """Return `VARIABLE=image` of the images of docker-compose.yml that these variables do not name by digest."""
    named = {variable: environment.get(variable) or default for variable, default in IMAGE.findall(compose)}
    return [f"{variable}={image}" for variable, image in named.items() if not BY_DIGEST.fullmatch(image)]


def npm_packages(folder: Path) -> int:
    """Return how many packages npm locks in a folder."""
    document = json.loads((folder / "package-lock.json").read_text())
    return sum(1 for name in document["packages"] if name)


def _compose_environment() -> dict[str, str]:
    """Return what compose reads variables from: the file .env beside it, and the environment above that."""
    file = ROOT / ".env"
    lines = file.read_text().splitlines() if file.is_file() else ()
    pairs = (line.partition("=")[::2] for line in lines if "=" in line and not line.lstrip().startswith("#"))
    return {name.strip(): value.strip().strip("'\"") for name, value in pairs} | dict(os.environ)


def records(source: str) -> Iterator[dict[str, Any]]:
    """Yield the OSV records of a zip file, an https address of one, or a folder."""
    if source.startswith("https://"):
        with urllib.request.urlopen(source, timeout=SECONDS) as answer:  # noqa: S310 - https alone
            yield from _of_zip(io.BytesIO(answer.read()))
    elif Path(source).is_dir():
        for path in sorted(Path(source).rglob("*")):
            if path.suffix in {".json", ".yaml"} and path.is_file() and ".git" not in path.parts:
                yield from _of_text(path.read_bytes())
    elif zipfile.is_zipfile(source):
        yield from _of_zip(source)
    else:
        raise ConfigError(f"the source must be a zip file, an https address or a folder (got {source}).")


def _of_zip(source: Any) -> Iterator[dict[str, Any]]:
    with zipfile.ZipFile(source) as packed:
        for name in packed.namelist():
            yield from _of_text(packed.read(name))


def _of_text(data: bytes) -> Iterator[dict[str, Any]]:
    try:
        record = json.loads(data) if data.lstrip().startswith(b"{") else yaml.load(data, Loader=yaml.CSafeLoader)
    except (ValueError, yaml.YAMLError):
        return
    if isinstance(record, dict) and {"id", "modified"} <= set(record):
        yield record | {"modified": str(record["modified"])}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="requirements/audit.py", description=__doc__)
    parser.add_argument("--list", type=Path, default=HERE / known.LIST_NAME, help="the stored list")
    parser.add_argument("--accepted", type=Path, default=HERE / known.ACCEPTED_NAME, help="holes that are accepted")
    parser.add_argument("--locks", type=Path, default=HERE, help="the folder of the locks")
    parser.add_argument(
        "--max-age-days", type=int, default=known.MAX_AGE_DAYS, help=f"older lists fail ({known.MAX_AGE_DAYS})"
    )
    parser.add_argument("--require-digests", action="store_true", help="images that are named by tag fail")
    commands = parser.add_subparsers(dest="command")
    again = commands.add_parser("refresh", help="write the list anew")
    again.add_argument("source", nargs="?", default=OSV, help=f"zip file, https address or folder ({OSV})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
