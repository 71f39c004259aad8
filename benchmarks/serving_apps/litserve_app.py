"""LitServe with batches and its faster queue."""

import litserve as ls

from benchmarks.serving_apps.common import MAX_BATCH, PORT, WAIT_SECONDS, from_text, load, predict


class Api(ls.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002  (LitServe's signature)
        self.model = load()

    def decode_request(self, request: dict) -> bytes:
        return from_text(request["item"])

    def batch(self, inputs: list) -> list:
        return inputs

    def predict(self, inputs: list) -> list:
        return predict(self.model, inputs)

    def unbatch(self, output: list) -> list:
        return output

    def encode_response(self, output: list) -> dict:
        return {"probabilities": output}


if __name__ == "__main__":
    api = Api(max_batch_size=MAX_BATCH, batch_timeout=WAIT_SECONDS)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="error", num_api_servers=1)
