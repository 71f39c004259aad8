"""Paths that follow from another one."""

from __future__ import annotations

from pathlib import Path


class Below:
    """An attribute that is a path below another attribute of the same object: `logs_dir = Below("home", "logs")`."""

    def __init__(self, parent: str, *parts: str) -> None:
        self._parent = parent
        self._parts = parts

    def __get__(self, instance: object, owner: type) -> Path:
        return Path(getattr(instance, self._parent), *self._parts)
