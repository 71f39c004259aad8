"""A judgement on a fake store and a real catalog, with two exams and two models."""

import pytest

from pipeline_tasks.catalog.verdicts import VerdictRepository
from pipeline_tasks.evaluation.task import judge
from tests.unit.evaluation import support as s


@pytest.fixture
def verdicts(database):
    return VerdictRepository(database)


@pytest.fixture
def world(object_store):
    """Two exams; `old` is right on 80 %, `new` on all of the current exam; they agree on the previous one."""
    exams = [s.put_exam(object_store, epoch=epoch, labels=s.LABELS) for epoch in (1, 2)]
    old = s.answers(1, s.LABELS, wrong=range(10)) | s.answers(2, s.LABELS, wrong=range(24))
    new = s.answers(1, s.LABELS, wrong=range(10)) | s.answers(2, s.LABELS)
    return s.World(object_store, {"old": s.TableModel(old), "new": s.TableModel(new)}, exams)


@pytest.fixture
def run(world, database, object_store):
    def call(contender="new", champion="old", **changes):
        refs = {version: s.put_model(object_store, version) for version in (contender, champion) if version}
        project, exams = changes.pop("project", s.project()), changes.pop("exams", world.exams)
        asked = {name: changes.pop(name) for name in ("opened", "alarm", "awaited") if name in changes}
        context = world.context(database, **changes)
        return judge(project, refs[contender], exams, champion=refs.get(champion), context=context, **asked)

    return call
