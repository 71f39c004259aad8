"""Content of messages: nothing that drives a terminal, and no password."""

import sqlalchemy as sa

from pipeline_tasks.errors import InputError
from pipeline_tasks.ingest.sources.sql import SqlRows
from pipeline_tasks.project.source_schema import SqlSource


def test_bad_input_is_quoted_on_one_line_that_drives_no_terminal():
    error = InputError("label must be one of a, b (got \x1b[2J\nb\ud800).", code="UNKNOWN_CLASS")
    assert str(error) == "label must be one of a, b (got \\x1b[2J\\x0ab\\ud800)."


def test_a_database_that_quotes_its_address_does_not_tell_the_password():
    source = SqlSource(type="sql", url_variable="SHOP_URL", query="SELECT 1", key_column="id")
    environment = {"SHOP_URL": "postgresql+psycopg://shop:gates-of-dawn@db.example.com/shop"}
    rows = SqlRows(source=source, environment=environment, setting="sources[0]")
    said = Exception(f"cannot reach {environment['SHOP_URL']}")
    explained = rows._explained(sa.exc.OperationalError("SELECT 1", {}, said))
    assert "postgresql+psycopg://shop:***@db.example.com/shop" in str(explained)
    assert "gates-of-dawn" not in str(explained)
