# ruff: noqa: RUF001  (texts in many scripts)
"""Texts of scripts without spaces between words, tried on Chinese reviews: split on spaces 0.657, promoted."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest

from pipeline_tasks.errors import ConfigError
from pipeline_tasks.models.registry import find_recipe
from pipeline_tasks.models.text_bow.preprocess import decode_text, input_facts
from pipeline_tasks.models.text_bow.units import terms, unit_shares
from pipeline_tasks.project.gate_schema import NearDuplicates
from pipeline_tasks.project.schema import LoadedProject, Project
from pipeline_tasks.validation import fingerprints as fp
from tests.fakes import FakeObjectStore
from tests.model.learning import learn, predict
from tests.unit.training.scene import CLASSES, Scene, fill
from tests.unit.training.test_task import load

STORED_BEFORE = {"buckets": 2**17, "ngrams": 2, "max_terms": 1024, "max_characters": 1000}
ENGLISH = "The penguins game's unbeaten streak carries over to next season: 3 of 10 wins, a b I no_one"


def of(text: str, *, unit: str = "auto", longest: int = 1) -> list[str]:
    return list(terms(text, unit=unit, longest=longest))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("房间很好。", "房 间 很 好 房间 间很 很好", id="E10-chinese"),
        pytest.param("用iPhone看书", "用 iphone 看 书 看书", id="E10-chinese-and-latin"),
        pytest.param("カナと漢字", "カ ナ と 漢 字 カナ ナと と漢 漢字", id="E10-japanese"),
        pytest.param("ﾃﾞｰﾀ ＡＢ１２", "デ ー タ デー ータ ab12", id="E10-half-and-full-width"),
        pytest.param("ก็ดี", "ก็ ดี ก็ดี", id="E10-thai-marks-stay-on-their-letter"),
        pytest.param("ດີ", "ດີ", id="E10-lao"),
        pytest.param("ខ្មែរ", "ខ្ មែ រ ខ្មែ មែរ", id="E10-khmer"),
        pytest.param("မြန်မာ", "မြ န် မာ မြန် န်မာ", id="E10-myanmar"),
        pytest.param("안 좋아요", "안 좋아요", id="E10-korean-has-spaces"),
        pytest.param("हिन्दी में काम", "हिन्दी में काम", id="E10-hindi-words-keep-their-marks"),
        pytest.param("مُحَمَّد كـــتاب", "محمد كتاب", id="E10-arabic-vowels-and-stretching"),
        pytest.param("می\u200cخواهم", "میخواهم", id="E10-persian-joiner"),
        pytest.param("שָׁלוֹם", "שלום", id="E10-hebrew-points"),
        pytest.param("good 👍🏽 bad 👎 ❤️ 🇩🇪", "good 👍 bad 👎 ❤ 🇩🇪", id="E10-emoji"),
        pytest.param("Donau\u00addampf STRASSE Straße", "donaudampf strasse strasse", id="E10-soft-hyphen-and-case"),
        pytest.param("İstanbul istanbul", "istanbul istanbul", id="E10-turkish-capital"),
        pytest.param("中\U000f0000\ue000", "中", id="E10-private-use"),
        pytest.param("。 !", "", id="E10-punctuation"),
    ],
)
def test_terms_of_a_script(text, expected):
    assert of(text) == expected.split()


@pytest.mark.parametrize("longest", [1, 2, 4])
def test_english_has_the_terms_of_before(longest):
    assert sorted(of(ENGLISH, longest=longest)) == sorted(of(ENGLISH, unit="words", longest=longest))


def test_longer_runs_and_characters_of_every_script():
    assert of("ab cd 天气好", longest=2) == ["ab", "cd", "ab cd", *"天气好", "天气", "气好", "天气好"]
    assert of("ab 好的", unit="characters") == ["a", "b", "ab", "好", "的", "好的"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("这本书很好，iPhone手机", [[37651, 1], [69376, 1], [78319, 1]]),
        (
            "The Straße, a b; ＡＢＣ Ünïted हिन्दी",
            [[16834, 1], [46388, 1], [67033, 1], [86733, 1], [93670, 1], [106108, 1], [130839, 1]],
        ),
        ("good 👍", [[20114, 1]]),
    ],
)
def test_a_model_stored_before_reads_as_it_did(text, expected):
    """The expected buckets are what the code at 9c02990 gave."""
    assert decode_text(text.encode(), preprocessing=STORED_BEFORE).tolist() == expected
    assert decode_text(text.encode(), preprocessing=STORED_BEFORE | {"unit": "words"}).tolist() == expected


def test_parameters_recorded_before_stay_without_a_unit():
    recipe = find_recipe("text_bow").recipe
    params = recipe.resolve({})
    assert params["unit"] == recipe.preprocessing(params)["unit"] == "auto"
    before = {name: value for name, value in params.items() if name != "unit"}
    assert "unit" not in recipe.preprocessing(before)


def test_an_unknown_unit_is_refused():
    with pytest.raises(
        ConfigError, match=r"recipe.params.unit must be 'auto', 'words' or 'characters' \(got 'letters'"
    ):
        find_recipe("text_bow").recipe.resolve({"unit": "letters"})


@pytest.mark.parametrize(
    ("first", "other", "same"),
    [
        pytest.param("good 👍", "good 👎", False, id="E10-emoji"),
        pytest.param("हमारा दिन अच्छा", "हमारा दान अच्छा", False, id="E10-hindi-vowels"),
        pytest.param("มา", "มี", False, id="E10-thai-vowels"),
        pytest.param("房间很好。", "房间很好！", True, id="E10-chinese-punctuation"),
        pytest.param("ＡＢＣ ﾃﾞｰﾀ", "abc データ", True, id="E10-full-and-half-width"),
        pytest.param("❤️ you", "❤ you", True, id="E10-the-look-of-an-emoji"),
    ],
)
def test_texts_that_say_other_things_are_no_copies(first, other, same):
    assert (fp.shingles(first) == fp.shingles(other)) == same


def test_stored_fingerprints_of_texts_are_computed_anew_and_others_are_not():
    settings = NearDuplicates()
    assert [fp.kind(modality, settings) for modality in ("image", "text", "tabular")] == [
        "image-2",
        "text-2",
        "tabular-3-4",
    ]


SUBJECTS = ("房间", "早餐", "服务", "位置", "价格", "前台", "空调", "电梯", "床单", "大堂")
ADVERBS = ("真的", "实在", "总体", "一直", "还是", "确实", "今天", "每次")
OPINIONS = {1: ("很干净舒服", "非常满意"), 0: ("不干净很吵", "太让人失望")}


def reviews() -> tuple[list[bytes], list[int]]:
    """Return reviews of which no two are the same phrase; what a class has in common stands inside of it."""
    rows = [
        (f"{subject}{adverb}{opinion}。".encode(), label)
        for subject, adverb in itertools.product(SUBJECTS, ADVERBS)
        for label, opinions in OPINIONS.items()
        for opinion in opinions
    ]
    order = np.random.default_rng(5).permutation(len(rows))
    return [rows[at][0] for at in order], [rows[at][1] for at in order]


@pytest.mark.parametrize(("unit", "lowest", "highest"), [("auto", 0.99, 1.0), ("words", 0.0, 0.65)])
def test_chinese_reviews_are_learned(unit, lowest, highest, tmp_path):
    texts, labels = reviews()
    recipe, params, module, _ = learn("text_bow", texts[:240], labels[:240], tmp_path, num_classes=2, unit=unit)
    right = predict(recipe, params, module, texts[240:]).argmax(axis=1) == np.array(labels[240:])
    assert lowest <= right.mean() <= highest


def test_shares_by_unit():
    assert unit_shares(["这本书 abc", "。"], unit="auto") == {"words": 0.5, "characters": 0.5, "unspaced": 0.5}
    assert unit_shares(["这本书 abc"], unit="words") == {"words": 1.0, "characters": 0.0, "unspaced": 0.5}
    assert unit_shares(["ab 1"], unit="characters") == {"words": 0.0, "characters": 1.0, "unspaced": 0.0}
    assert unit_shares([], unit="auto") == {}


def test_a_text_that_cannot_be_read_is_not_counted():
    preprocessing = {**STORED_BEFORE, "unit": "auto"}
    facts = input_facts([b"\xff", "好".encode()], preprocessing=preprocessing)
    assert facts == {"texts": 1, "words": 0.0, "characters": 1.0, "unspaced": 1.0}


@pytest.mark.parametrize("unit", ["auto", "words"])
def test_a_training_says_what_it_counted(unit, database, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    scene = text_scene(database, tmp_path, unit=unit)
    ref = scene.train()
    shares = scene.models.get("stripes", ref.version).metrics["inputs"]
    assert shares == {
        "texts": 81,
        "words": float(unit == "words"),
        "characters": float(unit == "auto"),
        "unspaced": 1.0,
    }
    assert "inputs of stripes: {'texts': 81" in caplog.text
    assert ("unit should be auto or characters" in caplog.text) == (unit == "words")


def test_what_is_stored_decodes_as_in_training(database, tmp_path):
    scene = text_scene(database, tmp_path, unit="auto")
    model = load(scene, scene.train())
    text = "房间真的很干净舒服。".encode()
    asked = find_recipe("text_bow").recipe.preprocessing(find_recipe("text_bow").recipe.resolve({}))
    assert model.decode(text).tolist() == decode_text(text, preprocessing=asked).tolist()
    assert len(model.decode(text)) == 17  # nine characters, eight pairs


def text_scene(database, folder, *, unit: str) -> Scene:
    scene = Scene(database, FakeObjectStore(), folder)
    document = {
        "name": "stripes",
        "modality": "text",
        "sources": [{"type": "table", "path": "data", "key_column": "id", "content_columns": ["text"]}],
        "labels": {"classes": list(CLASSES)},
        "recipe": {"name": "text_bow", "params": {"unit": unit, "epochs": 1}},
    }
    scene.project = LoadedProject(config=Project.model_validate(document), folder=folder, labeling_xml="<View/>")
    scene.manifest = fill(scene.store, payloads=reviews()[0][:90])
    return scene
