"""Shares of copies that the search for near duplicates finds, and how many other items it takes for copies.

    python benchmarks/near_duplicates.py            about 2 minutes of one core

Photos are Fashion-MNIST's (the demo's, 28 x 28) and 224 x 224 pictures that are nine of them side by side in three
colours; texts are paragraphs of this repository's documents; rows are 28 means of the photos' lines, which lie as close
as measurements of one kind of thing do. Exam items are compared with their copies among other items of the same kind.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from pipeline_tasks.demo import fashion_mnist
from pipeline_tasks.project.gate_schema import NearDuplicates
from pipeline_tasks.project.schema import Modality
from pipeline_tasks.validation import fingerprints as fp
from pipeline_tasks.validation import near_duplicates

NUM_EXAM, NUM_OTHERS = 250, 1_500
LARGE_EXAM, LARGE_OTHERS = 100, 300
Change = Callable[[Any, np.random.Generator], Any]


def packed(items: Mapping[str, bytes], modality: Modality) -> fp.Fingerprints:
    values = {name: fp.fingerprint(data, modality=modality, max_pixels=10**6, digits=4) for name, data in items.items()}
    return fp.pack(fp.as_table(values), modality=modality)


def measure(
    name: str, exam: Mapping[str, bytes], others: Mapping[str, bytes], copies: Mapping[str, bytes], modality: Modality
) -> None:
    trained = {**others, **copies}
    started = time.process_time()
    leaks = near_duplicates.near_leaks(
        packed(exam, modality),
        packed(trained, modality),
        modality=modality,
        settings=NearDuplicates(),
        read=lambda ids: {item_id: exam.get(item_id) or trained[item_id] for item_id in ids},
    )
    seconds = time.process_time() - started
    own = {leak.item_id for leak in leaks if leak.trained_item_id == f"copy {leak.item_id}"}
    wrong = {leak.item_id for leak in leaks if leak.trained_item_id in others}
    print(
        f"| {name} | {100 * len(own) / len(exam):.0f} % | {len(wrong)} of {len(exam)} | {seconds:.1f} s |", flush=True
    )


def table(
    title: str, items: list[Any], changes: Mapping[str, Change], encode: Callable[..., bytes], **more: Any
) -> None:
    modality, num_exam = more["modality"], more["num_exam"]
    print(f"\n{title}, {num_exam} exam items, {len(items) - num_exam} others:\n")
    print("| copy | found | other items named | CPU |\n|---|---|---|---|", flush=True)
    exam = {f"e{n}": encode(item) for n, item in enumerate(items[:num_exam])}
    others = {f"o{n}": encode(item) for n, item in enumerate(items[num_exam:])}
    for name, change in changes.items():
        random = np.random.default_rng(7)
        changed = (change(item, random) for item in items[:num_exam])
        copies = {
            f"copy e{n}": changed_item if isinstance(changed_item, bytes) else encode(changed_item)
            for n, changed_item in enumerate(changed)
        }
        measure(name, exam, others, copies, modality)


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()


def jpeg(pixels: Any, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def shifted(pixels: Any, rows: int, columns: int) -> Any:
    edges = [(abs(rows),) * 2, (abs(columns),) * 2, *[(0, 0)] * (pixels.ndim - 2)]
    filled = np.pad(pixels, edges, mode="edge")
    top, left = abs(rows) + rows, abs(columns) + columns
    return filled[top : top + pixels.shape[0], left : left + pixels.shape[1]]


def cropped(pixels: Any, part: float) -> Any:
    cut = round(part * len(pixels))
    return pixels[cut : len(pixels) - cut, cut : len(pixels) - cut]


def marked(pixels: Any) -> Any:
    copy, side = pixels.copy(), max(2, len(pixels) // 9)
    copy[-side:, -side:] = 255
    return copy


PHOTOS: dict[str, Change] = {
    "JPEG 75": lambda photo, _: jpeg(photo, 75),
    "JPEG 30": lambda photo, _: jpeg(photo, 30),
    "noise, sd 8": lambda photo, random: np.clip(photo + random.normal(0, 8, photo.shape), 0, 255).astype(np.uint8),
    "brightness x1.2": lambda photo, _: np.asarray(ImageEnhance.Brightness(Image.fromarray(photo)).enhance(1.2)),
    "brightness x1.5": lambda photo, _: np.asarray(ImageEnhance.Brightness(Image.fromarray(photo)).enhance(1.5)),
    "contrast x0.7": lambda photo, _: np.asarray(ImageEnhance.Contrast(Image.fromarray(photo)).enhance(0.7)),
    "half size": lambda photo, _: np.asarray(Image.fromarray(photo).resize((len(photo) // 2,) * 2)),
    "moved by 1 of 28": lambda photo, _: shifted(photo, 0, len(photo) // 28),
    "moved by 3 of 28, both ways": lambda photo, _: shifted(photo, 3 * len(photo) // 28, -3 * len(photo) // 28),
    "moved by 3 %": lambda photo, _: shifted(photo, 0, round(0.03 * len(photo))),
    "mirrored": lambda photo, _: photo[:, ::-1],
    "turned by 90 degrees": lambda photo, _: np.rot90(photo),
    "turned by 2 degrees": lambda photo, _: np.asarray(Image.fromarray(photo).rotate(2, Image.Resampling.BILINEAR)),
    "turned by 5 degrees": lambda photo, _: np.asarray(Image.fromarray(photo).rotate(5, Image.Resampling.BILINEAR)),
    "5 % cut off each side": lambda photo, _: cropped(photo, 0.05),
    "a mark in a corner": lambda photo, _: marked(photo),
}


def large(photos: Any, count: int) -> list[Any]:
    """Return pictures of 224 x 224: nine photos, side by side, each in other colours."""
    random = np.random.default_rng(1)
    pictures = []
    for _ in range(count):
        chosen = photos[random.integers(0, len(photos), 9)]
        tile = chosen.reshape(3, 3, 28, 28).transpose(0, 2, 1, 3).reshape(84, 84)
        colours = random.uniform(0.5, 1, (3, 3, 3)).repeat(28, axis=0).repeat(28, axis=1)
        pixels = (30 + 0.7 * tile[..., None] * colours).astype(np.uint8)
        pictures.append(np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC)))
    return pictures


def paragraphs() -> list[str]:
    texts: dict[str, None] = {}
    root = Path(__file__).parents[1]
    for path in sorted([*root.glob("docs/**/*.md"), root / "README.md", root / "SECURITY.md"]):
        for part in path.read_text().split("\n\n"):
            said = " ".join(part.split())
            if 200 <= len(said) <= 2_000 and "|" not in said:
                texts.setdefault(said)
    return list(texts)


def words(text: str, random: np.random.Generator, *, share: float, to: Callable[[str], str]) -> str:
    return " ".join(to(word) if random.random() < share else word for word in text.split())


TEXTS: dict[str, Change] = {
    "case, spaces, punctuation": lambda text, _: text.upper().replace(" ", "\n").replace(",", ";"),
    "one word in a hundred gone": lambda text, random: words(text, random, share=0.01, to=lambda _: ""),
    "2 % of words misspelt": lambda text, random: words(text, random, share=0.02, to=lambda word: word[::-1]),
    "the first 90 %": lambda text, _: text[: int(0.9 * len(text))],
    "the first half": lambda text, _: text[: len(text) // 2],
    "Re: and a signature": lambda text, _: f"Re: {text} -- Jo Miller, Example Street 7, telephone 0123 456789, 9 to 5",
    "quoted in a text three times as long": lambda text, random: (
        f"You wrote: {text} {' '.join(f'x{n}' for n in random.integers(0, 10**6, len(text) // 4))}"
    ),
    "5 % of words replaced": lambda text, random: words(text, random, share=0.05, to=lambda _: "other"),
    "20 % of words replaced": lambda text, random: words(text, random, share=0.2, to=lambda _: "other"),
}

ROWS: dict[str, Change] = {
    "noise of 1e-7": lambda row_c, random: row_c * (1 + random.normal(0, 1e-7, row_c.shape)),
    "noise of 1e-4": lambda row_c, random: row_c * (1 + random.normal(0, 1e-4, row_c.shape)),
    "noise of 1 %": lambda row_c, random: row_c * (1 + random.normal(0, 1e-2, row_c.shape)),
    "three digits": lambda row_c, _: np.array([float(f"{value:.3g}") for value in row_c]),
    "one field replaced": lambda row_c, random: np.where(
        np.arange(len(row_c)) == random.integers(len(row_c)), 999.5, row_c
    ),
}


def row(values: Any) -> bytes:
    return json.dumps({f"c{n}": float(value) for n, value in enumerate(values)}).encode()


def main() -> None:
    photos = fashion_mnist.load_subset()[0]
    small = [*photos[: NUM_EXAM + NUM_OTHERS]]
    table("Fashion-MNIST, 28 x 28", small, PHOTOS, png, modality="image", num_exam=NUM_EXAM)
    pictures = large(photos, LARGE_EXAM + LARGE_OTHERS)
    table("Pictures of 224 x 224", pictures, PHOTOS, png, modality="image", num_exam=LARGE_EXAM)
    texts = paragraphs()
    table("Paragraphs", texts, TEXTS, str.encode, modality="text", num_exam=len(texts) // 4)
    means = [*photos[: NUM_EXAM + NUM_OTHERS].mean(axis=2) + 0.123]
    table("Rows of 28 numbers", means, ROWS, row, modality="tabular", num_exam=NUM_EXAM)


if __name__ == "__main__":
    main()
