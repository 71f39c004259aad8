"""Writes a new project's folder from a template that works as it is."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline_tasks.core.atomic_files import replace_file
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.project.labeling_config import TEMPLATES_DIR
from pipeline_tasks.project.loader import PROJECT_FILE, json_schema, load_project
from pipeline_tasks.project.section import NAME_PATTERN
from pipeline_tasks.project.yaml_reader import ProjectError, shown

PLACEHOLDER = "__NAME__"
INCOMING = "incoming"
SCHEMA_FILE = "project.schema.json"  # beside the projects: where the first line of each new one points editors to
# Settings by how many labels are expected in the first months: exams that they can fill, and what those can show;
# audits that a service of that size needs for an alarm, and labels that a training waits for.
SIZES: Mapping[int, Mapping[str, str]] = {
    300: {
        "exam_share": "0.3",
        "confidence": "0.8",
        "false_promotions_a_year": "2",
        "previous_margin": "0.1",
        "min_items": "50",
        "audit_share": "0.2",
        "min_new_labels": "100",
    },
    1000: {
        "exam_share": "0.2",
        "confidence": "0.9",
        "false_promotions_a_year": "1",
        "previous_margin": "0.08",
        "min_items": "50",
        "audit_share": "0.1",
        "min_new_labels": "200",
    },
    3000: {
        "exam_share": "0.2",
        "confidence": "0.95",
        "false_promotions_a_year": "0.5",
        "previous_margin": "0.05",
        "min_items": "100",
        "audit_share": "0.05",
        "min_new_labels": "200",
    },
}
DEFAULT_SIZE = 1000
_CLASSES_LINE = re.compile(r"^  classes: \[.*?\]", re.MULTILINE)


def template_names() -> list[str]:
    """Return the names that `init_project` takes as `template`."""
    return sorted(path.name for path in TEMPLATES_DIR.iterdir() if path.is_dir())


def init_project(
    projects_dir: Path, *, name: str, template: str, classes: Sequence[str] = (), labels: int = DEFAULT_SIZE
) -> Path:
    """Write `projects_dir/name`, whole or not at all, and return it; without classes it has those of the template.

    `labels` are how many are expected; the settings of the largest of SIZES up to it are written. The schema that
    editors check it with is written beside it.

    Raises:
        ConfigError: the name or a class is not allowed, the template is unknown, or the folder is there already.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(f"name must match {NAME_PATTERN} (got {shown(name)}). Use small letters, digits and _.")
    if template not in template_names():
        raise ConfigError(f"template must be one of {', '.join(template_names())} (got {shown(template)}).")
    if labels < min(SIZES):
        raise ConfigError(
            f"labels must be {min(SIZES)} or more (got {labels}): of fewer no exam can be made that shows anything."
        )
    size = max(least for least in SIZES if least <= labels)
    folder = projects_dir / name
    if folder.exists():
        raise ConfigError(f"{folder} must not exist (got a folder). Choose another name, or edit what is there.")
    projects_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=projects_dir) as scratch:
        draft = Path(scratch) / name
        _write(TEMPLATES_DIR / template, draft, name=name, classes=classes, size=size)
        _check(draft)
        schema = json.dumps(json_schema(), indent=2, sort_keys=True)
        replace_file(projects_dir / SCHEMA_FILE, f"{schema}\n".encode())
        try:
            draft.rename(folder)
        except OSError as error:
            raise ConfigError(f"{folder} must be a new folder (got {error.strerror}). Choose another name.") from error
    return folder


def _write(template: Path, folder: Path, *, name: str, classes: Sequence[str], size: int) -> None:
    folder.mkdir()
    for file in template.iterdir():
        shutil.copyfile(file, folder / file.name)
    path = folder / PROJECT_FILE
    text = path.read_text(encoding="utf-8").replace(PLACEHOLDER, name)
    if classes:
        line = f"  classes: [{', '.join(_quoted(class_name) for class_name in classes)}]"
        text = _CLASSES_LINE.sub(lambda _: line, text)
    for key, value in SIZES[size].items():
        text = re.sub(rf"^( +{key}: )[\d.]+", rf"\g<1>{value}", text, count=1, flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")
    (folder / INCOMING).mkdir()


def _quoted(name: str) -> str:
    """Return a class as YAML text; what UTF-8 cannot write stays an escape, for the check to refuse."""
    return json.dumps(name, ensure_ascii=not name.isprintable())


def _check(draft: Path) -> None:
    """Load what was written; the draft's folder is gone when the user reads of it."""
    try:
        load_project(draft)
    except ProjectError as error:
        raise ConfigError(f"{error.problems[0].message} Nothing was written.") from None
