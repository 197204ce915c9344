"""Collect the 25 photographs: `python embedded/photographs.py DIR [--packages FILE_OR_FOLDER ...]`.

Each is looked for in the packages that are installed, then in those given: wheels, source archives, or folders that hold such
files. What is taken has the SHA-256 below, so it is the image that the backbone was trained on, whichever version of
the package it comes from. README.md has the commands that download the packages, and the terms of each image.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from headstart.errors import BadArchive, HeadstartError, MissingData
from headstart.io.files import sha256_bytes, write_bytes

PLACES = {
    "skimage/data/astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    "skimage/data/brick.png": "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
    "skimage/data/camera.png": "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
    "skimage/data/cell.png": "8d23a7fb81f7cc877cd09f330357fc7f595651306e84e17252f6e0a1b3f61515",
    "skimage/data/chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    "skimage/data/clock_motion.png": "f029226b28b642e80113d86622e9b215ee067a0966feaf5e60604a1e05733955",
    "skimage/data/coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    "skimage/data/coins.png": "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba",
    "skimage/data/color.png": "7d2df993de2b4fa2a78e04e5df8050f49a9c511aa75e59ab3bd56ac9c98aef7e",
    "skimage/data/grass.png": "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
    "skimage/data/gravel.png": "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
    "skimage/data/hubble_deep_field.jpg": "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
    "skimage/data/ihc.png": "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
    "skimage/data/logo.png": "f2c57fe8af089f08b5ba523d95573c26e62904ac5967f4c8851b27d033690168",
    "skimage/data/moon.png": "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577",
    "skimage/data/motorcycle_left.png": "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
    "skimage/data/motorcycle_right.png": "5fc913ae870e42a4b662314bc904d1786bcad8e2f0b9b67dba5a229406357797",
    "skimage/data/page.png": "341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3",
    "skimage/data/retina.jpg": "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
    "skimage/data/rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
    "skimage/data/text.png": "bd84aa3a6e3c9887850d45d606c96b2e59433fbef50338570b63c319e668e6d1",
    "sklearn/datasets/images/china.jpg": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    "sklearn/datasets/images/flower.jpg": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg": "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
    "scipy/misc/face.dat": "9d8b0b4d081313e2b485748c770472e5a95ed1738146883d84c7030493e82886",
}
"""Path in the package -> SHA-256 of the file."""
PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn", "matplotlib": "matplotlib", "scipy": "scipy==1.9.3"}
"""What is imported -> what is installed. Later versions of SciPy do not have its image."""
MOST_BYTES = 4 << 20
ARCHIVES = (".whl", ".zip", ".tar.gz")


def collect(into: Path, given: list[Path]) -> None:
    """Write all photographs into a folder. Raises `MissingData` if some are nowhere, with what to do; then none is written."""
    found: dict[str, bytes] = {}
    for candidates in (installed(), *map(contents, packages(given))):
        for place, data in candidates:
            if sha256_bytes(data) == PLACES[place]:
                found.setdefault(place, data)
    missing = [place for place in PLACES if place not in found]
    if missing:
        wanted = dict.fromkeys(PACKAGES[place.partition("/")[0]] for place in missing)
        raise MissingData(
            f"{len(missing)} of {len(PLACES)} photographs were not found, or have other bytes: {', '.join(missing[:4])}"
            + (", ..." if len(missing) > 4 else "."),
            hint=f"Download {' and '.join(wanted)} as README.md says, and give the files with --packages.",
        )
    for place, data in found.items():
        write_bytes(into / Path(place).name, data)


def installed() -> Iterator[tuple[str, bytes]]:
    """(place, bytes) of those in installed packages. Imports none of them."""
    for place in PLACES:
        package, _, inside = place.partition("/")
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (Path(folder) / inside).is_file():
                yield place, (Path(folder) / inside).read_bytes()


def packages(given: list[Path]) -> Iterator[Path]:
    """Wheels and source archives; of a folder, those in it."""
    for path in given:
        if path.is_dir():
            yield from sorted(inner for inner in path.iterdir() if inner.name.endswith(ARCHIVES))
        else:
            yield path


def contents(archive: Path) -> Iterator[tuple[str, bytes]]:
    """(place, bytes) of those in a wheel or source archive. Nothing is unpacked to disk. Raises `BadArchive`."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                for entry in wheel.infolist():
                    if (place := place_of(entry.filename)) and entry.file_size <= MOST_BYTES:
                        yield place, wheel.read(entry)
        else:
            with tarfile.open(archive) as source:
                for member in source:
                    if (place := place_of(member.name)) and member.size <= MOST_BYTES:
                        file = source.extractfile(member)
                        yield place, file.read() if file else b""
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise BadArchive(
            f"{archive}: {reason}.", hint="Give wheels or source archives, as pip download writes them."
        ) from error


def place_of(name: str) -> str:
    """The place in `PLACES` that a name in an archive stands for; '' if none. Source archives have folders before it."""
    return next((place for place in PLACES if f"/{name}".endswith(f"/{place}")), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("into", type=Path, help="folder for the images")
    parser.add_argument(
        "--packages", type=Path, nargs="*", default=[], help="wheels, source archives, folders of these"
    )
    given = parser.parse_args()
    try:
        collect(given.into, given.packages)
    except HeadstartError as error:
        sys.exit(str(error))
    print(f"{len(PLACES)} photographs in {given.into}")


if __name__ == "__main__":
    main()
