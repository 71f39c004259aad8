"""Release and ship with their resources."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pipeline_tasks.adapters.inference_http import ask_server
from pipeline_tasks.catalog.datasets import DatasetRepository
from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.catalog.set_aside import SetAsideRepository
from pipeline_tasks.catalog.verdicts import ApprovalRepository, ReleaseRepository, VerdictRepository
from pipeline_tasks.contracts import Attempt, DeploymentRef, ModelRef, ReleaseRef, Route
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.core.ports import DeploymentTarget, ObjectStore
from pipeline_tasks.deployment import release as release_task
from pipeline_tasks.deployment import task as deployment_task
from pipeline_tasks.deployment.bento_packager import BentoPackager
from pipeline_tasks.deployment.canary import CanaryRollout, is_abandoned, return_abandoned, roll_out
from pipeline_tasks.deployment.golden_requests import GoldenAnswer, as_asked, golden_answers, spread_over, tolerance_of
from pipeline_tasks.deployment.route_plan import deployment_id_of
from pipeline_tasks.deployment.route_settings import route_config
from pipeline_tasks.errors import GateClosed, InputError, PermanentError, PipelineError
from pipeline_tasks.evaluation import approval
from pipeline_tasks.evaluation.verdict_consistency import judged_weights
from pipeline_tasks.ingest.item_reader import read_items
from pipeline_tasks.models.artifact import MANIFEST_NAME, read_manifest
from pipeline_tasks.monitoring.daily_traffic import newest_day
from pipeline_tasks.orchestration.evaluate import items_of, model_of, verdict_record
from pipeline_tasks.orchestration.golden_cache import keep_golden, kept_golden
from pipeline_tasks.orchestration.ledger_anchors import note_head
from pipeline_tasks.orchestration.resources import Resources, lock_hash, lock_path
from pipeline_tasks.project.schema import LoadedProject
from pipeline_tasks.validation import task as validation_task


def build_release(parts: Resources, project: str, *, attempt: Attempt, verdict_id: str) -> ReleaseRef:
    """Build and check the release of a verdict that may be promoted.

    Raises:
        GateClosed: the verdict does not allow it, the lock differs from the one trained with, or the check failed.
    """
    loaded = parts.project(project)
    require_promotable(parts, loaded, verdict_id)
    note_head(parts, project)
    model = _judged_model(parts, project, verdict_id)
    _require_same_lock(parts, project, model)
    scratch = parts.settings.scratch_dir / "release" / attempt.holder.replace("/", "_").replace(":", "_")
    target = target_of(parts, loaded)
    release_id = release_task.release_id_of(model, verdict_id=verdict_id, lock_hash=lock_hash())
    with release_task.contender_removed(target, deployment_id_of(project, release_id)):
        release = release_task.release(
            loaded,
            model,
            verdict_id=verdict_id,
            lock_hash=lock_hash(),
            records=ReleaseRepository(parts.database),
            store=parts.store,
            packager=BentoPackager(parts.settings.bentoml_home, lock_path=lock_path()),
            start=lambda built: deployment_task.start_release(loaded, built, target=target),
            ask=lambda *asked: ask_server(parts.settings.inference_headers, *asked),
            golden=lambda: golden_items(parts, project, model),
            fence=parts.fence(project, "release", attempt),
            run_id=attempt.run_id,
            now=utc_now(),
            scratch=scratch,
        )
    note_head(parts, project)
    return release


def target_of(parts: Resources, loaded: LoadedProject) -> DeploymentTarget:
    """Return where a project's releases run."""
    kind = loaded.config.serving.target
    if kind == "process":
        return cast("DeploymentTarget", parts.target)
    from pipeline_tasks.orchestration import container_targets

    return (
        container_targets.docker_target(parts, loaded)
        if kind == "docker"
        else container_targets.kubernetes_target(parts, loaded)
    )


def require_promotable(parts: Resources, loaded: LoadedProject, verdict_id: str) -> None:
    """Raise GateClosed unless the verdict may ship now."""
    head = ServingRepository(parts.database).head_route(loaded.name)
    require_promotable_after(parts, loaded, verdict_id, head_version=head.champion_version if head else None)


def require_promotable_after(
    parts: Resources, loaded: LoadedProject, verdict_id: str, *, head_version: str | None
) -> None:
    """Raise GateClosed unless the verdict may ship while `head_version` is the champion."""
    approval.require_promotable(
        loaded,
        verdict_id,
        head_version=head_version,
        verdicts=VerdictRepository(parts.database),
        approvals=ApprovalRepository(parts.database),
        ledger=LedgerRepository(parts.database),
        store=parts.store,
    )


def _judged_model(parts: Resources, project: str, verdict_id: str) -> ModelRef:
    record = verdict_record(parts, project, verdict_id)
    model = model_of(parts, project, record.ref.contender_version)
    release_task.require_judged(model, weights=judged_weights(parts.store.get(f"{record.ref.object_key}/verdict.json")))
    return model


def _require_same_lock(parts: Resources, project: str, model: ModelRef) -> None:
    from pipeline_tasks.catalog.model_versions import ModelRepository

    record = ModelRepository(parts.database).get(project, model.version)
    release_task.require_same_lock(model, trained_with=record.lock_hash if record else "nothing", here=lock_hash())


def golden_items(parts: Resources, project: str, model: ModelRef) -> Sequence[release_task.GoldenItem]:
    """Return exam items spread over the exam, with the offline answer of the stored model version."""
    from pipeline_tasks.evaluation.scoring import load_stored

    exam = DatasetRepository(parts.database).exams(project)[0]
    frozen = validation_task.read_exam(parts.store, exam)["item_id"].to_pylist()
    unusable = SetAsideRepository(parts.database).unusable(project, frozen)
    item_ids = spread_over([item_id for item_id in frozen if item_id not in unusable])
    loaded = load_stored(parts.store)(model)
    pairs, inputs = [], []
    for item, data in read_items(parts.store, items_of(parts, project, item_ids)):
        with contextlib.suppress(InputError):  # of an exam from before the items check decoded
            inputs.append(loaded.decode(data))
            pairs.append((item, data))
    probabilities = list(loaded.predict(inputs)) if inputs else []
    return [
        release_task.GoldenItem(
            payload=data,
            media_type=item.media_type,
            expected=GoldenAnswer(
                item.item_id,
                dict(zip(loaded.classes, map(float, row), strict=True)),
                tolerance_of(loaded.runtime),
                asked=(item.location.object_key, item.location.offset, len(data), item.content_id),
            ),
        )
        for (item, data), row in zip(pairs, probabilities, strict=True)
    ]


def golden_again(parts: Resources, release: ReleaseRef, *, store: ObjectStore) -> list[release_task.GoldenItem]:
    """Return the requests that a recorded release was checked with, and the answers it has to give.

    They come from beside the server, and from the store where they are not there yet.
    """
    kept = kept_golden(parts.settings.home, release)
    if kept is not None:
        return kept
    stored = golden_answers(store.get(release_task.golden_key(release)))
    answers = {answer.item_id: answer for answer in stored}
    items = [as_asked(item, answers[item.item_id]) for item in items_of(parts, release.project, list(answers))]
    golden = [
        release_task.GoldenItem(payload=data, media_type=item.media_type, expected=answers[item.item_id])
        for item, data in read_items(store, items)
    ]
    keep_golden(parts.settings.home, release, golden)
    return golden


def ship_release(parts: Resources, project: str, *, attempt: Attempt, release_id: str) -> Route:
    """Give a recorded release its project's traffic."""
    loaded = parts.project(project)
    facts = release_facts(parts, project, release_id)
    release = ReleaseRef(**{field.name: facts[field.name] for field in dataclasses.fields(ReleaseRef)})
    restore_bento(parts, release)
    learned = learned_classes(parts, project, release.model_version)
    rollout = CanaryRollout(
        project=loaded,
        serving=ServingRepository(parts.database),
        target=target_of(parts, loaded),
        gateway=parts.gateway,
        attempt=attempt,
        clock=utc_now,
        release=release,
        require_promotable=functools.partial(require_promotable, parts, loaded, release.verdict_id),
        check=functools.partial(check_answers, parts),
        fence=parts.fence(project, "ship", attempt),
        traffic=lambda: newest_day(parts.store, project, now=utc_now()),
        learned=learned,
    )
    try:
        note = roll_out(rollout)
        route = deployment_task.ship(
            rollout,
            release,
            require_promotable=rollout.require_promotable,
            route_config=route_config(loaded, learned=learned),
            fence=rollout.fence,
            note=note,
        )
        with contextlib.suppress(PipelineError, KeyError):  # for a rollback while the store is away
            golden_again(parts, release, store=parts.store)
        return route
    finally:
        note_head(parts, project)


def learned_classes(parts: Resources, project: str, version: str) -> Sequence[str]:
    """Return the classes that a version learned; those of project.yaml may be others by now."""
    key = model_of(parts, project, version).object_key.rstrip("/")
    return read_manifest(parts.store.get(f"{key}/{MANIFEST_NAME}")).config.classes


def end_abandoned_rollout(parts: Resources, project: str, *, attempt: Attempt) -> None:
    """Return to the champion where a rollout of this run stands still because its task died for good."""
    serving = ServingRepository(parts.database)
    head = serving.head_record(project)
    if head is None or not is_abandoned(head, attempt):
        return  # as ever; the gateway need not be there
    loaded = parts.project(project)
    context = deployment_task.RouteContext(loaded, serving, target_of(parts, loaded), parts.gateway, attempt, utc_now)
    returned = return_abandoned(context, fence=lambda: parts.fence(project, "ship", attempt))
    if returned is not None:
        note_head(parts, project)


def check_answers(parts: Resources, release: ReleaseRef, deployment: DeploymentRef) -> None:
    """Ask a started server the requests that its release was checked with; GateClosed for any other answer."""
    golden = golden_again(parts, release, store=parts.store)
    release_task.require_golden_answers(
        release, deployment, golden, ask=functools.partial(ask_server, parts.settings.inference_headers)
    )


def release_of_version(parts: Resources, project: str, version: str) -> ReleaseRef:
    """Return the newest release of a model version; GateClosed if there is none: it never passed the gate."""
    release = ReleaseRepository(parts.database).of_model(project, version)
    if release is None:
        raise GateClosed(
            f"{version} must have a release of {project} to serve (got none). Let it pass the gate; if it did, "
            "`dethrone verify` says what became of its release.",
            code="NO_RELEASE",
        )
    return release


def restore_bento(parts: Resources, release: ReleaseRef, *, store: ObjectStore | None = None) -> None:
    """Bring a release's bento back where this machine has lost it; refuse one that is not what was checked."""
    release_task.restore_bento(
        release,
        release_facts(parts, release.project, release.release_id),
        store=store or parts.store,
        packager=BentoPackager(parts.settings.bentoml_home, lock_path=lock_path()),
        scratch=parts.settings.scratch_dir,
    )


def release_facts(parts: Resources, project: str, release_id: str) -> Mapping[str, Any]:
    """Return a recorded release's whole row; PermanentError if there is none."""
    facts = ReleaseRepository(parts.database).facts(project, release_id)
    if facts is None:
        raise PermanentError(f"release_id must be a release of {project} (got {release_id}).", code="RELEASE_UNKNOWN")
    return facts
