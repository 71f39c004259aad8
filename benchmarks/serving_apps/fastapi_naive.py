"""FastAPI, one forward pass per request: `uvicorn benchmarks.serving_apps.fastapi_naive:app`."""

from fastapi import FastAPI, Request

from benchmarks.serving_apps.common import load, predict

model = load()
app = FastAPI()


@app.post("/predict")
async def answer(request: Request) -> dict:
    return {"probabilities": predict(model, [await request.body()])[0]}
