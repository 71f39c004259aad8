"""Backup and restore with their resources: what an installation is made of, and the proof that all of it came back."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline_tasks.adapters.label_studio_database import PostgresqlDump
from pipeline_tasks.backup import catalog_copy, home_files, snapshot
from pipeline_tasks.backup.home_files import LABEL_STUDIO_DUMP
from pipeline_tasks.backup.repository import BackupRepository, Blob
from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.settings import RESTORED, RESTORING, Settings, load_settings
from pipeline_tasks.deployment.canary import ROLLING
from pipeline_tasks.deployment.candidate_routes import give_back
from pipeline_tasks.deployment.task import start_release
from pipeline_tasks.errors import ConfigError, ServiceUnavailable
from pipeline_tasks.invariants import check as invariants_check
from pipeline_tasks.orchestration.deploy import release_of_version, restore_bento, target_of
from pipeline_tasks.orchestration.ledger_anchors import note_head
from pipeline_tasks.orchestration.resources import Resources, build_resources
from pipeline_tasks.project.yaml_reader import ProjectError
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.local_s3 import running_s3
from pipeline_tasks.stack.secrets import ensure_secret, write_private

NUM_NAMED = 10
# In the mark of a restore: all is written and proven (the lines after it are what broke), and then holds more than the
# backup: a rollout is given back.
CATALOG = "catalog"


@dataclasses.dataclass(frozen=True, slots=True)
class RestoreReport:
    """Counts of what was restored, and what is left to do."""

    name: str
    created_at: str
    num_rows: int
    num_files: int
    num_objects: int
    servers: tuple[str, ...]
    to_start: tuple[str, ...]  # what starts the champions that run elsewhere than in processes of the stack
    violations: tuple[str, ...]  # broken invariants that the backup did not have
    returned: tuple[str, ...] = ()  # projects whose rollout was under way: the champion has all traffic again


def save(folder: Path, *, with_secrets: bool, check: bool = False) -> snapshot.BackupReport:
    """Back this installation up while it runs; `check` copies damaged files again, and reads all of them."""
    parts = build_resources()
    settings, repository = parts.settings, BackupRepository(folder.resolve())
    _require_outside(repository.folder, settings.home, settings.projects_dir)
    report = snapshot.backup(
        repository,
        home_dir=settings.home,
        projects_dir=settings.projects_dir,
        catalog_url=settings.catalog_url,
        store=parts.store,
        labeling=_labeling_database(settings.environment),
        with_secrets=with_secrets,
        version=importlib.metadata.version("dethrone"),
        now=utc_now(),
        reread=check,
    )
    if check:
        repository.check(snapshot.blobs_of(repository.manifest(report.name), repository))
    return report


def restore(
    folder: Path, *, name: str | None, home_dir: Path, projects_dir: Path, environment: Mapping[str, str]
) -> RestoreReport:
    """Bring a backup back onto an empty machine and prove it; given again until `up`, it ends as if given once.

    Raises:
        ConfigError: the home folder, a project, the bucket or the catalog is not empty, or there is no such backup.
        DataCorrupt: the backup is not whole.
    """
    repository = BackupRepository(folder.resolve())
    if (home_dir / RESTORING).is_file():
        name = name or _mark(home_dir)[0]  # not a newer one that was written meanwhile
    manifest = repository.manifest(name)
    name = name or repository.manifest_names()[-1]
    _require_outside(repository.folder, home_dir, projects_dir)
    files, projects = snapshot.files_of(manifest, "home"), snapshot.files_of(manifest, "projects")
    again = _require_empty(home_dir, name=name, files=files, with_secrets=bool(manifest["with_secrets"]))
    if different := home_files.differing(projects, projects_dir):
        raise ConfigError(
            f"the projects in {projects_dir} must be missing or those of the backup (got other bytes in "
            f"{', '.join(different[:NUM_NAMED])}). Name an empty folder with DETHRONE_PROJECTS."
        )
    repository.check(snapshot.blobs_of(manifest, repository))
    home_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not again:
        write_private(home_dir / RESTORING, f"{name}\n")
    files.pop(LABEL_STUDIO_DUMP, None)  # not a file of the home
    if CATALOG not in _mark(home_dir):
        home_files.put_back(repository, files, home_dir)
        home_files.put_back(repository, projects, projects_dir)
        crash_point("restore.files.after")
    with _store_at_hand(home_dir, projects_dir=projects_dir, environment=environment):
        parts = build_resources(load_settings({**environment, "DETHRONE_PROJECTS": str(projects_dir)}))
        if CATALOG not in _mark(home_dir):
            _write_back(repository, manifest, parts, again=again)
            _mark_done(home_dir, CATALOG, *_prove(parts, manifest))
        proven = _mark(home_dir)
        returned = _return_rollouts(parts, attempt=Attempt(f"restore__{name}", "restore"))
        for project in returned:
            note_head(parts, project)
        servers, to_start = _remember_servers(parts)
        crash_point("restore.servers.after")
        if (home_dir / RESTORING).exists():
            (home_dir / RESTORING).replace(home_dir / RESTORED)
        crash_point("restore.end.after")
    return RestoreReport(
        name=name,
        created_at=str(manifest["created_at"]),
        num_rows=int(manifest["num_rows"]),
        num_files=len(files) + len(projects),
        num_objects=len(repository.json_lines(Blob(**manifest["objects"]))),
        servers=tuple(servers),
        to_start=tuple(to_start),
        violations=tuple(proven[proven.index(CATALOG) + 1 :]),
        returned=tuple(returned),
    )


def _require_outside(folder: Path, *others: Path) -> None:
    for other in others:
        if folder.is_relative_to(other.resolve()) or other.resolve().is_relative_to(folder):
            raise ConfigError(
                f"the backup's folder must lie outside of {other} (got {folder}). Name a folder on another disk."
            )


def _require_empty(home_dir: Path, *, name: str, files: Mapping[str, Blob], with_secrets: bool) -> bool:
    """Return whether a restore of the same backup was here before; else only its own secrets may be there."""
    if _mark(home_dir)[:1] == [name]:
        return True
    present = sorted(path.relative_to(home_dir).as_posix() for path in home_dir.rglob("*") if path.is_file())
    conflicts = [file for file in present if not file.startswith((f"{home_files.SECRETS}/", f".{RESTORING}."))]
    conflicts += home_files.differing(
        {file: blob for file, blob in files.items() if file.startswith(f"{home_files.SECRETS}/")}, home_dir
    )
    if conflicts:
        raise ConfigError(
            f"{home_dir} must be empty or missing (got {', '.join(conflicts[:NUM_NAMED])}). A restore never overwrites "
            "an installation: name another folder with DETHRONE_HOME."
        )
    if not with_secrets and not (home_dir / home_files.SECRETS / "split_key").is_file():
        raise ConfigError(
            f"{home_dir / home_files.SECRETS} must hold the installation's secrets (got no split_key): this backup was "
            "written without them. Put them there, mode 600, and restore again."
        )
    return False


def _mark(home_dir: Path) -> list[str]:
    """Return which backup is or was restored here, then what is done of what cannot be done twice; or nothing.

    `restored` stays until the installation is started: the restore may have been killed before it told its end.
    """
    paths = [home_dir / name for name in (RESTORING, RESTORED) if (home_dir / name).is_file()]
    return paths[0].read_text().splitlines() if paths else []


def _mark_done(home_dir: Path, *lines: str) -> None:
    known = dict.fromkeys([*_mark(home_dir), *lines])
    write_private(home_dir / RESTORING, "".join(f"{line}\n" for line in known))


def _store_at_hand(
    home_dir: Path, *, projects_dir: Path, environment: Mapping[str, str]
) -> AbstractContextManager[None]:
    """Start the stack's own S3 unless the environment names another."""
    if environment.get("DETHRONE_S3_ENDPOINT"):
        return nullcontext()
    layout = StackLayout(home=home_dir.resolve(), root=source_root())
    bin_dir = Path(sys.executable).parent
    return running_s3(layout, projects_dir=projects_dir, environment=environment, bin_dir=bin_dir)


def _write_back(repository: BackupRepository, manifest: Mapping[str, Any], parts: Resources, *, again: bool) -> None:
    """Write what lies outside of the home: objects, catalog, Label Studio's database."""
    parts.store.ensure_bucket()
    snapshot.require_empty_store(parts.store, repository, manifest)
    snapshot.restore_objects(repository, manifest, store=parts.store)
    crash_point("restore.objects.after")
    _restore_catalog(repository, manifest, parts, again=again)
    crash_point("restore.catalog.recorded")
    if dump := snapshot.files_of(manifest, "home").get(LABEL_STUDIO_DUMP):
        _restore_labeling(repository.path_of(dump.sha256), parts.settings)


def _restore_catalog(
    repository: BackupRepository, manifest: Mapping[str, Any], parts: Resources, *, again: bool
) -> None:
    """Write the rows; one transaction, so a restore that was cut short left all of them or none."""
    url = parts.settings.catalog_url
    if not again or catalog_copy.num_rows(url) != manifest["num_rows"]:
        snapshot.restore_catalog(repository, manifest, catalog_url=url)


def _labeling_database(environment: Mapping[str, str]) -> PostgresqlDump | None:
    url, path = (environment.get(f"DETHRONE_LABEL_STUDIO_DATABASE_URL{end}") for end in ("", "_FILE"))
    url = url or (Path(path).read_text().strip() if path else None)
    return PostgresqlDump(url, environment=environment) if url else None


def _restore_labeling(path: Path, settings: Settings) -> None:
    """Write Label Studio's database; one transaction too, and that it was empty before is in the mark."""
    database = _labeling_database(settings.environment)
    if database is None:
        raise ConfigError(
            "DETHRONE_LABEL_STUDIO_DATABASE_URL must be set (got nothing): in this backup Label Studio is on "
            "PostgreSQL. Name an empty database and restore again."
        )
    if database.is_empty():
        _mark_done(settings.home, LABEL_STUDIO_DUMP)
        database.load(path)
    elif LABEL_STUDIO_DUMP not in _mark(settings.home):
        raise ConfigError(
            "Label Studio's database must be empty (got one with tables). Name a new one: "
            "DETHRONE_LABEL_STUDIO_DATABASE_URL."
        )


def _prove(parts: Resources, manifest: Mapping[str, Any]) -> list[str]:
    """Check every invariant, each object read again, each ledger as long as it was; return what the backup had not."""
    anchors = {project: [(int(anchor[0]), str(anchor[1]))] for project, anchor in manifest["anchors"].items()}
    violations = invariants_check.check(parts.database, parts.store, now=utc_now(), anchors=anchors, deep=True)
    return sorted({str(violation) for violation in violations} - set(manifest["violations"]))


def _return_rollouts(parts: Resources, *, attempt: Attempt) -> list[str]:
    """Give the champions everything back where a rollout was under way: no task watches it here.

    Its run was in Airflow's database, which no backup holds. An experiment has no task and goes on.
    """
    serving, returned = ServingRepository(parts.database), []
    for project in LedgerRepository(parts.database).projects():
        record = serving.head_record(project)
        if record is None:
            continue
        if record.action in ROLLING:
            fence = parts.fence(project, "ship", attempt)
            why = "the installation was restored from a backup"
            give_back(record, serving=serving, attempt=attempt, fence=fence, why=why, now=utc_now())
        elif record.attempt != attempt.holder:  # else by this restore before it was killed
            continue
        returned.append(project)
    return returned


def serve_again(parts: Resources, project: str) -> list[str]:
    """Start (or adopt) the servers that a project's route names, where its target runs them now.

    Raises:
        ConfigError: the project has no champion.
        ServiceUnavailable: a server does not become ready, or not where the route says.
    """
    loaded = parts.project(project)
    head = ServingRepository(parts.database).head_route(project)
    if head is None:
        raise ConfigError(f"{project} must have a champion to serve (got none). Train one first.", code="NO_CHAMPION")
    for entry in head.entries:
        release = release_of_version(parts, project, entry.model_version)
        restore_bento(parts, release)
        address = start_release(loaded, release, target=target_of(parts, loaded)).address
        if address != entry.address:
            raise ServiceUnavailable(
                f"{entry.deployment_id} must listen on {entry.address}, as the route says (got {address}). "
                "Free that port and try again, or roll back to another champion."
            )
    return [entry.deployment_id for entry in head.entries]


def _remember_servers(parts: Resources) -> tuple[list[str], list[str]]:
    """Have the champions' servers start with the next `dethrone up`, where the routes say that they are.

    Returns those, and the commands that start the champions on another target: its engine may not be there yet.
    """
    serving, started, to_start = ServingRepository(parts.database), [], []
    for project in sorted({path.parent.name for path in parts.settings.projects_dir.glob("*/project.yaml")}):
        head = serving.head_route(project)
        if head is None or not head.entries:
            continue  # nothing serves, or a graph: its nodes have routes of their own
        start_again = f"dethrone rollback {project} --to-version {head.champion_version} --reason restored"
        try:
            target = parts.project(project).config.serving.target
        except ProjectError:  # it was wrong when the backup was made; the others come back all the same
            to_start += [f"dethrone project validate {project}", start_again]
            continue
        if target != "process":
            to_start.append(start_again)
            continue
        for entry in head.entries:
            release = release_of_version(parts, project, entry.model_version)
            restore_bento(parts, release)
            ensure_secret(parts.settings.home / "secrets", "inference_key")  # a backup of an older version has none
            parts.target.remember(
                deployment_id=entry.deployment_id,
                bento_tag=release.bento_tag,
                port=urlsplit(entry.address).port or 80,
                environment={"DETHRONE_DEPLOYMENT": entry.deployment_id},
            )
            started.append(entry.deployment_id)
    return started, to_start


def as_text(report: snapshot.BackupReport | RestoreReport, folder: Path) -> str:
    """Return a report for people; what holds secrets says so."""
    if isinstance(report, RestoreReport):
        came = f"{report.num_rows} rows, {report.num_objects} objects, {report.num_files} files"
        proof = "Every invariant that held then holds, and the ledger is whole."
        if report.violations:
            proof = "\n".join(["These invariants held when the backup was made, and do not now:", *report.violations])
        servers = ", ".join(report.servers) or "no model"
        then = [
            f"`dethrone up` starts the stack and {servers}.",
            *(f"Then: `{command}`." for command in report.to_start),
        ]
        back = [
            f"The rollout of {project} was under way: its champion has all traffic again."
            for project in report.returned
        ]
        return "\n".join([f"Restored {report.name}: {came}.", proof, *back, *then])
    secrets = (
        "The secrets are IN this backup, readable by whoever reads the folder (mode 600): keep it as you keep them."
        if report.with_secrets
        else "The secrets are not in it: keep them elsewhere, without split_key and the passwords nothing comes back."
    )
    return (
        f"Backup {report.name} in {folder}: {report.num_rows} rows, {report.num_objects} objects "
        f"({report.num_new_objects} new), {report.num_files} files, {report.size_bytes / 1e6:.1f} MB.\n{secrets}"
        + "".join(f"\nBroken before the backup, and in it: {violation}" for violation in report.violations)
    )
