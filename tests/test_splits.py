"""Splits: each image in one set, groups whole, classes in proportion, near-copies together, the same for the same seed."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.data.corrections import Correction, Corrections
from headstart.data.dataset import Dataset
from headstart.data.earlier_split import read_split
from headstart.data.splits import (
    MIN_PER_SET,
    grow_split,
    make_split,
    sets_too_small,
    split_hash,
    undivided_copies,
    write_split,
)
from headstart.errors import BadSplit
from test_open_dataset import HOSTILE, error_of


def dataset(
    labels: list[int],
    *,
    groups: list[int] | None = None,
    split: list[str] | None = None,
    paths: list[str] | None = None,
    classes: int = 0,
) -> Dataset:
    n = len(labels)
    return Dataset(
        root=Path("photos"),
        paths=tuple(paths or [f"{i:05d}.jpg" for i in range(n)]),
        labels=np.array(labels, dtype=np.int64),
        classes=tuple(f"class{k}" for k in range(max(classes, max(labels, default=-1) + 1))),
        split=np.array(split or [""] * n, dtype="<U5"),
        groups=np.array(groups if groups is not None else range(n), dtype=np.int64),
    )


def count(data: Dataset, side: str, label: int) -> int:
    return int(((data.split == side) & (data.labels == label)).sum())


@st.composite
def datasets(draw: st.DrawFn, pure: bool = False) -> Dataset:
    """Some classes, groups of various sizes (of one label each where `pure`), a few unlabelled images."""
    sizes = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=40))
    labels: list[int] = []
    groups: list[int] = []
    for number, (label, size) in enumerate(sizes):
        for _ in range(size):
            labels.append(label if pure else draw(st.sampled_from([label, label, label, -1, 3 - label])))
            groups.append(number * 7)
    return dataset(labels, groups=groups, classes=4)


def sides_of_groups(data: Dataset) -> dict[int, set[str]]:
    sides: dict[int, set[str]] = {}
    for group, side in zip(data.groups.tolist(), data.split.tolist(), strict=True):
        if side:
            sides.setdefault(group, set()).add(side)
    return sides


@settings(max_examples=150, deadline=None)
@given(datasets(), st.integers(0, 5))
def test_every_labelled_image_is_on_one_side_and_groups_are_whole(data: Dataset, seed: int) -> None:
    made = make_split(data, seed=seed)
    assert ((made.split != "") == (data.labels >= 0)).all()
    assert set(made.split.tolist()) <= {"train", "val", "test", ""}
    assert all(len(sides) == 1 for sides in sides_of_groups(made).values())
    for label in set(data.labels.tolist()) - {-1}:
        assert count(made, "train", label) > 0


@settings(max_examples=150, deadline=None)
@given(datasets(pure=True), st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.2, 0.35]), st.sampled_from([0.0, 0.2, 0.5]))
def test_proportions_hold_to_one_group_of_each_class(data: Dataset, seed: int, val: float, test: float) -> None:
    made = make_split(data, seed=seed, val_size=val, test_size=test)
    for label in set(data.labels.tolist()):
        own = data.labels == label
        sizes = np.unique(data.groups[own], return_counts=True)[1]
        for side, share in (("val", val), ("test", test)):
            got = count(made, side, label)
            if not share:
                assert got == 0
            elif len(sizes) >= 3:
                assert abs(got - share * own.sum()) <= sizes.max() + 0.5
                assert got > 0
            else:
                assert got <= 2 * share * own.sum() + 1  # more than wanted only where none would be further off


@settings(max_examples=100, deadline=None)
@given(datasets(), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_the_numbers_of_groups_do_not_matter(data: Dataset, random: object) -> None:
    order = np.arange(len(data))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = data.take(order)
    shuffled = replace(shuffled, groups=1000 - shuffled.groups)
    made, again = make_split(data, seed=3), make_split(shuffled, seed=3)
    assert dict(zip(made.paths, made.split.tolist(), strict=True)) == dict(
        zip(again.paths, again.split.tolist(), strict=True)
    )
    assert split_hash(made) == split_hash(again)


def test_single_images_are_dealt_exactly() -> None:
    made = make_split(dataset([0] * 50 + [1] * 23))
    assert [count(made, s, 0) for s in ("train", "val", "test")] == [30, 10, 10]
    assert [count(made, s, 1) for s in ("train", "val", "test")] == [13, 5, 5]


@pytest.mark.parametrize(
    ("n", "expected"), [(1, [1, 0, 0]), (2, [2, 0, 0]), (3, [1, 1, 1]), (4, [2, 1, 1]), (5, [3, 1, 1])]
)
def test_small_classes(n: int, expected: list[int]) -> None:
    made = make_split(dataset([0] * n + [1] * 10))
    assert [count(made, s, 0) for s in ("train", "val", "test")] == expected


def test_three_groups_of_a_class_go_to_three_sides_whatever_their_sizes() -> None:
    made = make_split(dataset([0] * 12 + [1] * 10, groups=[0] * 10 + [1, 2, *range(3, 13)]))
    assert {len(set(made.split[made.groups == g].tolist())) for g in (0, 1, 2)} == {1}
    assert {made.split[made.groups == g][0] for g in (0, 1, 2)} == {"train", "val", "test"}
    assert made.split[0] == "train"


def test_the_seed_changes_the_split_and_nothing_else_does() -> None:
    data = dataset([0, 1] * 100)
    hashes = {split_hash(make_split(data, seed=seed)) for seed in range(5)}
    assert len(hashes) == 5
    assert split_hash(make_split(data, seed=0)) == split_hash(make_split(data, seed=0))


def test_one_more_image_moves_few_others() -> None:
    before = make_split(dataset([0] * 200))
    after = make_split(dataset([0] * 201))
    assert (before.split != after.split[:200]).sum() <= 3


def test_a_complete_split_stays_as_it_is() -> None:
    given_split = ["train", "val", "test", "train", ""]
    made = make_split(dataset([0, 0, 0, 0, -1], split=given_split))
    assert made.split.tolist() == given_split


@pytest.mark.parametrize(("has", "carved"), [("test", "val"), ("val", "test")])
def test_the_missing_side_is_carved_from_train(has: str, carved: str, caplog: pytest.LogCaptureFixture) -> None:
    data = dataset([0, 1] * 60, split=["train"] * 100 + [has] * 20)
    with caplog.at_level(logging.INFO, logger="headstart"):
        made = make_split(data)
    assert (made.split[100:] == has).all()
    assert count(made, carved, 0) == count(made, carved, 1) == 10
    assert caplog.messages == [f"The split of the data has no {carved} (20%); split off from train with seed 0."]


def test_without_a_training_side_the_undecided_images_are_it() -> None:
    made = make_split(dataset([0] * 50, split=["test"] * 10 + [""] * 40))
    assert [count(made, s, 0) for s in ("train", "val", "test")] == [32, 8, 10]


def test_images_without_a_side_stay_out_of_a_given_split(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="headstart"):
        made = make_split(dataset([0] * 12, split=[*["train", "val", "test"] * 3, "val", "test", ""]))
        make_split(dataset([0] * 12, split=[*["train", "val", "test"] * 3, "val", "", ""]))
    assert made.split.tolist() == [*["train", "val", "test"] * 3, "val", "test", ""]
    assert [text for text in caplog.messages if "given split" in text] == [
        "1 labelled image has no set in the given split; it is not used.",
        "2 labelled images have no set in the given split; they are not used.",
    ]


def test_groups_that_are_in_the_given_test_are_not_carved() -> None:
    groups = [0, *range(1, 20), 0, *range(100, 103)]  # image 0 has a copy in test
    data = dataset([0] * 24, groups=groups, split=["train"] * 20 + ["test"] * 4)
    for seed in range(20):
        made = make_split(data, seed=seed)
        assert made.split[0] == "train"
        assert count(made, "val", 0) == 4
    all_leak = dataset([0] * 8, groups=[0, 1, 2, 3] * 2, split=["train"] * 4 + ["test"] * 4)
    assert count(make_split(all_leak), "val", 0) == 1  # cannot be avoided: a class needs some


def test_a_rare_label_in_mixed_groups_is_still_trained_on() -> None:
    data = dataset([0, 0, 1] * 3, groups=[0] * 3 + [1] * 3 + [2] * 3)
    for seed in range(10):
        assert count(make_split(data, seed=seed), "train", 1) > 0
    lone = dataset([0] * 20 + [0, 0, 1], groups=[*range(20), 20, 20, 20])
    for seed in range(40):
        assert count(make_split(lone, seed=seed), "train", 1) == 1


def test_a_share_of_nothing_leaves_a_side_out() -> None:
    made = make_split(dataset([0] * 10 + [1] * 10), val_size=0.3, test_size=0)
    assert [count(made, s, 0) for s in ("train", "val", "test")] == [7, 3, 0]


def test_shares_that_cannot_be() -> None:
    assert error_of(lambda: make_split(dataset([0, 1]), val_size=0.5, test_size=0.5), BadSplit) == (
        "val_size=0.5 and test_size=0.5: expected shares from 0 to 1 that leave something for training.\n"
        "  The usual val_size=0.2 and test_size=0.2 leave 60 % for training."
    )


def test_a_class_only_in_test() -> None:
    data = replace(dataset([0, 0, 1], split=["train", "train", "test"]), classes=("cats", "Cats"))
    assert error_of(lambda: make_split(data), BadSplit) == (
        "photos: class 'Cats' has 1 image for validation or test, but none to train on.\n  Did you mean 'cats'?"
    )
    data = replace(data, classes=("cats", "zebras"))
    assert error_of(lambda: make_split(data), BadSplit).endswith(
        "\n  Move some of them into the training set, or remove the class."
    )


# Shares and groups


def warned(caplog: pytest.LogCaptureFixture, data: Dataset, **options: object) -> tuple[Dataset, list[str]]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="headstart"):
        made = make_split(data, **options)  # type: ignore[arg-type]
    return made, [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def divided(made: Dataset, near: np.ndarray) -> list[int]:
    """The groups of `near` that are in several sets."""
    return [g for g in np.unique(near).tolist() if len(set(made.split[near == g].tolist()) - {""}) > 1]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=80),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.1, 0.2, 0.35]),
    st.sampled_from([0.0, 0.2, 0.5]),
)
def test_images_without_groups_are_dealt_to_one_image(labels: list[int], seed: int, val: float, test: float) -> None:
    made = make_split(dataset(labels), seed=seed, val_size=val, test_size=test)
    for label in set(labels):
        for name, share in (("val", val), ("test", test)):
            assert abs(count(made, name, label) - int(share * labels.count(label) + 0.5)) <= 1


@settings(max_examples=150, deadline=None)
@given(datasets(), st.integers(0, 5), st.integers(1, 12), st.integers(0, 100))
def test_hard_groups_are_whole_and_near_copies_are_where_the_groups_say_so(
    data: Dataset, seed: int, size: int, shift: int
) -> None:
    near = (np.arange(len(data)) * 7 + shift) // size
    made = make_split(data, seed=seed, near=near)
    assert all(len(sets) == 1 for sets in sides_of_groups(made).values())
    whole = replace(made, groups=data.groups)
    assert all(len(sets) == 1 for sets in sides_of_groups(whole).values())
    for group in np.unique(data.groups):  # the groups of the result hold whole groups of the data
        assert len(set(made.groups[data.groups == group].tolist())) == 1
    for label in set(data.labels.tolist()) - {-1}:
        assert count(made, "train", label) > 0
        if len(set(data.groups[data.labels == label].tolist())) >= 3:
            alone = make_split(data, seed=seed)
            assert all(count(made, name, label) > 0 for name in ("val", "test") if count(alone, name, label))
    given = replace(made, groups=made.groups[::-1].max(initial=0) - made.groups)  # as a table would give them
    again = make_split(given, near=undivided_copies(given, near))
    assert (again.groups[:, None] == again.groups).tolist() == (made.groups[:, None] == made.groups).tolist()


def of_a_divided_film(made: Dataset, film: np.ndarray) -> bool:
    """Whether each training image is in a group of its own, and all validation images in one, as all test images."""
    groups = {name: made.groups[film & (made.split == name)].tolist() for name in ("train", "val", "test")}
    numbers = [number for name in groups for number in sorted(set(groups[name]))]
    return len(set(numbers)) == len(numbers) == len(groups["train"]) + bool(groups["val"]) + bool(groups["test"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=25), st.integers(0, 3))
def test_near_copies_never_cost_a_class_its_share(films: list[tuple[int, int]], seed: int) -> None:
    labels = [label for label, size in films for _ in range(size)]
    near = np.array([film for film, (_, size) in enumerate(films) for _ in range(size)])
    made = make_split(dataset(labels), near=near, seed=seed)
    for label in set(labels):
        n = labels.count(label)
        for name in ("val", "test"):
            assert abs(count(made, name, label) - int(0.2 * n + 0.5)) <= max(1, 0.02 * n)
            assert count(made, name, label) > 0 or n < 3
    for film in divided(made, near):
        assert of_a_divided_film(made, near == film)
    for film in set(near.tolist()) - set(divided(made, near)):
        assert len(set(made.groups[near == film].tolist())) == 1


@settings(max_examples=60, deadline=None)
@given(datasets(), st.integers(1, 9), st.randoms(use_true_random=False))
def test_order_and_numbers_do_not_matter_with_near_copies(data: Dataset, size: int, random: object) -> None:
    near, order = np.arange(len(data)) // size, np.arange(len(data))
    random.shuffle(order)  # type: ignore[attr-defined]
    made = make_split(data, near=near)
    again = make_split(data.take(order), near=500 - near[order])
    assert split_hash(made) == split_hash(again)


def test_pairs_of_copies_stay_together(caplog: pytest.LogCaptureFixture) -> None:
    near = np.arange(200) % 100
    made, said = warned(caplog, dataset([0, 1] * 100), near=near)
    assert divided(made, near) == said == []
    assert [count(made, name, 0) for name in ("train", "val", "test")] == [60, 20, 20]
    assert (made.groups == near).all()


def test_one_image_of_each_class_twice() -> None:
    made = make_split(dataset([0, 0, 1, 1]), near=np.array([0, 0, 1, 1]))
    assert set(made.split.tolist()) == {"train"}
    assert made.groups.tolist() == [0, 0, 2, 2]
    assert set(make_split(dataset([0, 1])).split.tolist()) == {"train"}
    assert set(make_split(dataset([0, 1]), near=np.zeros(2, int)).split.tolist()) == {"train"}


def test_all_images_are_near_copies_of_one(caplog: pytest.LogCaptureFixture) -> None:
    made, said = warned(caplog, dataset([0] * 60 + [1] * 40), near=np.zeros(100, int))
    assert [count(made, name, 0) for name in ("train", "val", "test")] == [36, 12, 12]
    assert [count(made, name, 1) for name in ("train", "val", "test")] == [24, 8, 8]
    assert of_a_divided_film(made, np.full(100, True))
    assert said == [
        "100 images of 'class0' and 'class1' are near-copies of one another, but are in different sets, so the test "
        "may be too easy. Kept together, they would leave a set without its share of a class. Groups "
        "that you name (--group-column, --group-from) are always kept together."
    ]


def test_only_the_near_copies_in_the_way_are_divided(caplog: pytest.LogCaptureFixture) -> None:
    films = np.array([0] * 36 + [1] * 4 + [2] * 3 + [3] * 3 + [*range(10, 14)] + [20] * 8 + [*range(30, 72)])
    made, said = warned(caplog, dataset([0] * 50 + [1] * 50), near=films)
    assert divided(made, films) == [0]
    assert [count(made, name, k) for k in (0, 1) for name in ("train", "val", "test")] == [30, 10, 10] * 2
    assert [text.split(", but")[0] for text in said] == ["36 images of 'class0' are near-copies of one another"]
    assert len(set(made.groups[films == 20].tolist())) == 1


def test_near_copies_larger_than_the_validation_share_can_stay_in_train(caplog: pytest.LogCaptureFixture) -> None:
    near = np.array([0] * 25 + [*range(1, 26)])
    for seed in range(10):
        made, said = warned(caplog, dataset([0] * 50), near=near, seed=seed)
        assert set(made.split[:25].tolist()) == {"train"}
        assert (count(made, "val", 0), count(made, "test", 0), said) == (10, 10, [])


def test_near_copies_of_images_in_a_given_test_are_not_carved(caplog: pytest.LogCaptureFixture) -> None:
    data = dataset([0] * 60, split=["train"] * 50 + ["test"] * 10)
    near = np.arange(60)
    near[50:] = range(10)
    made, said = warned(caplog, data, near=near)
    assert said == []
    assert set(made.split[:10].tolist()) == {"train"}
    assert count(made, "val", 0) == 10
    assert (made.groups[50:] == made.groups[:10]).all()  # a leak that the data brings: it stays to be seen
    near[50:] = near[:50] = 0
    made, said = warned(caplog, data, near=near)
    assert count(made, "val", 0) == 10
    assert [text.split(", but")[0] for text in said] == ["60 images of 'class0' are near-copies of one another"]


def test_a_named_group_that_is_too_large_is_said_to_be(caplog: pytest.LogCaptureFixture) -> None:
    labels, groups = [0] * 60 + [1] * 60, [0] * 28 + [1] * 28 + [*range(2, 66)]
    made, said = warned(caplog, dataset(labels, groups=groups))
    assert [count(made, name, 1) for name in ("train", "val", "test")] == [36, 12, 12]
    assert [count(made, name, 0) for name in ("train", "val", "test")] == [56, 2, 2]
    assert said == [
        "Class 'class0' has 2 images in the test set where 12 were wanted and 2 images in the validation set where 12 "
        "were wanted, because 28 of its 60 images are one group.",
        "The validation set has 2 images of 'class0': too few for model selection and calibration. Add images "
        "of this class, or make the set larger.",
        "The test set has 2 images of 'class0': too few to tell how well it is recognised. Add images of this class, or "
        "make the set larger.",
    ]


def test_reasons_for_shares_that_are_missed(caplog: pytest.LogCaptureFixture) -> None:
    _, said = warned(caplog, dataset([0] * 10 + [1] * 30, groups=[0] * 10 + [*range(1, 31)]))
    assert said[0] == (
        "Class 'class0' has 0 images in the test set where 2 were wanted and 0 images in the validation set where 2 were "
        "wanted, because its 10 images are one group."
    )
    cameras = dataset([0] * 20 + [1] * 80, groups=[0] * 10 + [1] * 10 + [0] * 40 + [1] * 40)
    _, said = warned(caplog, cameras)
    assert said[:1] == [
        "Class 'class0' has 0 images in the test set where 4 were wanted and 0 images in the validation set where 4 were "
        "wanted, because 10 of its 20 images are one group, which has images of other classes too."
    ]
    leaking = dataset([0] * 60, groups=[*range(30)] * 2, split=["train"] * 30 + ["test"] * 30)
    made, said = warned(caplog, leaking)
    assert count(made, "val", 0) == 1
    assert said[0] == (
        "Class 'class0' has 1 image in the validation set where 6 were wanted, because 30 of its 30 images are in groups "
        "with images in a given set."
    )
    many = dataset(np.repeat(range(7), 10).tolist(), groups=np.repeat(range(7), 10).tolist())
    made, said = warned(caplog, many)
    assert (len(said), said[3]) == (4, "4 more classes miss their shares.")


def test_groups_with_several_classes_keep_the_shares_of_all() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(range(80), 5)
    labels = rng.choice(3, 400, p=[0.6, 0.3, 0.1])
    for seed in range(5):
        made = make_split(dataset(labels.tolist(), groups=groups.tolist()), seed=seed)
        assert all(len(sets) == 1 for sets in sides_of_groups(made).values())
        for label in range(3):
            n = int((labels == label).sum())
            assert all(abs(count(made, name, label) - int(0.2 * n + 0.5)) <= 1 for name in ("val", "test"))


def largest_deviation(split: np.ndarray, labels: np.ndarray) -> float:
    """By how much a share of a class is not 20 % of it, at most."""
    return max(
        abs(float((split[labels == label] == name).mean()) - 0.2)
        for label in np.unique(labels)
        for name in ("val", "test")
    )


@pytest.mark.parametrize("purity", [0.2, 1.0, 100.0])
def test_shares_are_as_good_as_those_of_scikit_learn(purity: float) -> None:
    from sklearn.model_selection import StratifiedGroupKFold

    rng = np.random.default_rng(0)
    ours, theirs = [], []
    for seed in range(30):
        sizes = rng.integers(1, 12, 40)
        groups = np.repeat(range(40), sizes)
        labels = np.concatenate([rng.choice(4, n, p=rng.dirichlet(np.full(4, purity))) for n in sizes])
        made = make_split(dataset(labels.tolist(), groups=groups.tolist()), seed=seed)
        ours.append(largest_deviation(made.split, labels))
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(labels, labels, groups)
        split = np.full(len(labels), "train", dtype="<U5")
        for name, (_, chosen) in zip(("test", "val"), folds, strict=False):
            split[chosen] = name
        theirs.append(largest_deviation(split, labels))
    assert np.mean(ours) < np.mean(theirs)


def test_images_without_groups_are_dealt_as_ever() -> None:
    """Hashes of the splits that the first version made: those of users stay what they are."""
    data = dataset([0] * 50 + [1] * 23 + [2] * 4 + [-1] * 5)
    assert [split_hash(make_split(data, seed=seed))[:16] for seed in range(3)] == [
        "c09b6b3bd56f06cf",
        "a91e76a1ccea2d7e",
        "9386f229fd6e642c",
    ]
    assert split_hash(make_split(data, near=np.arange(82))) == split_hash(make_split(data))


# Sets that are too small


def test_sets_that_are_too_small_are_named(caplog: pytest.LogCaptureFixture) -> None:
    labels = [0] * 50 + [1] * 6 + [2] * 30
    _, said = warned(caplog, dataset(labels))
    assert said == [
        "The validation set has 1 image of 'class1': too few for model selection and calibration. Add images "
        "of this class, or make the set larger.",
        "The test set has 1 image of 'class1': too few to tell how well it is recognised. Add images of this class, or "
        "make the set larger.",
    ]
    given_split = ["train"] * 40 + ["val"] * 5 + ["test"] * 5 + ["train"] * 5 + ["val"] + ["train"] * 30
    made, said = warned(caplog, dataset(labels, split=given_split))
    assert made.split.tolist() == given_split
    assert said == sets_too_small(made)
    assert said == [
        "The validation set has 0 images of 'class2' and 1 of 'class1': too few for model selection and calibration. Add "
        "images of these classes, or make the set larger.",
        "The test set has 0 images of 'class1' and 0 of 'class2': too few to tell how well they are recognised. Add "
        "images of these classes, or make the set larger.",
    ]


def test_one_sentence_for_each_set_that_is_too_small() -> None:
    made = make_split(dataset([k for k in range(12) for _ in range(3)]))
    assert sets_too_small(made)[0] == (
        "The validation set has 1 image of 'class0', 1 of 'class1', 1 of 'class2' and 9 more: too few for model "
        "selection and calibration. Add images of these classes, or make the set larger."
    )
    assert len(sets_too_small(made)) == 2
    assert sets_too_small(make_split(dataset([0, 0, 1, 1]))) == []  # there is no such set
    enough = 5 * MIN_PER_SET
    assert sets_too_small(make_split(dataset([0] * enough + [1] * enough, classes=3))) == []
    assert len(sets_too_small(make_split(dataset([0] * enough, split=None), test_size=0, val_size=0.1))) == 1


# Files


def shas(data: Dataset) -> list[str]:
    return [f"{i:064x}" for i in range(len(data))]


def test_split_csv_by_hand(tmp_path: Path) -> None:
    data = dataset([1, 0, -1], groups=[5, 9, 5], split=["val", "train", ""], paths=["c.jpg", 'a "b", c.jpg', "b.jpg"])
    write_split(tmp_path / "split.csv", data, ["x", "y", "z"])
    assert (tmp_path / "split.csv").read_text() == (
        'path,label,split,group,sha256\n"a ""b"", c.jpg",class0,train,0,y\nb.jpg,,,1,z\nc.jpg,class1,val,1,x\n'
    )


NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=8)
BYTES = st.binary(min_size=1, max_size=6).map(
    lambda b: b.replace(b"\0", b"0").replace(b"/", b"1").decode("utf-8", "surrogateescape")
)


@settings(max_examples=100, deadline=None)
@given(st.lists(NAMES | BYTES | st.sampled_from(HOSTILE), min_size=2, max_size=12, unique=True), st.data())
def test_round_trip_with_hostile_names(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], data: st.DataObject
) -> None:
    n = len(paths)
    labels = data.draw(st.lists(st.integers(-1, 1), min_size=n, max_size=n))
    groups = data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    plain = dataset(labels, groups=groups, paths=paths, classes=2)
    plain = replace(plain, classes=('a "quoted",\nname', "b"))
    made = make_split(plain)
    where = tmp_path_factory.mktemp("split") / "split.csv"
    write_split(where, made, shas(made))
    again = read_split(where, replace(plain, groups=np.arange(n)))
    assert again.split.tolist() == made.split.tolist()
    assert split_hash(again) == split_hash(made)
    assert (again.groups[:, None] == again.groups).tolist() == (made.groups[:, None] == made.groups).tolist()
    write_split(where.with_name("again.csv"), again, shas(made))
    assert where.with_name("again.csv").read_bytes() == where.read_bytes()


def test_carriage_returns(tmp_path: Path) -> None:
    made = make_split(dataset([0, 1], paths=["a\rb.jpg", "c.jpg"]))
    write_split(tmp_path / "split.csv", made, ["x", "y"])
    assert read_split(tmp_path / "split.csv", made).split.tolist() == made.split.tolist()


def test_a_short_table_will_do_and_images_that_it_leaves_out_are_out(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("split,path\ntraining,00000.jpg\nTest,00001.jpg\n,00002.jpg\n")
    read = read_split(tmp_path / "s.csv", dataset([0, 1, 0, 1], groups=[3, 3, 4, 5]))
    assert read.split.tolist() == ["train", "test", "", ""]
    assert read.groups.tolist() == [3, 3, 4, 5]


def test_splits_that_do_not_fit(tmp_path: Path) -> None:
    data = dataset([0, 1, 0, 1])
    where = tmp_path / "s.csv"

    def refused(text: str) -> str:
        where.write_text(text)
        return error_of(lambda: read_split(where, data), BadSplit)

    rows = "".join(f"gone{i}.jpg,train\n" for i in range(1, 6))
    assert refused("path,split\n" + rows) == (
        f"{where}: 5 rows with a path that is not in the data: gone1.jpg; gone2.jpg; gone3.jpg and 2 more.\n"
        "  Expected paths relative to photos. Was the split made for other data?"
    )
    assert refused("path,split\n00000.jpg,tset\n00001.jpg,x\n") == (
        f"{where}: 2 rows with an unknown split name: 00000.jpg: 'tset'; 00001.jpg: 'x'.\n"
        "  Expected 'train', 'val', 'test', or nothing."
    )
    assert refused("path,split\n00000.jpg,test\na, b.jpg,test\n") == (
        f"{where}: row 3 has 3 cells where the header has 2.\n  Put names that contain a comma in double quotes."
    )
    assert refused("path,label,split\n00000.jpg,class1,train\n00001.jpg,class1,val\n") == (
        f"{where}: 1 row with a label that differs from the data: 00000.jpg: 'class1', in the data 'class0'.\n"
        "  `headstart split DATA --keep` makes a new split with its sets. Or give the data that this one was made for."
    )
    assert refused("path,split\n00000.jpg,train\n00000.jpg,train\n00000.jpg,val\n") == (
        f"{where}: 1 row with a second set for an image: 00000.jpg.\n  Keep one row per image."
    )
    assert refused("name,side\na,b\n") == (
        f"{where}: is not a split: expected the columns path and split, found name, side.\n"
        "  `headstart split DATA --out split.csv` writes one."
    )
    assert refused('path,split,note\n00000.jpg,test,"5 inch\n00001.jpg,test,\n') == (
        f"{where}: cannot be read as a split: line 2 has a double quote that is not closed: '00000.jpg,test,\"5 inch'.\n"
        "  `headstart split DATA --out split.csv` writes one."
    )
    assert refused("") == (
        f"{where}: has no rows; expected the columns path and split, and a row per image.\n"
        "  `headstart split DATA --out split.csv` writes one."
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_spreadsheets_save(tmp_path: Path, delimiter: str, encoding: str) -> None:
    made = make_split(dataset([0, 1] * 10, groups=[*range(10)] * 2, paths=[f"é {n:02}.jpg" for n in range(20)]))
    write_split(tmp_path / "split.csv", made, shas(made))
    text = (tmp_path / "split.csv").read_text(encoding="utf-8").replace(",", delimiter).replace("\n", "\r\n")
    (tmp_path / "saved.csv").write_bytes(f"{text}{delimiter * 4}\r\n".encode(encoding))
    shorter = [line.rpartition(delimiter)[0] if n > 9 else line for n, line in enumerate(text.splitlines())]
    (tmp_path / "shorter.csv").write_bytes("\r\n".join(shorter).encode(encoding))
    bare = replace(made, split=np.full(20, "", dtype="<U5"), groups=np.arange(20))
    read, saved, omitted = (read_split(tmp_path / name, bare) for name in ("split.csv", "saved.csv", "shorter.csv"))
    assert omitted.split.tolist() == read.split.tolist()
    assert saved.split.tolist() == read.split.tolist() == made.split.tolist()
    assert saved.groups.tolist() == read.groups.tolist()


# A split that grows


@pytest.mark.parametrize("step", [1, 3, 10, 40])
def test_a_split_that_grows_keeps_sets_and_shares(tmp_path: Path, step: int) -> None:
    """However many images come at a time, the shares of each class stay within two images or 2 %."""
    where, labels = tmp_path / "s.csv", [0, 1, 1] * 40
    data = dataset(labels[:30])
    write_split(where, make_split(data), shas(data))
    before: dict[str, str] = {}
    for n in range(30 + step, 121, step):
        data = dataset(labels[:n])
        grown = grow_split(where, data, shas(data))
        after = dict(zip(data.paths, grown.dataset.split.tolist(), strict=True))
        assert before.items() <= after.items()
        assert (grown.kept, sum(grown.new.values()), grown.gone) == (n - step, step, 0)
        for label in (0, 1):
            for side in ("val", "test"):
                total = int((data.labels == label).sum())
                assert abs(count(grown.dataset, side, label) - 0.2 * total) <= max(2, 0.02 * total)
        write_split(where, grown.dataset, shas(data))
        before = after


def test_new_images_go_where_their_groups_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    where = tmp_path / "s.csv"
    where.write_text("path,split\n00000.jpg,train\n00001.jpg,train\n00002.jpg,test\n00003.jpg,val\n")
    data = dataset([0, 1, 0, 1, 0, 1, 0, 1], groups=[0, 1, 2, 3, 2, 3, 7, 7])
    near = np.array([0, 1, 2, 3, 4, 5, 0, 7])  # the sixth is a copy of the first, and in a group with the seventh
    grown = grow_split(where, data, shas(data), near=near)
    assert grown.dataset.split.tolist() == ["train", "train", "test", "val", "test", "val", "train", "train"]
    near[7] = 2
    grown = grow_split(where, data, shas(data), near=near)
    assert grown.dataset.split.tolist()[6:] == ["", ""]
    assert grown.new == {"train": 0, "val": 1, "test": 1, "": 2}
    assert caplog.messages[-1].startswith("The") or any("are put into no set" in m for m in caplog.messages)


def test_a_set_in_the_data_counts_for_new_images(tmp_path: Path) -> None:
    where = tmp_path / "s.csv"
    where.write_text("path,split\n00000.jpg,train\n00001.jpg,train\n")
    data = dataset([0, 1, 0, 1], split=["test", "test", "test", "val"])
    assert grow_split(where, data, shas(data)).dataset.split.tolist() == ["train", "train", "test", "val"]


def test_images_are_found_by_their_bytes_before_their_names(tmp_path: Path) -> None:
    """Two images have changed names, and an image of the test set has come back under that of a training image."""
    where = tmp_path / "s.csv"
    data = dataset([0, 0, 0, 0], split=["train", "test", "val", "train"])
    write_split(where, data, ["a", "b", "c", "d"])
    read = read_split(where, replace(data, split=np.full(4, "", "<U5")), sha256s=["b", "a", "x", "b"])
    assert read.split.tolist() == ["test", "train", "val", "test"]


def test_labels_that_have_changed_are_a_note_for_a_split_that_grows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    where = tmp_path / "s.csv"
    where.write_text(
        "path,label,split\n00000.jpg,class0,train\n00001.jpg,class0,test\n00002.jpg,,\n00003.jpg,class1,\n"
    )
    data = dataset([0, 1, 1, 1, 1])
    grown = grow_split(where, data, shas(data), val_size=0, test_size=0)
    assert grown.dataset.split.tolist() == ["train", "test", "train", "", "train"]
    assert f"{where}: images whose label has changed since, which keep their set: " in caplog.text


# Splits that were made before the corrections


def corrections(*rows: tuple[str, str, str, bool]) -> Corrections:
    """Of (path, label, new_label, drop)."""
    return Corrections(
        Path("corrections.csv"), tuple(Correction(path, label, "", "", new, drop) for path, label, new, drop in rows)
    )


def test_a_split_from_before_the_corrections(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given_split = ["train", "val", "test", "train", "val", "test"]
    data = dataset([0, 0, 0, 1, 1, 1], groups=[0, 0, 2, 3, 2, 5], split=given_split)
    where = tmp_path / "s.csv"
    write_split(where, data, shas(data))
    fixes = corrections(
        ("00000.jpg", "", "", True), ("00002.jpg", "class0", "class1", False), ("00004.jpg", "", "class0", False)
    )
    fixed = replace(fixes.applied_to(data), split=np.full(5, "", dtype="<U5"), groups=np.arange(5))
    with caplog.at_level(logging.INFO, logger="headstart"):
        read = read_split(where, fixed, fixes)
    assert (read.paths, read.labels.tolist()) == (data.paths[1:], [0, 1, 1, 0, 1])
    assert read.split.tolist() == given_split[1:]
    assert read.groups.tolist() == [0, 1, 2, 1, 4]
    said = f"{where} was made before the corrections, which are applied to it: 2 labels changed, 1 image left out."
    assert caplog.messages == [said]
    write_split(where, read, shas(read))  # one from after them fits as well
    caplog.clear()
    assert read_split(where, fixed, fixes).split.tolist() == given_split[1:]
    assert caplog.messages == []


def test_a_split_of_other_data_does_not_fit_for_the_corrections(tmp_path: Path) -> None:
    data = dataset([0, 1, 0, 1])
    where = tmp_path / "s.csv"
    fixes = corrections(
        ("00000.jpg", "", "", True), ("00001.jpg", "class1", "class0", False), ("00002.jpg", "", "class1", False)
    )

    def refused(text: str) -> str:
        where.write_text(f"path,label,split\n{text}")
        return error_of(lambda: read_split(where, fixes.applied_to(data), fixes), BadSplit)

    assert refused("00000.jpg,class0,train\nelse.jpg,class0,train\n").startswith(
        f"{where}: 1 row with a path that is not in the data: else.jpg."
    )
    assert "00003.jpg: 'class0', in the data 'class1'" in refused("00003.jpg,class0,train\n")
    assert "00001.jpg: 'class7', in the data 'class0'" in refused("00001.jpg,class7,train\n")
    assert "00002.jpg: 'class7', in the data 'class1'" in refused("00002.jpg,class7,train\n")
    where.write_text("path,label,split\n00000.jpg,class0,train\n")  # nothing is left of it
    assert read_split(where, fixes.applied_to(data), fixes).split.tolist() == [""] * 3


def test_no_such_split(tmp_path: Path) -> None:
    where = tmp_path / "s.csv"
    assert error_of(lambda: read_split(where, dataset([0])), BadSplit) == (
        f"{where}: there is no such file.\n  `headstart split DATA --out split.csv` writes one."
    )
