"""The formats of image files: which are decoded, what others are called, and how to convert those.

    DECODED        {"JPEG": (".jpg", ".jpeg", ...), ...}     HEIC and AVIF need a library, see `is_available`
    NOT_DECODED    JPEG 2000, camera raw, DICOM, SVG, ...    recognised by their first bytes, to be named
    SUFFIXES       the suffixes of both: such a file counts as an image wherever it lies

A file's content decides what it is, never its name. The name decides only whether a file is looked at where not every
file is an image. Costs nothing; only the standard library is imported. Not for reading headers: see `images.headers`.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType

INSTALL = "pip install 'headstart[formats]'"
"""The command that installs the libraries for HEIC and AVIF."""

DECODED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        "PNG": (".png", ".apng"),
        "GIF": (".gif",),
        "WEBP": (".webp",),
        "BMP": (".bmp", ".dib"),
        "TIFF": (".tif", ".tiff"),
        "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
        "AVIF": (".avif", ".avifs"),
        "HEIC": (".heic", ".heif", ".hif", ".heics", ".heifs"),
    }
)
"""Names and suffixes of the formats that are decoded."""

SHOWN = 3
_HEIF = ("pi_heif", "pillow_heif")


@dataclass(frozen=True)
class OtherFormat:
    """A format that is recognised and not decoded. `remedy` says what to do with such a file.

    `begins` matches the first bytes; files of a format that is no `image` count as images only in a class folder.
    """

    name: str
    suffixes: tuple[str, ...]
    begins: re.Pattern[bytes]
    remedy: str
    image: bool = True
    reason: str = "not_supported"


def _other(name: str, suffixes: str, begins: bytes, remedy: str, **more: object) -> OtherFormat:
    pattern = re.compile(begins, re.DOTALL)
    return OtherFormat(name, tuple(f".{s}" for s in suffixes.split()), pattern, remedy, **more)  # type: ignore[arg-type]


_RAW = (
    "dng cr2 cr3 crw nef nrw arw srf sr2 orf raf rw2 rwl raw pef srw x3f 3fr fff iiq mrw mef mos kdc dcr erf gpr",
    rb"FUJIFILMCCD-RAW|II(?:RO|RS|U\x00)|MMOR|....ftypcrx |FOVb|\x00MRM|II\x1a\x00\x00\x00HEAPCCDR|....\x10\x00\x00\x00CR",
    "export it as JPEG or TIFF with the camera's program, darktable or RawTherapee",
)
_VIDEO = (
    rb"....(?:ftyp|moov|mdat|wide|skip)|RIFF....AVI |\x1a\x45\xdf\xa3|\x00\x00\x01[\xb3\xba]"
    rb"|\x30\x26\xb2\x75\x8e\x66\xcf\x11"
)

CAMERA_RAW = _other("camera raw", *_RAW)
NOT_DECODED: tuple[OtherFormat, ...] = (
    CAMERA_RAW,
    _other("JPEG XL", "jxl", rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "djxl IMAGE.jxl IMAGE.png"),
    _other(
        "JPEG 2000", "jp2 j2k j2c jpc jpf jpx", rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  ", "magick IMAGE.jp2 IMAGE.png"
    ),
    _other("JPEG XR", "jxr wdp hdp", rb"II\xbc", "JxrDecApp -i IMAGE.jxr -o IMAGE.tif"),
    _other(
        "DICOM",
        "dcm dicom dic ima",
        rb".{128}DICM|[\x02\x08]\x00[\x00-\x20]\x00(?:UI|UL|CS|[\x02-\x60]\x00\x00\x00)",
        "export it as PNG of 8 or 16 bits with its viewer, or with pydicom (pixel_array) and Pillow",
    ),
    _other("NIfTI", "nii nii.gz", rb"\x5c\x01\x00\x00|\x00\x00\x01\x5c", "save its slices as PNG, with nibabel"),
    _other("NRRD", "nrrd nhdr", rb"NRRD", "save its slices as PNG, with SimpleITK"),
    _other("MetaImage", "mha mhd", rb"ObjectType", "save its slices as PNG, with SimpleITK"),
    _other(
        "microscope image",
        "czi lif nd2 oib oif vsi",
        rb"ZISRAWFILE|\xda\xce\xbe\x0a|\x70\x00\x00\x00.{4}\x2a",
        "bfconvert IMAGE IMAGE.tif (Bio-Formats)",
    ),
    _other("FITS", "fits fit fts", rb"SIMPLE  =", "save it as TIFF of 16 bits, with astropy and Pillow"),
    _other("OpenEXR", "exr", rb"\x76\x2f\x31\x01", "magick IMAGE.exr IMAGE.png"),
    _other("Radiance HDR", "hdr", rb"#\?(?:RADIANCE|RGBE)", "magick IMAGE.hdr IMAGE.png"),
    _other(
        "SVG",
        "svg svgz",
        rb"(?:\xef\xbb\xbf)?\s*<svg|(?:\xef\xbb\xbf)?\s*<(?:\?xml|!--).*<(?:!DOCTYPE )?svg",
        "rsvg-convert -h 1000 IMAGE.svg -o IMAGE.png",
    ),
    _other("Photoshop", "psd psb", rb"8BPS", "magick 'IMAGE.psd[0]' IMAGE.png"),
    _other("GIMP", "xcf", rb"gimp xcf", "export it as PNG"),
    _other(
        "EPS", "eps epsf ps ai", rb"%!PS|\xc5\xd0\xd3\xc6", "gs -sDEVICE=png16m -r150 -dEPSCrop -o IMAGE.png IMAGE.eps"
    ),
    _other("TGA", "tga", rb"\x00\x00[\x02\x0a]\x00\x00\x00\x00\x00", "magick IMAGE.tga IMAGE.png"),
    _other("Windows icon", "ico cur", rb"\x00\x00[\x01\x02]\x00", "magick 'IMAGE.ico[0]' IMAGE.png"),
    _other("Apple icon", "icns", rb"icns", "magick IMAGE.icns IMAGE.png"),
    _other("PCX", "pcx", rb"\x0a[\x00\x02-\x05]\x01[\x01\x02\x04\x08]", "magick IMAGE.pcx IMAGE.png"),
    _other("DDS", "dds", rb"DDS ", "magick IMAGE.dds IMAGE.png"),
    _other("QOI", "qoi", rb"qoif", "magick IMAGE.qoi IMAGE.png"),
    _other("DjVu", "djvu djv", rb"AT&TFORM", "ddjvu -format=tiff IMAGE.djvu IMAGE.tif"),
    _other("Windows metafile", "wmf emf", rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF", "magick IMAGE.wmf IMAGE.png"),
    _other("BigTIFF", "", rb"II\+\x00|MM\x00\+", "magick IMAGE.tif IMAGE.png"),
    _other("Netpbm other than binary PPM and PGM", "pam pfm", rb"P[1-4fF7]\s", "magick IMAGE IMAGE.png"),
    _other("PDF", "pdf", rb"%PDF", "pdftoppm -png -r 150 FILE.pdf PAGE", image=False),
    _other("NumPy array", "npy npz", rb"\x93NUMPY", "save it as PNG, with Pillow", image=False),
    _other(
        "video",
        "mp4 mov m4v avi mkv webm mpg mpeg wmv 3gp",
        _VIDEO,
        "ffmpeg -i VIDEO -vf fps=1 FRAME-%04d.jpg",
        image=False,
    ),
    _other(
        "web page",
        "html htm",
        rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|!DOCTYPE html|!DOCTYPE HTML|HTML)",
        "a download that failed; download it again",
        image=False,
        reason="not_an_image",
    ),
    _other(
        "XML",
        "xml",
        rb"(?:\xef\xbb\xbf)?\s*<\?xml",
        "a server's answer; download it again",
        image=False,
        reason="not_an_image",
    ),
    _other(
        "Git LFS pointer",
        "",
        rb"version https://git-lfs",
        "git lfs pull (the file only names the image)",
        image=False,
        reason="not_an_image",
    ),
)
"""Formats that are named, not decoded. The first whose `begins` matches counts."""

SUFFIXES = tuple(
    dict.fromkeys(
        [s for suffixes in DECODED.values() for s in suffixes]
        + [s for other in NOT_DECODED if other.image for s in other.suffixes]
    )
)
"""Suffixes of images, decoded or not, in lower case."""

_NOT_IMAGES = frozenset(other.name for other in NOT_DECODED if other.reason == "not_an_image")
_REMEDIES = {other.name: other.remedy for other in NOT_DECODED} | dict.fromkeys(("HEIC", "AVIF"), INSTALL)


def other_format(start: bytes) -> OtherFormat | None:
    """Return the format of `NOT_DECODED` of a file that begins with these bytes (160 or more), or None."""
    return next((other for other in NOT_DECODED if other.begins.match(start)), None)


def is_available(name: str) -> bool:
    """Return whether files of a format in `DECODED` can be decoded here: HEIC and AVIF need a library."""
    if name == "HEIC":
        return heif_library() is not None
    return name != "AVIF" or _pillow_reads_avif()


@cache
def heif_library() -> ModuleType | None:
    """Import the library that decodes HEIC: pi_heif, or pillow_heif, which can also write; None without either."""
    for name in _HEIF:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def heif_specs() -> list[ModuleSpec]:
    """Return where Python would import the library for HEIC from; nothing is imported."""
    found = [importlib.util.find_spec(name) for name in _HEIF]
    return [spec for spec in found if spec is not None][:1]


def heif_versions() -> list[str]:
    """Return name and version of the library for HEIC, for the keys of caches; empty without it."""
    import importlib.metadata  # here: it takes 20 ms, which every validation process would wait for

    found = []
    for spec in heif_specs():
        try:
            found += [spec.name, importlib.metadata.version(spec.name)]
        except importlib.metadata.PackageNotFoundError:
            found += [spec.name, "unknown"]
    return found


@cache
def _pillow_reads_avif() -> bool:
    try:
        return bool(importlib.import_module("PIL.AvifImagePlugin").SUPPORTED)
    except ImportError:
        return False


def counted_kinds(names: Iterable[str]) -> str:
    """Count names of formats, the most frequent first; '' counts as 'unknown'.

    >>> counted_kinds(["HEIC", "PDF", "HEIC", ""])
    'HEIC 2, PDF 1, unknown 1'
    """
    counts = Counter(name or "unknown" for name in names)
    return ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def remedies(names: Iterable[str]) -> str:
    """Say how to use files of these formats, the most frequent first; '' if that is not known.

    >>> remedies(["PDF", "HEIC", "HEIC"])
    "To use HEIC: pip install 'headstart[formats]'. To use PDF: pdftoppm -png -r 150 FILE.pdf PAGE."
    """
    counts = Counter(name for name in names if _REMEDIES.get(name))
    kinds = sorted(counts, key=lambda name: (-counts[name], name))
    sentences = [remedy(name) for name in kinds[:SHOWN]]
    return " ".join(
        [*sentences, *(["`headstart check DATA --out checks.csv` lists the others."] if len(kinds) > SHOWN else [])]
    )


def remedy(name: str) -> str:
    """Say in a sentence how to use files of one format; '' if that is not known."""
    text = _REMEDIES.get(name, "")
    if not text:
        return ""
    return f"{name[0].upper()}{name[1:]}: {text}." if name in _NOT_IMAGES else f"To use {name}: {text}."
