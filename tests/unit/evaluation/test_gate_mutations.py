"""Break the gate on purpose: each mutation of its source must fail a check of behaviour that the original passes.

A mutation is a fragment that stands exactly once in a module of the gate, and what it is replaced by. The changed
source is loaded as a module of another name, so nothing else sees it. Each check is in the module of its subject.
"""

import importlib
import sys
import types
import uuid
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.evaluation.gate_mutations import MUTATIONS

GATE = "pipeline_tasks.evaluation"


def mutated_source(source: str, *, original: str, mutated: str, where: str) -> str:
    """Return the source with one fragment replaced."""
    count = source.count(original)
    if count != 1 or mutated == original:
        pytest.fail(
            f"the fragment must occur exactly once in {where} and be changed (occurs {count} times): {original!r}. "
            "The gate's source has changed: write the mutation anew.",
            pytrace=False,
        )
    return source.replace(original, mutated)


def load_source(source: str, *, file: str) -> ModuleType:
    """Return a module of this source under a name of its own; dataclasses look it up while it is executed."""
    module = types.ModuleType(f"mutant_{uuid.uuid4().hex}")
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, file, "exec"), module.__dict__)  # the mutant of our own source
    finally:
        del sys.modules[module.__name__]
    return module


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.module}: {mutation.name}")
def test_a_broken_gate_is_noticed(mutation):
    original = importlib.import_module(f"{GATE}.{mutation.module}")
    mutation.behaviour(original)
    file = str(original.__file__)
    source = mutated_source(
        Path(file).read_text(), original=mutation.original, mutated=mutation.mutated, where=f"{mutation.module}.py"
    )
    mutant = load_source(source, file=file)
    # DID NOT RAISE, the failure of pytest.raises, is no AssertionError.
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        mutation.behaviour(mutant)


@pytest.mark.parametrize(("source", "count"), [("a = 1\n", 0), ("b = 1\nb = 1\n", 2)])
def test_a_fragment_that_is_gone_or_ambiguous_is_told(source, count):
    expected = rf"must occur exactly once in gate_rule.py .* \(occurs {count} times\): 'b = 1'"
    with pytest.raises(pytest.fail.Exception, match=expected):
        mutated_source(source, original="b = 1", mutated="b = 2", where="gate_rule.py")


def test_names_are_unique():
    names = [(mutation.module, mutation.name) for mutation in MUTATIONS]
    assert len(set(names)) == len(names)
