import pytest

from bento_services.gateway.prediction_log.spool import Spool
from tests.unit.gateway.prediction_log.log_case import MIB


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", limit_bytes=MIB, segment_bytes=MIB)
