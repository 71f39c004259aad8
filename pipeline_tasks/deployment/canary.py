"""A rollout in steps: beside the champion first, judged against it at each step, back to it by itself when it is worse.

The route tells where a rollout stands, and the gateway counts by its generation: a retry goes on from the step that an
earlier attempt committed, with the requests of that step. Who else moves the route (a person's rollback) wins.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pipeline_tasks.catalog.routes import RouteRecord
from pipeline_tasks.contracts import Attempt, DeploymentRef, Fence, ReleaseRef, Route, RouteAction
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.deployment.canary_analysis import (
    EMPTY,
    Look,
    Phase,
    Rule,
    decide,
    due_seconds,
    next_phase,
    phase_at,
    phases_of,
    rule_of,
    seconds_for_steps,
    share_of,
)
from pipeline_tasks.deployment.canary_mirrors import judge_by
from pipeline_tasks.deployment.canary_schedule import Traffic, require_end, span
from pipeline_tasks.deployment.candidate_routes import commit_beside, give_back
from pipeline_tasks.deployment.route_plan import champion_entry, deployment_id_of, route_beside
from pipeline_tasks.deployment.task import RouteContext, refuse_experiment, refuse_undone, settle, start_release
from pipeline_tasks.errors import DataCorrupt, GateClosed, LostRace, ServiceUnavailable

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
SAY_EVERY_LOOKS = 15
ROLLING: tuple[RouteAction, ...] = ("shadow", "canary")
ENDED: dict[str, str] = {"canary_failed": "CANARY_FAILED", "canary_inconclusive": "CANARY_INCONCLUSIVE"}


@dataclasses.dataclass(frozen=True)
class CanaryRollout(RouteContext):
    """One release on its way beside the champion.

    `pause` waits between two looks; `traffic` is asked for the requests of the newest day, None where nobody knows.
    `learned` are the release's classes, none: those of project.yaml.
    """

    release: ReleaseRef
    require_promotable: Callable[[], Any]
    check: Callable[[ReleaseRef, DeploymentRef], object]
    fence: Fence
    pause: Callable[[float], None] = time.sleep
    traffic: Callable[[], Traffic | None] = lambda: None
    learned: Sequence[str] = ()

    @property
    def deployment_id(self) -> str:
        return deployment_id_of(self.project.name, self.release.release_id)

    def records(self) -> list[RouteRecord]:
        return self.serving.records(self.project.name)


def roll_out(rollout: CanaryRollout) -> str:
    """Take a release through the steps of its project; return what the promotion's reason says of them.

    Returns at once where all traffic goes in one commit, where nobody serves yet, or where the release serves already.

    Raises:
        ConfigError: it cannot end by its deadline at the traffic of the newest day; nothing has been started.
        GateClosed: it failed, stayed undecided to the deadline, or somebody else moved the route; the champion serves.
    """
    phases = phases_of(rollout.project.config.serving.rollout)
    records = rollout.records()
    if not records or records[-1].route.champion_version == rollout.release.model_version:
        return ""
    if not phases:
        _refuse_ended(rollout, records)  # also where project.yaml asks for no steps by now
        return ""
    refuse_undone(records, rollout.release, deployment_id=rollout.deployment_id)
    refuse_experiment(records, rollout.release)
    _refuse_ended(rollout, records)
    if _is_rolling(rollout, records[-1]):
        deployment = _start(rollout, records[-1])
    else:
        why = _expected(rollout)
        deployment = _start(rollout, records[-1])
        _step(rollout, deployment, records[-1].route, phases[0], rule=_rule(rollout, records), why=why)
    return _watch(rollout, deployment)


def _expected(rollout: CanaryRollout) -> str:
    """Return what is said of the time that a rollout takes, before it begins."""
    traffic = rollout.traffic()
    if traffic is None:
        logger.info("the rollout of %s: no request is known by which to say its time", rollout.release.model_version)
        return ""
    forecast = require_end(rollout.project.config.serving.rollout, traffic)
    return f"; at the traffic of the newest day ({traffic.text}) it takes {span(forecast.seconds)} at least"


def _rule(rollout: CanaryRollout, records: Sequence[RouteRecord]) -> Rule:
    """Return the rule that a rollout began with; what began before it was written down has the first one."""
    if not _is_rolling(rollout, records[-1]):
        return rule_of(rollout.project.config.serving.rollout)
    rule: Rule = records[-1].serving.get("rollout", {}).get("rule", "steps/1")
    return rule


def _phases(rollout: CanaryRollout, records: Sequence[RouteRecord], rule: Rule) -> list[Phase]:
    """Return the phases of a rollout under way: its mirrors are one of them where it has or had them."""
    phases = phases_of(rollout.project.config.serving.rollout)
    mirrored = rule == "mirrors/1" or any(record.action == "shadow" for record in _mine(rollout, records))
    return [phase for phase in phases if mirrored or not phase.is_shadow]


def _watch(rollout: CanaryRollout, deployment: DeploymentRef) -> str:
    """Look, and hold, step on, or return to the champion, until there is no step left."""
    looks = 0
    while True:
        records = rollout.records()
        _require_ours(rollout, records)
        head = records[-1]
        rule = _rule(rollout, records)
        phases = _phases(rollout, records, rule)
        phase = phase_at(phases, share_of(head.route, rollout.deployment_id) or 0)
        now = rollout.clock()
        elapsed = (now - head.created_at).total_seconds()
        left = (_deadline(rollout, records) - now).total_seconds()
        due = due_seconds(phases, phase, seconds_left=elapsed + left)
        look = _look(rollout, head.route, phase, rule=rule, num_phases=len(phases), is_due=elapsed >= due)
        for_steps = seconds_for_steps(phases, phase) if rule == "mirrors/1" and phase.is_shadow else 0.0
        step = decide(look, phase, elapsed_seconds=elapsed, seconds_left=left - for_steps)
        if looks % SAY_EVERY_LOOKS == 0 or step != "hold":
            logger.info("%s: %s, %s: %s", _name(rollout, phase), look.answer, step, "; ".join(look.reasons))
        numbers = "; ".join(look.reasons)
        if step == "fail":
            _end(rollout, "canary_failed", f"{_name(rollout, phase)} failed: {numbers}")
        elif step == "give_up":
            seconds = rollout.project.config.serving.rollout.deadline_seconds
            undecided = f"{_name(rollout, phase)} stayed undecided to the deadline of {seconds:g} s: {numbers}"
            _end(rollout, "canary_inconclusive", undecided)
        elif step == "next":
            _require_gate(rollout, phase)
            why = f"; {_what(phase)} passed: {numbers}"
            following = next_phase(phases, phase.share)
            if following is None:
                return why
            _step(rollout, deployment, head.route, following, rule=rule, why=why)
        else:
            looks += 1
            rollout.pause(LOOK_SECONDS)


def _require_gate(rollout: CanaryRollout, phase: Phase) -> None:
    """Return to the champion where the gate has closed since the rollout began: a person may have said no.

    So it is where the stored verdict is another one by now.
    """
    try:
        rollout.require_promotable()
    except (GateClosed, DataCorrupt) as error:
        _end(rollout, "canary_failed", f"{_name(rollout, phase)} passed, but the gate has closed: {error}")


def _start(rollout: CanaryRollout, head: RouteRecord) -> DeploymentRef:
    """Start or adopt the candidate and check its answers before it sees any request; one that fails is stopped."""
    try:
        deployment = start_release(rollout.project, rollout.release, target=rollout.target)
        if not _is_rolling(rollout, head):
            rollout.check(rollout.release, deployment)
            rollout.require_promotable()
            rollout.serving.record_deployment(
                deployment,
                target=rollout.project.config.serving.target,
                fence=rollout.fence,
                now=rollout.clock(),
            )
    except (GateClosed, DataCorrupt, ServiceUnavailable) as error:
        if _is_rolling(rollout, head):
            _end(rollout, "canary_failed", f"the server of {rollout.release.model_version} did not come back: {error}")
        if not isinstance(error, ServiceUnavailable):
            settle(rollout)
        raise
    return deployment


def _look(rollout: CanaryRollout, head: Route, phase: Phase, *, rule: Rule, num_phases: int, is_due: bool) -> Look:
    config = rollout.project.config.serving.rollout
    accounts = rollout.gateway.accounts(rollout.project.name)
    if accounts is None or accounts.generation != head.generation:
        return Look("inconclusive", (f"the gateway does not tell of generation {head.generation} yet",))
    return judge_by(
        rule,
        accounts.deployments.get(rollout.deployment_id, EMPTY),
        accounts.deployments.get(champion_entry(head).deployment_id, EMPTY),
        phase=phase,
        limits=config.limits,
        alpha=1 - config.confidence,
        num_phases=num_phases,
        edges_ms=accounts.edges_ms,
        is_due=is_due,
    )


def _step(
    rollout: CanaryRollout, deployment: DeploymentRef, head: Route, phase: Phase, *, rule: Rule, why: str
) -> None:
    """Commit a step; who lost the race sees at the next look who won it."""
    verdict = rollout.release.verdict_id[:12]
    reason = f"{_name(rollout, phase)} beside {head.champion_version} (verdict {verdict} said promote){why}"
    route = _beside(rollout, head, deployment, share=phase.share)
    crash_point("rollout.step.before")
    try:
        _commit(rollout, route, head=head, action="shadow" if phase.is_shadow else "canary", reason=reason, rule=rule)
    except LostRace as error:
        logger.warning("%s", error)
    crash_point("rollout.step.after")


def _end(rollout: CanaryRollout, action: RouteAction, reason: str) -> NoReturn:
    """Give the champion all traffic back, stop the candidate, and raise why."""
    records = rollout.records()
    _require_ours(rollout, records)
    head = records[-1].route
    crash_point("rollout.end.before")
    try:
        _commit(rollout, _beside(rollout, head, None, share=0), head=head, action=action, reason=reason)
    except LostRace as error:
        raise _moved(rollout, rollout.records()[-1]) from error
    crash_point("rollout.end.after")
    settle(rollout)
    raise _ended(rollout, action, reason)


def _beside(rollout: CanaryRollout, head: Route, deployment: DeploymentRef | None, *, share: int) -> Route:
    return route_beside(
        head, deployment, share=share, reason_id=rollout.release.verdict_id, attempt=rollout.attempt.holder
    )


def _commit(
    rollout: CanaryRollout, route: Route, *, head: Route, action: RouteAction, reason: str, rule: Rule | None = None
) -> None:
    commit_beside(
        route,
        head=head,
        action=action,
        serving=rollout.serving,
        attempt=rollout.attempt,
        actor="gate",
        reason=reason,
        classes=rollout.learned or rollout.project.config.labels.classes,
        approval=rollout.project.config.approval.when,
        fence=rollout.fence,
        at=rollout.clock(),
        beside={} if rule is None else {"rollout": {"rule": rule}},
    )


def is_abandoned(record: RouteRecord, attempt: Attempt) -> bool:
    """Tell a rollout of this run, or its end by a try of this task that was killed before it was settled."""
    if record.action in ROLLING:
        return record.attempt.startswith(f"{attempt.run_id}/")
    return record.attempt.startswith(f"{attempt.run_id}/{attempt.task}/")


def return_abandoned(context: RouteContext, *, fence: Callable[[], Fence]) -> Route | None:
    """Give the champion everything back where this run's rollout stands still: its task has died for good.

    `fence` is taken only then: the rollout of another run goes on.
    """
    serving, attempt = context.serving, context.attempt
    record = serving.head_record(context.project.name)
    if record is None or not is_abandoned(record, attempt):
        return None
    route = record.route
    if record.action in ROLLING:
        why = "the rollout's task ended without a decision"
        route = give_back(record, serving=serving, attempt=attempt, fence=fence(), why=why, now=context.clock())
    settle(context)
    return route


def _is_rolling(rollout: CanaryRollout, record: RouteRecord) -> bool:
    return record.action in ROLLING and share_of(record.route, rollout.deployment_id) is not None


def _deadline(rollout: CanaryRollout, records: Sequence[RouteRecord]) -> dt.datetime:
    """Return when this rollout, begun by whichever attempt, has to be decided."""
    return _mine(rollout, records)[-1].created_at + dt.timedelta(
        seconds=rollout.project.config.serving.rollout.deadline_seconds
    )


def _mine(rollout: CanaryRollout, records: Sequence[RouteRecord]) -> list[RouteRecord]:
    """Return the generations of this rollout, the newest first."""
    return list(itertools.takewhile(lambda record: _is_rolling(rollout, record), reversed(records)))


def _require_ours(rollout: CanaryRollout, records: Sequence[RouteRecord]) -> None:
    """Stop where the head is no step of this rollout any more."""
    if not _is_rolling(rollout, records[-1]):
        raise _moved(rollout, records[-1])


def _refuse_ended(rollout: CanaryRollout, records: Sequence[RouteRecord]) -> None:
    """End a retry as the attempt before it ended: failed, undecided, or overtaken by a person."""
    holder = f"{rollout.attempt.run_id}/{rollout.attempt.task}/"
    mine = [record for record in records if record.attempt.startswith(holder)]
    if not mine or _is_rolling(rollout, records[-1]):
        return
    settle(rollout)
    if mine[-1].action in ENDED:
        raise _ended(rollout, mine[-1].action, mine[-1].reason)
    raise _moved(rollout, records[-1])


def _ended(rollout: CanaryRollout, action: str, reason: str) -> GateClosed:
    champion = rollout.serving.head_route(rollout.project.name)
    serves = f" {champion.champion_version} has all the traffic of {rollout.project.name} again." if champion else ""
    return GateClosed(f"{reason}.{serves}", code=ENDED[action])


def _moved(rollout: CanaryRollout, head: RouteRecord) -> GateClosed:
    return GateClosed(
        f"the rollout of {rollout.release.model_version} must find the route as it left it (got generation "
        f"{head.route.generation} by {head.actor}, {head.action}: {head.reason}). It stops here; that route stays.",
        code="ROLLED_BACK",
    )


def _name(rollout: CanaryRollout, phase: Phase) -> str:
    return f"{_what(phase)} to {rollout.release.model_version}"


def _what(phase: Phase) -> str:
    return "mirrors" if phase.is_shadow else f"{phase.share} %"
