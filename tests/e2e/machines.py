"""Several machines on one: homes that share nothing but PostgreSQL, Redis, S3 and Label Studio."""

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
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.wiring.stack_up import issue_stack_keys
from tests import services

ROOT = source_root()
BIN = Path(sys.executable).parent
OURS = ("AIRFLOW", "DETHRONE", "WANDB", "PYTEST")
DEAD_AFTER_SECONDS = 15  # 60 in production: a test should not wait so long for the scheduler to miss a worker


class RedisServer:
    """A throw-away Redis with a password."""

    def __init__(self, folder: Path) -> None:
        self.port = services.free_ports(1)[0]
        self._folder = folder
        self._process = None

    def start(self, conf: Path) -> None:
        command = [
            "redis-server",
            str(conf),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self._folder),
        ]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Machine:
    """One home folder with the secrets and settings of the installation, and the programs that were started on it."""

    def __init__(self, home: Path, *, secrets: Path, environment: dict[str, str], airflow_port: int) -> None:
        self.home = home
        shutil.copytree(secrets, home / "secrets")
        for path in (home / "secrets").iterdir():
            path.chmod(0o600)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
        airflow = {"AIRFLOW_HOME": str(home / "airflow"), "AIRFLOW_CONFIG": str(home / "airflow" / "airflow.cfg")}
        # Without SPT_NOENV the workers' titles overwrite the environment that `living` looks at.
        bentos = {"BENTOML_HOME": str(home / "bentoml"), "PATH": f"{BIN}:{kept['PATH']}", "SPT_NOENV": "1"}
        self.environment = kept | environment | airflow | bentos | {"DETHRONE_HOME": str(home)}
        url = environment["DETHRONE_AIRFLOW_URL"]
        cluster.write_settings(home, root=ROOT, executor="CeleryExecutor", base_url=url, port=airflow_port)
        self._processes: list[subprocess.Popen] = []

    def start(self, *command: str, **environment: str) -> subprocess.Popen:
        with (self.home / "programs.log").open("ab") as log:
            process = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                env=self.environment | environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def start_supervisor(self) -> None:
        """Let releases run here: the process target's supervisor."""
        layout = StackLayout(home=self.home, root=ROOT)
        lifecycle.make_folders(layout)
        lifecycle.write_programs(layout, ())
        base = programs.base_environment(self.environment, layout=layout, projects_dir=ROOT, bin_dir=BIN)
        supervisord.start_daemon(layout, python=BIN / "python", environment=base)

    def living(self) -> list[psutil.Process]:
        """Return every process of this home."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("DETHRONE_HOME") == str(self.home):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def die(self) -> int:
        """End everything here as a power cut does; return how many processes that were."""
        found = self.living()
        for process in found:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        for process in self._processes:
            process.kill()
            process.wait()
        return len(found)


class Installation:
    """The shared services, a control machine with Airflow and the gateway, and two workers."""

    def __init__(self, folder: Path, *, postgres, seaweed, label_studio, projects: Path) -> None:
        self.folder = folder
        self.redis = RedisServer(folder)
        airflow_port, self.gateway_port = services.free_ports(2)
        secrets = folder / "secrets"
        cluster.ensure_cluster_secrets(secrets)
        self._point(secrets, postgres, label_studio)
        self.environment = {
            "DETHRONE_CATALOG_URL_FILE": str(secrets / "catalog_url"),
            "DETHRONE_S3_ENDPOINT": seaweed.endpoint,
            "DETHRONE_S3_BUCKET": seaweed.new_bucket_name(),
            "DETHRONE_LABEL_STUDIO_URL": label_studio.url,
            "DETHRONE_AIRFLOW_URL": f"http://127.0.0.1:{airflow_port}",
            "DETHRONE_GATEWAY_URL": f"http://127.0.0.1:{self.gateway_port}",
            "DETHRONE_PROJECTS": str(projects),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(DEAD_AFTER_SECONDS),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": "2",
            "OMP_NUM_THREADS": "1",
        }
        shared = {"secrets": secrets, "environment": self.environment, "airflow_port": airflow_port}
        self.control = Machine(folder / "control", **shared)
        self.workers = [Machine(folder / f"worker{number}", **shared) for number in (1, 2)]
        self.airflow = AirflowRest(
            self.environment["DETHRONE_AIRFLOW_URL"],
            username="admin",
            password=(secrets / "airflow_admin_password").read_text().strip(),
        )

    def _point(self, secrets: Path, postgres, label_studio) -> None:
        secrets.chmod(0o700)
        redis_password = (secrets / "redis_password").read_text().strip()
        airflow = postgres.new_database()
        values = {
            "catalog_url": postgres.new_database(),
            "airflow_database_url": airflow,
            "celery_result_url": f"db+{airflow}",
            "redis_url": f"redis://:{redis_password}@127.0.0.1:{self.redis.port}/0",
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
        service = "bento_services.gateway.service:Gateway"
        self.control.start("bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(self.gateway_port))
        for machine in self.workers:
            machine.start_supervisor()
            log_port = str(services.free_ports(1)[0])
            machine.start(
                *("airflow", "celery", "worker", "--queues", "default,gpu", "--celery-hostname", machine.home.name),
                AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT=log_port,
            )
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
