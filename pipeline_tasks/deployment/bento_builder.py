"""Build a release: one model version and the code that serves it, in one bento under one exact tag.

BentoML keeps its stores and what it imports in process-wide state, so each step runs in a process of its own with
BENTOML_HOME set; this module is also that process's program. Nothing here uses the network.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline_tasks.contracts import content_id, sha256_hex
from pipeline_tasks.errors import ConfigError, PermanentError, TransientError
from pipeline_tasks.models.artifact import MANIFEST_NAME, file_names

SERVICE = "bento_services.inference.service:Inference"
# What runs inside a release, and nothing else of ours: no catalog, no adapters, no credentials' readers.
SOURCES = (
    "bento_services/*.py",
    "bento_services/inference/*.py",
    "pipeline_tasks/__init__.py",
    "pipeline_tasks/contracts.py",
    "pipeline_tasks/errors.py",
    "pipeline_tasks/guards/*.py",
    "pipeline_tasks/models/**/*.py",
)
# BentoML pins itself. ONNX Runtime is in every release: which one computes is the model's to say, not the image's.
REQUIREMENTS = ("numpy", "onnxruntime", "pillow", "pydantic", "safetensors", "torch", "uvloop")
TAG = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?:[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?")
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([A-Za-z0-9.+!_-]+)")
BUILD_TIMEOUT_SECONDS = 300


def build_bento(
    model_dir: Path, *, tag: str, labels: Mapping[str, str], bentoml_home: Path, lock_path: Path | None = None
) -> str:
    """Build the bento, or adopt the one that has this tag already; return the digest of its code, pins and model.

    `model_dir` holds the model version's files; `lock_path` the exact versions (`name==version` lines) that a
    container of this release installs; without it, the versions that are installed here.

    Raises:
        ConfigError: the tag, a label or the model folder is not usable.
        PermanentError: BENTO_CONFLICT, the tag names a bento with other contents; BUILD_FAILED, with the last lines.
    """
    _check(tag, labels)
    _check_model(model_dir)
    requirements = pins(lock_path)
    request = {
        "tag": tag,
        "labels": dict(labels),
        "model_dir": str(model_dir.resolve()),
        "requirements": requirements,
        "digest": content_digest(model_dir, requirements=requirements),
    }
    return str(_in_own_process("build", request, bentoml_home=bentoml_home)["digest"])


def export_bento(tag: str, path: Path, *, bentoml_home: Path) -> None:
    """Write the bento, its model included, into one file; `bentoml import` restores it elsewhere."""
    _in_own_process("export", {"tag": tag, "path": str(path.resolve())}, bentoml_home=bentoml_home)


def import_bento(path: Path, *, bentoml_home: Path) -> str:
    """Restore an exported bento and its model into a store; return its tag. What is there already stays."""
    return str(_in_own_process("import", {"path": str(path.resolve())}, bentoml_home=bentoml_home)["tag"])


def source_files() -> list[Path]:
    """Return the files of ours that a bento holds, relative to the source root."""
    root = _root()
    return sorted({path.relative_to(root) for pattern in SOURCES for path in root.glob(pattern)})


def content_digest(model_dir: Path, *, requirements: list[str]) -> str:
    """Return the SHA-256 over code, pins and model: what a release is, without its build time."""
    return _digest(_root(), source_files(), model_dir=model_dir, requirements=requirements)


def stored_digest(tag: str, *, bentoml_home: Path) -> str | None:
    """Return the `content_digest` of the files that a store holds under a tag now; None if one is missing or a link.

    It is computed from what would be served: the label that says it was written by the build.
    """
    name, version = tag.split(":")
    bento, model_dir = bentoml_home / "bentos" / name / version, bentoml_home / "models" / name / version
    pinned = bento / "env" / "python" / "requirements.txt"
    if any(path.is_symlink() for folder in (bento, model_dir) for path in (folder, *folder.rglob("*"))):
        return None  # what a link names can change after it was hashed
    if not pinned.is_file() or not all((model_dir / file).is_file() for file in model_files(model_dir)):
        return None
    files = sorted(path.relative_to(bento / "src") for path in (bento / "src").rglob("*.py"))
    # BentoML adds its own pin to those of the build.
    requirements = [line for line in pinned.read_text().splitlines() if line and not line.startswith("bentoml==")]
    return _digest(bento / "src", files, model_dir=model_dir, requirements=requirements)


def model_files(model_dir: Path) -> tuple[str, ...]:
    """Return the names of the files that a model folder has to hold, by its manifest."""
    path = model_dir / MANIFEST_NAME
    return file_names(path.read_bytes() if path.is_file() else b"")


def _digest(root: Path, files: Sequence[Path], *, model_dir: Path, requirements: list[str]) -> str:
    code = {str(path): sha256_hex((root / path).read_bytes()) for path in files}
    model = {name: sha256_hex((model_dir / name).read_bytes()) for name in model_files(model_dir)}
    return content_id({"code": code, "model": model, "requirements": requirements})


def pins(lock_path: Path | None) -> list[str]:
    """Return `name==version` of every package that the service imports, from the lock file or from here."""
    if lock_path is None:
        from importlib.metadata import version

        return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]
    pinned = {match[1].lower(): match[0] for match in map(PIN.match, lock_path.read_text().splitlines()) if match}
    missing = [name for name in REQUIREMENTS if name not in pinned]
    if missing:
        raise ConfigError(f"{lock_path.name} must pin {', '.join(missing)} (got no such line). Recompile the lock.")
    return [pinned[name] for name in REQUIREMENTS]


def _check(tag: str, labels: Mapping[str, str]) -> None:
    if not TAG.fullmatch(tag) or tag.endswith(":latest"):
        raise ConfigError(f"tag must be name:version in lower case, 63 characters each, not latest (got {tag!r}).")
    for key, value in labels.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", key) or not re.fullmatch(
            r"[A-Za-z0-9_.:-]{0,63}", value
        ):
            raise ConfigError(f"label {key!r} must be letters, digits and _.:- , at most 63 (got {value!r}).")


def _check_model(model_dir: Path) -> None:
    for name in model_files(model_dir):
        path = model_dir / name
        if path.is_symlink() or not path.is_file():
            raise ConfigError(f"model_dir must hold the file {name} (got none in {model_dir}). Fetch the model first.")


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


def _in_own_process(step: str, request: Mapping[str, Any], *, bentoml_home: Path) -> dict[str, Any]:
    """Run one step of this module as a program and return its answer."""
    from bento_services.serve import ALLOCATOR  # a model is measured as it will run

    bentoml_home.mkdir(parents=True, exist_ok=True)
    # BentoML 1.4.39 looks for uv even when it locks nothing, and installs it from the network where it is missing.
    with tempfile.TemporaryDirectory(prefix="dethrone-tools-") as tools:
        Path(tools, "uv").symlink_to(sys.executable)
        command = [sys.executable, "-m", "pipeline_tasks.deployment.bento_builder", step]
        environment = {
            "BENTOML_HOME": str(bentoml_home.resolve()),
            "BENTOML_DO_NOT_TRACK": "True",
            "HOME": str(bentoml_home.resolve()),
            "PATH": os.pathsep.join([tools, os.defpath]),
            "TMPDIR": tempfile.gettempdir(),
            **ALLOCATOR,
        }
        try:
            done = subprocess.run(  # noqa: S603  (our own interpreter and module; the request goes through stdin)
                command,
                input=json.dumps(request),
                env=environment,
                cwd=_root(),
                capture_output=True,
                text=True,
                timeout=BUILD_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TransientError(f"bento {step} must end within {BUILD_TIMEOUT_SECONDS} s (got no end).") from error
    if done.returncode != 0:
        last = " | ".join(done.stderr.strip().splitlines()[-3:])
        code = "BENTO_CONFLICT" if "BENTO_CONFLICT" in last else "BUILD_FAILED"
        raise PermanentError(f"bento {step} must succeed (got exit code {done.returncode}: {last[:600]}).", code=code)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _build(request: Mapping[str, Any]) -> dict[str, Any]:
    import bentoml
    from bentoml.exceptions import NotFound

    tag, digest = request["tag"], request["digest"]
    try:
        built = bentoml.bentos.get(tag)
    except NotFound:
        built = None
    if built is None:
        _keep_model(tag, Path(request["model_dir"]), digest=digest)
        built = _build_from_sources(request)
    got = str(built.info.labels.get("digest"))
    if got != digest:
        raise PermanentError(f"{tag} must hold the contents {digest[:12]} (got {got[:12]}): BENTO_CONFLICT.")
    return {"digest": digest, "path": str(built.path)}


def _keep_model(tag: str, model_dir: Path, *, digest: str) -> None:
    """Put the model into the model store under the bento's own tag; a model left by a killed build is adopted."""
    import bentoml
    from bentoml.exceptions import NotFound

    try:
        kept = bentoml.models.get(tag)
    except NotFound:
        with bentoml.models.create(tag, labels={"digest": digest}) as model:
            for name in model_files(model_dir):
                shutil.copyfile(model_dir / name, model.path_of(name))
            _tune(Path(model.path))
        return
    for name in model_files(model_dir):
        if sha256_hex(Path(kept.path_of(name)).read_bytes()) != sha256_hex((model_dir / name).read_bytes()):
            raise PermanentError(f"the stored model {tag} must hold the same {name} (got other bytes): BENTO_CONFLICT.")


def _tune(folder: Path) -> None:
    """Measure the model as the service will run it, and keep the sizes beside it.

    No part of the digest: what a release answers does not depend on them, and no two measurements are alike.
    """
    from bento_services.inference.batch_tuning import choose, measure, save_tuning
    from bento_services.inference.model_version import load_model

    model = load_model(folder)
    # One thread's CPU time is the wall time of a machine that does nothing else; releases are built on busy ones.
    clock = time.process_time if model.device == "cpu" else time.perf_counter
    save_tuning(choose(measure(model, clock=clock)), folder)


def _build_from_sources(request: Mapping[str, Any]) -> Any:
    import bentoml

    name, version = request["tag"].split(":")
    with tempfile.TemporaryDirectory(prefix="dethrone-bento-") as folder:
        for path in source_files():
            target = Path(folder) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_root() / path, target)
        return bentoml.build(
            SERVICE,
            name=name,
            version=version,
            labels={**request["labels"], "digest": request["digest"]},
            description="One model version of a Dethrone project; see bento_services/inference/README.md.",
            include=["bento_services", "pipeline_tasks"],
            models=[request["tag"]],
            python={"packages": request["requirements"], "lock_packages": False},
            build_ctx=folder,
        )


def _export(request: Mapping[str, Any]) -> dict[str, Any]:
    import bentoml

    bento = bentoml.bentos.get(request["tag"])
    target = Path(request["path"])
    partial = target.with_name(f".{target.stem}.partial.bento")
    partial.unlink(missing_ok=True)
    Path(bento.export(str(partial))).replace(target)
    return {"tag": str(bento.tag)}


def _import(request: Mapping[str, Any]) -> dict[str, Any]:
    import bentoml
    from bentoml.exceptions import BentoMLException

    try:
        return {"tag": str(bentoml.bentos.import_bento(request["path"]).tag)}
    except BentoMLException as error:
        present = re.search(
            r"'([a-z0-9_.-]+:[a-z0-9_.-]+)' already exists|Bento \(?tag=?\"?([a-z0-9_.:-]+)", str(error)
        )
        if present is None:
            raise
        return {"tag": present.group(1) or present.group(2)}


def main() -> None:
    """Read a request from stdin, do one step, print its answer as the last line."""
    step = {"build": _build, "export": _export, "import": _import}[sys.argv[1]]
    answer = step(json.loads(sys.stdin.read()))
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
