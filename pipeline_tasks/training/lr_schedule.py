"""The one-cycle schedule as a pure function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

WARMUP_SHARE = 0.3
START_DIVISOR = 25.0
FINAL_DIVISOR = 1e4
BETA_HIGH = 0.95
BETA_LOW = 0.85


def one_cycle(step: int, *, num_steps: int, peak: float) -> tuple[float, float]:
    """Return the learning rate and AdamW's first beta at a step (0 to num_steps - 1).

    Up to the peak over the first 30 %, then down to almost nothing, both along a cosine; beta runs the other way.
    Source: Smith and Topin, "Super-Convergence" (2018); constants as in torch.optim.lr_scheduler.OneCycleLR.
    """
    start, end = peak / START_DIVISOR, peak / START_DIVISOR / FINAL_DIVISOR
    turn = max(WARMUP_SHARE * num_steps - 1, 1e-9)
    if step <= turn:
        share = step / turn
        return _cosine(start, peak, share), _cosine(BETA_HIGH, BETA_LOW, share)
    share = (step - turn) / max(num_steps - 1 - turn, 1e-9)
    return _cosine(peak, end, min(share, 1.0)), _cosine(BETA_LOW, BETA_HIGH, min(share, 1.0))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
