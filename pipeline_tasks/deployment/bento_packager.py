"""Bentos of releases: built, exported and restored in the stack's BentoML home."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class BentoPackager:
    """Builds bentos in the stack's BentoML home, out of our own process, pinned by the lock file if there is one."""

    def __init__(self, bentoml_home: Path, *, lock_path: Path | None) -> None:
        self._home = bentoml_home
        self._lock_path = lock_path

    def build(self, model_dir: Path, *, tag: str, labels: Mapping[str, str]) -> str:
        """Build, or adopt the bento that has this tag already; return the digest of its contents."""
        from pipeline_tasks.deployment.bento_builder import build_bento

        return build_bento(model_dir, tag=tag, labels=labels, bentoml_home=self._home, lock_path=self._lock_path)

    def export(self, tag: str, path: Path) -> None:
        """Write the bento, models included, into one file."""
        from pipeline_tasks.deployment.bento_builder import export_bento

        export_bento(tag, path, bentoml_home=self._home)

    def restore(self, path: Path) -> None:
        """Bring an exported bento back into the store; what is there already stays."""
        from pipeline_tasks.deployment.bento_builder import import_bento

        import_bento(path, bentoml_home=self._home)

    def digest(self, tag: str) -> str | None:
        """Return the digest of the contents that the store has under a tag now; None if they are not all there."""
        from pipeline_tasks.deployment.bento_builder import stored_digest

        return stored_digest(tag, bentoml_home=self._home)
