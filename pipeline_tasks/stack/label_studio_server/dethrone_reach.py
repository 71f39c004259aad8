"""The inner addresses that Label Studio may ask: those of the object store and of our webhook, and no other.

Label Studio refuses every reserved network for imports, storages and webhooks, or with a setting whole networks less;
one machine has everything in 127.0.0.0/8. Here a host and port are open, on every connection; the rest stays refused.
"""

import functools
import importlib
import sys
from collections.abc import Callable, Collection, Iterable
from typing import Any
from urllib.parse import urlsplit

_COPIES = ("core.utils.io", "label_studio.core.utils.io")  # Label Studio loads the module under both names
_VARIABLES = ("DETHRONE_LABEL_STUDIO_REACHES", "DETHRONE_S3_ENDPOINT", "DETHRONE_AIRFLOW_URL")
_PORTS = {"http": 80, "https": 443}


def place(url: str) -> tuple[str | None, int | None] | None:
    """Return host and port of an address, or None for one that has none."""
    try:
        parts = urlsplit(url)
        return (parts.hostname, parts.port or _PORTS.get(parts.scheme))
    except ValueError:
        return None


def ours(read: Callable[[str], str | None]) -> list[str]:
    """Return the addresses of the stack's own store and webhook, and those that the operator named in their place."""
    return [address for name in _VARIABLES for address in (read(name) or "").split()]


def open_only(addresses: Iterable[str]) -> None:
    """Let the guard of outgoing requests pass these addresses; call it once Label Studio's modules are loaded."""
    places = frozenset(filter(None, map(place, addresses)))
    for name in _COPIES:
        _open(importlib.import_module(name), places)


def _open(io: Any, places: Collection[Any]) -> None:
    guarded = io._SsrfGuardedConnectionMixin  # noqa: SLF001 - it has no other place to say which addresses are ours
    refuse, connect = io.validate_url_for_ssrf, guarded._new_conn  # noqa: SLF001

    @functools.wraps(refuse)
    def validate(url: str, *arguments: Any, **keywords: Any) -> None:
        if place(url) not in places:
            refuse(url, *arguments, **keywords)

    @functools.wraps(connect)
    def new_connection(self: Any) -> Any:
        return super(guarded, self)._new_conn() if (self.host, self.port) in places else connect(self)

    guarded._new_conn = new_connection  # noqa: SLF001
    for module in list(sys.modules.values()):
        if getattr(module, "validate_url_for_ssrf", None) is refuse:
            vars(module)["validate_url_for_ssrf"] = validate
