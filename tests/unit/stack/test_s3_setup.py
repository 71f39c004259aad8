"""A start with an S3 that goes away while it is looked at."""

import types

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from pipeline_tasks.errors import ServiceUnavailable
from pipeline_tasks.stack import s3_setup
from pipeline_tasks.stack.layout import StackLayout

AWAY = EndpointConnectionError(endpoint_url="http://s3")
FAILING = ClientError({"Error": {"Code": "InternalError"}, "ResponseMetadata": {"HTTPStatusCode": 500}}, "PutObject")


def fails(error):
    def call(*_, **__):
        raise error

    return call


@pytest.mark.parametrize("error", [AWAY, FAILING], ids=["away", "failing"])
@pytest.mark.parametrize("step", ["delete", "prove"])
def test_a_store_that_goes_away_during_its_check_is_told_in_our_words(tmp_path, monkeypatch, step, error):
    client = types.SimpleNamespace(put_object=lambda **_: None, delete_object=lambda **_: None)
    if step == "delete":
        client.delete_object = fails(error)
    monkeypatch.setattr(s3_setup, "make_client", lambda *_, **__: client)
    monkeypatch.setattr(
        s3_setup, "prove_conditional_writes", fails(error) if step == "prove" else lambda *_, **__: None
    )
    with pytest.raises(ServiceUnavailable, match=r"must take racing writes .*`dethrone logs s3`") as caught:
        s3_setup.check_s3(StackLayout(home=tmp_path, root=tmp_path), port=1, secrets={})
    assert caught.value.__cause__ is error
