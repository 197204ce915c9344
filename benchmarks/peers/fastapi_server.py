"""One peer of benchmarks/serve.py: FastAPI and timm, as in tutorials: `uvicorn fastapi_server:app`.

The run folder is in the environment variable RUN. The form field `file` has the image; Pillow, timm's own evaluation
transform, torch in float32, one image at a time. There is no limit on what is sent or on how many wait.
"""

from __future__ import annotations

import io
import os

import timm
import torch
from fastapi import FastAPI, UploadFile
from PIL import Image

model = timm.create_model("local-dir:" + os.environ["RUN"], pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
names = model.pretrained_cfg["label_names"]
app = FastAPI()


@app.get("/health")
def health() -> str:
    """The process is alive."""
    return "ok"


@app.post("/predict")
async def predict(file: UploadFile) -> list[dict[str, str | float]]:
    """Return the classes of an image, likeliest first."""
    image = Image.open(io.BytesIO(await file.read())).convert("RGB")
    with torch.inference_mode():
        probabilities = model(transform(image)[None]).softmax(-1)[0]
    best = probabilities.argsort(descending=True)
    return [{"label": names[i], "score": float(probabilities[i])} for i in best.tolist()]
