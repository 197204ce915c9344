"""Does an export answer as the run does? This is measured on images, and an export that does not is refused.

    measured = measure(classifier, images, runners)     every image through torch, onnxruntime, OpenVINO, and `predict`
    fitted = refit(measured, classifier)                temperature and conformal threshold for the exported path
    parity = judge(measured, fitted, classifier)        figures with intervals
    parity.check()                                      raises ParityFailed

Two things differ from the run, and each has its own limit. The network is a different program: given the same pixels as
torch, its logits may differ by rounding only (`MOST_LOGIT`, `MOST_PROBABILITY`; 1e-5 is usual). The pixels are those of the
portable contract, and the run's own precision may be bf16: so decisions may differ for a few images (`MOST_FLIPS`), but the
accuracy must not.

Temperature and threshold are fitted on validation images; the test images are used only to judge. The last layer may have
been fitted to the validation images as well (`train` does that in the end), so the run's calibration is shifted by the
change between the run's path and the exported one on the same images, instead of being fitted afresh.

Costs about 60 ms per image for all runtimes together (a MobileNetV2 at 224 px on two cores).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from headstart.errors import ParityFailed, UnreadableImage
from headstart.evaluation.calibration import fit_temperature
from headstart.evaluation.conformal import conformal_threshold, prediction_sets
from headstart.evaluation.image_groups import groups_of
from headstart.evaluation.intervals import Estimate, binomial_tail, proportion, wilson
from headstart.evaluation.metrics import Metrics, compute_metrics
from headstart.evaluation.paired_tests import Difference, differences
from headstart.evaluation.probabilities import cross_entropies, softmax
from headstart.exporters.export_calibration import ExportCalibration
from headstart.exporters.network_runners import ExportRunner, NetworkRunner
from headstart.exporters.parity_images import ParityImages
from headstart.exporters.portable_images import read_portable
from headstart.images.preprocess import Preprocess
from headstart.images.validate import cores
from headstart.images.value_ranges import ValueRanges
from headstart.io.progress import bar
from headstart.model.inference.classifier import Calibration, Classifier
from headstart.model.inference.predictor import Predictor

MOST_LOGIT = 1e-3
MOST_PROBABILITY = 1e-4
CLOSE = 2e-3
"""Classes whose logits differ by less than this may swap places: that is counted, but not held against an export."""
CLEAR = 0.05
"""If the probabilities of the run's two likeliest classes are closer than this, a change of class is counted only."""
MOST_FLIPS = 0.005
FLIPS_LEVEL = 0.025
"""An export is refused if as many flips as it has, or more, would be rarer than this with flips of exactly `MOST_FLIPS`."""
MOST_BYTE, MEAN_BYTE = 2, 0.02
BLOCK = 64
"""Images whose pixels are in memory at once."""
BATCHES = (1, 3, 8)
MOST_WHOLE = 24
"""Images on which finished files are compared."""
SHOWN = ("accuracy", "log_loss", "ece")


@dataclass(frozen=True, eq=False)
class Measured:
    """Logits of N images, float (N, K), before any new temperature: `reference_NK` of torch and `runtimes` by name,
    both on portable pixels, and `run_NK` as in `predict`."""

    images: ParityImages
    reference: str
    reference_NK: np.ndarray
    runtimes: Mapping[str, np.ndarray]
    run_NK: np.ndarray

    @property
    def export_NK(self) -> np.ndarray:
        """The logits of the first runtime; the others have the same within rounding."""
        return next(iter(self.runtimes.values()))


@dataclass(frozen=True)
class RuntimeParity:
    """A runtime against the reference, on equal pixels: the largest differences, and how often the class differs.

    `swapped` counts images with another class although the lead was at least `CLOSE`, `close` those with a smaller lead.
    """

    runtime: str
    images: int
    logit: float
    probability: float
    swapped: int
    close: int

    @property
    def failures(self) -> list[str]:
        """List the figures that are beyond their limits."""
        found = []
        if not self.logit <= MOST_LOGIT:
            found.append(f"logits differ from torch by up to {self.logit:.2g} (at most {MOST_LOGIT:g} is allowed)")
        if not self.probability <= MOST_PROBABILITY:
            found.append(
                f"probabilities differ from torch by up to {self.probability:.2g} (at most {MOST_PROBABILITY:g})"
            )
        if self.swapped:
            found.append(f"{self.swapped:,} of {self.images:,} images get a different class from torch's")
        return [f"{self.runtime}: {text}" for text in found]


@dataclass(frozen=True)
class ImageParity:
    """A model that takes whole images, in a runtime: its pixels against Pillow's, and its answers against torch's.

    `equal` is the share of equal bytes, `largest` and `mean` are differences of bytes (of 255 levels), `logit` is the
    largest difference of logits, and `swapped` counts images with another class although the lead was at least `CLOSE`.
    """

    runtime: str
    images: int
    equal: float
    largest: int
    mean: float
    logit: float
    swapped: int

    @property
    def failures(self) -> list[str]:
        """List the figures that are beyond their limits."""
        found = []
        if self.largest > MOST_BYTE or self.mean > MEAN_BYTE:
            found.append(
                f"pixels differ from Pillow's by up to {self.largest} levels, {self.mean:.3f} on average "
                f"(at most {MOST_BYTE} and {MEAN_BYTE:g} are allowed)"
            )
        if self.swapped > MOST_FLIPS * self.images:
            found.append(f"{self.swapped:,} of {self.images:,} images get a different class from torch's")
        return [f"{self.runtime}, whole images: {text}" for text in found]


@dataclass(frozen=True, eq=False)
class PathParity:
    """The exported path against `predict RUN`, both starting from the image file.

    `flips` is the share of images that change class, `clear_flips` of those that do so from a lead of `CLEAR` in the run.
    Without labelled images of the run, the others are None: `accuracy` and `log_loss` are differences (export minus run),
    `coverage` and `run_coverage` are those of the prediction sets, all on the set `judged_on`; `metrics` has those of run
    and export. On validation images (`val`), which training used, only the differences are given.
    """

    images: int
    flips: Estimate
    clear_flips: Estimate
    own: bool
    accuracy: Difference | None = None
    log_loss: Difference | None = None
    coverage: Estimate | None = None
    run_coverage: Estimate | None = None
    metrics: Mapping[str, Metrics] | None = None
    judged_on: str = ""

    @property
    def failures(self) -> list[str]:
        """List the figures that are beyond their limits. Rendered scenes decide nothing."""
        found = []
        clear = round(self.clear_flips.value * self.images) if self.own else 0
        chance = binomial_tail(clear, self.images, MOST_FLIPS)
        if chance < FLIPS_LEVEL:
            found.append(
                f"`predict` and the export disagree on {clear:,} of {self.images:,} images where `predict` had a clear "
                f"favourite: significantly more than the limit of {MOST_FLIPS:.1%} (p = {chance:.2g})"
            )
        if self.accuracy is not None and self.accuracy.winner:
            found.append(
                f"accuracy differs from the run's by {self.accuracy.value:+.2%} "
                f"[{self.accuracy.low:+.2%}, {self.accuracy.high:+.2%}]"
            )
        return found


@dataclass(frozen=True, eq=False)
class Parity:
    """All figures of a comparison. `about` says which images were used."""

    about: str
    reference: str
    runtimes: Sequence[RuntimeParity]
    whole_images: Sequence[ImageParity]
    path: PathParity

    def check(self) -> None:
        """Raise `ParityFailed` if any figure is beyond its limit."""
        failures = [text for each in self.runtimes for text in each.failures]
        failures += [text for each in self.whole_images for text in each.failures]
        failures += self.path.failures
        if failures:
            raise ParityFailed(
                f"The export's predictions differ from the run's: {'; '.join(failures)}. Nothing was written.",
                hint="If logits or probabilities differ from torch, the converter is at fault; another version of torch or "
                "onnxscript may help (pip install --upgrade torch onnxscript).\nIf only the comparison with `predict` fails, "
                "train again with --precision f32, or compare more images with --check.",
            )

    def summary(self) -> dict[str, Any]:
        """Return the figures for export.json: the worst of each kind."""
        return {
            "images": self.about,
            "logit": max(each.logit for each in self.runtimes),
            "probability": max(each.probability for each in self.runtimes),
            "flips": self.path.flips.to_json(),
            "coverage": None if self.path.coverage is None else self.path.coverage.to_json(),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the content of parity.json."""
        path = self.path
        pairs = {name: pair for name, pair in (("accuracy", path.accuracy), ("log_loss", path.log_loss)) if pair}
        return {
            "images": self.about,
            "reference": self.reference,
            "limits": {
                "logit": MOST_LOGIT,
                "probability": MOST_PROBABILITY,
                "flips": MOST_FLIPS,
                "close": CLOSE,
                "undecided": CLEAR,
            },
            "runtimes": [asdict(each) for each in self.runtimes],
            "whole_images": [asdict(each) for each in self.whole_images],
            "path": {
                "images": path.images,
                "own": path.own,
                "flips": path.flips.to_json(),
                "clear_flips": path.clear_flips.to_json(),
                "judged_on": path.judged_on,
                "differences": {
                    name: {"value": p.value, "low": p.low, "high": p.high, "n": p.n, "p": p.p}
                    for name, p in pairs.items()
                },
                "coverage": None if path.coverage is None else path.coverage.to_json(),
                "run_coverage": None if path.run_coverage is None else path.run_coverage.to_json(),
                "metrics": {
                    who: {name: of[name].to_json() for name in SHOWN} for who, of in (path.metrics or {}).items()
                },
            },
        }


def measure(
    classifier: Classifier,
    images: ParityImages,
    inputs: Mapping[str, Preprocess],
    reference: NetworkRunner,
    runners: Mapping[str, NetworkRunner],
) -> Measured:
    """Run every image through all runners on portable pixels, and through `predict`. `inputs` are the network's.

    An image that can no longer be read is left out. Raises `BackboneError`, `WriteError`.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("", *runners)}
    good: list[int] = []
    with bar("Comparing with the run", len(images)) as advance:
        for rows, pixels in pixel_blocks(images, inputs):
            found[""].append(reference(pixels)[0])
            for name, runner in runners.items():
                found[name] += [runner(batch)[0] for batch in _batches(pixels)]
            good += rows
            advance(len(rows))
    kept = images.take(good)
    logits = {name: np.concatenate(parts) for name, parts in found.items()}
    predicted = Predictor(classifier).predict(kept.images, names=[str(i) for i in range(len(kept))])
    readable = [int(name) for name in predicted.paths]
    reference_NK = logits.pop("")[readable]
    return Measured(
        kept.take(readable),
        reference.name,
        reference_NK,
        {name: each[readable] for name, each in logits.items()},
        predicted.logits,
    )


def pixel_blocks(
    images: ParityImages, inputs: Mapping[str, Preprocess]
) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
    """Yield rows, and their pixels by input name, uint8 (n, S, S, 3), a block at a time; decoded in threads."""

    def pixels(row: int) -> list[np.ndarray] | None:
        ref, sha256 = images.images.refs[row], images.images.sha256s[row]
        try:
            return [read_portable(ref, spec, sha256=sha256) for spec in inputs.values()]
        except UnreadableImage:
            return None

    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(images), BLOCK):
            rows = range(start, min(start + BLOCK, len(images)))
            read = {row: each for row, each in zip(rows, pool.map(pixels, rows), strict=True) if each is not None}
            if read:
                yield list(read), {name: np.stack([each[k] for each in read.values()]) for k, name in enumerate(inputs)}


def _batches(pixels: Mapping[str, np.ndarray], size: int = 8) -> Iterator[dict[str, np.ndarray]]:
    count = len(next(iter(pixels.values())))
    for start in range(0, count, size):
        yield {name: each[start : start + size] for name, each in pixels.items()}


def carried_over(calibration: Calibration) -> ExportCalibration:
    """Return a run's calibration for an export that has not been compared with it."""
    return ExportCalibration(
        conformal_threshold=calibration.conformal_threshold,
        conformal_alpha=calibration.conformal_alpha,
        clip=calibration.clip,
    )


def refit(measured: Measured, calibration: Calibration) -> ExportCalibration:
    """Return the calibration of the exported path: the run's, shifted by the effect of its pixels and precision.

    Without validation images, it is the run's own.
    """
    own, rows = carried_over(calibration), np.flatnonzero(measured.images.sets_N == "val")
    if not len(rows):
        return own
    labels_N, groups_N = measured.images.labels_N[rows], measured.images.groups_N[rows]
    before_NK, after_NK = measured.run_NK[rows], measured.export_NK[rows]
    temperature = fit_temperature(after_NK, labels_N) / fit_temperature(before_NK, labels_N)
    before, after = (
        conformal_threshold(softmax(x), labels_N, own.conformal_alpha, groups=groups_N)
        for x in (before_NK, after_NK / temperature)
    )
    threshold = float(np.clip(own.conformal_threshold + after - before, 0.0, 1.0))
    return replace(own, temperature=temperature, conformal_threshold=threshold, images=len(rows))


def judge(
    measured: Measured, fitted: ExportCalibration, finished: FinishedParity, classifier: Classifier, seed: int
) -> Parity:
    """Return all figures; `finished` are those of the files as they will be written."""
    t = fitted.temperature
    runtimes = [
        compared(name, measured.reference_NK / t, logits_NK / t) for name, logits_NK in measured.runtimes.items()
    ]
    return Parity(
        measured.images.about,
        measured.reference,
        [*runtimes, *finished.batches],
        finished.whole_images,
        _path(measured, fitted, classifier, seed),
    )


@dataclass(frozen=True, eq=False)
class FinishedParity:
    """Comparisons of the files as they will be written: networks in batches of several sizes, and models of whole images."""

    batches: Sequence[RuntimeParity]
    whole_images: Sequence[ImageParity]


def measure_finished(
    images: ParityImages,
    inputs: Mapping[str, Preprocess],
    reference: NetworkRunner,
    temperature: float,
    networks: Sequence[ExportRunner],
    whole: Sequence[ExportRunner],
) -> FinishedParity:
    """Compare finished files with the reference on a few images: `networks`, and models that take `whole` images."""
    few = images.take(_spread(images))
    rows, pixels = next(pixel_blocks(few, inputs))
    expected_NK = reference(pixels)[0] / temperature
    outputs: list[list[dict[str, np.ndarray]]] = [[] for _ in whole]
    for row in rows if whole else ():  # one whole image in memory at once
        image_HWC = np.asarray(few.images.read(row, ranges=_ranges(inputs)))
        for found, runner in zip(outputs, whole, strict=True):
            found.append(runner.outputs({"image": image_HWC}))
    return FinishedParity(
        [_of_batches(runner, pixels, expected_NK) for runner in networks],
        [_of_whole_images(runner.name, each, pixels, expected_NK) for runner, each in zip(whole, outputs, strict=True)],
    )


def _spread(images: ParityImages) -> np.ndarray:
    """Return rows spread evenly over the images."""
    return np.unique(np.linspace(0, len(images) - 1, MOST_WHOLE).round().astype(np.int64))


def _ranges(inputs: Mapping[str, Preprocess]) -> ValueRanges:
    return next(iter(inputs.values())).ranges


def _of_batches(runner: ExportRunner, pixels: Mapping[str, np.ndarray], expected_NK: np.ndarray) -> RuntimeParity:
    """Run the same images in batches of each size in `BATCHES`, to notice a batch size fixed by the conversion."""
    answers = [runner(batch) for size in BATCHES for batch in _batches(pixels, size)]
    logits_NK, chances_NK = (np.concatenate([answer[k] for answer in answers]) for k in (0, 1))
    sizes = f"{', '.join(map(str, BATCHES[:-1]))} and {BATCHES[-1]}"
    name = f"{runner.name}, batches of {sizes}"
    return compared(name, np.concatenate([expected_NK] * len(BATCHES)), logits_NK, chances_NK)


def _of_whole_images(
    runtime: str,
    found: Sequence[Mapping[str, np.ndarray]],
    pixels: Mapping[str, np.ndarray],
    expected_NK: np.ndarray,
) -> ImageParity:
    """Compare the outputs that a model gave for each whole image."""
    levels = np.concatenate(
        [
            (np.concatenate([each[name] for each in found]).astype(np.int16) - known).ravel()
            for name, known in pixels.items()
        ]
    )
    network = compared(runtime, expected_NK, np.concatenate([each["logits"] for each in found]))
    return ImageParity(
        runtime=runtime,
        images=len(found),
        equal=float((levels == 0).mean()),
        largest=int(np.abs(levels).max()),
        mean=float(np.abs(levels).mean()),
        logit=network.logit,
        swapped=network.swapped,
    )


def compared(
    runtime: str, reference_NK: np.ndarray, logits_NK: np.ndarray, probabilities_NK: np.ndarray | None = None
) -> RuntimeParity:
    """Compare a runtime's logits (and probabilities; by default their softmax) with the reference's, (N, K) each."""
    chances_NK = softmax(logits_NK) if probabilities_NK is None else probabilities_NK
    best_N = reference_NK.argmax(axis=1)
    ordered_NK = np.sort(reference_NK, axis=1)
    close_N = ordered_NK[:, -1] - ordered_NK[:, -2] < CLOSE
    other_N = logits_NK.argmax(axis=1) != best_N
    return RuntimeParity(
        runtime=runtime,
        images=len(reference_NK),
        logit=_largest(logits_NK - reference_NK),
        probability=_largest(chances_NK - softmax(reference_NK)),
        swapped=int((other_N & ~close_N).sum()),
        close=int(close_N.sum()),
    )


def _largest(differences_NK: np.ndarray) -> float:
    """Return the largest absolute difference; NaN if any is."""
    return float(np.abs(differences_NK).max(initial=0.0))


def _path(measured: Measured, fitted: ExportCalibration, classifier: Classifier, seed: int) -> PathParity:
    images = measured.images
    run_NK, export_NK = measured.run_NK, np.asarray(measured.export_NK / fitted.temperature, np.float32)
    flipped_N = run_NK.argmax(axis=1) != export_NK.argmax(axis=1)
    clear_N = np.diff(np.sort(softmax(run_NK), axis=1)[:, -2:])[:, 0] >= CLEAR
    flips, clear = (wilson(int(each.sum()), len(images)) for each in (flipped_N, flipped_N & clear_N))
    bare = PathParity(len(images), flips, clear, images.own)
    judged = "test" if (images.sets_N == "test").any() else "val"
    rows = np.flatnonzero((images.sets_N == judged) & (images.labels_N >= 0))
    if not len(rows):
        return bare
    labels_N, groups_N = images.labels_N[rows], images.groups_N[rows]
    both = {"run": run_NK[rows], "export": export_NK[rows]}
    right_NT = np.stack([both[who].argmax(axis=1) == labels_N for who in ("export", "run")], axis=1)
    loss_NT = np.stack([cross_entropies(both[who].astype(np.float64), labels_N) for who in ("export", "run")], axis=1)
    pairs = {
        pair.metric: pair for pair in differences(["export", "run"], right_NT, loss_NT, groups=groups_N, seed=seed)
    }
    compared_only = replace(bare, accuracy=pairs["accuracy"], log_loss=pairs["log_loss"], judged_on=judged)
    if judged == "val":
        return compared_only
    of_each = {
        who: compute_metrics(each, labels_N, classifier.classes, groups=groups_N, seed=seed)
        for who, each in both.items()
    }
    return replace(
        compared_only,
        coverage=_coverage(both["export"], labels_N, groups_N, fitted.conformal_threshold),
        run_coverage=_coverage(both["run"], labels_N, groups_N, classifier.calibration.conformal_threshold),
        metrics=of_each,
    )


def _coverage(logits_NK: np.ndarray, labels_N: np.ndarray, groups_N: np.ndarray, threshold: float) -> Estimate:
    """Return how often a prediction set contains the right class."""
    sets_NK = prediction_sets(softmax(logits_NK), threshold)
    right_N = sets_NK[np.arange(len(labels_N)), labels_N]
    return proportion(right_N, np.ones_like(right_N), groups_of(groups_N))
