"""Plain models on the newcomer's data sets, for reference: the commoner class, logistic regression, a small network.

    python benchmarks/newcomer/references.py                    all three, about 10 minutes on two busy cores
    python benchmarks/newcomer/references.py --data reviews

A fixed fifth of what arrives is the test; "later" is each part of the traffic, answered by the model of before; "with
1,000 later" is the same model trained on what arrived and 1,000 of the last part, on the rest of that part.
The text's rows say what unit its terms are: `words` is what `text_bow` counted before it knew scripts without spaces.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import math
from collections.abc import Callable, Sequence

import data as newcomer_data
import numpy as np
import torch
from data import NewcomerData, NewcomerItem
from PIL import Image

from pipeline_tasks.models.text_bow.preprocess import collate_counts, decode_text

SIDE, EPOCHS, BUCKETS = 28, 10, 2**16
Encode = Callable[[Sequence[NewcomerItem]], torch.Tensor]
Fit = Callable[[torch.Tensor, torch.Tensor, int], torch.nn.Module]


def linear(inputs: torch.Tensor, targets: torch.Tensor, num_classes: int) -> torch.nn.Module:
    """Logistic regression with a penalty of 0.001 on squares, to its minimum."""
    model = torch.nn.Linear(inputs.shape[1], num_classes)
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=80, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), targets) + 1e-3 * model.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


class Bag(torch.nn.Module):
    """tf-idf of hashed terms under a linear layer."""

    def __init__(self, inputs: torch.Tensor, num_classes: int) -> None:
        super().__init__()
        used = (inputs[..., 1] > 0).reshape(-1)
        frequency = torch.bincount(inputs[..., 0].reshape(-1)[used].long(), minlength=BUCKETS)
        self.inverse = torch.log((1 + len(inputs)) / (1 + frequency.float())) + 1
        self.weight = torch.nn.EmbeddingBag(BUCKETS, num_classes, mode="sum", sparse=True)
        torch.nn.init.zeros_(self.weight.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        terms = inputs[..., 0].long()
        values = torch.log1p(inputs[..., 1].float()) * self.inverse[terms]
        return self.weight(terms, per_sample_weights=values / values.norm(dim=1, keepdim=True).clamp_min(1e-6))


def bag(inputs: torch.Tensor, targets: torch.Tensor, num_classes: int) -> torch.nn.Module:
    """Adagrad over the bag, ten times over the texts."""
    model = Bag(inputs, num_classes)
    return _descend(model, inputs, targets, torch.optim.Adagrad(model.parameters(), lr=0.5), epochs=10)


def network(inputs: torch.Tensor, targets: torch.Tensor, num_classes: int) -> torch.nn.Module:
    """Two convolutions, one hidden layer."""
    layers: list[torch.nn.Module] = []
    for before, after in ((1, 16), (16, 32)):
        layers += [torch.nn.Conv2d(before, after, 3, padding=1), torch.nn.BatchNorm2d(after), torch.nn.ReLU()]
        layers += [torch.nn.MaxPool2d(2)]
    head = [torch.nn.Flatten(), torch.nn.Linear(32 * (SIDE // 4) ** 2, 64), torch.nn.ReLU(), torch.nn.Dropout(0.2)]
    model = torch.nn.Sequential(*layers, *head, torch.nn.Linear(64, num_classes))
    return _descend(model, inputs, targets, torch.optim.AdamW(model.parameters(), lr=2e-3), epochs=EPOCHS)


def _descend(model, inputs, targets, optimizer, *, epochs: int) -> torch.nn.Module:
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(inputs)).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    return model.eval()


def photos(examples: Sequence[NewcomerItem]) -> torch.Tensor:
    pixels = [
        np.asarray(Image.open(io.BytesIO(example.body)).convert("L").resize((SIDE, SIDE))) for example in examples
    ]
    return (torch.tensor(np.stack(pixels)).float()[:, None] / 255 - 0.5) / 0.25


def texts(unit: str) -> Encode:
    preprocessing = {"buckets": BUCKETS, "ngrams": 1, "max_terms": 1024, "max_characters": 10**6, "unit": unit}

    def encode(examples: Sequence[NewcomerItem]) -> torch.Tensor:
        decoded = [decode_text(example.body, preprocessing=preprocessing) for example in examples]
        return torch.from_numpy(collate_counts(decoded))

    return encode


def rows(known: Sequence[NewcomerItem]) -> Encode:
    """One column per value of a category that the known rows have, the speed and whether it is there, the season."""
    parsed = [json.loads(example.body) for example in known]
    values = {
        name: [value for value, _ in collections.Counter(row[name] for row in parsed).most_common(60)]
        for name in newcomer_data.CATEGORIES
    }

    def encode(examples: Sequence[NewcomerItem]) -> torch.Tensor:
        return torch.tensor([_row(json.loads(example.body), values) for example in examples])

    return encode


def _row(row: dict, values: dict[str, list[str]]) -> list[float]:
    speed, month = row[newcomer_data.SPEED], int(row[newcomer_data.DATE][5:7])
    numbers = [(speed if speed is not None else 140.0) / 100, float(speed is None)]
    season = [math.sin(month * math.pi / 6), math.cos(month * math.pi / 6)]
    return [*numbers, *season, *(float(row[name] == value) for name, known in values.items() for value in known)]


def report(name: str, material: NewcomerData, kind: str, encode: Encode, fit: Fit) -> None:
    """Print the accuracies of one kind of model."""
    arrived = newcomer_data.shuffled([*material.labeled, *material.unlabeled])
    cut = len(arrived) // 5
    test, train = arrived[:cut], arrived[cut:]
    last_name, last = list(material.traffic.items())[-1]
    parts = {"test": test, **{f"later, {part}": examples for part, examples in material.traffic.items()}}

    def accuracies(known: Sequence[NewcomerItem], asked: dict[str, Sequence[NewcomerItem]]) -> dict[str, float]:
        torch.manual_seed(0)
        model = fit(encode(known), targets(material, known), len(material.classes))
        with torch.inference_mode():
            answers = {part: model(encode(examples)).argmax(1) for part, examples in asked.items()}
        return {part: (answers[part] == targets(material, asked[part])).float().mean().item() for part in asked}

    more = accuracies([*train, *last[:1000]], {"test": test, last_name: last[1000:]})
    for part, share in accuracies(train, parts).items():
        common = torch.bincount(targets(material, parts[part])).max().item() / len(parts[part])
        print(f"| {name} | {kind} | {part} | {len(parts[part]):,} | {common:.3f} | {share:.3f} |", flush=True)
    for part, share in more.items():
        print(f"| {name} | {kind}, with 1,000 later | {part} | | | {share:.3f} |", flush=True)


def targets(material: NewcomerData, examples: Sequence[NewcomerItem]) -> torch.Tensor:
    return torch.tensor([material.classes.index(example.label) for example in examples])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(newcomer_data.MATERIALS), action="append")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| data | model | asked of | items | commoner class | accuracy |\n|---|---|---|---|---|---|")
    for name in options.data or newcomer_data.MATERIALS:
        material = newcomer_data.MATERIALS[name]()
        if name == "cells":
            report(name, material, f"network, {SIDE} x {SIDE} pixels", photos, network)
        elif name == "strikes":
            report(name, material, "logistic regression", rows(material.labeled), linear)
        else:
            for unit in ("words", "auto"):
                report(name, material, f"bag of terms, unit {unit}", texts(unit), bag)


if __name__ == "__main__":
    main()
