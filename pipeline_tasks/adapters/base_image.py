"""Build the base image that every release stands on, with what the machine's own package settings offer."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline_tasks.adapters.release_image import LABEL, LOCK_LABEL, PACKAGES_LABEL
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.errors import ConfigError, PermanentError

logger = logging.getLogger(__name__)

Variant = Literal["cpu", "cuda"]
LOCKS: Mapping[Variant, str] = {"cpu": "serving.lock", "cuda": "serving-cuda.lock"}
LOCAL_NAME = "dethrone-serving-base"
OS_BASE = "python:3.11-slim-bookworm"
PLATFORM = "x86_64-manylinux_2_28"
INSTALL_TIMEOUT_SECONDS = 1800
# For building against torch, not for running it; scripts name the interpreter of the machine that built.
NOT_SERVED = (
    "bin",
    "torch/bin/protoc*",
    "torch/bin/test_*",
    "torch/include",
    "torch/share",
    "torch/test",
    "torchgen/packaged",
)
COMPILE = (sys.executable, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash")
REMEDY: Mapping[Variant, str] = {
    "cpu": "Say where torch comes from: make serving-base TORCH_BACKEND=cpu.",
    "cuda": "The package index's own build is the one that the lock names: unset TORCH_BACKEND and PIP_FIND_LINKS.",
}
# uv does not read pip's settings: hand over those that say where packages come from.
PIP_TO_UV = {"PIP_FIND_LINKS": "UV_FIND_LINKS", "PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_CERT": "SSL_CERT_FILE"}


@dataclasses.dataclass(frozen=True, slots=True)
class BaseImageRecipe:
    """The two files that fix a base image."""

    variant: Variant
    lock: Path
    dockerfile: Path

    @property
    def tag(self) -> str:
        """Return the tag of this lock's base image; another lock or Dockerfile, another tag."""
        return f"base-{sha256_hex(self.lock.read_bytes() + self.dockerfile.read_bytes())[:12]}-{self.variant}"


def recipe(root: Path, *, variant: Variant) -> BaseImageRecipe:
    """Return the recipe of this checkout."""
    lock = root / "requirements" / LOCKS[variant]
    return BaseImageRecipe(variant, lock, root / "deploy" / "docker" / "serving-base.Dockerfile")


def build_base(
    made_from: BaseImageRecipe, *, os_base: str, engine: Any, environment: Mapping[str, str], scratch: Path
) -> tuple[str, bool]:
    """Build the base image unless the engine has it; return its name and whether it was built now.

    Raises:
        ConfigError: the packages are of the other variant, or the base of the OS is not there.
        PermanentError: BUILD_FAILED, with the last lines.
    """
    from docker.errors import ImageNotFound

    name = f"{LOCAL_NAME}:{made_from.tag}"
    try:
        engine.images.get(name)
    except ImageNotFound:
        logger.info("%s is not there yet: it is built once for this lock", name)
    else:
        return name, False
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="serving-base-", dir=scratch) as folder:
        site = Path(folder) / "site"
        install(made_from.lock, site=site, variant=made_from.variant, environment=environment)
        shutil.copyfile(made_from.dockerfile, Path(folder) / "Dockerfile")
        labels = {
            PACKAGES_LABEL: " ".join(installed(site)),
            LOCK_LABEL: sha256_hex(made_from.lock.read_bytes()),
            f"{LABEL}.variant": made_from.variant,
            "org.opencontainers.image.title": "dethrone serving base",
            "org.opencontainers.image.base.name": os_base,
        }
        _build(engine, Path(folder), name=name, os_base=os_base, labels=labels)
    return name, True


def install(lock: Path, *, site: Path, variant: Variant, environment: Mapping[str, str]) -> None:
    """Put the locked packages into a folder, compiled, without what only building needs.

    Raises:
        ConfigError: WRONG_VARIANT, the package index gives torch for the other one; told before it is fetched.
        PermanentError: BUILD_FAILED, a package is not there.
    """
    env = package_settings(environment, variant=variant)
    command = install_command(lock, site=site)
    _require_variant(planned_build(_run([*command, "--dry-run"], environment=env)), variant)
    _run([*command, "--quiet"], environment=env)
    _require_variant(installed_build(site), variant)  # a mirror may give another build under the same name
    for path in [path for pattern in NOT_SERVED for path in site.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    _run(
        [*COMPILE, "-s", str(site), "-p", "/opt/serving", str(site)],
        environment=env,
        check=False,  # some packages ship templates that are no Python
    )


def package_settings(environment: Mapping[str, str], *, variant: Variant) -> dict[str, str]:
    """Return the environment that uv finds this variant's packages with."""
    given = {uv: environment[pip] for pip, uv in PIP_TO_UV.items() if pip in environment}
    env = {**given, **environment}
    if variant == "cpu" and not {"UV_TORCH_BACKEND", "UV_FIND_LINKS"} & set(env):
        env["UV_TORCH_BACKEND"] = "cpu"  # the package index has the build with CUDA only
    return env


def install_command(lock: Path, *, site: Path) -> list[str]:
    """Return the command that puts a lock's wheels into a folder."""
    options = ["--python", sys.executable, "--python-platform", PLATFORM, "--only-binary", ":all:"]
    return [str(_uv()), "pip", "install", "--target", str(site), *options, "--link-mode", "copy", "-r", str(lock)]


def planned_build(plan: str) -> str:
    """Return for what the torch of a plan was built: `cpu`, `cuda`, or what its version says; by uv's own report."""
    line = next((entry for entry in plan.splitlines() if entry.strip().startswith("+ torch==")), "")
    local = line.partition("+ torch==")[2].strip().partition("+")[2]
    return "cuda" if not local or local.startswith("cu") else local


def installed_build(site: Path) -> str:
    """Return for what the torch in a folder was built: `cpu` or `cuda`."""
    text = (site / "torch" / "version.py").read_text()
    line = next((entry for entry in text.splitlines() if entry.startswith("cuda:")), "cuda: = None")
    return "cpu" if line.partition("=")[2].strip() == "None" else "cuda"


def installed(site: Path) -> list[str]:
    """Return `name==version` of every package in a folder."""
    distributions = importlib.metadata.distributions(path=[str(site)])
    return sorted(
        {f"{distribution.metadata['Name']}=={distribution.version}" for distribution in distributions}, key=str.lower
    )


def push_base(engine: Any, name: str, *, repository: str, auth: Mapping[str, str] | None) -> str:
    """Give the base image its name in a registry and push it; return `repository:tag@digest`, as the engine says it.

    What the registry has is not sent again.

    Raises:
        PermanentError: REGISTRY_REFUSED or PUSH_FAILED.
    """
    tag, digest = name.partition(":")[2], ""
    engine.images.get(name).tag(repository, tag=tag)
    for line in engine.images.push(
        repository, tag=tag, stream=True, decode=True, auth_config=dict(auth) if auth else None
    ):
        if "error" in line:
            raise PermanentError(
                f"{repository} must take the base image (got {str(line['error'])[:300]}). Look at the registry and at "
                "serving.docker.connection.",
                code="PUSH_FAILED",
            )
        digest = line.get("aux", {}).get("Digest", digest)
    return f"{repository}:{tag}@{digest}" if digest else f"{repository}:{tag}"


def _build(engine: Any, folder: Path, *, name: str, os_base: str, labels: Mapping[str, str]) -> None:
    from docker.errors import APIError, BuildError

    try:
        engine.images.build(
            path=str(folder), tag=name, buildargs={"OS_BASE": os_base}, labels=dict(labels), rm=True, forcerm=True
        )
    except (BuildError, APIError) as error:
        raise PermanentError(
            f"{name} must build on {os_base} (got {str(error)[:400]}). Name another base with OS_BASE=...",
            code="BUILD_FAILED",
        ) from error


def _uv() -> Path:
    path = Path(sys.executable).parent / "uv"
    if not path.is_file():
        raise ConfigError(f"uv must be installed beside {sys.executable} (got none). Run `make install`.")
    return path


def _run(command: Sequence[str], *, environment: Mapping[str, str], check: bool = True) -> str:
    try:
        done = subprocess.run(  # noqa: S603  (our own interpreter and uv; no user text)
            command, env=dict(environment), capture_output=True, text=True, timeout=INSTALL_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PermanentError(f"{command[1]} must end within {error.timeout:.0f} s.", code="BUILD_FAILED") from error
    if check and done.returncode != 0:
        last = " | ".join(done.stderr.strip().splitlines()[-5:])
        raise PermanentError(f"{command[1]} must succeed (got {done.returncode}: {last[:600]}).", code="BUILD_FAILED")
    return done.stderr  # where uv reports


def _require_variant(actual: str, variant: Variant) -> None:
    """Refuse a torch of the other variant: a CPU build never sees a GPU, a CUDA build is gigabytes for nothing."""
    if actual != variant:
        raise ConfigError(
            f"VARIANT must be what the package index gives (got {variant}, and torch is a {actual} build). "
            f"{REMEDY[variant]}",
            code="WRONG_VARIANT",
        )
