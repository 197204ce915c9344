"""int8 for OpenVINO: made by NNCF, and kept only if it is faster and as good, on this machine and with the run's images.

    tried = try_int8(float32_network, images, training_images, ...)
    tried.refusals                   empty if it may be written
    tried.sentence()                 what was measured, kept or not

Quantisation is calibrated on training images. Presets are compared on validation images, on which temperature and conformal
threshold are fitted too; the test images are used only to judge. Speed is compared with that of our own fastest float network
(bf16 if the CPU has it), in alternating rounds. The limits are `LEAST_SPEEDUP`, `MOST_LOSS`, `MOST_LOSS_BOUND` and `MOST_ECE`.

Costs a minute or two for a MobileNetV1 on two cores, and NNCF (the extra ``int8``), whose telemetry is never started. When
not to use it: on CPUs with AMX, whose bf16 was faster than int8 for small networks; or for a different kind of CPU from this
one, which would have neither the measured speed nor the measured answers.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from headstart.evaluation.calibration import fit_temperature
from headstart.evaluation.conformal import conformal_threshold, prediction_sets
from headstart.evaluation.image_groups import groups_of
from headstart.evaluation.intervals import Estimate, proportion, wilson
from headstart.evaluation.metrics import compute_metrics
from headstart.evaluation.paired_tests import differences
from headstart.evaluation.probabilities import cross_entropies, softmax
from headstart.exporters.export_calibration import ExportCalibration
from headstart.exporters.openvino_network import compiled_fast, read_ir, saved
from headstart.exporters.parity import pixel_blocks
from headstart.exporters.parity_images import ParityImages
from headstart.images.preprocess import Preprocess
from headstart.io.extras import require
from headstart.io.progress import log
from headstart.model.inference.engines import ENGINES
from headstart.model.inference.openvino_import import import_openvino, without_telemetry

LEAST_SPEEDUP = 1.25
MOST_LOSS, MOST_LOSS_BOUND = 0.005, 0.010
"""The largest loss of accuracy, and the largest upper bound of it (one-sided, 95 %)."""
MOST_ECE = 0.02
CALIBRATION_IMAGES = 300
PRESETS = ("performance", "mixed")
BATCH = 8
ROUNDS, ROUND_SECONDS = 9, 0.4


@dataclass(frozen=True, eq=False)
class Int8Trial:
    """What was measured for one int8 network, and its `files` (.xml, .bin).

    `speedup` is the median of `ROUNDS` ratios to the float network in `float_precision`; `loss` is the loss of accuracy on
    `n` test images, with the one-sided 95 % bound `loss_bound`; `flips` is the share of images that change class.
    """

    files: tuple[bytes, bytes]
    preset: str
    calibration_images: int
    calibration: ExportCalibration
    speedup: float
    images_per_second: float
    float_precision: str
    n: int
    loss: float
    loss_bound: float
    flips: Estimate
    ece: Estimate
    float_ece: Estimate
    coverage: Estimate

    @property
    def refusals(self) -> list[str]:
        """List the figures that are beyond their limits."""
        found = []
        if not self.speedup >= LEAST_SPEEDUP:
            found.append(f"a speed-up of at least {LEAST_SPEEDUP}x is required")
        if not (self.loss <= MOST_LOSS and self.loss_bound <= MOST_LOSS_BOUND):
            found.append(
                f"at most {100 * MOST_LOSS:g} points of accuracy may be lost (95 % bound {100 * MOST_LOSS_BOUND:g})"
            )
        if not self.ece.value <= MOST_ECE:
            found.append(f"the ECE may be at most {MOST_ECE:g}")
        if self.coverage.high < 1 - self.calibration.conformal_alpha:
            found.append(f"sets must contain the right class for {1 - self.calibration.conformal_alpha:.0%}")
        return found

    def sentence(self) -> str:
        """Return the figures, and whether the network is written."""
        figures = (
            f"int8 is {self.speedup:.2f}x as fast as {self.float_precision} here; on {self.n:,} test images accuracy "
            f"changes by {-100 * self.loss:+.2f} points (95 % bound {-100 * self.loss_bound:+.2f}), its ECE is "
            f"{self.ece.value:.3f} (float {self.float_ece.value:.3f}), and sets contain the right class for "
            f"{self.coverage.value:.1%}"
        )
        return f"{figures}: {'not written: ' + '; '.join(self.refusals) if self.refusals else 'written'}."

    def to_json(self) -> dict[str, Any]:
        """Return the figures for export.json."""
        left_out = ("files", "calibration", "flips", "ece", "float_ece", "coverage")
        plain = {name: value for name, value in vars(self).items() if name not in left_out}
        estimates = {name: getattr(self, name).to_json() for name in left_out[2:]}
        return {
            **plain,
            **estimates,
            "calibration": asdict(self.calibration),
            "refused": self.refusals,
            "sentence": self.sentence(),
        }


def try_int8(
    network: tuple[bytes, bytes],
    inputs: Mapping[str, Preprocess],
    classes: Sequence[str],
    images: ParityImages,
    training: ParityImages,
    own: ExportCalibration,
    seed: int,
) -> Int8Trial:
    """Quantise a float32 network (.xml, .bin) with each preset, and measure the best.

    `images` are from the validation and the test set, `own` is the float network's calibration. Raises `MissingExtra`,
    `WriteError`.
    """
    pixels = _pixels(training, inputs)
    graphs = {"float": read_ir(*network)}
    for preset in PRESETS:
        log.info("int8: calibrating on %d training images (%s)", len(training), preset)
        graphs[preset] = quantised(read_ir(*network), pixels, preset)
    networks = {name: _FastNetwork(graph, inputs) for name, graph in graphs.items()}
    logits, kept = _logits(networks, images, inputs)
    val, test = (np.flatnonzero(kept.sets_N == name) for name in ("val", "test"))
    labels_N = kept.labels_N
    best = min(PRESETS, key=lambda preset: _log_loss(logits[preset][val], labels_N[val]))
    fitted = _refitted(logits["float"][val], logits[best][val], labels_N[val], kept.groups_N[val], own)
    ratio = fitted.temperature / own.temperature
    speedup, speed = _speedup(networks[best], networks["float"])
    return Int8Trial(
        files=saved(divided(graphs[best], ratio)),
        preset=best,
        calibration_images=len(training),
        calibration=fitted,
        speedup=speedup,
        images_per_second=speed,
        float_precision=networks["float"].precision,
        n=len(test),
        **_judged(
            logits["float"][test],
            logits[best][test] / ratio,
            labels_N[test],
            kept.groups_N[test],
            classes,
            fitted,
            seed,
        ),
    )


# Making it


@cache
def import_nncf() -> Any:
    """Import NNCF without its telemetry, which reports each call to Google Analytics. Raises `MissingExtra`.

    Without the package `openvino_telemetry`, NNCF and OpenVINO use stubs, so it is hidden while they are imported.
    """
    require("int8", "nncf")
    import_openvino()
    with without_telemetry():
        import nncf
    nncf.set_log_level(40)
    return nncf


def quantised(graph: Any, pixels: Mapping[str, np.ndarray], preset: str) -> Any:
    """Return the int8 model of an OpenVINO model, calibrated on `pixels`, uint8 (N, S, S, 3) by input name.

    What is computed in float64 stays as it is: kernels, whose large weights nearly cancel each other.
    """
    nncf = import_nncf()
    exact = [node.get_friendly_name() for node in graph.get_ordered_ops() if _is_float64(node)]
    count = len(next(iter(pixels.values())))
    samples = [{name: each[i : i + 1] for name, each in pixels.items()} for i in range(count)]
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(
            graph,
            nncf.Dataset(samples),
            preset=nncf.QuantizationPreset(preset),
            subset_size=count,
            ignored_scope=nncf.IgnoredScope(names=exact, validate=False),
        )


def _is_float64(node: Any) -> bool:
    return any(output.get_element_type().to_string() == "f64" for output in node.outputs())


def _pixels(images: ParityImages, inputs: Mapping[str, Preprocess]) -> dict[str, np.ndarray]:
    blocks = [pixels for _, pixels in pixel_blocks(images, inputs)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in inputs}


def divided(graph: Any, ratio: float) -> Any:
    """Divide the logits of a model by a number, in place, before its softmax."""
    ops = import_openvino().opset13
    logits = graph.output("logits").get_node().input_value(0)
    users = list(logits.get_target_inputs())
    divided = ops.divide(logits, np.float32(ratio), name="calibrate_int8").output(0)
    for user in users:
        user.replace_source_output(divided)
    logits.get_tensor().set_names(set())
    divided.get_tensor().set_names({"logits"})
    return graph


# Measuring it


class _FastNetwork:
    """A model compiled as fast as this CPU can run it, for batches of `BATCH`."""

    def __init__(self, graph: Any, inputs: Mapping[str, Preprocess]) -> None:
        fixed = graph.clone()
        fixed.reshape({name: [BATCH, spec.image_size, spec.image_size, 3] for name, spec in inputs.items()})
        self.precision = ENGINES["openvino"].native_precisions("cpu")[0]
        self._compiled = compiled_fast(fixed, self.precision)
        self._empty = {name: np.zeros((BATCH, s.image_size, s.image_size, 3), np.uint8) for name, s in inputs.items()}
        self._queue = import_openvino().AsyncInferQueue(self._compiled, 0)

    def logits(self, pixels: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the logits (n, K) of pixels (n, S, S, 3) by input name."""
        count = len(next(iter(pixels.values())))
        found = []
        for start in range(0, count, BATCH):
            batch = {name: each.copy() for name, each in self._empty.items()}
            for name, each in pixels.items():
                part = each[start : start + BATCH]
                batch[name][: len(part)] = part
            found.append(self._compiled(batch)["logits"][: min(BATCH, count - start)].copy())
        return np.concatenate(found)

    def images_per_second(self, batches: int) -> float:
        """Return the speed over that many batches."""
        begun = time.perf_counter()
        for _ in range(batches):
            self._queue.start_async(self._empty)
        self._queue.wait_all()
        return batches * BATCH / (time.perf_counter() - begun)


def _logits(
    networks: Mapping[str, _FastNetwork], images: ParityImages, inputs: Mapping[str, Preprocess]
) -> tuple[dict[str, np.ndarray], ParityImages]:
    """Return the logits of each network, and the images that could be read."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in networks}
    good: list[int] = []
    for rows, pixels in pixel_blocks(images, inputs):
        for name, network in networks.items():
            found[name].append(network.logits(pixels))
        good += rows
    return {name: np.concatenate(parts) for name, parts in found.items()}, images.take(good)


def _speedup(new: _FastNetwork, old: _FastNetwork) -> tuple[float, float]:
    """Return the median of the ratios of speed, measured in alternation, and the new one's images per second."""
    batches = max(4, round(ROUND_SECONDS * min(each.images_per_second(4) for each in (old, new)) / BATCH))
    pairs = [(new.images_per_second(batches), old.images_per_second(batches)) for _ in range(ROUNDS)]
    return statistics.median(a / b for a, b in pairs), statistics.median(a for a, _ in pairs)


def _log_loss(logits_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the log-loss at the best temperature."""
    return float(cross_entropies(logits_NK / fit_temperature(logits_NK, labels_N), labels_N).mean())


def _refitted(
    float_NK: np.ndarray, int8_NK: np.ndarray, labels_N: np.ndarray, groups_N: np.ndarray, own: ExportCalibration
) -> ExportCalibration:
    """Return the float network's calibration, shifted by the change that int8 causes on the validation images."""
    ratio = fit_temperature(int8_NK, labels_N) / fit_temperature(float_NK, labels_N)
    before, after = (
        conformal_threshold(softmax(x), labels_N, own.conformal_alpha, groups=groups_N)
        for x in (float_NK, int8_NK / ratio)
    )
    threshold = float(np.clip(own.conformal_threshold + after - before, 0.0, 1.0))
    return replace(own, temperature=own.temperature * ratio, conformal_threshold=threshold, images=len(labels_N))


def _judged(
    float_NK: np.ndarray,
    int8_NK: np.ndarray,
    labels_N: np.ndarray,
    groups_N: np.ndarray,
    classes: Sequence[str],
    fitted: ExportCalibration,
    seed: int,
) -> dict[str, Any]:
    """Return the figures on the test images. The upper end of a 90 % interval is the one-sided 95 % bound."""
    pair = np.stack([float_NK, int8_NK])
    right_NT = (pair.argmax(2) == labels_N).T
    losses_NT = np.stack([cross_entropies(each, labels_N) for each in pair], axis=1)
    loss, _ = differences(["float", "int8"], right_NT, losses_NT, groups=groups_N, seed=seed, level=0.90)
    sets_NK = prediction_sets(softmax(int8_NK), fitted.conformal_threshold)
    metrics = [compute_metrics(each, labels_N, tuple(classes), groups=groups_N, seed=seed) for each in pair]
    n = len(labels_N)
    covered_N = sets_NK[np.arange(n), labels_N]
    return {
        "loss": loss.value,
        "loss_bound": loss.high,
        "flips": wilson(int((pair[0].argmax(1) != pair[1].argmax(1)).sum()), n),
        "ece": metrics[1]["ece"],
        "float_ece": metrics[0]["ece"],
        "coverage": proportion(covered_N, np.ones_like(covered_N), groups_of(groups_N)),
    }
