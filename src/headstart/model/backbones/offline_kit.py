"""Weights in a bundle, the folder that `headstart bundle` writes for a machine without network.

    BUNDLE/bundle.json      by which it is known
    BUNDLE/manifest.json    SHA-256 of every other file
    BUNDLE/weights/         NAME.safetensors and NAME.json for each backbone

Weights that lie in one are taken only if their bytes, and those of the JSON beside them, are the ones that the manifest
names: a copy that went wrong on the way is told from good weights, whatever it would have loaded as.

Costs: the manifest's few kilobytes, and the SHA-256 of the weights, which `weights_sha256` remembers.
When not to use it: the manifest is no signature. It tells damage, not the intent of whoever made the bundle.
"""

from __future__ import annotations

from pathlib import Path

from headstart.errors import BadWeights, DamagedRun
from headstart.io.files import sha256_file
from headstart.io.folders import MANIFEST, read_manifest
from headstart.model.backbones.weights import weights_sha256

MARK = "bundle.json"
WEIGHTS = "weights"
_AGAIN = "Copy the bundle again, or make it again with `headstart bundle`."


def weights_in(folder: Path) -> Path:
    """Where the weights are: in `folder` itself, or in its `weights` if it is a bundle's top folder."""
    return folder / WEIGHTS if (folder / MARK).is_file() else folder


def check_bundled(weights: Path) -> None:
    """Raise `BadWeights` if a weights file lies in a bundle, and it or its JSON is not what the bundle's manifest names.

    A file that lies in no bundle passes.
    """
    place = weights.parent.resolve()
    bundle = place.parent
    if place.name != WEIGHTS or not (bundle / MARK).is_file():
        return
    listed = _listed(bundle)
    for file, hashed in ((weights, weights_sha256), (weights.with_suffix(".json"), sha256_file)):
        expected = listed.get(f"{WEIGHTS}/{file.name}")
        if expected is None:
            raise BadWeights(
                f"{file}: is not in the manifest of the bundle that it lies in ({bundle / MANIFEST}).",
                hint="Put weights of your own into a folder of their own.",
            )
        if not file.is_file():
            raise BadWeights(f"{file}: is missing from the bundle.", hint=_AGAIN)
        try:
            found = hashed(file)
        except OSError as error:
            raise BadWeights(f"{file}: cannot be read: {error.strerror}.", hint=_AGAIN) from error
        if found != expected:
            raise BadWeights(
                f"{file}: is not the file that was bundled (SHA-256 {found[:12]}, the manifest says {expected[:12]}).",
                hint=_AGAIN,
            )


def _listed(bundle: Path) -> dict[str, str]:
    try:
        return read_manifest(bundle, _AGAIN)
    except DamagedRun as error:
        raise BadWeights(error.message, hint=error.hint) from error
