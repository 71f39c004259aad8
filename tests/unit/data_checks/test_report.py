import datetime as dt
import re

from data_checks.charts import bar_chart, share_bar
from data_checks.report import IndexEntry, render_check, render_index, render_root
from data_checks.result import CheckResult, RuleResult

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(1)>"'


def result(**changes) -> CheckResult:
    rules = (
        RuleResult("GOOD", "stop", success=True, expected="fine", observed="all rows", num_checked=3),
        RuleResult(
            "BAD",
            "quarantine",
            success=False,
            expected=HOSTILE,
            observed=HOSTILE,
            num_checked=3,
            num_failed=2,
            failing_ids=("a", HOSTILE),
        ),
        RuleResult("BROKEN", "warn", success=False, expected="", error="no such column"),
    )
    base = {
        "stage": "labels",
        "suite": "s@1",
        "subject": HOSTILE,
        "success": False,
        "severity": "stop",
        "code": "CHECK_ERROR",
        "rules": rules,
    }
    return CheckResult(
        **base | {"statistics": {"num_rows": 3, "num_quarantined": 2, "class_counts": {HOSTILE: 2, "dog": 1}}} | changes
    )


def test_the_page_says_what_failed_and_escapes_what_it_shows():
    page = render_check("pets", result(), created_at=NOW, run_id="run-1")
    assert "<h1>Stopped</h1>" in page
    assert "<code>CHECK_ERROR</code>" in page
    assert "1 of 3 hold" in page
    assert "no such column" in page
    assert "could not be checked, so it stops the run" in page
    assert "2026-03-01 12:00:00 UTC" in page
    assert "<script" not in page
    assert "<img" not in page


def test_the_page_needs_no_network_and_allows_no_script():
    page = render_check("pets", result(), created_at=NOW, run_id="run-1")
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page)
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in page
    assert "style=" not in page


def test_long_lists_of_rows_are_cut():
    ids = tuple(f"id{index:04}" for index in range(1234))
    rule = RuleResult(
        "BAD", "stop", success=False, expected="e", observed="o", num_checked=2000, num_failed=1234, failing_ids=ids
    )
    page = render_check("pets", result(rules=(rule,)), created_at=NOW, run_id="r")
    assert "id0099" in page
    assert "id0100" not in page
    assert "and 1,134 more" in page


def test_the_index_lists_the_newest_first_and_links():
    entries = [
        IndexEntry("labels/a.html", "older", "labels", "ok", "3 rows", NOW),
        IndexEntry("dataset/b.html", HOSTILE, "dataset", "stop", "0 rows", NOW + dt.timedelta(minutes=1)),
    ]
    page = render_index("pets", entries)
    assert page.index('href="dataset/b.html"') < page.index('href="labels/a.html"')
    assert "<script" not in page


def test_empty_pages_say_so():
    assert "No check has run yet." in render_index("pets", [])
    assert "No check has run yet." in render_root({})
    assert '<a href="pets/index.html">pets</a></td><td>3</td>' in render_root({"pets": 3})


def test_bars_are_shares_with_marks_of_the_reference():
    chart = bar_chart({"cat": 3, "dog": 1}, reference={"cat": 1, "dog": 1})
    assert "3 (75.0%)" in chart
    assert chart.count('class="mark"') == 2
    widths = [float(width) for width in re.findall(r'class="bar" x="150" y="\d+" width="([\d.]+)"', chart)]
    assert widths[0] == 3 * widths[1]
    assert bar_chart({}) == '<svg class="bars" viewBox="0 0 720 0" role="img"></svg>'
    assert 'class="mark"' not in bar_chart({"cat": 1})


def test_a_share_bar_shows_even_one_bad_row():
    assert 'width="2.0"' in share_bar(1, 1_000_000)
    assert share_bar(0, 10).endswith(" 0")
