"""`Server-Timing`: written in milliseconds, read back only where it is understood."""

import pytest

from bento_services.gateway.server_timing import format_timing, parse_timing


def test_spans_are_told_in_milliseconds_the_total_last():
    text = format_timing({"read": 0.0012344, "inference": 1.0}, total_seconds=2.5)
    assert text == "read;dur=1.234, inference;dur=1000.000, total;dur=2500.000"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("queue;dur=1.5, model;dur=20", {"queue": 0.0015, "model": 0.02}),
        ("decode;dur=0.25,evil;dur=1, model;desc=x", {"decode": 0.00025}),
        ("total;dur=5", {}),
        ("model;dur=-1", {}),
        ("model;dur=nan, model;dur=1e3", {}),
        ("model;dur=1\r\nX: y", {}),
        ("model;dur=9999999", {"model": 3600.0}),
        ("", {}),
    ],
)
def test_only_known_parts_with_plain_numbers_are_believed(text, parts):
    assert parse_timing(text) == parts
