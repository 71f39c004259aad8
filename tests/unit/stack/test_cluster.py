"""The production stack: its secrets, what it publishes, its settings, and what its dashboards and alarms look at."""

import ast
import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from bento_services.gateway.api.app import DOCUMENT
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.stack import airflow_setup, cluster
from pipeline_tasks.stack.layout import source_root

ROOT = source_root()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
PUBLISHED = {"gateway", "airflow-api-server", "label-studio"}
DOCKERFILES = sorted((ROOT / "deploy" / "docker").glob("*/Dockerfile"))
OURS = {"dethrone-airflow:0.2.0", "dethrone-gateway:0.2.0", "dethrone-label-studio:0.2.0"}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "secrets"


def test_every_secret_of_the_stack_is_generated_and_stays(folder):
    names = cluster.ensure_cluster_secrets(folder)
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(COMPOSE["secrets"]) <= set(names) == set(before)
    assert cluster.ensure_cluster_secrets(folder) == names
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444}


def test_a_folder_that_holds_other_things_keeps_them_as_they_are(tmp_path):
    (tmp_path / "docker").mkdir(mode=0o755)
    (tmp_path / "start").write_text("mine")
    (tmp_path / "start").chmod(0o755)
    names = cluster.ensure_cluster_secrets(tmp_path)
    assert {"docker", "start"} & set(names) == set()
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("docker", "start")] == [0o755, 0o755]


def test_two_installations_share_no_secret(tmp_path):
    for name in ("a", "b"):
        cluster.ensure_cluster_secrets(tmp_path / name)
    same = [p.name for p in (tmp_path / "a").iterdir() if p.read_text() == (tmp_path / "b" / p.name).read_text()]
    assert same == []


def test_addresses_carry_the_password_that_the_database_is_made_with(folder):
    cluster.ensure_cluster_secrets(folder)
    read = {path.name: path.read_text().strip() for path in folder.iterdir()}
    for database, (name, driver) in cluster.DATABASES.items():
        password = read[f"postgres_{database}_password"]
        assert read[name] == f"{driver}://{database}:{password}@postgres:5432/{database}"
    assert read["celery_result_url"] == f"db+{read['airflow_database_url']}"
    assert f"requirepass {read['redis_password']}" in read["redis.conf"]
    assert json.loads(read["s3.json"])["identities"][0]["credentials"][0]["secretKey"] == read["s3_secret_key"]


def test_the_stores_identities_of_an_older_folder_are_completed_and_kept(folder):
    """A folder of before Label Studio had a key of its own, with an identity that a person added."""
    cluster.ensure_cluster_secrets(folder)
    path = folder / "s3.json"
    whole = json.loads(path.read_text())["identities"]
    theirs = {"name": "backup", "credentials": [], "actions": ["Read"]}
    path.chmod(0o600)
    path.write_text(json.dumps({"identities": [whole[0], theirs]}))
    cluster.ensure_cluster_secrets(folder)
    assert json.loads(path.read_text()) == {"identities": [whole[0], theirs, whole[1]]}
    assert path.stat().st_mode & 0o777 == 0o444
    path.chmod(0o600)
    path.write_text("[]")
    with pytest.raises(ConfigError, match=r's3\.json must hold JSON with "identities" \(got TypeError\)'):
        cluster.ensure_cluster_secrets(folder)


@pytest.mark.parametrize("executor", cluster.EXECUTORS)
def test_the_one_template_serves_many_machines(tmp_path, executor):
    home = tmp_path / "home"
    cluster.ensure_cluster_secrets(home / "secrets")
    path = cluster.write_settings(home, root=ROOT, executor=executor, base_url="http://airflow:8080")
    parser = configparser.ConfigParser()
    parser.read(path)
    assert parser["core"]["executor"] == executor
    assert parser["api"]["host"] == "0.0.0.0"
    assert parser["api"]["base_url"] == "http://airflow:8080"
    commands = {"airflow_database_url": parser["database"]["sql_alchemy_conn_cmd"]}
    if executor == "CeleryExecutor":
        commands["redis_url"] = parser["celery"]["broker_url_cmd"]
        commands["celery_result_url"] = parser["celery"]["result_backend_cmd"]
    for name, command in commands.items():  # as Airflow runs them, which takes every byte of the output
        said = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True).stdout
        assert said == (home / "secrets" / name).read_text().removesuffix("\n")
    assert "sql_alchemy_conn" not in parser["database"]
    assert ("celery" in parser) == (executor == "CeleryExecutor")
    assert parser["scheduler"]["task_instance_heartbeat_timeout"] == "60"  # what was measured holds here too
    secrets = {path.read_text().strip() for path in (home / "secrets").iterdir()}
    assert [secret for secret in secrets if secret in path.read_text()] == []


def test_nothing_starts_without_its_secrets(tmp_path):
    with pytest.raises(ConfigError, match="must hold a secret"):
        cluster.write_settings(tmp_path, root=ROOT, executor="CeleryExecutor", base_url="http://a")
    with pytest.raises(ConfigError, match=r"DETHRONE_EXECUTOR must be one of .* \(got nothing\)"):
        cluster.write_settings(tmp_path, root=ROOT, executor="", base_url="http://a")


STORE = {"catalog_url", "s3_access_key", "s3_secret_key"}
LABEL_STUDIOS_KEY = {"label_studio_s3_access_key", "label_studio_s3_secret_key"}
DATABASE_PASSWORDS = {f"postgres_{name}_password" for name in cluster.DATABASES}
# What a service reads beyond the secret files of its Airflow program (cluster.PROGRAM_SECRETS): what our code uses.
READ = {
    "postgres": {"postgres_password", *DATABASE_PASSWORDS},
    "redis": {"redis.conf", "redis_password"},
    "s3": {
        "s3.json",
        "s3_identity",
        *(f"s3_jwt_{part}_{right}" for part in ("volume", "filer") for right in ("write", "read")),
    },
    # It registers the two keys, signed, and proves the store.
    "migrate": {*STORE, "gateway_admin_key", "gateway_api_key", "signing_key"},
    "airflow-api-server": {*STORE, "webhook_secret"},  # pages, reports, and Label Studio's webhook
    "airflow-scheduler": set(),
    "airflow-dag-processor": set(),
    "airflow-triggerer": set(),
    "airflow-worker": {
        *STORE,
        *LABEL_STUDIOS_KEY,
        "label_studio_token",
        "webhook_secret",
        "split_key",
        "gateway_admin_key",
    }
    | {"inference_key", "signing_key"},
    "airflow-worker-gpu": {*STORE, "signing_key"},  # train, judge, batch_predict
    "label-studio": {f"label_studio_{name}" for name in ("password", "token", "secret_key")}
    | {"postgres_labelstudio_password"},
    "gateway": {*STORE, "inference_key"},
    "registry": set(),
    "prometheus": {"gateway_admin_key", "inference_key"},
    "grafana": {"grafana_admin_password"},
    "tools": {
        *STORE,
        *LABEL_STUDIOS_KEY,
        "label_studio_database_url",
        "label_studio_token",
        "webhook_secret",
        "split_key",
    }
    | {"gateway_admin_key", "gateway_api_key", "inference_key", "signing_key"},
}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_has_the_secrets_that_it_reads_and_no_other(name):
    command = SERVICES[name].get("command") or []
    program = "db" if name == "migrate" else command[1] if command[:1] == ["airflow"] else None
    wanted = READ[name] | set(cluster.PROGRAM_SECRETS[program] if program else ())
    given = [entry if isinstance(entry, dict) else {"source": entry} for entry in SERVICES[name].get("secrets", ())]
    assert {entry["source"] for entry in given} == wanted
    assert len(given) == len(wanted)
    folder = "/var/lib/dethrone/secrets"
    assert {entry["target"] for entry in given if "target" in entry} <= {
        f"{folder}/{entry['source']}" for entry in given
    }


@pytest.mark.parametrize("program", cluster.PROGRAM_SECRETS)
def test_a_program_starts_with_its_own_secrets_alone(tmp_path, program):
    cluster.ensure_cluster_secrets(tmp_path / "all")
    (tmp_path / "home" / "secrets").mkdir(parents=True)
    for name in cluster.PROGRAM_SECRETS[program]:
        shutil.copy(tmp_path / "all" / name, tmp_path / "home" / "secrets")
    given = {"root": ROOT, "executor": "CeleryExecutor", "base_url": "http://a", "programs": [program]}
    path = cluster.write_settings(tmp_path / "home", **given)
    assert (path.parent / "passwords.json").exists() == (program == "api-server")
    last = tmp_path / "home" / "secrets" / cluster.PROGRAM_SECRETS[program][-1]
    last.unlink()
    with pytest.raises(ConfigError, match=f"{last.name} must hold a secret"):
        cluster.write_settings(tmp_path / "home", **given)


def test_only_three_services_are_published():
    published = {
        name
        for name, service in SERVICES.items()
        for port in service.get("ports", ())
        if not port.startswith("127.0.0.1:")
    }
    assert published == PUBLISHED


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_limited_pinned_and_watched(name):
    service = SERVICES[name]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    image = re.fullmatch(r"\$\{DETHRONE_IMAGE_[A-Z_]+:-(.+)\}", service["image"])[1]
    assert re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z]+)?$", image), "a tag that names a version"
    assert image in OURS or "build" not in service
    assert "test" in service["healthcheck"] or (
        service["healthcheck"] == {"disable": True} and name in {"migrate", "tools"}
    )
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", sorted(name for name in SERVICES if "test" in SERVICES[name]["healthcheck"]))
def test_no_health_check_imports_airflow(name):
    """On a busy machine that takes longer than the check's time, and a service that works is called unhealthy."""
    command = " ".join(SERVICES[name]["healthcheck"]["test"])
    assert not re.search(r"(^CMD |\s)airflow\s|airflow\.providers|import airflow", command)


def test_a_machine_with_two_cpus_can_start_all_of_it():
    """An engine refuses a container that may use more CPUs than there are."""
    for name, service in SERVICES.items():
        said = service["deploy"]["resources"]["limits"]["cpus"]
        number = re.fullmatch(r"(?:\$\{[A-Z_]+:-)?(\d+)\}?", said)[1]
        assert int(number) <= 2 or service.get("profiles") == ["gpu"], name


def test_no_password_stands_in_the_file():
    secret = re.compile(r"password|secret|token|fernet|jwt|_key$", re.IGNORECASE)
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if secret.search(key) and key != "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN":
                assert key.endswith("_FILE"), f"{name}: {key}={value}"
                assert str(value).startswith(("/run/secrets/", "/var/lib/dethrone/secrets/")), key
    for name, definition in COMPOSE["secrets"].items():
        assert definition["file"] == f"${{DETHRONE_SECRETS:?must be the folder that dethrone secrets wrote}}/{name}"


def test_every_mounted_secret_and_volume_is_declared():
    mounted = {
        secret["source"] if isinstance(secret, dict) else secret
        for service in SERVICES.values()
        for secret in service.get("secrets", ())
    }
    assert mounted == set(COMPOSE["secrets"])
    volumes = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert {volume for volume in volumes if not volume.startswith((".", "/", "$"))} == set(COMPOSE["volumes"])
    files = [
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", ())
        if volume[0] == "."
    ]
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_images_are_ours_locked_and_not_root(path):
    text = path.read_text()
    assert re.search(r"^ARG BASE_IMAGE=python:3\.11\.\d+-slim-(bookworm|trixie)$", text, re.MULTILINE)
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    assert re.search(r"--require-hashes (\\\n +)?-r /tmp/[a-z-]+\.lock", text)
    assert "latest" not in text
    sources = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    assert [path_text for line in sources for path_text in line.split() if not (ROOT / path_text).exists()] == []


def test_the_images_pg_dump_is_as_new_as_the_server():
    clients = {"bookworm": 15, "trixie": 17}  # the major version of Debian's package postgresql-client
    debian = re.search(r"-slim-([a-z]+)$", (ROOT / "deploy/docker/airflow/Dockerfile").read_text(), re.MULTILINE)[1]
    server = int(re.search(r":(\d+)\.", SERVICES["postgres"]["image"])[1])
    assert clients[debian] >= server


@pytest.mark.parametrize("name", ["s3", "airflow-worker", "tools"])
def test_a_new_volume_belongs_to_the_images_user(name):
    """Docker gives a new volume the owner of the folder of the image that it covers; without one, root."""
    text = (ROOT / "deploy/docker/airflow/Dockerfile").read_text().replace("\\\n", "")
    made = re.search(r"install --directory --owner dethrone --group dethrone ([^&\n]+)", text)[1].split()
    named = [volume.split(":")[:2] for volume in SERVICES[name]["volumes"]]
    assert [folder for volume, folder in named if volume in COMPOSE["volumes"] and folder not in made] == []
    assert "--create-home" not in text.replace("--no-create-home", "")  # skeleton files: the home would not be empty


def test_only_who_ships_can_reach_the_engine_and_it_reaches_what_it_started():
    with_engine = {
        name for name, service in SERVICES.items() if any("docker.sock" in str(v) for v in service.get("volumes", ()))
    }
    assert with_engine == {name for name, service in SERVICES.items() if "group_add" in service} == {"airflow-worker"}
    for name in (*with_engine, "gateway", "prometheus"):
        assert "serving" in SERVICES[name]["networks"]


def test_label_studio_and_models_have_no_neighbours_but_those_that_they_need():
    """In one network a container reaches every port of every other."""
    beside = {
        network: {name for name, service in SERVICES.items() if network in (service.get("networks") or ["default"])}
        for network in COMPOSE["networks"]
    }
    assert beside["labeling"] == {"label-studio", "postgres", "s3", "airflow-api-server", "airflow-worker", "tools"}
    assert beside["serving"] == {"gateway", "airflow-worker", "prometheus"}
    assert beside["shipping"] == {"airflow-worker", "registry"}  # it takes images without a key
    assert beside["watching"] == {"grafana", "prometheus"}
    assert {"label-studio", "registry", "prometheus", "grafana"} & beside["default"] == set()
    environment = SERVICES["label-studio"]["environment"]
    assert environment["USE_DEFAULT_BANNED_SUBNETS"] == environment["SSRF_PROTECTION_ENABLED"] == "true"
    assert "USER_ADDITIONAL_BANNED_SUBNETS" not in environment
    store, webhook = environment["DETHRONE_LABEL_STUDIO_REACHES"].split(" ")
    assert store == SERVICES["airflow-worker"]["environment"]["DETHRONE_S3_ENDPOINT"]
    assert webhook == SERVICES["airflow-worker"]["environment"]["DETHRONE_AIRFLOW_URL"]


PROXIES = {name for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") for name in (variable, variable.lower())}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_call_within_the_stack_goes_by_a_proxy(name):
    """An engine's `proxies` (config.json) are in the environment of each container that says nothing of its own."""
    environment = SERVICES[name]["environment"]
    if set(environment) >= PROXIES:
        assert {environment[variable] for variable in PROXIES} == {""}
        return
    aliases = {alias for each in SERVICES.values() if isinstance(each.get("networks"), dict)
               for network in each["networks"].values() for alias in network["aliases"]}  # fmt: skip
    called = (
        set(SERVICES)
        - {"migrate", "tools", "grafana"}
        - {service for service in SERVICES if service.startswith("airflow-")}
    )
    listed = environment["NO_PROXY"].split(",")
    assert environment["no_proxy"] == environment["NO_PROXY"]
    assert {*called, *aliases, "airflow-api-server", "localhost", "127.0.0.1", "::1"} <= set(listed)
    assert listed[0] == "${NO_PROXY:-localhost}"


def test_only_who_calls_outside_has_a_proxy():
    outside = {name for name, service in SERVICES.items() if "NO_PROXY" in service["environment"]}
    assert outside == {"migrate", "tools", "airflow-worker", "airflow-worker-gpu", "label-studio", "gateway"}


def test_label_studio_takes_the_webhooks_address():
    """Its check (Django's URLValidator) takes localhost, numbers and names with a dot alone."""
    said = SERVICES["airflow-worker"]["environment"]["DETHRONE_AIRFLOW_URL"]
    name = urlsplit(re.fullmatch(r"\$\{DETHRONE_AIRFLOW_URL:-(.+)\}", said)[1]).hostname
    assert re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", name)
    for network in ("default", "labeling"):
        assert name in SERVICES["airflow-api-server"]["networks"][network]["aliases"]


@pytest.mark.parametrize("name", [name for name in SERVICES if name.startswith("airflow-")])
def test_tasks_logs_outlive_the_container_that_wrote_them(name):
    assert "airflow-logs:/var/lib/dethrone/logs" in SERVICES[name]["volumes"]


def test_the_tools_can_restore_into_an_empty_catalog():
    assert set(SERVICES["tools"]["depends_on"]) == {"postgres", "s3"}


def test_the_workers_find_the_registry_of_the_file():
    assert SERVICES["airflow-worker"]["environment"]["DETHRONE_PLAIN_HTTP_REGISTRY"] == "registry:5000"


def test_neither_git_nor_an_image_takes_secrets_or_backups():
    for name in (".gitignore", ".dockerignore"):
        lines = {line.strip("/") for line in (ROOT / name).read_text().splitlines()}
        assert {"deploy/secrets", "backups"} <= lines


def pins_of(lock):
    return {line.removesuffix(" \\") for line in lock.read_text().splitlines() if re.match(r"[a-z0-9._-]+==", line)}


def test_the_gateways_image_holds_no_torch_and_no_airflow_but_all_that_it_imports():
    names = {
        line.split("==")[0]
        for line in (ROOT / "requirements" / "gateway.lock").read_text().splitlines()
        if "==" in line
    }
    assert names & {"torch", "apache-airflow", "great-expectations", "label-studio-sdk", "wandb"} == set()
    assert {
        "boto3",
        "granian",
        "pillow",
        "prometheus-client",
        "psycopg",
        "pyarrow",
        "sqlalchemy",
        "starlette",
        "uvloop",
    } <= names
    pipeline, gateway = (pins_of(ROOT / "requirements" / f"{name}.lock") for name in ("pipeline", "gateway"))
    assert gateway <= pipeline


def test_the_gateways_image_holds_every_module_of_ours_that_it_imports():
    """Imports inside of functions too: an image has no checkout to fall back on."""
    text = (ROOT / "deploy" / "docker" / "gateway" / "Dockerfile").read_text()
    copied = [
        path
        for line in re.findall(r"^COPY ((?:pipeline_tasks|bento_services)\S*(?: \S+)*) \S+$", text, re.MULTILINE)
        for pattern in line.split()
        for matched in ROOT.glob(pattern)
        for path in (matched.rglob("*.py") if matched.is_dir() else [matched])
    ]
    missing = {
        name
        for path in copied
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").split(".")[0] in {"pipeline_tasks", "bento_services"}
        for name in [ROOT.joinpath(*node.module.split("."))]
        if not {name.with_suffix(".py"), name / "__init__.py"} & set(copied)
    }
    assert len(copied) > 20
    assert missing == set()


def exported() -> set[str]:
    """Every metric that the services' code names."""
    texts = [path.read_text() for path in (ROOT / "bento_services").rglob("*.py")]
    names = {name for text in texts for name in re.findall(r"dethrone_[a-z_]*[a-z]", text)}
    names |= {f"dethrone_predictions_{outcome}_total" for outcome in ("logged", "dropped", "failed")}
    return names | {f"{name}{end}" for name in names for end in ("_bucket", "_sum", "_count")}


DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))


@pytest.mark.parametrize(
    "path", [*DASHBOARDS, ROOT / "deploy" / "prometheus" / "rules.yml"], ids=lambda path: path.name
)
def test_dashboards_and_alarms_look_at_what_is_exported(path):
    text = path.read_text()
    if path.suffix == ".json":
        text = "\n".join(target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"])
    else:
        text = "\n".join(rule["expr"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"])
    named = set(re.findall(r"dethrone_[a-z_]+", text))
    assert len(named) >= 8
    assert named - exported() == set()


def test_the_alarm_on_failures_names_codes_that_the_gateway_has():
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())["groups"][0]["rules"]
    (expression,) = [rule["expr"] for rule in rules if rule["alert"] == "GatewayFails"]
    codes = re.search(r'code=~"([A-Z_|]+)"', expression)[1].split("|")
    sources = "\n".join(path.read_text() for path in (ROOT / "bento_services" / "gateway").rglob("*.py"))
    assert [code for code in codes if f'"{code}"' not in sources] == []


def test_prometheus_finds_the_inference_services_by_the_gateway():
    jobs = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    (discovery,) = next(job for job in jobs if job["job_name"] == "inference")["http_sd_configs"]
    address = urlsplit(discovery["url"])
    assert address.netloc == "gateway:8000"
    assert address.path in json.loads(DOCUMENT)["paths"]
    assert (
        discovery["authorization"]["type"] == "Bearer"
    )  # its default in scrapes; here Prometheus 2.42 leaves the word out
    key = discovery["authorization"]["credentials_file"]
    assert key.removeprefix("/run/secrets/") in SERVICES["prometheus"]["secrets"]


@pytest.mark.docker
@pytest.mark.parametrize("set_up", [True, False])
def test_compose_finds_the_file_clean_and_refuses_it_without_secrets(folder, set_up):
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed")
    cluster.ensure_cluster_secrets(folder)
    given = {"DETHRONE_SECRETS": str(folder), "DOCKER_GID": "999"} if set_up else {"DOCKER_GID": "999"}
    done = subprocess.run(
        [program, "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet"],
        env={"PATH": "/usr/bin:/bin", "HOME": "/tmp", **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode == 0) == set_up, done.stderr
    assert set_up or "must be the folder that dethrone secrets wrote" in done.stderr


@pytest.mark.docker
def test_promtool_finds_the_rules_and_the_settings_valid():
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    prometheus = ROOT / "deploy" / "prometheus"
    for arguments in (("rules", "rules.yml"), ("config", "--syntax-only", "prometheus.yml")):
        done = subprocess.run(
            [program, "check", *arguments], cwd=prometheus, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr


def test_the_migration_makes_the_pools_without_which_no_training_is_scheduled():
    command = SERVICES["migrate"]["command"][-1]
    assert [name for name in airflow_setup.POOLS if f"airflow pools set {name}" not in command] == []
    assert command.index("dethrone upgrade") < command.index("airflow db migrate") < command.index("airflow pools")


def test_the_database_script_makes_the_databases_of_the_addresses():
    script = Path(ROOT / "deploy" / "postgres" / "databases.sh").read_text()
    names = re.search(r"for name in ([a-z ]+); do", script)[1].split()
    assert set(names) == set(cluster.DATABASES)
