"""The monitor clears uploads that lost their writer; no measurement depends on it."""

import datetime as dt
import types

import pytest

from pipeline_tasks.errors import PermanentError, ServiceUnavailable
from pipeline_tasks.orchestration.monitor import clear_uploads


def test_what_is_a_day_old_is_aborted():
    asked = []

    def abort_stale_uploads(*, before):
        asked.append(before)
        return 3

    parts = types.SimpleNamespace(store=types.SimpleNamespace(abort_stale_uploads=abort_stale_uploads))
    assert clear_uploads(parts) == "3 aborted"
    age = dt.datetime.now(dt.UTC) - asked[0]
    assert dt.timedelta(days=1) <= age < dt.timedelta(days=1, minutes=1)


@pytest.mark.parametrize("error", [PermanentError("AccessDenied"), ServiceUnavailable("no answer")])
def test_a_key_that_may_not_list_uploads_is_told_and_does_not_end_the_monitor(error, caplog):
    def abort_stale_uploads(*, before):
        raise error

    parts = types.SimpleNamespace(store=types.SimpleNamespace(abort_stale_uploads=abort_stale_uploads))
    assert clear_uploads(parts) == f"not looked at: {error}"
    assert "uploads that lost their writer stay" in caplog.text
