"""A backup into a folder that was damaged, and what a restore makes of work that was under way."""

import argparse
import dataclasses
import os
import time

import pytest

from pipeline_tasks.backup import restore, snapshot
from pipeline_tasks.backup.repository import BackupRepository, Blob
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.cli import backup_commands
from pipeline_tasks.contracts import RouteEntry
from pipeline_tasks.core.settings import RESTORING
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.stack import bring_up, lifecycle
from tests.backup_case import Target
from tests.ledger_case import minutes


def damage(vault, blobs):
    """Change bytes and keep sizes, as a disk does."""
    for blob in blobs:
        path = vault.path_of(blob.sha256)
        path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


def test_a_damaged_file_is_mended_by_the_next_backup_that_looks(save, target, installation):
    vault = BackupRepository(installation.vault)
    manifest = vault.manifest(save().name)
    every = snapshot.blobs_of(manifest, vault)
    damage(vault, {blob.sha256: blob for blob in every if blob.size_bytes}.values())
    report = save(check=True)  # it reads every file at the end, and would name one that is bad
    assert report.num_new_objects == report.num_objects
    before = {blob.sha256 for blob in every} - {manifest["catalog"]["sha256"]}
    assert before <= {blob.sha256 for blob in snapshot.blobs_of(vault.manifest(), vault)}
    assert target.restore().violations == ()


def test_without_the_check_what_lies_on_this_machine_is_mended_and_objects_are_not_read(save, installation):
    vault = BackupRepository(installation.vault)
    manifest = vault.manifest(save().name)
    local = [Blob(**blob) for part in ("home", "projects") for blob in manifest[part].values()]
    (row, *_) = vault.json_lines(Blob(**manifest["objects"]))
    stored = Blob(row["sha256"], row["size_bytes"])
    damage(vault, {blob.sha256: blob for blob in (*local, stored) if blob.size_bytes}.values())
    assert save().num_new_objects == 0
    assert [blob for blob in local if not vault.is_whole(blob)] == []
    assert not vault.is_whole(stored)


def test_a_damaged_list_of_objects_does_not_stop_the_next_backup(save, installation):
    vault = BackupRepository(installation.vault)
    manifest = vault.manifest(save().name)
    damage(vault, [Blob(**manifest["objects"])])
    again = vault.manifest(save(check=True).name)
    assert again["objects"] == manifest["objects"]


def put_beside(serving, *, share, action):
    """Give v3 a share beside the champion v1 (0: a shadow), as a rollout's step or an experiment does."""
    head = serving.head_route("fashion")
    beside = RouteEntry("d-v3", "v3", "http://127.0.0.1:2", share)
    route = dataclasses.replace(
        head,
        generation=head.generation + 1,
        commit_id="beside",
        parent_commit_id=head.commit_id,
        entries=(dataclasses.replace(head.entries[0], weight=100 - share), *((beside,) if share else ())),
        shadows=() if share else (beside,),
    )
    told = {"action": action, "attempt": "run-9/ship/1", "verdict_id": "verdict-v1", "actor": "gate"}
    told |= {"reason": "10 % to v3 beside v1", "serving": {"review_below": 0.6}, "at": minutes(9)}
    return serving.commit_route(route, **told)


@pytest.mark.parametrize("share", [0, 10])
def test_a_rollout_that_was_under_way_comes_back_with_all_traffic_at_the_champion(save, target, installation, share):
    serving = installation.ledger.serving
    put_beside(serving, share=share, action="canary" if share else "shadow")
    save()
    report = target.restore()
    assert (report.returned, report.violations) == (("fashion",), ())
    assert "The rollout of fashion was under way: its champion" in restore.as_text(report, target.vault)
    (before, after) = ServingRepository(Database(create_engine(target.url))).records("fashion")[-2:]
    assert before == serving.head_record("fashion")
    assert after.action == "canary_inconclusive"
    assert after.reason == "the installation was restored from a backup after: 10 % to v3 beside v1"
    assert [(entry.model_version, entry.weight) for entry in after.route.entries] == [("v1", 100)]
    assert after.route.shadows == ()


def test_an_experiment_goes_on_after_a_restore(save, target, installation):
    serving = installation.ledger.serving
    put_beside(serving, share=50, action="experiment_start")
    save()
    assert target.restore().returned == ()
    assert ServingRepository(Database(create_engine(target.url))).head_record("fashion") == serving.head_record(
        "fashion"
    )


def test_a_restore_that_was_cut_short_after_it_returned_a_rollout_goes_on(save, target, installation, monkeypatch):
    put_beside(installation.ledger.serving, share=10, action="canary")
    save()
    with monkeypatch.context() as patch:
        patch.setattr(restore, "_remember_servers", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            target.restore()
    assert target.restore().returned == ("fashion",)
    records = ServingRepository(Database(create_engine(target.url))).records("fashion")
    assert [record.action for record in records].count("canary_inconclusive") == 1


@pytest.mark.parametrize("point", ["files.after", "objects.after", "catalog.recorded", "servers.after", "end.after"])
def test_a_restore_that_was_killed_at_any_moment_ends_as_if_given_once(
    save, tmp_path, installation, monkeypatch, point
):
    """A kill after the last effect too: the second one tells the same, and changes nothing that is there."""
    put_beside(installation.ledger.serving, share=10, action="canary")
    save()
    monkeypatch.setattr(restore, "utc_now", lambda: minutes(30))
    calm = Target(tmp_path / "calm", installation, monkeypatch)
    told = calm.restore()
    killed = Target(tmp_path / "killed", installation, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(restore, "crash_point", die_at(f"restore.{point}"))
        with pytest.raises(KeyboardInterrupt):
            killed.restore()
    assert killed.restore() == told
    assert killed.store.objects == calm.store.objects
    names = [[str(path.relative_to(side.home)) for path in sorted(side.home.rglob("*"))] for side in (calm, killed)]
    assert names[0] == names[1]


def die_at(point):
    def crash_point(name):
        if name == point:
            raise KeyboardInterrupt

    return crash_point


def test_a_restored_home_is_refused_by_another_backup_and_after_its_first_start(save, target, monkeypatch):
    first = save()
    target.restore()
    save()
    for name in (None, "20990101T000000Z"):
        with pytest.raises(ConfigError, match="must "):
            target.restore(name=name)
    target.restore(name=first.name)
    monkeypatch.setattr(lifecycle, "up", lambda *_a, **_k: None)
    monkeypatch.setattr(bring_up, "issue_stack_keys", lambda *_a, **_k: None)
    bring_up.start_stack(target.home, projects_dir=target.projects, environment={"DETHRONE_CATALOG_URL": target.url})
    with pytest.raises(ConfigError, match="A restore never overwrites an installation"):
        target.restore(name=first.name)


def test_a_restore_that_is_given_again_without_a_name_goes_on_with_its_backup(save, target, monkeypatch):
    first = save()
    with monkeypatch.context() as patch:
        patch.setattr(restore, "crash_point", die_at("restore.objects.after"))
        with pytest.raises(KeyboardInterrupt):
            target.restore()
    save()
    assert target.restore().name == first.name


def test_a_kill_while_the_mark_was_written_leaves_an_empty_home(save, target):
    save()
    target.home.mkdir(parents=True)
    (target.home / f".{RESTORING}.4711.tmp").write_text("2026")
    assert target.restore().violations == ()


def test_a_half_restored_home_is_not_upgraded(target, monkeypatch):
    """Beyond one machine nothing starts before `dethrone upgrade` has ended."""
    target.home.mkdir(parents=True)
    (target.home / RESTORING).write_text("20260101T000000Z\n")
    monkeypatch.setenv("DETHRONE_HOME", str(target.home))
    with pytest.raises(ConfigError, match="a restore that was cut short"):
        backup_commands.upgrade(argparse.Namespace())
    assert not (target.home / "catalog.db").exists()


def test_what_a_killed_backup_was_writing_goes_with_a_later_one(save, installation):
    save()
    unfinished = installation.vault / "unfinished"
    for name, hours in (("killed", 25), ("running", 23)):
        (unfinished / name).touch()
        then = time.time() - hours * 3600
        os.utime(unfinished / name, (then, then))
    save()
    assert [path.name for path in unfinished.iterdir()] == ["running"]
