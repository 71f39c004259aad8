"""The class list, labeling.xml, and what its controls answer.

Source: the walk through every page and command of 2026-11-29 (tests/reported/README.md).
"""

import pytest

from pipeline_tasks.annotation.label_studio_projects import labeling_config
from pipeline_tasks.cli import main
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.project.labeling_config import parse_labeling
from pipeline_tasks.project.loader import load_project
from pipeline_tasks.project.scaffold import init_project
from tests.labeling_case import NAME, NOTES, XML, make_project, region, texts_of

# labeling.xml

RICH = XML.replace(
    "</View>",
    '<Header value="Anything to say?"/><TextArea name="note" toName="image"/><Rating name="sure" toName="image"/>'
    '<Choices name="quality" toName="image"><Choice value="sharp"/><Choice value="blurred"/></Choices>'
    '<Taxonomy name="part" toName="image"><Choice value="head"><Choice value="ear"/></Choice></Taxonomy>'
    "<Style>.x { color: red }</Style></View>",
)


def test_c5_other_controls_are_taken_and_the_class_counts(case):
    case.project = make_project(xml=RICH)
    (item_id,) = case.add_numbers([1])
    case.annotate()
    case.labeling.answer(case.ls_project(), item_id, "", result=[NOTES[0], region("owl"), *NOTES[1:]])
    report = case.collect()
    assert (report.num_decided, report.num_refused) == (1, 0)
    assert case.label_of(item_id) == (1, "decided", "owl")
    (row,) = case.labels.annotations(NAME, [item_id])[item_id]
    assert row.result == [NOTES[0], region("owl"), *NOTES[1:]]
    assert texts_of(case) == []


@pytest.mark.parametrize(
    ("classes", "other"),
    [(["cat", "dog", "owl"], ["good", "bad"]), (["no", "yes"], ["no", "yes", "unsure"]), (["a", "b"], ["b", "c"])],
)
@pytest.mark.parametrize("name", ["label", "animal"])
@pytest.mark.parametrize("first", [True, False])
def test_c5_the_class_control_is_the_one_with_the_classes(classes, other, name, first):
    def control(called, answers):
        choices = "".join(f'<Choice value="{label}"/>' for label in answers)
        return f'<Choices name="{called}" toName="image">{choices}</Choices>'

    controls = [control(name, classes), control("other", other)]
    controls = controls if first else controls[::-1]
    text = f'<View><Image name="image" value="$image"/>{"".join(controls)}</View>'
    config = parse_labeling(text, modality="image", classes=classes, file="labeling.xml")
    assert (config.choices_name, config.choices) == (name, tuple(classes))


def test_e12_every_template_asks_for_an_answer(tmp_path):
    for template in ("image-classification", "tabular", "text-classification"):
        project = load_project(init_project(tmp_path, name=f"p_{template[:4]}", template=template))
        assert 'required="true"' in project.labeling_xml
        assert labeling_config(project).xml.count('required="true"') == 1


def test_e12_a_file_without_it_is_pushed_with_it_and_stays_as_it_is(case):
    case.add_numbers([1])
    case.annotate()
    assert "required" not in case.project.labeling_xml
    assert 'required="true"' in case.labeling.project(case.ls_project()).label_config


def test_e12_an_empty_submit_is_named_and_asked_again(case):
    items = case.add_numbers(range(2))
    case.annotate()
    empty = case.labeling.answer(case.ls_project(), items[0], None, result=[], cancelled=False)
    case.labeling.answer(case.ls_project(), items[1], None)  # a skip stays
    report = case.collect()
    assert (report.num_empty, report.num_skipped, report.num_refused, report.num_decided) == (1, 1, 0, 0)
    ((code, digest, reason),) = texts_of(case)
    assert (code, digest) == ("NO_ANSWER", items[0])
    assert "by ann@x must be one class (got 'an empty submit'). It is asked again." in reason
    assert empty not in case.labeling.state["annotations"]
    assert len(case.labeling.state["annotations"]) == 1
    case.labeling.answer(case.ls_project(), items[0], "cat")
    assert case.collect().num_decided == 1
    assert case.label_of(items[0]) == (1, "decided", "cat")


def test_e12_an_empty_submit_of_another_server_removes_nothing_here(case):
    (item_id,) = case.add_numbers([1])
    case.annotate()
    number = case.labeling.answer(case.ls_project(), item_id, None, result=[], cancelled=False)
    delete, case.labeling.delete_annotation = case.labeling.delete_annotation, lambda _id: None  # killed before
    case.collect()
    case.labeling.delete_annotation = delete
    case.labeling.wipe()
    case.annotate()
    case.labeling.state["next_id"] = int(number)
    assert case.labeling.answer(case.ls_project(), item_id, "dog") == number
    assert case.collect().num_decided == 1
    case.collect()
    assert case.label_of(item_id) == (1, "decided", "dog")


def test_e2_the_classes_stand_in_one_file(tmp_path):
    folder = init_project(tmp_path, name="pets", template="image-classification")
    path = folder / "project.yaml"
    path.write_text(path.read_text().replace("[cat, dog]", "[cat, dog, owl]"))
    config = labeling_config(load_project(folder))
    assert config.choices == ("cat", "dog", "owl")
    assert config.xml.count("<Choice ") == 3
    (folder / "labeling.xml").unlink()
    assert labeling_config(load_project(folder)).xml == config.xml


@pytest.mark.parametrize("template", ["image-classification", "tabular", "text-classification"])
def test_e2_init_takes_the_classes(tmp_path, template):
    classes = ["a & b", 'so "called"', "no", "1", "猫 🐈"]
    project = load_project(init_project(tmp_path, name="things", template=template, classes=classes))
    assert project.config.labels.classes == classes
    config = labeling_config(project)
    again = parse_labeling(config.xml, modality=project.config.modality, classes=classes, file="x")
    assert again.choices == tuple(classes)
    assert again.xml == config.xml


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat"], "labels.classes must be a list of at least 2"),
        (["cat", "cat"], "must name each class once"),
        (["cat", ""], "must be 1 to 100 visible characters"),
        (["cat", "d\0g"], "must be 1 to 100 visible characters"),
        (["cat", "d\udce9g"], "must be 1 to 100 visible characters"),
    ],
)
def test_e2_init_refuses_classes_that_cannot_be_and_writes_nothing(tmp_path, classes, message):
    with pytest.raises(ConfigError, match=message):
        init_project(tmp_path, name="things", template="tabular", classes=classes)
    assert list(tmp_path.iterdir()) == []


def test_e2_init_and_validate_from_a_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETHRONE_PROJECTS", str(tmp_path))
    assert main.main(["init", "garments", "--classes", "shirt, boot,猫"]) == main.DONE
    assert main.main(["project", "validate", "garments"]) == main.DONE
    assert "garments is valid: image, 3 classes." in capsys.readouterr().out
    assert main.main(["init", "other", "--classes", "shirt"]) == main.USAGE
    assert "labels.classes must be a list of at least 2 (got ['shirt'])" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ('<TextArea name="label" toName="image"/>', "Label config contains non-unique names"),
        ('<TextArea name="note" toName="picture"/>', 'toName="picture" not found in names'),
    ],
)
def test_c5_what_label_studio_would_refuse_is_refused_by_validate(tmp_path, monkeypatch, capsys, tag, message):
    monkeypatch.setenv("DETHRONE_PROJECTS", str(tmp_path))
    path = init_project(tmp_path, name="garments", template="image-classification") / "labeling.xml"
    path.write_text(path.read_text().replace("</View>", f"{tag}</View>"))
    assert main.main(["project", "validate", "garments"]) == main.USAGE
    assert (
        f"labeling.xml must take our answers (got from Label Studio's own check: {message}" in capsys.readouterr().err
    )
