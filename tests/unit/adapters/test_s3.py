"""The S3 adapter's decisions on answers that a real server gives rarely; the rest is in the contract suites."""

import datetime as dt
import random
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, FlexibleChecksumError
from botocore.parsers import ResponseParserError

from pipeline_tasks.adapters import s3_errors
from pipeline_tasks.adapters.s3 import S3ObjectStore
from pipeline_tasks.errors import DataCorrupt, PermanentError, ServiceUnavailable

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def refusal(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


class Clock:
    """Time that passes only while the store sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.pauses: list[float] = []

    def read(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.pauses.append(seconds)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make_store(clock):
    def make(region: str = "us-east-1", **methods):
        return S3ObjectStore(
            endpoint="http://127.0.0.1:1",
            bucket="pets-bucket",
            access_key="key",
            secret_key="very-secret",
            region=region,
            clock=clock.read,
            sleep=clock.sleep,
            rng=random.Random(0),
            client=SimpleNamespace(**methods),
        )

    return make


def script(*answers):
    """Return a method that gives the answers in turn, the last one for ever, and counts its calls."""

    def method(**request):
        method.requests.append(request)
        answer = answers[min(len(method.requests), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    method.requests = []
    return method


def body(data: bytes, sha256: str | None = None):
    return {"Body": SimpleNamespace(read=lambda: data), "Metadata": {"sha256": sha256} if sha256 else {}}


def test_a_store_that_is_away_is_asked_for_90_seconds_with_growing_random_pauses(make_store, clock):
    put = script(EndpointConnectionError(endpoint_url="http://127.0.0.1:1"))
    with pytest.raises(ServiceUnavailable, match=r"must put pets-bucket/a within 90 s \(got EndpointConnectionError\)"):
        make_store(put_object=put).put("a", b"x")
    assert 84 < clock.seconds <= 90
    assert len(put.requests) == len(clock.pauses) + 1
    assert max(clock.pauses) <= 5
    assert max(clock.pauses[:3]) <= 0.4


@pytest.mark.parametrize(
    "error",
    [
        refusal("InternalError", 500),
        refusal("SlowDown", 503),
        refusal("TooManyRequests", 429),
        refusal("BadDigest", 400),
        refusal("RequestTimeout", 400),
        refusal("ConditionalRequestConflict", 409),
        ResponseParserError("bad xml"),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(make_store, error):
    put = script(error, {})
    make_store(put_object=put).put("a", b"x")
    assert len(put.requests) == 2


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (refusal("NoSuchBucket", 404), r"got 404 NoSuchBucket.*pets-bucket does not exist: create it"),
        (refusal("InvalidAccessKeyId", 403), r"DETHRONE_S3_ACCESS_KEY"),
        (refusal("SignatureDoesNotMatch", 403), r"DETHRONE_S3_SECRET_KEY"),
        (refusal("RequestTimeTooSkewed", 403), r"clocks .* differ by more than 15 minutes"),
        (refusal("InvalidBucketName", 400), r"3 to 63 small letters"),
        (refusal("AccessDenied", 403), r"may not put under pets-bucket/raw/a: check the key and its permissions"),
        (refusal("MalformedXML", 400), r"A retry does not help"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_will_not_pass_is_refused_at_once_with_advice(make_store, clock, error, advice):
    put = script(error)
    with pytest.raises(PermanentError, match=advice) as caught:
        make_store(put_object=put).put("raw/a", b"x")
    assert (len(put.requests), clock.seconds, caught.value.code) == (1, 0.0, "S3_REFUSED")
    assert "very-secret" not in str(caught.value)


def test_an_object_is_created_on_the_condition_that_there_is_none(make_store):
    put = script({})
    assert make_store(put_object=put).create("a", b"x")
    assert [request["IfNoneMatch"] for request in put.requests] == ["*"]


def test_an_object_of_another_writer_is_compared_by_its_bytes(make_store):
    methods = {"put_object": script(refusal("PreconditionFailed", 412)), "head_object": script({"Metadata": {}})}
    store = make_store(**methods, get_object=script(body(b"x")))
    assert store.create("a", b"x")
    assert not store.create("a", b"y")


def test_an_object_that_was_damaged_in_the_store_is_corrupt_after_three_reads(make_store):
    get = script(body(b"x", sha256="0" * 64))
    with pytest.raises(DataCorrupt, match=rf"a must hold bytes with the SHA-256 {'0' * 64}"):
        make_store(get_object=get).get("a")
    assert len(get.requests) == 3


def test_a_checksum_that_the_client_refuses_is_corrupt_after_three_reads(make_store):
    get = script(FlexibleChecksumError(error_msg="expected x, got y"))
    with pytest.raises(DataCorrupt, match="a must match its checksum"):
        make_store(get_object=get).get("a")
    assert len(get.requests) == 3


def test_a_refused_delete_names_the_object(make_store):
    delete = script({"Errors": [{"Key": "a", "Code": "AccessDenied"}]})
    with pytest.raises(PermanentError, match=r"pets-bucket/a must be deletable \(got AccessDenied\)"):
        make_store(delete_objects=delete).delete(["a", "b"])


def test_a_bucket_outside_the_default_region_says_where(make_store):
    create = script({})
    make_store(region="eu-west-1", head_bucket=script(refusal("404", 404)), create_bucket=create).ensure_bucket()
    assert create.requests == [
        {"Bucket": "pets-bucket", "CreateBucketConfiguration": {"LocationConstraint": "eu-west-1"}}
    ]


def test_a_bucket_that_somebody_else_just_made_is_fine(make_store):
    make_store(
        head_bucket=script(refusal("404", 404)), create_bucket=script(refusal("BucketAlreadyOwnedByYou", 409))
    ).ensure_bucket()


@pytest.mark.parametrize("where", ["head_bucket", "create_bucket"])
def test_a_forbidden_bucket_is_refused(make_store, where):
    methods = {"head_bucket": script(refusal("404", 404)), "create_bucket": script({})}
    methods[where] = script(refusal("403", 403))
    with pytest.raises(PermanentError, match="may not create the bucket under pets-bucket"):
        make_store(**methods).ensure_bucket()


def test_only_old_uploads_are_aborted(make_store):
    uploads = [
        {"Key": "old", "UploadId": "1", "Initiated": NOW - dt.timedelta(hours=2)},
        {"Key": "new", "UploadId": "2", "Initiated": NOW},
    ]
    abort = script({})
    store = make_store(list_multipart_uploads=script({"Uploads": uploads}), abort_multipart_upload=abort)
    assert store.abort_stale_uploads(before=NOW - dt.timedelta(hours=1)) == 1
    assert abort.requests == [{"Bucket": "pets-bucket", "Key": "old", "UploadId": "1"}]


def test_an_error_without_an_answer_has_no_status():
    assert (s3_errors.status(ValueError()), s3_errors.code(ValueError())) == (0, "")
