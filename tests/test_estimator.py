"""`ImageClassifier` as scikit-learn's users meet it: kinds of images, model selection, and what it says when it refuses."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

import headstart
from conftest import draw
from headstart import ImageClassifier
from headstart.errors import BackboneError, BadLabels, BadSplit, DataError, RecipeError, UnreadableImage
from headstart.images.image_refs import Images, as_rgb


@pytest.fixture
def model(own_cache: Path, warm_cache: Path, tiny_weights: Path) -> ImageClassifier:
    """One tiny backbone, so that nothing has to be chosen."""
    shutil.copytree(warm_cache, own_cache, dirs_exist_ok=True)
    return ImageClassifier("test_resnet.a", head="lda", weights_dir=tiny_weights)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """24 images, 12 of each of two kinds, all of one size."""
    return [draw(kind, n) for kind in (0, 1) for n in range(12)]


LABELS = ["stripe"] * 12 + ["bar"] * 12


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, images: list[Image.Image]) -> list[Path]:
    """The same images as PNG files."""
    folder = tmp_path_factory.mktemp("png")
    paths = [folder / f"{i:02}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    return paths


def test_it_learns_and_answers_in_the_labels_given(
    model: ImageClassifier, files: list[Path], tiny_weights: Path
) -> None:
    assert model.fit(files, LABELS) is model
    assert model.classes_.tolist() == ["bar", "stripe"]
    probabilities = model.predict_proba(files)
    assert probabilities.shape == (24, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    predicted = model.predict(files)
    assert predicted.tolist() == model.classes_[probabilities.argmax(axis=1)].tolist()
    assert ((model.decision_function(files) > 0) == (predicted == "stripe")).all()
    assert model.score(files, LABELS) == np.mean(predicted == np.array(LABELS))
    assert model.classifier_.members[0].extractor.backbone.name == "test_resnet.a"
    assert {trial.head for trial in model.history_} == {"lda"}


def test_all_kinds_of_images_give_the_same_answers_to_the_bit(
    model: ImageClassifier, files: list[Path], images: list[Image.Image]
) -> None:
    arrays = np.stack([np.asarray(p) for p in images])
    model.fit(files, LABELS)
    expected = model.decision_function(files)
    as_object = np.empty(24, object)
    as_object[:] = files
    kinds = {
        "texts": [str(f) for f in files],
        "array of texts": np.array([str(f) for f in files]),
        "a column": as_object[:, None],
        "PIL": images,
        "one array": arrays,
        "a list of arrays": list(arrays),
        "mixed": [*files[:8], *images[8:16], *arrays[16:]],
        "RGBA": [p.convert("RGBA") for p in images],
    }
    for kind, X in kinds.items():
        assert (model.decision_function(X) == expected).all(), kind
    for kind in ("one array", "mixed"):
        again = clone(model).fit(kinds[kind], LABELS)
        assert (again.decision_function(files) == expected).all(), kind


def test_grey_images_and_images_of_different_sizes(model: ImageClassifier) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (12, 40, 50), dtype=np.uint8)
    y = [0, 1] * 6
    model.fit(grey, y)
    assert model.classes_.tolist() == [0, 1]
    assert model.classes_.dtype == np.array(y).dtype
    as_rgb = np.repeat(grey[..., None], 3, axis=3)
    for X in (as_rgb, grey[..., None], [Image.fromarray(g) for g in grey]):
        assert (model.decision_function(X) == model.decision_function(grey)).all()
    odd = [draw(0, n, size=(30 + n, 70 - n)) for n in range(4)]
    assert model.predict_proba(odd).shape == (4, 2)
    wider = clone(model).fit(list(grey) + odd, y + [2] * 4)
    assert wider.decision_function(odd).shape == (4, 3)


def test_a_pil_image_is_turned_and_composed_as_its_file_would_be(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    turned, alpha = tmp_path / "turned.png", tmp_path / "alpha.png"
    draw(1, 1).save(turned, exif=exif)
    draw(1, 2).convert("LA").save(alpha)
    for file in (turned, alpha):
        with Image.open(file) as opened, open(file, "rb") as bytes_:
            expected = headstart.images.decode.decode(bytes_)
            assert as_rgb(opened).size == expected.size
            assert as_rgb(opened).tobytes() == expected.tobytes()
    from_file, from_memory = Images.inspect([turned, Image.open(turned)]).infos
    assert (from_file.width, from_file.height, from_file.dhash) == (
        from_memory.width,
        from_memory.height,
        from_memory.dhash,
    )


def test_an_image_in_memory_is_known_by_its_pixels() -> None:
    image = draw(0, 0)
    changed = np.asarray(image).copy()
    changed[5, 5, 0] ^= 1
    turned = np.ascontiguousarray(np.asarray(image).reshape(96, 72, 3))
    same, also, other, shape = Images.inspect([image, np.asarray(image), changed, turned]).sha256s
    assert same == also
    assert len({same, other, shape}) == 3


def test_cross_validation_and_grid_search(model: ImageClassifier, files: list[Path]) -> None:
    folds = StratifiedKFold(3)
    scores = cross_val_score(model, files, LABELS, cv=folds, error_score="raise")
    assert scores.shape == (3,)
    search = GridSearchCV(model, {"head": ["ridge", "ncm"]}, cv=folds, scoring="neg_log_loss", error_score="raise")
    search.fit(np.array([str(f) for f in files]), LABELS)
    assert search.best_params_["head"] in ("ridge", "ncm")
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict_proba(files).shape == (24, 2)


def test_pipeline_with_a_step_of_ones_own(model: ImageClassifier, files: list[Path]) -> None:
    inverted = FunctionTransformer(lambda paths: [255 - np.asarray(Image.open(p)) for p in paths])
    pipeline = Pipeline([("invert", inverted), ("classify", model)]).fit(files, LABELS)
    straight = clone(model).fit([255 - np.asarray(Image.open(p)) for p in files], LABELS)
    assert (pipeline.predict_proba(files) == straight.predict_proba(inverted.transform(files))).all()
    assert pipeline.set_params(classify__head="ncm").get_params()["classify__head"] == "ncm"


def test_the_answer_does_not_depend_on_the_order_of_the_images(model: ImageClassifier, files: list[Path]) -> None:
    order = np.random.default_rng(1).permutation(24)
    first = model.fit(files, LABELS).decision_function(files)
    shuffled = clone(model).fit([files[i] for i in order], [LABELS[i] for i in order])
    np.testing.assert_allclose(shuffled.decision_function(files), first, rtol=1e-3, atol=1e-4)


def test_random_states_as_scikit_learn_has_them(model: ImageClassifier, files: list[Path]) -> None:
    def logits(state: object) -> np.ndarray:
        return clone(model).set_params(random_state=state).fit(files, LABELS).decision_function(files)

    assert (logits(3) == logits(np.int64(3))).all()
    assert (logits(np.random.RandomState(7)) == logits(np.random.RandomState(7))).all()
    assert np.isfinite(logits(None)).all()


def test_pickled_and_back_it_says_the_same(model: ImageClassifier, files: list[Path]) -> None:
    model.fit(files, LABELS)
    again = pickle.loads(pickle.dumps(model))
    assert (again.decision_function(files) == model.decision_function(files)).all()


def test_what_is_trained_is_what_train_makes(
    model: ImageClassifier, photos: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    """With the same images for train and val, both give the same kind of head; this compares the features they use."""
    recipe = headstart.Recipe(approach="linear", backbone="test_resnet.a", head="lda")
    run = headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    paths = sorted(photos.glob("*/*.jpg"))
    model.fit(paths, [p.parent.name for p in paths])
    assert model.classifier_.classes == run.classifier.classes
    assert model.classifier_.runtime == run.classifier.runtime
    assert model.classifier_.members[0].extractor == run.classifier.members[0].extractor


# --------------------------------------------------------------------------------------------------- scikit-learn's own
@pytest.mark.parametrize(
    "check",
    [
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_get_params_invariance",
        "check_set_params",
        "check_estimator_tags_renamed",
        "check_valid_tag_types",
        "check_mixin_order",
    ],
)
def test_scikit_learns_checks_that_need_no_table_of_numbers(check: str) -> None:
    found = getattr(estimator_checks, check, None)
    if found is None:
        pytest.skip("this version of scikit-learn has no such check")
    found("ImageClassifier", ImageClassifier())


def test_it_is_a_classifier_that_is_not_fitted_yet(files: list[Path]) -> None:
    assert is_classifier(ImageClassifier())
    for method in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            getattr(ImageClassifier(), method)(files)
    assert repr(ImageClassifier(head="ridge", image_size=64)) == "ImageClassifier(head='ridge', image_size=64)"


# --------------------------------------------------------------------------------------------------------- what is refused
EXPECTED = "paths, PIL images, or arrays of pixels, uint8 (height, width) or (height, width, 3)"
MANY = [np.zeros((8, 8, 3), np.uint8)] * 4


@pytest.mark.parametrize(
    ("X", "y", "error", "text"),
    [
        ("one.jpg", ["a"], DataError, "X: one image, expected several.\n  Put it into a list: [X]."),
        ([], [], DataError, f"X: no images.\n  Expected {EXPECTED}."),
        ([1.5, 2.5], [0, 1], DataError, f"X[0]: float, expected an image.\n  Expected {EXPECTED}."),
        (
            np.zeros((20, 30, 3), np.uint8),
            [0] * 20,
            DataError,
            "X: shape (20, 30, 3) looks like one image, expected several.\n  Give X[None].",
        ),
        (
            np.zeros((20, 30)),
            [0] * 20,
            DataError,
            f"X: shape (20, 30), expected (N, H, W, 3) or (N, H, W).\n  Or {EXPECTED}.",
        ),
        (MANY, [0, 1], DataError, "X and y: 4 images and labels of shape (2,), expected one label per image."),
        (MANY, ["a"] * 4, BadLabels, "y: only one class, a; expected two or more."),
        (MANY, ["a", "b", None, "a"], BadLabels, "y[2]: None, expected a label.\n  Leave out images without a label."),
        (
            MANY,
            [0.0, 1.0, float("nan"), 1.0],
            BadLabels,
            "y[2]: nan, expected a label.\n  Leave out images without a label.",
        ),
        (MANY, [0.0, 1.0, 0.5, 1.0], BadLabels, "y[2]: 0.5, expected classes, not measurements."),
        (
            MANY,
            np.array([1, "a", 1, "a"], object),
            BadLabels,
            "y: labels of types int and str, expected one type, such as str or int.",
        ),
        (
            MANY,
            ["a", 1, "a", 1],
            BadLabels,
            "y: labels of types int and str, expected one type, such as str or int.",
        ),
        (
            MANY,
            ["a", "b", float("nan"), "a"],
            BadLabels,
            "y[2]: nan, expected a label.\n  Leave out images without a label.",
        ),
        (MANY, [0, 1, 2, 1], BadLabels, "y: 4 images of 3 classes (0 1, 1 2, 2 1), expected at least 6."),
    ],
)
def test_wrong_x_and_y(model: ImageClassifier, X: object, y: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        model.fit(X, y)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        (["anna", "ben"], "X and groups: 4 images and groups of shape (2,), expected one group per image."),
        (["anna", "ben", None, "anna"], "groups[2]: None, expected a group.\n  Give such images a group each."),
        (["anna", "ben", float("nan"), "anna"], "groups[2]: nan, expected a group.\n  Give such images a group each."),
    ],
)
def test_wrong_groups(model: ImageClassifier, groups: list[object], text: str) -> None:
    with pytest.raises(DataError) as caught:
        model.fit(MANY, ["a", "b", "a", "b"], groups)
    assert str(caught.value) == text


def test_images_of_one_group_stay_in_one_set(model: ImageClassifier) -> None:
    drawn = [draw(kind, n) for n in range(16) for kind in range(2)]
    patients = [f"patient {i // 4}" for i in range(len(drawn))]
    fitted = model.fit(drawn, ["a", "b"] * 16, groups=patients)
    sets = {patient: {str(fitted.split_[i]) for i, p in enumerate(patients) if p == patient} for patient in patients}
    assert {len(names) for names in sets.values()} == {1} and set.union(*sets.values()) == {"train", "val"}


def test_labels_are_checked_before_weights_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^X and y: 4 images and labels of shape"):
        ImageClassifier("resnet18.nowhere", weights_dir=tmp_path / "none").fit(MANY, [0, 1])


def test_missing_labels_as_pandas_has_them(model: ImageClassifier) -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(BadLabels) as caught:
        model.fit(MANY, pandas.Series(["a", "b", None, "a"], dtype="string"))
    assert str(caught.value) == "y[2]: <NA>, expected a label.\n  Leave out images without a label."


def test_too_few_images_for_a_validation_set(model: ImageClassifier) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    with pytest.raises(BadSplit) as caught:
        model.fit(pixels, ["a", "b", "a", "b"])
    assert str(caught.value) == (
        "X: no images are left for the validation set: 4 images are too few for two sets.\n  Add images."
    )


WAY_OUT = "Leave them out; `headstart.check` and `headstart.predict` list them all and continue."


def test_pixels_of_another_kind_are_refused(model: ImageClassifier) -> None:
    y = [0, 1] * 3
    with pytest.raises(UnreadableImage) as caught:
        model.fit(np.zeros((6, 8, 8, 3), np.float32), y)
    assert str(caught.value) == (
        "X[0]: an array of float32, expected uint8 from 0 to 255. Convert pixels from 0 to 1 with (255 * "
        "x).round().astype('uint8').\n"
        "  6 of 6 images cannot be read, and fit cannot use a label without its image."
    )  # and not to leave all of them out
    with pytest.raises(UnreadableImage, match=r"X\[0\]: an array of shape \(3, 8, 9\), expected \(height, width\)"):
        model.fit(np.zeros((6, 3, 8, 9), np.uint8), y)
    with pytest.raises(UnreadableImage, match=r"X\[0\]: an array of bool, expected uint8 from 0 to 255\.\n"):
        model.fit(np.zeros((6, 8, 8), bool), y)


def test_an_unreadable_image_is_named(model: ImageClassifier, files: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(files[0].read_bytes()[:300])
    message = "1 of 25 images cannot be read, and fit cannot use a label without its image."
    with pytest.raises(UnreadableImage) as caught:
        model.fit([*files, bad], [*LABELS, "bar"])
    assert caught.value.reason == "truncated"
    assert str(caught.value).startswith(f"{bad}: PNG:")
    assert str(caught.value).endswith(f"\n  {message} {WAY_OUT}")
    model.fit(files, LABELS)
    missing = tmp_path / "missing.png"
    with pytest.raises(UnreadableImage) as caught:
        model.predict([files[0], missing, bad])
    assert caught.value.reason == "not_a_file"
    assert str(caught.value).startswith(f"{missing}: ")
    assert "2 of 3 images cannot be read, and scikit-learn needs a prediction for every image." in str(caught.value)
    damaged = Image.open(bad)
    with pytest.raises(UnreadableImage, match=r"^X\[0\]: PNG: "):
        model.predict([damaged])


def test_parameters_are_checked_when_it_is_fitted(model: ImageClassifier, files: list[Path]) -> None:
    for name, value, text in (
        ("head", "ridgy", "head 'ridgy' is not known: expected auto, ridge, lda, logistic, blend, ncm."),
        ("class_weight", {"bar": 2}, "class_weight {'bar': 2} is not known: expected none, balanced."),
        (
            "validation_fraction",
            0.0,
            "validation_fraction 0.0 cannot be used: expected a fraction between 0 and 1, such as 0.2.",
        ),
        ("max_download", -1, "max_download -1 is not a number of megabytes."),
    ):
        with pytest.raises((RecipeError, BackboneError)) as caught:
            clone(model).set_params(**{name: value}).fit(files, LABELS)
        assert caught.value.message == text
