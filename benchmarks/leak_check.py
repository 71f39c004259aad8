"""What the search for near duplicates of exam items costs: 2,000 exam items against 100,000 training items.

    python benchmarks/leak_check.py            # images, texts, rows: CPU time per item and of pair finding

Items are made up of the demo's photos and of random words, so that nothing has to be fetched. Photos are varied by
rotation, shift and noise into as many different ones as are asked for; one exam item in twenty has a copy.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import time
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from pipeline_tasks.demo import fashion
from pipeline_tasks.project import Modality, NearDuplicates
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
    items = {item_id: one(index) for index, (item_id, one) in enumerate(make.items())}
    started = time.process_time()
    values = {
        item_id: fp.fingerprint(data, modality=modality, max_pixels=10**6, digits=4) for item_id, data in items.items()
    }
    return fp.pack(values, modality=modality), (time.process_time() - started) / len(items)


def measure(modality: Modality, make: Callable[..., bytes], *, num_exam: int, num_trained: int) -> None:
    copies = range(0, num_exam, COPY_EVERY)
    exam, cost = fingerprints({f"e{n:06d}": make for n in range(num_exam)}, modality)
    originals = {f"t{n:06d}": (lambda index: make(index + 1_000_000)) for n in range(num_trained - len(copies))}
    trained, _ = fingerprints(originals, modality)
    copied = {
        f"c{n:06d}": fp.fingerprint(make(n, copy=True), modality=modality, max_pixels=10**6, digits=4) for n in copies
    }
    trained = fp.pack(fp.unpack(trained) | copied, modality=modality)

    def read(ids):
        return {one: make(int(one[1:]) + 1_000_000 * (one[0] == "t"), copy=one[0] == "c") for one in ids}

    started, busy = time.perf_counter(), time.process_time()
    leaks = near_duplicates.near_leaks(exam, trained, modality=modality, settings=NearDuplicates(), read=read)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    own = {(f"e{n:06d}", f"c{n:06d}") for n in copies}
    found = {(leak.item_id, leak.trained_item_id) for leak in leaks}
    print(
        f"{modality:8s} {1e3 * cost:6.2f} ms of CPU an item; {len(exam.item_ids):,} x {len(trained.item_ids):,} "
        f"in {seconds:5.1f} s ({busy:.1f} s of CPU); "
        f"copies found {len(own & found)} of {len(own)}, other pairs {len(found - own)}; "
        f"{exam.values.shape[1]} bytes an item; "
        f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exam", type=int, default=2000)
    parser.add_argument("--trained", type=int, default=100_000)
    options = parser.parse_args()
    photos, _ = fashion.load_subset()
    makes = {"image": lambda index, copy=False: photo(index, photos, copy=copy), "text": text, "tabular": row}
    for modality, make in makes.items():
        measure(modality, make, num_exam=options.exam, num_trained=options.trained)


if __name__ == "__main__":
    main()
