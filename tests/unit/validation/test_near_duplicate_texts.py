"""Near-duplicates among texts and rows: copies are found, other texts are not, and neither costs all pairs."""

import numpy as np
import pytest

from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.validation import fingerprints as fp
from pipeline_tasks.validation import near_contained
from pipeline_tasks.validation import near_duplicates as nd
from tests.unit.validation.test_near_duplicates import SETTINGS, packed, pairs

TEXT = "The penguins game unbeaten streak carries over to next season, meaning if they start the season with another. "
WORDS = [f"word{index}" for index in range(400)]


def utf8(**texts: str) -> dict[str, bytes]:
    return {name: text.encode() for name, text in texts.items()}


@pytest.mark.parametrize(
    ("text", "is_copy"),
    [
        (TEXT.upper().replace(" ", "\n") + "!!", True),
        (TEXT + "So.", True),
        (TEXT.replace("penguins", "flyers"), False),
        (TEXT + "What do the others of this group think about the next game?", False),
    ],
)
def test_copies_of_a_short_text(text, is_copy):
    assert pairs(utf8(e=TEXT), utf8(t=text), modality="text") == ({("e", "t")} if is_copy else set())


def test_a_long_text_with_a_few_other_words_is_a_copy():
    text = " ".join(WORDS)
    changed = " ".join(["other", *WORDS[1:200], "new", *WORDS[200:]])
    assert pairs(utf8(e=text), utf8(t=changed), modality="text") == {("e", "t")}


@pytest.mark.parametrize(("kept", "is_copy"), [(0.96, True), (0.93, False)])
def test_the_true_jaccard_index_decides(kept, is_copy):
    """Ten texts on either side of 0.9: an estimate from 128 permutations would take some of them for the other."""
    exam = {f"e{n}": " ".join(f"{n}a{word}" for word in WORDS) for n in range(10)}
    count = round(len(WORDS) * kept)
    trained = {
        f"t{n}": " ".join(f"{n}a{word}" if place < count else f"{n}{word[::-1]}" for place, word in enumerate(WORDS))
        for n in range(10)
    }
    expected = {(f"e{n}", f"t{n}") for n in range(10)} if is_copy else set()
    assert pairs(utf8(**exam), utf8(**trained), modality="text") == expected


def test_the_text_threshold_of_the_project_decides():
    exam, trained = utf8(e=" ".join(WORDS)), utf8(t=" ".join([*WORDS[:360], *(word[::-1] for word in WORDS[360:])]))
    assert pairs(exam, trained, modality="text", text_similarity=0.75) == {("e", "t")}
    assert pairs(exam, trained, modality="text", text_similarity=0.85) == set()


def quoted(text: str) -> dict[str, str]:
    """Return texts that hold all or nearly all of another, or are a part of it."""
    return {
        "a reply": "On Monday somebody wrote: " + text + " " + " ".join(f"answer{n}" for n in range(300)),
        "a signature": "Re: " + text + " Sent from the telephone of somebody who lives in a house by the sea.",
        "cut": text[: len(text) // 3],
        "a quote with a typo": text.replace("carries", "caries") + " ".join(f"more{n}" for n in range(50)),
    }


@pytest.mark.parametrize("name", quoted(""))
def test_a_text_that_holds_another_is_a_copy(name):
    text = " ".join(f"{word} of {n}" for n, word in enumerate(TEXT.split() * 3))
    others = utf8(**{f"o{n}": " ".join(f"{n}b{word}" for word in WORDS) for n in range(20)})
    copies = pairs(utf8(e=text), utf8(t=quoted(text)[name]) | others, modality="text")
    assert copies == {("e", "t")}


def test_a_common_phrase_in_a_text_is_no_copy():
    phrase = "thank you very much for your letter of last week"
    long = " ".join([phrase, *WORDS[:40]])
    assert pairs(utf8(e=phrase), utf8(t=long), modality="text") == set()


def test_values_that_many_texts_have_cost_nothing(monkeypatch):
    monkeypatch.setattr(near_contained, "MAX_OWNERS", 3)
    trained = np.tile(np.arange(fp.NUM_PERMUTATIONS, dtype=np.uint32), (5, 1))
    assert near_contained.containment_candidates(trained[:1], trained) == []
    trained[3:] += 1_000
    candidates = near_contained.containment_candidates(trained[:1], trained)
    assert candidates == [(0, 0, 1.0), (0, 1, 1.0), (0, 2, 1.0)]


def test_short_texts_are_equal_or_other():
    copies = pairs(utf8(e1="test", e2="dead mouse"), utf8(t1="Test!", t2="testing", t3="dead house"), modality="text")
    assert copies == {("e1", "t1")}


def test_texts_are_read_for_candidates_only_and_in_parts(monkeypatch):
    exam = {f"e{n}": " ".join(sha256_hex(f"{n}{word}".encode())[:7] for word in WORDS) for n in range(6)}
    trained = {f"t{n}": text + " end" for n, text in enumerate(exam.values())} | {"far": "something else entirely"}
    asked = []
    data = utf8(**exam, **trained)

    def read(ids):
        asked.append(set(ids))
        return {item_id: data[item_id] for item_id in ids}

    monkeypatch.setattr(nd, "TEXT_PAIRS_AT_ONCE", 2)
    sides = (packed(utf8(**texts), modality="text") for texts in (exam, trained))
    leaks = nd.near_leaks(*sides, modality="text", settings=SETTINGS, read=read)
    assert len(leaks) == 6
    assert [len(ids) for ids in asked] == [4, 4, 4]
    assert "far" not in set().union(*asked)


def test_copies_of_one_template_do_not_cost_all_pairs():
    exam = {f"e{n:02d}": " ".join([*WORDS, f"number{n}"]) for n in range(20)}
    trained = {f"t{n:02d}": " ".join([*WORDS, f"other{n}"]) for n in range(20)}
    read = utf8(**exam, **trained)
    count = 0

    def counted(ids):
        nonlocal count
        count += len(ids)
        return {item_id: read[item_id] for item_id in ids}

    sides = (packed(utf8(**texts), modality="text") for texts in (exam, trained))
    leaks = nd.near_leaks(*sides, modality="text", settings=SETTINGS, read=counted)
    # Every item is in a pair all the same: none of either side is missed.
    assert {leak.item_id for leak in leaks} == set(exam)
    assert {leak.trained_item_id for leak in leaks} == set(trained)
    assert len(leaks) <= 2 * 20 * nd.MAX_TEXTS_PER_ITEM


def test_candidates_of_one_template_are_few_and_hold_the_likeliest_of_each_text():
    random = np.random.default_rng(2)
    signature = random.integers(0, 2**32, fp.NUM_PERMUTATIONS, dtype=np.uint32)

    def near(count):
        values = np.tile(signature, (count, 1))
        for row in values:
            changed = random.choice(fp.NUM_PERMUTATIONS, random.integers(1, 12), replace=False)
            row[changed] = random.integers(0, 2**32, len(changed), dtype=np.uint32)
        return values

    exam, trained = near(40), near(300)
    estimates_et = (exam[:, None] == trained[None]).mean(axis=2)
    candidates = nd._text_candidates(exam.view(np.uint8), trained.view(np.uint8), minimum=0.75)
    assert all(estimate == estimates_et[e, t] for e, t, estimate in candidates)
    assert len(candidates) < 0.3 * estimates_et.size
    for own, other_et in ((0, estimates_et), (1, estimates_et.T)):
        for index, row in enumerate(other_et):
            kept = sorted((pair[2] for pair in candidates if pair[own] == index), reverse=True)
            assert kept[: nd.MAX_TEXTS_PER_ITEM] == sorted(row, reverse=True)[: nd.MAX_TEXTS_PER_ITEM]


# Rows


def test_rows_that_are_equal_when_rounded_are_found():
    exam = {"e1": b'{"a": 1.00004, "b": "X"}', "e2": b'{"a": 2.5, "b": "y"}'}
    trained = {"t1": b'{"a": 1.00003, "b": "x"}', "t2": b'{"a": 1.1, "b": "x"}', "t3": b'{"b": "x", "a": 1.000041}'}
    assert pairs(exam, trained, modality="tabular") == {("e1", "t1"), ("e1", "t3")}


def test_equal_rows_do_not_cost_all_pairs():
    exam, trained = ({f"{side}{n:03d}": f'{{"a": 1.0000{n:03d}}}'.encode() for n in range(300)} for side in "et")
    copies = pairs(exam, trained, modality="tabular")
    assert {e for e, _ in copies} == set(exam)
    assert {t for _, t in copies} == set(trained)
    assert len(copies) == 599


def test_pairs_come_by_exam_item_the_likest_first():
    text = " ".join(WORDS)
    exam, trained = utf8(e2=text, e1=text + " more"), utf8(t1=text + " end of it", t2=text)
    read = exam | trained
    leaks = nd.near_leaks(
        packed(exam, modality="text"),
        packed(trained, modality="text"),
        modality="text",
        settings=SETTINGS,
        read=lambda ids: {item_id: read[item_id] for item_id in ids},
    )
    assert [leak.item_id for leak in leaks] == ["e1", "e1", "e2", "e2"]
    assert (leaks[2].trained_item_id, leaks[2].similarity) == ("t2", 1.0)
    assert leaks[3].similarity < 1
