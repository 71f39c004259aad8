"""Triton through PyTriton, with its dynamic batcher."""

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.serving_apps.common import KIND, MAX_BATCH, PORT, SHAPE, WAIT_SECONDS, load

TEXT_BYTES = 1024  # texts are padded: items of any length would be Python objects on their way

model = load()


@batch
def infer(item: np.ndarray) -> list[np.ndarray]:
    items = list(item) if KIND == "image" else [model.decode(body.tobytes().rstrip(b"\0")) for body in item]
    return [model.predict(items)]


if __name__ == "__main__":
    given = Tensor(name="item", dtype=np.uint8, shape=SHAPE if KIND == "image" else (TEXT_BYTES,))
    config = TritonConfig(http_address="127.0.0.1", http_port=PORT, grpc_port=PORT + 1, metrics_port=PORT + 2)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="m",
            infer_func=infer,
            inputs=[given],
            outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(len(model.classes),))],
            config=ModelConfig(
                max_batch_size=MAX_BATCH,
                batcher=DynamicBatcher(max_queue_delay_microseconds=int(WAIT_SECONDS * 1e6)),
            ),
        )
        triton.serve()
