"""The data of a labeling task and its suggestion; pure."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

from pipeline_tasks.contracts import Item
from pipeline_tasks.errors import InputError
from pipeline_tasks.project.labeling_config import LabelingConfig
from pipeline_tasks.project.schema import Modality

INLINE_BYTES = 64 * 1024  # what ingest packs: an object of its own is shown by its address


def is_inline(item: Item, *, modality: Modality, object_url: str | None) -> bool:
    """Tell whether the task carries the item's bytes itself, rather than the address of its object."""
    return modality != "image" or object_url is None or item.location.size_bytes <= INLINE_BYTES


def render_inline(item: Item, content: bytes, *, modality: Modality) -> dict[str, Any]:
    """Return the task's data for the bytes of an item.

    Raises:
        InputError: the bytes are not what the modality holds.
    """
    if modality == "image":
        return {"image": f"data:{item.media_type};base64,{base64.b64encode(content).decode()}"}
    try:
        text = content.decode()
        return {"text": shown(text)} if modality == "text" else {"row": shown(_row(text))}
    except ValueError as error:
        raise InputError(
            f"item {item.item_id} must hold {'UTF-8 text' if modality == 'text' else 'one JSON object'} "
            f"(got {type(error).__name__} in {item.media_type}). Ingest its source again.",
            code="ITEM_UNREADABLE",
        ) from None


def render_address(object_url: str) -> dict[str, Any]:
    """Return the task's data for an image that Label Studio reads from the object store itself."""
    return {"image": object_url}


def answer(config: LabelingConfig, label: str) -> list[dict[str, Any]]:
    """Return one class as a Label Studio result of this labeling configuration."""
    return [
        {
            "from_name": config.choices_name,
            "to_name": config.object_name,
            "type": "choices",
            "value": {"choices": [label]},
        }
    ]


def suggestion(config: LabelingConfig, prediction: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a prediction {"label", "score"} as Label Studio shows it; None where there is nothing to suggest.

    A champion may know a class that the project no longer has, or give a score that is no share.
    """
    if not is_suggestion(config, prediction):
        return None
    return {"score": float(prediction["score"]), "result": answer(config, _named_now(config, prediction["label"]))}


def is_suggestion(config: LabelingConfig, prediction: Mapping[str, Any]) -> bool:
    """Tell whether a prediction names a class of the project with a score from 0 to 1."""
    score = float(prediction["score"])
    return _named_now(config, prediction["label"]) in config.choices and math.isfinite(score) and 0.0 <= score <= 1.0


def _named_now(config: LabelingConfig, label: str) -> Any:
    return config.former.get(label, label)


def shown(value: Any) -> Any:
    """Return data with what Label Studio's database and JSON cannot carry made visible: NUL, half characters, NaN."""
    if isinstance(value, str):
        return value.replace("\0", "\u2400").encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {shown(key): shown(part) for key, part in value.items()}
    return [shown(part) for part in value] if isinstance(value, list) else value


def _row(text: str) -> dict[str, Any]:
    row = json.loads(text)
    if not isinstance(row, dict):
        raise ValueError(f"a row must be a JSON object (got {type(row).__name__})")  # noqa: TRY004 - caught above
    return row
