"""The train DAG's stages one after the other in one process: `dethrone train`, and what benchmarks compare with."""

from __future__ import annotations

import contextlib
import logging
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline_tasks.catalog.model_versions import ModelRepository
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.contracts import SHELL_RUN, Attempt
from pipeline_tasks.errors import GateClosed, PipelineError
from pipeline_tasks.evaluation import ladder
from pipeline_tasks.evaluation.approval import read_verdict
from pipeline_tasks.evaluation.gate_metrics import metrics_among
from pipeline_tasks.evaluation.open_epoch import held_back
from pipeline_tasks.orchestration import entrypoints
from pipeline_tasks.orchestration.concurrent_runs import close_run, train_alone
from pipeline_tasks.orchestration.deploy import end_abandoned_rollout
from pipeline_tasks.orchestration.evaluate import verdict_record
from pipeline_tasks.orchestration.project_notes import unknown_values_line
from pipeline_tasks.orchestration.resources import Resources, build_resources
from pipeline_tasks.training.progress import duration

logger = logging.getLogger(__name__)


def train_to_serve(
    project: str,
    *,
    force: bool = False,
    window: str = "all",
    parts: Resources | None = None,
    on_stage: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Run plan to finish; `on_stage(name, seconds)` hears how long each took. `figures` in the result say what it gave.

    Raises:
        PipelineError: a stage could not go on; the run is closed with that reason, as rejected where a gate said no.
    """
    parts = parts or build_resources()
    run_id = f"{SHELL_RUN}{secrets.token_hex(6)}"
    took: dict[str, float] = {}

    def call(stage: str, **arguments: Any) -> dict[str, Any]:
        logger.info("%s: %s begins", project, stage)
        began = time.monotonic()
        attempt = Attempt(run_id=run_id, task=stage)
        result: dict[str, Any] = getattr(entrypoints, stage)(project, attempt=attempt, parts=parts, **arguments)
        took[stage] = round(time.monotonic() - began, 3)
        logger.info("%s: %s took %s", project, stage, duration(took[stage]))
        if on_stage:
            on_stage(stage, took[stage])
        return result

    with train_alone(parts, project) as alone:
        if not alone:
            return {"idle": f"`dethrone train {project}` is at work in another shell"}
        try:
            ended, verdict_id = _stages(call, project, force=force, window=window)
        except BaseException as error:
            with contextlib.suppress(PipelineError):
                end_abandoned_rollout(parts, project, attempt=Attempt(run_id=run_id, task="finish"))
            close_run(parts, project, run_id=run_id, error=error)
            raise
    if verdict_id is None:
        return ended
    return {**ended, "figures": figures_of(parts, project, verdict_id=verdict_id), "seconds": took}


def _stages(
    call: Callable[..., dict[str, Any]], project: str, *, force: bool, window: str
) -> tuple[dict[str, Any], str | None]:
    """Run the stages and return the last one's result, and the verdict, if it came that far."""
    plan = call("plan_training", force=force)
    if plan.get("idle"):
        return plan, None
    frozen = call("snapshot", window=window)
    model = call("train", snapshot_id=frozen["snapshot_id"])
    verdict = call("judge", version=model["version"], epochs=frozen["epochs"])
    request = call("approval_request", verdict_id=verdict["verdict_id"])
    if request.get("needed"):
        raise GateClosed(
            f"approval.when asks a person before {project} ships; a shell cannot. Trigger {project}__train in Airflow.",
            code="APPROVAL_MISSING",
        )
    if not request.get("idle"):
        built = call("release", verdict_id=verdict["verdict_id"])
        call("ship", release_id=built["release_id"])
    return call("finish", verdict_id=verdict["verdict_id"]), str(verdict["verdict_id"])


def figures_of(parts: Resources, project: str, *, verdict_id: str) -> dict[str, Any]:
    """Return what a training came to: both models and the constant answer on the exam, the verdict, what serves now.

    While the exam's newest epoch is open, `told` is there instead of the figures of two models.
    """
    record = verdict_record(parts, project, verdict_id)
    document = read_verdict(parts.store, record)
    current = document["evidence"]["current"]
    head = ServingRepository(parts.database).head_route(project)
    model = ModelRepository(parts.database).get(project, record.ref.contender_version)
    roles = [role for role in ("contender", "champion") if current[role] is not None]
    held = held_back(parts.database, parts.store, record)
    told = [metric.name for metric in metrics_among(current["contender"])]
    scores: dict[str, Any] = {metric: {role: current[role][metric] for role in roles} for metric in told}
    scores["constant"] = {name: (current.get("constant") or {}).get(name) for name in ("label", *told)}
    if held is not None and not ladder.tells_figures(document):
        scores = {"told": held.rung.text if held.rung is not None else ladder.LATER}
    return {
        "contender": record.ref.contender_version,
        "exam": {"epoch": current["epoch"], "num_items": current["num_items"]},
        **scores,
        "labels": document["evidence"].get("labels") if held is None else ladder.told_labels(document),
        "metric": document["question"]["policy"]["metric"],
        "verdict": record.ref.answer,
        "verdict_id": verdict_id,
        "unknown_values": unknown_values_line(project, model),
        "headline": (held.said if held is not None else document)["decision"]["headline"],
        "serves": head.champion_version if head else None,
        "generation": head.generation if head else 0,
    }


def closing_lines(project: str, outcome: Mapping[str, Any]) -> str:
    """Return a training's end for people: its outcome, its figures, what serves now, and how long it took."""
    if outcome.get("idle"):
        return f"Nothing was trained: {outcome['idle']}"
    figures, took = outcome["figures"], outcome["seconds"]
    exam = figures["exam"]
    lines = [f"{str(outcome['outcome']).capitalize()}: {outcome['reason']}"]
    lines.append(f"On exam {exam['epoch']} of {exam['num_items']:,} items:")
    if "told" in figures:
        lines.append(f"  {figures['told']}")
    else:
        lines += [f"  {metric.title}: {_scores(figures, metric.name)}" for metric in metrics_among(figures)]
    lines += _open_items(figures["labels"])
    lines += [figures["unknown_values"]] if figures["unknown_values"] else []
    lines.append(f"Verdict {figures['verdict_id'][:12]}: {figures['headline']}")
    serves = f"{figures['serves']} (generation {figures['generation']})" if figures["serves"] else "nothing yet"
    lines.append(f"Serves now: {serves}. The report: `dethrone report {project} {figures['verdict_id'][:12]}`")
    longest = sorted(took, key=lambda stage: -took[stage])[:4]
    parts = ", ".join(f"{stage} {duration(took[stage])}" for stage in longest)
    lines.append(f"Took {duration(sum(took.values()))}: {parts}")
    return "\n".join(lines)


def _scores(figures: Mapping[str, Any], metric: str) -> str:
    parts = [f"{role} {_interval(score)}" for role, score in figures[metric].items()]
    constant = figures["constant"]
    if constant["label"] is not None:
        parts.append(f"always {constant['label']} {100 * constant[metric]:.1f} %")
    return ", ".join(parts)


def _open_items(open_items: Mapping[str, Any] | None) -> list[str]:
    if open_items is None:
        return []
    said = f"  open items: {open_items['num_open']} ({100 * open_items['share']:.1f} %)"
    parts = [
        f"{role} {_bounds(open_items[role])}" for role in ("contender", "champion") if open_items[role] is not None
    ]
    return [f"{said}; all wrong or right: {', '.join(parts)} accuracy" if open_items["num_open"] and parts else said]


def _bounds(bounds: Mapping[str, float | None]) -> str:
    if bounds["low"] is None or bounds["high"] is None:
        return "not computable"
    return f"{100 * bounds['low']:.1f} to {100 * bounds['high']:.1f} %"


def _interval(score: Mapping[str, float | None]) -> str:
    if score["estimate"] is None or score["low"] is None or score["high"] is None:
        return "not computable"
    return f"{100 * score['estimate']:.1f} % ({100 * score['low']:.1f} to {100 * score['high']:.1f})"


@contextmanager
def shown_progress() -> Iterator[None]:
    """Print what the stages say on standard error while the block runs, above a progress bar where there is one."""
    handler, ours = _StandardError(), logging.getLogger("pipeline_tasks")
    before = ours.level, ours.propagate
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.level, ours.propagate = before


class _StandardError(logging.Handler):
    """Prints to what is standard error at that moment: a progress bar puts itself there."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201
