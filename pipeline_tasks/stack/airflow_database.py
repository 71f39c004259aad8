"""SQLite settings of Airflow's connections; named in `airflow.cfg`, so Airflow imports it."""

from __future__ import annotations

from collections.abc import Mapping

CONNECT_ARGS: Mapping[str, float] = {"timeout": 30.0}  # seconds to wait for the write lock
