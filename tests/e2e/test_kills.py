"""kill -9 of any process of the stack, or of the running task, at ten moments: the same champion, nothing lost."""

import random
import time

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
NUM_KILLS = 10
SECONDS_BETWEEN = 9.0


@pytest.fixture(scope="module")
def two_runs(make_installation):
    """One calm run of the first round, one whose processes are killed; the same split, so the same data."""
    calm, shaken = make_installation("calm"), make_installation("shaken")
    for installation in (calm, shaken):
        (installation.home / "secrets").mkdir(parents=True, mode=0o700)
        key = installation.home / "secrets" / "split_key"
        key.write_text("the-same-split-in-both-installations-0123456789\n")
        key.chmod(0o600)
    calm.run("demo", "--rounds", "1", timeout=900)
    calm.run("down")
    demo = shaken.popen("demo", "--rounds", "1")
    killed = _kill_now_and_then(shaken, demo, generator=random.Random(5))
    output, _ = demo.communicate(timeout=1500)
    return calm, shaken, demo.returncode, output, killed


def _victims(installation, demo):
    """Return what may be killed: every process of this stack but the supervisor and the demo itself."""
    found = []
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
            found.append((process, command))
    return found


def _role(command):
    for name in (
        "worker",
        "scheduler",
        "api_server",
        "dag-processor",
        "triggerer",
        "weed",
        "label-studio",
        "Gateway",
        "bentoml",
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


def test_the_demo_ends_well_although_ten_processes_were_killed(two_runs):
    _calm, _shaken, code, output, killed = two_runs
    assert code == 0, f"killed {killed}\n{output}"
    assert len(killed) >= 5, f"only {killed} were killed before the end"


def test_the_champion_is_the_same(two_runs):
    calm, shaken, _code, _output, killed = two_runs
    expected, got = (one.json("history", "fashion")[0]["champion"] for one in (calm, shaken))
    assert got == expected, f"killed {killed}"


def test_nothing_is_lost_and_nothing_is_twice(two_runs):
    _calm, shaken, _code, _output, killed = two_runs
    assert "Nothing lost, nothing twice" in shaken.run("verify").stdout, f"killed {killed}"
