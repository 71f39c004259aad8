import io

from rich.console import Console

from pipeline_tasks.stack import console as stack_console
from pipeline_tasks.stack.doctor import Check
from pipeline_tasks.stack.events import Event
from pipeline_tasks.stack.lifecycle import UpReport
from pipeline_tasks.stack.status import PartStatus, StackStatus


def shown(renderable):
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    return console.file.getvalue()


def test_elsewhere_than_on_a_terminal_each_event_is_one_line():
    console = Console(file=io.StringIO(), width=20)
    with stack_console.progress(console) as on_event:
        on_event(Event("s3", "ready", seconds=1.23))
        on_event(Event("airflow", "note", "port 8080 is taken by [other] (pid 7): using 8082"))
    assert console.file.getvalue() == (
        "s3 ready after 1.2 s\nairflow note: port 8080 is taken by [other] (pid 7): using 8082\n"
    )


def test_on_a_terminal_the_last_state_of_each_part_stays():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with stack_console.progress(console) as on_event:
        on_event(Event("s3", "starting"))
        on_event(Event("s3", "ready", seconds=2.0))
        on_event(Event("stack", "note", "a note"))
    text = console.file.getvalue()
    assert "a note" in text
    assert "ready" in text


def test_the_up_table_shows_addresses_and_times_of_what_was_started():
    stack = {
        "airflow_url": "http://a",
        "label_studio_url": "http://l",
        "s3_endpoint": "http://s",
        "gateway_url": "http://g",
    }
    text = shown(stack_console.up_table(UpReport(stack=stack, moved={}, seconds={"airflow": 18.04, "s3": 1.0})))
    assert "http://a" in text
    assert "18.0 s" in text
    assert "http://l" not in text


def test_the_status_table_says_healthy_or_why_not():
    parts = (
        PartStatus("s3", "RUNNING", 7, 300.0, "http://s", True, "HTTP 200"),
        PartStatus("gateway", "BACKOFF", None, 0.0, "http://g", False, "exited too quickly"),
    )
    text = shown(stack_console.status_table(StackStatus(home="/h", running=True, parts=parts)))
    assert "/h: up" in text
    assert "healthy" in text
    assert "exited too quickly" in text
    assert "5 min" in text


def test_the_doctor_table_says_what_to_do():
    text = shown(
        stack_console.doctor_table([Check("python", True, "3.11.2"), Check("ports", False, "taken", "Free them.")])
    )
    assert "Free them." in text
    assert "bad" in text


def test_durations_are_said_as_a_person_says_them():
    assert [stack_console.duration(value) for value in (0, 119, 120, 7199, 7200)] == [
        "0 s",
        "119 s",
        "2 min",
        "120 min",
        "2.0 h",
    ]


def test_a_stack_is_healthy_only_when_it_runs_and_every_part_is():
    good = PartStatus("s3", "RUNNING", 7, 300.0, None, True, "")
    bad = PartStatus("gateway", "RUNNING", 8, 300.0, None, False, "")
    assert StackStatus("/h", True, (good,)).healthy
    assert not StackStatus("/h", True, (good, bad)).healthy
    assert not StackStatus("/h", True, ()).healthy
    assert not StackStatus("/h", False, (good,)).healthy
