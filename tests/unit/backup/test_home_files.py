"""Files of a home and its projects that go into a backup while others write there."""

from pipeline_tasks.backup import home_files
from pipeline_tasks.backup.repository import BackupRepository


def test_a_file_that_is_taken_away_while_it_is_backed_up_does_not_end_the_backup(tmp_path):
    projects = tmp_path / "projects"
    for name in ("project.yaml", "incoming/a.png", "incoming/b.png"):
        (projects / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (projects / "pets" / name).write_text(name)

    class Moving(BackupRepository):
        def add_file(self, path):
            if path.name == "a.png":
                path.unlink()
            return super().add_file(path)

    kept = home_files.save_projects(projects, Moving(tmp_path / "vault"))
    assert sorted(kept) == ["pets/incoming/b.png", "pets/project.yaml"]
