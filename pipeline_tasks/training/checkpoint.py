"""One checkpoint per epoch: safetensors and JSON, no pickle; a killed run goes on and ends with the same bits.

What else a run depends on (the order of the rows, dropout, learning rate) is a function of seed, epoch and step.
Source for the need: a killed and resumed run was measured bit-identical when optimizer and data position are kept.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.core.atomic_files import replace_file
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.models.weights_file import ArtifactInvalid, read_weights, write_weights

logger = logging.getLogger(__name__)

POINTER_NAME = "checkpoint.json"
MODEL_PREFIX = "model."
OPTIMIZER_PREFIX = "optimizer."


@dataclasses.dataclass(frozen=True, slots=True)
class Resumed:
    """The state that a run resumes from, and the reports of the epochs done."""

    history: list[dict[str, Any]]
    tensors: Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of one training key in one folder; only the newest is kept."""

    folder: Path
    key: str

    def save(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer, *, history: list[dict[str, Any]]) -> None:
        """Write the state after `len(history)` epochs; the pointer moves last."""
        self.folder.mkdir(parents=True, exist_ok=True)
        data = write_weights(_flatten(module, optimizer), metadata={"key": self.key})
        digest = sha256_hex(data)
        name = f"epoch-{len(history):05d}-{digest[:16]}.safetensors"
        crash_point("train.checkpoint.before")
        replace_file(self.folder / name, data)
        crash_point("train.checkpoint.after")
        pointer = {"key": self.key, "file": name, "digest": digest, "history": history}
        replace_file(self.folder / POINTER_NAME, json.dumps(pointer).encode())
        crash_point("train.checkpoint.recorded")
        self._remove_others(name)

    def load(self) -> Resumed | None:
        """Return the newest whole checkpoint of this key; None if there is none to go on from."""
        try:
            pointer = json.loads((self.folder / POINTER_NAME).read_text())
            data = (self.folder / Path(pointer["file"]).name).read_bytes()
            if pointer["key"] != self.key or sha256_hex(data) != pointer["digest"]:
                logger.warning("the checkpoint in %s is of another training or damaged: starting anew", self.folder)
                return None
            tensors, _ = read_weights(data)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, ArtifactInvalid) as error:
            logger.warning("the checkpoint in %s cannot be read (%s): starting anew", self.folder, error)
            return None
        return Resumed(history=pointer["history"], tensors=tensors)

    def _remove_others(self, name: str) -> None:
        for path in self.folder.glob("epoch-*.safetensors"):
            if path.name != name:
                path.unlink(missing_ok=True)


def restore(resumed: Resumed, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's state into the module and the optimizer."""
    tensors = resumed.tensors
    module.load_state_dict(
        {name.removeprefix(MODEL_PREFIX): value for name, value in tensors.items() if name.startswith(MODEL_PREFIX)}
    )
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(OPTIMIZER_PREFIX):
            position, entry = name.removeprefix(OPTIMIZER_PREFIX).split(".", 1)
            states.setdefault(int(position), {})[entry] = value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    like = {position: _laid_out(state, like=parameters[position]) for position, state in states.items()}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": like})


def _laid_out(state: Mapping[str, torch.Tensor], *, like: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return moments in their parameter's memory order (channels last), which a file does not keep."""
    return {
        entry: torch.empty_like(like).copy_(value) if value.shape == like.shape else value
        for entry, value in state.items()
    }


def _flatten(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {f"{MODEL_PREFIX}{name}": value for name, value in module.state_dict().items()}
    for position, state in optimizer.state_dict()["state"].items():
        tensors.update({f"{OPTIMIZER_PREFIX}{position}.{entry}": value for entry, value in state.items()})
    return tensors
