"""Addresses that the gateway calls: none by default, and never one that leads inside by a trick."""

import asyncio

import pytest

from bento_services.gateway.async_predictions.callbacks import (
    CallbackClient,
    CallbackPolicy,
    PublicResolver,
    check_callback,
    is_public,
    parse_policy,
)
from bento_services.gateway.config import load_config
from bento_services.gateway.errors import ApiError
from pipeline_tasks.errors import ConfigError

LISTED = parse_policy("hooks.example.com, http://10.0.0.5:9000")
ANY = parse_policy("*")


def test_nothing_is_called_by_default():
    assert load_config({}).callbacks == CallbackPolicy()
    assert check_callback(None, CallbackPolicy()) is None
    with pytest.raises(ApiError, match="this gateway calls nobody"):
        check_callback("https://hooks.example.com/", CallbackPolicy())


@pytest.mark.parametrize(
    ("url", "policy"),
    [
        ("https://hooks.example.com/path?a=1", LISTED),
        ("https://hooks.example.com:443/", LISTED),
        ("http://10.0.0.5:9000/x", LISTED),
        ("https://anything.example.org/", ANY),
        ("https://anything.example.org:8443/", ANY),
    ],
)
def test_allowed_addresses_pass(url, policy):
    assert check_callback(url, policy)


@pytest.mark.parametrize("policy", [LISTED, ANY])
@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",
        "http://10.0.0.5/",
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://127.0.0.1/",
        "https://user:secret@hooks.example.com/",
        "https://hooks.example.com@127.0.0.1/",
        "https://hooks.example.com/#x",
        "https:///x",
        "ftp://hooks.example.com/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:70/",
        "//hooks.example.com/",
        "hooks.example.com",
        "https://[::1",
        "https://hooks.example.com:99999/",
        "",
    ],
)
def test_other_addresses_are_refused(url, policy):
    with pytest.raises(ApiError, match="X-Callback-Url") as caught:
        check_callback(url, policy)
    assert (caught.value.status, caught.value.code) == (422, "CALLBACK_NOT_ALLOWED")


@pytest.mark.parametrize("text", ["ftp://x", "https://", "https://a/b", "https://u@a"])
def test_a_wrong_setting_is_refused_at_the_start(text):
    with pytest.raises(ConfigError, match="DETHRONE_CALLBACK_HOSTS must be hosts"):
        load_config({"DETHRONE_CALLBACK_HOSTS": text})


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "ff02::1",
    ],
)
def test_addresses_that_are_not_of_the_public_internet(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888"])
def test_addresses_of_the_public_internet(address):
    assert is_public(address)


class Names:
    """A resolver whose answers change, as an attacker's do."""

    def __init__(self, *answers):
        self.answers = list(answers)

    async def resolve(self, host, port=0, family=0):
        address = self.answers.pop(0)
        return [{"hostname": host, "host": address, "port": port, "family": 2, "proto": 6, "flags": 0}]

    async def close(self): ...


def test_each_connection_resolves_and_checks_anew():
    resolver = PublicResolver(ANY, inner=Names("8.8.8.8", "127.0.0.1"))
    assert asyncio.run(resolver.resolve("x.example.org", 443))[0]["host"] == "8.8.8.8"
    with pytest.raises(OSError, match="must have a public address"):
        asyncio.run(resolver.resolve("x.example.org", 443))


def test_a_listed_host_may_be_inside():
    resolver = PublicResolver(LISTED, inner=Names("10.0.0.7"))
    assert asyncio.run(resolver.resolve("hooks.example.com", 443))[0]["host"] == "10.0.0.7"


def test_a_name_for_this_machine_is_not_called():
    async def call():
        client = CallbackClient(ANY)
        try:
            return await client.post("https://localhost:1/", event="answered", prediction_id="p")
        finally:
            await client.close()

    assert asyncio.run(call()) is False
