"""MLServer with adaptive batching, the model in the server's own process."""

import asyncio

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.serving_apps.common import MAX_BATCH, PORT, WAIT_SECONDS, from_text, load, predict


class MLServerApp(MLModel):
    async def load(self) -> bool:
        self._loaded = load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        items = [body.decode() if isinstance(body, bytes) else body for body in payload.inputs[0].data.root]
        rows = await asyncio.to_thread(predict, self._loaded, [from_text(item) for item in items])
        flat = [value for row in rows for value in row]
        output = ResponseOutput(name="probabilities", shape=[len(rows), len(rows[0])], datatype="FP32", data=flat)
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    settings = Settings(
        host="127.0.0.1",
        http_port=PORT,
        grpc_port=PORT + 1,
        metrics_port=PORT + 2,
        parallel_workers=0,
        debug=False,
        load_models_at_startup=False,
        logging_settings=None,
    )
    server = MLServer(settings)
    model = ModelSettings(name="m", implementation=MLServerApp, max_batch_size=MAX_BATCH, max_batch_time=WAIT_SECONDS)
    await server.start([model])


if __name__ == "__main__":
    asyncio.run(main())
