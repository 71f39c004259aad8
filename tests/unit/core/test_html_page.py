"""The base of every page: what a template may not do, and what becomes of values."""

import dataclasses
import re

import jinja2
import pytest

from pipeline_tasks.core import html_page
from pipeline_tasks.core.html_page import ROOT, render
from pipeline_tasks.orchestration.overview_page import render_overview
from tests.unit.orchestration.test_overview import LINE

TEMPLATES = sorted(
    path.relative_to(ROOT).as_posix()
    for name in ("bento_services", "pipeline_tasks", "data_checks")
    for path in (ROOT / name).rglob("*.html")
    if path.name != "docs.html"  # made of a template
)
BASE = "pipeline_tasks/core/page.html"


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_template_trusts_a_value_or_holds_a_script_a_style_or_an_address(name):
    source = (ROOT / name).read_text()
    assert "safe" not in source.replace("unsafe", "")
    assert "autoescape" not in source
    assert not re.search(r"<script|style=|\son\w+=|(?:src|href)=[\"']?(?:https?:)?//", source)
    assert re.search(r"=\{\{", source) is None, "an attribute needs quotes"
    is_page = name.rsplit("/", 1)[1] not in ("page.html", "parts.html") or name.startswith("pipeline_tasks/monitoring")
    assert source.startswith(f'{{% extends "{BASE}" %}}') is is_page


def test_a_page_is_the_same_bytes_each_time_and_holds_one_style_sheet():
    page = render_overview([LINE])
    html_page._environment.cache_clear()
    assert render_overview([LINE]) == page
    assert page.count("<style>") == 1


def test_what_cannot_be_printed_or_stored_is_shown():
    page = render_overview([dataclasses.replace(LINE, description="a\x00b\ud800c\x1b[1m\nd")])
    assert "a\ufffdb\ufffdc\ufffd[1m\nd" in page
    assert page.encode()


def test_a_value_that_a_page_lacks_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="'projects' is undefined"):
        render("pipeline_tasks/orchestration/overview_page.html")
