"""The OpenAPI document of the inference service against the bodies that it answers with."""

from __future__ import annotations

import json

import jsonschema
import pytest

from bento_services.inference.openapi import document
from bento_services.inference.request_decoding import BATCH
from bento_services.inference.responses import OVERLOADED, Answers, error_body

ANSWERS = Answers(version="v1", labels=("bag", "boot"))
OPERATION = document(("image/png",), max_items=3)["paths"]["/predict"]["post"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("200", ANSWERS.single([0.25, 0.75])),
        ("200", ANSWERS.batch([[0.0, 1.0], OVERLOADED], request_id="r")),
        ("503", error_body(OVERLOADED, request_id="r")),
        ("503", error_body(OVERLOADED, request_id=None)),
    ],
)
def test_each_kind_of_answer_has_the_documented_shape(status, body):
    schema = OPERATION["responses"][status]["content"]["application/json"]["schema"]
    jsonschema.validate(json.loads(body), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({}, schema)


def test_what_may_be_sent_is_the_models_own():
    content = OPERATION["requestBody"]["content"]
    assert "image/png" in content
    assert "up to 3 items" in content[BATCH]["schema"]["description"].lower()
    unknown = document((), max_items=0)["paths"]["/predict"]["post"]
    assert "application/octet-stream" in unknown["requestBody"]["content"]
