"""Each type of source has its class, its reader and its line, and stands nowhere else."""

import ast
from pathlib import Path
from types import SimpleNamespace

import pydantic
import pytest

from pipeline_tasks.ingest.item_checks import source_policy_id
from pipeline_tasks.ingest.source_readers import READERS
from pipeline_tasks.project.source_schema import SOURCES, Source

ROOT = Path(__file__).parents[3]
TABLES = {"pipeline_tasks/project/source_schema.py", "pipeline_tasks/ingest/source_readers.py"}


def test_every_type_has_a_reader():
    assert set(READERS) == set(SOURCES)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_a_type_is_named_in_three_files_at_most(source):
    """A fourth would be a chain of `isinstance` that a new type has to be added to."""
    named = set()
    for folder in ("pipeline_tasks", "data_checks", "bento_services", "dags"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            if source.__name__ in names:
                named.add(path.relative_to(ROOT).as_posix())
    (reader,) = named - TABLES
    assert named - {reader} == TABLES
    assert reader.startswith("pipeline_tasks/ingest/sources/")


@pytest.mark.parametrize(
    ("values", "digest"),
    [
        ({"type": "folder", "path": "a", "pattern": "*.png", "label_pattern": "(?P<label>x)"}, "5e1a3f95be16"),
        (
            {
                "type": "s3",
                "bucket": "bucket",
                "prefix": "p",
                "endpoint_url": "http://h",
                "credentials": "P",
                "group_pattern": "(?P<group>x)",
            },
            "066e9402db81",
        ),
        (
            {"type": "table", "path": "a", "key_column": "id", "content_columns": ["t"], "label_column": "l"},
            "a296977fa845",
        ),
        (
            {
                "type": "sql",
                "url_variable": "U",
                "query": "q",
                "key_column": "id",
                "content_columns": ["a", "b"],
                "watermark_column": "at",
            },
            "839c4d30e7dc",
        ),
    ],
    ids=["folder", "s3", "table", "sql"],
)
def test_an_installation_of_before_does_not_read_everything_again(values, digest):
    """The digest is that of version 0.1: another one lets every source be read from its beginning."""
    source = pydantic.TypeAdapter(Source).validate_python(values)
    project = SimpleNamespace(columns=[], deny_list=False)
    assert source_policy_id(source, project=project) == digest
