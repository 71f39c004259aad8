"""labeling.xml, the Label Studio configuration of a project: parsed without entities, checked against the labels.

The classes stand in project.yaml. The file is optional, and so are the choices of its class control.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET
from xml.parsers import expat

from pipeline_tasks.project.schema import Modality
from pipeline_tasks.project.yaml_reader import Problem, ProjectError

LABELING_FILE = "labeling.xml"
TEMPLATES_DIR = Path(__file__).parent / "templates"
STOCK_TEMPLATES: dict[Modality, str] = {
    "image": "image-classification",
    "text": "text-classification",
    "tabular": "tabular",
}
CLASS_CONTROL = "label"  # the name that tells the class control where several could be it

# What each modality's tasks carry (design: annotate writes these keys) and the tag that shows it.
OBJECT_TAGS: dict[Modality, tuple[tuple[str, ...], str]] = {
    "image": (("Image",), "$image"),
    "text": (("Text", "HyperText"), "$text"),
    "tabular": (("Table",), "$row"),
}
ITEM_ID = "$item_id"  # every task carries it
_ANSWER_TAGS = ("Choice", "Label")  # their `value` is an answer, never a reference to the task's data


@dataclasses.dataclass(frozen=True, slots=True)
class Element:
    """One start tag with its place in the file; `ancestors` are the numbers of those around it."""

    tag: str
    attributes: dict[str, str]
    ancestors: tuple[int, ...]
    line: int
    column: int


@dataclasses.dataclass(frozen=True, slots=True)
class LabelingConfig:
    """The labeling page as the annotation stages use it: tag of the item, control of the answer, answers.

    `xml` is what Label Studio gets: the file with the choices filled in and an answer required. `former` says what the
    names of earlier class lists stand for, None: removed.
    """

    object_name: str
    object_tag: str
    data_key: str
    choices_name: str
    choices: tuple[str, ...]
    xml: str
    former: Mapping[str, str | None] = dataclasses.field(default_factory=dict)


def stock_labeling(modality: Modality) -> str:
    """Return the labeling.xml of a project that has none."""
    return (TEMPLATES_DIR / STOCK_TEMPLATES[modality] / LABELING_FILE).read_text(encoding="utf-8")


def parse_elements(text: str, *, file: str) -> list[Element]:
    """Return the start tags of an XML text in order.

    Raises:
        ProjectError: not well-formed, or it declares a DOCTYPE or entities.
    """
    parser = expat.ParserCreate()
    elements: list[Element] = []
    stack: list[int] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        position = (parser.CurrentLineNumber, parser.CurrentColumnNumber + 1)
        elements.append(Element(tag, dict(attributes), tuple(stack), *position))
        stack.append(len(elements) - 1)

    def refuse(*_: Any) -> None:
        message = "labeling.xml must have no DOCTYPE and no entities (got one). Remove the declaration."
        raise ProjectError([Problem(file, parser.CurrentLineNumber, parser.CurrentColumnNumber + 1, "", message)])

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _tag: stack.pop()
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text, True)  # noqa: FBT003 (expat takes no keywords)
    except expat.ExpatError as error:
        message = f"labeling.xml must be well-formed XML (got: {expat.ErrorString(error.code)}). Check the tags here."
        raise ProjectError([Problem(file, error.lineno, error.offset + 1, "", message)]) from None
    return elements


def parse_labeling(text: str, *, modality: Modality, classes: Sequence[str], file: str) -> LabelingConfig:
    """Return the checked labeling configuration of a classification project.

    Raises:
        ProjectError: the object tag does not show the modality, or the choices are not the classes.
    """
    elements = parse_elements(text, file=file)
    shown_by = _object_element(elements, modality=modality, file=file)
    answered_by = _class_element(elements, classes=classes, file=file)
    problems = _reference_problems(shown_by, answered_by, file=file)
    problems += _data_problems(elements, modality=modality, file=file)
    written = _choices_of(elements, answered_by)
    if written:
        problems += _class_problems(written, answered_by, classes=classes, file=file)
    if problems:
        raise ProjectError(problems)
    return LabelingConfig(
        object_name=shown_by.attributes["name"],
        object_tag=shown_by.tag,
        data_key=OBJECT_TAGS[modality][1].removeprefix("$"),
        choices_name=answered_by.attributes["name"],
        choices=tuple(_answer(choice) for choice in written) or tuple(classes),
        xml=_completed(text, elements, answered_by, classes=() if written else classes),
    )


def answers_of(text: str, *, choices_name: str, file: str) -> list[str]:
    """Return the answers that the control of this name gives in a configuration; none where it has no such control."""
    elements = parse_elements(text, file=file)
    controls = [
        element for element in elements if element.tag == "Choices" and element.attributes.get("name") == choices_name
    ]
    return [_answer(choice) for control in controls for choice in _choices_of(elements, control)]


def _object_element(elements: Sequence[Element], *, modality: Modality, file: str) -> Element:
    tags, value = OBJECT_TAGS[modality]
    expected = f'<{tags[0]} name="{tags[0].lower()}" value="{value}"/>'
    data_elements = [e for e in elements if e.attributes.get("value", "").startswith("$")]
    right = [e for e in data_elements if e.tag in tags and e.attributes["value"] == value]
    if right:
        return right[0]
    at = data_elements[0] if data_elements else elements[0]
    got = ", ".join(f'<{e.tag} value="{e.attributes["value"]}">' for e in data_elements) or "no tag that shows data"
    message = f"labeling.xml must show the modality {modality!r} with {expected} (got {got}). Correct one of them."
    raise ProjectError([_problem(at, file, message)])


def _class_element(elements: Sequence[Element], *, classes: Sequence[str], file: str) -> Element:
    """Return the control that gives the class: of several, the one with the classes or the most of them, or `label`."""
    controls = [e for e in elements if e.tag == "Choices"]
    written = [e for e in controls if "value" not in e.attributes]

    def rank(control: Element) -> tuple[bool, int, bool, bool]:
        answers = {_answer(choice) for choice in _choices_of(elements, control)}
        is_named = control.attributes.get("name") == CLASS_CONTROL
        return answers == set(classes), len(answers & set(classes)), not answers, is_named

    best = [e for e in written if rank(e) == max(map(rank, written))]
    if len(best) == 1:
        return best[0]
    at = controls[-1] if controls else elements[0]
    got = f"{len(best)} that could be it" if best else "choices from the task's data" if controls else "none"
    message = (
        f'labeling.xml must have one <Choices name="{CLASS_CONTROL}" toName="..."> for labels.classes (got {got}). '
        "Give the one that asks for the class this name; others may have any other."
    )
    raise ProjectError([_problem(at, file, message)])


def _choices_of(elements: Sequence[Element], control: Element) -> list[Element]:
    """Return the choices within a control; those of a taxonomy or of another control beside it are not its own."""
    number = next(index for index, element in enumerate(elements) if element is control)
    return [e for e in elements if e.tag == "Choice" and number in e.ancestors]


def _reference_problems(shown_by: Element, answered_by: Element, *, file: str) -> list[Problem]:
    problems = [
        _problem(element, file, f'<{element.tag}> must have a name (got none). Add name="...".')
        for element in (shown_by, answered_by)
        if not element.attributes.get("name")
    ]
    to_name, name = answered_by.attributes.get("toName"), shown_by.attributes.get("name")
    if to_name != name:
        message = f"toName of <Choices> must be {name!r}, the name of <{shown_by.tag}> (got {to_name!r})."
        problems.append(_problem(answered_by, file, message))
    if answered_by.attributes.get("choice", "single") not in ("single", "single-radio"):
        got = answered_by.attributes["choice"]
        problems.append(_problem(answered_by, file, f'choice of <Choices> must be "single" (got {got!r}).'))
    return problems


def _data_problems(elements: Sequence[Element], *, modality: Modality, file: str) -> list[Problem]:
    """Refuse tags that show data which no task carries: Label Studio would refuse each task."""
    carried = (OBJECT_TAGS[modality][1], ITEM_ID)
    return [
        _problem(
            element,
            file,
            f"value of <{element.tag}> must be one of {', '.join(carried)}, what a task carries "
            f"(got {element.attributes['value']!r}). Write one of these, or text without $.",
        )
        for element in elements
        if element.tag not in _ANSWER_TAGS
        and element.attributes.get("name")
        and element.attributes.get("value", "").startswith("$")
        and element.attributes["value"] not in carried
    ]


def _class_problems(
    choices: Sequence[Element], answered_by: Element, *, classes: Sequence[str], file: str
) -> list[Problem]:
    problems = []
    seen: set[str] = set()
    for choice in choices:
        answer = _answer(choice)
        if answer in seen:
            problems.append(_problem(choice, file, f"<Choice> {answer!r} must stand once (got it again)."))
        elif answer not in classes:
            close = difflib.get_close_matches(answer, classes, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else "Add it to labels.classes, or remove it here."
            allowed = ", ".join(classes[:30])
            message = f"<Choice> must be one of labels.classes: {allowed} (got {answer!r}). {hint}"
            problems.append(_problem(choice, file, message))
        seen.add(answer)
    missing = [name for name in classes if name not in seen]
    if missing:
        names = ", ".join(missing[:10])
        message = (
            f"<Choices> must have every class of labels.classes (got none for {names}). "
            "Add them, or remove every <Choice>: an empty <Choices> takes the list of project.yaml."
        )
        problems.append(_problem(answered_by, file, message))
    return problems


def _completed(text: str, elements: Sequence[Element], answered_by: Element, *, classes: Sequence[str]) -> str:
    """Return the configuration with these choices added and an answer required where the file does not say."""
    if not classes and "required" in answered_by.attributes:
        return text
    root = ET.fromstring(text)  # noqa: S314 - parsed before, without a DOCTYPE and without entities
    controls = [element for element in elements if element.tag == "Choices"]
    control = list(root.iter("Choices"))[next(i for i, element in enumerate(controls) if element is answered_by)]
    control.attrib.setdefault("required", "true")
    for name in classes:
        ET.SubElement(control, "Choice", value=name)
    return ET.tostring(root, encoding="unicode")


def _answer(choice: Element) -> str:
    return choice.attributes.get("alias") or choice.attributes.get("value", "")


def _problem(element: Element, file: str, message: str) -> Problem:
    return Problem(file, element.line, element.column, element.tag, message)
