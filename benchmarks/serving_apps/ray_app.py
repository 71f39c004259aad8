"""Ray Serve with batches, one replica."""

import time

from ray import serve
from starlette.requests import Request

from benchmarks.serving_apps.common import MAX_BATCH, PORT, WAIT_SECONDS, load, predict


@serve.deployment(num_replicas=1, max_ongoing_requests=512, ray_actor_options={"num_cpus": 0})
class RayApp:
    def __init__(self) -> None:
        self.model = load()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_SECONDS)
    async def batched(self, bodies: list[bytes]) -> list[list[float]]:
        return predict(self.model, bodies)

    async def __call__(self, request: Request) -> dict:
        return {"probabilities": await self.batched(await request.body())}


if __name__ == "__main__":
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT, "access_log": False})
    serve.run(
        RayApp.bind(),  # type: ignore[attr-defined]  # by its decorator
        route_prefix="/predict",
        logging_config={"enable_access_log": False},
    )
    while True:
        time.sleep(60)
