"""Several machines on one: homes and networks that share nothing but the services on a bridge."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from pipeline_tasks.adapters.airflow_rest import AirflowRest
from pipeline_tasks.catalog import migrate
from pipeline_tasks.stack import cluster, lifecycle, programs, supervisord
from pipeline_tasks.stack.bring_up import issue_stack_keys
from pipeline_tasks.stack.layout import StackLayout, source_root
from tests import services
from tests.e2e.network import LOOPBACK, Namespace, Network

ROOT = source_root()
BIN = Path(sys.executable).parent
OURS = ("AIRFLOW", "DETHRONE", "WANDB", "PYTEST")
DEAD_AFTER_SECONDS = 15  # 60 in production: a test should not wait so long for the scheduler to miss a worker


class RedisServer:
    """A throw-away Redis with a password."""

    def __init__(self, folder: Path, *, host: str) -> None:
        self.host, self.port = host, services.free_ports(1, host=host)[0]
        self._folder = folder
        self._process = None

    def start(self, conf: Path) -> None:
        command = [
            "redis-server",
            str(conf),
            "--port",
            str(self.port),
            "--bind",
            self.host,
            "--dir",
            str(self._folder),
        ]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Machine:
    """One home folder with the secrets and settings of the installation, and the programs that were started on it.

    In a namespace where it has one, else where the tests run.
    """

    def __init__(
        self,
        home: Path,
        *,
        secrets: Path,
        environment: dict[str, str],
        airflow_port: int,
        space: Namespace | None = None,
    ) -> None:
        self.home, self.space = home, space
        self._inside = space.inside if space else ()
        shutil.copytree(secrets, home / "secrets")
        for path in (home / "secrets").iterdir():
            path.chmod(0o600)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
        airflow = {"AIRFLOW_HOME": str(home / "airflow"), "AIRFLOW_CONFIG": str(home / "airflow" / "airflow.cfg")}
        # Without SPT_NOENV the workers' titles overwrite the environment that `living` looks at.
        bentos = {"BENTOML_HOME": str(home / "bentoml"), "PATH": f"{BIN}:{kept['PATH']}", "SPT_NOENV": "1"}
        host = {"DETHRONE_SERVING_HOST": space.address} if space else {}
        self.environment = kept | environment | airflow | bentos | host | {"DETHRONE_HOME": str(home)}
        url = environment["DETHRONE_AIRFLOW_URL"]
        cluster.write_settings(home, root=ROOT, executor="CeleryExecutor", base_url=url, port=airflow_port)
        self._processes: list[subprocess.Popen] = []

    def start(self, *command: str, **environment: str) -> subprocess.Popen:
        with (self.home / "programs.log").open("ab") as log:
            process = subprocess.Popen(
                [*self._inside, str(BIN / command[0]), *command[1:]],
                env=self.environment | environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def run(self, *command: str, environment: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            [*self._inside, str(BIN / command[0]), *command[1:]],
            env=environment or self.environment, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def start_supervisor(self) -> None:
        """Let releases run here: the process target's supervisor."""
        layout = StackLayout(home=self.home, root=ROOT)
        lifecycle.make_folders(layout)
        lifecycle.write_programs(layout, ())
        base = programs.base_environment(self.environment, layout=layout, projects_dir=ROOT, bin_dir=BIN)
        self.run("python", "-m", "supervisor.supervisord", "-c", str(layout.supervisor_conf), environment=base)
        services.wait_until(supervisord.Supervisor(layout.socket).is_up, timeout_seconds=20, what="the supervisor")

    def living(self) -> list[psutil.Process]:
        """Return every process of this home."""
        processes = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("DETHRONE_HOME") == str(self.home):
                    processes.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return processes

    def die(self) -> int:
        """End everything here as a power cut does; return how many processes that were."""
        if self.space:
            self.space.unplug()
        processes = self.living()
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        for process in self._processes:
            process.kill()
            process.wait()
        return len(processes)


class Installation:
    """The shared services, a control machine with Airflow and the gateway, and a worker in each namespace.

    Everything that is shared is reached by the network's own address.
    """

    def __init__(self, folder: Path, *, network: Network, postgres, seaweed, label_studio, projects: Path) -> None:
        self.folder, self.host = folder, network.address
        self.redis = RedisServer(folder, host=self.host)
        airflow_port, self.gateway_port = services.free_ports(2, host=self.host)
        secrets = folder / "secrets"
        cluster.ensure_cluster_secrets(secrets)
        self._point(secrets, postgres, label_studio)
        self.environment = {
            "DETHRONE_CATALOG_URL_FILE": str(secrets / "catalog_url"),
            "DETHRONE_S3_ENDPOINT": self._shared(seaweed.endpoint),
            "DETHRONE_S3_BUCKET": seaweed.new_bucket_name(),
            "DETHRONE_LABEL_STUDIO_URL": self._shared(label_studio.url),
            "DETHRONE_AIRFLOW_URL": f"http://{self.host}:{airflow_port}",
            "DETHRONE_GATEWAY_URL": f"http://{self.host}:{self.gateway_port}",
            "DETHRONE_PROJECTS": str(projects),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(DEAD_AFTER_SECONDS),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
            "AIRFLOW__API__HOST": self.host,
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": "2",
            "OMP_NUM_THREADS": "1",
        }
        shared = {"secrets": secrets, "environment": self.environment, "airflow_port": airflow_port}
        self.control = Machine(folder / "control", **shared)
        self.workers = [
            Machine(folder / f"worker{number}", space=space, **shared)
            for number, space in enumerate(network.machines, start=1)
        ]
        self.airflow = AirflowRest(
            self.environment["DETHRONE_AIRFLOW_URL"],
            username="admin",
            password=(secrets / "airflow_admin_password").read_text().strip(),
        )

    def _shared(self, url: str) -> str:
        return url.replace(LOOPBACK, self.host)

    def _point(self, secrets: Path, postgres, label_studio) -> None:
        secrets.chmod(0o700)
        redis_password = (secrets / "redis_password").read_text().strip()
        airflow = self._shared(postgres.new_database())
        values = {
            "catalog_url": self._shared(postgres.new_database()),
            "airflow_database_url": airflow,
            "celery_result_url": f"db+{airflow}",
            "redis_url": f"redis://:{redis_password}@{self.host}:{self.redis.port}/0",
            "s3_access_key": services.S3_ACCESS_KEY,
            "s3_secret_key": services.S3_SECRET_KEY,
            "label_studio_token": label_studio.token,
        }
        for name, value in values.items():
            (secrets / name).chmod(0o600)
            (secrets / name).write_text(value)

    def start(self) -> None:
        """Start everything; the control plane answers when this returns, the workers follow."""
        self.redis.start(self.folder / "secrets" / "redis.conf")
        url = (self.folder / "secrets" / "catalog_url").read_text()
        migrate.upgrade(url)
        issue_stack_keys(self.control.home, url=url)
        self.control.run("airflow", "db", "migrate")
        self.control.run("airflow", "pools", "set", "gpu", "1", "one accelerator")
        for part in ("api-server", "dag-processor", "scheduler"):
            no_log_server = ("--skip-serve-logs",) if part == "scheduler" else ()
            self.control.start("airflow", part, *no_log_server)
        gateway = ("python", "-m", "bento_services.gateway.server")
        self.control.start(*gateway, "--host", self.host, "--port", str(self.gateway_port))
        for machine in self.workers:
            machine.start_supervisor()
            worker = ("airflow", "celery", "worker", "--queues", "default,gpu")
            machine.start(*worker, "--celery-hostname", machine.home.name)
        health = f"{self.environment['DETHRONE_AIRFLOW_URL']}/api/v2/monitor/health"
        services.wait_until(lambda: services.answers(health), timeout_seconds=120, what="Airflow")

    def stop(self) -> None:
        for machine in (*self.workers, self.control):
            machine.die()
        self.redis.stop()

    def logs(self) -> str:
        """Return the ends of the machines' logs, for a failing test."""
        files = [machine.home / "programs.log" for machine in (self.control, *self.workers)]
        return "\n".join(f"== {file}\n{file.read_text()[-3000:]}" for file in files if file.exists())
