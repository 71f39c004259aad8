"""Answers by request id: a caller who sends a request again gets the same answer, and the log has it once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import OrderedDict
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from bento_services.gateway.errors import ApiError

if TYPE_CHECKING:
    from bento_services.gateway.api.schemas import PredictionBody

MAX_ANSWERS = 10_000
Answer = asyncio.Task["PredictionBody"]


@dataclasses.dataclass(frozen=True, slots=True)
class AnswerKey:
    """Whose request it was."""

    key_id: str
    project: str
    request_id: str


class AnswerCache:
    """The newest answers, made or being made, to requests whose id the caller chose.

    In memory, so a restart forgets them; belongs to one event loop.
    """

    def __init__(self, *, max_answers: int = MAX_ANSWERS) -> None:
        self._max_answers = max_answers
        self._answers: OrderedDict[AnswerKey, tuple[str, Answer]] = OrderedDict()

    def find(self, key: AnswerKey, *, fingerprint: str) -> Answer | None:
        """Return the answer to the same request, which may still be on its way; one that failed is forgotten.

        Raises:
            ApiError: 409, the id was used for another request.
        """
        entry = self._answers.get(key)
        if entry is None:
            return None
        if entry[0] != fingerprint:
            raise ApiError(
                409, "REQUEST_ID_REUSED", "X-Request-Id must be new for a new request.", field="X-Request-Id"
            )
        return entry[1]

    def make(self, key: AnswerKey, work: Coroutine[Any, Any, PredictionBody], *, fingerprint: str) -> Answer:
        """Begin to make an answer, whoever still waits for it; forget the oldest one when there are too many."""
        answer = asyncio.get_running_loop().create_task(work)
        self._answers[key] = (fingerprint, answer)
        answer.add_done_callback(lambda made: self._forget_failed(key, made))
        if len(self._answers) > self._max_answers:
            self._answers.popitem(last=False)
        return answer

    def _forget_failed(self, key: AnswerKey, made: Answer) -> None:
        is_failed = made.cancelled() or made.exception() is not None
        if is_failed and key in self._answers and self._answers[key][1] is made:
            del self._answers[key]
