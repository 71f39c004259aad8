"""`dethrone demo`: three rounds of the loop on real photos, with the real parts. Every number comes from the run."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipeline_tasks.adapters.airflow_rest import AirflowRest
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.core.settings import process_environment, projects_dir
from pipeline_tasks.demo import dataset as demo_material
from pipeline_tasks.demo.airflow_task_log import narrate_tasks
from pipeline_tasks.demo.labelers import label_open_tasks, let_one_person_finish
from pipeline_tasks.demo.narrator import Narrator
from pipeline_tasks.demo.progress import Progress, read_progress
from pipeline_tasks.demo.traffic import RequestOutcome, TrafficClient, Trickle, report_of, send_all
from pipeline_tasks.errors import PipelineError, ServiceUnavailable, TransientError
from pipeline_tasks.orchestration.resources import Resources, build_resources

PROJECT = "fashion"
RUN_TIMEOUT_SECONDS = 900.0
TRICKLE_PER_SECOND = 5.0
TIES_SECONDS = 4.0  # from one look for ties to the next
AWAY_SECONDS = 60.0  # so long may a part be away that the story asks: the supervisor starts it again
CHAPTERS = ("first_champion", "world_shifts", "held_back", "rolled_back")


T = TypeVar("T")


def patient(ask: Callable[[], T]) -> T:
    """Ask a part of the stack again while it is away for a moment.

    Raises:
        TransientError: it is still away after a minute.
    """
    began = time.monotonic()
    while True:
        try:
            return ask()
        except TransientError:
            if time.monotonic() - began > AWAY_SECONDS:
                raise
            time.sleep(1)


@dataclasses.dataclass
class Stage:
    """Settings and connections that the chapters share."""

    parts: Resources
    airflow: AirflowRest
    narrator: Narrator
    material: demo_material.Material
    client: TrafficClient
    labeler: str

    def progress(self) -> Progress:
        """Read where the project stands from the catalog."""
        return patient(lambda: read_progress(self.parts.database, PROJECT))


def tell(home: Path, *, labeler: str, size: str, rounds: int = len(CHAPTERS)) -> int:
    """Start the stack, run the rounds, print what was measured; 0 when every promise held."""
    narrator = Narrator()
    narrator.chapter(
        "The stack", "Airflow, Label Studio, an S3 store and the gateway, on this machine, from the package index"
    )
    _start(home, narrator)
    stage = _set_up(narrator, labeler=labeler, size=size)
    with narrate_tasks(stage.airflow, f"{PROJECT}__", say=narrator.step, since=utc_now()):
        for chapter in CHAPTERS[:rounds]:
            globals()[chapter](stage)
    return _close(stage)


def _start(home: Path, narrator: Narrator) -> None:
    from pipeline_tasks.stack.bring_up import start_stack

    def on_event(event: Any) -> None:
        if event.state in {"ready", "note", "failed"}:
            detail = f": {event.detail}" if event.detail else ""
            narrator.step(f"{event.part} {event.state}{detail}")

    began = time.monotonic()
    start_stack(home, projects_dir=projects_dir(), environment=process_environment(), on_event=on_event)
    narrator.fact("stack ready after", f"{time.monotonic() - began:.0f} s")


def _set_up(narrator: Narrator, *, labeler: str, size: str) -> Stage:
    parts = build_resources()
    secrets = parts.settings.home / "secrets"
    airflow = AirflowRest(
        parts.settings.airflow_url, username="admin", password=(secrets / "airflow_admin_password").read_text().strip()
    )
    material = demo_material.load_material(size)
    client = TrafficClient(
        parts.settings.gateway_url,
        project=PROJECT,
        api_key=(secrets / "gateway_api_key").read_text().strip(),
        truth=material.truth_by_image(),
    )
    if labeler == "me":
        let_one_person_finish(parts.settings.projects_dir / PROJECT / "project.yaml", say=narrator.step)
    _wait(lambda: f"{PROJECT}__train" in airflow.dag_ids(), "Airflow has loaded the project's DAGs", seconds=120)
    return Stage(parts, airflow, narrator, material, client, labeler)


def first_champion(stage: Stage) -> None:
    """(a) First data, labels, first champion, a prediction over HTTP."""
    say = stage.narrator
    say.chapter(
        "Round 1: the first champion",
        "Photos of clothes arrive in a folder; most were labeled before, some go to people",
    )
    written = demo_material.write_arrivals(stage.material, stage.parts.settings.projects_dir / PROJECT / "incoming")
    say.step(f"{written} new photos in projects/{PROJECT}/incoming ({len(stage.material.labeled)} came with a label)")
    before = stage.progress()
    if before.generation == 0:
        _trigger(stage, "ingest")
        expected = len(stage.material.unlabeled)
        _wait(lambda: stage.progress().num_pushed >= expected, "annotate was woken and pushed tasks", seconds=240)
        _label(stage)
        _until_judged(stage, before)
    _show_first_prediction(stage)


def _show_first_prediction(stage: Stage) -> None:
    from pipeline_tasks.orchestration.offline_predictions import offline_answer

    say = stage.narrator
    gateway = stage.parts.gateway
    _wait(lambda: gateway.followed_generation(PROJECT) >= 1, "the gateway follows the route", seconds=120)
    image, truth = stage.material.unlabeled[0]
    answer = stage.client.ask(image, user_key="visitor-0")
    label, confidence = patient(lambda: offline_answer(stage.parts, PROJECT, image))
    say.step(
        f"over HTTP: {answer.get('label')}, {float(str(answer.get('confidence', 0))):.4f}, by "
        f"{answer.get('model_version')}; offline: {label}, {confidence:.4f}; truth: {truth}"
    )
    same = answer.get("label") == label and abs(float(str(answer.get("confidence", 0))) - confidence) < 1e-4
    say.fact("prediction over HTTP equals the champion's offline output", "yes" if same else "NO")
    if not same:
        raise PipelineError("the served prediction must equal the champion's offline output (got another).")


def world_shifts(stage: Stage) -> None:
    """(b) The world shifts; people look; the contender beats the champion while requests keep coming."""
    say = stage.narrator
    degrees = f"{demo_material.ROTATION_DEGREES:.0f}"
    say.chapter("Round 2: the world shifts", f"The same photos, rotated by {degrees} degrees, reach the gateway")
    if stage.progress().generation >= 2:
        return
    batches = stage.material.rotated_batches()
    trickle = Trickle(stage.client, [image for image, _ in batches[0][:200]], per_second=TRICKLE_PER_SECOND)
    trickle.start()
    try:
        for batch in batches:
            before = stage.progress()
            _send(stage, batch, "rotated")
            _audit(stage)
            _label(stage)
            _until_judged(stage, before)
            if stage.progress().generation > before.generation:
                break
            say.step("the gate wants more evidence: more photos, more answers, the next contender")
            _trigger(stage, "monitor")  # what trickled in repeats photos with labels: it must not fill the next audit
        _trigger(stage, "monitor")
    finally:
        trickle.stop()
    if stage.progress().generation < 2:
        raise PipelineError("a contender that has learned the rotated photos must be promoted (got none in two tries).")
    _tell_quality(stage)
    _send(stage, batches[0], "rotated, again, now answered by the new champion")


def held_back(stage: Stage) -> None:
    """(c) A bad contender is held back by the gate."""
    say = stage.narrator
    say.chapter(
        "Round 3: a bad contender",
        "The photos become blurred. Somebody in a hurry trains by hand on the newest labels only",
    )
    if stage.progress().num_refused_contenders >= 1:
        return
    _send(stage, stage.material.blurred, "blurred")
    _audit(stage)
    _label(stage)
    before = stage.progress().generation
    run_id = _trigger(stage, "train", {"window": "newest", "force": True})
    verdict = stage.airflow.result(f"{PROJECT}__train", run_id, "judge") or {}
    for reason in verdict.get("reasons", []):
        say.step(f"the gate: {reason}")
    held = verdict.get("answer") != "promote" and stage.progress().generation == before
    say.fact("a contender that forgot was held back", f"{verdict.get('answer')}" if held else "NO")
    if not held:
        raise PipelineError("the gate must hold back the contender that was trained on the newest labels only.")


def rolled_back(stage: Stage) -> None:
    """(c) Roll back to the champion before, and return, while requests keep coming."""
    say = stage.narrator
    say.chapter("Rollback", "Back to the champion before, and forth again, while requests keep coming")
    trickle = Trickle(stage.client, [image for image, _ in stage.material.rotated[:200]], per_second=20.0)
    trickle.start()
    try:
        for _ in range(2):
            current = stage.progress().champion
            former = stage.progress().former_champion
            began = time.monotonic()
            _trigger(stage, "rollback", {"to_version": former, "reason": "demo: show the way back"})
            say.step(
                f"{current} -> {stage.progress().champion} ({time.monotonic() - began:.1f} s with Airflow around it)"
            )
    finally:
        trickle.stop()


def _send(stage: Stage, images: tuple[tuple[bytes, str], ...], what: str) -> None:
    before = len(stage.client.calls)
    send_all(stage.client, [image for image, _label in images])
    seen = report_of(stage.client.calls[before:])
    accuracy = ", ".join(f"{share:.3f} by {version}" for version, share in seen.accuracy_by_model.items())
    stage.narrator.step(
        f"{seen.num_requests} requests ({what}), {seen.num_failed} failed, p50 {seen.p50_ms:.0f} ms, p99 "
        f"{seen.p99_ms:.0f} ms; right: {accuracy}"
    )
    stage.narrator.fact(f"accuracy on {what} photos (the client knows the truth)", accuracy)


def _audit(stage: Stage) -> None:
    wanted = stage.progress().num_pushed + 1
    logged = patient(stage.parts.gateway.counters)["dethrone_predictions_logged_total"]
    _wait(
        lambda: stage.parts.gateway.counters().get("dethrone_log_shipped_records_total", 0) >= logged,
        "the gateway has shipped its log of what was just asked",
        seconds=120,
    )
    _trigger(stage, "monitor")
    _wait(lambda: stage.progress().num_pushed >= wanted, "audits and unsure answers are with the labelers", seconds=240)


def _tell_quality(stage: Stage) -> None:
    from pipeline_tasks.catalog.monitoring import MonitoringRepository

    text = patient(lambda: MonitoringRepository(stage.parts.database).quality_text(PROJECT))
    stage.narrator.step(f"live quality on audited predictions: {text}")
    stage.narrator.fact("live quality on audited predictions", text)


def _label(stage: Stage) -> None:
    """Let people answer, ties a further person too: scripted ones over Label Studio's API, or you in the browser."""
    _answer(stage, say=stage.narrator.step)
    for text, done in (
        ("Label Studio's webhook woke collect, and every answer is in the catalog", _all_but_ties),
        ("a further person has answered every tie", _ties_too),
    ):
        _wait(
            functools.partial(done, stage),
            text,
            # A killed collect runs again after 80 s (its heartbeat's end, the retry's pause), and may be killed twice.
            seconds=24 * 3600 if stage.labeler == "me" else 600,
            nudge=functools.partial(stage.airflow.trigger, f"{PROJECT}__collect"),
        )
    state = stage.progress()
    stage.narrator.step(f"labels: {state.num_labels} decided, {state.num_disputed} disputed (they stay out)")


def _answer(stage: Stage, *, say: Callable[[str], None]) -> None:
    by_hand = stage.labeler == "me"
    label_open_tasks(stage.parts, PROJECT, truth=stage.material.truth_by_item(), by_hand=by_hand, say=say)


def _all_but_ties(stage: Stage) -> bool:
    state = stage.progress()
    return state.num_outstanding == state.num_asked


def _ties_too(stage: Stage) -> bool:
    if stage.progress().num_outstanding == 0:
        return True
    _answer(stage, say=lambda _line: None)
    time.sleep(TIES_SECONDS)
    return stage.progress().num_outstanding == 0


def _trigger(stage: Stage, verb: str, conf: dict[str, Any] | None = None) -> str:
    dag_id = f"{PROJECT}__{verb}"
    run_id = stage.airflow.trigger(dag_id, conf)
    _watch(stage, dag_id, run_id)
    return run_id


def _watch(stage: Stage, dag_id: str, run_id: str) -> None:
    state = stage.airflow.watch(dag_id, run_id, timeout_seconds=RUN_TIMEOUT_SECONDS)
    if state != "success":
        raise PipelineError(
            f"{dag_id} must succeed (got {state}). Open {stage.parts.settings.airflow_url}/dags/{dag_id}."
        )


def _until_judged(stage: Stage, before: Progress) -> None:
    """Wait for the verdict on the contender that the labels woke, and for the route where it is to move."""

    def done() -> bool:
        now = stage.progress()
        moved = now.generation > before.generation
        return moved or (now.num_verdicts > before.num_verdicts and now.last_answer != "promote")

    _wait(done, "a contender was trained and judged", seconds=RUN_TIMEOUT_SECONDS)
    _tell_verdict(stage)


def _tell_verdict(stage: Stage) -> None:
    state = stage.progress()
    for reason in state.last_reasons:
        stage.narrator.step(f"the gate: {reason}")
    stage.narrator.step(f"champion: {state.champion}, generation {state.generation}")
    stage.narrator.fact(f"generation {state.generation}", f"{state.champion}: {state.last_reasons[0]}")


def _wait(condition: Callable[[], bool], text: str, *, seconds: float, nudge: Callable[[], Any] | None = None) -> None:
    """Wait for a state that the loop reaches by itself; halfway through, nudge once."""
    began = time.monotonic()
    nudged = nudge is None
    while not patient(condition):
        waited = time.monotonic() - began
        if waited > seconds:
            raise ServiceUnavailable(f"within {seconds:.0f} s this must hold (got: it does not): {text}.")
        if nudge is not None and not nudged and waited > min(seconds / 2, 45):
            nudge()
            nudged = True
        time.sleep(1)


def _close(stage: Stage) -> int:
    from pipeline_tasks.invariants import check

    calls: list[RequestOutcome] = stage.client.calls
    seen = report_of(calls)
    say = stage.narrator
    say.fact(
        "requests to the gateway", f"{seen.num_requests}, {seen.num_failed} failed {dict(seen.failures) or ''}".strip()
    )
    say.fact("latency at the client", f"p50 {seen.p50_ms:.0f} ms, p99 {seen.p99_ms:.0f} ms")
    broken = patient(lambda: check.check(stage.parts.database, stage.parts.store, now=utc_now()))
    say.fact(
        "invariants (nothing lost, nothing twice, one chain, all gated)",
        "hold" if not broken else f"{len(broken)} BROKEN",
    )
    for violation in broken[:10]:
        say.step(f"broken: {violation}")
    say.fact("time", f"{say.seconds:.0f} s")
    say.closing()
    say.table("Look at", _addresses(stage))
    return 1 if broken or seen.num_failed else 0


def _addresses(stage: Stage) -> list[tuple[str, str]]:
    settings = stage.parts.settings
    secrets = settings.home / "secrets"
    return [
        ("Airflow", f"{settings.airflow_url}  (admin, password in {secrets / 'airflow_admin_password'})"),
        ("Overview, reports", f"{settings.airflow_url}/dethrone/"),
        ("Label Studio", f"{settings.label_studio_url}  (admin@dethrone.local, {secrets / 'label_studio_password'})"),
        ("Gateway", f"{settings.gateway_url}/v1/projects/{PROJECT}  (key in {secrets / 'gateway_api_key'})"),
        ("From a shell", f"dethrone history {PROJECT}; dethrone report {PROJECT}; dethrone verify; make down"),
    ]
