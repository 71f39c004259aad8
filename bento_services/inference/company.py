"""The wait of a pass for the callers who were just answered: pure but for what it remembers of late.

Without it, 16 clients that each send their next request when they have an answer end up in two halves that take turns,
since a pass leaves with those who wait while the others are being answered: passes of 8, each of which costs a pass's
fixed part anew. A moment's wait joins them. Nobody else is waited for, and not for long where nobody comes.
"""

from __future__ import annotations

MAX_SKIPPED = 64


class Company:
    """How many items are expected, and what became of the last expectations. Belongs to one batcher."""

    def __init__(self, *, max_batch_size: int, linger_seconds: float) -> None:
        self._max_batch_size = max_batch_size
        self._linger_seconds = linger_seconds
        self._expected = 0
        self._left_waiting = 0
        self._num_skipped = 0
        self._to_skip = 0

    def answered(self, num_items: int, *, num_waiting: int) -> None:
        """Note that the callers of so many items were answered while so many others wait."""
        self._left_waiting = num_waiting
        self._expected = min(self._max_batch_size, num_waiting + num_items)

    def is_complete(self, num_waiting: int) -> bool:
        """Return whether all who are expected wait."""
        return num_waiting >= self._expected

    def linger(self, num_waiting: int) -> float:
        """Return the seconds to wait for company: 0 where none is expected, or where it did not come of late.

        A caller who is alone is never made to wait: only itself is expected.
        """
        if not self._linger_seconds or self._expected < 2 or num_waiting >= self._expected:
            return 0.0
        if self._to_skip:
            self._to_skip -= 1
            return 0.0
        return self._linger_seconds

    def ended(self, num_waiting: int) -> None:
        """Note that the wait is over; where less than half came, more and more of the next passes do not wait."""
        came, expected = num_waiting - self._left_waiting, self._expected - self._left_waiting
        if 2 * came >= expected:
            self._num_skipped = 0
            return
        self._num_skipped = min(max(1, 2 * self._num_skipped), MAX_SKIPPED)
        self._to_skip = self._num_skipped
