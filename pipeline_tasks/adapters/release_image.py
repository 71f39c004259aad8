"""The bytes of a release's image: one layer over the base image, its config, its manifest, its SBOM.

Pure: the same bento over the same base gives the same digests, on any machine and at any time.
"""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline_tasks.adapters.container_registry import digest_of
from pipeline_tasks.contracts import canonical_json
from pipeline_tasks.errors import ConfigError

# Uncompressed: weights hardly shrink, and the bytes do not depend on anybody's zlib.
LAYERS = {
    "application/vnd.docker.distribution.manifest.v2+json": "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.oci.image.manifest.v1+json": "application/vnd.oci.image.layer.v1.tar",
}
CREATED = "1970-01-01T00:00:00Z"  # when it was built is in the catalog; in the image it would change the digest
BENTO_DIR = PurePosixPath("home/bentoml/bento")
ENTRY = "src/bento_services/serve.py"  # in the bento; older ones have none, and start as the base image says
SERVE = ("--host", "0.0.0.0", "--port", "3000")  # noqa: S104  (inside of the container)
LABEL = "io.dethrone"
PACKAGES_LABEL = f"{LABEL}.packages"  # of the base image: `name==version`, separated by spaces
LOCK_LABEL = f"{LABEL}.lock"
SBOM_NAME = "sbom.cdx.json"
MEASURED = ("serving.json",)  # differs between two builds of one release


@dataclasses.dataclass(frozen=True, slots=True)
class BaseImage:
    """The base image as its registry describes it."""

    digest: str
    media_type: str
    layers: tuple[Mapping[str, Any], ...]
    config: Mapping[str, Any]

    @property
    def labels(self) -> Mapping[str, str]:
        return self.config.get("config", {}).get("Labels") or {}


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """The blobs of an image that the base does not have already, and the digest to run it by."""

    layer: bytes
    config: bytes
    manifest: bytes
    media_type: str

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def image_id(self) -> str:
        return digest_of(self.config)


def build_image(base: BaseImage, files: Mapping[str, bytes], *, labels: Mapping[str, str]) -> Image:
    """Return the image that is the base and the files (path inside the bento folder -> bytes) in one layer.

    Raises:
        ConfigError: the base image's manifest is of an unknown kind.
    """
    if base.media_type not in LAYERS:
        raise ConfigError(
            f"the base image's manifest must be one of {', '.join(LAYERS)} (got {base.media_type}). "
            "Push it again: dethrone serving-base.",
            code="BASE_IMAGE_UNUSABLE",
        )
    layer = pack_layer(files)
    config = canonical_json(_config(base, layer_digest=digest_of(layer), labels=labels, has_entry=ENTRY in files))
    manifest = {
        "schemaVersion": 2,
        "mediaType": base.media_type,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json"
            if "docker" in base.media_type
            else "application/vnd.oci.image.config.v1+json",
            "size": len(config),
            "digest": digest_of(config),
        },
        "layers": [
            *base.layers,
            {"mediaType": LAYERS[base.media_type], "size": len(layer), "digest": digest_of(layer)},
        ],
    }
    return Image(layer=layer, config=config, manifest=canonical_json(manifest), media_type=base.media_type)


def pack_layer(files: Mapping[str, bytes]) -> bytes:
    """Return a tar of the files below the bento folder: sorted, owned by root, readable by all, without times."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        paths = {BENTO_DIR / name: data for name, data in files.items()}
        folders = {parent for path in paths for parent in path.parents if parent != PurePosixPath()}
        for path in sorted({*paths, *folders}):
            entry = tarfile.TarInfo(str(path))
            entry.mtime = 0
            if path in paths:
                entry.size, entry.mode = len(paths[path]), 0o444
                tar.addfile(entry, io.BytesIO(paths[path]))
            else:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
    return packed.getvalue()


def bento_files(bento: Path, model: Path, *, tag: str) -> dict[str, bytes]:
    """Return the files of a bento and its model in the layout of a built bento with its model beside it.

    Left out is what differs between two builds of the same release: the time in bento.yaml becomes a fixed one, and
    the measured batch size goes to the container with its environment.
    """
    files = {str(path.relative_to(bento)): path.read_bytes() for path in sorted(bento.rglob("*")) if path.is_file()}
    files = {name: data for name, data in files.items() if "__pycache__" not in name}
    name, version = tag.split(":")
    for path in sorted(model.rglob("*")):
        if path.is_file() and path.name not in MEASURED:
            files[f"models/{name}/{version}/{path.relative_to(model)}"] = path.read_bytes()
    return {name: _without_time(data) if name.endswith(".yaml") else data for name, data in files.items()}


def _without_time(document: bytes) -> bytes:
    lines = document.decode().splitlines(keepends=True)
    kept = [
        f"{line.partition(':')[0]}: '{CREATED}'\n" if line.strip().startswith("creation_time:") else line
        for line in lines
    ]
    return "".join(kept).encode()


def _config(base: BaseImage, *, layer_digest: str, labels: Mapping[str, str], has_entry: bool) -> dict[str, Any]:
    config = json.loads(json.dumps(base.config))
    config["created"] = CREATED
    config.pop("container", None)
    config.pop("container_config", None)
    config["config"]["Labels"] = {**{k: v for k, v in base.labels.items() if k != PACKAGES_LABEL}, **labels}
    if has_entry:
        config["config"]["Entrypoint"] = ["python3", f"/{BENTO_DIR / ENTRY}"]
        config["config"]["Cmd"] = [f"/{BENTO_DIR}", *SERVE]
    config["rootfs"]["diff_ids"] = [*config["rootfs"]["diff_ids"], layer_digest]
    config["history"] = [
        *config.get("history", ()),
        {"created": CREATED, "created_by": "dethrone release", "comment": "model and service code"},
    ]
    return dict(config)


def image_labels(
    *, project: str, release_id: str, verdict_id: str, bento_digest: str, model: Mapping[str, Any], base: BaseImage
) -> dict[str, str]:
    """Return the labels of a release's image; `model` is the config and origin of its manifest."""
    return {
        "org.opencontainers.image.title": f"dethrone {project}",
        "org.opencontainers.image.version": str(model["version"]),
        "org.opencontainers.image.revision": str(model["code_revision"]),
        "org.opencontainers.image.created": CREATED,
        "org.opencontainers.image.base.digest": base.digest,
        f"{LABEL}.project": project,
        f"{LABEL}.release": release_id,
        f"{LABEL}.model-version": str(model["version"]),
        f"{LABEL}.verdict": verdict_id,
        f"{LABEL}.trained-with-lock": str(model["lock_hash"]),
        f"{LABEL}.bento-digest": bento_digest,
    }


def sbom(packages: Sequence[str], *, project: str, version: str, digest: str, base_digest: str) -> bytes:
    """Return the CycloneDX 1.6 document of an image: its packages (`name==version`) and its model version.

    Source: https://cyclonedx.org/docs/1.6/json/
    """
    components: list[dict[str, Any]] = [
        {
            "type": "machine-learning-model",
            "bom-ref": f"model:{version}",
            "name": f"{project} model",
            "version": version,
            "hashes": [{"alg": "SHA-256", "content": digest}],
        }
    ]
    for package in sorted(packages, key=str.lower):
        name, _, pinned = package.partition("==")
        purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{pinned.replace('+', '%2B')}"
        components.append({"type": "library", "bom-ref": purl, "name": name, "version": pinned, "purl": purl})
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{base_digest}/{digest}')}",
        "version": 1,
        "metadata": {
            "component": {"type": "container", "bom-ref": f"image:{version}", "name": project, "version": version},
            "properties": [{"name": "dethrone:base-image", "value": base_digest}],
        },
        "components": components,
    }
    return canonical_json(document)
