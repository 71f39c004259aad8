"""A project that ships in steps on a real catalog; tests write the gateway's accounts, only waiting moves the clock."""

import dataclasses
import datetime as dt

import sqlalchemy as sa

from pipeline_tasks.catalog import ledger, ledger_repository
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.contracts import DeploymentAccount, RouteAccounts
from pipeline_tasks.deployment import task
from pipeline_tasks.deployment.canary import CanaryRollout, roll_out
from pipeline_tasks.invariants.champions import chain_violations
from tests.unit.deployment.test_task import NOW, Follower, Yard
from tests.unit.evaluation import support as s

CANARY = {"strategy": "canary", "steps": [10, 50], "bake_seconds": 5, "min_requests": 50, "deadline_seconds": 100}
CANARY |= {"shadow_requests": 0}  # judged at its steps; tests of mirrors ask for some
GOOD = {"asked": 900}
PROMOTED = [
    ("promote", {"a": 100}),
    ("canary", {"a": 90, "b": 10}),
    ("canary", {"a": 50, "b": 50}),
    ("promote", {"b": 100}),
]


class Killed(BaseException):
    """The effect of kill -9 without a second process: nothing after it runs."""


class Gateway(Follower):
    """Follows at once, and tells of each deployment what a test wants, again for each generation."""

    def __init__(self, serving):
        super().__init__(serving)
        self.said, self.looks, self.away = {}, 0, False

    def accounts(self, project):
        self.looks += 1
        if self.away:
            return None
        accounts = {name: account(**facts) for name, facts in self.said.items()}
        return RouteAccounts(self.followed_generation(project), (1.0, 2.0, 4.0), accounts)


def account(*, asked, errors=0, slow=0, disagreed=0, paired=None, only_it=0, only_champion=0):
    """Return an account; as a shadow, each request is a pair with the champion's, which took 1 ms."""
    counts = (asked - slow, 0, slow, 0)
    pairs = (asked if paired is None else paired, only_it, only_champion, (slow, slow, 0), (0, 0, 0))
    return DeploymentAccount(asked, errors, counts, asked, disagreed, *pairs)


class Rolling(Yard):
    """Ships like the stage does: the steps first, then everything."""

    def __init__(self, database, **rollout):
        super().__init__(database)
        self.project = s.project(serving={"rollout": CANARY | rollout})
        self.gateway, self.seconds, self.during = Gateway(self.serving), 0.0, []
        self.traffic = None
        with database.write() as connection:
            for version in ("a", "b", "c"):
                connection.execute(t.verdicts.insert(), verdict(version))
        super().ship("a")
        self.gateway.said = {"fashion-ra": {"asked": 4000}, "fashion-rb": GOOD}

    def now(self):
        return NOW + dt.timedelta(seconds=self.seconds)

    def pause(self, seconds):
        self.seconds += seconds
        if self.during:
            self.during.pop(0)()

    def context(self, attempt=None):
        return dataclasses.replace(super().context(attempt), gateway=self.gateway, clock=self.now)

    def fence(self, attempt):
        return self.database.acquire("fashion/ship", attempt, now=NOW)

    def roll(self, version="b", *, attempt=None, check=None, gate=lambda: None):
        context, release = self.context(attempt), self.release(version)
        rollout = CanaryRollout(
            **vars(context),
            release=release,
            fence=self.fence(context.attempt),
            require_promotable=gate,
            check=check or (lambda *arguments: self.checked.append(arguments)),
            pause=self.pause,
            traffic=lambda: self.traffic,
        )
        facts = {"route_config": {"new": True}, "note": roll_out(rollout), "fence": rollout.fence}
        return task.ship(rollout, release, require_promotable=gate, **facts)

    @property
    def moves(self):
        return [
            (record.action, {e.model_version: e.weight for e in (*record.route.entries, *record.route.shadows)})
            for record in self.serving.records("fashion")
        ]


def faults(yard):
    """Return what the invariants of the chain say: one linear chain, every entry a recorded deployment."""
    with yard.database.read() as connection:
        routes = connection.execute(sa.select(t.routes).order_by(t.routes.c.generation)).mappings().all()
        deployments = connection.execute(sa.select(t.deployments)).mappings().all()
        entries = ledger_repository.read_entries(connection, "fashion")
        drafts = ledger_repository.read_drafts(connection, "fashion")
    unwritten = [fault for fault in ledger.row_faults(entries, drafts) if "route" in fault or "generation" in fault]
    return [*chain_violations("fashion", routes, deployments), *ledger.chain_faults(entries), *unwritten]


def verdict(version):
    facts = {"project": "fashion", "verdict_id": f"verdict-{version}", "contender_version": version}
    facts |= {"answer": "promote", "champion_version": None, "exam_ids": [], "reasons": {}, "policy_id": "p"}
    return facts | {"object_key": "k", "digest": "d", "run_id": "r", "created_at": NOW}
