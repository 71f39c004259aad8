"""Items to look at: where the two models differ, or where a first model is wrong. Pictures are drawn anew."""

from __future__ import annotations

import base64
import dataclasses
import io
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from pipeline_tasks.contracts import Location
from pipeline_tasks.core.html_page import short
from pipeline_tasks.evaluation.verdict import probability_matrix

logger = logging.getLogger(__name__)

MAX_EXAMPLES = 12
THUMBNAIL_PIXELS = 192
MAX_PIXELS = 25_000_000
MAX_TEXT = 420


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One exam item with both answers; confidences are 0 to 1."""

    item_id: str
    label: str
    media_type: str
    location: Location
    contender: str
    contender_confidence: float
    champion: str | None
    champion_confidence: float | None

    @property
    def kind(self) -> str:
        """Return `won`, `lost`, `wrong` (no champion to compare with) or `same`."""
        right = self.contender == self.label
        if self.champion is None:
            return "same" if right else "wrong"
        champion_right = self.champion == self.label
        return "same" if right == champion_right else ("won" if right else "lost")


def read_examples(evidence: bytes, *, exam_ids: Sequence[str]) -> list[Example]:
    """Return the items of exams that are worth a look: those on which a model is wrong and has a usable answer."""
    table = pq.read_table(io.BytesIO(evidence))
    keep = pc.and_(pc.is_in(table["exam_id"], pa.array(exam_ids, pa.string())), pc.is_valid(table["contender_answer"]))
    wrong = pc.not_equal(table["contender_answer"], table["label"])
    has_champion = "champion_answer" in table.column_names
    if has_champion:
        wrong = pc.or_kleene(wrong, pc.not_equal(table["champion_answer"], table["label"]))
    rows = table.filter(pc.and_(keep, wrong))
    values = {name: rows[name].to_pylist() for name in rows.column_names if not name.endswith("_probabilities")}
    values["contender_confidence"] = _confidence(rows, "contender_probabilities")
    if has_champion:
        values["champion_confidence"] = _confidence(rows, "champion_probabilities")
    return [_example(dict(zip(values, row, strict=True))) for row in zip(*values.values(), strict=True)]


def _confidence(rows: pa.Table, name: str) -> list[float]:
    return [] if rows.num_rows == 0 else [float(value) for value in probability_matrix(rows, name).max(axis=1)]


def _example(row: dict[str, Any]) -> Example:
    return Example(
        item_id=row["item_id"],
        label=row["label"],
        media_type=row["media_type"],
        location=Location(row["object_key"], row["offset"], row["size_bytes"]),
        contender=row["contender_answer"],
        contender_confidence=row["contender_confidence"],
        champion=row.get("champion_answer"),
        champion_confidence=row.get("champion_confidence"),
    )


def choose(examples: Sequence[Example], kind: str) -> list[Example]:
    """Return the examples of a kind that say most: class after class, each class's surest answers first."""
    surest = sorted(
        (candidate for candidate in examples if candidate.kind == kind),
        key=lambda candidate: (-candidate.contender_confidence, candidate.item_id),
    )
    seen: Counter[str] = Counter()
    rounds = []
    for example in surest:
        rounds.append((seen[example.label], example))
        seen[example.label] += 1
    return [chosen for _, chosen in sorted(rounds, key=lambda pair: pair[0])[:MAX_EXAMPLES]]


@dataclasses.dataclass(frozen=True, slots=True)
class Preview:
    """Preview of an item: a PNG in base64, a text, or else what the bytes are."""

    image: str = ""
    text: str | None = None
    note: str = ""
    is_image: bool = False


def preview(data: bytes, *, media_type: str) -> Preview:
    """Return a thumbnail, drawn anew so that nothing but pixels passes, or the beginning of the text."""
    if media_type.startswith("image/"):
        return _thumbnail(data)
    if media_type.startswith("text/") or media_type.endswith(("json", "+json")):
        return Preview(text=short(data.decode("utf-8", errors="replace").strip(), MAX_TEXT))
    return Preview(note=f"{len(data):,} bytes of {media_type}")


def _thumbnail(data: bytes) -> Preview:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")) as image:
            if image.width * image.height > MAX_PIXELS:
                return Preview(note="too large to show", is_image=True)
            image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
            small = image.convert("RGB")
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        logger.warning("no thumbnail: %s", type(error).__name__)
        return Preview(note="cannot be shown", is_image=True)
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return Preview(image=base64.b64encode(buffer.getvalue()).decode(), is_image=True)
