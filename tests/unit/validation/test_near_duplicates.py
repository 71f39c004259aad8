"""Pairs: what must be found, what must not, on hand-made values and on the demo's photos."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline_tasks.contracts import Leak
from pipeline_tasks.demo import fashion_mnist
from pipeline_tasks.project.gate_schema import NearDuplicates
from pipeline_tasks.validation import fingerprints as fp
from pipeline_tasks.validation import near_duplicates as nd

SETTINGS = NearDuplicates()


def packed(items: dict[str, bytes], *, modality) -> fp.Fingerprints:
    values = {name: fp.fingerprint(data, modality=modality, max_pixels=10**6, digits=4) for name, data in items.items()}
    assert None not in values.values()
    return fp.pack(fp.as_table(values), modality=modality)


def pairs(exam: dict[str, bytes], trained: dict[str, bytes], *, modality, **settings) -> set[tuple[str, str]]:
    read = (exam | trained).__getitem__
    leaks = nd.near_leaks(
        packed(exam, modality=modality),
        packed(trained, modality=modality),
        modality=modality,
        settings=NearDuplicates(**settings),
        read=lambda ids: {item_id: read(item_id) for item_id in ids},
    )
    assert all(leak.kind == "near" for leak in leaks)
    return {(leak.item_id, leak.trained_item_id) for leak in leaks}


def encoded(pixels, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **({"format": "PNG"} | options))
    return buffer.getvalue()


# Images


@pytest.fixture(scope="module")
def photos():
    return fashion_mnist.load_subset()[0][:200]


def brighter(pixels):
    return np.clip(pixels * 1.1, 0, 255).astype(np.uint8)


def resized(pixels, side):
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


COPIES = {
    "PNG written anew": lambda pixels: encoded(pixels, compress_level=1),
    "JPEG": lambda pixels: encoded(pixels, format="JPEG", quality=75),
    "WebP": lambda pixels: encoded(pixels, format="WEBP", quality=80),
    "brighter": lambda pixels: encoded(brighter(pixels)),
    "larger": lambda pixels: encoded(resized(pixels, 56)),
}
OTHERS = {
    "rotated": lambda pixels: encoded(fashion_mnist.rotate(pixels[None], degrees=20)[0]),
    "blurred": lambda pixels: encoded(fashion_mnist.blur(pixels[None], sigma=2)[0]),
}


def moved(pixels, rows, columns):
    """Return a photo moved by so many pixels, its edge repeated."""
    return np.pad(pixels, 3, mode="edge")[3 + rows : 31 + rows, 3 + columns : 31 + columns]


MOVED = {
    "mirrored": lambda pixels: pixels[:, ::-1],
    "upside down": lambda pixels: pixels[::-1],
    "a quarter turned": np.rot90,
    "a quarter turned and mirrored": lambda pixels: np.rot90(pixels)[:, ::-1],
    "moved by 1": lambda pixels: moved(pixels, 0, 1),
    "moved by 3": lambda pixels: moved(pixels, -3, 3),
    "moved, turned and brighter": lambda pixels: brighter(moved(np.rot90(pixels, 2), 2, -1)),
}


def as_items(photos, encode) -> dict[str, bytes]:
    return {f"{index:03d}": encode(pixels) for index, pixels in enumerate(photos)}


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_a_photo_are_found_and_nothing_else(photos, name):
    exam = as_items(photos, encoded)
    copies = {f"copy {key}": data for key, data in as_items(photos, COPIES[name]).items()}
    pairs_found = pairs(exam, copies, modality="image")
    own = {(key, f"copy {key}") for key in exam}
    assert pairs_found <= own
    assert len(pairs_found) >= 0.985 * len(own)


@pytest.mark.parametrize("name", MOVED)
def test_moved_copies_of_a_photo_are_found_and_nothing_else(photos, name):
    """Report D, row 16: of these 0 % were found, and they lift the exam by 2 to 4 points."""
    exam = as_items(photos[:40], encoded)
    copies = as_items(photos[:40], lambda pixels: encoded(np.ascontiguousarray(MOVED[name](pixels))))
    trained = {f"copy {key}": data for key, data in copies.items()}
    trained |= {f"other {key}": data for key, data in as_items(photos[40:80], encoded).items()}
    pairs_found = pairs(exam, trained, modality="image")
    own = {(key, f"copy {key}") for key in exam}
    assert pairs_found <= own
    assert len(pairs_found) >= 39
    assert pairs(exam, trained, modality="image", image_moves=False) < own


def test_a_moved_product_in_another_colour_is_another_product(photos):
    turned = np.ascontiguousarray(np.rot90(photos[1]))
    blue = {"e": coloured(photos[1], (60, 100, 220))}
    assert pairs(blue, {"t": coloured(turned, (200, 80, 60))}, modality="image") == set()
    assert pairs(blue, {"t": coloured(turned, (60, 100, 220))}, modality="image") == {("e", "t")}


@pytest.mark.parametrize("gain", [0.7, 1.3])
def test_a_colourful_photo_with_another_contrast_is_a_copy(photos, gain):
    """Report D, row 16: of brighter or duller copies of large photos 1 to 83 % were found, by their colours."""
    large = np.stack([resized(photos[index], 64) for index in (1, 5, 9)], axis=2) * 0.7 + 10
    copy = {"t": encoded(np.clip(large * gain, 0, 255).astype(np.uint8))}
    assert pairs({"e": encoded(large.astype(np.uint8))}, copy, modality="image", image_moves=False) == {("e", "t")}


@pytest.mark.parametrize("name", OTHERS)
def test_the_demos_shifted_photos_are_other_photos(photos, name):
    exam = as_items(photos, encoded)
    others = {f"other {key}": data for key, data in as_items(photos, OTHERS[name]).items()}
    copies = pairs(exam, others, modality="image")
    assert len(copies) <= 0.01 * len(exam), copies


def test_a_photo_of_a_usual_size_may_be_moved_by_a_pixel(photos):
    large = [resized(pixels, 224) for pixels in photos[:60]]
    exam = as_items(large, encoded)
    moved = as_items(large, lambda pixels: encoded(np.roll(pixels, 1, axis=1)))
    copies = pairs(exam, {f"moved {key}": data for key, data in moved.items()}, modality="image")
    assert copies <= {(key, f"moved {key}") for key in exam}
    assert len(copies) >= 57


def test_other_photos_of_the_same_kind_are_no_duplicates(photos):
    assert (
        pairs(
            as_items(photos[:100], encoded),
            {f"t{k}": v for k, v in as_items(photos[100:], encoded).items()},
            modality="image",
        )
        == set()
    )


def test_the_threshold_of_the_project_decides(photos):
    exam = {"e": encoded(photos[0])}
    small = {"t": encoded(resized(photos[0], 20))}
    (leak,) = nd.near_leaks(
        packed(exam, modality="image"),
        packed(small, modality="image"),
        modality="image",
        settings=NearDuplicates(image_similarity=0.9),
        read=lambda _: {},
    )
    assert 0.9 < leak.similarity < 1
    assert leak.similarity == round(leak.similarity, 4)
    assert pairs(exam, small, modality="image", image_similarity=leak.similarity - 0.001) == {("e", "t")}
    assert pairs(exam, small, modality="image", image_similarity=min(leak.similarity + 0.001, 1)) == set()


def coloured(photo, colour) -> bytes:
    grey = photo[..., None] / 255
    luma = np.dot(colour, (0.299, 0.587, 0.114))
    return encoded(np.clip(np.rint(grey * np.array(colour) * (110 / luma)), 0, 255).astype(np.uint8))


def test_a_product_in_another_colour_is_another_product(photos):
    blue, red = ({key: coloured(photos[1], tint)} for key, tint in (("e", (60, 100, 220)), ("t", (200, 80, 60))))
    assert pairs(blue, red, modality="image") == set()
    assert pairs(blue, {"t": coloured(photos[1], (62, 101, 215))}, modality="image") == {("e", "t")}


def test_the_colour_threshold_counts(photos, monkeypatch):
    blue, red = ({key: coloured(photos[1], tint)} for key, tint in (("e", (60, 100, 220)), ("t", (200, 80, 60))))
    monkeypatch.setattr(fp, "MAX_COLOUR_DISTANCE", 255.0)
    assert pairs(blue, red, modality="image") == {("e", "t")}


def test_grey_correlation_by_hand():
    first = np.array([[0, 0, 10, 10], [1, 2, 3, 4], [1, 2, 3, 4]], dtype=np.float32)
    other = np.array([[5, 5, 25, 25], [4, 3, 2, 1], [7, 7, 7, 7]], dtype=np.float32)
    assert nd.grey_correlation(first, other) == pytest.approx([1.0, -1.0, 0.0])


@pytest.fixture(scope="module")
def alike(photos):
    """Fingerprints of 60 exam photos and of 200 training photos: a third copies, the others of the same kinds."""
    random = np.random.default_rng(3)

    def noisy(pixels):
        return encoded(np.clip(pixels + random.integers(-9, 10, pixels.shape), 0, 255).astype(np.uint8))

    exam = packed(as_items(photos[:60], noisy), modality="image").values
    return exam, packed(as_items(photos, noisy), modality="image").values


def all_pairs(exam_ew, trained_tw):
    """Return which of all pairs each rule confirms, (e, t), and the correlations; the plain way."""
    exam, trained = (fp.grey(values).astype(np.float64) for values in (exam_ew, trained_tw))
    correlation_et = np.corrcoef(exam, trained)[: len(exam), len(exam) :]
    hash_et = np.bitwise_count(fp.hashes(exam_ew)[:, None] ^ fp.hashes(trained_tw)[None]) <= nd.MAX_HASH_DISTANCE
    colours = np.abs(fp.colours(exam_ew)[:, None] - fp.colours(trained_tw)[None]).mean(axis=2)
    return correlation_et, hash_et & (colours <= fp.MAX_COLOUR_DISTANCE)


@pytest.mark.parametrize("minimum", [0.9, 0.97, 0.995, 0.999])
@pytest.mark.parametrize("blocks", [(32, 32, 256, 20_000), (2, 7, 11, 3)])
def test_the_pairs_are_the_likest_of_what_looking_at_all_pairs_confirms(alike, minimum, blocks, monkeypatch):
    for name, size in zip(("STACKS_AT_ONCE", "EXAM_ROWS", "TRAINED_ROWS", "PAIRS_AT_ONCE"), blocks, strict=True):
        monkeypatch.setattr(nd, name, size)
    correlation_et, others_et = all_pairs(*alike)
    confirmed_et = np.where(others_et & (correlation_et >= minimum), correlation_et, 0)
    expected = {(e, int(row.argmax())) for e, row in enumerate(confirmed_et) if row.any()}
    expected |= {(int(column.argmax()), t) for t, column in enumerate(confirmed_et.T) if column.any()}
    confirmed = nd._image_pairs(*alike, minimum=minimum)
    assert {(e, t) for e, t, _ in confirmed} == expected
    assert all(similarity == pytest.approx(correlation_et[e, t], abs=1e-9) for e, t, similarity in confirmed)
    assert len(expected) >= 20


def test_no_pair_above_the_threshold_is_ruled_out_by_the_bound(alike):
    correlation_et, _ = all_pairs(*alike)
    candidates = np.concatenate(list(nd._image_candidates(*alike, minimum=0.95)))
    places = set(zip(*(axis.tolist() for axis in np.divmod(candidates, len(alike[1]))), strict=True))
    assert set(zip(*(axis.tolist() for axis in np.nonzero(correlation_et >= 0.95)), strict=True)) <= places
    assert len(places) < 0.2 * correlation_et.size  # and most others are


def test_a_pair_of_just_the_threshold_is_no_victim_of_rounding(alike):
    correlation_et, _ = all_pairs(*alike)
    for e, t in zip(*np.nonzero(correlation_et >= 0.99), strict=True):
        first, other = alike[0][[e]], alike[1][[t]]
        minimum = float(nd.grey_correlation(fp.grey(first), fp.grey(other))[0])
        assert [part.tolist() for part in nd._image_candidates(first, other, minimum=minimum)] == [[0]]


@pytest.mark.parametrize("distance", [9, 10, 11, 12])
def test_hashes_far_apart_are_not_confirmed(alike, distance):
    exam = alike[0].copy()
    trained = exam.copy()
    for row, bits in enumerate(
        np.random.default_rng(distance).permuted(np.tile(np.arange(64), (len(exam), 1)), axis=1)
    ):
        for bit in bits[:distance]:
            trained[row, bit // 8] ^= 1 << (bit % 8)
    own = {(e, e) for e in range(len(exam))}
    confirmed = {(e, t) for e, t, _ in nd._image_pairs(exam, trained, minimum=0.9999)}
    assert confirmed == (own if distance <= nd.MAX_HASH_DISTANCE else set())


def test_photos_that_are_all_alike_do_not_cost_all_pairs(photos, monkeypatch):
    """A fixed camera before one scene: each is a copy of each, and both sides are found all the same."""
    random = np.random.default_rng(5)
    noise = random.integers(-3, 4, (700, fp.GREY_BYTES))
    values = np.tile(packed({"a": encoded(photos[0])}, modality="image").values, (700, 1))
    grey = slice(fp.HASH_BYTES, fp.HASH_BYTES + fp.GREY_BYTES)
    values[:, grey] = np.clip(values[:, grey].astype(int) + noise, 0, 255)
    looked = []
    original = nd.grey_correlation
    monkeypatch.setattr(
        nd, "grey_correlation", lambda first, other: looked.append(len(first)) or original(first, other)
    )
    for name, value in {"PAIRS_AT_ONCE": 50, "STACKS_AT_ONCE": 2, "TRAINED_ROWS": 50, "ENOUGH_PARTNERS": 20}.items():
        monkeypatch.setattr(nd, name, value)
    confirmed = nd._image_pairs(values[:200], values[200:], minimum=0.99)
    assert {e for e, _, _ in confirmed} == set(range(200))
    assert {t for _, t, _ in confirmed} == set(range(500))
    assert len(confirmed) <= 700
    assert sum(looked) < 0.5 * 200 * 500
    of_one = nd._image_pairs(values[:1], values[200:], minimum=0.99)
    assert {t for _, t, _ in of_one} == set(range(500))  # that one side has enough stops nothing
    assert {e for e, _, _ in nd._image_pairs(values[:200], values[200:201], minimum=0.99)} == set(range(200))


def test_pairs_are_compared_in_parts(photos, monkeypatch):
    exam = as_items(photos[:20], encoded)
    copies = {f"copy {key}": data for key, data in as_items(photos[:20], COPIES["JPEG"]).items()}
    whole = pairs(exam, copies, modality="image")
    for name in ("PAIRS_AT_ONCE", "STACKS_AT_ONCE", "EXAM_ROWS", "TRAINED_ROWS", "IMAGES_AT_ONCE"):
        monkeypatch.setattr(nd, name, 3)
    assert pairs(exam, copies, modality="image") == whole
    assert len(whole) == 20


# All


@pytest.mark.parametrize(("modality", "data"), [("text", b"some words of a text"), ("tabular", b'{"a": 1}')])
def test_an_item_is_no_near_duplicate_of_itself(modality, data):
    assert pairs({"same": data}, {"same": data, "other": data}, modality=modality) == {("same", "other")}


@pytest.mark.parametrize("modality", ["image", "text", "tabular"])
def test_nothing_against_nothing(modality):
    nothing, single = (
        fp.pack(fp.as_table(values), modality=modality) for values in ({}, {"a": b"\1" * fp.WIDTHS[modality]})
    )
    for sides in ((nothing, nothing), (nothing, single), (single, nothing)):
        assert nd.near_leaks(*sides, modality=modality, settings=SETTINGS, read=lambda _: {}) == []


def test_exact_leaks_are_of_the_same_content_each_item_once():
    exam = {"a": "A", "b": "B", "c": "C", "e": "E"}
    trained = {"c": "C", "b": "B", "d": "D", "t1": "E", "t2": "E", "t3": "B"}
    assert nd.exact_leaks(exam, trained) == [
        Leak("b", "b", "exact", 1.0),
        Leak("b", "t3", "exact", 1.0),
        Leak("c", "c", "exact", 1.0),
        Leak("e", "t1", "exact", 1.0),
        Leak("e", "t2", "exact", 1.0),
    ]


def test_the_best_of_each_side():
    leaks = [
        Leak("e1", "t1", "near", 0.995),
        Leak("e1", "t2", "near", 0.999),
        Leak("e2", "t2", "near", 0.996),
        Leak("e2", "e2", "exact", 1.0),
        Leak("e3", "t1", "near", 1.0),
    ]
    assert nd.best_by_exam_item(leaks) == [leaks[1], leaks[3], leaks[4]]
    assert nd.best_by_trained_item(leaks) == [leaks[3], leaks[4], leaks[1]]


def test_an_exact_leak_goes_before_an_equally_like_copy():
    near, exact = Leak("e", "a", "near", 1.0), Leak("e", "e", "exact", 1.0)
    assert nd.best_by_exam_item([near, exact]) == [exact]
