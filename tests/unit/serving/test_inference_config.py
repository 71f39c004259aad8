"""What the environment may say to an inference service."""

import pytest

from bento_services.inference.config import GPU_KEY, check_device
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
