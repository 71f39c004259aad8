import hashlib
import io
import threading

import pytest
from botocore.exceptions import ClientError

from pipeline_tasks.adapters.conditional_writes import prove_conditional_writes
from pipeline_tasks.errors import PermanentError


class Store:
    """An S3 in memory; `ignores` names the conditions that it pretends not to see."""

    def __init__(self, *, ignores=(), broken=None):
        self.objects, self.ignores, self.broken, self.lock = {}, set(ignores), broken, threading.Lock()

    def put_object(self, **call):
        with self.lock:
            if self.broken:
                raise ClientError({"Error": {"Code": self.broken}}, "PutObject")
            key, exists = call["Key"], call["Key"] in self.objects
            if "IfNoneMatch" in call and exists and "IfNoneMatch" not in self.ignores:
                raise ClientError({"Error": {"Code": "PreconditionFailed"}}, "PutObject")
            if "IfMatch" in call and self._etag(key) != call["IfMatch"] and "IfMatch" not in self.ignores:
                raise ClientError({"Error": {"Code": "PreconditionFailed"}}, "PutObject")
            self.objects[key] = call["Body"]

    def head_object(self, **call):
        return {"ETag": self._etag(call["Key"])}

    def get_object(self, **call):
        return {"Body": io.BytesIO(self.objects[call["Key"]])}

    def delete_object(self, **call):
        self.objects.pop(call["Key"], None)

    def _etag(self, key):
        return hashlib.sha256(self.objects[key]).hexdigest()


def test_a_store_that_keeps_conditions_passes_and_is_left_clean():
    store = Store()
    prove_conditional_writes(store, bucket="b", nonce="n")
    assert store.objects == {}


@pytest.mark.parametrize("condition", ["IfNoneMatch", "IfMatch"])
def test_a_store_that_ignores_a_condition_is_refused(condition):
    store = Store(ignores=[condition])
    with pytest.raises(
        PermanentError, match=rf"one of 4 racing writes with {condition} must win \(got 4 winners\)"
    ) as raised:
        prove_conditional_writes(store, bucket="b", nonce="n")
    assert raised.value.code == "STORE_UNSAFE"
    assert store.objects == {}


def test_an_error_that_is_not_a_lost_race_is_not_taken_for_one():
    with pytest.raises(ClientError, match="AccessDenied"):
        prove_conditional_writes(Store(broken="AccessDenied"), bucket="b", nonce="n")
