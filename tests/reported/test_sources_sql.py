"""SQL sources as other people have them: any end of a query, late rows, odd clocks, changed types. On both databases.

Source: bug reports of Airbyte, dlt, Singer taps and Kafka's JDBC connector about cursors that lose rows.
"""

import datetime as dt

import pytest
import sqlalchemy as sa

from pipeline_tasks.errors import ConfigError
from pipeline_tasks.ingest.sources.sql import MAX_WITHOUT_ORDER
from tests.reported.sources_case import SQL, make_world, reasons

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
HOUR = dt.timedelta(hours=1)


class Shop:
    """A database with the table `orders`, and a project that reads it."""

    def __init__(self, world, url: str, *, time_type: str) -> None:
        self.world = world
        self.engine = sa.create_engine(url)
        self.is_postgres = self.engine.dialect.name == "postgresql"
        self.execute(f"CREATE TABLE orders (id int, amount int, country varchar(40), label varchar(9), at {time_type})")
        world.edit("labels:\n", SQL.format(query="SELECT * FROM orders") + "labels:\n")
        world.environment = {"SHOP_URL": url}
        self.batch = 0

    def execute(self, statement: str, **values) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), values)

    def insert(self, number: int, at) -> None:
        value = at if self.is_postgres or not isinstance(at, dt.datetime) else at.strftime("%Y-%m-%d %H:%M:%S")
        self.execute("INSERT INTO orders VALUES (:n, :n, 'DE', 'yes', :at)", n=number, at=value)

    def query(self, text: str) -> None:
        path = self.world.folder / "project.yaml"
        lines = [
            f"    query: {text!r}" if line.startswith("    query:") else line for line in path.read_text().splitlines()
        ]
        path.write_text("\n".join(lines) + "\n")

    def run(self, *, after: dt.timedelta = dt.timedelta()):
        self.batch += 1
        return self.world.run(batch=f"b{self.batch}", now=NOW + after)

    @property
    def ids(self) -> set[int]:
        return {int(key) for key in self.world.all()}


@pytest.fixture
def shop_of(tmp_path, database, catalog_url):
    shops = []

    def make(time_type: str = "timestamp") -> Shop:
        shops.append(Shop(make_world(tmp_path, "tabular", database), catalog_url, time_type=time_type))
        return shops[-1]

    if catalog_url.startswith("sqlite"):
        (tmp_path / "shop.db").touch()
        catalog_url = f"sqlite:///{tmp_path / 'shop.db'}"
    yield make
    for shop in shops:
        shop.engine.dispose()


ENDS = [
    ("B6-comment", "SELECT * FROM orders -- all of them"),
    ("B6-semicolon", "SELECT * FROM orders;"),
    ("B6-semicolon-comment", "SELECT * FROM orders; -- x"),
    ("B6-semicolons", "SELECT * FROM orders ; ; /* x; */ -- y;"),
    ("B6-block", "SELECT * FROM orders /* a; b */"),
    ("B6-cte", "WITH o AS (SELECT * FROM orders) SELECT * FROM o"),
    ("B6-order", "SELECT * FROM orders ORDER BY at DESC;"),
    ("B6-percent", "SELECT * FROM orders WHERE country LIKE 'D%' AND '%s' <> '%%'"),
    ("B6-colon", "SELECT * FROM orders WHERE '12:30:45' <> 'a:b:' AND ':id' <> '; -- x'"),
    ("B6-backslash", r"SELECT * FROM orders WHERE 'C:\:x' <> ''"),
    ("B6-cast", "SELECT id, amount, country, label, at FROM orders WHERE CAST(id AS text) <> '-- x'"),
]


@pytest.mark.parametrize("query", [case[1] for case in ENDS], ids=[case[0] for case in ENDS])
def test_any_end_of_a_query_works_each_time(shop_of, query):
    """The first time, the next time with a watermark, and when everything is read again."""
    shop = shop_of()
    shop.query(query)
    shop.insert(1, NOW - 3 * HOUR)
    assert shop.run().num_new == 1
    shop.insert(2, NOW - HOUR)
    assert shop.run().num_new == 1
    assert shop.run(after=25 * HOUR).num_known == 2


def test_casts_of_postgresql_work(shop_of):
    """`::` is no parameter."""
    shop = shop_of()
    if shop.is_postgres:
        shop.query("SELECT id::int, amount, country::text, label, at::timestamp FROM orders")
    shop.insert(1, NOW - HOUR)
    assert (shop.run().num_new, shop.run().num_known) == (1, 1)


def test_a_row_committed_late_is_read_with_the_next_run(shop_of):
    """One second below the watermark, and by the daily reading of everything hours below it; nothing twice."""
    shop = shop_of()
    shop.insert(1, NOW - HOUR)
    shop.run()
    shop.insert(2, NOW - HOUR - dt.timedelta(seconds=1))
    assert shop.run().num_new == 1
    shop.insert(3, NOW - 5 * HOUR)
    assert (shop.run().num_new, shop.run(after=23 * HOUR).num_new) == (0, 0)
    report = shop.run(after=25 * HOUR)
    assert (report.num_new, report.num_known) == (1, 2)
    assert shop.ids == {1, 2, 3}


@pytest.mark.parametrize("time_type", ["timestamp", "date", "varchar(40)"])
def test_a_row_of_the_future_does_not_end_the_reading(shop_of, time_type):
    """It is read and told, and the cursor stays behind the source's own now."""
    shop = shop_of(time_type)
    as_type = (lambda at: at.date().isoformat()) if time_type == "date" else (lambda at: at)
    as_type = (lambda at: at.isoformat(sep=" ")) if time_type.startswith("varchar") else as_type
    shop.insert(1, as_type((NOW - HOUR).replace(tzinfo=None)))
    shop.insert(2, as_type(dt.datetime(2062, 1, 1)))  # noqa: DTZ001
    report = shop.run()
    assert (report.num_new, report.num_quarantined) == (2, 0)
    assert any("1 rows are later than the database's now" in warning for warning in report.warnings)
    shop.insert(3, as_type((NOW - HOUR / 2).replace(tzinfo=None)))
    assert shop.run().num_new == 1
    assert shop.ids == {1, 2, 3}


def test_an_old_cursor_in_the_future_is_mended(shop_of):
    """A cursor that older versions stored, in their form."""
    from pipeline_tasks.contracts import Attempt

    shop = shop_of()
    shop.insert(1, NOW - HOUR)
    shop.run()
    items, name = shop.world.items, "some_tabular"
    cursor = items.cursor(name, "source/shop")
    fence = items.database.acquire(f"{name}/ingest", Attempt("old", "ingest", 99), now=NOW)
    old = {"policy": cursor.value["policy"], "watermark": {"type": "datetime", "value": "2062-01-01T00:00:00"}}
    items.move_cursor(fence, project=name, name="source/shop", value=old, after=cursor, now=NOW)
    shop.insert(2, NOW - HOUR)
    report = shop.run()
    assert report.num_new == 1
    assert any("everything is read" in warning for warning in report.warnings)


def test_a_clock_set_back_is_seen(shop_of, monkeypatch):
    """Rows that come below the watermark because the database's clock was set back."""
    from pipeline_tasks.ingest.sources import sql

    shop = shop_of()
    shop.insert(1, NOW - HOUR)
    shop.run()
    monkeypatch.setattr(sql, "_source_now", lambda *_, **__: (NOW - 3 * HOUR).replace(tzinfo=None))
    shop.insert(2, NOW - 4 * HOUR)
    report = shop.run()
    assert report.num_new == 1
    assert any("clock is before the last watermark" in warning for warning in report.warnings)


def test_texts_that_are_no_times_say_so_and_nothing_is_lost(shop_of):
    """9 is after 10 as a text; the daily reading finds what that hides."""
    shop = shop_of("varchar(40)")
    shop.insert(1, "day 9")
    report = shop.run()
    assert any("compared as texts" in warning for warning in report.warnings)
    shop.insert(2, "day 10")
    assert shop.run().num_new == 0
    assert shop.run(after=25 * HOUR).num_new == 1


def test_numbers_are_read_from_the_greatest_on_and_daily_whole(shop_of):
    """An id that was taken earlier and committed later."""
    shop = shop_of("int")
    shop.insert(1, 10)
    shop.run()
    shop.insert(2, 9)
    shop.insert(3, 11)
    report = shop.run()
    assert (report.num_new, report.num_known) == (1, 1)
    assert shop.run(after=25 * HOUR).num_new == 1


@pytest.mark.parametrize(("old", "new"), [("varchar(40)", "timestamp"), ("int", "timestamp"), ("timestamp", "int")])
def test_a_changed_type_of_the_watermark_starts_over(shop_of, old, new):
    """Told, and nothing is lost."""
    values = {"varchar(40)": "2026-01-01 10:00:00", "int": 5, "timestamp": NOW - HOUR}
    shop = shop_of(old)
    shop.insert(1, values[old])
    shop.run()
    shop.execute("DROP TABLE orders")
    shop.execute(f"CREATE TABLE orders (id int, amount int, country varchar(40), label varchar(9), at {new})")
    shop.insert(1, values[new])
    shop.insert(2, values[new])
    report = shop.run(after=25 * HOUR if not shop.is_postgres else dt.timedelta())
    assert (report.num_new, report.num_known) == (1, 1)
    assert shop.run().num_quarantined == 0


def test_a_label_updated_in_the_database_is_a_new_version(shop_of):
    """SQL UPDATE, with its time and, found by the daily reading, without it."""
    from tests.reported.test_source_labels import decided

    shop = shop_of()
    shop.insert(1, NOW - 2 * HOUR)
    shop.insert(2, NOW - HOUR)
    shop.run()
    shop.execute("UPDATE orders SET label = 'no', at = :at WHERE id = 1", at=str((NOW - HOUR).replace(tzinfo=None)))
    assert shop.run().num_labels_corrected == 1
    shop.execute("UPDATE orders SET label = 'no' WHERE id = 2")
    assert shop.run(after=25 * HOUR).num_labels_corrected == 1
    assert decided(shop.world) == {"1": ("no", 1), "2": ("no", 1)}
    assert shop.run(after=51 * HOUR).num_labels_corrected == 0


def test_hostile_values_of_a_database_refuse_their_rows(shop_of):
    """The rule behind B: each bad row is named by its key, all good ones arrive, the next run is quiet."""
    shop = shop_of()
    for number in range(1, 6):
        shop.insert(number, NOW - HOUR)
    if shop.is_postgres:
        shop.execute("INSERT INTO orders VALUES (21, 121, 'DE', 'yes', 'infinity')")
        shop.execute("INSERT INTO orders VALUES (22, 1, 'US', 'yes', '20000-01-01')")
        good, bad = {21, 22}, set()
    else:
        shop.execute("INSERT INTO orders VALUES (23, 1, CAST(x'ff41' AS text), 'yes', :at)", at=str(NOW))
        shop.execute("INSERT INTO orders VALUES (24, 1, x'ff41', 'yes', :at)", at=str(NOW))
        good, bad = set(), {("23", "TEXT_NOT_UTF8"), ("24", "VALUE_TYPE")}
    shop.execute("INSERT INTO orders VALUES (30, 1, 'DE', 'maybe', :at)", at=str((NOW - HOUR).replace(tzinfo=None)))
    shop.execute("INSERT INTO orders VALUES (NULL, 77, 'DE', 'yes', NULL)")
    shop.execute("INSERT INTO orders VALUES (31, NULL, NULL, 'yes', NULL)")
    report = shop.run()
    assert shop.ids == {1, 2, 3, 4, 5, *good}
    told = {(key, code) for key, code, _ in reasons(shop.world)}
    assert told == {*bad, ("30", "UNKNOWN_CLASS"), ("id=None", "KEY_INVALID"), ("31", "ROW_EMPTY")}
    assert report.num_quarantined == len(told)
    again = shop.run()
    assert (again.num_new, again.num_quarantined) == (0, 0)
    assert shop.run(after=25 * HOUR).num_quarantined == 0


def test_a_value_of_postgresql_that_python_cannot_hold_refuses_its_row(shop_of):
    """The year 10000, infinity and 24:00 as content."""
    shop = shop_of()
    if shop.is_postgres:
        shop.execute("ALTER TABLE orders ALTER country TYPE timestamp USING NULL")
        shop.execute("INSERT INTO orders VALUES (1, 1, '2026-01-01', 'yes', :at)", at=(NOW - HOUR).replace(tzinfo=None))
        shop.execute("INSERT INTO orders VALUES (2, 1, 'infinity', 'yes', NULL), (3, 1, '10000-01-01', 'yes', NULL)")
        expected = {"id=2": "VALUE_UNREADABLE", "id=3": "VALUE_UNREADABLE"}
    else:
        shop.insert(1, NOW - HOUR)
        expected = {}
    shop.run()
    assert shop.ids == {1}
    assert shop.world.refused() == expected


@pytest.mark.parametrize("first", [True, False], ids=["C1-before-the-others", "C1-after-them"])
@pytest.mark.parametrize("column", ["varchar(40)", "timestamp"])
def test_one_value_without_an_order_refuses_its_row(shop_of, column, first):
    """One BLOB in the watermark column stopped the whole query. PostgreSQL holds no two types in a column."""
    shop = shop_of(column)
    good = [lambda: shop.insert(1, NOW - HOUR), lambda: shop.insert(2, NOW - HOUR)]
    bad = [] if shop.is_postgres else [lambda: shop.execute("INSERT INTO orders VALUES (9, 9, 'DE', 'yes', x'ff00')")]
    for insert in [*bad, *good] if first else [*good, *bad]:
        insert()
    shop.run()
    shop.insert(3, NOW)
    shop.run()
    assert shop.ids == {1, 2, 3}
    told = [(key, code, "(got bytes)" in reason) for key, code, reason in reasons(shop.world)]
    assert told == ([] if shop.is_postgres else [("id=9", "WATERMARK_INVALID", True)])
    again = shop.run(after=25 * HOUR)
    assert (again.num_new, again.num_known, again.num_quarantined) == (0, 3, 0)


@pytest.mark.parametrize("num_rows", [1, MAX_WITHOUT_ORDER + 1])
def test_a_watermark_without_an_order_is_a_wrong_setting(shop_of, num_rows):
    """Bytes have no order that both sides share. No row is in quarantine: the setting is wrong, not they."""
    shop = shop_of("varchar(40)")
    as_bytes = "convert_to(at, 'UTF8')" if shop.is_postgres else "CAST(at AS blob)"
    shop.query(f"SELECT id, amount, country, label, {as_bytes} AS at FROM orders")
    for number in range(num_rows):
        shop.insert(number, "x")
    with pytest.raises(ConfigError, match=r"sources\[1\] \(shop\).watermark_column must hold times.*\(got bytes\)"):
        shop.run()
    assert (shop.ids, reasons(shop.world)) == (set(), [])
