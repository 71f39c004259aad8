"""The item that a model version is measured, warmed and probed with."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from bento_services.inference.model_version import ModelVersion
from pipeline_tasks.errors import InputError
from pipeline_tasks.models.base import Signature

WORDS = Signature(("text/plain",), "int64", (-1,), 2)


@dataclasses.dataclass
class Loaded:
    """A loaded model that answers what `takes` allows."""

    signature: Signature
    takes: object
    decodes: bool = True
    classes = ("a", "b")
    runtime = "eager"

    @property
    def manifest(self):
        return SimpleNamespace(config=SimpleNamespace(version="v1", signature=self.signature))

    def decode(self, data):
        if not self.decodes:
            raise InputError("no", code="NO")
        return np.arange(1, 1 + len(data.split()))

    def predict(self, items):
        if not self.takes(items[0]):
            raise IndexError("outside the table")
        return np.full((len(items), 2), 0.5)


@pytest.mark.parametrize(
    ("takes", "decodes", "expected"),
    [
        (lambda _item: True, True, np.arange(1, 65)),
        (lambda _item: True, False, np.zeros(64)),
        (lambda item: item.min() == 1 == item.max(), True, np.ones(64)),
        (lambda item: len(item) < 10, True, np.zeros(1)),
        (lambda item: len(item) < 10 and item.min() > 0, True, np.ones(1)),
        (lambda _item: False, True, np.zeros(64)),
    ],
)
def test_the_example_is_the_first_sample_that_is_answered(takes, decodes, expected):
    np.testing.assert_array_equal(ModelVersion(Loaded(WORDS, takes, decodes)).example(), expected)


def test_an_image_is_decoded_from_a_png():
    def decode_length(item):
        return item.shape == (1,)

    image = Signature(("image/png",), "uint8", (1,), 2)
    assert ModelVersion(Loaded(image, decode_length)).example().shape == (1,)
