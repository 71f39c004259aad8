"""The migration of a project's classes: a new schema version, and new versions of the decisions that it changes.

Nothing is overwritten. Annotations keep the name they were given, in the catalog and in Label Studio, and are read
through the schema versions. The catalog is changed in one transaction; Label Studio's configuration follows, and every
later annotate brings it up to date where this one was killed.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence

from pipeline_tasks.annotation.class_plan import ClassOptions, ClassPlan, plan_classes, plan_undo, refuse_orphans
from pipeline_tasks.annotation.collect import Collection
from pipeline_tasks.annotation.consensus import HUMAN_METHODS, ConsensusRule, next_decision, read_through
from pipeline_tasks.annotation.label_studio_projects import QUEUES, ensure, labeling_config
from pipeline_tasks.catalog.class_migrations import ClassMigrations, ClassUse
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.catalog.labels import AnnotationRow, DecisionRow, LabelRepository
from pipeline_tasks.catalog.schema_versions import SchemaRepository, SchemaVersion, names_now, same_classes
from pipeline_tasks.contracts import Attempt, Fence, Queue
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import LabelingTool
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.project.schema import LoadedProject

Rules = Mapping[Queue, ConsensusRule]


@dataclasses.dataclass(frozen=True, slots=True)
class Migration:
    """A plan with what it touches: the schema version to come, uses by class, decisions by item as they become."""

    project: str
    plan: ClassPlan
    version: SchemaVersion
    uses: Mapping[str, ClassUse]
    decisions: tuple[DecisionRow, ...]


def prepare(
    project: LoadedProject, options: ClassOptions, *, undo: bool, database: Database, by: str, now: dt.datetime
) -> Migration:
    """Return what a migration would do; nothing is changed.

    Raises:
        ConfigError: the options do not fit (CLASSES_INVALID), or labels would have no class (CLASSES_ORPHANED).
    """
    name = project.name
    history = SchemaRepository(database).history(name)
    if not history:
        raise ConfigError(
            f"{name} must have a class list that is registered (got none). There is nothing to migrate: the first "
            "annotate takes the list of project.yaml.",
            code="NOT_REGISTERED",
        )
    classes = project.config.labels.classes
    is_done = _is_done(history, classes, options, undo=undo)
    plan = ClassPlan(history[-1].classes, tuple(classes)) if is_done else _plan(history, classes, options, undo=undo)
    version = SchemaVersion(
        history[-1].version + (not plan.is_empty),
        plan.classes,
        now,
        plan.mapping,
        undoes=plan.undoes,
        changed_by=by,
    )
    migrations = ClassMigrations(database)
    uses = migrations.uses(name)
    former = names_now([*history, version])
    restored, anew = _undone(migrations, name, history, plan)
    lost = {*names_now(history), *plan.before}.difference(former, plan.classes).union(plan.unexplained)
    answered = migrations.answered(name, lost)
    orphans = sorted((migrations.decided(name, lost) - restored.keys() - anew).union(answered))
    refuse_orphans(plan, orphans, num_annotations=answered.total(), project=name)
    changed = [_restored(before, version) for before in restored.values()]
    if not plan.is_empty:
        labels = LabelRepository(database)
        touched = {row.item_id: row for row in migrations.touched(name, {*plan.mapping, *plan.unexplained})}
        touched |= labels.decisions(name, anew)
        disputed = {row.item_id for row in touched.values() if row.status == "disputed"}
        answers = labels.annotations(name, disputed | anew)
        changed += [
            row
            for item_id in sorted(touched.keys() - restored.keys())
            if (row := _migrated(touched[item_id], answers.get(item_id, []), former, version, rules=_rules(project)))
            is not None
        ]
    return Migration(name, plan, version, uses, tuple(sorted(changed, key=lambda row: row.item_id)))


def _undone(
    migrations: ClassMigrations, project: str, history: Sequence[SchemaVersion], plan: ClassPlan
) -> tuple[dict[str, DecisionRow], set[str]]:
    """Return the decisions that an undo gives back, by item, and the items whose people have answered anew since."""
    if plan.undoes is None:
        return {}, set()
    undone = history[plan.undoes - 1]
    made = migrations.made_by(project, undone, undos=[later for later in history if later.undoes is not None])
    answered = migrations.answered(project, [*plan.mapping, *plan.unexplained], since=undone.created_at)
    anew = {item_id for item_id, row in made.items() if item_id in answered and row.method in HUMAN_METHODS}
    return {item_id: row for item_id, row in made.items() if item_id not in anew}, anew


def _is_done(history: Sequence[SchemaVersion], classes: Sequence[str], options: ClassOptions, *, undo: bool) -> bool:
    """Tell whether the newest version is what the same command has made, or nothing is asked for."""
    if not same_classes(history[-1].classes, classes):
        return False
    if options == ClassOptions() and not undo:
        return True
    try:
        plan = _plan(history[:-1], classes, options, undo=undo)
    except (ConfigError, IndexError):
        return False
    return plan.mapping == history[-1].mapping and plan.undoes == history[-1].undoes


def _plan(history: Sequence[SchemaVersion], classes: Sequence[str], options: ClassOptions, *, undo: bool) -> ClassPlan:
    return plan_undo(history, classes, options) if undo else plan_classes(history, classes, options)


def migrate(
    project: LoadedProject,
    options: ClassOptions,
    *,
    undo: bool,
    labels: LabelRepository,
    labeling: LabelingTool,
    installation: str,
    attempt: Attempt,
    database: Database,
    by: str,
    now: dt.datetime,
) -> Migration:
    """Carry a migration out and return it; given again after it was killed, it ends the same.

    An undo collects first: a name that goes has to be explained while it stands in an answer that is not here yet.

    Raises:
        ConfigError: as in `prepare`.
        StaleAttempt: an annotate, a collect or another migration has begun meanwhile; nothing is written.
    """
    name = project.name
    fences = [database.acquire(f"{name}/{stage}", attempt, now=now) for stage in ("annotate", "collect")]
    if undo:
        _collect_under_names_of_now(project, labels=labels, labeling=labeling, fence=fences[1], now=now)
    migration = prepare(project, options, undo=undo, database=database, by=by, now=now)
    crash_point("migrate.classes.before")
    if not migration.plan.is_empty:
        ClassMigrations(database).apply(name, migration.version, migration.decisions, fences=fences)
    crash_point("migrate.classes.recorded")
    ensure(
        project,
        labels=labels,
        labeling=labeling,
        installation=installation,
        now=now,
        fence=fences[0],
        takes_back=True,
    )
    crash_point("migrate.project.after")
    return migration


def _collect_under_names_of_now(
    project: LoadedProject, *, labels: LabelRepository, labeling: LabelingTool, fence: Fence, now: dt.datetime
) -> None:
    """Collect under the classes in the catalog: project.yaml has those to go back to."""
    registered = labels.registration(project.name)
    if registered is None:
        return
    classes, _, ls_project_ids = registered
    former = SchemaRepository(labels.database).names_now(project.name)
    run = Collection(
        project=project,
        config=dataclasses.replace(labeling_config(project), choices=tuple(classes), former=former),
        labels=labels,
        items=ItemRepository(labels.database),
        labeling=labeling,
        fence=fence,
        now=now,
    )
    for queue in QUEUES:
        try:
            labeling.project(ls_project_ids[queue])
        except KeyError:
            continue  # deleted there, with what was not collected; it is made anew
        run.collect_queue(queue, ls_project_id=ls_project_ids[queue])


def _rules(project: LoadedProject) -> Rules:
    wanted = project.config.labels
    return {queue: ConsensusRule.of(wanted, queue) for queue in ("label", "exam")}


def _migrated(
    newest: DecisionRow,
    answers: Sequence[AnnotationRow],
    former: Mapping[str, str | None],
    version: SchemaVersion,
    *,
    rules: Rules,
) -> DecisionRow | None:
    """Return the next version of a decision under the new classes; one with `answers` is decided by them anew."""
    if answers:
        return next_decision(
            newest.item_id,
            read_through(answers, former, version.classes),
            rule=rules[answers[0].queue],
            previous=newest,
            schema_version=version.version,
            now=version.created_at,
        )
    label = former.get(newest.label or "", newest.label)
    if label == newest.label:
        return None
    return dataclasses.replace(
        newest,
        version=newest.version + 1,
        status="withdrawn" if label is None else "decided",
        label=label,
        schema_version=version.version,
        decided_at=version.created_at,
    )


def _restored(before: DecisionRow, version: SchemaVersion) -> DecisionRow:
    """Return a decision as it was, as the next version of the newest."""
    return dataclasses.replace(
        before, version=before.version + 1, schema_version=version.version, decided_at=version.created_at
    )


def as_lines(migration: Migration) -> list[str]:
    """Return the plan in lines: what happens to each class, and how much has it."""
    plan = migration.plan
    if plan.is_empty:
        return [f"The classes of {migration.project} stay: {', '.join(plan.classes)}."]
    undone = f", which takes back version {plan.undoes}" if plan.undoes is not None else ""
    lines = [f"{migration.project}: schema version {migration.version.version}{undone}"]
    width = max(map(len, [*plan.before, *plan.classes]))
    for name in plan.before:
        use = migration.uses.get(name, ClassUse())
        lines.append(
            f"  {name.ljust(width)}  {plan.becomes(name)}: {use.decided} decided labels, {use.annotations} "
            f"annotations, {use.exam_items} exam items, {use.source_labels} source labels"
        )
    lines += [f"  {name.ljust(width)}  added" for name in plan.added]
    withdrawn = sum(row.status == "withdrawn" for row in migration.decisions)
    lines.append(
        f"{len(migration.decisions)} labels get a new version, {withdrawn} of them without a class. Annotations stay "
        "as they were given."
    )
    return lines


def as_json(migration: Migration) -> dict[str, object]:
    """Return the plan as values."""
    plan = migration.plan
    return {
        "project": migration.project,
        "schema_version": migration.version.version,
        "undoes": plan.undoes,
        "classes": list(plan.classes),
        "added": plan.added,
        "becomes": {name: plan.becomes(name) for name in plan.before},
        "uses": {name: dataclasses.asdict(use) for name, use in migration.uses.items()},
        "num_labels": len(migration.decisions),
    }
