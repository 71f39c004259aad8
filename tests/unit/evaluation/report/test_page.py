"""The report: self-contained, inert whatever the data holds, and right about the numbers it shows."""

import base64
import html.parser
import io
import json
import re

import pytest
from PIL import Image

from pipeline_tasks.contracts import Leak, sha256_hex
from pipeline_tasks.evaluation.report import advice, charts, examples
from pipeline_tasks.evaluation.report import page as report_page
from pipeline_tasks.evaluation.report.examples import Preview
from pipeline_tasks.evaluation.report.markdown import markdown_summary
from pipeline_tasks.evaluation.task import judge
from tests.unit.evaluation import support as s

LABELS = [s.CLASSES[index % 2] for index in range(120)]
XSS = [
    "<script>window.hacked=1</script>",
    "\"><img src=x onerror='window.hacked=1'>",
    "'><svg/onload=window.hacked=1>",
    "</style><script>window.hacked=1</script>",
    "</title><script>window.hacked=1</script>",
    "javascript:window.hacked=1",
    "<iframe srcdoc='<script>parent.hacked=1</script>'>",
    "<a href=javascript:window.hacked=1>x</a>",
    "&lt;script&gt;window.hacked=1&lt;/script&gt;",
    "<!--<script>window.hacked=1//-->",
    "<math><mtext></mtext><script>window.hacked=1</script></math>",
    "{{constructor.constructor('window.hacked=1')()}}",
    "\x00<script>\x1bwindow.hacked=1</script>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<link rel=stylesheet href=//evil.example/x.css>",
]
ALLOWED_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "div", "section", "h1", "h2", "h3", "p", "b", "span"),
    *("code", "pre", "ul", "li", "table", "tr", "th", "td", "img"),
    *("svg", "line", "circle", "rect", "text", "polyline"),
}


class Page(html.parser.HTMLParser):
    """Collects tags and attributes of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data.replace("\N{NO-BREAK SPACE}", " "))


@pytest.fixture
def make(database, object_store):
    """Judge for real and return (document, page, evidence)."""

    def call(
        *,
        classes=s.CLASSES,
        champion=True,
        wrong=range(24),
        contender_wrong=(100,),
        media_type="text/plain",
        gate=None,
        broken=None,
        near=None,
    ):
        rename = dict(zip(s.CLASSES, classes, strict=False))
        labels = [rename[label] for label in LABELS]
        exams = [s.put_exam(object_store, epoch=epoch, labels=labels, media_type=media_type) for epoch in (1, 2)]
        old = s.answers(1, LABELS) | s.answers(2, LABELS, wrong=wrong)
        new = s.answers(1, LABELS) | s.answers(2, LABELS, wrong=contender_wrong)
        models = {"old": s.TableModel(old, classes=classes), "new": s.TableModel(new, classes=classes, broken=broken)}
        world = s.World(object_store, models, exams, near=near or {})
        old_model = s.put_model(object_store, "old") if champion else None
        project, new_model = s.project(gate=gate, classes=classes), s.put_model(object_store, "new")
        ref = judge(project, new_model, exams, champion=old_model, context=world.context(database))
        document = json.loads(object_store.get(f"{ref.object_key}/verdict.json"))
        page = object_store.get(f"{ref.object_key}/report.html").decode()
        return document, page, object_store.get(f"{ref.object_key}/evidence.parquet")

    return call


def test_the_page_says_the_answer_and_both_models_scores(make):
    words = " ".join(Page(make()[1]).words)
    assert "Promote the contender" in words
    assert "Accuracy on the 240 items of epochs 1 to 2 is 99.6 % for the contender and 90.0 % for the champion" in words
    assert "+19.2 points" in words
    assert "24 won, 1 lost" in words
    for section in ("Why", "Difference", "Side by side", "Classes, worst first", "What is taken for what"):
        assert section in words
    assert "24 of 24 such items" in words or "12 of 24 such items" in words
    assert "1 of 1 such items" in words


def test_the_page_names_every_hash_of_its_evidence(make):
    document, page, evidence = make()
    assert sha256_hex(evidence) in page
    for exam in document["question"]["exams"]:
        assert exam["exam_id"] in page
    assert document["question"]["contender"]["digest"] in page


def test_the_page_is_self_contained(make):
    page = Page(make()[1])
    assert set(page.tags) <= ALLOWED_TAGS
    sources = [value for name, value in page.attributes if name in {"src", "href", "xlink:href", "action", "srcset"}]
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
    (policy,) = [value for name, value in page.attributes if name == "content" and "default-src" in (value or "")]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")


@pytest.mark.parametrize("evil", XSS)
def test_evil_class_names_and_texts_stay_text(make, evil, monkeypatch):
    monkeypatch.setattr(s, "payload", lambda epoch, index: f"{epoch} {index:05d} {evil} 1".encode())
    _, page, _ = make(classes=(f"{evil}", "shoe"))
    assert set(Page(page).tags) <= ALLOWED_TAGS
    assert evil not in page or "<" not in evil
    assert "\x00" not in page


def test_a_first_model_shows_where_it_is_wrong(make):
    words = " ".join(Page(make(champion=False)[1]).words)
    assert "Promote the first model" in words
    assert "Wrong, and sure of it" in words
    assert "Champion" not in words
    assert "Difference" not in words


def test_a_model_that_gives_nonsense_still_has_a_report(make):
    words = " ".join(Page(make(broken="nan")[1]).words)
    assert "Keep the champion" in words
    assert "The contender gives NaN or infinity for 240 items of exam 2." in words
    assert "not computable" in words


def test_class_table_puts_the_worst_first(make):
    _, page, _ = make()
    table = page[page.index("Classes, worst first") : page.index("What is taken for what")]
    assert table.index("<td>shirt</td>") < table.index("<td>shoe</td>")


def picture(**kwargs):
    buffer = io.BytesIO()
    Image.new("RGB", (400, 300), "red").save(buffer, **{"format": "PNG", **kwargs})
    return buffer.getvalue()


def test_thumbnails_are_drawn_anew():
    data = picture(format="JPEG", comment=b"<script>alert(1)</script>")
    preview = examples.preview(data, media_type="image/jpeg")
    drawn = base64.b64decode(preview.image)
    assert drawn.startswith(b"\x89PNG")
    assert b"script" not in drawn


@pytest.mark.parametrize("data", [b"", b"not a picture", picture()[:100], b"<svg onload=alert(1)>"])
def test_what_is_no_picture_is_said_so(data):
    assert examples.preview(data, media_type="image/png") == Preview(note="cannot be shown", is_image=True)


def test_a_huge_picture_is_not_decoded():
    buffer = io.BytesIO()
    Image.new("1", (6000, 6000)).save(buffer, "PNG")
    assert examples.preview(buffer.getvalue(), media_type="image/png").note == "too large to show"


def test_long_texts_are_cut_and_bytes_counted():
    shown = examples.preview(b"word " * 500, media_type="text/plain")
    assert len(shown.text) == examples.MAX_TEXT
    assert shown.text.endswith("…")
    assert examples.preview(b"\xff" * 9, media_type="application/x") == Preview(note="9 bytes of application/x")


def test_large_matrices_show_the_classes_with_most_errors():
    counts = [[0] * 30 for _ in range(30)]
    counts[29][3] = 5
    counts[7][7] = 1000
    chosen = charts.worst_classes(counts, [str(index) for index in range(30)])
    assert len(chosen) == charts.MAX_MATRIX_CLASSES
    assert chosen == sorted(chosen)
    assert {3, 29} <= set(chosen)


def test_the_charts_of_a_gain_show_the_limit():
    row = {
        "name": "n",
        "detail": "d",
        "difference": 0.02,
        "low": -0.01,
        "high": 0.05,
        "limit": 0.0,
        "limit_name": "<b>",
    }
    chart = charts.gain_chart([row])
    assert "+2.0 points" in chart
    assert "&lt;b&gt;" in chart


def test_advice_says_how_many_wrong_labels_would_turn_a_promotion(make):
    document, _, _ = make(wrong=range(12))
    gain = document["evidence"]["current"]["gain"]
    assert (gain["num_wins"], gain["num_losses"]) == (12, 1)
    assert advice.what_would_change(document)[0] == (
        "2 of the 12 labels by which the contender wins would have to be wrong, each in the champion's favour, before "
        "the gain were no longer sure."
    )


def test_advice_counts_missing_right_answers_of_a_class(make):
    limits = {"recall_per_class": 0.95}
    document, _, _ = make(
        broken=None, contender_wrong=range(0, 20, 2), gate={"limits": limits, "exam": {"min_items": 10}}
    )
    assert document["decision"]["code"] == "RECALL_FLOOR"
    assert "shirt: 4 more of its 120 items right would meet the floor." in advice.what_would_change(document)


def test_advice_on_an_uncertain_gain_gives_a_number_of_items(make):
    document, _, _ = make(wrong=range(4))
    assert document["decision"]["answer"] == "inconclusive"
    lines = advice.what_would_change(document)
    assert any(
        re.match(r"A contender that truly is 5.0 points better is seen here with a chance of \d+%", line)
        for line in lines
    )
    assert any("once it is full, 3.0 points are seen with a chance of" in line for line in lines)


def test_summary_is_markdown_that_cannot_break_out(make):
    document, _, _ = make(classes=("a|b](javascript:x)<script>", "shoe"))
    summary = markdown_summary(document, report_url="http://localhost/report")
    assert summary.startswith("**Promote the contender: ")
    assert "| Accuracy | 90.0 % | 99.6 % |" in summary
    assert "<script>" not in summary
    assert "a\\|b\\]\\(javascript:x\\)&lt;script&gt;" in summary
    assert "[The whole report](http://localhost/report)" in summary
    assert report_page.markdown_summary is markdown_summary


def test_summary_of_a_first_model_has_one_column(make):
    document, _, _ = make(champion=False)
    assert "| Accuracy | 99.6 % |" in markdown_summary(document)


@pytest.mark.integration
def test_no_script_runs_and_nothing_is_fetched_in_a_browser(make, monkeypatch, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    evil = " ".join(XSS)
    monkeypatch.setattr(s, "payload", lambda epoch, index: f"{epoch} {index:05d} {evil} 1".encode())
    (tmp_path / "report.html").write_text(make(classes=(evil, "shoe"))[1])
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        requests, messages = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("window.hacked") is None
        assert [url for url in requests if not url.startswith(("data:", "file:"))] == []
        assert messages == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        browser.close()


def test_the_page_shows_leaks_in_pairs(make, object_store):
    copy = s.put_item(object_store, b"all but <item> 7")
    item_id = sha256_hex(s.payload(2, 7))
    page = make(near={"snapshot-new": [Leak(item_id, copy, "near", 0.9971)]})[1]
    words = " ".join(Page(page).words)
    assert "1 of 240 exam items are in the contender's training snapshot, 0 exactly and 1 as near duplicates." in words
    assert "0 of 240 exam items are in the champion's training snapshot." in words
    assert f"{item_id} is like {copy} , similarity 0.9971" in " ".join(words.split())
    assert "all but <item> 7" in words
    assert "item 2 00007" in words


def test_the_page_shows_an_exact_leak_once(make, object_store):
    item_id = sha256_hex(s.payload(2, 7))
    page = make(near={"snapshot-new": [Leak(item_id, item_id, "exact", 1.0)]})[1]
    assert "the same bytes" in page
    assert "training snapshot, 1 exactly and 0 as near duplicates." in page
    assert "similarity" not in page.partition("Exams and leak check")[2].partition("</section>")[0]


def test_the_page_lists_twenty_leaks_and_shows_twelve_pairs(make, object_store):
    copy = s.put_item(object_store, b"a copy")
    leaks = [Leak(sha256_hex(s.payload(2, index)), copy, "near", 0.99) for index in range(23)]
    section = make(near={"snapshot-new": leaks})[1].partition("Exams and leak check")[2].partition("</section>")[0]
    assert section.count("<li>") == 21
    assert "and 3 more, in verdict.json" in section
    assert section.count('<div class="example">') == 12


def test_the_page_says_when_near_duplicates_were_not_looked_for(make):
    gate = {"exam": {"min_items": 10, "near_duplicates": {"policy": "off"}}}
    assert "Only identical items were looked for" in make(gate=gate)[1]
    assert "Only identical items were looked for" not in make()[1]
