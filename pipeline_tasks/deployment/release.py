"""Build a release from an approved verdict and check it in its real server before any traffic."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pipeline_tasks.contracts import DeploymentRef, Fence, ModelRef, ReleaseRef, content_id, sha256_of_file
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import DeploymentTarget, ObjectStore
from pipeline_tasks.deployment.golden_requests import GoldenAnswer, InfraCheck, compare_golden, golden_bytes
from pipeline_tasks.errors import GateClosed, ServiceUnavailable
from pipeline_tasks.models.artifact import MANIFEST_NAME, file_names
from pipeline_tasks.project.schema import LoadedProject

logger = logging.getLogger(__name__)

EXPORT_SHA256 = "export_sha256"  # in a release's infra_check: the hash of the exported bento


class Packager(Protocol):
    """Turns a model folder into a bento, under exactly one tag."""

    def build(self, model_dir: Path, *, tag: str, labels: Mapping[str, str]) -> str:
        """Build, or adopt the bento that has this tag already; return the digest of its contents."""

    def export(self, tag: str, path: Path) -> None:
        """Write the bento, models included, into one file."""

    def restore(self, path: Path) -> None:
        """Bring an exported bento back into the store; what is there already stays."""

    def digest(self, tag: str) -> str | None:
        """Return the digest of the contents that the store has under a tag now; None if they are not all there."""


class ReleaseRecords(Protocol):
    """The catalog's releases, as far as this stage needs them."""

    def get(self, project: str, release_id: str) -> ReleaseRef | None:
        """Return a recorded release."""

    def record(
        self,
        release: ReleaseRef,
        *,
        bento_digest: str,
        object_key: str,
        infra_check: Mapping[str, Any],
        fence: Fence,
        run_id: str,
        now: dt.datetime,
    ) -> ReleaseRef:
        """Write the release, with the fence; the first record of an id stays and is returned."""


@dataclasses.dataclass(frozen=True, slots=True)
class GoldenItem:
    """A request to replay and the offline answer to it."""

    payload: bytes
    media_type: str
    expected: GoldenAnswer


def release_id_of(model: ModelRef, *, verdict_id: str, lock_hash: str) -> str:
    """Return the id of what is built from a model version under a verdict: the same inputs, the same release."""
    return content_id([model.project, model.version, model.digest, verdict_id, lock_hash])[:16]


def require_judged(model: ModelRef, *, weights: str | None) -> None:
    """Raise GateClosed ARTIFACT_CHANGED unless a model has the weights of which the verdict is."""
    if model.digest != weights:
        raise GateClosed(
            f"{model.version} must have the weights that were judged, {str(weights)[:12]} (got {model.digest[:12]}). "
            "The catalog's row was changed after the verdict; `dethrone verify` names what else was.",
            code="ARTIFACT_CHANGED",
        )


def require_same_lock(model: ModelRef, *, trained_with: str, here: str) -> None:
    """Raise GateClosed LOCK_MISMATCH unless a model is released with the libraries that it was trained with."""
    if trained_with != here:
        raise GateClosed(
            f"requirements/pipeline.lock must be the one that {model.version} was trained with (trained: "
            f"{trained_with[:12]}, here: {here[:12]}). Train again with this lock.",
            code="LOCK_MISMATCH",
        )


@contextmanager
def contender_removed(target: DeploymentTarget, deployment_id: str) -> Iterator[None]:
    """Stop a server that did not get ready or failed its check, and tell with the error what the target knows of it."""
    try:
        yield
    except GateClosed as error:
        if error.code != "INFRA_CHECK":
            raise
        known = target.describe(deployment_id)
        target.stop(deployment_id)
        raise GateClosed(f"{error} {known}", code=error.code) from error
    except ServiceUnavailable as error:
        if error.code == "DEPLOYMENT_NOT_READY":
            target.stop(deployment_id)
        raise


def bento_tag_of(project: str, release_id: str) -> str:
    """Return the exact tag of a release's bento."""
    return f"dethrone_{project}:{release_id}"


def release(
    project: LoadedProject,
    model: ModelRef,
    *,
    verdict_id: str,
    lock_hash: str,
    records: ReleaseRecords,
    store: ObjectStore,
    packager: Packager,
    start: Callable[[ReleaseRef], DeploymentRef],
    ask: Callable[[str, bytes, str], Mapping[str, Any] | str],
    golden: Callable[[], Sequence[GoldenItem]],
    fence: Fence,
    run_id: str,
    now: dt.datetime,
    scratch: Path,
) -> ReleaseRef:
    """Build the bento, start it, replay golden requests, record the release; the server is left running.

    The caller has checked the verdict (`require_promotable`). A recorded release is returned as it is.

    Raises:
        GateClosed: INFRA_CHECK, the server does not answer as the offline path does.
    """
    release_id = release_id_of(model, verdict_id=verdict_id, lock_hash=lock_hash)
    recorded = records.get(project.name, release_id)
    if recorded is not None:
        return recorded
    tag = bento_tag_of(project.name, release_id)
    model_dir = fetch_model(store, model, into=scratch / f"model-{model.version}")
    crash_point("release.build.before")
    digest = packager.build(model_dir, tag=tag, labels={"model_version": model.version, "verdict": verdict_id[:63]})
    crash_point("release.build.after")
    built = ReleaseRef(project.name, release_id, model.version, verdict_id, tag)
    deployment = start(built)
    crash_point("release.start.after")
    items = golden()
    check = require_golden_answers(built, deployment, items, ask=ask)
    store.put(golden_key(built), golden_bytes([item.expected for item in items]), content_type="application/json")
    crash_point("release.golden.after")
    exported = scratch / f"{release_id}.bento"
    packager.export(tag, exported)
    export_digest = sha256_of_file(exported)
    object_key = bento_key(built, digest=export_digest)
    store.put_file(object_key, exported)
    exported.unlink()
    crash_point("release.put.after")
    records.record(
        built,
        bento_digest=digest,
        object_key=object_key,
        infra_check=dataclasses.asdict(check) | {EXPORT_SHA256: export_digest},
        fence=fence,
        run_id=run_id,
        now=now,
    )
    crash_point("release.put.recorded")
    logger.info("release %s: %d golden requests agree within %.1g", tag, check.num_requests, check.max_difference)
    return built


def fetch_model(store: ObjectStore, model: ModelRef, *, into: Path) -> Path:
    """Bring a model version's files into a folder and return it."""
    into.mkdir(parents=True, exist_ok=True)
    prefix = model.object_key.rstrip("/")
    store.get_file(f"{prefix}/{MANIFEST_NAME}", into / MANIFEST_NAME)
    for name in file_names((into / MANIFEST_NAME).read_bytes()):
        if name != MANIFEST_NAME:
            store.get_file(f"{prefix}/{name}", into / name)
    return into


def bento_key(release: ReleaseRef, *, digest: str) -> str:
    """Return where an exported bento goes; by its digest, so that an attempt that lost its lease overwrites nothing."""
    return f"bentos/{release.project}/{release.release_id}-{digest[:16]}.bento"


def golden_key(release: ReleaseRef) -> str:
    """Return where the offline answers lie that the release was checked against."""
    return f"bentos/{release.project}/{release.release_id}.golden.json"


def restore_bento(
    release: ReleaseRef, facts: Mapping[str, Any], *, store: ObjectStore, packager: Packager, scratch: Path
) -> None:
    """Let this machine have the bento of a recorded release (`facts` is its row), as it was checked.

    Raises:
        GateClosed: ARTIFACT_GONE, neither this machine nor the object store has it; ARTIFACT_CHANGED, what is there
            is not what was checked.
    """
    if packager.digest(release.bento_tag) is None:
        scratch.mkdir(parents=True, exist_ok=True)
        exported = scratch / f"{release.release_id}.bento"
        try:
            store.get_file(facts["object_key"], exported)
            _require_same(
                release, facts["object_key"], facts["infra_check"].get(EXPORT_SHA256), sha256_of_file(exported)
            )
            crash_point("release.restore.before")
            packager.restore(exported)
            crash_point("release.restore.after")
        except KeyError:
            raise _gone(release, [facts["object_key"]]) from None
        finally:
            exported.unlink(missing_ok=True)
    actual = packager.digest(release.bento_tag)
    _require_same(release, f"{release.bento_tag} in the BentoML store", facts["bento_digest"], actual)


def _require_same(release: ReleaseRef, what: str, expected: str | None, actual: str | None) -> None:
    if expected is not None and actual != expected:  # a release from before the export was hashed has nothing to expect
        raise GateClosed(
            f"release {release.bento_tag} must serve what was checked: {what} must have the digest {expected[:12]} "
            f"(got {(actual or 'none')[:12]}). Remove it there so that it is restored, or restore it from a backup. "
            "The champion keeps serving.",
            code="ARTIFACT_CHANGED",
        )


def require_artifacts(release: ReleaseRef, model: ModelRef, *, object_key: str, store: ObjectStore) -> None:
    """Check that all of what a recorded release is made of is still there; its exported bento lies at `object_key`.

    Raises:
        GateClosed: ARTIFACT_GONE, the model, the bento or the golden answers are not in the object store.
    """
    prefix = model.object_key.rstrip("/")
    try:
        names = file_names(store.get(f"{prefix}/{MANIFEST_NAME}"))
    except KeyError:
        names = file_names(b"")
    model_keys = [f"{prefix}/{name}" for name in names]
    gone = [key for key in (*model_keys, object_key, golden_key(release)) if not store.exists(key)]
    if gone:
        raise _gone(release, gone)


def _gone(release: ReleaseRef, keys: Sequence[str]) -> GateClosed:
    return GateClosed(
        f"release {release.bento_tag} must be whole to serve again (got nothing under {', '.join(keys)}). "
        "Restore it from a backup, or name another version. The champion keeps serving.",
        code="ARTIFACT_GONE",
    )


def require_golden_answers(
    release: ReleaseRef,
    deployment: DeploymentRef,
    golden: Sequence[GoldenItem],
    *,
    ask: Callable[[str, bytes, str], Mapping[str, Any] | str],
) -> InfraCheck:
    """Send each golden request to the started server, and return how it did.

    Raises:
        GateClosed: INFRA_CHECK, the server does not answer as the offline path does.
    """
    served = {item.expected.item_id: ask(deployment.address, item.payload, item.media_type) for item in golden}
    check = compare_golden([item.expected for item in golden], served, model_version=deployment.model_version)
    if not check.passed:
        raise GateClosed(_failure(release, check), code="INFRA_CHECK")
    return check


def _failure(release: ReleaseRef, check: InfraCheck) -> str:
    shown = "; ".join(sorted(check.failures)[:10])
    return (
        f"release {release.bento_tag} must answer {check.num_requests} golden requests as the offline path does "
        f"(got {len(check.failures)} that differ: {shown}). The champion keeps serving."
    )
