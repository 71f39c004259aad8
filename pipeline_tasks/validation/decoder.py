"""Decoding of an item by the project's recipe, as the stored model version will: known at ingest, not later."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pipeline_tasks.contracts import canonical_json, content_id
from pipeline_tasks.errors import ConfigError, InputError, printable
from pipeline_tasks.models.base import Recipe, Signature
from pipeline_tasks.models.decoding import decode_item
from pipeline_tasks.models.registry import recipe_for
from pipeline_tasks.project.schema import LoadedProject

WHAT_TO_DO = (
    "Correct it at its source, where it comes in as a new item, or change recipe.params or the recipe so that it "
    "decodes, and ingest again."
)


@dataclasses.dataclass(frozen=True, slots=True)
class Decoder:
    """A recipe with its preprocessing as in a model version; `decoding` names all that decoding depends on."""

    recipe: Recipe
    preprocessing: Mapping[str, Any]
    signature: Signature
    decoding: str

    def problem(self, data: bytes) -> str | None:
        """Return why the recipe cannot decode an item, with its code, or None."""
        try:
            decode_item(self.recipe, data, preprocessing=self.preprocessing, signature=self.signature)
        except InputError as error:
            return printable(f"{error.code}: {error}")
        return None


def decoder_of(project: LoadedProject) -> Decoder:
    """Return how the project's recipe decodes with the parameters of project.yaml.

    Raises:
        ConfigError: the recipe or its parameters are wrong.
    """
    config = project.config.recipe
    recipe = recipe_for(project.config.modality, config.name, folder=project.folder)
    params = recipe.recipe.resolve(config.params)
    try:
        preprocessing = json.loads(canonical_json(recipe.recipe.preprocessing(params)))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"what the recipe's preprocessing returns must be JSON (got {printable(error)}). See docs/recipes.md."
        ) from None
    signature = recipe.recipe.signature(params, len(project.config.labels.classes))
    decoding = content_id([config.name, recipe.code_digest, preprocessing, dataclasses.asdict(signature)])
    return Decoder(recipe.recipe, preprocessing, signature, decoding[:12])
