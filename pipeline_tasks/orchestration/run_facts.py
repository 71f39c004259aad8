"""Facts of one training run, from the catalog. Only reads."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.catalog.verdicts import ApprovalRepository, VerdictRepository
from pipeline_tasks.deployment.canary import ENDED
from pipeline_tasks.evaluation.open_epoch import told_reasons
from pipeline_tasks.orchestration.resources import Resources
from pipeline_tasks.orchestration.run_outcome import RunFacts


def run_facts(
    parts: Resources, project: str, *, run_id: str, verdict_id: str | None, opened_at: dt.datetime
) -> RunFacts:
    """Return what the catalog knows of one training run.

    `verdict_id` is what the run's judging came to, which may be the verdict of an earlier run on the same question;
    a person's answers count from the run's opening on. Its reasons are what is told of it now.
    """
    database = parts.database
    verdict = VerdictRepository(database).find(project, verdict_id) if verdict_id else None
    verdict_ref = verdict.ref if verdict else None
    answers = ApprovalRepository(database).history(project, verdict_ref.verdict_id) if verdict_ref else []
    answer = next((approval for approval in reversed(answers) if approval.at >= opened_at), None)
    mine = [
        record for record in ServingRepository(database).records(project) if record.attempt.startswith(f"{run_id}/")
    ]
    promoted = [record for record in mine if record.action == "promote"]
    ended = [record for record in mine if record.action in ENDED]
    model = t.model_versions.c
    with database.read() as connection:
        trained = connection.execute(
            sa.select(model.version).where(model.project == project, model.run_id == run_id)
        ).scalars().first()  # fmt: skip
    return RunFacts(
        contender_version=verdict_ref.contender_version if verdict_ref else trained,
        verdict_answer=verdict_ref.answer if verdict_ref else None,
        verdict_reasons=told_reasons(parts.database, parts.store, verdict) if verdict else (),
        approval=answer.decision if answer else None,
        promoted_generation=promoted[-1].route.generation if promoted else None,
        rollout_ended=(ENDED[ended[-1].action], ended[-1].reason) if ended else None,
    )
