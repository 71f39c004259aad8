"""Label Studio's webhook: a secret, a limit, and one wake-up for many annotations."""

import pytest


@pytest.fixture
def plugin(monkeypatch, tmp_path):
    from pipeline_tasks.orchestration import airflow_plugin

    for name in ("one", "two"):
        (tmp_path / "projects" / name).mkdir(parents=True)
        (tmp_path / "projects" / name / "project.yaml").write_text("name: x\n")
    for name, value in {
        "DETHRONE_PROJECTS": str(tmp_path / "projects"),
        "DETHRONE_HOME": str(tmp_path),
        "DETHRONE_WEBHOOK_SECRET": "the-secret",
        "DETHRONE_SPLIT_KEY": "split",
        "DETHRONE_LABEL_STUDIO_TOKEN": "token",
        "DETHRONE_S3_ACCESS_KEY": "key",
        "DETHRONE_S3_SECRET_KEY": "secret",
        "DETHRONE_S3_ENDPOINT": "http://127.0.0.1:1",
        "DETHRONE_LABEL_STUDIO_URL": "http://127.0.0.1:2",
        "DETHRONE_AIRFLOW_URL": "http://127.0.0.1:3",
        "DETHRONE_GATEWAY_URL": "http://127.0.0.1:4",
    }.items():
        monkeypatch.setenv(name, value)
    woken = []
    monkeypatch.setattr(airflow_plugin, "_wake", lambda asset: woken.append(asset) or True)
    monkeypatch.setattr(airflow_plugin, "QUIET_SECONDS", 0.05)
    return airflow_plugin, woken


def post(plugin, project="one", *, secret="the-secret", content=b'{"action": "ANNOTATION_CREATED"}'):
    import asyncio

    import httpx

    async def send():
        transport = httpx.ASGITransport(app=plugin.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
            headers = {"X-Dethrone-Secret": secret}
            return await client.post(f"/hooks/label-studio/{project}", content=content, headers=headers)

    return asyncio.run(send())


def wait_for(condition):
    import time

    for _ in range(100):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("nobody was woken")


def test_many_annotations_wake_collect_once(plugin):
    module, woken = plugin
    assert {post(module).status_code for _ in range(5)} == {200}
    wait_for(lambda: woken)
    assert woken == ["one_annotations"]


def test_the_next_annotation_wakes_again(plugin):
    module, woken = plugin
    post(module)
    wait_for(lambda: len(woken) == 1)
    post(module)
    wait_for(lambda: len(woken) == 2)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"secret": "wrong"}, 401),
        ({"secret": ""}, 401),
        ({"project": "three"}, 404),
        ({"content": b"not json"}, 422),
        ({"content": b"[]"}, 422),
        ({"content": b'"' + b"x" * 2_000_001 + b'"'}, 413),
    ],
)
def test_what_is_forged_or_bent_wakes_nobody(plugin, arguments, status):
    module, woken = plugin
    assert post(module, **arguments).status_code == status
    assert woken == []


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a": ' + b"9" * 10_000 + b"}", b"\xff", b""]
)
def test_h10_a_body_that_no_parser_takes_is_refused(plugin, content):
    """A deeply nested body was answered with 500."""
    module, woken = plugin
    assert post(module, content=content).status_code == 422
    assert not woken


def test_a_start_of_the_api_server_wakes_collect_where_people_label(plugin, tmp_path):
    """Label Studio sends a webhook once: what is answered while the api-server is away is collected when it is back."""
    import asyncio
    import datetime as dt

    from pipeline_tasks.catalog import migrate
    from pipeline_tasks.catalog.database import Database, create_engine
    from pipeline_tasks.catalog.labels import LabelRepository
    from pipeline_tasks.orchestration import overview

    module, woken = plugin
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    migrate.upgrade(url)
    LabelRepository(Database(create_engine(url))).register(
        "two", classes=["a"], schema_version=1, ls_project_ids={"label": 1}, now=dt.datetime.now(dt.UTC)
    )
    overview._shared_parts.cache_clear()

    async def live():
        async with module.app.router.lifespan_context(module.app):
            await asyncio.to_thread(wait_for, lambda: woken)

    asyncio.run(live())
    overview._shared_parts.cache_clear()
    assert woken == ["two_annotations"]
