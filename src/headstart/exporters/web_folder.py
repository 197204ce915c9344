"""The format `web` of an export: a page that classifies in the browser, without any computing on a server.

    index.html, _headers           the page; HTTP headers for static hosts that read this file
    page/                          styles, scripts, and onnxruntime for browsers
    model.onnx, samples/           the verified network, and what the page tests itself with

Together with the export's other files, that is a folder for any static host. With `one_file`, index.html contains all of it
and can be opened from disk, without a single request: 9 MB with the small backbone. The page lets the browser decode,
resizes as the pixel contract says (`web/pixels.js`), runs model.onnx in WebAssembly on one thread, and classifies nothing
until its own answers to the golden samples are the expected ones.

Not for runs on images of more than 8 bits per channel: browsers reduce those to 8 bits before a page can see them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import RecipeError
from headstart.exporters.export_calibration import ExportCalibration
from headstart.exporters.export_folder import EXPORT_README, NETWORK_ONNX, PARITY_PAGE, SAMPLES
from headstart.exporters.onnxruntime_web import OnnxRuntimeWeb
from headstart.exporters.pixel_contract import PixelContract
from headstart.exporters.web_page import HERE, HERE_POLICY, STYLE, WORKER, web_page, web_part

PAGE, HEADERS, PARTS = "index.html", "_headers", "page/"
ORT_SCRIPT, ORT_WASM, ORT_LICENCE = "page/ort/ort.wasm.bundle.min.js", "page/ort/ort.wasm", "page/ort/LICENSE"
LINKS = ((PARITY_PAGE, "How it compares with its run"), (EXPORT_README, "What is in this folder"))

HOST_HEADERS = f"""\
/*
  Content-Security-Policy: {HERE_POLICY}; frame-ancestors 'self'
  Permissions-Policy: camera=(self), microphone=(), geolocation=()
  Referrer-Policy: no-referrer
  X-Content-Type-Options: nosniff
"""
"""In the format of Netlify and Cloudflare Pages. The page itself contains the same policy."""


@dataclass(frozen=True)
class WebOptions:
    """Options of the format web.

    `ort` is onnxruntime-web, as npm's .tgz or a folder; by default it is downloaded once, unless `offline`. With
    `one_file`, the page is a single HTML file.
    """

    ort: Path | None = None
    one_file: bool = False
    offline: bool = False


def check_for_web(contracts: Mapping[str, PixelContract], samples: int) -> None:
    """Raise `RecipeError` for a run that cannot work in browsers, or without samples."""
    deep = [contract.ranges.as_dict() for contract in contracts.values() if contract.ranges.as_dict()]
    if deep:
        raise RecipeError(
            "--to web: the run's images have more than 8 bits per channel, which browsers reduce in their own way.",
            hint="`headstart serve RUN` has the same page, and decodes them itself.",
        )
    if not samples:
        raise RecipeError(
            "--to web needs --samples above 0: the page tests itself with them before it classifies.",
        )


def web_files(
    facts: Mapping[str, Any],
    contracts: Mapping[str, PixelContract],
    calibration: ExportCalibration,
    files: Mapping[str, bytes],
    runtime: OnnxRuntimeWeb,
    *,
    one_file: bool,
) -> dict[str, bytes]:
    """Return the page's files, {relative path: bytes}. `files` are the export's: the network and the samples."""
    ort = {ORT_SCRIPT: runtime.script, ORT_WASM: runtime.wasm}
    licence = {ORT_LICENCE: runtime.licence.encode()}
    used = {name: data for name, data in files.items() if name == NETWORK_ONNX or name.startswith(f"{SAMPLES}/")}
    parts = {PARTS + name: web_part(name) for name in WORKER}
    about = {
        "mode": "here",
        "parallel": 1,
        "explain": False,
        "model": facts["id"],
        "classes": facts["classes"],
        "backbones": facts["backbones"],
        "alpha": calibration.conformal_alpha,
        "threshold": calibration.conformal_threshold,
        "contracts": {name: contract.as_dict() for name, contract in contracts.items()},
        "ort": ORT_SCRIPT,
        "wasm": ORT_WASM,
        "network": NETWORK_ONNX,
        "sizes": {name: len(data) for name, data in ({ORT_WASM: runtime.wasm} | used).items()},
    }
    if one_file:
        return {PAGE: web_page(about, base=PARTS, inside=licence | ort | parts | used).encode()}
    linked = {PARTS + name: web_part(name) for name in (STYLE, *HERE)}
    page = {PAGE: web_page(about, base=PARTS, links=LINKS).encode(), HEADERS: HOST_HEADERS.encode()}
    return page | linked | parts | ort | licence
