import base64
import multiprocessing
import re

from pipeline_tasks.stack import secrets


def test_every_secret_is_written_once_for_the_owner_only(tmp_path):
    folder = tmp_path / "secrets"
    first = secrets.ensure_secrets(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir()} == set(secrets.GENERATORS)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert secrets.ensure_secrets(folder) == first


def test_no_two_installations_share_a_secret(tmp_path):
    first, two = secrets.ensure_secrets(tmp_path / "a"), secrets.ensure_secrets(tmp_path / "b")
    assert not set(first.values()) & set(two.values())
    assert len(set(first.values())) == len(first)


def test_each_secret_has_the_shape_that_its_component_takes(tmp_path):
    values = secrets.ensure_secrets(tmp_path / "secrets")
    assert re.fullmatch(r"[0-9a-f]{40}", values["label_studio_token"])
    assert len(base64.urlsafe_b64decode(values["airflow_fernet_key"])) == 32
    assert min(len(value) for value in values.values()) >= 20
    files = {"airflow_fernet_key", "s3_identity"}
    safe = {name: value for name, value in values.items() if name not in files}
    assert all(value.isalnum() for value in safe.values())  # nothing that an ini file or a shell would change
    assert re.findall("BEGIN ([A-Z ]+)-", values["s3_identity"]) == ["PRIVATE KEY", "CERTIFICATE"]


def test_an_unknown_name_gets_a_password_of_its_own(tmp_path):
    value = secrets.ensure_secret(tmp_path / "secrets", "annotator_ana_password")
    assert len(value) == 24
    assert secrets.ensure_secret(tmp_path / "secrets", "annotator_ana_password") == value


def test_an_empty_file_of_a_box_that_died_is_replaced(tmp_path):
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "split_key").touch()
    assert len(secrets.ensure_secret(folder, "split_key")) == 64


def _ensure(folder):
    return secrets.ensure_secret(folder, "split_key")


def test_writers_at_once_agree_on_one_value(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        values = set(pool.map(_ensure, [tmp_path / "secrets"] * 16))
    assert len(values) == 1
    assert [path.name for path in (tmp_path / "secrets").iterdir()] == ["split_key"]


def test_write_private_replaces_in_one_step(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    secrets.write_private(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
