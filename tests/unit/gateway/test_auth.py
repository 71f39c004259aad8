import asyncio
import hashlib

import pytest

from bento_services.gateway.auth import RateLimiter, authenticate, require_project
from bento_services.gateway.errors import ApiError
from bento_services.gateway.idempotency import AnswerCache, AnswerKey
from bento_services.gateway.routing.routes import KeyInfo, snapshot_of

TOKEN = "t" * 43
KEY = KeyInfo("k1", "fashion", hashlib.sha256(TOKEN.encode()).hexdigest(), frozenset({"predict"}))
SNAPSHOT = snapshot_of([], [KEY])


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_a_known_token_gives_its_key(scheme):
    assert authenticate(SNAPSHOT, f"{scheme} {TOKEN}", scope="predict") is KEY
    assert authenticate(SNAPSHOT, f"{scheme} {TOKEN}", scope=None) is KEY


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        (None, 401, "KEY_MISSING"),
        ("", 401, "KEY_MISSING"),
        ("Basic dXNlcjpwYXNz", 401, "KEY_MISSING"),
        ("Bearer", 401, "KEY_MISSING"),
        (f"Bearer {TOKEN} x", 401, "KEY_MISSING"),
        ("Bearer " + "t" * 513, 401, "KEY_MISSING"),
        ("Bearer wrong", 401, "KEY_INVALID"),
        (f"Bearer {KEY.sha256}", 401, "KEY_INVALID"),
    ],
)
def test_anything_else_is_refused(header, status, code):
    with pytest.raises(ApiError, match="API key") as caught:
        authenticate(SNAPSHOT, header, scope="predict")
    assert (caught.value.status, caught.value.code) == (status, code)


def test_a_key_without_the_scope_is_forbidden():
    with pytest.raises(ApiError, match="must have the scope admin") as caught:
        authenticate(SNAPSHOT, f"Bearer {TOKEN}", scope="admin")
    assert caught.value.status == 403


def test_a_key_is_for_its_project_only_and_a_star_for_all():
    require_project(KEY, "fashion")
    require_project(KeyInfo("k2", "*", "d", frozenset()), "texts")
    with pytest.raises(ApiError, match="must be for this project") as caught:
        require_project(KEY, "texts")
    assert caught.value.status == 403


def test_a_rate_allows_a_second_of_burst_then_says_when_to_come_back():
    limiter = RateLimiter()
    for _ in range(10):
        limiter.take("k1", "fashion", per_second=10, now=100.0)
    with pytest.raises(ApiError, match="at most 10 requests per second") as caught:
        limiter.take("k1", "fashion", per_second=10, now=100.0)
    assert caught.value.status == 429
    assert caught.value.retry_after_seconds == pytest.approx(0.1)
    limiter.take("k1", "fashion", per_second=10, now=100.11)
    limiter.take("k2", "fashion", per_second=10, now=100.11)
    limiter.take("k1", "texts", per_second=10, now=100.11)


def test_a_rate_below_one_lets_the_first_request_through():
    limiter = RateLimiter()
    limiter.take("k1", "fashion", per_second=0.5, now=0.0)
    with pytest.raises(ApiError, match=r"at most 0\.5"):
        limiter.take("k1", "fashion", per_second=0.5, now=1.0)
    limiter.take("k1", "fashion", per_second=0.5, now=2.1)


def test_a_clock_that_steps_back_gives_no_tokens():
    limiter = RateLimiter()
    limiter.take("k1", "fashion", per_second=1, now=100.0)
    with pytest.raises(ApiError):
        limiter.take("k1", "fashion", per_second=1, now=50.0)


async def an_answer(label: str = "bag", error: Exception | None = None) -> dict[str, str]:
    await asyncio.sleep(0)
    if error is not None:
        raise error
    return {"label": label}


def test_the_same_request_id_gives_the_same_answer_and_another_request_a_conflict():
    async def run():
        cache = AnswerCache(max_answers=2)
        key = AnswerKey("k1", "fashion", "r1")
        assert cache.find(key, fingerprint="f1") is None
        made = cache.make(key, an_answer(), fingerprint="f1")
        assert cache.find(key, fingerprint="f1") is made
        assert await made == {"label": "bag"}
        assert cache.find(key, fingerprint="f1") is made
        with pytest.raises(ApiError, match="X-Request-Id must be new") as caught:
            cache.find(key, fingerprint="f2")
        assert caught.value.status == 409
        for number in range(2):
            await cache.make(AnswerKey("k1", "fashion", f"n{number}"), an_answer(), fingerprint="f")
        assert cache.find(key, fingerprint="f1") is None

    asyncio.run(run())


def test_an_answer_that_fails_is_forgotten_and_the_next_one_made():
    async def run():
        cache = AnswerCache()
        key = AnswerKey("k1", "fashion", "r1")
        with pytest.raises(OSError, match="gone"):
            await cache.make(key, an_answer(error=OSError("gone")), fingerprint="f1")
        await asyncio.sleep(0)
        assert cache.find(key, fingerprint="f1") is None
        made = cache.make(key, an_answer(), fingerprint="f1")
        made.cancel()
        await asyncio.wait([made])
        await asyncio.sleep(0)
        assert cache.find(key, fingerprint="f1") is None

    asyncio.run(run())
