"""Who is waited for, and when no longer."""

import itertools

import pytest

from bento_services.inference.batcher import MAX_SKIPPED, ExpectedCallers


def company(**changes):
    return ExpectedCallers(**({"max_batch_size": 16, "linger_seconds": 0.001} | changes))


@pytest.mark.parametrize(
    ("answered", "waiting", "now_waiting", "seconds"),
    [
        (8, 8, 8, 0.001),  # the other half
        (8, 8, 16, 0.0),  # all are here
        (16, 0, 0, 0.001),  # all were answered together
        (16, 16, 16, 0.0),  # a whole pass waits
        (1, 0, 0, 0.0),  # one who is alone
        (1, 0, 1, 0.0),
        (0, 3, 3, 0.0),  # the callers are gone
    ],
)
def test_only_those_who_were_just_answered_are_waited_for(answered, waiting, now_waiting, seconds):
    under_test = company()
    under_test.answered(answered, num_waiting=waiting)
    assert under_test.linger(now_waiting) == seconds


def test_nobody_is_waited_for_where_a_wait_spares_nothing():
    under_test = company(linger_seconds=0.0)
    under_test.answered(8, num_waiting=8)
    assert under_test.linger(8) == 0.0


def waits(under_test, *, passes, came):
    """Return after which passes there was a wait, where so many of eight come each time."""
    found = []
    for number in range(passes):
        under_test.answered(8, num_waiting=2)
        if under_test.linger(2):
            found.append(number)
            under_test.ended(2 + came)
    return found


def test_where_nobody_comes_passes_wait_less_and_less_often():
    under_test = company()
    assert waits(under_test, passes=32, came=3) == [0, 2, 5, 10, 19]
    late = waits(under_test, passes=1000, came=0)
    assert {after - before for before, after in itertools.pairwise(late[3:])} == {MAX_SKIPPED + 1}


def test_where_they_come_again_every_pass_waits():
    under_test = company()
    waits(under_test, passes=3, came=0)
    found = waits(under_test, passes=20, came=4)
    assert found == list(range(found[0], 20))
