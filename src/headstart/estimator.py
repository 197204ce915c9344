"""`ImageClassifier`: headstart as a scikit-learn estimator.

    from headstart import ImageClassifier
    model = ImageClassifier(weights_dir="weights").fit(paths, labels)
    model.predict_proba(["one.jpg"])

It does what `headstart.train` does, with the same functions, but without a test set and without writing files.
Cross-validation, grid searches and pipelines work with it; features are cached per image, so all folds and all head
settings together cost one embedding.

Cost: one embedding of the images, plus importing scikit-learn (1.4 s). When not to use it: for a folder of images,
`headstart.train` also checks them, tests the result, and writes a run folder that other programs can load.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from headstart.data.dataset import Dataset
from headstart.data.near_duplicates import find_copies
from headstart.data.splits import make_split, require_sets
from headstart.errors import BadLabels, DataError, RecipeError, UnreadableImage
from headstart.evaluation.probabilities import softmax
from headstart.images.image_refs import ImageRef, Images
from headstart.io.text_table import few
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.inference.predictor import Predictor
from headstart.pipeline.fit import ResolvedBackbones, fit_classifier, resolve_backbones
from headstart.pipeline.fit_task import FitTask
from headstart.pipeline.scan import with_identical_files
from headstart.training.recipe import Recipe

_EXPECTED = "paths, PIL images, or arrays of pixels, uint8 (height, width) or (height, width, 3)"


class ImageClassifier(ClassifierMixin, BaseEstimator):
    """A new head on a pretrained backbone, frozen or fine-tuned (see `approach`), as a scikit-learn classifier.

    Images, `X`: paths (str or Path), PIL images, or arrays of uint8 pixels: one array (N, H, W, 3) or (N, H, W), or a
    list of arrays of any size. Floating-point pixels are refused, because one image does not reveal their scale.
    Labels, `y`: strings or integers; `classes_` holds them sorted.

    Args:
        backbone: A timm name; join several with + to fuse them; auto combines up to four with available weights.
        approach: linear (a head fitted on the frozen backbone), finetune, head_sgd, scratch, or auto.
        image_size: Side of the input square in pixels; 0 uses the backbone's own, or less if the images are smaller.
        resize: How an image becomes a square: crop, pad or squash; auto takes the backbone's own, usually crop, and for a
            second input (frozen backbones) squash.
        head: Kind of head: ridge, lda, logistic, blend or ncm; auto picks by validation, and adds kernels if they pay.
        class_weight: None, or "balanced": weight classes inversely to their number of images (the recipe's
            `class_weight`, where None is "none").
        validation_fraction: Fraction of the images, stratified, used to choose and to calibrate; the final head is
            fitted on all images (the recipe's `val_size`).
        budget: Time to spend, such as 2m, 10m or 2h: the search for a backbone and fine-tuning keep within it.
        device: auto, cpu or cuda.
        precision: auto (bf16 if the CPU supports it), bf16 or f32.
        random_state: int, RandomState or None, for the validation set (the recipe's `seed`).
        weights: Weights file (.safetensors) of a backbone; name the backbone too if there is no JSON file beside it.
        weights_dir: Folder of NAME.safetensors and NAME.json.
        offline: Make no outgoing connections.
        max_download: Maximum megabytes of weights to download if no backbone is named and none is on this machine; 0
            downloads none.

    Attributes:
        classes_: The labels, sorted, of shape (K,).
        classifier_: The `headstart.Classifier`: backbones, heads, temperature.
        split_: The set that each image of `X` was in, "train" or "val", of shape (N,).
        history_: One `HistoryRow` per candidate, as in a run's history.csv.

    It pickles like any estimator, with the path of the weights file instead of the weights: the file must still exist. That of
    a network trained by gradient descent is in headstart's cache (`HEADSTART_CACHE`), under `tuned`; each `fit` adds one.

    >>> ImageClassifier(head="ridge").set_params(resize="squash")
    ImageClassifier(head='ridge', resize='squash')
    """

    def __init__(
        self,
        backbone: str = "auto",
        *,
        approach: str = "linear",
        image_size: int = 0,
        resize: str = "auto",
        head: str = "auto",
        class_weight: str | None = None,
        validation_fraction: float = 0.2,
        budget: str = "10m",
        device: str = "auto",
        precision: str = "auto",
        random_state: int | np.random.RandomState | None = 0,
        weights: Path | str | None = None,
        weights_dir: Path | str | None = None,
        offline: bool = False,
        max_download: int = 500,
    ) -> None:
        self.backbone = backbone
        self.approach = approach
        self.image_size = image_size
        self.resize = resize
        self.head = head
        self.class_weight = class_weight
        self.validation_fraction = validation_fraction
        self.budget = budget
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.weights = weights
        self.weights_dir = weights_dir
        self.offline = offline
        self.max_download = max_download

    def fit(self, X: Any, y: Any, groups: Any = None) -> ImageClassifier:
        """Choose backbones by leave-one-out and heads on a validation set, or by cross-validation if there are few images;
        calibrate on it, then fit the heads on all images.

        `groups` (N,) has equal values for images that are not independent, such as those of one patient. They stay in one set
        of the split, as copies of an image do. Raises `RecipeError` (parameters), `DataError` (`X` is not a list of images,
        lengths differ, a missing group), `BadLabels` (`y`), `UnreadableImage`, `BackboneError`, `WriteError`.
        """
        recipe = self._recipe()
        refs, names = _images(X)
        classes, labels_N = _labels(y, len(refs))
        groups_N = np.arange(len(refs)) if groups is None else _groups(groups, len(refs))
        resolved = self._resolved(recipe, len(refs))
        images = Images.inspect(refs)
        _refuse_unreadable(names, images, "fit cannot use a label without its image")
        copies = find_copies(images, labels_N)
        unsplit = _dataset(images, labels_N, classes, groups_N)
        dataset = make_split(unsplit, seed=recipe.seed, val_size=recipe.val_size, test_size=0.0, near=copies.groups_N)
        require_sets(dataset, ("train", "val"), hint="Add images.")
        result = fit_classifier(FitTask(dataset, images, recipe, resolved.runtime), resolved)
        self.classes_ = classes
        self.classifier_ = result.classifier
        self.split_ = dataset.split
        self.history_ = result.history
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the likeliest label of each image (N,), from `classes_`. Raises `DataError`, `UnreadableImage`."""
        logits_NK = self._logits(X)
        return self.classes_[logits_NK.argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return calibrated probabilities, float64 (N, K), columns in the order of `classes_`.

        Raises `DataError`, `UnreadableImage`.
        """
        return softmax(self._logits(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """Return calibrated logits, float32 (N, K); for two classes (N,), the second class minus the first."""
        logits_NK = self._logits(X)
        return logits_NK[:, 1] - logits_NK[:, 0] if len(self.classes_) == 2 else logits_NK

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        refs, names = _images(X)
        images = Images.inspect(refs)
        _refuse_unreadable(names, images, "scikit-learn needs a prediction for every image")
        numbers = [str(i) for i in range(len(refs))]  # a path may occur twice
        predictions = Predictor(self.classifier_).predict(images, numbers)
        if predictions.errors:
            first = names[min(map(int, predictions.errors))]
            raise UnreadableImage(f"{first}: changed while in use.", reason="changed")
        return predictions.logits

    def _recipe(self) -> Recipe:
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        if not 0 < self.validation_fraction < 1:  # the recipe calls it val_size
            raise RecipeError(
                f"validation_fraction {self.validation_fraction} cannot be used: expected a fraction between 0 and 1, such as "
                "0.2."
            )
        return Recipe(
            backbone=self.backbone,
            approach=self.approach,
            image_size=self.image_size,
            resize=self.resize,
            head=self.head,
            class_weight="none" if self.class_weight is None else self.class_weight,
            budget=self.budget,
            val_size=self.validation_fraction,
            device=self.device,
            precision=self.precision,
            seed=int(seed),
        )

    def _resolved(self, recipe: Recipe, images: int) -> ResolvedBackbones:
        file, folder = (None if path is None else Path(path) for path in (self.weights, self.weights_dir))
        weights = WeightsSource(file, folder, self.offline, self.max_download)
        return resolve_backbones(recipe, weights=weights, images=images)

    def __sklearn_tags__(self) -> Any:
        """Opt out of scikit-learn's checks of numeric tables: images are not one."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.no_validation = True
        return tags


def _images(X: Any) -> tuple[list[ImageRef], list[str]]:
    """Return the images of `X`, and the name of each in errors: its path, or its index. Raises `DataError`."""
    if isinstance(X, str | bytes | Path | Image.Image):
        raise DataError("X: one image, expected several.", hint="Put it into a list: [X].")
    items: Any = X if isinstance(X, list | tuple) else _rows(X)
    if not len(items):
        raise DataError("X: no images.", hint=f"Expected {_EXPECTED}.")
    sources = [_source(item, i) for i, item in enumerate(items)]
    return sources, [str(s) if isinstance(s, Path) else f"X[{i}]" for i, s in enumerate(sources)]


def _rows(X: Any) -> np.ndarray:
    """Return the rows of an array, or of one column of a table."""
    array = np.asarray(X)
    if array.dtype.kind in "OUT":
        if array.ndim == 2 and array.shape[1] == 1:  # one column of a data frame
            array = array[:, 0]
        if array.ndim != 1:
            raise DataError(f"X: shape {array.shape}, expected one image per row.", hint=f"Expected {_EXPECTED}.")
    elif array.ndim == 3 and array.shape[2] in (3, 4):
        raise DataError(f"X: shape {array.shape} looks like one image, expected several.", hint="Give X[None].")
    elif array.ndim not in (3, 4):
        raise DataError(f"X: shape {array.shape}, expected (N, H, W, 3) or (N, H, W).", hint=f"Or {_EXPECTED}.")
    return array


def _source(item: Any, i: int) -> ImageRef:
    if isinstance(item, str | Path):
        return Path(item)
    if isinstance(item, bytes | Image.Image | np.ndarray):
        return item
    if hasattr(item, "__array__"):
        return np.asarray(item)
    raise DataError(f"X[{i}]: {type(item).__name__}, expected an image.", hint=f"Expected {_EXPECTED}.")


def _labels(y: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted classes (K,), and int64 (N,) indices into them. Raises `DataError`, `BadLabels`."""
    array = _column(y, n, "label")
    _refuse_missing(array)
    try:
        classes, labels_N, counts = np.unique(array, return_inverse=True, return_counts=True)
    except TypeError:
        types = sorted({type(label).__name__ for label in array})
        raise BadLabels(f"y: labels of types {' and '.join(types)}, expected one type, such as str or int.") from None
    if len(classes) == 1:
        raise BadLabels(f"y: only one class, {classes[0]!s}; expected two or more.")
    if n < 2 * len(classes):
        listed = few([f"{c!s} {k:,}" for c, k in zip(classes, counts, strict=True)], 3)
        raise BadLabels(
            f"y: {n:,} images of {len(classes):,} classes ({listed}), expected at least {2 * len(classes):,}."
        )
    return classes, labels_N.astype(np.int64)


def _groups(groups: Any, n: int) -> np.ndarray:
    """Return an int64 number for each group (N,), in the order in which they first appear. Raises `DataError`."""
    values = _column(groups, n, "group").tolist()
    missing = next((i for i, value in enumerate(values) if _is_missing(value)), None)
    if missing is not None:
        raise DataError(
            f"groups[{missing}]: {values[missing]}, expected a group.", hint="Give such images a group each."
        )
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


def _column(values: Any, n: int, what: str) -> np.ndarray:
    """Return labels or groups as an array (N,), of objects if they are of several types: numpy would make a NaN among strings
    the text 'nan'. Raises `DataError`."""
    array = np.asarray(values)
    if isinstance(values, list | tuple) and array.dtype.kind in "US" and array.shape == (len(values),):
        array = array if all(isinstance(value, str | bytes) for value in values) else np.array(values, object)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (n,):
        of = "y" if what == "label" else "groups"
        raise DataError(f"X and {of}: {n:,} images and {what}s of shape {array.shape}, expected one {what} per image.")
    return array


def _refuse_missing(array: np.ndarray) -> None:
    missing = [i for i, label in enumerate(array.tolist()) if _is_missing(label)]
    if missing:
        raise BadLabels(
            f"y[{missing[0]}]: {array[missing[0]]}, expected a label.", hint="Leave out images without a label."
        )
    if array.dtype.kind == "f" and (array != np.round(array)).any():
        first = int(np.flatnonzero(array != np.round(array))[0])
        raise BadLabels(f"y[{first}]: {array[first]}, expected classes, not measurements.")


def _is_missing(label: Any) -> bool:
    """Return whether a label is None, NaN or pandas' NA, of which no comparison is true or false."""
    try:
        return label is None or bool(label != label)
    except TypeError:
        return True


def _dataset(images: Images, labels_N: np.ndarray, classes: np.ndarray, groups_N: np.ndarray) -> Dataset:
    """Return a dataset whose image names derive from their contents.

    So the validation set depends neither on their order, nor on whether they came as files or as pixels (the difference
    hash is the same; SHA-256 only breaks ties).
    """
    infos = images.infos
    marks = [f"{info.dhash & 0xFFFF_FFFF_FFFF_FFFF:016x}-{info.width}x{info.height}" for info in infos]
    counts: Counter[str] = Counter()
    names = [""] * len(infos)
    for i in sorted(range(len(infos)), key=lambda i: (marks[i], infos[i].sha256)):
        names[i] = f"{marks[i]}-{counts[marks[i]]}"
        counts[marks[i]] += 1
    dataset = Dataset(
        root=Path("X"),
        paths=tuple(names),
        labels=labels_N,
        classes=tuple(map(str, classes)),
        split=np.full(len(infos), "", "<U5"),
        groups=groups_N,
    )
    return with_identical_files(dataset, images)


def _refuse_unreadable(names: Sequence[str], images: Images, why: str) -> None:
    bad = [i for i, info in enumerate(images.infos) if info.reason]
    if bad:
        first = images.infos[bad[0]]
        count = f"{len(bad):,} of {len(names):,} images cannot be read, and {why}."
        way_out = " Leave them out; `headstart.check` and `headstart.predict` list them all and continue."
        alike = len(bad) == len(names) and len({info.reason for info in images.infos}) == 1
        raise UnreadableImage(
            f"{names[bad[0]]}: {first.message}",
            reason=first.reason,
            hint=count if alike else count + way_out,
        )
