"""kill -9 of a process of every role of a real stack while the demo runs: the right champion, nothing lost or twice."""

import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.e2e.conftest import SPLIT_KEY, make_installation  # noqa: F401 - the fixture
from tests.services import PostgresServer, postgres_bin, running

pytestmark = [pytest.mark.crashes, pytest.mark.timeout(3600)]
SECONDS_BETWEEN = 8.0
SECONDS_AGAIN = 90.0  # to the kill of a role that was killed before: the loop has to get on
UNANSWERED = {"no answer", "502", "503"}  # what callers of a killed gateway or of a killed server without a standby get
# The roles and what their processes are called; those of Airflow are the titles that it gives itself.
ROLES = {
    "scheduler": r"airflow scheduler",
    "LocalExecutor worker": r"airflow worker -- LocalExecutor.*: (?!<idle>)",
    "task": r"airflow worker -- [0-9a-f-]{36}",
    "api-server": r"airflow api[_-]server",
    "dag-processor": r"airflow dag-processor",
    "triggerer": r"airflow triggerer",
    "Label Studio": r"label[-_]studio",
    "S3": r"\bweed\b",
    "gateway": r"gateway\.server",
    "log uploader": r"prediction_log\.uploader",
    "inference": r"bento_services/serve\.py dethrone_",
    "watchdog": r"stack\.watchdog",
}
POSTGRES = "PostgreSQL"


class Killer:
    """The loop that kills one process after the other, of a role that was not killed yet where one runs."""

    def __init__(self, home, postgres) -> None:
        self._home, self._postgres, self._stop_it = str(home), postgres, threading.Event()
        self._generator = random.Random(7)
        self.killed: list[str] = []

    def run(self) -> None:
        last = time.monotonic()
        while not self._stop_it.wait(SECONDS_BETWEEN):
            by_role = self._running()
            roles = sorted(set(by_role) - set(self.killed))
            if not roles and time.monotonic() > last + SECONDS_AGAIN:
                roles = sorted(set(by_role) - set(self.killed[-4:]))
            if roles:
                role = self._generator.choice(roles)
                if self._kill(role, by_role[role]):
                    self.killed.append(role)
                    last = time.monotonic()

    def stop(self) -> None:
        self._stop_it.set()

    @property
    def missing(self) -> set[str]:
        return {*ROLES, POSTGRES} - set(self.killed)

    def _kill(self, role, processes) -> bool:
        """Return whether a process was killed: the chosen one may have ended by itself."""
        if role == POSTGRES:
            self._postgres.kill()
            self._postgres.start()
            return True
        try:
            self._generator.choice(processes).kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def _running(self) -> dict[str, list]:
        by_role: dict[str, list] = {POSTGRES: [None]}
        for process in psutil.process_iter(["pid", "cmdline"]):
            try:
                command = " ".join(process.info["cmdline"] or ())
                mine = process.environ().get("DETHRONE_HOME") == self._home
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            role = next((name for name, pattern in ROLES.items() if re.search(pattern, command)), None)
            if mine and role:
                by_role.setdefault(role, []).append(process)
        return by_role


@pytest.fixture(scope="module")
def shaken(make_installation):  # noqa: F811
    """The whole demo on a stack with its catalog in PostgreSQL, and a killer beside it until every role was killed."""
    if postgres_bin() is None:
        pytest.skip("PostgreSQL (initdb) is not installed")
    with running(PostgresServer()) as postgres:
        installation = make_installation("roles")
        installation.set_split_key(SPLIT_KEY)
        installation.more = {"DETHRONE_CATALOG_URL": postgres.new_database()}
        installation.run("up")
        killer = Killer(installation.home, postgres)
        with ThreadPoolExecutor(1) as pool:
            killing = pool.submit(killer.run)
            try:
                done = installation.run("demo", timeout=2400, check=False)
                deadline = time.monotonic() + 120
                while killer.missing - {"task", "LocalExecutor worker"} and time.monotonic() < deadline:
                    time.sleep(1)
                    if killing.done():
                        break
            finally:
                killer.stop()
        killing.result()  # an error of the killer is one of the test
        installation.run("up")
        yield installation, done, killer


def test_the_demo_ends_well_although_every_role_was_killed(shaken):
    _installation, done, killer = shaken
    told = f"killed {killer.killed}\n{done.stdout}\n{done.stderr}"
    assert re.search(r"all gated\)\W+hold", done.stdout), told
    failed = re.search(r"requests to the gateway\W+\d+, (\d+) failed( \{.*\})?", done.stdout)
    kinds = set(re.findall(r"'([^']+)': ", failed[2] or ""))
    assert (done.returncode, kinds <= UNANSWERED) == (min(1, int(failed[1])), True), told
    assert killer.missing == set(), f"killed {killer.killed}"


def test_nothing_is_lost_and_nothing_is_twice(shaken):
    installation, _done, killer = shaken
    assert "Nothing lost, nothing twice" in installation.run("verify").stdout, f"killed {killer.killed}"


def test_each_champion_is_that_of_a_training_nobody_disturbed(shaken):
    installation, _done, killer = shaken
    champions = dict.fromkeys(row["champion"] for row in installation.json("history", "fashion") if "champion" in row)
    assert champions
    for version in champions:
        assert installation.json("retrain", version)["weights_equal"], f"{version}; killed {killer.killed}"
