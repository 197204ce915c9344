"""A headstart classifier in MLflow: what `mlflow.pyfunc.load_model` imports. `exporters.mlflow_folder` copies this file.

    model = mlflow.pyfunc.load_model("exported")
    model.predict(pandas.DataFrame({"image": [Path("one.jpg").read_bytes()]}))

Images are bytes of image files, or the same in base64. The answer is a data frame with a row per image: `predicted`, for each
class a column p(CLASS) with its probability, and `error`: empty, or why the image cannot be used (it then has no class).

Needs headstart and pandas. Nothing here loads a pickle, and no path is taken from an input.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import headstart

IMAGE = "image"
"""Name of the input column."""


class HeadstartModel:
    """A classifier, open for predictions."""

    def __init__(self, run: Path) -> None:
        self._predictor = headstart.Predictor(headstart.load_classifier(run), cache=False)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Return a pandas data frame with a row per image. `params` have no effect."""
        import pandas

        images = [_file_bytes(value) for value in _images(model_input)]
        found = self._predictor.predict(images)
        row = {path: i for i, path in enumerate(found.paths)}
        places = [row.get(str(n), -1) for n in range(len(images))]
        columns: dict[str, list[Any]] = {
            "predicted": [found.classes[found.predicted[i]] if i >= 0 else None for i in places]
        }
        for k, name in enumerate(found.classes):
            columns[f"p({name})"] = [float(found.probabilities[i, k]) if i >= 0 else float("nan") for i in places]
        columns["error"] = [found.errors.get(str(n), "") for n in range(len(images))]
        return pandas.DataFrame(columns)


def _load_pyfunc(path: str) -> HeadstartModel:
    """Open the model in the folder `path`; MLflow calls this."""
    return HeadstartModel(Path(path))


def _images(given: Any) -> list[Any]:
    """Return the images of an input: a data frame, a mapping, a column, a list, or one image."""
    if isinstance(given, bytes | bytearray | memoryview | str):
        return [given]
    columns = getattr(given, "columns", given if isinstance(given, Mapping) else None)
    if columns is not None:
        names = list(columns)
        if IMAGE not in names and len(names) != 1:
            raise ValueError(f"the input has the columns {names}; expected one called {IMAGE!r}")
        return _images(given[IMAGE if IMAGE in names else names[0]])
    return list(given.tolist() if hasattr(given, "tolist") else given)


def _file_bytes(value: Any) -> bytes:
    """Return the bytes of an image file, which may be given in base64; for anything else, bytes that are not an image.

    >>> _file_bytes("AA\\nE=\\n"), _file_bytes("data:image/png;base64,AAE="), _file_bytes(b"GIF")
    (b'\\x00\\x01', b'\\x00\\x01', b'GIF')
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    text = "".join(str(value).split())  # some encoders break lines
    try:
        return base64.b64decode(text.partition(";base64,")[2] or text, validate=True)
    except (binascii.Error, ValueError):
        return text.encode(errors="replace")
