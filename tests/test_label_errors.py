"""Wrong labels: the ranking against arithmetic by hand, the folds against scikit-learn, and `check --labels` as it is used."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import headstart
from conftest import draw, write_photos
from headstart import cli
from headstart.data.curation import Curation
from headstart.data.folds import FOLDS, assign_folds
from headstart.errors import BadLabels, DataError, MissingWeights
from headstart.evaluation.confident_learning import label_issues, label_thresholds
from headstart.io.files import read_csv, write_csv
from headstart.model.backbones.weights_source import WeightsSource
from headstart.pipeline.label_errors import out_of_fold, suspected_labels


def blobs(n: int, classes: int, dim: int = 12, seed: int = 0, apart: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes: float32 (N, D) and labels (N,)."""
    rng = np.random.default_rng(seed)
    labels_N = np.arange(n) % classes
    means_KD = apart * rng.normal(size=(classes, dim)) / np.sqrt(2)
    return (means_KD[labels_N] + rng.normal(size=(n, dim))).astype(np.float32), labels_N


def replaced(labels_N: np.ndarray, classes: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which a share is another class, and which those are."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(labels_N), round(share * len(labels_N)), replace=False)
    wrong_N = labels_N.copy()
    wrong_N[chosen] = (labels_N[chosen] + rng.integers(1, classes, len(chosen))) % classes
    return wrong_N, wrong_N != labels_N


# Confident learning


def test_by_hand() -> None:
    """Thresholds 0.7 and 0.6; row 2 counts as class 1 against its label, row 5 as class 0, row 3 as neither."""
    p_NK = np.array(
        [[0.95, 0.05], [0.95, 0.05], [0.3, 0.7], [0.6, 0.4], [0.1, 0.9], [0.8, 0.2], [0.1, 0.9], [0.6, 0.4]]
    )
    labels_N = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert np.allclose(label_thresholds(p_NK, labels_N), [0.7, 0.6])
    found = label_issues(p_NK, labels_N)
    # counted: label 0: two as 0, one as 1; label 1: one as 0, two as 1. Each row has half of the images.
    assert np.allclose(found.joint_KK, [[1 / 3, 1 / 6], [1 / 6, 1 / 3]])
    assert np.isclose(found.share, 1 / 3)
    # 8 / 3 images, so three: all whose likeliest class is another, the least believed label first.
    assert found.order.tolist() == [5, 2, 7]
    assert found.suggested.tolist() == [0, 1, 0]
    assert np.allclose(found.label_quality, [0.2, 0.3, 0.4])


def test_images_without_a_label_are_left_out() -> None:
    p_NK = np.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.2, 0.8]])
    some = label_issues(np.insert(p_NK, 1, [0.5, 0.5], axis=0), np.array([0, -1, 0, 1, 1]))
    all_of_them = label_issues(p_NK, np.array([0, 0, 1, 1]))
    assert some.order.tolist() == [3]
    assert np.array_equal(some.joint_KK, all_of_them.joint_KK)


def test_a_class_without_images_is_not_suggested() -> None:
    p_NK = np.array([[0.1, 0.0, 0.9], [0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1]])
    found = label_issues(p_NK, np.array([1, 0, 1, 1]))
    assert 2 not in found.suggested
    assert found.joint_KK[2].sum() == found.joint_KK[:, 2].sum() == 0


def test_nothing_to_say() -> None:
    for found in (
        label_issues(np.empty((0, 3)), np.empty(0, np.int64)),
        label_issues(np.full((2, 3), 1 / 3), np.array([-1, -1])),
        label_issues(np.eye(3), np.arange(3)),
        label_issues(np.full((6, 3), 1 / 3), np.arange(6) % 3),
    ):
        assert (len(found), found.share) == (0, 0.0)


@st.composite
def judged(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n, classes = draw(st.integers(1, 30)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    return rng.dirichlet(np.full(classes, 0.4), n), rng.integers(-1, classes, n)


def by_loops(p_NK: np.ndarray, labels_N: np.ndarray) -> list[int]:
    """The same by the text of the paper, one image at a time."""
    classes, known = p_NK.shape[1], [i for i in range(len(labels_N)) if labels_N[i] >= 0]
    mine = {k: [i for i in known if labels_N[i] == k] for k in range(classes)}
    threshold = {k: np.mean([p_NK[i, k] for i in mine[k]]) for k in mine if mine[k]}
    counts = {(i, j): 0 for i in threshold for j in threshold}
    for i in known:
        over = [k for k in threshold if p_NK[i, k] >= threshold[k] - 1e-12]
        if over:
            counts[labels_N[i], max(over, key=lambda k: (p_NK[i, k], k == labels_N[i]))] += 1
    wrong = 0.0
    for i in threshold:
        row = sum(counts[i, j] for j in threshold)
        wrong += len(mine[i]) * (row - counts[i, i]) / row if row else 0.0
    likeliest = {i: max(threshold, key=lambda k: p_NK[i, k]) for i in known}
    return sorted((i for i in known if likeliest[i] != labels_N[i]), key=lambda i: p_NK[i, labels_N[i]])[
        : int(wrong + 0.5 + 1e-9)
    ]


HALVES = np.array(
    [
        [0.0, 0.99, 0.01],
        [0.13, 0.17, 0.70],
        [0.09, 0.91, 0.0],
        [0.03, 0.87, 0.10],
        [0.03, 0.35, 0.62],
        [0.23, 0.07, 0.70],
    ]
)
"""Wrong labels are estimated at 3.5, which two ways of adding it up find a little above and a little below."""


@settings(deadline=None)
@given(judged())
@example((HALVES, np.array([1, 1, 0, 0, 1, 2])))
def test_against_plain_loops(case: tuple[np.ndarray, np.ndarray]) -> None:
    p_NK, labels_N = case
    found = label_issues(p_NK, labels_N)
    assert found.order.tolist() == by_loops(p_NK, labels_N)
    assert (np.diff(found.label_quality) >= 0).all()
    assert (found.suggested != labels_N[found.order]).all()
    assert np.isclose(found.joint_KK.sum(), float((labels_N >= 0).any()))
    shares_K = np.bincount(labels_N[labels_N >= 0], minlength=p_NK.shape[1]) / max((labels_N >= 0).sum(), 1)
    assert np.allclose(found.joint_KK.sum(axis=1), shares_K)


def test_what_cannot_be_judged() -> None:
    with pytest.raises(BadLabels, match=r"^labels: expected whole numbers from 0 to 1, or -1 where unknown\.$"):
        label_issues(np.full((2, 2), 0.5), np.array([0, 2]))
    with pytest.raises(DataError, match=r"^scores: row 1 holds \[nan, 0\.5\]; expected finite numbers\.$"):
        label_issues(np.array([[0.5, 0.5], [np.nan, 0.5]]), np.array([0, 1]))


# Out of fold


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 12)), min_size=1, max_size=60), st.integers(0, 3))
def test_groups_stay_in_one_fold(images: list[tuple[int, int]], seed: int) -> None:
    labels_N, groups_N = (np.array(x) for x in zip(*images, strict=True))
    folds_N = assign_folds(labels_N, groups_N, seed)
    assert ((folds_N >= 0) == (labels_N >= 0)).all()
    for group in np.unique(groups_N):
        assert len(np.unique(folds_N[(groups_N == group) & (labels_N >= 0)])) <= 1
    assert np.array_equal(folds_N, assign_folds(labels_N, groups_N, seed))


def test_classes_are_spread_evenly() -> None:
    labels_N = np.repeat([0, 1, 2], [103, 20, 7])
    folds_N = assign_folds(labels_N, np.arange(len(labels_N)), 0)
    for k in range(3):
        counts = np.bincount(folds_N[labels_N == k], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    assert not np.array_equal(folds_N, assign_folds(labels_N, np.arange(len(labels_N)), 1))


def test_logits_are_those_of_scikit_learn_fitted_without_the_fold() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    values_ND, labels_N = blobs(120, 2, apart=1.2)
    probabilities_NK = out_of_fold([values_ND], labels_N, np.arange(120), 2, seed=3)
    folds_N = assign_folds(labels_N, np.arange(120), 3)
    odds_N = np.log(probabilities_NK[:, 1] / probabilities_NK[:, 0])
    ratios = []
    for shrinkage in (0.3, 0.6, 0.9):
        theirs_N = np.empty(120)
        for fold in range(FOLDS):
            model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
            model.fit(values_ND[folds_N != fold].astype(np.float64), labels_N[folds_N != fold])
            theirs_N[folds_N == fold] = model.decision_function(values_ND[folds_N == fold].astype(np.float64))
        ratios.append(odds_N / theirs_N)
    spreads = [ratio_N.std() / abs(ratio_N.mean()) for ratio_N in ratios]
    assert min(spreads) < 1e-3  # one of the three, times one temperature
    assert all(ratio_N.mean() > 0 for ratio_N in ratios)


def test_replaced_labels_come_first() -> None:
    for seed in range(3):
        values_ND, true_N = blobs(600, 4, seed=seed)
        labels_N, planted_N = replaced(true_N, 4, 0.05, seed)
        found = label_issues(out_of_fold([values_ND], labels_N, np.arange(600), 4, seed), labels_N)
        first = found.order[:30]
        assert planted_N[first].mean() >= 0.95
        assert (found.suggested[:30] == true_N[first])[planted_N[first]].all()
        assert 0.03 < found.share < 0.08


def test_a_copy_does_not_vouch_for_a_wrong_label() -> None:
    """Features without meaning but for 40 copies, which are alone in saying that class 0 is class 0."""
    rng = np.random.default_rng(0)
    values_ND, labels_N = rng.normal(size=(80, 200)).astype(np.float32), np.arange(80) % 2
    twice_ND, twice_N = np.concatenate([values_ND, values_ND]), np.concatenate([labels_N, labels_N])
    apart = out_of_fold([twice_ND], twice_N, np.arange(160), 2)
    together = out_of_fold([twice_ND], twice_N, np.arange(160) % 80, 2)
    accuracy = [(p_NK.argmax(axis=1) == twice_N).mean() for p_NK in (apart, together)]
    assert accuracy[0] > 0.75
    assert accuracy[1] < 0.65


def test_several_views_are_joined_at_equal_weight() -> None:
    values_ND, labels_N = blobs(100, 3)
    joined = out_of_fold([values_ND[:, :6], 1000 * values_ND[:, 6:]], labels_N, np.arange(100), 3)
    assert (joined.argmax(axis=1) == labels_N).mean() > 0.95
    again = out_of_fold([1000 * values_ND[:, :6], values_ND[:, 6:]], labels_N, np.arange(100), 3)
    assert np.allclose(joined, again, atol=1e-4)


def test_what_no_other_fold_knows_is_not_held_against_a_label() -> None:
    values_ND, labels_N = blobs(60, 3)
    labels_N = np.where(labels_N == 2, -1, labels_N)
    labels_N[2] = 2  # the only one of its class
    p_NK = out_of_fold([values_ND], labels_N, np.arange(60), 3)
    assert p_NK[2].tolist() == [0, 0, 1]
    assert np.allclose(p_NK[labels_N < 0], 1 / 3)
    assert np.allclose(p_NK.sum(axis=1), 1)
    assert 2 not in label_issues(p_NK, labels_N).order
    one_group = out_of_fold([values_ND], labels_N, np.zeros(60, np.int64), 3)
    known = labels_N >= 0
    assert np.array_equal(one_group[known], np.eye(3)[labels_N[known]])
    for labels, groups in ((labels_N, np.zeros(60, np.int64)), (np.zeros(60, np.int64), np.arange(60))):
        assert suspected_labels([values_ND], labels, groups, 3) is None  # which is not: none is suspected


@pytest.mark.parametrize("planted", [0, 4, 12])
def test_no_label_is_called_one_that_looks_alike(planted: int) -> None:
    """Classes 0 and 1 are drawn from one distribution, class 2 from another: only labels of 2 can be told to be wrong."""
    found, right = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth = np.repeat([0, 1, 2], 40)
        features = rng.normal(size=(120, 64)).astype(np.float32)
        features[truth == 2, :8] += 3
        labels, wrong = truth.copy(), rng.choice(120, planted, replace=False)
        labels[wrong] = np.where(truth[wrong] == 2, 0, 2)
        issues = suspected_labels([features], labels, np.arange(120), 3)
        assert issues is not None
        found.append(len(issues))
        right.append(np.isin(wrong, issues.order).mean() if planted else 1.0)
        assert (issues.suggested != labels[issues.order]).all()
    assert abs(np.mean(found) - planted) < 3 and np.mean(right) > 0.8


@pytest.mark.parametrize(
    ("n", "classes", "dim", "patients"), [(12, 3, 64, 12), (400, 2, 64, 400), (200, 5, 128, 200), (400, 2, 32, 20)]
)
def test_features_without_meaning_judge_no_label(n: int, classes: int, dim: int, patients: int) -> None:
    """Images of one patient, if there are several, are alike and of one class."""
    rng, groups_N = np.random.default_rng(0), np.arange(n) % patients
    values_ND = (rng.normal(size=(patients, dim))[groups_N] + 0.1 * rng.normal(size=(n, dim))).astype(np.float32)
    labels_N = rng.permutation(np.arange(patients) % classes)[groups_N]
    assert suspected_labels([values_ND], labels_N, groups_N, classes) is None


@pytest.mark.parametrize(
    ("n", "classes", "apart", "share"), [(24, 2, 4.0, 0.05), (60, 3, 4.0, 0.2), (400, 2, 0.5, 0.1)]
)
def test_weak_features_and_many_wrong_labels_are_judged(n: int, classes: int, apart: float, share: float) -> None:
    values_ND, true_N = blobs(n, classes, apart=apart)
    labels_N, _ = replaced(true_N, classes, share, 0)
    found = suspected_labels([values_ND], labels_N, np.arange(n), classes)
    assert found is not None
    expected = label_issues(out_of_fold([values_ND], labels_N, np.arange(n), classes), labels_N)
    assert found.order.tolist() == expected.order.tolist() and len(found)


# In the verb


@pytest.fixture
def mislaid(tmp_path: Path, own_cache: Path, warm_cache: Path) -> Path:
    """Photos of three classes, of which one lies in the wrong folder, under a name that has to be quoted."""
    shutil.copytree(warm_cache, own_cache, dirs_exist_ok=True)
    data = write_photos(tmp_path / "data", each=20)
    draw(0, 500).save(data / "class1" / '<b>"odd", 🐈.jpg')
    return data


ODD = 'class1/<b>"odd", 🐈.jpg'


def test_check_finds_the_image_in_the_wrong_folder(
    mislaid: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corrections = tmp_path / "corrections.csv"
    words = [
        "check",
        str(mislaid),
        "--labels",
        "--weights-dir",
        str(tiny_weights),
        "--write-corrections",
        str(corrections),
    ]
    assert cli.run([*words, "--offline", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    first = document["label_errors"][0]
    assert (first["path"], first["label"], first["suggested"]) == (ODD, "class1", "class0")
    assert 0 <= first["label_quality"] < 0.5

    rows = read_csv(corrections)
    assert [row["path"] for row in rows] == [e["path"] for e in document["label_errors"]]
    assert {row["new_label"] + row["drop"] for row in rows} == {""}
    assert (
        cli.run(["check", str(mislaid), "--corrections", str(corrections)]) == 0
    )  # nothing filled in: nothing happens
    assert capsys.readouterr().out.startswith("61 files, 61 usable, 3 classes: class0 20, class1 21, class2 20\n")

    rows[0]["new_label"] = rows[0]["suggested"]
    write_csv(corrections, list(rows[0]), [list(row.values()) for row in rows])
    again = headstart.check(mislaid, labels=True, weights=tiny_weights, curation=Curation(corrections=corrections))
    assert again.classes == {"class0": 21, "class1": 20, "class2": 20}
    assert ODD not in [e.path for e in again.label_errors]


def test_the_table_names_the_worst(mislaid: Path, tiny_weights: Path) -> None:
    found = headstart.check(mislaid, labels=True, weights=tiny_weights, backbone="test_resnet.a")
    n = len(found.label_errors)
    lines = found.table().splitlines()
    place = lines.index(f"{n} of 61 labels look{'s' * (n == 1)} wrong; the most suspicious first:")
    assert lines[place + 1].endswith(f"class1  ->  class0  {ODD}")
    none = headstart.check(mislaid)
    assert (none.label_errors, none.to_json()["label_errors"]) == (None, None)
    assert "labels are wrong" not in none.table()


def test_images_that_show_nothing_of_their_class_are_not_called_mislabelled(
    tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(12):
        place = tmp_path / "data" / f"class{n % 2}" / f"{n}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(n).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place)
    corrections = tmp_path / "corrections.csv"
    words = ["check", str(tmp_path / "data"), "--weights-dir", str(tiny_weights), "--backbone", "test_resnet.a"]
    assert cli.run([*words, "--write-corrections", str(corrections)]) == 0
    said = (
        "No label can be judged: the features of these images do not tell the classes apart, or there are no two classes with "
        "several groups of images."
    )
    assert said in capsys.readouterr().out.splitlines()
    assert read_csv(corrections) == []
    assert cli.run([*words, "--labels", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["label_errors"], document["not_judged"]) == ([], said)


def test_unlabelled_and_unreadable_images_are_passed_over(mislaid: Path, own_cache: Path, tiny_weights: Path) -> None:
    (mislaid / "class2" / "bad.jpg").write_bytes(b"no image")
    draw(1, 900).save(mislaid / "loose.jpg")
    found = headstart.check(mislaid, labels=True, weights=tiny_weights)
    assert (found.images, found.usable) == (63, 62)
    assert found.label_errors[0].path == ODD
    assert not {"class2/bad.jpg", "loose.jpg"} & {e.path for e in found.label_errors}
    embedded = b"".join(shard.read_bytes() for shard in (own_cache / "features").rglob("*.safetensors"))
    digests = [hashlib.sha256((mislaid / name).read_bytes()).digest() for name in (ODD, "loose.jpg")]
    assert [digest in embedded for digest in digests] == [True, False]


def test_the_same_twice(mislaid: Path, tiny_weights: Path) -> None:
    first, second = (headstart.check(mislaid, labels=True, weights=tiny_weights) for _ in range(2))
    assert first == second


def test_what_it_needs_is_said_before_any_work(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(MissingWeights) as caught:
        headstart.check(photos, labels=True, backbone="resnet18", weights=WeightsSource(folder=tmp_path, offline=True))
    assert caught.value.message.startswith("resnet18.a1_in1k: its weights are not on this machine")


@pytest.mark.slow
def test_all_planted_copies_are_found_with_a_backbone_and_without(tmp_path: Path) -> None:
    """Scenes whose copies were cropped, mirrored and brightened; no weights but those of the package."""
    headstart.sample("scenes", tmp_path / "scenes", n=240, seed=4)
    flaws = [row for row in read_csv(tmp_path / "scenes" / "flaws.csv") if row["flaw"] == "near_duplicate"]
    planted = {tuple(sorted((row["path"], row["of"]))) for row in flaws}
    found = {labels: headstart.check(tmp_path / "scenes", labels=labels).groups for labels in (False, True)}
    missed = {labels: planted - {tuple(sorted(group)) for group in groups} for labels, groups in found.items()}
    assert missed == {False: set(), True: set()}


def test_one_class_has_no_wrong_labels(tmp_path: Path, tiny_weights: Path) -> None:
    data = write_photos(tmp_path / "data", classes=1)
    with pytest.raises(BadLabels, match=r"has one class only"):
        headstart.check(data, labels=True, weights=tiny_weights, out=tmp_path / "checks.csv")
    assert not (tmp_path / "checks.csv").exists()  # it is said before any work
