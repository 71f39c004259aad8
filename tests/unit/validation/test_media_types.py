from data_checks.suites import MEDIA_TYPES
from pipeline_tasks.guards.image import MEDIA_TYPES as IMAGE_MEDIA_TYPES
from pipeline_tasks.ingest.item_checks import ROW_MEDIA_TYPE, TEXT_MEDIA_TYPE


def test_the_checks_know_every_media_type_that_ingest_writes():
    assert set(IMAGE_MEDIA_TYPES.values()) <= set(MEDIA_TYPES["image"])
    assert TEXT_MEDIA_TYPE in MEDIA_TYPES["text"]
    assert ROW_MEDIA_TYPE in MEDIA_TYPES["tabular"]
