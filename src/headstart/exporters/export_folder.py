"""The folder of an export: the only module that knows its files and keys. `export_run` writes it, everything else reads it.

    export = ExportFolder(Path("exported"))
    export.classes, export.inputs, export.calibration
    export.onnx_model(), export.openvino_model()        the bytes, exactly as written

Every file is compared with the manifest before anything parses it. Keys may be added to export.json; `FORMAT` changes
only when an existing key changes its meaning or is removed. Nothing here imports torch, onnx or a runtime.

Reading never writes into an export, which may be on a read-only disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import DamagedExport, DamagedRun, HeadstartError, MissingExport, UnsupportedExport, WriteError
from headstart.exporters.export_calibration import ExportCalibration
from headstart.exporters.pixel_contract import PixelContract
from headstart.exporters.verify_files import (
    EXPORTED_TEXTS,
    has_external_data,
    is_of_the_system,
    sha256_as_written,
)
from headstart.io.files import read_json
from headstart.io.folders import MANIFEST, check_listed, check_replaceable, is_system_file, read_manifest
from headstart.io.given_options import as_path
from headstart.model.inference.classifier import Calibration
from headstart.runs.outside_runs import check_outside_run

FORMAT = 1

EXPORT = "export.json"
NETWORK_ONNX = "model.onnx"
IMAGE_ONNX = "image.onnx"
NETWORK_XML, NETWORK_BIN = "openvino/model.xml", "openvino/model.bin"
IMAGE_XML, IMAGE_BIN = "openvino/image.xml", "openvino/image.bin"
INT8_XML, INT8_BIN = "openvino/int8/model.xml", "openvino/int8/model.bin"
PREPROCESS = "preprocess.json"
LABELS = "labels.txt"
SAMPLES = "samples"
VERIFY = "verify.py"
PARITY, PARITY_PAGE = "parity.json", "parity.html"
EXPORT_README = "README.md"
FOR_PEOPLE = (EXPORT_README, PARITY_PAGE)
"""Files that no program reads."""
PRECISION = "float32"
AGAIN = "Export the run again, or restore the folder from a copy."


def is_export(path: Path) -> bool:
    """Return whether a folder looks like an export."""
    return os.path.isfile(os.path.join(path, EXPORT))


class ExportFolder:
    """An export, open for reading.

    Opening raises `MissingExport` (there is none), `DamagedExport` (the manifest or export.json differ from what was
    written) and `UnsupportedExport` (another format). Any other file that differs or cannot be parsed raises
    `DamagedExport` on first use.
    """

    def __init__(self, path: Path) -> None:
        self.path = as_path(path, "export")
        if not is_export(self.path):
            raise MissingExport(
                f"{self.path}: is not an export to ONNX or OpenVINO (it has no {EXPORT}).",
                hint="`headstart export RUN --out EXPORT` writes one.",
            )
        with self._as_written(EXPORT):
            self.files: Mapping[str, str] = read_manifest(self.path, AGAIN)
            """{relative path: SHA-256} of the files as they were written."""
            self.facts: Mapping[str, Any] = read_json(self.checked(EXPORT))
            """Content of export.json."""
            _check_export_format(self.path, self.facts["format"])

    def checked(self, name: str) -> Path:
        """Return the path of a file after comparing it with the manifest, as verify.py does. Raises `DamagedExport`."""
        file = self.path / name
        if name in self.files and file.suffix in EXPORTED_TEXTS and file.is_file():
            with suppress(OSError):  # said below
                if sha256_as_written(file) == self.files[name]:
                    return file
        try:
            return check_listed(self.path, name, self.files)
        except DamagedRun as error:
            raise DamagedExport(error.message, hint=AGAIN) from error

    def check(self) -> None:
        """Compare every file with the manifest; none may be missing, and none may be added. Raises `DamagedExport`."""
        for name in self.files:
            self.checked(name)
        for file in sorted(self.path.rglob("*")):
            inside = file.relative_to(self.path).as_posix()
            if file.is_dir() or inside in (MANIFEST, *self.files) or is_of_the_system(inside):
                continue
            raise DamagedExport(f"{file}: is not in the manifest of the export.", hint="Remove it, or export again.")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the outputs."""
        with self._as_written(EXPORT):
            classes = self.facts["classes"]
            if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(c, str) for c in classes):
                raise ValueError(f"classes {classes!r}")
            return tuple(classes)

    @cached_property
    def inputs(self) -> dict[str, PixelContract]:
        """The pixel contract of each of the network's inputs, by name."""
        with self._as_written(PREPROCESS):
            described = read_json(self.checked(PREPROCESS))["inputs"]
            return {str(name): PixelContract.from_dict(each["contract"]) for name, each in described.items()}

    @cached_property
    def exported_calibration(self) -> ExportCalibration:
        """What was fitted for the exported path."""
        with self._as_written(EXPORT):
            read = self.facts["calibration"][PRECISION]
            numbers = ("temperature", "conformal_threshold", "conformal_alpha", "clip")
            values = {name: float(read[name]) for name in numbers}
            return ExportCalibration(**values, images=int(read["images"]))

    @property
    def calibration(self) -> Calibration:
        """The same as the `Calibration` of a classifier; the temperature is inside the network."""
        fitted = self.exported_calibration
        return Calibration(fitted.temperature, fitted.conformal_threshold, fitted.conformal_alpha, fitted.clip)

    @property
    def id(self) -> str:
        """A short hash of everything that determines a prediction."""
        return str(self.facts.get("id", ""))

    @property
    def seed(self) -> int:
        """The run's seed, so that equal images get equal intervals."""
        seed = self.facts.get("seed", 0)
        return seed if isinstance(seed, int) else 0

    @property
    def class_frequencies(self) -> np.ndarray:
        """float64 (K,): frequency of each class among the images that the run was trained on."""
        with self._as_written(EXPORT):
            frequencies_K = np.array(self.facts["class_frequencies"], np.float64)
            if frequencies_K.shape != (len(self.classes),):
                raise ValueError(f"class_frequencies {frequencies_K.tolist()}")
            return frequencies_K

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        return name in self.files

    def onnx_model(self) -> bytes:
        """Return the network for onnxruntime. Raises `DamagedExport`, also if it has external data."""
        model = self.checked(NETWORK_ONNX).read_bytes()
        if has_external_data(memoryview(model)):
            raise DamagedExport(
                f"{self.path / NETWORK_ONNX}: has its weights in another file, which headstart never writes.",
                hint=AGAIN,
            )
        return model

    def openvino_model(self) -> tuple[bytes, bytes]:
        """Return the network for OpenVINO, .xml and .bin. Raises `DamagedExport`."""
        return self.checked(NETWORK_XML).read_bytes(), self.checked(NETWORK_BIN).read_bytes()

    @contextmanager
    def _as_written(self, name: str) -> Iterator[None]:
        """Turn any error while parsing a file into `DamagedExport`."""
        try:
            yield
        except (DamagedExport, UnsupportedExport):
            raise
        except DamagedRun as error:
            raise DamagedExport(error.message, hint=AGAIN) from error
        except (KeyError, TypeError, ValueError, AttributeError, OSError, RecursionError, HeadstartError) as error:
            raise DamagedExport(
                f"{self.path / name}: is not a valid file of format {FORMAT}: {error!r}.", hint=AGAIN
            ) from error


def check_export_place(out: Path) -> None:
    """Raise `WriteError` unless `out` is new or an empty folder, is writable, and is not inside a run."""
    check_outside_run(out)
    check_replaceable(out)
    if os.path.isdir(out) and any(not is_system_file(name) for name in os.listdir(out)):
        raise WriteError(
            f"{out}: is not empty; an export is written into a new folder.", hint="Choose another --out, or remove it."
        )


def labels_text(classes: tuple[str, ...]) -> str:
    """Return the content of labels.txt: one JSON string per line, so that any name survives.

    >>> labels_text(("cat", "two\\nlines")).splitlines()
    ['"cat"', '"two\\\\nlines"']
    """
    return "".join(f"{json.dumps(name)}\n" for name in classes)


def _check_export_format(path: Path, found: Any) -> None:
    """Raise `UnsupportedExport` for a newer format, `ValueError` for an invalid one."""
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise ValueError(f"format {found!r}")
    if found > FORMAT:
        raise UnsupportedExport(
            f"{path}: was written by a newer headstart (format {found}, expected {FORMAT}).",
            hint="Update headstart: `pip install --upgrade headstart`.",
        )
