"""The OpenAPI document as one page: no script, no other file, nothing from elsewhere. `openapi.py` writes it."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bento_services.gateway.api.examples import EXAMPLES

ROOT = Path(__file__).resolve().parents[3]  # templates are named from here


def render(document: dict[str, Any]) -> str:
    """Return the page."""
    environment = Environment(
        loader=FileSystemLoader(ROOT), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["resolve"] = lambda value: resolve(value, document)
    style = Path(__file__).with_name("docs_page.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = environment.get_template("bento_services/gateway/api/docs_page.html")
    own = Markup(style)  # noqa: S704  (our own file)
    return template.render(document=document, examples=EXAMPLES, style=own, style_digest=digest)


def resolve(value: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Return what a `$ref` within the document leads to, or the value itself."""
    if "$ref" not in value:
        return value
    node: Any = document
    for part in value["$ref"].removeprefix("#/").split("/"):
        node = node[part]
    return dict(node)
