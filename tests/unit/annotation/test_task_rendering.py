import dataclasses

import pytest

from pipeline_tasks.annotation.label_studio_projects import check_with_label_studio
from pipeline_tasks.annotation.task_rendering import answer, is_inline, render_address, render_inline, suggestion
from pipeline_tasks.contracts import Location
from pipeline_tasks.errors import ConfigError, InputError
from pipeline_tasks.project.labeling_config import LabelingConfig, parse_labeling
from tests.labeling_case import CLASSES, XML, make_item

CONFIG = parse_labeling(XML, modality="image", classes=CLASSES, file="labeling.xml")


def test_a_small_image_is_shown_from_the_task_itself():
    assert render_inline(make_item(1), b"abc", modality="image") == {"image": "data:image/png;base64,YWJj"}


def test_text_and_rows_are_shown_as_they_are():
    assert render_inline(make_item(1), "Grüße <b>".encode(), modality="text") == {"text": "Grüße <b>"}
    assert render_inline(make_item(1), b'{"age":3}', modality="tabular") == {"row": {"age": 3}}


@pytest.mark.parametrize(
    ("modality", "content", "message"),
    [
        ("text", b"\xff\xfe", r"must hold UTF-8 text \(got UnicodeDecodeError"),
        ("tabular", b"[1]", r"must hold one JSON object \(got ValueError"),
        ("tabular", b"{", r"must hold one JSON object \(got JSONDecodeError"),
    ],
)
def test_bytes_that_cannot_be_shown_are_refused(modality, content, message):
    with pytest.raises(InputError, match=message) as caught:
        render_inline(make_item(1), content, modality=modality)
    assert caught.value.code == "ITEM_UNREADABLE"


@pytest.mark.parametrize(
    ("modality", "size_bytes", "url", "expected"),
    [
        ("image", 65_536, "s3://b/k", True),
        ("image", 65_537, "s3://b/k", False),
        ("image", 65_537, None, True),
        ("text", 65_537, "s3://b/k", True),
    ],
)
def test_only_large_images_are_shown_by_address(modality, size_bytes, url, expected):
    item = make_item(1, location=Location("items/k", 0, size_bytes))
    assert is_inline(item, modality=modality, object_url=url) is expected
    assert render_address("s3://b/k") == {"image": "s3://b/k"}


def test_a_suggestion_is_an_answer_with_a_score():
    assert suggestion(CONFIG, {"label": "dog", "score": 0.25}) == {"score": 0.25, "result": answer(CONFIG, "dog")}


@pytest.mark.parametrize("score", [1.7, -0.1, float("nan"), float("inf")])
def test_a_score_out_of_range_is_not_suggested(score):
    assert suggestion(CONFIG, {"label": "dog", "score": score}) is None


def test_an_unknown_class_is_not_suggested():
    assert suggestion(CONFIG, {"label": "Dog", "score": 0.5}) is None


@pytest.mark.parametrize(
    ("modality", "tag"), [("image", "Image"), ("text", "Text"), ("tabular", "Table")], ids=lambda value: value
)
def test_label_studios_own_reader_takes_our_tasks_and_answers(modality, tag):
    data = {"image": "image", "text": "text", "tabular": "row"}[modality]
    xml = XML.replace('<Image name="image" value="$image"', f'<{tag} name="image" value="${data}"')
    config = parse_labeling(xml, modality=modality, classes=CLASSES, file="labeling.xml")
    check_with_label_studio(config, file="labeling.xml")


def test_label_studios_own_reader_refuses_what_does_not_fit():
    other = LabelingConfig("image", "Image", "image", "another", ("cat",), XML)
    with pytest.raises(ConfigError, match=r"labeling.xml must take our answers \(got .*'another' not found"):
        check_with_label_studio(other, file="labeling.xml")
    with pytest.raises(ConfigError, match="the task has not all that it shows"):
        check_with_label_studio(dataclasses.replace(CONFIG, xml=XML.replace("$image", "$b")), file="labeling.xml")
    twice = XML.replace("</View>", '<TextArea name="label" toName="image"/></View>')
    with pytest.raises(ConfigError, match="non-unique names"):
        check_with_label_studio(dataclasses.replace(CONFIG, xml=twice), file="labeling.xml")
