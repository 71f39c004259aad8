"""The champion's answers outside of serving: suggestions for labelers, and batches."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.contracts import Attempt, Item, ModelRef, content_id
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.errors import InputError, PermanentError, printable
from pipeline_tasks.evaluation.scoring import OUTPUT_CODES, ScoringModel, load_stored
from pipeline_tasks.ingest.item_reader import read_items
from pipeline_tasks.orchestration.evaluate import champion_of
from pipeline_tasks.orchestration.resources import Resources

BATCH_SIZE = 256
CHUNK_ITEMS = 50_000


def champion_suggestions(parts: Resources, project: str, items: Sequence[Item]) -> dict[str, dict[str, Any]]:
    """Return item id -> {label, score, model_version} by the champion; empty before the first one.

    What it cannot read is left out.
    """
    champion = champion_of(parts, project)
    if champion is None or not items:
        return {}
    return {
        answer.item.item_id: {"label": answer.label, "score": answer.confidence, "model_version": champion.version}
        for answer in _answers(parts, champion, items)
        if answer.problem is None
    }


def offline_answer(parts: Resources, project: str, data: bytes) -> tuple[str, float]:
    """Return the champion's label and confidence for one item's bytes, computed here and not by the server.

    Raises:
        PermanentError: NO_CHAMPION.
    """
    model = load_stored(parts.store)(_champion(parts, project))
    (row,) = model.predict([model.decode(data)])
    return model.classes[int(row.argmax())], float(row.max())


def _champion(parts: Resources, project: str) -> ModelRef:
    champion = champion_of(parts, project)
    if champion is None:
        raise PermanentError(f"{project} must have a champion to predict with (got none).", code="NO_CHAMPION")
    return champion


@dataclasses.dataclass(frozen=True, slots=True)
class _Answer:
    """The champion's answer to one item, or the problem that it has with it."""

    item: Item
    label: str | None = None
    confidence: float | None = None
    probabilities: list[float] | None = None
    problem: str | None = None


def _answers(parts: Resources, champion: Any, items: Iterable[Item]) -> Iterator[_Answer]:
    model = load_stored(parts.store)(champion)
    pairs = read_items(parts.store, items)
    while batch := list(islice(pairs, BATCH_SIZE)):
        inputs: list[Any] = []
        problems: dict[str, str] = {}
        for item, data in batch:
            try:
                inputs.append(model.decode(data))
            except InputError as error:
                problems[item.item_id] = printable(f"{error.code}: {error}")
        rows = iter(_rows(model, inputs))
        for item, _ in batch:
            row = problems.get(item.item_id) or next(rows)
            yield _Answer(item, problem=row) if isinstance(row, str) else _answer(item, row, classes=model.classes)


def _rows(model: ScoringModel, inputs: list[Any]) -> list[Any]:
    """Return each input's probabilities, or the problem that the model has with it."""
    if not inputs:
        return []
    try:
        return list(model.predict(inputs))
    except PermanentError as error:
        if error.code not in OUTPUT_CODES:
            raise
        if len(inputs) == 1:
            return [printable(f"{error.code}: {error}")]
        return [row for decoded in inputs for row in _rows(model, [decoded])]


def _answer(item: Item, row: Any, *, classes: Sequence[str]) -> _Answer:
    best = int(row.argmax())
    return _Answer(item, classes[best], float(row[best]), [float(value) for value in row])


def predict_batch(parts: Resources, project: str, *, attempt: Attempt, batch_id: str | None) -> dict[str, Any]:  # noqa: ARG001
    """Write the champion's answers to a batch (or to every item) as one Parquet object, named by what went in.

    An item that the model cannot answer has no label there, and the `problem`. Holds `CHUNK_ITEMS` items and their
    answers at a time.

    Raises:
        PermanentError: NO_CHAMPION, nothing was promoted yet.
    """
    champion = _champion(parts, project)
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
            hide = parts.project(project).config.deny_list.hide
            _write_answers(parts, champion, _only(items, ids), path=path, hide=hide)
            crash_point("batch.put.before")
            parts.store.put_file(key, path, content_type="application/vnd.apache.parquet")
            crash_point("batch.put.after")
    return {"object_key": key, "num_items": len(ids), "model_version": champion.version}


def _only(items: Iterable[Item], ids: Sequence[str]) -> Iterator[Item]:
    """Yield the items of these ids, both in the order of the ids: others may have arrived meanwhile."""
    wanted = iter(ids)
    following = next(wanted, None)
    for item in items:
        if item.item_id == following:
            yield item
            following = next(wanted, None)


def _write_answers(
    parts: Resources, champion: Any, items: Iterator[Item], *, path: Path, hide: Callable[[str], str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [(name, pa.string()) for name in ("item_id", "key", "label")]
    numbers = [("confidence", pa.float64()), ("probabilities", pa.list_(pa.float64()))]
    schema = pa.schema([*texts, *numbers, ("problem", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(items, CHUNK_ITEMS)):
            rows = [
                {"item_id": answer.item.item_id, "key": hide(answer.item.key)}
                | {name: getattr(answer, name) for name in ("label", "confidence", "probabilities")}
                | {"problem": None if answer.problem is None else hide(answer.problem)}
                for answer in _answers(parts, champion, chunk)
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
