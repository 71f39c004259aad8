"""The two Label Studio projects of a project: one for training items, one for the exam.

Each carries a mark in its description, which no other installation and no other project of ours has. It is found by the
id that the catalog has, or by its mark, and never by its title, which belongs to whoever works in Label Studio.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Collection, Mapping
from typing import Any

from pipeline_tasks.annotation.task_rendering import answer
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.catalog.schema_versions import SchemaRepository, names_now, same_classes
from pipeline_tasks.contracts import Fence, Queue
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import LabelingProject, LabelingTool
from pipeline_tasks.errors import GateClosed
from pipeline_tasks.project.labeling_config import LABELING_FILE, LabelingConfig, answers_of, parse_labeling
from pipeline_tasks.project.schema import LoadedProject
from pipeline_tasks.project.yaml_reader import Problem, ProjectError

FIRST_SCHEMA_VERSION = 1
SCHEMA_DRIFT = "SCHEMA_DRIFT"
QUEUES: tuple[Queue, ...] = ("label", "exam")
EXAMPLE_DATA: Mapping[str, Any] = {
    "image": "data:image/png;base64,AA==",
    "text": "text",
    "row": {"column": "value"},
    "item_id": "0" * 64,
}
MARK = re.compile(r"dethrone:[0-9a-f]{32}")
RECOGNIZED_BY = 240  # so many recorded tasks are looked for in a project without a mark


def title_of(name: str, queue: Queue) -> str:
    """Return the title that a project's Label Studio project is made with."""
    return name if queue == "label" else f"{name} exam"


def mark_of(name: str, queue: Queue, *, installation: str) -> str:
    """Return what the description of our Label Studio project holds; `installation` is the installation's secret."""
    digest = hmac.new(installation.encode(), f"label-studio\n{name}\n{queue}".encode(), hashlib.sha256).hexdigest()
    return f"dethrone:{digest[:32]}"


def labeling_config(project: LoadedProject) -> LabelingConfig:
    """Return the checked labeling.xml of a project.

    Raises:
        ProjectError: it does not match the modality or the classes.
    """
    config = project.config
    file = str(project.folder / LABELING_FILE)
    return parse_labeling(project.labeling_xml, modality=config.modality, classes=config.labels.classes, file=file)


def ensure(
    project: LoadedProject,
    *,
    labels: LabelRepository,
    labeling: LabelingTool,
    installation: str,
    now: dt.datetime,
    shows_objects: bool = False,
    takes_back: bool = False,
    fence: Fence | None = None,
) -> dict[Queue, int]:
    """Create or update the two Label Studio projects and return their ids by queue.

    Exam annotators see no suggestion. Classes that were added are taken, as a schema version of their own; a class list
    without collected labels is taken as it is. The same call again changes nothing. `takes_back`: what somebody has
    changed in Label Studio itself is overwritten.

    Raises:
        GateClosed: SCHEMA_DRIFT: a class is gone that labels may have, or somebody has changed the classes in Label
            Studio itself.
    """
    name, wanted = project.name, project.config.labels
    parsed = labeling_config(project)
    registered = labels.registration(name)
    known: Mapping[str, int] = {} if registered is None else registered[2]
    there = {
        queue: _Finder(name, queue, installation, labels=labels, labeling=labeling).find(known.get(queue))
        for queue in QUEUES
    }
    if any(ls_project is None or ls_project.label_config != parsed.xml for ls_project in there.values()):
        check_with_label_studio(parsed, file=str(project.folder / LABELING_FILE))
    if registered is not None:
        edited = {} if takes_back else there
        _check_classes(project, parsed, registered=registered[0], there=edited, labels=labels, labeling=labeling)
    crash_point("annotate.project.before")
    people: Mapping[Queue, int] = {"label": wanted.annotators, "exam": wanted.exam_annotators}
    ids: dict[Queue, int] = {}
    for queue, existing in there.items():
        if queue in known and (existing is None or existing.project_id != known[queue]):
            labels.forget_tasks(name, queue, now=now, fence=fence)
        mark = mark_of(name, queue, installation=installation)
        settings: dict[str, Any] = {
            "description": _described(existing.description if existing else "", name=name, queue=queue, mark=mark),
            "label_config": parsed.xml,
            "annotators_per_item": people[queue],
            "show_predictions": wanted.suggestions and queue == "label",
        }
        ids[queue] = (
            existing.project_id
            if existing
            else labeling.create_project(mark=mark, title=title_of(name, queue), **settings)
        )
        crash_point("annotate.create.after")
        labeling.update_project(ids[queue], hook=name, **settings)
    if shows_objects:
        for project_id in ids.values():
            labeling.connect_objects(project_id)
    crash_point("annotate.project.after")
    is_same = registered is not None and same_classes(registered[0], wanted.classes)
    if registered is None or registered[2] != ids or not is_same:
        version = FIRST_SCHEMA_VERSION if registered is None else registered[1] + (not is_same)
        by_queue = {str(queue): project_id for queue, project_id in ids.items()}
        labels.register(
            name, classes=wanted.classes, schema_version=version, ls_project_ids=by_queue, now=now, fence=fence
        )
    crash_point("annotate.project.recorded")
    return ids


@dataclasses.dataclass(frozen=True)
class _Finder:
    """Finds the Label Studio project of one queue."""

    name: str
    queue: Queue
    installation: str
    labels: LabelRepository = dataclasses.field(kw_only=True)
    labeling: LabelingTool = dataclasses.field(kw_only=True)

    def find(self, known_id: int | None) -> LabelingProject | None:
        """Return our project by the id that we know, or else by its mark."""
        mark = mark_of(self.name, self.queue, installation=self.installation)
        if known_id is not None:
            try:
                ls_project = self.labeling.project(known_id)
            except KeyError:
                pass  # deleted there
            else:
                if mark in ls_project.description or (
                    not MARK.search(ls_project.description) and self._is_recognized(ls_project)
                ):
                    return ls_project
        return self.labeling.find_project(mark)

    def _is_recognized(self, ls_project: LabelingProject) -> bool:
        """Tell whether a project without a mark is ours: it holds our tasks, or it is empty and has our title.

        It was made before there were marks, or somebody has rewritten its description. After a Label Studio was set up
        anew, another's project may have the number.
        """
        recorded = self.labels.recorded_tasks(self.name, self.queue, ls_project_id=ls_project.project_id)
        some = dict(sorted(recorded.items())[:RECOGNIZED_BY])
        tasks = self.labeling.task_ids(ls_project.project_id, some) if some else {}
        if any(task_id in tasks.get(item_id, ()) for item_id, task_id in some.items()):
            return True
        if ls_project.title != title_of(self.name, self.queue):
            return False
        return self.labeling.task_count(ls_project.project_id) == 0


def _described(description: str, *, name: str, queue: Queue, mark: str) -> str:
    """Return a description with the mark; what its owner wrote stays."""
    if mark in description:
        return description
    line = f"Dethrone fills this project and finds it by this line: {name}, queue {queue} [{mark}]"
    return f"{description.rstrip()}\n\n{line}".strip()


def _check_classes(
    project: LoadedProject,
    parsed: LabelingConfig,
    *,
    registered: Collection[str],
    there: Mapping[Queue, LabelingProject | None],
    labels: LabelRepository,
    labeling: LabelingTool,
) -> None:
    """Refuse a list without a class that labels may have, and classes that somebody has changed in Label Studio."""
    refusal = _refusal_of_classes(project, parsed, registered=registered, there=there, labels=labels)
    if refusal is None:
        return
    num_labels = labels.num_labeled(project.name) or sum(
        1
        for existing in there.values()
        if existing is not None
        for annotation in labeling.annotations(existing.project_id)
        if annotation.result and not annotation.cancelled
    )
    if num_labels:
        raise GateClosed(f"{refusal} Labels of {num_labels} items were collected.", code=SCHEMA_DRIFT)


def _refusal_of_classes(
    project: LoadedProject,
    parsed: LabelingConfig,
    *,
    registered: Collection[str],
    there: Mapping[Queue, LabelingProject | None],
    labels: LabelRepository,
) -> str | None:
    name, classes = project.name, project.config.labels.classes
    history = SchemaRepository(labels.database).history(name)
    former = names_now(history)
    taken = [label for label in classes if label not in registered and former.get(label) is not None]
    if taken or not set(registered) <= set(classes):
        return (
            f"labels.classes of {name} must have every class that labels were given with, and no name of a former one: "
            f"{_difference(registered, classes)}. `dethrone project migrate {name}` prints what may become of them."
        )
    known = [set(classes), *(set(version.classes) for version in history)]
    for ls_project in there.values():
        if ls_project is None or ls_project.label_config == parsed.xml:
            continue
        answers = answers_of(ls_project.label_config, choices_name=parsed.choices_name, file=ls_project.title)
        if set(answers) not in known:
            return (
                f"the choices of the Label Studio project {ls_project.title!r} must be labels.classes: "
                f"{_difference(classes, answers)}. Somebody has changed them there. To keep them, write them into "
                f"labels.classes of {name}; `dethrone project migrate {name}` prints the plan, or puts the list of "
                "project.yaml back there."
            )
    return None


def _difference(expected: Collection[str], got: Collection[str]) -> str:
    before, after = set(expected), set(got)
    added, removed = ", ".join(sorted(after - before)) or "none", ", ".join(sorted(before - after)) or "none"
    return f"{', '.join(sorted(before))} (got: added {added}; removed {removed})"


def check_with_label_studio(config: LabelingConfig, *, file: str) -> None:
    """Let Label Studio's own reader of configurations say whether our tasks and answers fit; takes two seconds.

    Raises:
        ProjectError: they do not.
    """
    from label_studio_sdk.label_interface.interface import LabelInterface

    try:
        interface: Any = LabelInterface(config.xml)
        interface.validate()
        problems = [] if interface.validate_task({"data": EXAMPLE_DATA}) else ["the task has not all that it shows"]
        for label in config.choices:
            given = {"result": answer(config, label), "score": 0.5}
            problems += interface.validate_prediction(given, return_errors=True)
    except Exception as error:  # noqa: BLE001 - it raises errors of many kinds of its own, all about the configuration
        problems = [" ".join(str(error).split())[:300]]
    if problems:
        message = f"labeling.xml must take our answers (got from Label Studio's own check: {problems[0]})."
        raise ProjectError([Problem(file, 1, 1, "", message)])
