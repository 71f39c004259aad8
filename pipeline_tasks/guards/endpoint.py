"""Addresses of services, and whether the shell's proxies may stand before them."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

_NEAR_SUFFIXES = (".localhost", ".local", ".internal", ".svc")


def proxies_to(url: str) -> dict[str, str] | None:
    """Return the `proxies` of a botocore client: none for a service of this machine or network, else the shell's.

    A proxy of the shell is the way to the internet: it knows neither this machine's loopback nor the names of a compose
    network or a cluster. None lets the client read HTTP_PROXY and NO_PROXY.
    """
    return {} if _is_near(urlsplit(url).hostname or "") else None


def _is_near(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        name = host.rstrip(".")
        return bool(name) and ("." not in name or name.endswith(_NEAR_SUFFIXES))
