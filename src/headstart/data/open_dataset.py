"""`open_dataset`: turn the user's data into a `Dataset` of paths, labels, classes, and the split that came with it.

Only folders, tables and archives are opened here: whether a file is an image is checked later, so that `headstart
check` reports a bad one instead of it being skipped silently. Costs a listing of each folder (80,000 files per second) and
300 bytes per image.

    DATA/cat/1.jpg                          one folder per class, with any folders below it (`data.image_folder`)
    DATA/train/cat/1.jpg, DATA/test/...     split folders (train, val, valid, validation, test ...) of class folders
    DATA/1.jpg                              no labels, unless a table or the file names have them (`data.infer_labels`)
    DATA.csv, DATA.tsv, DATA.parquet        a path and a label column; may have a split and a group column
    DATA.zip, DATA.tar.gz ...               an archive of one of these (`data.archives.unpacking`)
    shards of images                        parquet with their bytes, WebDataset (`data.shards.writing`)

If a path is not enough, use a `DataSource` (`data.data_source`). Its kinds of places are listed in `data.open_source`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from headstart.data.chosen_classes import listed_classes
from headstart.data.data_source import as_source
from headstart.data.dataset import (
    TABLES,
    Dataset,
    counted,
)
from headstart.data.detection import about_boxes
from headstart.data.image_folder import TABLE_HINT
from headstart.data.open_source import open_source
from headstart.errors import BadLabels
from headstart.io.text_table import few


def open_dataset(
    data: object,
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    label_from: str | None = None,
    group_column: str | None = None,
    group_from: str | None = None,
    classes: str | Sequence[str] | None = None,
) -> Dataset:
    """Open images with their labels, from any source; see `DataSource` for the other arguments.

    Images are sorted by path, whatever the order on disk. Raises `MissingData` (nothing there), `NoImages`,
    `BadLabels` (mixed layouts, unclear columns, rows without files), `BadSplit` (unknown split names), `BadArchive`.
    """
    source = as_source(data)
    chosen = replace(
        source,
        label_from=source.label_from if label_from is None else label_from,
        label_column=source.label_column if label_column is None else label_column,
        path_column=source.path_column if path_column is None else path_column,
        group_column=source.group_column if group_column is None else group_column,
        group_from=source.group_from if group_from is None else group_from,
        classes=source.classes if classes is None else listed_classes(classes),
    )
    return open_source(chosen)


def require_trainable(dataset: Dataset) -> None:
    """Raise `BadLabels` unless there are at least two classes, none empty, with two images each on average."""
    where, total = dataset.root, int((dataset.labels >= 0).sum())
    counts = np.bincount(dataset.labels[dataset.labels >= 0], minlength=len(dataset.classes))
    listed = counted(dataset.classes, counts)
    if not total:
        raise BadLabels(f"{where}: none of its {len(dataset):,} images has a label.", hint=_label_hint(dataset))
    if len(dataset.classes) == 1:
        raise BadLabels(
            f"{where}: has one class only ({listed}); a classifier needs at least two.", hint=_one_class_hint(dataset)
        )
    if not counts.all():
        empty = [repr(name) for name, count in zip(dataset.classes, counts, strict=True) if not count]
        raise BadLabels(
            f"{where}: {len(empty)} of {len(counts)} classes {'has' if len(empty) == 1 else 'have'} no images: "
            f"{few(empty, 3)}. Counts: {listed}.",
            hint="Add images to it, or remove it. `headstart check` lists what was left out, and why.",
        )
    if total < 2 * len(counts):
        raise BadLabels(
            f"{where}: has {total} labelled images for {len(counts)} classes ({listed}); "
            f"at least {2 * len(counts)} are needed.",
            hint="Add images: about 20 per class give a first useful classifier. Few per class may mean that the labels "
            "are not the classes you want.",
        )


def _one_class_hint(dataset: Dataset) -> str:
    """What to do about a single class: keep another, use the folders in it, or add another."""
    if dataset.left_out:
        return f"Keep another class as well; left out: {few(sorted(set(map(repr, dataset.left_out.values()))), 5)}."
    name = dataset.classes[0]
    below = [path.removeprefix(f"{name}/") for path in dataset.paths if path.startswith(f"{name}/")]
    inner = sorted({path.partition("/")[0] for path in below if "/" in path})
    if len(inner) > 1:
        listed = few([repr(folder) for folder in inner], 3)
        return f"{name} holds the folders {listed}: if they are the classes, give {dataset.root / name}."
    empty = [path for path, code in dataset.rejected if code == "no_images"]
    beside = f"{few([repr(p) for p in empty], 3)} {'holds' if len(empty) == 1 else 'hold'} no images. " if empty else ""
    return f"{beside}Put the images of another class beside it, for example into {dataset.root / 'other'}."


def _label_hint(dataset: Dataset) -> str:
    boxes = about_boxes(dataset)
    if boxes:
        return boxes
    tables = [path for path, _ in dataset.rejected if path.lower().endswith(TABLES)]
    if tables:
        return f"There is a table: give {dataset.root / tables[0]} if it holds the labels."
    example = dataset.root / "cat" / Path(dataset.paths[0]).name
    return f"Put the images of each class into a folder of its own, such as {example}.\n{TABLE_HINT}"
