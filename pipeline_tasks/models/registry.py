"""From a recipe's name to the recipe: a stock one, or the project's own `recipe.py`."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.abc
import importlib.util
import stat
import sys
from pathlib import Path
from types import ModuleType

from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.models.base import Recipe
from pipeline_tasks.models.stock import OWN_RECIPE, STOCK

MAX_SOURCE_BYTES = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class FoundRecipe:
    """A recipe, the digest of its code, and the code itself when it is the project's own."""

    recipe: Recipe
    code_digest: str
    own_source: str | None = None


def recipe_for(modality: str, name: str, *, folder: Path) -> FoundRecipe:
    """Return the recipe that a project of this modality names.

    Raises:
        ConfigError: as `find_recipe`, or the recipe is for another modality.
    """
    found = find_recipe(name, folder=folder)
    if found.recipe.modality != modality:
        raise ConfigError(
            f"recipe.name must be a recipe for {modality} (got {name}, which is for {found.recipe.modality}). "
            "Change recipe.name or modality in project.yaml."
        )
    return found


def find_recipe(name: str, *, folder: Path | None = None) -> FoundRecipe:
    """Return the recipe of this name; `recipe.py` is read from the project's folder.

    Raises:
        ConfigError: there is no such recipe, or the project's own cannot be used.
    """
    if name == OWN_RECIPE:
        return recipe_from_source(_read_own(folder))
    digest = code_digest_of(name)
    module = importlib.import_module(f"pipeline_tasks.models.{name}.recipe")
    return FoundRecipe(recipe=module.RECIPE, code_digest=digest)


def code_digest_of(name: str, *, folder: Path | None = None) -> str:
    """Return the digest of a recipe's code without running any of it.

    Raises:
        ConfigError: there is no such recipe.
    """
    if name == OWN_RECIPE:
        return sha256_hex(_read_own(folder).encode())
    if name not in STOCK:
        raise ConfigError(f"recipe.name must be one of {', '.join(STOCK)} or {OWN_RECIPE} (got {name!r}).")
    return _package_digest(Path(__file__).parent / name)


def recipe_from_source(source: str) -> FoundRecipe:
    """Return the recipe that this Python source defines as `RECIPE`; the same source is loaded once.

    Raises:
        ConfigError: it does not run, or defines no recipe.
    """
    digest = sha256_hex(source.encode())
    name = f"dethrone_own_recipe_{digest[:16]}"
    module = sys.modules.get(name) or _execute(source, name=name)
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise ConfigError(
            f"{OWN_RECIPE} must define RECIPE with the members of pipeline_tasks.models.base.Recipe "
            f"(got {type(recipe).__name__}). Copy pipeline_tasks/models/image_cnn/recipe.py as a start."
        )
    return FoundRecipe(recipe=recipe, code_digest=digest, own_source=source)


class _SourceLoader(importlib.abc.SourceLoader):
    """Loads a module from text, so that what is run is what was hashed."""

    def __init__(self, source: str, *, filename: str) -> None:
        self._source = source
        self._filename = filename

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002  (the interface's)
        return self._filename

    def get_data(self, path: str) -> bytes:  # noqa: ARG002  (the interface's)
        return self._source.encode()


def _execute(source: str, *, name: str) -> ModuleType:
    loader = _SourceLoader(source, filename=f"<{OWN_RECIPE} {name[-16:]}>")
    spec = importlib.util.spec_from_loader(name, loader)
    if spec is None:
        raise ConfigError(f"{OWN_RECIPE} must be loadable as a module (got no module specification).")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pydantic look their module up by name while it is being executed.
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(
            f"{OWN_RECIPE} must run without an error (got {type(error).__name__}: {str(error)[:200]}). "
            "Try `python recipe.py` in the project's folder."
        ) from error
    return module


def _read_own(folder: Path | None) -> str:
    if folder is None:
        raise ConfigError(f"{OWN_RECIPE} must lie in a project's folder (got no folder).")
    path = folder / OWN_RECIPE
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        raise ConfigError(f"recipe.name is {OWN_RECIPE}, so {path} must exist (got nothing there).") from None
    if not stat.S_ISREG(mode) or path.stat().st_size > MAX_SOURCE_BYTES:
        raise ConfigError(f"{path} must be a regular file of at most {MAX_SOURCE_BYTES} bytes (got a link or more).")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} must be UTF-8 text (got other bytes).") from None


def _package_digest(folder: Path) -> str:
    sources = [*sorted(folder.glob("*.py")), folder.parent / "base.py"]
    return sha256_hex(b"".join(f"{path.name}\0".encode() + path.read_bytes() + b"\0" for path in sources))
