"""Calls to an address that a caller named: off by default, to allowed hosts only, with nothing in them but an id.

A caller's address could point into the operator's own network. So a host must be listed, or, where `*` is listed, be
reached by https at public addresses only: these are looked up and checked for each connection. No redirect is followed.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
from collections.abc import Iterable

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from bento_services.gateway.errors import ApiError

ANY_PUBLIC_HOST = "*"
MAX_URL_LENGTH = 2000
TIMEOUT_SECONDS = 5.0
HEADER = "X-Callback-Url"
# Addresses that `is_global` lets through although they lead to a translator or back into the network.
TRANSLATED = tuple(ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))


@dataclasses.dataclass(frozen=True, slots=True)
class CallbackPolicy:
    """The origins that may be called, as `scheme://host:port`, and whether any public https host may be."""

    origins: frozenset[str] = frozenset()
    any_public: bool = False

    def allows_private(self, host: str) -> bool:
        """Say whether the operator listed this host by name: then it may lie in a private network."""
        return host in {yarl.URL(origin).host for origin in self.origins}


def parse_policy(text: str) -> CallbackPolicy:
    """Read `hooks.example.com, http://10.0.0.5:9000, *`: a bare host means https.

    Raises:
        ValueError: an entry is neither a host nor an origin.
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    named = [entry if "://" in entry else f"https://{entry}" for entry in entries if entry != ANY_PUBLIC_HOST]
    urls = [yarl.URL(entry) for entry in named]
    for entry, url in zip(named, urls, strict=True):
        if url.scheme not in {"http", "https"} or not url.host or url.raw_path not in {"", "/"} or url.user:
            raise ValueError(f"must be hosts, http(s) origins or * (got {entry!r}).")
    return CallbackPolicy(frozenset(_origin(url) for url in urls), any_public=ANY_PUBLIC_HOST in entries)


def check_callback(text: str | None, policy: CallbackPolicy) -> str | None:
    """Return an address that may be called; 422 for any other one."""
    if text is None:
        return None
    if not policy.origins and not policy.any_public:
        raise _refused("must be absent: this gateway calls nobody. Ask for the answer by GET /v1/predictions/{id}.")
    try:
        url = yarl.URL(text)
        fits = len(text) <= MAX_URL_LENGTH and bool(url.host) and url.port is not None
    except ValueError:
        raise _refused("must be an http(s) URL.") from None
    if not fits or url.user is not None or url.password is not None or url.fragment:
        raise _refused(f"must be an http(s) URL of at most {MAX_URL_LENGTH} characters without user and fragment.")
    listed = _origin(url) in policy.origins
    if not listed and not (policy.any_public and url.scheme == "https" and not _is_address(url.host or "")):
        raise _refused("must be at a host that the operator allowed, by https. See DETHRONE_CALLBACK_HOSTS.")
    return str(url)


def _refused(text: str) -> ApiError:
    return ApiError(422, "CALLBACK_NOT_ALLOWED", f"{HEADER} {text}", field=HEADER)


def _origin(url: yarl.URL) -> str:
    return f"{url.scheme}://{url.host}:{url.port}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Say whether an IP address is one of the public internet, whatever it is wrapped in."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    translated = any(ip in network for network in TRANSLATED)
    return ip.is_global and not ip.is_multicast and not translated


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses only, but for the hosts that the operator listed.

    It runs for every connection, so a name whose address changes after the check gains nothing.
    """

    def __init__(self, policy: CallbackPolicy, *, inner: AbstractResolver | None = None) -> None:
        self._policy = policy
        self._inner = inner if inner is not None else aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        results = await self._inner.resolve(host, port, family)
        if self._policy.allows_private(host):
            return results
        public = public_only(results)
        if not public:
            raise OSError(f"{host} must have a public address.")
        return public

    async def close(self) -> None:
        await self._inner.close()


def public_only(results: Iterable[ResolveResult]) -> list[ResolveResult]:
    """Return the results with a public address."""
    return [result for result in results if is_public(result["host"])]


class CallbackClient:
    """Posts the events; makes its session in the event loop that first uses it."""

    def __init__(self, policy: CallbackPolicy) -> None:
        self._policy = policy
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, *, event: str, prediction_id: str) -> bool:
        """Tell that there is something to read; True when the other side says 2xx.

        The answer itself is not sent: who reads it has to show a key of the project.
        """
        try:
            async with self._open().post(
                yarl.URL(url), json={"event": event, "prediction_id": prediction_id}, allow_redirects=False
            ) as response:
                return 200 <= response.status < 300
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            return False

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(resolver=PublicResolver(self._policy), use_dns_cache=False, limit=16)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
                trust_env=False,
                headers={"User-Agent": "dethrone-gateway"},
            )
        return self._session
