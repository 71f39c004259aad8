"""The two Label Studio projects of a project: one for training items, one for the exam."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline_tasks.annotation.rendering import answer
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.contracts import Fence, Queue
from pipeline_tasks.errors import GateClosed
from pipeline_tasks.faults import crash_point
from pipeline_tasks.ports import LabelingTool
from pipeline_tasks.project import LoadedProject
from pipeline_tasks.project_labeling import LabelingConfig, parse_elements, parse_labeling
from pipeline_tasks.project_yaml import Problem, ProjectError

FIRST_SCHEMA_VERSION = 1
QUEUES: tuple[Queue, ...] = ("label", "exam")
EXAMPLE_DATA: Mapping[str, Any] = {"image": "data:image/png;base64,AA==", "text": "text", "row": {"column": "value"}}


def title_of(name: str, queue: Queue) -> str:
    """Return the title of a project's Label Studio project."""
    return name if queue == "label" else f"{name} exam"


def labeling_config(project: LoadedProject) -> LabelingConfig:
    """Return the checked labeling.xml of a project.

    Raises:
        ProjectError: it does not match the modality or the classes.
    """
    config = project.config
    file = str(project.folder / "labeling.xml")
    return parse_labeling(project.labeling_xml, modality=config.modality, classes=config.labels.classes, file=file)


def ensure(
    project: LoadedProject,
    *,
    labels: LabelRepository,
    labeling: LabelingTool,
    now: dt.datetime,
    fence: Fence | None = None,
) -> dict[Queue, int]:
    """Create or update the two Label Studio projects and return their ids by queue.

    Exam annotators see no suggestion. The same call again changes nothing.

    Raises:
        GateClosed: SCHEMA_DRIFT: the classes are others than those that the collected labels were given with.
    """
    name, wanted = project.name, project.config.labels
    parsed = labeling_config(project)
    registered = labels.registration(name)
    if registered is None:
        check_with_label_studio(project.labeling_xml, parsed, file=str(project.folder / "labeling.xml"))
    else:
        check_classes(f"labels.classes of {name}", expected=registered[0], got=wanted.classes)
        for queue, project_id in registered[2].items():
            _check_label_studio(
                labeling,
                project_id,
                title=title_of(name, "exam" if queue == "exam" else "label"),
                classes=wanted.classes,
            )
    people: dict[Queue, int] = {"label": wanted.annotators, "exam": wanted.exam_annotators}
    crash_point("annotate.project.before")
    ids: dict[Queue, int] = {
        queue: labeling.ensure_project(
            title=title_of(name, queue),
            label_config=project.labeling_xml,
            annotators_per_item=people[queue],
            show_predictions=wanted.suggestions and queue == "label",
        )
        for queue in QUEUES
    }
    if project.config.modality == "image":
        for project_id in ids.values():
            labeling.connect_objects(project_id)
    crash_point("annotate.project.after")
    if registered is None or registered[2] != ids:
        version = FIRST_SCHEMA_VERSION if registered is None else registered[1]
        by_queue = {str(queue): project_id for queue, project_id in ids.items()}
        labels.register(
            name, classes=wanted.classes, schema_version=version, ls_project_ids=by_queue, now=now, fence=fence
        )
    crash_point("annotate.project.recorded")
    return ids


def check_classes(what: str, *, expected: Iterable[str], got: Iterable[str]) -> None:
    """Do nothing if both are the same set of classes.

    Raises:
        GateClosed: SCHEMA_DRIFT, naming the classes that were added and removed.
    """
    before, after = set(expected), set(got)
    if before != after:
        added, removed = ", ".join(sorted(after - before)) or "none", ", ".join(sorted(before - after)) or "none"
        raise GateClosed(
            f"{what} must stay as the collected labels were given: {', '.join(sorted(before))} "
            f"(got: added {added}; removed {removed}). Restore them, or start a new project for the new classes.",
            code="SCHEMA_DRIFT",
        )


def _check_label_studio(labeling: LabelingTool, project_id: int, *, title: str, classes: Iterable[str]) -> None:
    """Refuse classes that somebody changed in Label Studio itself: a renamed one would lose its meaning."""
    try:
        text = labeling.label_config(project_id)
    except KeyError:
        return  # the project is gone: it is created again
    choices = [element for element in parse_elements(text, file=title) if element.tag == "Choice"]
    answers = [choice.attributes.get("alias") or choice.attributes.get("value", "") for choice in choices]
    check_classes(f"the choices of the Label Studio project {title!r}", expected=classes, got=answers)


def check_with_label_studio(text: str, config: LabelingConfig, *, file: str) -> None:
    """Let Label Studio's own reader of configurations say whether our tasks and answers fit; takes two seconds.

    Raises:
        ProjectError: they do not.
    """
    from label_studio_sdk.label_interface.interface import LabelInterface

    interface: Any = LabelInterface(text)
    problems = [] if interface.validate_task({"data": EXAMPLE_DATA}) else ["the task's data has not all that it shows"]
    for label in config.choices:
        problems += interface.validate_prediction({"result": answer(config, label), "score": 0.5}, return_errors=True)
    if problems:
        message = f"labeling.xml must take our answers (got from Label Studio's own check: {problems[0]})."
        raise ProjectError([Problem(file, 1, 1, "", message)])
