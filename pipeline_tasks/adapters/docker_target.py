"""The deployment target of a Docker engine: each release is a container, run by the digest of its image.

The engine's labels are the memory: a container names its home, its deployment and its port, so that whatever a crashed
attempt left is found, adopted or removed.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from pipeline_tasks.adapters import http_health, local_ports
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import ServerHandle
from pipeline_tasks.errors import ConfigError, PermanentError, ServiceUnavailable
from pipeline_tasks.project.serving_schema import DockerServing

logger = logging.getLogger(__name__)

LABEL = "io.dethrone"
INNER_PORT = 3000
FIRST_PORT = 3200
CDI_GPU = "nvidia.com/gpu="  # engines that know devices by the Container Device Interface
MIN_API = (1, 41)  # engine 20.10, the oldest one that this was tried on
STOP_WAIT_SECONDS = 40  # in-flight requests end within this time, then SIGKILL
MAX_RESTARTS = 3
PORT_TRIES = 10
TAIL_LINES = 15


@dataclasses.dataclass(frozen=True, slots=True)
class RunnableImage:
    """An image in a registry by its digest (`repository@sha256:...`) and what its container is told."""

    reference: str
    environment: Mapping[str, str]
    auth: Mapping[str, str] | None = dataclasses.field(default=None, repr=False)


class DockerTarget:
    """Implements `ports.DeploymentTarget` on a Docker engine.

    Every call raises ServiceUnavailable (ENGINE_AWAY) while the engine does not answer.
    """

    def __init__(
        self,
        *,
        home: str,
        config: DockerServing,
        engine: Callable[[], Any],
        publish: Callable[[str], RunnableImage],
        reserved_ports: Collection[int] = (),
        poll_seconds: float = 0.1,
    ) -> None:
        self._home = sha256_hex(home.encode())[:12]
        self._config = config
        self._engine = engine
        self._publish = publish
        self._reserved_ports = frozenset(reserved_ports)
        self._poll_seconds = poll_seconds

    def start(self, *, deployment_id: str, bento_tag: str, environment: Mapping[str, str]) -> ServerHandle:
        """Start (or adopt, by deployment id) a container; returns before it is ready.

        Raises:
            ConfigError: the engine is too old, or has no GPU where the project requires one.
            ServiceUnavailable: the engine or the registry does not answer, or the disk is full.
            PermanentError: the registry refuses the credentials, or the engine refuses the container.
        """
        with engine_errors():
            engine = self._usable_engine()
            gpus = self._gpu_requests(engine)
            container = self._find(engine, deployment_id)
            if container is None:
                image = self._publish(bento_tag)
                self._pull(engine, image)
                crash_point("ship.pull.after")
                container = self._create(engine, deployment_id, image=image, environment=environment, gpus=gpus)
            elif container.status not in {"running", "restarting"}:
                self._start_again(container)
            crash_point("ship.container.after")
            return ServerHandle(deployment_id=deployment_id, address=self._address(container))

    def wait_ready(self, deployment_id: str, *, timeout_seconds: float) -> None:
        """Return when the server says that it can predict.

        Raises:
            ServiceUnavailable: it ended, restarts again and again or took too long; with its last log lines.
        """
        deadline = time.monotonic() + timeout_seconds
        reason = f"no answer in {timeout_seconds:.0f} s"
        with engine_errors():
            engine = self._engine()
            while time.monotonic() < deadline:
                container = self._find(engine, deployment_id)
                given_up = _gave_up(container)
                if given_up is not None:
                    reason = given_up
                    break
                if http_health.http_health(f"{self._address(container)}/readyz", timeout_seconds=2).ok:
                    return
                time.sleep(self._poll_seconds)
            said = self._describe(engine, deployment_id)
        raise ServiceUnavailable(
            f"deployment {deployment_id} must become ready (got {reason}). {said}", code="DEPLOYMENT_NOT_READY"
        )

    def stop(self, deployment_id: str) -> None:
        """SIGTERM, wait for in-flight requests, remove; no error if it is gone."""
        from docker.errors import NotFound

        with engine_errors():
            container = self._find(self._engine(), deployment_id)
            if container is None:
                return
            try:
                container.stop(timeout=STOP_WAIT_SECONDS)
                container.remove(force=True, v=True)
            except NotFound:
                logger.info("%s was removed by somebody else", deployment_id)

    def list(self) -> Mapping[str, str]:
        """Return deployment id -> state of every container of this home, also of those that never started."""
        with engine_errors():
            mine = {"label": [f"{LABEL}.home={self._home}", f"{LABEL}.deployment"]}
            containers = self._engine().containers.list(all=True, filters=mine, ignore_removed=True)
            return {container.labels[f"{LABEL}.deployment"]: container.status for container in containers}

    def describe(self, deployment_id: str) -> str:
        """Return what is known of a server that did not do as it should: state, memory kills, last log lines."""
        with engine_errors():
            return self._describe(self._engine(), deployment_id)

    def _usable_engine(self) -> Any:
        engine = self._engine()
        version = engine.version()
        offered = tuple(int(part) for part in str(version.get("ApiVersion", "0.0")).split("."))
        if offered < MIN_API:
            raise ConfigError(
                f"the Docker engine must offer API {'.'.join(map(str, MIN_API))}, engine 20.10 or newer (got "
                f"{version.get('ApiVersion')}, engine {version.get('Version')}). Upgrade it. "
                "The champion keeps serving.",
                code="ENGINE_TOO_OLD",
            )
        return engine

    def _gpu_requests(self, engine: Any) -> Sequence[Any]:
        if self._config.gpus == 0:
            return []
        from docker.types import DeviceRequest

        info, wanted = engine.info(), self._config.gpus
        if "nvidia" in info.get("Runtimes", {}):
            count = -1 if wanted == "all" else int(wanted)
            return [DeviceRequest(driver="nvidia", count=count, capabilities=[["gpu", "compute", "utility"]])]
        offered = [str(device.get("ID", "")) for device in info.get("DiscoveredDevices") or ()]
        chosen = choose_cdi_gpus(offered, wanted=wanted)
        if chosen:
            return [DeviceRequest(driver="cdi", device_ids=chosen)]
        if self._config.require_gpus:
            raise ConfigError(
                f"serving.docker.gpus must be GPUs that the engine offers (got {wanted} wanted, "
                f"{len(choose_cdi_gpus(offered, wanted='all')) or 'none'} offered). Install the NVIDIA Container "
                "Toolkit there (nvidia-ctk runtime configure), or set serving.docker.require_gpus: false. "
                "The champion keeps serving.",
                code="GPU_MISSING",
            )
        logger.warning("the engine offers no GPU: the service runs on CPU (serving.docker.require_gpus is false)")
        return []

    def _find(self, engine: Any, deployment_id: str) -> Any:
        from docker.errors import NotFound

        try:
            container = engine.containers.get(self._name(deployment_id))
        except NotFound:
            return None
        if container.labels.get(f"{LABEL}.home") != self._home:
            raise PermanentError(
                f"container {container.name} must be ours (got labels of {container.labels.get(f'{LABEL}.home')}). "
                "Remove it.",
                code="NAME_TAKEN",
            )
        return container

    def _pull(self, engine: Any, image: RunnableImage) -> None:
        from docker.errors import ImageNotFound

        try:
            engine.images.get(image.reference)
        except ImageNotFound:
            self._fetch(engine, image)

    def _fetch(self, engine: Any, image: RunnableImage) -> None:
        """Pull by digest; the SDK's own `images.pull` tells of a failure only that there is no image."""
        repository, _, digest = image.reference.partition("@")
        auth = dict(image.auth) if image.auth else None
        for line in engine.api.pull(repository, tag=digest, auth_config=auth, stream=True, decode=True):
            said = str(line.get("error", ""))[:300]
            if "denied" in said or "unauthorized" in said:
                raise PermanentError(
                    f"the engine must be let to pull {repository} (got {said}). Look at serving.docker.connection.",
                    code="REGISTRY_REFUSED",
                )
            if said:
                raise ServiceUnavailable(
                    f"the engine must pull {image.reference} (got {said}). The champion keeps serving.",
                    code="PULL_FAILED",
                )

    def _create(
        self,
        engine: Any,
        deployment_id: str,
        *,
        image: RunnableImage,
        environment: Mapping[str, str],
        gpus: Sequence[Any],
    ) -> Any:
        """Create and start the container; a port that somebody takes meanwhile is given up for the next one."""
        from docker.errors import APIError

        tried: set[int] = set()
        while True:
            port = None if self._config.network else self._free_port(engine, avoid=tried)
            options = self._options(deployment_id, environment={**image.environment, **environment}, port=port)
            try:
                container = engine.containers.create(image.reference, device_requests=list(gpus), **options)
            except APIError as error:
                if error.status_code != 409:  # 409: another attempt was faster, and its container is as good
                    raise
                container = self._find(engine, deployment_id)
                if container is None:
                    raise
                return container
            crash_point("ship.create.after")
            try:
                container.start()
            except APIError as error:
                container.remove(force=True, v=True)
                if not _is_port_taken(error) or port is None or len(tried) == PORT_TRIES:
                    raise
                tried.add(port)
                continue
            container.reload()
            return container

    def _options(self, deployment_id: str, *, environment: Mapping[str, str], port: int | None) -> dict[str, Any]:
        config = self._config
        options: dict[str, Any] = {
            "name": self._name(deployment_id),
            "environment": dict(environment),
            "labels": {
                f"{LABEL}.home": self._home,
                f"{LABEL}.deployment": deployment_id,
                f"{LABEL}.port": str(port or INNER_PORT),
            },
            "detach": True,
            "init": True,  # as process 1 a server that is still loading would not hear SIGTERM
            "mem_limit": config.memory,
            "memswap_limit": config.memory,  # no swap: a service that swaps is as good as away
            "pids_limit": config.pids,
            "read_only": True,
            "tmpfs": {"/tmp": "size=256m,mode=1777"},  # noqa: S108  (inside of the container)
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "restart_policy": {"Name": "unless-stopped"},
            "log_config": {"type": "json-file", "config": {"max-size": "10m", "max-file": "3"}},
        }
        if config.cpus is not None:
            options["nano_cpus"] = int(config.cpus * 1e9)
        if config.network:
            options["network"] = config.network
        else:
            options["ports"] = {f"{INNER_PORT}/tcp": (local_ports.LOOPBACK, port)}
        return options

    def _free_port(self, engine: Any, *, avoid: set[int]) -> int:
        """Return a port that is not reserved, that no container remembers, running or not, and nobody listens on."""
        every = engine.containers.list(all=True, filters={"label": f"{LABEL}.port"}, ignore_removed=True)
        taken = {int(container.labels[f"{LABEL}.port"]) for container in every} | avoid | self._reserved_ports
        return local_ports.next_free_port(FIRST_PORT, avoid=taken, is_free=local_ports.port_is_free)

    def _start_again(self, container: Any) -> None:
        """Start a container that was created or has ended; its port may be taken now, so that it must be made anew."""
        from docker.errors import APIError

        try:
            container.start()
        except APIError as error:
            container.remove(force=True, v=True)
            raise ServiceUnavailable(
                f"container {container.name} must start again (got {error.explanation}). It was removed; try again."
            ) from error
        container.reload()

    def _address(self, container: Any) -> str:
        if self._config.network:
            return f"http://{container.name}:{INNER_PORT}"
        return local_ports.address(int(container.labels[f"{LABEL}.port"]))

    def _describe(self, engine: Any, deployment_id: str) -> str:
        container = self._find(engine, deployment_id)
        if container is None:
            return "There is no such container."
        tail = container.logs(tail=TAIL_LINES).decode(errors="replace").strip()
        kills = self._memory_kills(engine, container)
        memory = (
            f" {kills} of its processes were killed for want of memory (limit {self._config.memory})." if kills else ""
        )
        state = container.attrs["State"]
        return (
            f"Its container is {container.status} (exit code {state.get('ExitCode')}, "
            f"{container.attrs.get('RestartCount', 0)} restarts).{memory} Its last log lines:\n{tail}"
        )

    def _memory_kills(self, engine: Any, container: Any) -> int:
        """Return how often the kernel killed for this container's memory limit; each time the engine starts it anew."""
        now = int(time.time())  # the engine's own events carry its clock; a span is all that is asked for
        filters = {"container": container.id, "event": "oom"}
        return sum(1 for _ in engine.events(since=now - 3600, until=now + 1, filters=filters, decode=True))

    def _name(self, deployment_id: str) -> str:
        return f"dethrone-{self._home}-{deployment_id}"


def choose_cdi_gpus(offered: Sequence[str], *, wanted: int | Literal["all"]) -> list[str]:
    """Return as many of the engine's NVIDIA devices (`nvidia.com/gpu=<number>`) as are wanted; none when too few."""
    names = [device.removeprefix(CDI_GPU) for device in offered if device.startswith(CDI_GPU)]
    numbers = sorted(int(name) for name in names if name.isdigit())
    count = len(numbers) if wanted == "all" else wanted
    return [f"{CDI_GPU}{number}" for number in numbers[:count]] if len(numbers) >= count else []


@contextmanager
def engine_errors() -> Iterator[None]:
    """Translate what the SDK raises."""
    import requests
    from docker.errors import APIError, DockerException

    try:
        yield
    except APIError as error:
        said = str(error.explanation or error)[:400]
        if error.status_code == 409:  # another attempt is at the same container: the next look finds what it did
            raise ServiceUnavailable(
                f"the Docker engine must be done with the container (got {said}). Try again.", code="ENGINE_BUSY"
            ) from error
        if (error.status_code or 500) >= 500 or "no space left" in said:
            raise ServiceUnavailable(
                f"the Docker engine must do what it is asked (got {said}). The champion keeps serving.",
                code="ENGINE_FAILED",
            ) from error
        raise PermanentError(
            f"the Docker engine must take the container (got {said}). The champion keeps serving.",
            code="ENGINE_REFUSED",
        ) from error
    except (DockerException, requests.RequestException) as error:
        raise ServiceUnavailable(
            f"the Docker engine must answer (got {type(error).__name__}: {str(error)[:200]}). Start it, or set "
            "DOCKER_HOST to where it listens. The champion keeps serving.",
            code="ENGINE_AWAY",
        ) from error


def _gave_up(container: Any) -> str | None:
    if container is None:
        return "no such container"
    if container.status in {"exited", "dead"}:
        return f"{container.status} with exit code {container.attrs['State'].get('ExitCode')}"
    restarts = int(container.attrs.get("RestartCount", 0))
    return f"{restarts} restarts" if restarts >= MAX_RESTARTS else None


def _is_port_taken(error: Any) -> bool:
    said = str(error.explanation or "")
    return "port is already allocated" in said or "address already in use" in said
