"""The container images of releases."""

from __future__ import annotations

import dataclasses
import datetime as dt

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Repository, insert_ignore


@dataclasses.dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image of a release: the reference to run it by, and how much of it is the release's own."""

    project: str
    release_id: str
    image: str
    image_id: str
    base_digest: str
    layer_bytes: int
    sbom_key: str


class ImageRepository(Repository):
    """The images that were pushed for each release."""

    def record(self, image: ImageRecord, *, now: dt.datetime) -> None:
        """Write that an image is in its registry; the same one again changes nothing."""
        with self.database.write() as connection:
            insert_ignore(connection, t.release_images, [{**dataclasses.asdict(image), "created_at": now}])
