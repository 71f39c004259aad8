from pipeline_tasks.annotation.reconcile import Plan, changed_tasks, plan_reconciliation


def plan(present, recorded, annotated=()):
    return plan_reconciliation(present=present, recorded=recorded, annotated=set(annotated))


def test_nothing_to_do():
    assert plan({"a": [1], "b": [2]}, {"a": 1, "b": 2}) == Plan((), {}, ())


def test_of_doubles_the_recorded_one_stays():
    assert plan({"a": [1, 2, 3]}, {"a": 2}) == Plan((1, 3), {}, ())


def test_an_annotated_double_is_never_deleted_and_is_adopted():
    assert plan({"a": [1, 2]}, {"a": 1}, [2]) == Plan((1,), {"a": 2}, ())
    assert plan({"a": [1, 2]}, {"a": 1}, [1, 2]) == Plan((), {}, ())


def test_tasks_of_an_item_that_was_not_recorded_are_left_alone():
    assert plan({"a": [5, 4]}, {}) == Plan((), {}, ())


def test_a_recorded_task_that_shows_another_item_is_no_double_of_it():
    present, recorded = {"b": [2, 1]}, {"a": 1, "b": 2}
    assert changed_tasks(present, recorded) == {1: ["a"]}
    assert plan(present, recorded, [1]) == Plan((), {}, ("a",))
    assert changed_tasks({"b": [1]}, {"a": 1, "b": 1}) == {}  # a number that Label Studio gave twice


def test_a_task_under_another_number_is_adopted():
    assert plan({"a": [9]}, {"a": 1}) == Plan((), {"a": 9}, ())


def test_items_without_a_task_are_lost():
    assert plan({}, {"b": 2, "a": 1}) == Plan((), {}, ("a", "b"))


def test_tasks_without_an_item_id_are_left_alone():
    assert plan({"": [1, 2, 3]}, {}) == Plan((), {}, ())
