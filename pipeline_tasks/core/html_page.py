"""One self-contained HTML page: its style, its sections, its texts escaped. No script, no network."""

from __future__ import annotations

import base64
import hashlib
import html
from functools import cache
from importlib import resources


def page(title: str, body: str) -> str:
    """Return one self-contained page in the report's style."""
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<style>{style}</style></head><body><main>{body}</main></body></html>"
    ).replace(" %", "\N{NO-BREAK SPACE}%")


@cache
def _style() -> str:
    return resources.files("pipeline_tasks.core").joinpath("html_page.css").read_text(encoding="utf-8")


def section(title: str, body: str, note: str = "") -> str:
    """Return a titled part of a page, with a quiet note below its title."""
    quiet = f'<p class="quiet">{text(note)}</p>' if note else ""
    return f"<section><h2>{text(title)}</h2>{quiet}{body}</section>"


def text(value: object) -> str:
    """Escape a value for HTML and SVG, attributes included; control characters are shown, not obeyed."""
    clean = "".join(char if char >= " " or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in str(value))
    return html.escape(clean, quote=True)


def short(value: str, limit: int) -> str:
    """Return the text, cut with an ellipsis."""
    return value if len(value) <= limit else f"{value[: limit - 1]}…"


def percent(value: float | None) -> str:
    """Return a share as text."""
    return "not computable" if value is None else f"{100 * value:.1f} %"
