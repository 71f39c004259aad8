"""The OpenAPI document as one page: no script, no other file, nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from bento_services.gateway.api.examples import EXAMPLES

DOCUMENT_TEXT = Path(__file__).with_name("openapi.json").read_text()  # `openapi.py` makes it
DOCUMENT = json.loads(DOCUMENT_TEXT)
# The page loads nothing and may not be framed; its style is its own.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h2{border-bottom:1px solid #8886;margin-top:2.5rem}
pre{background:#8882;padding:.8rem;overflow-x:auto;border-radius:.3rem}
code{font:14px/1.45 ui-monospace,monospace}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.25rem .6rem .25rem 0;border-bottom:1px solid #8883}
.method{font-weight:700;text-transform:uppercase;margin-right:.5rem}
summary{cursor:pointer}
"""
INTRO = """
<p>{description}</p>
<p>The document itself: <a href="/openapi.json">/openapi.json</a>. Set these once, then copy any example:</p>
<pre><code>GATEWAY=http://127.0.0.1:8000  # where this page came from
KEY=...                        # dethrone keys issue --project $PROJECT
PROJECT=...
PREDICTION_ID=...              # from an answer</code></pre>
"""


def render(document: dict[str, Any] = DOCUMENT) -> str:
    """Return the page."""
    info = document["info"]
    parts = [
        f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>",
        INTRO.format(description=escape(info["description"])),
        *(_section(tag["name"], document) for tag in document["tags"]),
        "<h2>Schemas</h2>",
        *(_schema(name, schema) for name, schema in document["components"]["schemas"].items()),
    ]
    head = f'<meta charset="utf-8"><title>{escape(info["title"])}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'


def _section(tag: str, document: dict[str, Any]) -> str:
    operations = [
        _operation(method, path, operation, document)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if tag in operation["tags"]
    ]
    return f"<h2>{escape(tag)}</h2>{''.join(operations)}"


def _operation(method: str, path: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    name = operation["operationId"]
    examples = "".join(
        f"<p>{escape(example.title)}:</p><pre><code>{escape(example.as_curl())}</code></pre>"
        for example in EXAMPLES
        if example.operation == name
    )
    return (
        f'<h3 id="{escape(name)}"><span class="method">{escape(method)}</span><code>{escape(path)}</code></h3>'
        f"<p>{escape(operation['summary'])}. {escape(operation.get('description', 'Needs no key.'))}</p>{examples}"
        f"<details><summary>Parameters and answers</summary>{_table(_parameters(operation, document))}"
        f"{_table(_responses(operation, document))}</details>"
    )


def _parameters(operation: dict[str, Any], document: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for parameter in operation.get("parameters", ()):
        resolved = resolve(parameter, document)
        yield resolved["name"], resolved["in"], resolved["description"]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield "body", media_type, _type_name(content["schema"])


def _responses(operation: dict[str, Any], document: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for status, response in operation["responses"].items():
        resolved = resolve(response, document)
        shapes = ", ".join(_type_name(content["schema"]) for content in resolved.get("content", {}).values())
        yield status, shapes, resolved["description"]


def resolve(value: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Return what a `$ref` within the document leads to, or the value itself."""
    if "$ref" not in value:
        return value
    node: Any = document
    for part in value["$ref"].removeprefix("#/").split("/"):
        node = node[part]
    return dict(node)


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = (
        (field if field in required else f"{field} (optional)", _type_name(value), value.get("description", ""))
        for field, value in schema["properties"].items()
    )
    return f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{escape(schema["description"])}</p>{_table(rows)}'


def _type_name(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_type_name(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type_name(schema['items'])}"
    return " or ".join(kind) if isinstance(kind, list) else str(schema.get("format", kind))


def _table(rows: Iterator[tuple[str, str, str]]) -> str:
    cells = [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table>{''.join(cells)}</table>" if cells else ""
