"""Weights in a bundle, the folder that `headstart bundle` writes for an offline machine.

    BUNDLE/bundle.json      marks the folder as a bundle
    BUNDLE/manifest.json    SHA-256 of every other file
    BUNDLE/weights/         NAME.safetensors and NAME.json for each backbone

Weights in a bundle are used only if they and their JSON match the manifest, so a damaged copy is always detected, even
if it would load.

Costs: reading the manifest's few kilobytes, and the SHA-256 of the weights, which `weights_sha256` remembers. When not
to use it: as a signature. The manifest detects damage, not the intent of the bundle's author.
"""

from __future__ import annotations

from pathlib import Path

from headstart.errors import BadWeights, DamagedRun
from headstart.io.files import sha256_file
from headstart.io.folders import MANIFEST, read_manifest
from headstart.model.backbones.weights import weights_sha256

MARK = "bundle.json"
WEIGHTS = "weights"
_AGAIN = "Copy the bundle again, or recreate it with `headstart bundle`."


def weights_in(folder: Path) -> Path:
    """Return the weights folder: `folder` itself, or its `weights` if it is a bundle's top folder."""
    return folder / WEIGHTS if (folder / MARK).is_file() else folder


def check_bundled(weights: Path) -> None:
    """Raise `BadWeights` if a weights file is in a bundle, and it or its JSON does not match the bundle's manifest.

    A file outside any bundle passes.
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
                f"{file}: is not in the manifest of its bundle ({bundle / MANIFEST}).",
                hint="Put your own weights in a separate folder.",
            )
        if not file.is_file():
            raise BadWeights(f"{file}: is missing from the bundle.", hint=_AGAIN)
        try:
            found = hashed(file)
        except OSError as error:
            raise BadWeights(f"{file}: cannot be read: {error.strerror}.", hint=_AGAIN) from error
        if found != expected:
            raise BadWeights(
                f"{file}: does not match the bundle's manifest (SHA-256 {found[:12]}, expected {expected[:12]}).",
                hint=_AGAIN,
            )


def _listed(bundle: Path) -> dict[str, str]:
    try:
        return read_manifest(bundle, _AGAIN)
    except DamagedRun as error:
        raise BadWeights(error.message, hint=error.hint) from error
