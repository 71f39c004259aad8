"""The build of the base image, with an installer and an engine in memory; tests/docker builds the real one."""

import re
import types
from pathlib import Path

import pytest
from docker.errors import APIError, BuildError, ImageNotFound

from pipeline_tasks.adapters import base_image as module
from pipeline_tasks.adapters.base_image import build_base, package_settings, planned_build, recipe
from pipeline_tasks.adapters.release_image import LOCK_LABEL, PACKAGES_LABEL
from pipeline_tasks.errors import ConfigError, PermanentError
from pipeline_tasks.stack.layout import source_root

ROOT = source_root()
CUDA = "13.0"


class Engine:
    """Remembers what it was told to build."""

    def __init__(self):
        self.here, self.error, self.built = set(), None, {}
        self.images = types.SimpleNamespace(get=self._get, build=self._build)

    def _get(self, name):
        if name not in self.here:
            raise ImageNotFound("no")

    def _build(self, *, path, **options):
        if self.error:
            raise self.error
        files = {str(file.relative_to(path)) for file in Path(path).rglob("*") if file.is_file()}
        self.built = {"files": files, "dockerfile": (Path(path) / "Dockerfile").read_text(), **options}
        self.here.add(options["tag"])


class Installer:
    """Stands for uv: reports a plan, then puts a torch and what only building needs into the folder."""

    def __init__(self, *, plan="2.13.0", cuda=CUDA):
        self.plan, self.cuda, self.commands, self.environments = plan, cuda, [], []

    def __call__(self, command, *, environment, check=True):
        self.commands.append(list(command))
        self.environments.append(dict(environment))
        if "--dry-run" in command:
            return f"Would install 2 packages\n + numpy==2.0\n + torch=={self.plan}\n"
        if "--target" in command:
            self._install(Path(command[command.index("--target") + 1]))
        return ""

    def _install(self, site):
        kept = {"torch/version.py": f"cuda: Optional[str] = {self.cuda!r}\n", "torch/lib/libtorch.so": "x"}
        package = {"torch-2.13.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n"}
        dropped = dict.fromkeys(("bin/torchrun", "torch/include/a.h", "torch/bin/protoc-3", "torch/test/t.py"), "x")
        for name, text in {**kept, **package, **dropped}.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(text)


@pytest.fixture
def install(monkeypatch):
    def fake(**what):
        installer = Installer(**what)
        monkeypatch.setattr(module, "_run", installer)
        return installer

    return fake


def build(engine, tmp_path, *, variant="cuda", environment=None):
    return build_base(
        recipe(ROOT, variant=variant),
        os_base="python:3.11-slim-bookworm",
        engine=engine,
        environment=environment or {"PATH": "/bin"},
        scratch=tmp_path / "scratch",
    )


def test_each_variant_has_a_lock_and_a_tag_of_its_own():
    cpu, cuda = recipe(ROOT, variant="cpu"), recipe(ROOT, variant="cuda")
    assert (cpu.lock.name, cuda.lock.name) == ("serving.lock", "serving-cuda.lock")
    assert re.fullmatch(r"base-[0-9a-f]{12}-cuda", cuda.tag)
    assert cpu.tag[:17] != cuda.tag[:17]


def test_the_lock_with_cuda_is_the_other_one_and_what_cuda_takes():
    cpu, cuda = (pins(recipe(ROOT, variant=variant).lock) for variant in ("cpu", "cuda"))
    assert {name: cuda.get(name) for name in cpu} == cpu
    extra = set(cuda) - set(cpu)
    assert {"triton", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nvjitlink", "cuda-toolkit"} <= extra
    assert {name for name in extra if not name.startswith(("nvidia-", "cuda-"))} == {"triton"}


def pins(lock):
    lines = [line.split(" ;")[0] for line in lock.read_text().splitlines() if "==" in line and line[0] not in " #"]
    return dict(line.split("==") for line in lines)


def test_the_base_with_cuda_is_built_of_its_lock_and_says_so(install, tmp_path):
    engine, installer = Engine(), install()
    name, built = build(engine, tmp_path)
    assert (name, built) == (f"dethrone-serving-base:{recipe(ROOT, variant='cuda').tag}", True)
    planned, installed = installer.commands[:2]
    assert (planned[-1], installed[-1]) == ("--dry-run", "--quiet")
    assert planned[:-1] == installed[:-1]
    assert planned[-3:-1] == ["-r", str(ROOT / "requirements" / "serving-cuda.lock")]
    assert {"--only-binary", "x86_64-manylinux_2_28"} <= set(planned)
    assert engine.built["files"] == {
        "Dockerfile",
        "site/torch/version.py",
        "site/torch/lib/libtorch.so",
        "site/torch-2.13.0.dist-info/METADATA",
    }
    assert engine.built["buildargs"] == {"OS_BASE": "python:3.11-slim-bookworm"}
    labels = engine.built["labels"]
    assert (labels["io.dethrone.variant"], labels[PACKAGES_LABEL]) == ("cuda", "torch==2.13.0")
    assert labels[LOCK_LABEL] == module.sha256_hex((ROOT / "requirements" / "serving-cuda.lock").read_bytes())
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_base_that_the_engine_has_is_not_built_again(install, tmp_path):
    engine, installer = Engine(), install()
    build(engine, tmp_path)
    installer.commands.clear()
    assert build(engine, tmp_path)[1] is False
    assert installer.commands == []


@pytest.mark.parametrize(
    ("variant", "plan", "actual"),
    [
        ("cuda", "2.13.0+cpu", "cpu"),
        ("cuda", "2.13.0+rocm6.4", "rocm6.4"),
        ("cpu", "2.13.0", "cuda"),
        ("cpu", "2.13.0+cu130", "cuda"),
    ],
)
def test_the_other_variant_is_refused_before_gigabytes_are_fetched(install, tmp_path, variant, plan, actual):
    engine, installer = Engine(), install(plan=plan)
    remedy = {"cpu": "make serving-base TORCH_BACKEND=cpu", "cuda": "unset TORCH_BACKEND and PIP_FIND_LINKS"}[variant]
    expected = rf"got {variant}, and torch is a {re.escape(actual)} build\)\. .*{remedy}"
    with pytest.raises(ConfigError, match=expected) as no:
        build(engine, tmp_path, variant=variant)
    assert (no.value.code, len(installer.commands), engine.built) == ("WRONG_VARIANT", 1, {})


def test_a_mirror_that_gives_another_build_under_the_same_name_is_found_out(install, tmp_path):
    engine = Engine()
    install(plan="2.13.0", cuda=None)
    with pytest.raises(ConfigError, match="got cuda, and torch is a cpu build") as no:
        build(engine, tmp_path)
    assert (no.value.code, engine.built) == ("WRONG_VARIANT", {})


def test_a_plan_without_torch_or_with_the_indexs_own_build_is_cuda():
    assert planned_build(" + torch==2.13.0\n") == planned_build(" + torch==2.13.0+cu128\n") == "cuda"
    assert planned_build(" + torch==2.13.0+cpu\n") == "cpu"


def test_packages_come_from_where_pips_settings_say():
    pip = {"PIP_INDEX_URL": "https://a/simple", "PIP_CERT": "/c.pem", "PIP_FIND_LINKS": "/w"}
    settings = package_settings(pip, variant="cpu")
    assert (settings["UV_DEFAULT_INDEX"], settings["SSL_CERT_FILE"], settings["UV_FIND_LINKS"]) == (
        "https://a/simple",
        "/c.pem",
        "/w",
    )
    assert "UV_TORCH_BACKEND" not in settings
    assert package_settings({"UV_FIND_LINKS": "/mine", **pip}, variant="cpu")["UV_FIND_LINKS"] == "/mine"


def test_only_the_cpu_variant_takes_torch_from_elsewhere_by_itself():
    assert package_settings({}, variant="cpu") == {"UV_TORCH_BACKEND": "cpu"}
    assert package_settings({}, variant="cuda") == {}
    assert package_settings({"UV_TORCH_BACKEND": "cpu"}, variant="cuda") == {"UV_TORCH_BACKEND": "cpu"}


@pytest.mark.parametrize(
    "error", [BuildError("pull access denied for python", []), APIError("no space left on device")], ids=["os", "disk"]
)
def test_a_build_that_fails_names_the_base_of_the_os(install, tmp_path, error):
    engine = Engine()
    engine.error = error
    install()
    with pytest.raises(PermanentError, match=r"must build on python:3.11-slim-bookworm .*OS_BASE=") as no:
        build(engine, tmp_path)
    assert no.value.code == "BUILD_FAILED"


def test_the_image_asks_for_cuda_but_takes_no_gpu_by_itself():
    lines = [line for line in recipe(ROOT, variant="cuda").dockerfile.read_text().splitlines() if line[:1] != "#"]
    assert "ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility" in lines
    assert "NVIDIA_VISIBLE_DEVICES" not in "\n".join(lines)
