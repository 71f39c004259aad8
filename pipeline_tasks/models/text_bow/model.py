"""A bag of hashed n-grams under a linear layer or a small network. Shapes: n items, k terms, d width, c classes."""

from __future__ import annotations

import torch
from torch import nn


class TextBow(nn.Module):
    """Logarithmic counts times inverse document frequency, scaled to length one, summed in an embedding.

    `sparse` gradients touch only the rows of a batch: plain SGD without decay can use them, and is ten times as fast.
    With `hidden` 0 the embedding gives the logits: a linear model on tf-idf. The document frequencies are a buffer.
    """

    inverse_frequency: torch.Tensor

    def __init__(self, *, buckets: int, num_classes: int, hidden: int, dropout: float, sparse: bool) -> None:
        super().__init__()
        self.register_buffer("inverse_frequency", torch.ones(buckets))
        self.embedding = nn.EmbeddingBag(buckets, hidden or num_classes, mode="sum", sparse=sparse)
        self.bias = nn.Parameter(torch.zeros(hidden or num_classes))
        # Near zero: the row of an n-gram that training never saw must not add noise.
        nn.init.normal_(self.embedding.weight, std=0.01 if hidden else 0.0)
        tail = [nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, num_classes)] if hidden else [nn.Identity()]
        self.head = nn.Sequential(*tail)

    def forward(self, counts_nk2: torch.Tensor) -> torch.Tensor:
        """Return logits (n, c) for padded bucket-and-count pairs."""
        buckets_nk = counts_nk2[..., 0].long()
        weights_nk = torch.log1p(counts_nk2[..., 1].float()) * self.inverse_frequency[buckets_nk]
        weights_nk = weights_nk / weights_nk.norm(dim=1, keepdim=True).clamp_min(1e-6)
        sums_nd = self._sum(buckets_nk, weights_nk.to(self.embedding.weight.dtype)) + self.bias
        logits_nc: torch.Tensor = self.head(sums_nd)
        return logits_nc

    def _sum(self, buckets_nk: torch.Tensor, weights_nk: torch.Tensor) -> torch.Tensor:
        """Return the weighted sums (n, d) of rows; for an export as a product, since ONNX would loop over the texts."""
        if torch.compiler.is_exporting():
            return (weights_nk[:, None, :] @ self.embedding.weight[buckets_nk]).squeeze(1)
        sums_nd: torch.Tensor = self.embedding(buckets_nk, per_sample_weights=weights_nk)
        return sums_nd
