"""A small network for rows of numbers. Shapes: n items, w width, c classes."""

from __future__ import annotations

import torch
from torch import nn


class TabularMlp(nn.Module):
    """Standardised columns (missing = the mean), one hidden layer or two. Means and deviations are buffers."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, *, width: int, num_classes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.layers = nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, rows_nw: torch.Tensor) -> torch.Tensor:
        """Return logits (n, c); a NaN column counts as its mean."""
        standard_nw = torch.nan_to_num((rows_nw - self.mean) / self.deviation, nan=0.0)
        logits_nc: torch.Tensor = self.layers(standard_nw.clamp(-10.0, 10.0))
        return logits_nc
