"""From the measurements of `benchmarks/serving.py` to its tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from serving_peers import Peer


def numbers(document: Any, *, count: int) -> list[float]:
    """Return the first list of this many numbers in an answer, whatever is around it."""
    if isinstance(document, dict):
        document = list(document.values())
    if isinstance(document, list):
        if len(document) == count and all(isinstance(value, int | float) for value in document):
            return [float(value) for value in document]
        for value in document:
            inner = numbers(value, count=count)
            if inner:
                return inner
    return []


def of_limit(row: dict[str, Any]) -> float:
    """Return the requests per CPU second of a row by the items per CPU second of the limit."""
    return row["answers"] / max(row["cpu_seconds"], 1e-9) / row["limit"]


def cpu_us(row: dict[str, Any]) -> float:
    """Return the CPU time of a request, in microseconds."""
    return 1e6 * row["cpu_seconds"] / max(row["answers"], 1)


def one_line(row: dict[str, Any]) -> str:
    bad = f", others {row['others']}, lost {row['lost']}" if row["others"] or row["lost"] else ""
    p50, p99 = (f"{row[key]:.1f}" if row[key] is not None else "-" for key in ("p50_ms", "p99_ms"))
    return (
        f"{row['per_second']:.0f}/s, {cpu_us(row):.0f} us, {of_limit(row):.2f} of {row['limit']:.0f}/s, "
        f"p50 {p50} p99 {p99} ms{bad}"
    )


def table(results: Sequence[dict[str, Any]], *, kind: str, peers: Sequence[Peer], clients: Sequence[int]) -> str:
    """Return a Markdown table: a line per server, a column per number of clients."""
    rows = [row for row in results if row["kind"] == kind]
    limits = [row["limit"] for row in rows] or [0.0]
    lines = [
        "",
        f"## {kind}: limit {statistics.median(limits):.0f} ({min(limits):.0f}-{max(limits):.0f}) items per CPU second",
        "",
        "| server | "
        + " | ".join(f"c={count}: of limit (range), us, req/s, p50/p99 ms" for count in clients)
        + " | MiB |",
        "| --- |" + " --- |" * (len(clients) + 1),
    ]
    for peer in peers:
        mine = [row for row in rows if row["peer"] == peer.key]
        if not mine:
            lines.append(f"| {peer.title} |" + " not measured |" * (len(clients) + 1))
            continue
        cells = [cell([row for row in mine if row["clients"] == count]) for count in clients]
        memory = statistics.median(row["memory_mib"] for row in mine)
        lines.append(f"| {peer.title} | " + " | ".join(cells) + f" | {memory:.0f} |")
    return "\n".join(lines)


def cell(rows: Sequence[dict[str, Any]]) -> str:
    """Return the medians of one server at one number of clients."""
    ratios = [of_limit(row) for row in rows]
    middle = {
        key: statistics.median(row[key] for row in rows if row[key] is not None)
        if any(row[key] for row in rows)
        else 0.0
        for key in ("per_second", "p50_ms", "p99_ms")
    }
    failed = sum(sum(row["others"].values()) + row["lost"] for row in rows)
    text = (
        f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}-{max(ratios):.2f}), "
        f"{statistics.median(map(cpu_us, rows)):.0f}, {middle['per_second']:.0f}, "
        f"{middle['p50_ms']:.1f}/{middle['p99_ms']:.1f}"
    )
    return text + (f", {failed} failed" if failed else "")
