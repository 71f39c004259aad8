"""labeling.xml, the Label Studio configuration of a project: parsed without entities, checked against the labels."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any
from xml.parsers import expat

from pipeline_tasks.project import Modality
from pipeline_tasks.project_yaml import Problem, ProjectError

# What each modality's tasks carry (design: annotate writes these keys) and the tag that shows it.
OBJECT_TAGS: dict[Modality, tuple[tuple[str, ...], str]] = {
    "image": (("Image",), "$image"),
    "text": (("Text", "HyperText"), "$text"),
    "tabular": (("Table",), "$row"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Element:
    """One start tag with its place in the file."""

    tag: str
    attributes: dict[str, str]
    parent: str
    line: int
    column: int


@dataclasses.dataclass(frozen=True, slots=True)
class LabelingConfig:
    """What the annotation stages need to know: who shows the item, who takes the answer, which answers there are."""

    object_name: str
    object_tag: str
    data_key: str
    choices_name: str
    choices: tuple[str, ...]


def parse_elements(text: str, *, file: str) -> list[Element]:
    """Return the start tags of an XML text in order.

    Raises:
        ProjectError: not well-formed, or it declares a DOCTYPE or entities.
    """
    parser = expat.ParserCreate()
    elements: list[Element] = []
    stack: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        position = (parser.CurrentLineNumber, parser.CurrentColumnNumber + 1)
        elements.append(Element(tag, dict(attributes), stack[-1] if stack else "", *position))
        stack.append(tag)

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
    answered_by = _choices_element(elements, file=file)
    problems = _reference_problems(shown_by, answered_by, file=file)
    choices = [e for e in elements if e.tag == "Choice"]
    problems += _class_problems(choices, answered_by, classes=classes, file=file)
    if problems:
        raise ProjectError(problems)
    return LabelingConfig(
        object_name=shown_by.attributes["name"],
        object_tag=shown_by.tag,
        data_key=OBJECT_TAGS[modality][1].removeprefix("$"),
        choices_name=answered_by.attributes["name"],
        choices=tuple(_answer(choice) for choice in choices),
    )


def _object_element(elements: Sequence[Element], *, modality: Modality, file: str) -> Element:
    tags, value = OBJECT_TAGS[modality]
    expected = f'<{tags[0]} name="{tags[0].lower()}" value="{value}"/>'
    found = [e for e in elements if e.attributes.get("value", "").startswith("$")]
    right = [e for e in found if e.tag in tags and e.attributes["value"] == value]
    if right:
        return right[0]
    at = found[0] if found else elements[0]
    got = ", ".join(f'<{e.tag} value="{e.attributes["value"]}">' for e in found) or "no tag that shows data"
    message = f"labeling.xml must show the modality {modality!r} with {expected} (got {got}). Correct one of them."
    raise ProjectError([_problem(at, file, message)])


def _choices_element(elements: Sequence[Element], *, file: str) -> Element:
    found = [e for e in elements if e.tag == "Choices"]
    if len(found) == 1 and "value" not in found[0].attributes:
        return found[0]
    at = found[-1] if found else elements[0]
    got = "choices from the task's data" if len(found) == 1 else f"{len(found)} such tags"
    message = f'labeling.xml must have one <Choices name="label" toName="..."> with written choices (got {got}).'
    raise ProjectError([_problem(at, file, message)])


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
        message = f"<Choices> must have every class of labels.classes (got none for {names}). Add them."
        problems.append(_problem(answered_by, file, message))
    return problems


def _answer(choice: Element) -> str:
    return choice.attributes.get("alias") or choice.attributes.get("value", "")


def _problem(element: Element, file: str, message: str) -> Problem:
    return Problem(file, element.line, element.column, element.tag, message)
