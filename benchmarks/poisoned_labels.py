"""False naming of honest labelers, and power on poisoned labels, of the labels check: real photos, simulated people.

    python benchmarks/poisoned_labels.py [--honest 100] [--worlds 20] [--labels 1000,3000]

The demo's photos (Fashion-MNIST) and their classes are the truth. Five labelers answer one item in five each, with
5 % of honest errors; in some worlds with 2 to 8 %. Attacks: one labeler flips 20 % of the answers; two swap a pair of
classes with each other (coat and pullover, which look alike, or trouser and bag); one labels photos with a patch of
white pixels, 1 % of all, as bags. What decides is the production code. Prints Markdown tables; exits 1 if honest
labelers are named in more than 1 % of the worlds and three standard errors.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from typing import Any

import numpy as np

from pipeline_tasks.demo.fashion_mnist import CLASSES, load_subset, png_bytes
from pipeline_tasks.validation.item_features import item_features, item_numbers
from pipeline_tasks.validation.labelers import Known, disagreeing

PEOPLE = 5
ERRORS, UNEVEN = (0.05,) * PEOPLE, (0.02, 0.035, 0.05, 0.065, 0.08)
ATTACKS: dict[str, set[int]] = {
    "flips 20 %": {0},
    "swap coat and pullover": {0, 1},
    "swap trouser and bag": {0, 1},
    "backdoor 1 %": {0},
}
Array = np.ndarray[Any, np.dtype[Any]]


def numbers_of(images_nhw: Array) -> list[Array]:
    """Return what the check sees of each photo."""
    described = (item_numbers(png_bytes(image), modality="image", max_pixels=10_000) for image in images_nhw)
    return [numbers for numbers in described if numbers is not None]


def world(
    clean: list[Array],
    patched: list[Array],
    truth_n: Array,
    *,
    count: int,
    attack: str,
    seed: int,
    errors: Any = ERRORS,
) -> tuple[set[str], float]:
    """Return who is named in one simulated project, and the seconds that it took."""
    random = np.random.default_rng(seed)
    rows_n = random.permutation(len(truth_n))[:count]
    people_n, labels_n = random.integers(PEOPLE, size=count), truth_n[rows_n].copy()
    rates_n = np.array(errors)[people_n] + 0.2 * ((people_n == 0) & (attack == "flips 20 %"))
    for row in np.flatnonzero(random.random(count) < rates_n):
        labels_n[row] = random.choice([name for name in CLASSES if name != labels_n[row]])
    numbers = [clean[row] for row in rows_n]
    if attack.startswith("swap"):
        first, other = attack.split()[1::2]
        swapped_n = np.where(labels_n == first, other, np.where(labels_n == other, first, labels_n))
        labels_n = np.where(people_n < 2, swapped_n, labels_n)
    if attack == "backdoor 1 %":
        for row in np.flatnonzero((people_n == 0) & (labels_n != "bag"))[: count // 100]:
            numbers[row], labels_n[row] = patched[rows_n[row]], "bag"
    began = time.perf_counter()
    features_nd = item_features(numbers, modality="image")
    ids = [f"{row:06}" for row in range(count)]
    known = {
        item_id: Known(some, str(label), "") for item_id, some, label in zip(ids, features_nd, labels_n, strict=True)
    }
    answers = [
        (item_id, str(person), str(label)) for item_id, person, label in zip(ids, people_n, labels_n, strict=True)
    ]
    disagreement = disagreeing(answers, known, classes=CLASSES)
    return set(disagreement.shown), time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--honest", type=int, default=100, help="worlds without an attack")
    parser.add_argument("--worlds", type=int, default=20, help="worlds of each attack")
    parser.add_argument("--labels", default="1000,3000")
    arguments = parser.parse_args()
    images_nhw, truth_n = load_subset()
    patched_nhw = images_nhw.copy()
    patched_nhw[:, 24:27, 24:27] = 255
    began = time.perf_counter()
    clean = numbers_of(images_nhw)
    print(f"{1e6 * (time.perf_counter() - began) / len(clean):.0f} us an item to read\n")
    shared: dict[str, Any] = {"clean": clean, "patched": numbers_of(patched_nhw), "truth_n": truth_n}
    print("| labels | world | named, all of them | somebody honest named | seconds a check |\n|---|---|---|---|---|")
    num_false = num_honest = 0
    for count in map(int, arguments.labels.split(",")):
        for name, errors in (("honest, 5 % errors", ERRORS), ("honest, 2 to 8 %", UNEVEN)):
            runs = [
                world(**shared, count=count, attack="", seed=seed, errors=errors) for seed in range(arguments.honest)
            ]
            false = sum(bool(named) for named, _ in runs)
            num_false, num_honest = num_false + false, num_honest + len(runs)
            seconds = np.mean([run for _, run in runs])
            print(f"| {count:,} | {name} | | {false} of {len(runs)} | {seconds:.1f} |", flush=True)
        for attack, poisoners in ATTACKS.items():
            runs = [world(**shared, count=count, attack=attack, seed=seed) for seed in range(arguments.worlds)]
            wanted = {str(poisoner) for poisoner in poisoners}
            hits, false = sum(wanted <= named for named, _ in runs), sum(bool(named - wanted) for named, _ in runs)
            seconds = np.mean([run for _, run in runs])
            print(f"| {count:,} | {attack} | {hits} of {len(runs)} | {false} | {seconds:.1f} |", flush=True)
    limit = 0.01 * num_honest + 3 * math.sqrt(0.01 * 0.99 * num_honest)
    return 1 if num_false > limit else 0


if __name__ == "__main__":
    sys.exit(main())
