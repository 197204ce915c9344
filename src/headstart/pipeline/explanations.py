"""Explanations of predictions: an image's probabilities, its heat map, and the most similar training images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from headstart.errors import BackboneError, MissingExtra, UnreadableImage
from headstart.evaluation.probabilities import softmax
from headstart.images.image_refs import ImageRef, Images, read_image
from headstart.images.remarks import note_unusable
from headstart.images.value_ranges import ValueRanges
from headstart.io.files import png_bytes, write_bytes
from headstart.io.folders import folder_aside
from headstart.io.progress import bar
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.features import Embedder
from headstart.model.inference.heat_maps import BATCH, Heat, seen
from headstart.pipeline.similar_images import SimilarImages, TrainingImages
from headstart.reports.explanation_sheet import ExplanationSheet, Neighbour, draw_explanation
from headstart.reports.report_data import SimilarImage
from headstart.runs.run_folder import RunFolder

VIEWED = (448, 448)  # minimum size in pixels to decode for a sheet


@dataclass(frozen=True)
class Explanation:
    """One image: its predicted class, the probability of each class, and similar training images.

    `label` is empty unless the image is one of the run's, under one label. `sheet` is the file of the drawn explanation.
    """

    path: str
    label: str
    predicted: str
    probabilities: dict[str, float]
    nearest: tuple[SimilarImage, ...]
    sheet: str


@dataclass(frozen=True)
class Explanations:
    """All results: one `Explanation` per image, {name: reason} of those without one, and notes on what is missing."""

    images: tuple[Explanation, ...]
    errors: dict[str, str]
    notes: tuple[str, ...]


def explain_images(
    run: RunFolder, files: Mapping[str, ImageRef], *, out: Path, data: Path | None, top: int
) -> Explanations:
    """Write a sheet per image into the folder `out`. `files` are images by name; `data` is the place of the training
    images.

    Raises `DataError` if `data` is given and is not a dataset, `BackboneError`, `WriteError`.
    """
    asked, errors = _asked(files)
    found, known, failed = _compared(run, asked, data, top)
    done, more_failed, heat_note = _write_sheets(run.classifier, found, known, out, top)
    notes = tuple(note for note in (known.note, heat_note) if note)
    return Explanations(tuple(done), errors | failed | more_failed, notes)


@dataclass(frozen=True)
class _QueryImage:
    """A readable image to explain."""

    name: str
    file: ImageRef
    sha256: str


@dataclass(frozen=True, eq=False)
class _PredictedImage:
    """An image with its probabilities (K,), and the indices of the nearest training images with their cosines."""

    asked: _QueryImage
    chances_K: np.ndarray
    nearest: tuple[tuple[int, float], ...]


def _asked(files: Mapping[str, ImageRef]) -> tuple[list[_QueryImage], dict[str, str]]:
    """Return the readable images, each once, and {name: reason} of the others."""
    infos = dict(zip(files, Images.inspect(files.values()).infos, strict=True))
    note_unusable(list(infos.values()), list(infos))
    errors = {name: f.reason for name, f in infos.items() if f.reason}
    return [_QueryImage(name, files[name], f.sha256) for name, f in infos.items() if not f.reason], errors


def _compared(
    run: RunFolder, asked: Sequence[_QueryImage], data: Path | None, top: int
) -> tuple[list[_PredictedImage], TrainingImages, dict[str, str]]:
    """Return probabilities and nearest training images, these images, and {name: reason} of images that can no longer
    be read."""
    classifier = run.classifier
    embed = Embedder([member.extractor for member in classifier.members], classifier.runtime)
    similar = SimilarImages.open(run, data, embed)
    if not asked:
        return [], similar.images, {}
    sha256s = [each.sha256 for each in asked]
    features, failed = embed(Images.recorded([each.file for each in asked], sha256s))
    near = similar.nearest(embed.own(features), sha256s, top)
    found = [
        _PredictedImage(each, softmax(classifier.logits([x[j : j + 1] for x in features]))[0], near[j])
        for j, each in enumerate(asked)
        if j not in failed
    ]
    return found, similar.images, {asked[j].name: reason for j, reason in failed.items()}


def _write_sheets(
    classifier: Classifier, found: Sequence[_PredictedImage], known: TrainingImages, out: Path, top: int
) -> tuple[list[Explanation], dict[str, str], str]:
    """Write a PNG per image; return the explanations, {name: reason} of changed images, and why there are no heat
    maps."""
    done: list[Explanation] = []
    errors: dict[str, str] = {}
    heat, note = opened_heat(classifier) if found else (None, "")
    with folder_aside(out) as folder, bar("Explaining", len(found)) as advance:
        for start in range(0, len(found), BATCH):
            batch, images = _opened(found[start : start + BATCH], classifier.ranges, errors)
            predicted = np.array([each.chances_K.argmax() for each in batch], np.int64)
            maps: Sequence[np.ndarray | None] = (
                heat.batch(images, predicted) if heat and images else [None] * len(batch)
            )
            for each, image, heat_HW in zip(batch, images, maps, strict=True):
                name = f"{len(done) + 1:03}-{_file_name(each.asked.name)}.png"
                sheet = _sheet(classifier, each, image, heat_HW, known, top)
                write_bytes(folder / name, png_bytes(draw_explanation(sheet)))
                done.append(_explanation(classifier, each, known, str(out / name)))
            advance(len(found[start : start + BATCH]))
    return done, errors, note


def opened_heat(classifier: Classifier) -> tuple[Heat | None, str]:
    """Return the networks, opened, if they support heat maps (tried on an empty image); otherwise None, and why."""
    try:
        heat = Heat(classifier)
        heat.batch([Image.new("RGB", (32, 32))])
    except BackboneError as error:
        return None, f"No heat maps: {error.message}"
    except MissingExtra as error:
        return None, error.message
    return heat, ""


def _opened(
    found: Sequence[_PredictedImage], ranges: ValueRanges, errors: dict[str, str]
) -> tuple[list[_PredictedImage], list[Image.Image]]:
    kept, images = [], []
    for each in found:
        try:
            images.append(read_image(each.asked.file, sha256=each.asked.sha256, at_least=VIEWED, ranges=ranges))
            kept.append(each)
        except UnreadableImage as error:
            errors[each.asked.name] = error.reason
    return kept, images


def _sheet(
    classifier: Classifier,
    each: _PredictedImage,
    image: Image.Image,
    heat_HW: np.ndarray | None,
    known: TrainingImages,
    top: int,
) -> ExplanationSheet:
    likely = np.argsort(-each.chances_K, kind="stable")[:top]
    near = [(known.near(i, cosine), known.thumbnail(i)) for i, cosine in each.nearest]
    return ExplanationSheet(
        name=each.asked.name,
        image=image,
        shares=[(classifier.classes[k], float(each.chances_K[k])) for k in likely],
        heat_HW=heat_HW,
        label=known.label_of.get(each.asked.sha256, ""),
        seen=part_seen(classifier, *image.size),
        neighbours=[Neighbour(n.label, n.cosine, thumbnail) for n, thumbnail in near],
        note="none" if known.files else "the training images are not available",
    )


def part_seen(classifier: Classifier, width: int, height: int) -> tuple[float, float, float, float]:
    """Return the part of an image (left, top, right, bottom; fractions of it) that any of the networks sees."""
    squares = np.array([seen(member.extractor.spec, width, height) for member in classifier.members]).clip(0, 1)
    (left, upper), (right, lower) = squares[:, :2].min(0), squares[:, 2:].max(0)
    return float(left), float(upper), float(right), float(lower)


def _explanation(classifier: Classifier, each: _PredictedImage, known: TrainingImages, sheet: str) -> Explanation:
    return Explanation(
        path=each.asked.name,
        label=known.label_of.get(each.asked.sha256, ""),
        predicted=classifier.classes[int(each.chances_K.argmax())],
        probabilities=dict(zip(classifier.classes, map(float, each.chances_K), strict=True)),
        nearest=tuple(known.near(i, cosine) for i, cosine in each.nearest),
        sheet=sheet,
    )


def holds_sheets(names: Set[str]) -> bool:
    """Return whether a folder with files of these names has sheets and nothing else.

    >>> holds_sheets({"001-IMG_12.png"}), holds_sheets({"001-IMG_12.png", "model.onnx"})
    (True, False)
    """
    return all(re.fullmatch(r"\d{3,}-[\w-]+\.png", name) for name in names)


def _file_name(path: str) -> str:
    """Return a short name of plain characters for an image's sheet.

    >>> _file_name("a/IMG 12 (copy).jpg")
    'IMG_12_copy'
    """
    return re.sub(r"[^A-Za-z0-9-]+", "_", Path(path).stem).strip("_")[:60] or "image"
