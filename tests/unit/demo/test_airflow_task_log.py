import pytest

from pipeline_tasks.demo.airflow_task_log import new_lines


def task(**changes):
    base = {"dag_id": "p__train", "dag_run_id": "r1", "task_id": "train", "try_number": 1, "state": "success"}
    return {**base, "duration": 12.34, **changes}


def test_each_ending_is_told_once():
    told = set()
    assert new_lines([task()], told) == ["Airflow: p__train.train success (12.3 s)"]
    assert new_lines([task()], told) == []


@pytest.mark.parametrize("state", ["running", "queued", "skipped", "None"])
def test_what_is_not_an_ending_is_not_told(state):
    assert new_lines([task(state=state)], set()) == []


def test_a_second_try_and_another_run_are_told_again():
    told = set()
    assert len(new_lines([task(state="up_for_retry"), task(try_number=2), task(dag_run_id="r2")], told)) == 3
