"""Settings of an inference service in the environment."""

import pytest

from bento_services.inference.config import CALLER_KEY, GPU_KEY, check_device, key_digest
from pipeline_tasks.errors import ConfigError


@pytest.mark.parametrize(("value", "device"), [(None, "cpu"), ("optional", "cpu"), ("required", "cuda")])
def test_a_device_that_was_promised_or_does_not_matter_serves(monkeypatch, value, device):
    monkeypatch.delenv(GPU_KEY, raising=False)
    if value is not None:
        monkeypatch.setenv(GPU_KEY, value)
    check_device(device)


def test_a_cpu_does_not_stand_in_for_a_gpu_that_is_required(monkeypatch):
    monkeypatch.setenv(GPU_KEY, "required")
    with pytest.raises(ConfigError, match=r"torch must see a GPU: this release requires one \(got none\)\. .*driver"):
        check_device("cpu")


def test_another_word_is_refused(monkeypatch):
    monkeypatch.setenv(GPU_KEY, "yes")
    with pytest.raises(ConfigError, match=r"DETHRONE_INFERENCE_GPU must be required or optional \(got 'yes'\)"):
        check_device("cuda")


def test_the_service_knows_the_digest_of_its_key(monkeypatch):
    monkeypatch.delenv(CALLER_KEY, raising=False)
    assert key_digest() is None
    monkeypatch.setenv(CALLER_KEY, "0a" * 32)
    assert key_digest() == bytes([10]) * 32


@pytest.mark.parametrize("value", ["", "0A" * 32, "0a" * 31, "0a" * 32 + "\n"])
def test_what_is_no_digest_does_not_open_the_service(monkeypatch, value):
    monkeypatch.setenv(CALLER_KEY, value)
    with pytest.raises(ConfigError, match="must be a SHA-256 as 64 hexadecimal digits"):
        key_digest()
