"""Answers by request id: a caller who sends a request again gets the same answer, and the log has it once."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from bento_services.gateway.errors import ApiError

MAX_ANSWERS = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class AnswerKey:
    """Whose request it was."""

    key_id: str
    project: str
    request_id: str


class AnswerCache:
    """The newest answers to requests whose id the caller chose; in memory, so a restart forgets them."""

    def __init__(self, *, max_answers: int = MAX_ANSWERS) -> None:
        self._max_answers = max_answers
        self._answers: OrderedDict[AnswerKey, tuple[str, Mapping[str, Any]]] = OrderedDict()

    def find(self, key: AnswerKey, *, fingerprint: str) -> Mapping[str, Any] | None:
        """Return the earlier answer to the same request.

        Raises:
            ApiError: 409, the id was used for another request.
        """
        found = self._answers.get(key)
        if found is None:
            return None
        if found[0] != fingerprint:
            raise ApiError(
                409, "REQUEST_ID_REUSED", "X-Request-Id must be new for a new request.", field="X-Request-Id"
            )
        return found[1]

    def keep(self, key: AnswerKey, answer: Mapping[str, Any], *, fingerprint: str) -> None:
        """Remember an answer, and forget the oldest one when there are too many."""
        self._answers[key] = (fingerprint, answer)
        if len(self._answers) > self._max_answers:
            self._answers.popitem(last=False)
