"""Schedules: what project.yaml takes is what Airflow's own library takes, and fires at fixed times (ADR 30)."""

import random

import pytest
from croniter import croniter

from pipeline_tasks.project.checks import is_cron

FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def part(generator, low, high):
    first, second = generator.randint(low, high), generator.randint(low, high)
    step = generator.randint(1, 99)
    return generator.choice(["*", f"{first}", f"{first}-{second}", f"*/{step}", f"{first}-{second}/{step}"])


def test_an_expression_that_is_taken_is_one_to_airflow():
    generator = random.Random(20261130)
    taken = []
    for _ in range(3000):
        fields = [",".join(part(generator, *limits) for _ in range(generator.choice([1, 1, 2]))) for limits in FIELDS]
        if is_cron(" ".join(fields)):
            taken.append(" ".join(fields))
    assert len(taken) > 300
    assert [expression for expression in taken if not croniter.is_valid(expression)] == []


@pytest.mark.parametrize(
    "expression", ["R * * * *", "51-48 * * * *", "* * ? * *", "* * * * * *", "60 * * * *", "@daily"]
)
def test_an_expression_of_other_forms_is_not_taken(expression):
    assert not is_cron(expression)
