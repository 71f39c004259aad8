"""Checks across the keys of project.yaml: what each key alone cannot say."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline_tasks.errors import ConfigError
from pipeline_tasks.models.stock import OWN_RECIPE, STOCK
from pipeline_tasks.project.declared_columns import check_columns
from pipeline_tasks.project.gate_schema import Slice
from pipeline_tasks.project.image_checks import check_images
from pipeline_tasks.project.privacy_checks import check_privacy
from pipeline_tasks.project.schema import Project
from pipeline_tasks.project.source_schema import check_pattern
from pipeline_tasks.project.yaml_reader import Finding, Path_, finding, shown

_CRON_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_CRON_PART = re.compile(r"^(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:/(\d{1,2}))?$")


def check_project(project: Project, *, folder: Path) -> list[Finding]:
    """Return the contradictions of a project as (path of the key, message)."""
    return [
        *_check_classes(project),
        *check_columns(project),
        *_check_sources(project),
        *_check_recipe(project, folder=folder),
        *_check_people(project),
        *_check_exam(project),
        *_check_limits(project),
        *_check_serving(project),
        *_check_rollout(project),
        *_check_slices(project),
        *_check_schedules(project),
        *check_privacy(project),
    ]


def _check_classes(project: Project) -> Iterator[Finding]:
    counts = Counter(project.labels.classes)
    for index, name in enumerate(project.labels.classes):
        if counts[name] > 1 and index > project.labels.classes.index(name):
            path: Path_ = ("labels", "classes", index)
            yield path, f"labels.classes must name each class once (got {shown(name)} again). Remove one."
        unprintable = any(unicodedata.category(char) in ("Cc", "Cs") for char in name)  # controls, lone surrogates
        if name != name.strip() or not name or len(name) > 100 or unprintable:
            yield finding(
                f"labels.classes[{index}]",
                f"must be 1 to 100 visible characters without space at the ends (got {shown(name)}). "
                "Labels are compared letter by letter.",
            )


def _check_sources(project: Project) -> Iterator[Finding]:
    counts = Counter(source.name for source in project.sources)
    for index, source in enumerate(project.sources):
        if counts[source.name] > 1:
            yield finding(
                f"sources[{index}].name",
                f"must be unique (got {source.name!r} {counts[source.name]} times). "
                "What was read is remembered under this name.",
            )
        for key, message in source.problems(project.modality):
            yield finding(f"sources[{index}].{key}", message)


def _check_slices(project: Project) -> Iterator[Finding]:
    counts = Counter(data_slice.name for data_slice in project.gate.slices)
    for index, data_slice in enumerate(project.gate.slices):
        for key, message in _check_slice(data_slice, count=counts[data_slice.name]):
            yield finding(f"gate.slices[{index}].{key}", message)


def _check_slice(data_slice: Slice, *, count: int) -> Iterator[tuple[str, str]]:
    if count > 1:
        yield "name", f"must be unique (got {data_slice.name!r} {count} times): reasons and reports go by it."
    if data_slice.by == "key_pattern" and data_slice.pattern is None:
        yield "pattern", "must be a regular expression with a group (?P<slice>...) where by is key_pattern (got none)."
    if data_slice.by != "key_pattern" and data_slice.pattern is not None:
        yield (
            "pattern",
            f"must be left out where by is {data_slice.by} (got {shown(data_slice.pattern)}). Set by to key_pattern.",
        )
    yield from check_pattern("pattern", data_slice.pattern, group="slice")


def _check_recipe(project: Project, *, folder: Path) -> Iterator[Finding]:
    name = project.recipe.name
    if name == OWN_RECIPE:
        if not (folder / OWN_RECIPE).is_file():
            yield finding("recipe.name", f"must be a recipe that exists (got recipe.py, not in {folder}).")
    elif name not in STOCK:
        known = ", ".join([*STOCK, OWN_RECIPE])
        yield finding("recipe.name", f"must be one of {known} (got {shown(name)}).")
    elif STOCK[name].modality != project.modality:
        fitting = ", ".join(other for other, stock in STOCK.items() if stock.modality == project.modality)
        yield finding(
            "recipe.name",
            f"must fit the modality {project.modality} (got {name}, for {STOCK[name].modality}). "
            f"Use {fitting} or {OWN_RECIPE}.",
        )
    yield from _check_params(project)
    epochs, tune = project.recipe.params.get("epochs"), project.recipe.tune
    if tune.trials and isinstance(epochs, int) and tune.epochs > epochs:
        yield finding(
            "recipe.tune.epochs",
            f"must be at most recipe.params.epochs (got {tune.epochs} and {epochs}): "
            "a trial is shorter than the training.",
        )


def _check_params(project: Project) -> Iterator[Finding]:
    """Check the parameters of a stock recipe; the project's own recipe runs only where it is used."""
    stock = project.recipe.stock
    if stock is None or stock.modality != project.modality:
        return
    from pipeline_tasks.models.registry import find_recipe

    try:
        find_recipe(project.recipe.name).recipe.resolve(project.recipe.params)
    except ConfigError as error:
        yield ("recipe", "params"), str(error)
        return
    if stock.reads_columns:
        yield from _check_inputs(project)


def _check_inputs(project: Project) -> Iterator[Finding]:
    """Check that every source gives the columns that the stock recipe for rows wants."""
    params = project.recipe.params
    wanted = [*params.get("numbers", []), *params.get("dates", []), *params.get("categories", {})]
    for index, source in enumerate(project.sources):
        columns = source.item_columns
        missing = [] if columns is None else [name for name in wanted if name not in columns]
        if missing:
            yield finding(
                f"sources[{index}].content_columns",
                "must have the columns that recipe.params names "
                f"(got none of the name {', '.join(missing[:10])}). Add them, or correct recipe.params.",
            )


def _check_people(project: Project) -> Iterator[Finding]:
    labels, approval = project.labels, project.approval
    for name in sorted({*labels.trusted} & {*labels.excluded}):
        yield finding(
            "labels.trusted", f"must name nobody whom labels.excluded names (got {shown(name)} in both). Remove one."
        )
    for key in ("trusted", "excluded"):
        for index, name in enumerate(getattr(labels, key)):
            if not name.strip() or not name.isprintable():
                text = "must be the address of an account, such as ann@example.com"
                yield finding(f"labels.{key}[{index}]", f"{text} (got {shown(name)}).")
    if labels.imported_in_exam and labels.imported == "ignore":
        yield finding(
            "labels.imported_in_exam",
            "must be false where labels.imported is ignore (got true). Set labels.imported "
            "to accept, or leave imported_in_exam out.",
        )
    if labels.exam_annotators < labels.annotators:
        yield finding(
            "labels.exam_annotators",
            f"must be at least labels.annotators (got {labels.exam_annotators} and "
            f"{labels.annotators}): the exam needs the surer labels.",
        )
    if approval.four_eyes and approval.when == "never":
        yield finding("approval.four_eyes", "must be false where approval.when is never (got true).")


def _check_exam(project: Project) -> Iterator[Finding]:
    exam = project.gate.exam
    if exam.window_items < exam.min_items:
        yield finding(
            "gate.exam.window_items",
            f"must be at least gate.exam.min_items (got {exam.window_items} and "
            f"{exam.min_items}): a window holds one epoch or more.",
        )


def _check_limits(project: Project) -> Iterator[Finding]:
    classes, checks, monitor = len(project.labels.classes), project.checks, project.monitor
    if checks.max_class_share < 1 / classes:
        yield finding(
            "checks.max_class_share",
            f"must be at least 1/{classes}, the share in a balanced set of labels.classes "
            f"(got {checks.max_class_share}).",
        )
    if checks.min_side_pixels**2 > checks.max_pixels:
        yield finding(
            "checks.min_side_pixels",
            f"squared must be at most checks.max_pixels (got {checks.min_side_pixels} and "
            f"{checks.max_pixels}): no image could pass.",
        )
    if monitor.max_audits and monitor.audit_share and monitor.min_audited > monitor.max_audits:
        yield finding(
            "monitor.min_audited",
            f"must be at most monitor.max_audits (got {monitor.min_audited} and "
            f"{monitor.max_audits}): quality could never be judged.",
        )


def _check_serving(project: Project) -> Iterator[Finding]:
    serving, classes = project.serving, project.labels.classes
    yield from check_images(serving)
    if serving.top_k > len(classes):
        yield finding(
            "serving.top_k", f"must be at most the number of labels.classes (got {serving.top_k} and {len(classes)})."
        )
    recipe = project.recipe
    needed = recipe.stock and recipe.stock.int8_needs
    if serving.runtime == "onnx-int8" and needed and not recipe.params.get(needed):
        yield finding(
            "serving.runtime",
            f"must be eager, amp or onnx for {recipe.name} without recipe.params.{needed} "
            "(got onnx-int8): it has no layer to quantize.",
        )
    for key in ("thresholds", "business_labels"):
        for name in getattr(serving, key):
            if name not in classes:
                yield (
                    ("serving", key, name),
                    f"serving.{key} must name classes of labels.classes, letter by letter (got {shown(name)}).",
                )
    for name, text in serving.business_labels.items():
        if not 1 <= len(text) <= 100 or not text.isprintable() or text != text.strip():
            key = f"serving.business_labels.{name}"
            rule = "must be 1 to 100 visible characters without space at the ends"
            yield ("serving", "business_labels", name), f"{key} {rule} (got {shown(text)})."


def _check_rollout(project: Project) -> Iterator[Finding]:
    rollout = project.serving.rollout
    if sorted(set(rollout.steps)) != rollout.steps:
        yield finding(
            "serving.rollout.steps", f"must rise, each once (got {shown(rollout.steps)}). Example: [5, 25, 50]."
        )
    shortest = rollout.shadow_seconds + rollout.bake_seconds * len(rollout.steps)
    if rollout.strategy == "canary" and shortest >= rollout.deadline_seconds:
        yield finding(
            "serving.rollout.deadline_seconds",
            "must be more than shadow_seconds and bake_seconds of every step "
            f"together (got {rollout.deadline_seconds:g} and {shortest:g}): no rollout could end well.",
        )


def _check_schedules(project: Project) -> Iterator[Finding]:
    for name in type(project.schedules).model_fields:
        expression = getattr(project.schedules, name)
        if expression is not None and not is_cron(expression):
            yield finding(
                f"schedules.{name}",
                f"must be a cron expression of five fields, or null (got {shown(expression)}). "
                'Example: "*/15 * * * *".',
            )


def is_cron(expression: str) -> bool:
    """Say whether a text is a cron expression of five numeric fields."""
    fields = expression.split()
    return len(fields) == 5 and all(
        _is_cron_part(part, low=low, high=high)
        for field, (low, high) in zip(fields, _CRON_RANGES, strict=True)
        for part in field.split(",")
    )


def _is_cron_part(part: str, *, low: int, high: int) -> bool:
    match = _CRON_PART.match(part)
    if match is None:
        return False
    first, last, step = (None if group is None else int(group) for group in match.groups())
    start = low if first is None else first
    end = start if last is None else last
    return low <= start <= end <= high and (step is None or step >= 1)
