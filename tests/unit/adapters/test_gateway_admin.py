"""The gateway's administration client, against answers as the gateway gives them."""

import httpx
import pytest

from pipeline_tasks.adapters.gateway_admin import GatewayClient
from pipeline_tasks.contracts import DeploymentAccount, RouteAccounts
from pipeline_tasks.errors import PermanentError, ServiceUnavailable

METRICS = """\
dethrone_predictions_logged_total 12
dethrone_refused_total{code="NOT_FOUND"} 3
dethrone_request_seconds_bucket{le="+Inf"} 12
dethrone_catalog_age_seconds -1.0
"""


@pytest.fixture
def gateway(monkeypatch):
    """Return a client whose gateway answers each path as given: a status and a body, or an error."""

    def make(answers):
        def answer(request):
            reply = answers[request.url.path]
            if isinstance(reply, Exception):
                raise reply
            return httpx.Response(reply[0], **reply[1])

        client = GatewayClient("http://gateway", api_key="key")
        transport = httpx.MockTransport(answer)
        monkeypatch.setattr(client, "_client", httpx.Client(base_url="http://gateway", transport=transport))
        return client

    return make


def test_counters_are_read_by_name_and_labeled_ones_left_out(gateway):
    counters = gateway({"/metrics": (200, {"text": METRICS})}).counters()
    assert counters == {"dethrone_predictions_logged_total": 12.0, "dethrone_catalog_age_seconds": -1.0}


def test_the_generation_is_0_without_a_route_and_without_a_gateway(gateway):
    path = "/v1/projects/pets"
    assert gateway({path: (200, {"json": {"generation": 4}})}).followed_generation("pets") == 4
    assert gateway({path: (404, {})}).followed_generation("pets") == 0
    assert gateway({path: httpx.ConnectError("down")}).followed_generation("pets") == 0


def test_what_is_in_flight(gateway):
    assert gateway({"/internal/inflight": (200, {"json": {"in_flight": 2}})}).in_flight("d") == 2
    with pytest.raises(ServiceUnavailable, match=r"the gateway must answer /internal/inflight \(got ConnectError\)"):
        gateway({"/internal/inflight": httpx.ConnectError("down")}).in_flight("d")
    with pytest.raises(PermanentError, match="must have the scope admin"):
        gateway({"/internal/inflight": (403, {})}).in_flight("d")


ACCOUNT = {"deployment_id": "d", "model_version": "m", "asked": 5, "errors": {"timeout": 1, "nonsense": 2}}
ACCOUNTS = {
    "project": "pets",
    "generation": 4,
    "edges_ms": [1.0, 2.0],
    "deployments": [ACCOUNT | {"latency_counts": [1, 3, 1], "compared": 2, "disagreed": 1}],
}


def test_the_accounts_of_a_route(gateway):
    path = "/internal/accounts/pets"
    accounts = gateway({path: (200, {"json": ACCOUNTS})}).accounts("pets")
    assert accounts == RouteAccounts(4, (1.0, 2.0), {"d": DeploymentAccount(5, 3, (1, 3, 1), 2, 1)})
    pairs = {"paired": 4, "only_it_failed": 1, "only_champion_failed": 2, "slower": [3, 1], "faster": [0, 1]}
    told = ACCOUNTS | {"deployments": [ACCOUNTS["deployments"][0] | pairs]}
    accounts = gateway({path: (200, {"json": told})}).accounts("pets")
    assert accounts.deployments["d"] == DeploymentAccount(5, 3, (1, 3, 1), 2, 1, 4, 1, 2, (3, 1), (0, 1))
    for answer in ((404, {}), (500, {}), httpx.ConnectError("down")):
        assert gateway({path: answer}).accounts("pets") is None
    with pytest.raises(PermanentError, match="must have the scope admin"):
        gateway({path: (403, {})}).accounts("pets")
