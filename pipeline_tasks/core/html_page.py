"""Self-contained HTML pages from templates: one base, every value escaped, no script, no network."""

from __future__ import annotations

import base64
import hashlib
import html
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment

ROOT = Path(__file__).resolve().parents[2]  # templates are named from here: pipeline_tasks/core/page.html
STYLE = "pipeline_tasks/core/html_page.css"
# Control characters and lone surrogates are shown, not obeyed.
_UNPRINTABLE = dict.fromkeys(
    [*(number for number in range(32) if chr(number) not in "\n\t"), *range(0xD800, 0xE000)],
    "\N{REPLACEMENT CHARACTER}",
)


def render(template: str, *, style: str = STYLE, **values: Any) -> str:
    """Return a page; its policy allows this one style sheet and nothing else. The same values give the same bytes."""
    css = _style(style)
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    page = _environment().get_template(template).render(**values, style=css, style_digest=digest)
    return page.replace(" %", "\N{NO-BREAK SPACE}%")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(ROOT),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"capital": capital, "percent": percent, "share": share, "short": short, "number": number}
    return environment


@cache
def _style(path: str) -> Markup:
    return drawing(ROOT.joinpath(path).read_text(encoding="utf-8"))


def _printable(value: Any) -> Any:
    return value.translate(_UNPRINTABLE) if isinstance(value, str) else value


def drawing(source: str) -> Markup:
    """Mark text that we have written, an SVG with what `text` made of values, as HTML."""
    return Markup(source)  # noqa: S704 - what comes from outside went through `text`


def text(value: object) -> str:
    """Escape a value for a drawing, attributes included."""
    return html.escape(_printable(str(value)), quote=True)


def capital(value: str) -> str:
    """Return a sentence with a capital."""
    return value[:1].upper() + value[1:]


def short(value: str, limit: int) -> str:
    """Return the text, cut with an ellipsis."""
    return value if len(value) <= limit else f"{value[: limit - 1]}…"


def percent(value: float | None) -> str:
    """Return a share as text."""
    return "not computable" if value is None else share(value)


def share(value: float | None) -> str:
    """Return a share as text; nothing where there is none."""
    return "" if value is None else f"{100 * value:.1f} %"


def number(value: float | None, form: str = "{:,}") -> str:
    """Return a figure as text."""
    return "not computable" if value is None else form.format(value)
