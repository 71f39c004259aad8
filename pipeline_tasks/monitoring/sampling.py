"""Samples of predictions for people: a random audit sample, and the least confident answers. Pure."""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from pipeline_tasks.monitoring.log_parts import Prediction


def audit_rank(prediction_id: str, *, key: str) -> float:
    """Return a number in [0, 1) that is uniformly random to whoever does not have the key, and always the same."""
    digest = hmac.digest(key.encode(), f"audit\0{prediction_id}".encode(), "sha256")
    return int.from_bytes(digest[:8], "big") / 2**64


def pick_audits(
    predictions: Iterable[Prediction],
    *,
    key: str,
    share: float,
    limit: int,
    max_share_per_client: float,
    already: Collection[str] = (),
) -> list[Prediction]:
    """Return a random sample: those whose rank is below `share`, lowest ranks first, at most `limit`.

    `already` are picks of an attempt that died: they stay. No client fills more than its share of the limit.
    """
    ranked = sorted(
        (audit_rank(prediction.prediction_id, key=key), prediction.prediction_id, prediction)
        for prediction in predictions
    )
    sampled = [prediction for rank, _id, prediction in ranked if rank < share or prediction.prediction_id in already]
    return _take(sampled, limit=limit, max_share_per_client=max_share_per_client, already=already)


def inclusion_chances(
    predictions: Iterable[Prediction],
    picked: Iterable[Prediction],
    *,
    key: str,
    share: float,
    max_share_per_client: float,
    limit: int,
) -> Mapping[str, float]:
    """Return the chance with which each audit was picked, by prediction id: the rank below which it would have been.

    That is `share`, or less where `limit` or the client's part of it was full: then the rank of the first that found no
    place any more, all other ranks being as they are. Source: Duffield, Lund and Thorup, "Priority sampling" (2007).
    """
    chosen = {prediction.prediction_id: prediction for prediction in picked}
    ranked = sorted(
        (audit_rank(prediction.prediction_id, key=key), prediction.prediction_id, prediction.client)
        for prediction in predictions
    )
    taken = Counter(prediction.client for prediction in chosen.values())
    most, is_full = _most(limit, max_share_per_client), len(chosen) >= limit
    of_client: dict[str, float] = {}
    of_all = share
    for rank, prediction_id, client in ranked:
        if rank >= share:
            break
        if prediction_id in chosen:
            continue
        if taken[client] >= most:
            of_client.setdefault(client, rank)
        elif is_full:
            of_all = min(of_all, rank)
    return {name: min(of_all, of_client.get(prediction.client, share)) or share for name, prediction in chosen.items()}


def pick_uncertain(
    predictions: Iterable[Prediction],
    *,
    limit: int,
    max_share_per_client: float,
    wanted: Callable[[Prediction], bool],
    already: Collection[str] = (),
) -> list[Prediction]:
    """Return the least confident answers, those that say needs_review first, each content once, at most `limit`.

    `wanted` decides on single predictions (is it of the training split, was it asked before) and is called lazily.
    """
    ranked = sorted(
        predictions,
        key=lambda prediction: (not prediction.needs_review, prediction.confidence, prediction.prediction_id),
    )
    kept = (
        prediction
        for prediction in _once_per_content(ranked, already)
        if prediction.prediction_id in already or wanted(prediction)
    )
    return _take(kept, limit=limit, max_share_per_client=max_share_per_client, already=already)


def _once_per_content(ranked: Sequence[Prediction], already: Collection[str]) -> Iterator[Prediction]:
    seen = {prediction.payload_sha256 for prediction in ranked if prediction.prediction_id in already}
    for prediction in ranked:
        if prediction.prediction_id in already:
            yield prediction
        elif prediction.payload_sha256 not in seen:
            seen.add(prediction.payload_sha256)
            yield prediction


def _take(
    candidates: Iterable[Prediction], *, limit: int, max_share_per_client: float, already: Collection[str]
) -> list[Prediction]:
    most = _most(limit, max_share_per_client)
    room = limit - len(already)
    taken: Counter[str] = Counter()
    picked: list[Prediction] = []
    for prediction in candidates:
        if prediction.prediction_id in already:
            picked.append(prediction)
        elif room <= 0:
            if not already:
                break
        elif taken[prediction.client] < most:
            taken[prediction.client] += 1
            room -= 1
            picked.append(prediction)
    return picked


def _most(limit: int, max_share_per_client: float) -> int:
    return max(1, int(limit * max_share_per_client))
