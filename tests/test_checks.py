"""A folder with every kind of bad file: each is named, by the check that is meant for it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import scene
from headstart.data.checks import CHECKS, findings, get_avg_size, usable
from headstart.data.copies import Copies
from headstart.data.dataset import Dataset
from headstart.data.duplicates import merge_groups
from headstart.data.findings import CHECKS_HEADER, Finding, checks_rows, read_checks
from headstart.data.near_duplicates import find_copies
from headstart.data.open_dataset import open_dataset
from headstart.errors import NoImages
from headstart.images.formats import is_available
from headstart.images.image_refs import Images
from headstart.images.remarks import note_unusable
from headstart.images.validate import ImageInfo, validate_images
from headstart.io.files import read_csv, write_csv

GOOD = ImageInfo("", 1000, "JPEG", 200, 100, "RGB", 1, 1, -1, "", "", "")


def dataset(names: list[str], split: dict[str, str] | None = None, groups: list[int] | None = None) -> Dataset:
    """Images named class/file."""
    classes = tuple(sorted({name.split("/")[0] for name in names}))
    return Dataset(
        root=Path("photos"),
        paths=tuple(names),
        labels=np.array([classes.index(name.split("/")[0]) for name in names], dtype=np.int64),
        classes=classes,
        split=np.array([(split or {}).get(name, "") for name in names], dtype="<U5"),
        groups=np.arange(len(names), dtype=np.int64) if groups is None else np.array(groups, dtype=np.int64),
    )


def facts_of(n: int, **changes: object) -> list[ImageInfo]:
    """`n` unlike good images; the last one is changed."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, n, dtype=np.uint64).tolist()
    values = {name: getattr(GOOD, name) for name in ImageInfo.__dataclass_fields__}
    facts = [ImageInfo(**{**values, "sha256": f"sha{i}", "dhash": hashes[i]}) for i in range(n)]
    facts[-1] = ImageInfo(**{**values, "sha256": f"sha{n - 1}", "dhash": hashes[-1], **changes})
    return facts


def found(data: Dataset, facts: list[ImageInfo], copies: Copies | None = None) -> dict[str, Finding]:
    listed = findings(data, facts, copies=copies)
    assert len({finding.check for finding in listed}) == len(listed)
    return {finding.check: finding for finding in listed}


NAMES = [f"{c}/{i}.jpg" for c in ("cats", "dogs") for i in range(10)]


ALPHA = "1 image has an alpha channel or a transparent colour; composited on white."


def test_nothing_to_say_but_the_size() -> None:
    assert findings(dataset(NAMES), facts_of(20)) == [
        Finding(
            "size_summary",
            "info",
            (),
            "20 images of 20 can be used: on average 200 x 100 pixels (width x height; median 200 x 100, smallest "
            "side 100, largest 200).",
        )
    ]


@pytest.mark.parametrize(
    ("check", "severity", "change", "message"),
    [
        ("animated", "warning", {"frames": 3}, "1 image is animated; the first frame is used."),
        (
            "several_pages",
            "warning",
            {"frames": 3, "format": "TIFF"},
            "1 image has several pages; the first is used.",
        ),
        ("alpha", "info", {"mode": "RGBA;16"}, ALPHA),
        ("alpha", "info", {"mode": "PA"}, ALPHA),
        ("cmyk", "info", {"mode": "CMYK"}, "1 image has CMYK colours; converted to RGB."),
        ("sixteen_bit", "info", {"mode": "I;16"}, "1 image has 16 bits or more per channel; scaled to 8 bits."),
        ("palette", "info", {"mode": "P"}, "1 image has a colour table; converted to RGB."),
        ("alpha", "info", {"mode": "RGBA"}, ALPHA),
        ("exif_rotated", "info", {"orientation": 6}, "1 image is rotated by an EXIF tag; used upright."),
        (
            "tiny",
            "warning",
            {"width": 40, "height": 31},
            "1 image is smaller than 32 pixels on a side; there may be little to see.",
        ),
        (
            "extreme_aspect",
            "warning",
            {"width": 401},
            "1 image is longer than 4:1; cropping to a square loses most of it.",
        ),
        (
            "wrong_extension",
            "warning",
            {"format": "PNG"},
            "1 image has the extension of another format, for example dogs/9.jpg is a PNG; read anyway.",
        ),
        (
            "truncated",
            "error",
            {"reason": "truncated", "message": "truncated JPEG (8 of 51 bytes)."},
            "1 file of 20 cannot be used (truncated) and is left out: truncated JPEG (8 of 51 bytes).",
        ),
    ],
)
def test_one_image_is_odd(check: str, severity: str, change: dict[str, object], message: str) -> None:
    finding = found(dataset(NAMES), facts_of(20, **change))[check]
    assert finding == Finding(check, severity, ("dogs/9.jpg",), message)


def test_a_name_without_an_extension_of_an_image_is_not_that_of_another_format() -> None:
    names = ["cats/0a1b2c", "cats/mr. smith", "cats/1.jpg.part"]
    assert "wrong_extension" not in found(dataset(names), facts_of(3, format="PNG"))


@pytest.mark.parametrize("change", [{"width": 32, "height": 32}, {"width": 400}, {"orientation": 0}, {"mode": "L"}])
def test_bounds_are_still_good(change: dict[str, object]) -> None:
    assert set(found(dataset(NAMES), facts_of(20, **change))) == {"size_summary"}


def test_copies_under_two_labels_and_on_two_sides() -> None:
    split = dict.fromkeys(NAMES, "train") | {"dogs/9.jpg": "test"}
    facts = facts_of(20)
    facts[19] = ImageInfo(**vars(facts[0]))
    by_name = found(dataset(NAMES, split), facts)
    assert set(by_name) == {"exact_duplicates", "label_conflict", "split_leak", "size_summary"}
    both = ("cats/0.jpg", "dogs/9.jpg")
    assert by_name["exact_duplicates"] == Finding(
        "exact_duplicates",
        "warning",
        both,
        "2 images are the same file, byte for byte (cats/0.jpg and dogs/9.jpg); they are kept in one set.",
    )
    assert by_name["label_conflict"] == Finding(
        "label_conflict",
        "error",
        both,
        "2 images are the same image under different labels (cats/0.jpg and dogs/9.jpg: 'cats' and 'dogs').",
    )
    assert by_name["split_leak"] == Finding(
        "split_leak",
        "error",
        both,
        "2 images are the same image or from one group, but in different sets of the split (cats/0.jpg and dogs/9.jpg: "
        "train and test); measured accuracy will be too high.",
    )


def copies(*pairs: tuple[int, int], certain: int = 0, n: int = 20, **more: object) -> Copies:
    """Copies among `n` images, of whose pairs the first are certain."""
    pairs_M2 = np.array(pairs, np.int64).reshape(-1, 2)
    certain_M = np.arange(len(pairs)) < certain
    return Copies(pairs_M2, np.where(certain_M, 0, 0.01), certain_M, merge_groups(n, pairs_M2), 0.02, **more)


def test_near_copies_are_those_that_are_given() -> None:
    facts = facts_of(20)
    facts[5] = ImageInfo(**{**vars(facts[5]), "dhash": facts[6].dhash})  # a hash makes nothing a copy
    assert set(found(dataset(NAMES), facts)) == {"size_summary"}
    near = found(dataset(NAMES), facts, copies((2, 3), (2, 4), (8, 9)))
    assert near["near_duplicates"] == Finding(
        "near_duplicates",
        "warning",
        ("cats/2.jpg", "cats/3.jpg", "cats/4.jpg", "cats/8.jpg", "cats/9.jpg"),
        "5 images in 2 groups are nearly the same (for example cats/2.jpg and cats/3.jpg); a split keeps them in one "
        "set where it can.",
    )
    assert set(near) == {"near_duplicates", "size_summary"}
    counted = found(dataset(NAMES), facts, copies((2, 3), false_share=0.004))["near_duplicates"]
    assert counted.message == (
        "2 images are nearly the same (cats/2.jpg and cats/3.jpg); a split keeps them in one set where it can. "
        "An estimated 0.4 % of these pairs are wrong, judging by their labels."
    )


def test_identical_files_are_no_near_copies() -> None:
    facts = facts_of(20)
    facts[3] = ImageInfo(**vars(facts[2]))
    assert set(found(dataset(NAMES), facts, copies((2, 3), certain=1))) == {"exact_duplicates", "size_summary"}


def test_near_copies_under_two_labels_are_doubts_and_no_errors() -> None:
    by_name = found(dataset(NAMES), facts_of(20), copies((1, 12), (3, 17), (4, 5)))
    assert set(by_name) == {"near_duplicates", "possible_label_conflict", "size_summary"}
    assert by_name["possible_label_conflict"] == Finding(
        "possible_label_conflict",
        "warning",
        ("cats/1.jpg", "dogs/2.jpg", "cats/3.jpg", "dogs/7.jpg"),
        "2 pairs of images under different labels may be copies of one image (for example cats/1.jpg and dogs/2.jpg: 'cats' "
        "and 'dogs'); look at them.",
    )
    assert found(dataset(NAMES), facts_of(20), copies((1, 12)))["possible_label_conflict"].message == (
        "1 pair of images under different labels may be copies of one image (cats/1.jpg and dogs/2.jpg: 'cats' and 'dogs'); "
        "look at it."
    )


def test_an_image_without_a_label_is_in_no_conflict() -> None:
    data = dataset(NAMES)
    data = replace(data, labels=np.where(np.arange(20) == 12, -1, data.labels))
    assert set(found(data, facts_of(20), copies((1, 12)))) == {"near_duplicates", "small_class", "size_summary"}


def test_the_same_pixels_under_two_labels_are_an_error() -> None:
    by_name = found(dataset(NAMES), facts_of(20), copies((1, 2), (1, 12), certain=2))
    assert set(by_name) == {"near_duplicates", "label_conflict", "size_summary"}
    assert by_name["label_conflict"] == Finding(
        "label_conflict",
        "error",
        ("cats/1.jpg", "cats/2.jpg", "dogs/2.jpg"),
        "3 images are the same image under different labels (for example cats/1.jpg and dogs/2.jpg: 'cats' and 'dogs').",
    )


def test_near_copies_in_two_sets_are_doubts_and_no_errors() -> None:
    split = dict.fromkeys(NAMES, "train") | {"cats/2.jpg": "test", "cats/5.jpg": "val"}
    by_name = found(dataset(NAMES, split), facts_of(20), copies((1, 2), (4, 5), (6, 7)))
    assert set(by_name) == {"near_duplicates", "possible_split_leak", "size_summary"}
    assert by_name["possible_split_leak"] == Finding(
        "possible_split_leak",
        "warning",
        ("cats/1.jpg", "cats/2.jpg", "cats/4.jpg", "cats/5.jpg"),
        "2 pairs of images in different sets of the split may be copies of one image (for example cats/1.jpg and "
        "cats/2.jpg: train and test); if so, measured accuracy will be too high.",
    )
    assert "possible_split_leak" not in found(dataset(NAMES), facts_of(20), copies((1, 2)))
    named = dataset(NAMES, split, groups=[0, 1, 1, *range(3, 20)])
    by_name = found(named, facts_of(20), copies((1, 2)))
    assert by_name["split_leak"].paths == ("cats/1.jpg", "cats/2.jpg")
    assert "possible_split_leak" not in by_name


def test_the_same_pixels_in_two_sets_are_an_error() -> None:
    split = dict.fromkeys(NAMES, "train") | {"cats/2.jpg": "test"}
    by_name = found(dataset(NAMES, split), facts_of(20), copies((1, 2), certain=1))
    assert (by_name["split_leak"].severity, by_name["split_leak"].paths) == ("error", ("cats/1.jpg", "cats/2.jpg"))
    assert "possible_split_leak" not in by_name


def test_copies_that_are_doubted() -> None:
    doubted = np.array([[0, 1], [0, 2], [1, 2], [11, 12]])
    by_name = found(dataset(NAMES), facts_of(20), copies(doubted_K2=doubted))
    assert set(by_name) == {"doubted_copies", "size_summary"}
    assert by_name["doubted_copies"] == Finding(
        "doubted_copies",
        "warning",
        ("cats/0.jpg", "cats/1.jpg", "cats/2.jpg", "dogs/1.jpg", "dogs/2.jpg"),
        "5 images look like copies, but their groups have too many images or labels for copies of one "
        "image (for example cats/0.jpg and cats/1.jpg); they are treated as different images. If they belong together "
        "(one patient, one object, one burst), name the groups: --group-column or --group-from.",
    )


def test_copies_among_files_that_cannot_be_used() -> None:
    found_copies = copies((0, 2), certain=1, n=3, doubted_K2=np.array([[1, 2]]))
    placed = found_copies.among(np.array([1, 3, 4]), 6)
    assert placed.pairs_M2.tolist() == [[1, 4]]
    assert placed.doubted_K2.tolist() == [[3, 4]]
    assert placed.groups_N.tolist() == [0, 1, 2, 3, 1, 5]
    assert Copies.none(2).among(np.array([0, 2]), 3).groups_N.tolist() == [0, 1, 2]


def test_groups_of_the_data_that_straddle_its_split() -> None:
    split = dict.fromkeys(NAMES, "train") | {"dogs/9.jpg": "val"}
    by_name = found(dataset(NAMES, split, groups=[*range(18), 18, 18]), facts_of(20))
    assert by_name["split_leak"].paths == ("dogs/8.jpg", "dogs/9.jpg")
    assert "near_duplicates" not in by_name


def test_unusable_images_are_no_copies_of_each_other() -> None:
    facts = facts_of(20, reason="empty", message="is empty.", sha256="none")
    facts[0] = ImageInfo(**vars(facts[-1]))
    assert set(found(dataset(NAMES), facts)) == {"empty", "small_class", "size_summary"}


def test_uneven_and_small_classes() -> None:
    names = [f"cats/{i}.jpg" for i in range(60)] + [f"dogs/{i}.jpg" for i in range(9)]
    by_name = found(dataset(names), facts_of(69))
    assert by_name["class_imbalance"].message == (
        "The classes are imbalanced: 'cats' has 60 images, 'dogs' 9. Use balanced accuracy rather than accuracy."
    )
    assert by_name["small_class"].message == "1 class has fewer than 10 images ('dogs': 9)."


def test_usable_and_average_size() -> None:
    facts = facts_of(3, reason="truncated", width=0, height=0)
    facts[0] = ImageInfo(**{**vars(facts[0]), "width": 300, "height": 500})
    assert usable(facts).tolist() == [True, True, False]
    assert get_avg_size(facts) == (300.0, 250.0)
    with pytest.raises(NoImages) as caught:
        get_avg_size(facts[2:])
    assert str(caught.value) == (
        "None of 1 files can be read as an image, so there is no mean size.\n"
        "  `headstart check` says what is wrong with each."
    )
    assert findings(dataset(["a/1.jpg"]), facts[2:])[0].check == "truncated"


def test_rows_of_checks_csv_come_back(tmp_path: Path) -> None:
    listed = [Finding("odd", "info", ('a "b",\n.jpg', "c.jpg"), "Two, of them."), Finding("all", "info", (), "None.")]
    rows = checks_rows(listed)
    assert rows == [
        ("odd", "info", 'a "b",\n.jpg', "Two, of them."),
        ("odd", "info", "c.jpg", "Two, of them."),
        ("all", "info", "", "None."),
    ]
    write_csv(tmp_path / "checks.csv", CHECKS_HEADER, rows)
    assert [tuple(row.values()) for row in read_csv(tmp_path / "checks.csv")] == rows


def test_files_that_cannot_be_used_are_counted_by_kind(tmp_path: Path) -> None:
    facts = facts_of(20)
    for i, kind in enumerate(("HEIC", "PDF", "HEIC")):
        unusable = {"reason": "not_supported", "format": kind, "message": f"{kind} is not decoded here."}
        facts[i] = ImageInfo(**{**vars(facts[i]), **unusable})
    for i in (5, 6):
        facts[i] = ImageInfo(**{**vars(facts[i]), "reason": "truncated", "format": "JPEG", "message": f"{i} bytes."})
    by_name = found(dataset(NAMES), facts)
    heic = "" if is_available("HEIC") else "To use HEIC: pip install 'headstart[formats]'. "
    assert by_name["not_supported"].message == (
        "3 files of 20 cannot be used (not supported) and are left out: HEIC 2, PDF 1. "
        f"{heic}To use PDF: pdftoppm -png -r 150 FILE.pdf PAGE."
    )
    assert by_name["truncated"].message == (
        "2 files of 20 cannot be used (truncated) and are left out: JPEG 2; for example cats/5.jpg: 5 bytes."
    )
    rows = checks_rows([by_name["not_supported"]])
    assert [(path, message) for _, _, path, message in rows] == [
        ("", by_name["not_supported"].message),
        ("cats/0.jpg", "HEIC is not decoded here."),
        ("cats/1.jpg", "PDF is not decoded here."),
        ("cats/2.jpg", "HEIC is not decoded here."),
    ]
    listed = tuple(findings(dataset(NAMES), facts))
    assert read_checks(checks_rows(listed)) == listed


def test_what_every_verb_says_of_files_that_cannot_be_used(caplog: pytest.LogCaptureFixture) -> None:
    """Where a library for HEIC is installed, such a file cannot be used for another reason."""
    cut = replace(GOOD, reason="truncated", message="PNG: the file ends before its pixels do.", format="PNG")
    video = replace(GOOD, reason="not_supported", message="HEIC: a video without a still image.", format="HEIC")
    pdf = replace(GOOD, reason="not_supported", message="PDF: is not decoded here.", format="PDF")
    note_unusable([GOOD, cut], ["a", "b"])
    note_unusable([GOOD, cut, cut], ["a", "b", "c"])
    note_unusable([cut, pdf])
    note_unusable([video, video], ["a", "b"])
    assert caplog.messages == [
        "1 of 2 files cannot be used, and is left out: b: PNG: the file ends before its pixels do.",
        "2 of 3 files cannot be used, and are left out: PNG 2. The first is b: PNG: the file ends before its pixels do.",
        "2 of 2 files cannot be used, and are left out: PDF 1, PNG 1. To use PDF: pdftoppm -png -r 150 FILE.pdf PAGE.",
        "2 of 2 files cannot be used, and are left out: HEIC 2. "
        + (
            "The first is a: HEIC: a video without a still image."
            if is_available("HEIC")
            else "To use HEIC: pip install 'headstart[formats]'."
        ),
    ]


def test_several_formats_under_a_wrong_extension() -> None:
    facts = facts_of(20, format="PNG")
    facts[0] = ImageInfo(**{**vars(facts[0]), "format": "HEIC", "frames": 3})
    by_name = found(dataset(NAMES), facts)
    assert by_name["wrong_extension"].message == (
        "2 images have the extension of another format, for example cats/0.jpg is a HEIC; read anyway."
    )
    assert by_name["wrong_extension"].details == (
        "Has the extension of another format, but is a HEIC; read anyway.",
        "Has the extension of another format, but is a PNG; read anyway.",
    )
    assert by_name["several_images"].message == ("1 image has others in the same HEIC file; the primary image is used.")


def test_every_check_says_what_it_is() -> None:
    assert all(check.__doc__ for check in CHECKS)
    assert len(set(CHECKS)) == len(CHECKS)


# A real folder with everything in it


def jpeg(image: Image.Image, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", **options)
    return data.getvalue()


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def rotated(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(image, exif=exif)


BAD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "truncated.jpg": ("truncated", lambda: jpeg(scene(100))[:4000]),
    "truncated.png": ("truncated", lambda: encoded(scene(101), "PNG")[:9000]),
    "empty.jpg": ("empty", lambda: b""),
    "text.jpg": ("not_an_image", lambda: b"This is no image, whatever its name says.\n" * 20),
    "png_inside.jpg": ("wrong_extension", lambda: encoded(scene(102), "PNG")),
    "moving.gif": ("animated", lambda: encoded(scene(103), "GIF", save_all=True, append_images=[scene(104)])),
    "print.jpg": ("cmyk", lambda: jpeg(scene(105).convert("CMYK"))),
    "deep.png": (
        "sixteen_bit",
        lambda: encoded(Image.fromarray(np.asarray(scene(106).convert("L")).astype(np.uint16) * 257), "PNG"),
    ),
    "palette.png": ("palette", lambda: encoded(scene(107).quantize(64), "PNG")),
    "logo.png": ("alpha", lambda: encoded(scene(112).quantize(64), "PNG", transparency=0)),
    "alpha.png": ("alpha", lambda: encoded(scene(108).convert("RGBA"), "PNG")),
    "turned.jpg": ("exif_rotated", lambda: rotated(scene(109))),
    "tiny.jpg": ("tiny", lambda: jpeg(scene(110, (20, 24)))),
    "strip.jpg": ("extreme_aspect", lambda: jpeg(scene(111, (500, 100)))),
}


def test_every_kind_of_bad_file_is_named(tmp_path: Path) -> None:
    for number in range(24):
        side, name = ("train", "test")[number % 4 == 3], ("cats", "dogs")[number % 2]
        place = tmp_path / side / name / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(jpeg(scene(number), quality=90))
    for name, (_, make) in BAD.items():
        (tmp_path / "train" / "cats" / name).write_bytes(make())
    shutil.copy(tmp_path / "train" / "cats" / "0.jpg", tmp_path / "train" / "cats" / "0 again.jpg")
    (tmp_path / "train" / "cats" / "2 again.jpg").write_bytes(jpeg(scene(2).resize((200, 150)), quality=60))
    shutil.copy(tmp_path / "train" / "cats" / "4.jpg", tmp_path / "train" / "dogs" / "4 other label.jpg")
    (tmp_path / "test" / "cats").mkdir(exist_ok=True)
    (tmp_path / "test" / "cats" / "8 leaks.jpg").write_bytes(jpeg(scene(8).resize((400, 300)), quality=80))
    (tmp_path / "train" / "cats" / "notes.txt").write_text("no image by its name")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    data = open_dataset(tmp_path)
    facts = validate_images([data.file(i) for i in range(len(data))])
    good = np.flatnonzero(usable(facts))
    images = Images([data.file(i) for i in good], [facts[i] for i in good])
    seen = find_copies(images, data.labels[good]).among(good, len(data))
    by_name = found(data, facts, seen)

    for name, (check, _) in BAD.items():
        assert f"train/cats/{name}" in by_name[check].paths, (name, check)
    for check in {check for check, _ in BAD.values()}:
        expected = {f"train/cats/{name}" for name, (kind, _) in BAD.items() if kind == check}
        extra = {"palette": {"train/cats/moving.gif", "train/cats/logo.png"}}.get(check, set())
        assert expected <= set(by_name[check].paths) <= expected | extra, check
    conflict = ("train/cats/4.jpg", "train/dogs/4 other label.jpg")
    assert by_name["label_conflict"].paths == conflict
    assert by_name["exact_duplicates"].paths == ("train/cats/0 again.jpg", "train/cats/0.jpg", *conflict)
    assert by_name["near_duplicates"].paths == (
        "test/cats/8 leaks.jpg",
        "train/cats/8.jpg",
        "train/cats/2 again.jpg",
        "train/cats/2.jpg",
    )
    assert by_name["possible_split_leak"].paths == ("test/cats/8 leaks.jpg", "train/cats/8.jpg")
    assert "split_leak" not in by_name
    assert by_name["not_an_image_name"].paths == ("train/cats/notes.txt",)
    assert int(usable(facts).sum()) == len(data) - 4
    severities = [finding.severity for finding in findings(data, facts, copies=seen)]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
