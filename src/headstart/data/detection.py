"""Images with boxes instead of labels: data for object detection, recognised by the files beside the images.

    labels/1.txt                     lines of a class and four numbers (YOLO)
    1.xml                            <bndbox> (Pascal VOC)
    _annotations.coco.json           "bbox" (COCO, CreateML)

Used only if no image has a label, to say why. Reads the beginnings of a few files. Not a reader of such data: headstart
classifies whole images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from headstart.data.dataset import Dataset

_YOLO = re.compile(rb"\s*\d+(?:[ \t]+-?\d*\.?\d+(?:e-?\d+)?){4,}[ \t]*(?:\r?\n|$)")
_VOC = re.compile(rb"<bndbox\b|<object\b")
_COCO = re.compile(rb'"(?:bbox|coordinates|annotations)"\s*:')
_KINDS = {".txt": (_YOLO, "YOLO"), ".xml": (_VOC, "Pascal VOC"), ".json": (_COCO, "COCO")}
_TRIED = 20
"""Number of files that are read per extension."""
_BYTES = 1 << 20


def about_boxes(dataset: Dataset) -> str:
    """A sentence saying that the files beside the images hold boxes, and what to do; '' if there are none."""
    for suffix, (pattern, kind) in _KINDS.items():
        for path in islice((p for p in _beside(dataset) if p.suffix.lower() == suffix), _TRIED):
            if _begins(path, pattern, whole=suffix != ".txt"):
                return (
                    f"{path} holds boxes ({kind}), so this looks like data for object detection; headstart classifies "
                    "whole images. Crop the boxes into one folder per class, or sort the images into class folders."
                )
    return ""


def _beside(dataset: Dataset) -> Iterator[Path]:
    """The files that were left out, and those in folders that were left out."""
    for path, code in dataset.rejected:
        place = dataset.root / path
        if code == "not_an_image_name":
            yield place
        elif code in ("masks", "no_images"):
            yield from (Path(above) / name for above, _, names in os.walk(place) for name in sorted(names))


def _begins(path: Path, pattern: re.Pattern[bytes], *, whole: bool) -> bool:
    """Whether the pattern is at the beginning of a file, or anywhere in its first megabyte."""
    try:
        with open(path, "rb") as file:
            start = file.read(_BYTES)
    except OSError:
        return False
    return bool(pattern.search(start) if whole else pattern.match(start))
