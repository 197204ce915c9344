"""One peer of benchmarks/serve.py: LitServe and timm, as in its documentation: `python litserve_server.py RUN PORT
WORKERS`.

The form field `file` has the image; Pillow, timm's own evaluation transform, torch in float32. LitServe makes batches of
up to 8 images, and waits up to 5 ms to fill one. (It reads the annotations of the methods below, so they must not be strings.)
"""

import sys
from typing import Any

import litserve
import timm
import torch
from fastapi import Request
from PIL import Image


class Classify(litserve.LitAPI):
    """Image in, classes out."""

    def setup(self, device: str) -> None:
        """Open the model, once per worker."""
        self.model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval().to(device)
        self.transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=self.model))
        self.names = self.model.pretrained_cfg["label_names"]

    def decode_request(self, request: Request) -> torch.Tensor:
        """Decode an image."""
        return self.transform(Image.open(request["file"].file).convert("RGB"))

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Classify a batch."""
        with torch.inference_mode():
            return self.model(images).softmax(-1)

    def encode_response(self, output: torch.Tensor) -> Any:
        """Return the classes, likeliest first."""
        return [{"label": self.names[i], "score": float(output[i])} for i in output.argsort(descending=True).tolist()]


if __name__ == "__main__":
    api = Classify(max_batch_size=8, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(sys.argv[3]))
    server.run(port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False, log_level="warning")
