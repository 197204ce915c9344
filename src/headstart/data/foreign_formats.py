"""Files that hold labels or images in a form that headstart does not read: what each is, and what to do with it.

Recognised by the suffix alone; nothing is opened. Costs nothing. Not for images: `images.formats` says which formats are
decoded.
"""

from __future__ import annotations

from pathlib import Path

from headstart.data.dataset import IMAGES, OTHERS
from headstart.errors import MissingData

SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
ONE_CLASS = (
    "headstart gives each whole image one class: give a folder of images per class, or a table with the columns "
    "path,label."
)
_AS_CSV = 'Save it as CSV in that program (File > Save As > "CSV UTF-8"), and give the CSV.'
_AS_IMAGES = "Save the images as PNG files in one folder per class, and give the folder above them."
_AS_TABLE = "Write the paths and labels into a CSV with the columns path,label."

_FORMATS = (
    (SPREADSHEETS, "a spreadsheet", _AS_CSV),
    ((".coco.json",), "a COCO file, with boxes around objects in images", ONE_CLASS),
    ((".yaml", ".yml"), "a YAML file, such as YOLO's description of boxes in images", ONE_CLASS),
    ((".xml",), "an XML file, such as Pascal VOC's boxes in an image", ONE_CLASS),
    ((".mat",), "a MATLAB file", _AS_TABLE),
    ((".db", ".sqlite", ".sqlite3"), "a database", _AS_TABLE),
    (
        (".arrow", ".feather", ".orc", ".avro"),
        "a table in another format",
        "Write it as parquet or CSV, and give that.",
    ),
    ((".pkl", ".pickle", ".pt", ".pth"), "a pickle, which can run code and is never loaded", _AS_TABLE),
    ((".npy", ".npz", ".h5", ".hdf5", ".tfrecord", ".tfrecords", ".mdb", ".lmdb"), "a file of arrays", _AS_IMAGES),
    ((".pdf", ".doc", ".docx", ".odt", ".rtf", ".ppt", ".pptx"), "a document", _AS_IMAGES),
)
FOREIGN = tuple(suffix for suffixes, _, _ in _FORMATS for suffix in suffixes)
"""The suffixes of these files."""
MAY_HOLD_LABELS = (*SPREADSHEETS, ".coco.json", ".yaml", ".yml", ".mat")
"""The suffixes worth a note if they lie beside images without labels."""


def refuse_foreign(place: Path) -> None:
    """Raise `MissingData` for a file of one of these kinds."""
    what, hint = about(place)
    if what:
        raise MissingData(f"{place}: is {what}; headstart does not read it.", hint=hint)


def about(place: Path) -> tuple[str, str]:
    """What a file is, and what to do with it; both '' if it is none of these kinds.

    >>> about(Path("labels.XLSX"))[0], about(Path("labels.csv"))[0]
    ('a spreadsheet', '')
    """
    name = place.name.lower()
    return next(((what, hint) for suffixes, what, hint in _FORMATS if name.endswith(suffixes)), ("", ""))


def not_a_dataset(place: Path, formats: str) -> MissingData:
    """The error for a file that is given as data, but is neither an archive nor one of these tables."""
    suffix = place.suffix.lower()
    if suffix in IMAGES:
        return MissingData(
            f"{place}: is a single image; expected a folder of images, or a table of them.",
            hint=f"Give the folder that it is in, {place.parent}. `headstart predict RUN {place}` classifies it.",
        )
    if suffix in OTHERS:
        return MissingData(f"{place}: is not a table of images; expected {formats}.", hint=_AS_TABLE)
    return MissingData(
        f"{place}: is a file; expected a folder of images or a table ({formats}).",
        hint=f"Give the folder that it is in: {place.parent}",
    )
