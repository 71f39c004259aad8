"""An installation's steps from its first image to its third champion, one task or command each.

Steps of people (answers, new images, a lost disk) happen between the tasks and are not killed.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from bento_services.gateway.prediction_log.records import LogRecord, to_parts
from pipeline_tasks.backup import restore as backup_restore
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.contracts import Attempt, sha256_hex
from pipeline_tasks.core.ports import LabelingTask
from pipeline_tasks.deployment import canary
from pipeline_tasks.errors import PermanentError
from pipeline_tasks.orchestration import entrypoints, experiments
from tests.crashes.world import BAD_CANDIDATE, ENVIRONMENT, NOW, PROJECT, World
from tests.unit.training.scene import CLASSES, png, stripes

RESTORE = "command/restore"
NUM_FIRST, NUM_SECOND, NUM_SERVED = 90, 60, 30
YAML = """
version: 1
name: stripes
modality: image
sources: [{type: folder, name: incoming, path: incoming, label_pattern: '^labeled/(?P<label>[^/]+)/'}]
labels: {classes: [across, down, flat], imported_in_exam: true, annotators: 1, exam_annotators: 1}
split: {exam_share: 0.4}
checks: {min_side_pixels: 8}
recipe: {name: image_cnn, seed: 3, params: {image_size: 12, width: 4, hidden: 16, batch_size: 8, EPOCHS}}
train: {min_new_labels: 20}
gate: {limits: {latency_p99_ms: 100000}, exam: {min_items: 15}, previous_margin: 0.5}
approval: {when: APPROVAL}
serving: {ROLLOUT runtime: RUNTIME}
monitor: {audit_share: 0.6, max_audits: 20, max_uncertain: 3, min_audited: 5, window_audits: 20}
schedules: {ingest: null, annotate: null, collect: null, train: null, monitor: null}
"""
CANARY = "rollout: {strategy: canary, steps: [10], bake_seconds: 0, min_requests: 50, deadline_seconds: 60}, "
XML = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    + "".join(f'<Choice value="{name}"/>' for name in CLASSES)
    + "</Choices></View>"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One task, command, or thing that people do; only tasks and commands are killed."""

    name: str
    act: Callable[[World, Attempt], Any]
    is_killed: bool = True


def stage(name: str, *, run: str, **arguments: Any) -> Step:
    """Return a task of a DAG run; its arguments name what an earlier task returned, as `task.key`."""

    def act(world: World, attempt: Attempt) -> dict[str, Any]:
        results = world.results()
        given = {key: _given(value, results, run) for key, value in arguments.items()}
        try:
            return getattr(entrypoints, name)(PROJECT, attempt=attempt, parts=world.parts, **given)
        except PermanentError as error:
            return {"closed": error.code}

    return Step(f"{run}/{name}", act)


def _given(value: Any, results: Mapping[str, Any], run: str) -> Any:
    if not isinstance(value, str) or not value.startswith("<"):
        return value
    task, _, key = value[1:].partition(".")
    return results[f"{run}/{task}"][key]


def people(name: str, act: Callable[[World], None]) -> Step:
    return Step(f"people/{name}", lambda world, _attempt: act(world), is_killed=False)


def command(name: str, act: Callable[[World, Attempt], Any]) -> Step:
    return Step(f"command/{name}", act)


def write_project(
    world: World, *, epochs: int, approval: str = "never", rollout: str = "", runtime: str = "eager"
) -> None:
    folder = world.folder / "projects" / PROJECT
    (folder / "incoming").mkdir(parents=True, exist_ok=True)
    training = f"learning_rate: 0.01, epochs: {epochs}"
    words = {"EPOCHS": training, "APPROVAL": approval, "ROLLOUT ": rollout, "RUNTIME": runtime}
    text = YAML
    for word, value in words.items():
        text = text.replace(word, value)
    (folder / "project.yaml").write_text(text)
    (folder / "labeling.xml").write_text(XML)


def add_images(world: World, numbers: range, *, labeled: int = 2) -> None:
    """Put images into the source: each `labeled`-th comes without a label; two cannot be read, one is a double."""
    incoming = world.folder / "projects" / PROJECT / "incoming"
    for number in numbers:
        label = CLASSES[number % 3]
        folder = incoming / "labeled" / label if number % labeled else incoming
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:04}.png").write_bytes(png(stripes(label, seed=number)))
    (incoming / f"bad{numbers.start}.png").write_bytes(f"bad {numbers.start}".encode())
    (incoming / f"double{numbers.start}.png").write_bytes(png(stripes(CLASSES[numbers.start % 3], seed=numbers.start)))
    for path in incoming.rglob("*.png"):
        os.utime(path, (NOW.timestamp(), NOW.timestamp()))


def truth(world: World) -> dict[str, str]:
    labels = {sha256_hex(png(stripes(CLASSES[n % 3], seed=n))): CLASSES[n % 3] for n in range(NUM_FIRST + NUM_SECOND)}
    served = range(1000, 1000 + NUM_SERVED)
    return labels | {sha256_hex(png(stripes(CLASSES[n % 3], seed=n))): CLASSES[n % 3] for n in served}


def answer_all(world: World) -> None:
    """Answer every task that nobody has answered."""
    known = truth(world)
    answered = {annotation["task"] for annotation in world.labeling.state["annotations"].values()}
    for task in list(world.labeling.state["tasks"].values()):
        item_id = task["data"]["item_id"]
        if task["id"] not in answered and item_id in known:
            world.labeling.answer(task["project"], item_id, known[item_id])


def _queue(world: World) -> int:
    return LabelRepository(world.parts.database).registration(PROJECT)[2]["label"]


def trouble_in_label_studio(world: World) -> None:
    """Delete an answer, double a task, and change another one's item id."""
    tool, queue = world.labeling, _queue(world)
    first = min(tool.state["annotations"], key=int)
    tool.delete_annotation(first)
    tasks = sorted(tool.tasks_of(queue), key=lambda task: task["id"])
    tool.import_tasks(queue, [LabelingTask(tasks[0]["data"]["item_id"], dict(tasks[0]["data"]))])
    tool.edit_data(tasks[1]["id"], item_id="changed")


def traffic(world: World) -> None:
    """Let the gateway have logged answers of the champion, one of no image, and one feedback."""
    head = ServingRepository(world.parts.database).head_route(PROJECT)
    records = []
    for number in range(NUM_SERVED):
        label = CLASSES[number % 3 if number % 4 else 0]
        payload = png(stripes(CLASSES[(1000 + number) % 3], seed=1000 + number)) if number else b"no image"
        records.append(
            LogRecord(
                kind="prediction",
                prediction_id=f"p{number:05}",
                request_id=f"r{number:05}",
                project=PROJECT,
                at_ms=int((NOW + dt.timedelta(hours=1)).timestamp() * 1000) + number,
                status=200,
                client="key-1",
                latency_ms=3.0,
                model_version=head.champion_version,
                deployment_id=head.entries[0].deployment_id,
                label=label,
                confidence=0.4 + number / 60,
                scores="{}",
                needs_review=False,
                media_type="image/png",
                payload=payload,
                payload_sha256=sha256_hex(payload),
                generation=head.generation,
            )
        )
    records.append(
        dataclasses.replace(
            records[3], kind="feedback", request_id="f3", outcome_label="down", payload=None, payload_sha256=None
        )
    )
    for key, data in to_parts(records).items():
        world.store.put(key, data)


def lose_bentos(world: World) -> None:
    shutil.rmtree(world.folder / "home" / "bentoml")
    shutil.rmtree(world.folder / "home" / "serving" / "golden")


def start_experiment(world: World, attempt: Attempt) -> Any:
    history = [route.champion_version for route in ServingRepository(world.parts.database).history(PROJECT)]
    other = next(route for route in history if route != history[-1])
    return experiments.start(
        world.parts,
        PROJECT,
        attempt=attempt,
        version=other,
        share=20,
        metric="correct",
        confidence=0.95,
        matures_after="1h",
        actor="ops",
    )


def fail_candidates(world: World) -> None:
    """Let whoever comes beside the champion from now on fail, and models be served without a graph again."""
    (world.folder / BAD_CANDIDATE).touch()
    write_project(world, epochs=8, rollout=CANARY)


def stop_experiment(world: World, attempt: Attempt) -> Any:
    return experiments.stop(world.parts, PROJECT, attempt=attempt, actor="ops", reason="enough")


def ship_that_dies(world: World) -> None:
    """Begin a rollout whose task dies for good: no attempt of it comes any more."""

    def die(*_: object) -> str:
        raise _DiedError

    canary._watch, watch = die, canary._watch
    try:
        release_id = world.results()["t4/release"]["release_id"]
        entrypoints.ship(PROJECT, attempt=Attempt("t4", "ship"), parts=world.parts, release_id=release_id)
    except _DiedError:
        canary._watch = watch


class _DiedError(Exception):
    """The end of a process, for those who still need it."""


def back_up(world: World, _attempt: Attempt) -> None:
    backup_restore.build_resources = lambda: world.parts
    backup_restore.save(world.folder / "backups", with_secrets=True)


def restore(world: World, _attempt: Attempt) -> None:
    """Restore the backup beside the installation, as onto another machine."""
    place = world.folder / "restored"
    backup_restore.build_resources = lambda _settings: World(place).parts
    backup_restore.restore(
        world.folder / "backups",
        name=None,
        home_dir=place / "home",
        projects_dir=place / "projects",
        environment=ENVIRONMENT,
    )


def round_of(run: str, *, approve: bool = False, ship: Step | None = None, **changes: Any) -> tuple[Step, ...]:
    """Return the tasks of the train DAG; `changes` are the run's parameters."""
    seed = {"seed": changes["seed"]} if changes else {}
    asked = (
        stage(
            "record_approval",
            run=run,
            verdict_id="<judge.verdict_id",
            decision="approve",
            by="ann",
            reason="looks good",
            at=NOW,
            requested_by="ben",
        ),
    )
    return (
        stage("plan_training", run=run, force=bool(changes)),
        stage("snapshot", run=run),
        stage("train", run=run, snapshot_id="<snapshot.snapshot_id", **seed),
        stage("judge", run=run, version="<train.version", epochs="<snapshot.epochs"),
        stage("approval_request", run=run, verdict_id="<judge.verdict_id"),
        *(asked if approve else ()),
        stage("release", run=run, verdict_id="<judge.verdict_id"),
        ship or stage("ship", run=run, release_id="<release.release_id"),
        stage("finish", run=run, verdict_id="<judge.verdict_id"),
    )


def _second_images(world: World) -> None:
    write_project(world, epochs=8, rollout=CANARY, runtime="onnx")
    add_images(world, range(NUM_FIRST, NUM_FIRST + NUM_SECOND))


def _first_images(world: World) -> None:
    write_project(world, epochs=2, approval="always")
    add_images(world, range(NUM_FIRST))


LOOP: tuple[Step, ...] = (
    people("images", _first_images),
    stage("ingest", run="i1"),
    stage("annotate", run="a1"),
    people("answers", answer_all),
    stage("collect", run="c1"),
    *round_of("t1", approve=True),
    people("traffic", traffic),
    stage("monitor", run="m1"),
    people("more images", _second_images),
    people("trouble", trouble_in_label_studio),
    stage("ingest", run="i2"),
    stage("annotate", run="a2"),
    people("more answers", answer_all),
    stage("collect", run="c2"),
    *round_of("t2"),
    stage("batch_predict", run="b1"),
    command("experiment start", start_experiment),
    command("experiment stop", stop_experiment),
    people("a lost disk", lose_bentos),
    stage("rollback", run="r1", to_version=None, reason="complaints", actor="ops"),
    stage("monitor", run="m2"),
    people("a candidate that fails", fail_candidates),
    *round_of("t3", seed=11),
    people("a better one", lambda world: (world.folder / BAD_CANDIDATE).unlink()),
    *round_of("t4", seed=12, ship=people("a ship that dies", ship_that_dies)),
    command("backup", back_up),
    Step(RESTORE, restore),
)
