"""onnxruntime for browsers: two files of the npm package `onnxruntime-web`, given, cached, or fetched once.

    onnxruntime_web(Path("onnxruntime-web-1.30.0.tgz"))       from npm's archive, or that archive unpacked
    onnxruntime_web(offline=True)                             from the cache, or `MissingExtra`
    onnxruntime_web()                                         from the cache, or 33 MB by `npm pack`, checked by SHA-512

Of the package's builds, this uses the one that computes on the CPU only (WebAssembly with SIMD, no WebGPU): 0.07 MB
of JavaScript and 14.2 MB of WebAssembly, 3.7 MB packed. WebGPU gave wrong numbers too often, and its build is twice as
large. A given package may be of another version: the page tests itself before it classifies.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from headstart.errors import BadDownload, MissingExtra, RecipeError, Unreachable
from headstart.io.files import cache_dir, sha256_bytes, write_cache
from headstart.io.folders import temporary_folder
from headstart.io.processes import ProcessResult, run_child
from headstart.io.progress import log

VERSION = "1.30.0"
PACKAGE_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""SHA-512 of the archive in base64, as stated by npm (`npm view onnxruntime-web@VERSION dist.integrity`)."""
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
KNOWN = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""SHA-256 of the files of `VERSION`."""
MOST_BYTES = 200 << 20
SECONDS = 600.0

LICENCE = """\
ONNX Runtime Web {version}, unchanged; only the script's file extension was changed, since some servers do not know .mjs.

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation
files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy,
modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE,
ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


@dataclass(frozen=True)
class OnnxRuntimeWeb:
    """onnxruntime for browsers: its script and its WebAssembly."""

    script: bytes
    wasm: bytes

    @property
    def version(self) -> str:
        """The version that the script states, "" if none."""
        found = re.search(rb"ONNX Runtime Web v([0-9A-Za-z.-]{1,40})", self.script[:400])
        return found[1].decode() if found else ""

    @property
    def licence(self) -> str:
        """The text that goes with the files."""
        return LICENCE.format(version=self.version)


def onnxruntime_web(given: Path | None = None, *, offline: bool = False) -> OnnxRuntimeWeb:
    """Return onnxruntime-web from `given` (npm's .tgz, or a folder), otherwise from the cache or from npm.

    Raises `RecipeError` for a place without it, `MissingExtra` offline or without npm, `Unreachable`, `BadDownload`,
    `WriteError`.
    """
    if given is not None:
        return _given(given)
    folder = cache_dir() / "onnxruntime-web" / VERSION
    kept = _kept(folder)
    if kept is not None:
        return kept
    if offline:
        raise MissingExtra(
            "--to web needs onnxruntime-web, which is not on this machine, and --offline downloads nothing.",
            hint=f"`npm pack onnxruntime-web@{VERSION}` elsewhere, then --ort onnxruntime-web-{VERSION}.tgz; or run once"
            " without --offline.",
        )
    fetched = _members(_fetched())
    for name, data in ((SCRIPT, fetched.script), (WASM, fetched.wasm)):
        write_cache(folder / name, data)
    return fetched


def _kept(folder: Path) -> OnnxRuntimeWeb | None:
    """Return the cached files if they are exactly as published, otherwise None."""
    try:
        found = [(folder / name).read_bytes() for name in KNOWN]
    except OSError:
        return None
    if [sha256_bytes(data) for data in found] != list(KNOWN.values()):
        return None
    return OnnxRuntimeWeb(*found)


def _given(place: Path) -> OnnxRuntimeWeb:
    try:
        if place.is_dir():
            for folder in (place, place / "dist", place / "package" / "dist"):
                if (folder / SCRIPT).is_file() and (folder / WASM).is_file():
                    return OnnxRuntimeWeb((folder / SCRIPT).read_bytes(), (folder / WASM).read_bytes())
            raise KeyError(f"no {SCRIPT} and {WASM} in it, in dist or in package/dist")
        return _members(place.read_bytes())
    except (OSError, KeyError, tarfile.TarError, EOFError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error.args[0])
        raise RecipeError(
            f"--ort {place}: is not onnxruntime-web: {reason}.",
            hint=f"`npm pack onnxruntime-web@{VERSION}` gives onnxruntime-web-{VERSION}.tgz.",
        ) from error


def _members(archive: bytes) -> OnnxRuntimeWeb:
    """Return the two files in npm's archive, without unpacking it to disk. Raises `KeyError`, `TarError`."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for name in (SCRIPT, WASM):
            member = tar.getmember(f"package/dist/{name}")
            file = tar.extractfile(member)
            if file is None or member.size > MOST_BYTES:
                raise KeyError(f"{name} is not a file in it")
            found.append(file.read())
    return OnnxRuntimeWeb(*found)


def _fetched() -> bytes:
    """Return npm's archive, from the registry that npm is configured for, after checking its hash.

    Raises `MissingExtra` without npm, `Unreachable`, `BadDownload`.
    """
    npm = shutil.which("npm")
    hint = f"`npm pack onnxruntime-web@{VERSION}` elsewhere, then --ort onnxruntime-web-{VERSION}.tgz."
    if npm is None:
        raise MissingExtra("--to web needs onnxruntime-web, and npm to download it; neither is here.", hint=hint)
    log.info("Downloading onnxruntime-web %s with npm, 33 MB, once: it runs the network in the browser.", VERSION)
    with temporary_folder() as folder:
        done = run_child([npm, "pack", f"onnxruntime-web@{VERSION}", "--pack-destination", str(folder)], SECONDS)
        archives = list(folder.glob("*.tgz"))
        if done.stopped or done.code or not archives:
            raise Unreachable(f"onnxruntime-web could not be downloaded with npm: {_reason(done)}.", hint=hint)
        data = archives[0].read_bytes()
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != PACKAGE_SHA512:
        raise BadDownload("onnxruntime-web: what npm sent is not what was published (SHA-512 differs).", hint=hint)
    return data


def _reason(done: ProcessResult) -> str:
    """Return the code of npm's error, such as E404 or ENOTFOUND."""
    if done.stopped:
        return f"no end within {SECONDS:g} s"
    found = re.search(r"npm (?:error|ERR!) code (\w+)", done.stderr)
    return found[1] if found else f"it ended with code {done.code}"
