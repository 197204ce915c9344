"""`ExportedClassifier`: predicts with an export, without torch, as `Predictor` does with a run.

    classifier = ExportedClassifier(ExportFolder(Path("exported")))
    classifier.predict([Path("one.jpg"), array, encoded_bytes]).probabilities

Images are decoded in full size and resized by Pillow, as the pixel contract says. The network runs in OpenVINO if the
export has it, otherwise in onnxruntime, in float32 and in batches of one size. So answers do not depend on the other images
in a batch, and are those that were verified at the export. Decoding large JPEGs in full size takes two to four times as long
as in `Predictor`, and no features are cached: where headstart can open the run itself, use that.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from headstart.errors import DamagedExport, UnreadableImage
from headstart.exporters.export_folder import AGAIN, NETWORK_BIN, NETWORK_ONNX, NETWORK_XML, ExportFolder
from headstart.exporters.network_runners import BATCH, ExportRunner, OnnxRunner, OpenVinoRunner
from headstart.exporters.portable_images import portable_pixels
from headstart.images.given_images import GivenImages
from headstart.images.image_refs import Images, read_image
from headstart.images.remarks import note_beyond
from headstart.images.validate import cores
from headstart.io.files import sha256_bytes
from headstart.io.progress import bar
from headstart.model.inference.classifier import Calibration
from headstart.model.inference.predictions import Predictions
from headstart.model.inference.predictor import predicted

BLOCK = 64
"""Images whose pixels are in memory at once."""


class ExportedClassifier:
    """The classifier of an export; its network is opened for the first image.

    Raises `DamagedExport` if a file is not as it was written.
    """

    def __init__(self, export: ExportFolder) -> None:
        self.export = export
        self.classes: tuple[str, ...] = export.classes
        self.calibration: Calibration = export.calibration
        self.id: str = export.id
        self._contracts = export.inputs
        self._runner: ExportRunner | None = None
        self._opening = threading.Lock()

    def __repr__(self) -> str:
        return f"ExportedClassifier({self.export.path}; {len(self.classes)} classes)"

    def predict(
        self, images: Images | GivenImages, names: Sequence[str] | None = None, labels: np.ndarray | None = None
    ) -> Predictions:
        """Predict class probabilities of images; see `Predictor.predict`. Raises `ExportError`."""
        return predicted(images, names, labels, classes=self.classes, model=self.id, answer=self._answer)

    def _answer(self, images: Images) -> tuple[np.ndarray, dict[int, str]]:
        note_beyond(images.infos, next(iter(self._contracts.values())).ranges)
        self.opened_runner()
        logits_NK = np.zeros((len(images), len(self.classes)), np.float32)
        failed: dict[int, str] = {}
        with ThreadPoolExecutor(cores()) as pool, bar("Predicting", len(images)) as advance:
            for start in range(0, len(images), BLOCK):
                rows = range(start, min(start + BLOCK, len(images)))
                read = dict(zip(rows, pool.map(lambda row: self._pixels(images, row), rows), strict=True))
                failed |= {row: found for row, found in read.items() if isinstance(found, str)}
                good = {row: found for row, found in read.items() if not isinstance(found, str)}
                if good:
                    logits_NK[list(good)] = self.logits(list(good.values()))
                advance(len(rows))
        return logits_NK, failed

    def _pixels(self, images: Images, row: int) -> dict[str, np.ndarray] | str:
        """Return the pixels of an image for each input by name, or the reason why it cannot be read."""
        ranges = next(iter(self._contracts.values())).ranges
        try:
            image = read_image(images.refs[row], sha256=images.sha256s[row], ranges=ranges)
        except UnreadableImage as error:
            return error.reason
        return {name: portable_pixels(image, contract) for name, contract in self._contracts.items()}

    def logits(self, pixels: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        """Return logits of images given as ready-made pixels {input: pixels}. Not thread-safe. Raises `ExportError`.

        Runs full batches only, the last one padded, so that every image is computed in the same way.
        """
        runner, found = self.opened_runner(), []
        for start in range(0, len(pixels), BATCH):
            block = pixels[start : start + BATCH]
            filled = [*block, *[block[-1]] * (BATCH - len(block))]
            batch = {name: np.stack([each[name] for each in filled]) for name in self._contracts}
            found.append(runner(batch)[0][: len(block)])
        return np.concatenate(found)

    def opened_runner(self) -> ExportRunner:
        """Return the network, opened once. Raises `ExportError`."""
        with self._opening:
            if self._runner is None:
                self._runner = _runner(self.export)
            return self._runner


def _runner(export: ExportFolder) -> ExportRunner:
    if export.has(NETWORK_XML):
        content = sha256_bytes("".join(export.files[name] for name in (NETWORK_XML, NETWORK_BIN)).encode())
        return OpenVinoRunner(*export.openvino_model(), content=content)
    if export.has(NETWORK_ONNX):
        return OnnxRunner(export.onnx_model())
    raise DamagedExport(f"{export.path}: has no model.", hint=AGAIN)
