"""The champion's answers outside of serving: suggestions for labelers, and batches."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline_tasks.assembly import Parts
from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.contracts import Attempt, Item, content_id
from pipeline_tasks.errors import InputError, PermanentError
from pipeline_tasks.evaluation.scoring import load_stored
from pipeline_tasks.ingest.reading import read_items
from pipeline_tasks.wiring.judging import champion_of

BATCH_SIZE = 256
CHUNK_ITEMS = 50_000


def champion_suggestions(parts: Parts, project: str, items: Sequence[Item]) -> dict[str, dict[str, Any]]:
    """Return item id -> {label, score, model_version} by the champion; empty before the first one.

    What it cannot read is left out.
    """
    champion = champion_of(parts, project)
    if champion is None or not items:
        return {}
    return {
        item.item_id: {"label": label, "score": score, "model_version": champion.version}
        for item, (label, score), _probabilities in _answers(parts, champion, items)
    }


def offline_answer(parts: Parts, project: str, data: bytes) -> tuple[str, float]:
    """Return the champion's label and confidence for one item's bytes, computed here and not by the server.

    Raises:
        PermanentError: NO_CHAMPION.
    """
    champion = champion_of(parts, project)
    if champion is None:
        raise PermanentError(f"{project} must have a champion to predict with (got none).", code="NO_CHAMPION")
    model = load_stored(parts.store)(champion)
    (row,) = model.predict([model.decode(data)])
    return model.classes[int(row.argmax())], float(row.max())


def _answers(
    parts: Parts, champion: Any, items: Iterable[Item]
) -> Iterator[tuple[Item, tuple[str, float], list[float]]]:
    model = load_stored(parts.store)(champion)
    pairs = read_items(parts.store, items)
    while batch := list(islice(pairs, BATCH_SIZE)):
        readable, inputs = [], []
        for item, data in batch:
            try:
                inputs.append(model.decode(data))
                readable.append(item)
            except InputError:
                continue
        for item, row in zip(readable, model.predict(inputs), strict=True):
            best = int(row.argmax())
            yield item, (model.classes[best], float(row[best])), [float(value) for value in row]


def predict_batch(parts: Parts, project: str, *, attempt: Attempt, batch_id: str | None) -> dict[str, Any]:  # noqa: ARG001
    """Write the champion's answers to a batch (or to every item) as one Parquet object, named by what went in.

    Holds `CHUNK_ITEMS` items and their answers at a time.

    Raises:
        PermanentError: NO_CHAMPION, nothing was promoted yet.
    """
    champion = champion_of(parts, project)
    if champion is None:
        raise PermanentError(f"{project} must have a champion to predict with (got none).", code="NO_CHAMPION")
    repository = ItemRepository(parts.database)
    ids = [item.item_id for item in repository.iterate(project, batch_id=batch_id)]
    if not ids:
        return {"idle": f"no item of {project} in {batch_id or 'any batch'}"}
    key = f"batch_predictions/{project}/{content_id([champion.version, ids])}.parquet"
    if not parts.store.exists(key):
        parts.settings.scratch_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parts.settings.scratch_dir) as scratch:
            path = Path(scratch) / "answers.parquet"
            items = repository.iterate(project, batch_id=batch_id)
            _write_answers(parts, champion, _only(items, ids), path=path)
            parts.store.put_file(key, path, content_type="application/vnd.apache.parquet")
    return {"object_key": key, "num_items": len(ids), "model_version": champion.version}


def _only(items: Iterable[Item], ids: Sequence[str]) -> Iterator[Item]:
    """Yield the items of these ids, both in the order of the ids: others may have arrived meanwhile."""
    wanted = iter(ids)
    following = next(wanted, None)
    for item in items:
        if item.item_id == following:
            yield item
            following = next(wanted, None)


def _write_answers(parts: Parts, champion: Any, items: Iterator[Item], *, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [(name, pa.string()) for name in ("item_id", "key", "label")]
    schema = pa.schema([*texts, ("confidence", pa.float64()), ("probabilities", pa.list_(pa.float64()))])
    with pq.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(items, CHUNK_ITEMS)):
            rows = [
                {"item_id": item.item_id, "key": item.key, "label": label, "confidence": sure, "probabilities": row}
                for item, (label, sure), row in _answers(parts, champion, chunk)
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
