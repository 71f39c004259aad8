"""Runtimes that compute a model version's answers (`serving.runtime`): their place and their exactness."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, get_args

from pipeline_tasks.contracts import Runtime

if TYPE_CHECKING:
    import torch

EAGER: Runtime = "eager"
AMP: Runtime = "amp"
TORCH = (EAGER, AMP)
RUNTIMES = get_args(Runtime)


def in_precision_of(runtime: Runtime, module: torch.nn.Module) -> AbstractContextManager[object]:
    """Return the context of a pass: bfloat16 autocast for `amp`, on a GPU and elsewhere, so that it is one runtime."""
    if runtime != AMP:
        return nullcontext()
    import torch

    return torch.autocast(next(module.parameters()).device.type, dtype=torch.bfloat16)


def device_of(runtime: Runtime) -> str:
    """Return where a model version of this runtime is served: on the GPU where there is one, a graph on the CPU."""
    if runtime not in TORCH:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
