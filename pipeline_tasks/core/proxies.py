"""Proxies of the caller's shell: outside services may use them, the stack's own are reached directly."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

DIRECT = ("127.0.0.1", "localhost", "::1")
_SUFFIX = "_proxy"


def without_own_services(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment whose proxies are for outside services only.

    Loopback joins NO_PROXY in both spellings, since each library reads another one. Proxies that no library here
    speaks go: with SOCKS in ALL_PROXY httpx builds no client at all, and no Airflow task starts.
    """
    kept = {name: value for name, value in environment.items() if name not in unusable(environment)}
    spellings = [kept.get(name, "") for name in ("NO_PROXY", "no_proxy")]
    hosts = [host.strip() for spelling in spellings for host in spelling.split(",") if host.strip()]
    listed = "*" if "*" in hosts else ",".join(dict.fromkeys([*hosts, *DIRECT]))
    return kept | {"NO_PROXY": listed, "no_proxy": listed}


def unusable(environment: Mapping[str, str]) -> list[str]:
    """Return the names of the proxy variables whose scheme is not HTTP."""
    return sorted(name for name, value in environment.items() if _is_proxy(name) and not _speaks_http(value))


def said(environment: Mapping[str, str]) -> str:
    """Return what is made of the proxies of an environment, in a sentence without their passwords."""
    dropped = unusable(environment)
    used = sorted(name for name, value in environment.items() if _is_proxy(name) and value and name not in dropped)
    parts = []
    if used:
        parts.append(f"{', '.join(used)}: for outside services only")
    if dropped:
        parts.append(f"{', '.join(dropped)}: not used, the stack speaks HTTP proxies and no SOCKS")
    return "; ".join(parts) or "none"


def _is_proxy(name: str) -> bool:
    return name.lower().endswith(_SUFFIX) and name.lower() != "no_proxy"


def _speaks_http(value: str) -> bool:
    try:
        scheme = urlsplit(value).scheme if "://" in value else "http"
    except ValueError:
        return False
    return scheme.lower() in {"http", "https"}
