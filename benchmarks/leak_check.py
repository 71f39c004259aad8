"""Cost of the search for near duplicates of exam items: fingerprints, and finding the pairs.

    python benchmarks/leak_check.py            2,000 exam items against 100,000, each modality (about 10 minutes)
    python benchmarks/leak_check.py --large    100,000 exam photos against 1,000,000: finding the pairs only

Items are made up of the demo's photos and of random words, so that nothing has to be fetched. Photos are varied by
rotation, shift and noise into as many different ones as are asked for; with --large the same is done to fingerprints
(two photos blended, moved by up to two of 16 pixels, noise). One exam item in twenty has a copy. Each modality runs in
a process of its own; memory is the peak of that process while the pairs are found, beside what it held before.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline_tasks.demo import fashion_mnist
from pipeline_tasks.project.gate_schema import NearDuplicates
from pipeline_tasks.project.schema import Modality
from pipeline_tasks.validation import fingerprints as fp
from pipeline_tasks.validation import near_duplicates

COPY_EVERY = 20
Make = Callable[[int], bytes]


def photo(index: int, photos, *, copy: bool = False) -> bytes:
    random = np.random.default_rng(index)
    base = photos[index % len(photos)]
    turned = Image.fromarray(base).rotate(float(random.uniform(-12, 12)), Image.Resampling.BILINEAR)
    moved = np.roll(np.asarray(turned), random.integers(-2, 3, 2), axis=(0, 1)).astype(int)
    pixels = np.clip(moved + random.integers(-20, 21, moved.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **({"format": "JPEG", "quality": 80} if copy else {"format": "PNG"}))
    return buffer.getvalue()


def text(index: int, *, copy: bool = False) -> bytes:
    random = np.random.default_rng(index)
    words = [f"w{number}" for number in (random.zipf(1.3, 200) % 20_000)]
    return (" ".join(words) + (" and so on" if copy else "")).encode()


def row(index: int, *, copy: bool = False) -> bytes:
    values = np.random.default_rng(index).normal(size=10) * 100
    return json.dumps({f"c{n}": float(v) * (1 + 1e-7 * copy) for n, v in enumerate(values)}).encode()


def fingerprints(make: Mapping[str, Make], modality: Modality) -> tuple[fp.Fingerprints, float]:
    items = {item_id: maker(index) for index, (item_id, maker) in enumerate(make.items())}
    started = time.process_time()
    values = {
        item_id: fp.fingerprint(data, modality=modality, max_pixels=10**6, digits=4) for item_id, data in items.items()
    }
    return fp.pack(fp.as_table(values), modality=modality), (time.process_time() - started) / len(items)


def as_table(packed: fp.Fingerprints) -> pa.Table:
    values = [bytes(row) for row in packed.values]
    return fp.as_table(dict(zip(packed.item_ids.to_pylist(), values, strict=True)))


def measure(modality: Modality, make: Callable[..., bytes], *, num_exam: int, num_trained: int) -> None:
    copies = range(0, num_exam, COPY_EVERY)
    exam, cost = fingerprints({f"e{n:06d}": make for n in range(num_exam)}, modality)
    originals = {f"t{n:06d}": (lambda index: make(index + 1_000_000)) for n in range(num_trained - len(copies))}
    trained, _ = fingerprints(originals, modality)
    copied = {
        f"c{n:06d}": fp.fingerprint(make(n, copy=True), modality=modality, max_pixels=10**6, digits=4) for n in copies
    }
    trained = fp.pack(pa.concat_tables([as_table(trained), fp.as_table(copied)]), modality=modality)

    def read(ids):
        return {
            item_id: make(int(item_id[1:]) + 1_000_000 * (item_id[0] == "t"), copy=item_id[0] == "c") for item_id in ids
        }

    own = {(f"e{n:06d}", f"c{n:06d}") for n in copies}
    print(f"{modality}: {1e3 * cost:.2f} ms of CPU an item, {exam.values.shape[1]} bytes; ", end="")
    find(exam, trained, modality, read=read, own=own)


def find(
    exam: fp.Fingerprints, trained: fp.Fingerprints, modality: Modality, *, read, own: set[tuple[str, str]]
) -> None:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = status("VmRSS")
    started, busy = time.perf_counter(), time.process_time()
    leaks = near_duplicates.near_leaks(exam, trained, modality=modality, settings=NearDuplicates(), read=read)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    leaked = {(leak.item_id, leak.trained_item_id) for leak in leaks}
    pairs = len(exam.item_ids) * len(trained.item_ids)
    print(
        f"{len(exam.item_ids):,} x {len(trained.item_ids):,} in {seconds:.1f} s ({busy:.1f} s of CPU, "
        f"{1e9 * busy / pairs:.1f} ns a pair); copies found {len(own & leaked)} of {len(own)}, "
        f"other pairs {len(leaked - own)}; {before:,.0f} MiB before, {status('VmHWM') - before:,.0f} more at most",
        flush=True,
    )


def status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def measure_large(photos, *, num_exam: int, num_trained: int) -> None:
    """Find the pairs among fingerprints that are made up of those of the demo's photos."""
    random = np.random.default_rng(0)
    values = [fp.image_fingerprint(png(pixels), max_pixels=10**6) for pixels in photos]
    base = np.stack([np.frombuffer(value, dtype=np.uint8) for value in values if value is not None])
    exam, trained = (varied(base, random=random, count=count) for count in (num_exam, num_trained))
    copied = range(0, num_exam, COPY_EVERY)
    greys = slice(fp.HASH_BYTES, fp.HASH_BYTES + fp.GREY_BYTES)
    trained[: len(copied)] = exam[copied]
    noise = random.integers(-2, 3, (len(copied), fp.GREY_BYTES))
    trained[: len(copied), greys] = np.clip(trained[: len(copied), greys] + noise, 0, 255)
    exam_ids, trained_ids = (
        pa.array([f"{side}{n:07d}" for n in range(c)]) for side, c in (("e", num_exam), ("t", num_trained))
    )
    own = {(f"e{e:07d}", f"t{n:07d}") for n, e in enumerate(copied)}
    print("image, --large: ", end="")
    sides = (fp.Fingerprints(exam_ids, exam), fp.Fingerprints(trained_ids, trained))
    find(*sides, "image", read=lambda _: {}, own=own)


def varied(base, *, random, count: int):
    made = np.empty((count, base.shape[1]), dtype=np.uint8)
    for start in range(0, count, 10_000):
        chunk, other = (base[random.integers(0, len(base), min(10_000, count - start))] for _ in range(2))
        share = random.uniform(0.6, 1, (len(chunk), 1, 1))
        sides = (part[:, fp.HASH_BYTES : fp.HASH_BYTES + fp.GREY_BYTES].reshape(-1, 16, 16) for part in (chunk, other))
        grey = np.add(*(part * weight for part, weight in zip(sides, (share, 1 - share), strict=True)))
        for row, move in enumerate(random.integers(-2, 3, (len(chunk), 2))):
            grey[row] = np.roll(grey[row], move, axis=(0, 1))
        grey += random.integers(-10, 11, grey.shape)
        made[start : start + len(chunk)] = chunk
        made[start : start + len(chunk), fp.HASH_BYTES : fp.HASH_BYTES + fp.GREY_BYTES] = np.clip(grey, 0, 255).reshape(
            len(chunk), -1
        )
    return made


def png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exam", type=int)
    parser.add_argument("--trained", type=int)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--modality", choices=("image", "text", "tabular"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    default = (100_000, 1_000_000) if options.large else (2_000, 100_000)
    sizes = {"num_exam": options.exam or default[0], "num_trained": options.trained or default[1]}
    if options.large:
        measure_large(fashion_mnist.load_subset()[0], **sizes)
    elif options.modality is None:
        for modality in ("image", "text", "tabular"):
            subprocess.run([sys.executable, *sys.argv, "--modality", modality], check=True)
    else:
        photos, _ = fashion_mnist.load_subset()

        def image(index: int, *, copy: bool = False) -> bytes:
            return photo(index, photos, copy=copy)

        makes: dict[str, Callable[..., bytes]] = {"image": image, "text": text, "tabular": row}
        measure(options.modality, makes[options.modality], **sizes)


if __name__ == "__main__":
    main()
