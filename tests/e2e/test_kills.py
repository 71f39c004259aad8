"""kill -9 of any process of the stack, or of the running task, at ten moments: the right champion, nothing lost."""

import random
import time

import psutil
import pytest

from tests.e2e.conftest import SPLIT_KEY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
NUM_KILLS = 10
SECONDS_BETWEEN = 9.0


@pytest.fixture(scope="module")
def shaken(make_installation):
    """A run of the first round whose processes are killed."""
    installation = make_installation("shaken")
    installation.set_split_key(SPLIT_KEY)
    demo = installation.popen("demo", "--rounds", "1")
    killed = _kill_now_and_then(installation, demo, generator=random.Random(5))
    output, _ = demo.communicate(timeout=1500)
    return installation, demo.returncode, output, killed


def _victims(installation, demo):
    """Return what may be killed: every process of this stack but the supervisor and the demo itself."""
    victims = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        try:
            command = " ".join(process.info["cmdline"] or ())
            mine = process.environ().get("DETHRONE_HOME") == str(installation.home)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if (
            mine
            and command
            and process.pid != demo.pid
            and "supervisord" not in command
            and "dethrone" not in command.split("/")[-1]
        ):
            victims.append((process, command))
    return victims


def _role(command):
    for name in (
        "gateway.server",
        "bento_services/serve.py",
        "worker",
        "scheduler",
        "api_server",
        "dag-processor",
        "triggerer",
        "weed",
        "label-studio",
    ):
        if name in command:
            return name
    return "other"


def _kill_now_and_then(installation, demo, *, generator):
    """Kill ten times, each time another role where there is one, while the demo runs; return the roles."""
    killed = []
    stack_file = installation.home / "stack.json"
    while not stack_file.exists() and demo.poll() is None:
        time.sleep(0.5)
    time.sleep(25)  # the first start is not a moment of the loop
    while len(killed) < NUM_KILLS and demo.poll() is None:
        by_role = {}
        for process, command in _victims(installation, demo):
            by_role.setdefault(_role(command), []).append(process)
        fresh = [role for role in by_role if role not in killed[-5:]] or list(by_role)
        if fresh:
            role = generator.choice(sorted(fresh))
            try:
                generator.choice(by_role[role]).kill()
                killed.append(role)
            except psutil.NoSuchProcess:
                continue
        time.sleep(SECONDS_BETWEEN)
    return killed


def test_the_demo_ends_well_although_ten_processes_were_killed(shaken):
    _installation, code, output, killed = shaken
    assert code == 0, f"killed {killed}\n{output}"
    assert len(killed) >= 5, f"only {killed} were killed before the end"


def test_nothing_is_lost_and_nothing_is_twice(shaken):
    installation, _code, _output, killed = shaken
    assert "Nothing lost, nothing twice" in installation.run("verify").stdout, f"killed {killed}"


def test_the_champion_is_that_of_a_training_nobody_disturbed(shaken):
    """Not of another demo: whether the first answers are in the snapshot depends on which task was faster."""
    installation, _code, _output, killed = shaken
    champion = installation.json("history", "fashion")[0]["champion"]
    assert installation.json("retrain", champion)["weights_equal"], f"killed {killed}"
