"""Programs of the stack: one `Program` per process, from ports, secrets and paths. Pure."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from pipeline_tasks.adapters.local_ports import LOOPBACK, address
from pipeline_tasks.core.object_keys import ITEMS
from pipeline_tasks.core.proxies import without_own_services
from pipeline_tasks.stack.addresses import ADMIN_GRPC_OFFSET
from pipeline_tasks.stack.layout import StackLayout
from pipeline_tasks.stack.store_identity import identity_settings
from pipeline_tasks.stack.supervisor_conf import MARKER, Program

LABEL_STUDIO_USER = "admin@dethrone.local"
# An answer of an annotator costs 24 to 29 ms with two processes, 42 to 46 ms with one (2 cores).
LABEL_STUDIO_WORKERS = 2
_LABEL_STUDIO_SERVER = Path(__file__).parent / "label_studio_server"
AIRFLOW_PARTS = ("api-server", "scheduler", "dag-processor", "triggerer")
# Settings of another installation in the caller's shell would win over the files written here.
_FOREIGN_PREFIXES = (
    "AIRFLOW",
    "LABEL_STUDIO_",
    "HEARTEX_",
    "DJANGO_",
    "SUPERVISOR_",
    "WEED_",
    "DETHRONE_STACK",
    "GUNICORN_",
)
_FOREIGN_NAMES = frozenset(
    {"PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
)


def base_environment(
    environment: Mapping[str, str], *, layout: StackLayout, projects_dir: Path, bin_dir: Path
) -> dict[str, str]:
    """Return what every process of the stack inherits: the caller's variables, cleaned, and ours. No secrets."""
    kept = {
        key: value
        for key, value in without_own_services(environment).items()
        if not key.startswith(_FOREIGN_PREFIXES) and key not in _FOREIGN_NAMES
    }
    return kept | {
        MARKER: str(layout.home),
        "DETHRONE_HOME": str(layout.home),
        "DETHRONE_PROJECTS": str(projects_dir),
        "PATH": f"{bin_dir}:{kept.get('PATH', '/usr/local/bin:/usr/bin:/bin')}",
        "PYTHONUNBUFFERED": "1",
        "SPT_NOENV": "1",  # setproctitle would overwrite the environment in which `down` looks for the marker
        "AIRFLOW_HOME": str(layout.airflow_home),
        "AIRFLOW_CONFIG": str(layout.airflow_cfg),
        "BENTOML_HOME": str(layout.bentoml_home),
        "BENTOML_DO_NOT_TRACK": "True",
        "GX_ANALYTICS_ENABLED": "false",
        "WANDB_ERROR_REPORTING": "false",
    }


def stack_programs(
    layout: StackLayout, *, ports: Mapping[str, int], secrets: Mapping[str, str], bin_dir: Path
) -> tuple[Program, ...]:
    """Return every process of the stack but the inference servers, which come and go with releases."""
    return (
        s3_program(layout, ports=ports, secrets=secrets, weed=bin_dir / "weed"),
        label_studio_program(layout, ports=ports, secrets=secrets),
        *(
            airflow_program(layout, part=part, port=ports["airflow"], airflow=bin_dir / "airflow")
            for part in AIRFLOW_PARTS
        ),
        gateway_program(layout, port=ports["gateway"], python=bin_dir / "python"),
        watchdog_program(layout, python=bin_dir / "python"),
    )


def s3_program(layout: StackLayout, *, ports: Mapping[str, int], secrets: Mapping[str, str], weed: Path) -> Program:
    """SeaweedFS; without identities it would be open to everyone, so `s3_identities` is always written before.

    Its S3 port takes orders that are signed; every other port, only who shows the store's own certificate (ADR 19).
    """
    flags = {
        "dir": layout.s3_dir,
        "ip": LOOPBACK,
        "ip.bind": LOOPBACK,
        "s3.port": ports["s3"],
        "s3.port.grpc": ports["s3_grpc"],
        "master.port": ports["s3_master"],
        "master.port.grpc": ports["s3_master_grpc"],
        "volume.port": ports["s3_volume"],
        "volume.port.grpc": ports["s3_volume_grpc"],
        "filer.port": ports["s3_filer"],
        "filer.port.grpc": ports["s3_filer_grpc"],
        "admin.port": ports["s3_admin"],
        "admin.port.grpc": ports["s3_admin"] + ADMIN_GRPC_OFFSET,
        "admin.ui": "false",
        "webdav": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.config": layout.s3_identities_file,
        "s3.autoCreateBucket": "false",  # a typo in a bucket's name must fail, not make a bucket
        "s3.localSocket": layout.runtime_dir / "seaweedfs-s3.sock",
        "filer.localSocket": layout.runtime_dir / "seaweedfs-filer.sock",
        "master.telemetry": "false",
        "bucket": "dethrone",
    }
    return Program(
        name="s3",
        command=(str(weed), "-logtostderr=true", "mini", *(f"-{key}={value}" for key, value in flags.items())),
        environment={
            # The identities stand in a file: those of the environment are logged, and the caller's would be let in.
            "AWS_ACCESS_KEY_ID": "",
            "AWS_SECRET_ACCESS_KEY": "",
            **identity_settings(layout.s3_identity_file),
            # The second lock behind the certificate: without these the filer and volume ports ask for no signature.
            "WEED_JWT_SIGNING_KEY": secrets["s3_jwt_volume_write"],
            "WEED_JWT_SIGNING_READ_KEY": secrets["s3_jwt_volume_read"],
            "WEED_JWT_FILER_SIGNING_KEY": secrets["s3_jwt_filer_write"],
            "WEED_JWT_FILER_SIGNING_READ_KEY": secrets["s3_jwt_filer_read"],
            # Measured: 0.9 GB of resident memory after 100 MB of uploads without it; with 256 MiB, which is about what
            # it holds, the collector never rests (a tenth of a core at idle).
            "GOMEMLIMIT": "512MiB",
        },
        directory=layout.s3_dir,
        log_file=layout.log_file("s3"),
        stop_wait_seconds=40,  # a graceful stop took up to 25 s
        priority=10,
    )


def s3_identities(secrets: Mapping[str, str]) -> str:
    """Return the file that lets in the pipeline, Label Studio to read items, and nobody else."""
    # To list is what Label Studio asks of a storage when it is connected.
    rights = {
        "dethrone": ("s3", ["Admin", "Read", "List", "Tagging", "Write"]),
        "label-studio": ("label_studio_s3", [f"{action}:dethrone/{ITEMS}*" for action in ("Read", "List")]),
    }
    identities = [
        {
            "name": name,
            "credentials": [{"accessKey": secrets[f"{key}_access_key"], "secretKey": secrets[f"{key}_secret_key"]}],
            "actions": actions,
        }
        for name, (key, actions) in rights.items()
    ]
    return json.dumps({"identities": identities})


def label_studio_program(layout: StackLayout, *, ports: Mapping[str, int], secrets: Mapping[str, str]) -> Program:
    """Label Studio in its own environment: no sign-up, no local files, no calls home, no inner addresses but ours."""
    port = ports["label_studio"]
    return Program(
        name="label-studio",
        command=(
            *(str(layout.label_studio_bin / "python"), "-m", "gunicorn", "dethrone_label_studio:application"),
            *("--pythonpath", str(_LABEL_STUDIO_SERVER), "--preload", "--bind", f"{LOOPBACK}:{port}"),
            *("--workers", str(LABEL_STUDIO_WORKERS), "--worker-class", "gthread", "--threads", "4"),
            *("--timeout", "120", "--graceful-timeout", "8", "--keep-alive", "30", "--log-level", "warning"),
        ),
        environment={
            "LABEL_STUDIO_BASE_DATA_DIR": str(layout.label_studio_dir),
            "LABEL_STUDIO_HOST": address(port),
            "LABEL_STUDIO_USERNAME": LABEL_STUDIO_USER,
            "LABEL_STUDIO_PASSWORD": secrets["label_studio_password"],
            "LABEL_STUDIO_USER_TOKEN": secrets["label_studio_token"],
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "SECRET_KEY": secrets["label_studio_secret_key"],  # persistent: a restart keeps sessions
            "DISABLE_SIGNUP_WITHOUT_LINK": "true",
            "LOCAL_FILES_SERVING_ENABLED": "false",
            "SSRF_PROTECTION_ENABLED": "true",
            "USE_DEFAULT_BANNED_SUBNETS": "true",
            # Of what is refused by that, these alone: it reads tasks' files and reports annotations.
            "DETHRONE_LABEL_STUDIO_REACHES": f"{address(ports['s3'])} {address(ports['airflow'])}",
            "XDG_CONFIG_HOME": str(layout.label_studio_dir / "config"),
            "COLLECT_ANALYTICS": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
            "LATEST_VERSION_CHECK": "false",
            "LOG_LEVEL": "WARNING",
            "PATH": f"{layout.label_studio_bin}:/usr/local/bin:/usr/bin:/bin",
        },
        directory=layout.label_studio_dir,
        log_file=layout.log_file("label-studio"),
        priority=20,
    )


def airflow_program(layout: StackLayout, *, part: str, port: int, airflow: Path) -> Program:
    """One of Airflow's four processes: `airflow standalone` would leave its children behind on a signal."""
    # The log servers of scheduler and triggerer bind to all interfaces whatever the settings say; on one machine the
    # api-server reads the same files itself, so they are not started.
    no_log_server = ("--skip-serve-logs",) if part in {"scheduler", "triggerer"} else ()
    return Program(
        name=f"airflow-{part}",
        command=(str(airflow), part, *no_log_server),
        # In airflow.cfg too; here so that every part is restarted, and not only the api-server, when the port changes:
        # a scheduler with the old one sends its tasks to nobody.
        environment={"AIRFLOW__API__BASE_URL": address(port)},
        directory=layout.airflow_home,
        log_file=layout.log_file(f"airflow-{part}"),
        stop_wait_seconds=20,
        priority=30,
    )


def serve_command(
    tag: str, *, layout: StackLayout, port: int, host: str = LOOPBACK, python: Path | None = None
) -> tuple[str, ...]:
    """Return the command that serves a bento's tag on one port and on no other."""
    entry = layout.root / "bento_services" / "serve.py"
    return (str(python or sys.executable), str(entry), tag, "--host", host, "--port", str(port))


def gateway_program(layout: StackLayout, *, port: int, python: Path) -> Program:
    """The gateway needs nothing but its own disk, so it comes back first, with the supervisor itself."""
    return Program(
        name="gateway",
        command=(str(python), "-m", "bento_services.gateway.server", "--host", LOOPBACK, "--port", str(port)),
        environment={"OMP_NUM_THREADS": "1"},
        directory=layout.root,
        log_file=layout.log_file("gateway"),
        autostart=True,
        stop_wait_seconds=40,
        priority=40,
    )


def watchdog_program(layout: StackLayout, *, python: Path) -> Program:
    """The loop that restarts an Airflow scheduler that is alive but stuck."""
    return Program(
        name="watchdog",
        command=(str(python), "-m", "pipeline_tasks.stack.watchdog", "--home", str(layout.home)),
        environment={},
        directory=layout.home,
        log_file=layout.log_file("watchdog"),
        priority=50,
    )
