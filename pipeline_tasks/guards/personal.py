"""Personal data that a project names: fields that are dropped and texts that are replaced, before anything is kept.

Done where data comes in, at ingest and at the gateway, so that nothing behind it has them: no model, log or report.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from pipeline_tasks.errors import InputError

REMOVED = "[removed]"
CODE = "PERSONAL_DATA"


@dataclasses.dataclass(frozen=True, slots=True)
class DenyList:
    """The names of fields, and patterns of texts, that must not be kept. An empty one is false."""

    columns: frozenset[str] = frozenset()
    patterns: tuple[re.Pattern[str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.columns or self.patterns)

    def hide(self, text: str) -> str:
        """Return the text with each match of a pattern replaced."""
        for pattern in self.patterns:
            text = pattern.sub(REMOVED, text)
        return text

    def is_in(self, text: str) -> bool:
        """Tell whether a text has a match of a pattern."""
        return any(pattern.search(text) for pattern in self.patterns)

    def require_none(self, text: str, *, name: str) -> str:
        """Return a text that is a name or key, and so cannot be changed.

        Raises:
            InputError: PERSONAL_DATA, a pattern matches.
        """
        if self.is_in(text):
            raise InputError(
                f"{name} must hold none of the personal data that privacy.deny of the project names (got some). "
                "Put a pseudonym in its place.",
                code=CODE,
            )
        return text

    def clean(self, value: Any) -> Any:
        """Return a JSON value without denied fields and texts, at any depth; a whole number that matches is null."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, Mapping):
            return {self.hide(str(name)): self.clean(one) for name, one in value.items() if name not in self.columns}
        if isinstance(value, list | tuple):
            return [self.clean(one) for one in value]
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return None if is_whole and self.is_in(str(value)) else value

    def clean_texts(self, value: Any) -> Any:
        """Return a JSON value with denied texts replaced, at any depth, and everything else as it is."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, Mapping):
            return {name: self.clean_texts(one) for name, one in value.items()}
        return [self.clean_texts(one) for one in value] if isinstance(value, list | tuple) else value

    def clean_row(self, row: Mapping[str, Any], *, keys: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Return a row without denied fields and texts; the values of `keys` stay, for `require_none` to look at."""
        kept = {name: value for name, value in row.items() if name not in self.columns}
        return {name: value if name in keys else self.clean(value) for name, value in kept.items()}

    def shown(self, data: bytes, *, media_type: str) -> bytes:
        """Return an item's bytes as they may be shown: those of items from before the list are not clean."""
        if not self or media_type.startswith("image/"):
            return data
        text = data.decode("utf-8", "replace")
        if media_type.endswith("json"):
            try:
                return json.dumps(self.clean(json.loads(text)), ensure_ascii=False).encode("utf-8", "replace")
            except (ValueError, RecursionError):
                pass
        return self.hide(text).encode()


def deny_list(document: Mapping[str, Any]) -> DenyList:
    """Return the list of its JSON form, as a route has it."""
    return _deny_list(tuple(document.get("columns", ())), tuple(document.get("patterns", ())))


@functools.lru_cache(maxsize=256)
def _deny_list(columns: tuple[str, ...], patterns: tuple[str, ...]) -> DenyList:
    return DenyList(frozenset(columns), tuple(re.compile(pattern) for pattern in patterns))
