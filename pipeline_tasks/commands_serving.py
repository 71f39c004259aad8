"""The commands that look at serving; `cli.py` has their names and arguments."""

from __future__ import annotations

import argparse
import time
from typing import Any

from pipeline_tasks.errors import ConfigError


def latency(arguments: argparse.Namespace) -> Any:
    """Send real requests and print where their time goes."""
    from pipeline_tasks.assembly import build_parts
    from pipeline_tasks.commands import media_type_of
    from pipeline_tasks.wiring import latency as wiring

    if arguments.requests < 1:
        raise ConfigError(f"--requests must be 1 or more (got {arguments.requests}).")
    file = None
    if arguments.file is not None:
        file = wiring.payload_of(arguments.file, media_type=media_type_of(arguments.file))
    found = wiring.measure(
        build_parts(), arguments.project, num_requests=arguments.requests, file=file, monotonic=time.perf_counter
    )
    return found if arguments.json else wiring.as_text(found)
