import pytest

from bento_services.gateway.spool import Spool
from tests.unit.serving.log_case import MIB


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", limit_bytes=MIB, segment_bytes=MIB)
