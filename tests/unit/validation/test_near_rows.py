"""Rows that are one another but for noise, and rows that are not."""

import json
import tracemalloc

import numpy as np
import pytest

from pipeline_tasks.validation import fingerprints as fp
from pipeline_tasks.validation import near_rows
from tests.unit.validation.builders import loaded_project
from tests.unit.validation.test_near_duplicates import pairs

NUM_ROWS, NUM_COLUMNS = 300, 12


@pytest.fixture(scope="module")
def table():
    """Rows of correlated measurements, as those of one kind of thing are."""
    random = np.random.default_rng(3)
    mixed = random.normal(size=(2 * NUM_ROWS, 4)) @ random.normal(size=(4, NUM_COLUMNS))
    return 50 + 10 * mixed + random.normal(size=mixed.shape)


def encoded(row, **more) -> bytes:
    return json.dumps({f"c{n}": float(value) for n, value in enumerate(row)} | more).encode()


def halves(table, change):
    exam = {f"e{n:03d}": encoded(table[n]) for n in range(40)}
    copies = {f"copy {n:03d}": encoded(change(table[n].copy())) for n in range(40)}
    others = {f"o{n:03d}": encoded(row) for n, row in enumerate(table[NUM_ROWS:])}
    return exam, copies | others


def noisy(row, size):
    return row * (1 + np.random.default_rng(1).normal(size=len(row)) * size)


def replaced(row):
    row[2] = 1e6
    return row


COPIES = {
    "noise of 1e-4": lambda row: noisy(row, 1e-4),
    "noise of 0.1 %": lambda row: noisy(row, 1e-3),
    "three digits": lambda row: np.array([float(f"{value:.3g}") for value in row]),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_rows_are_found_and_nothing_else(table, name):
    """Report D, row 16: of rows with noise of 1e-4 0.7 % were found."""
    own = {(f"e{n:03d}", f"copy {n:03d}") for n in range(40)}
    copies = pairs(*halves(table, COPIES[name]), modality="tabular")
    assert copies <= own
    assert len(copies) >= 39


def test_another_field_counts_by_the_rows_own_distances(table):
    wide = np.concatenate([table] * 4, axis=1)[:, :32] + np.random.default_rng(5).normal(size=(len(table), 32))
    copies = pairs(*halves(wide, replaced), modality="tabular")
    assert copies == {(f"e{n:03d}", f"copy {n:03d}") for n in range(40)}


def test_rows_of_which_different_ones_are_equal_have_no_near_ones():
    """A small table of categories: hundreds of different rows are alike, and none is a copy."""
    random = np.random.default_rng(2)
    rows = {f"t{n}": json.dumps({"a": str(random.integers(4)), "b": n}).encode() for n in range(400)}
    exam = {f"e{n}": json.dumps({"a": str(random.integers(4)), "b": n + 1000}).encode() for n in range(50)}
    assert pairs(exam, rows, modality="tabular") == set()


def test_few_rows_say_nothing_of_their_distances(table):
    exam, trained = halves(table, COPIES["noise of 1e-4"])
    assert len(pairs(exam, dict([*trained.items()][:60]), modality="tabular")) < 5


def test_folded_sums_never_rule_out_a_near_row(table):
    rows = table.astype(np.float32)
    project = near_rows._Projection(NUM_COLUMNS)
    first, other = rows[:NUM_ROWS], rows[NUM_ROWS:]
    apart = np.abs(project(first)[:, None] - project(other)[None]).max(axis=2)
    distance = near_rows.distances(first[:, None], other[None]) * NUM_COLUMNS
    assert (apart <= distance + 1e-6).all()


def columns(*types):
    return [{"name": f"c{n}", "type": kind} for n, kind in enumerate(types)]


def test_dates_and_free_texts_are_left_out_by_the_declared_columns(tmp_path):
    recipe = {"name": "tabular_mlp"}
    project = loaded_project(
        tmp_path / "pets",
        modality="tabular",
        recipe=recipe | {"params": {"numbers": ["c0", "c3"], "dates": ["c1"]}},
        columns=columns("number", "date", "text", "decimal", "number"),
    )
    compared = fp.RowColumns.of(project.config)
    assert set(compared.names) == {"c0", "c3"}  # c4 is no input of the recipe, such as a running number
    assert compared.numbers == {"c0", "c3"}
    rows = [{"c0": 1.5, "c1": date, "c2": note, "c3": "2.50", "c4": n} for n, (date, note) in enumerate(["ab", "cd"])]
    first, other = (fp.row_fingerprint(row, digits=4, columns=compared) for row in rows)
    assert first[: fp.ROW_HASH_BYTES] != other[: fp.ROW_HASH_BYTES]
    assert first[fp.ROW_HASH_BYTES :] == other[fp.ROW_HASH_BYTES :]
    values = fp.row_values(np.frombuffer(first, dtype=np.uint8)[None])[0]
    assert sorted(values[~np.isnan(values)].tolist()) == [1.5, 2.5]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1" + "0" * 400, '"1e999"', "true", "null", "[1]", '"\\u0000"'])
def test_odd_values_have_a_fingerprint(value):
    columns = fp.RowColumns(("a",), frozenset({"a"}))
    data = f'{{"a": {value}}}'.encode()
    assert fp.fingerprint(data, modality="tabular", max_pixels=1, digits=4, columns=columns) is not None


def test_other_compared_columns_are_other_fingerprints(tmp_path):
    settings = loaded_project(tmp_path / "pets").config.gate.exam.near_duplicates
    kinds = {
        fp.kind("tabular", settings, fp.RowColumns(names, frozenset(numbers)))
        for names, numbers in (((), ()), (("a",), ()), (("a", "b"), ()), (("a", "b"), ("b",)))
    }
    assert len(kinds) == 4


def test_rows_of_many_independent_columns_are_compared_in_parts(monkeypatch):
    """The sums of nearly all pairs are near there; listed at once they took 1.3 GB for 1,000 x 20,000 rows."""
    random = np.random.default_rng(5)
    trained_nc, exam_nc = (random.normal(size=(count, 32)).astype("<f4") for count in (4_000, 400))
    exam_nc[:20] = trained_nc[100:120] * 1.000001
    exam, trained = (
        np.hstack([np.zeros((len(values), 32), np.uint8), values.view(np.uint8)]) for values in (exam_nc, trained_nc)
    )
    monkeypatch.setattr(near_rows, "PAIRS_AT_ONCE", 5_000)
    tracemalloc.start()
    try:
        parts = list(near_rows.scaled_pairs(exam, trained))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert {(int(e), int(t)) for some, other, _ in parts for e, t in zip(some, other, strict=True)} == {
        (e, e + 100) for e in range(20)
    }
    assert peak < 16 * 1024**2
