"""The web page that classifies images: served by `headstart serve`, or exported to classify in the browser.

    web_page(about, base="assets/")                             links its scripts; what `serve` answers at /
    web_page(about, base="page/", inside={name: bytes})         one file with everything in it, which can be opened from disk

The page is `web/index.html.j2`, with its styles and scripts beside it. `about` is all that it knows about a classifier, and is
part of the page as JSON. Every content security policy forbids requests to other hosts, and inline scripts without a hash.
Takes milliseconds, and imports only Jinja.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files as package_files
from typing import Any

from headstart.io.text_table import few, plain

HERE = ("classify_here.js", "app.js")
"""Scripts of a page that classifies in the browser, in order."""
THERE = ("classify_there.js", "app.js")
"""Scripts of a page that asks the server."""
WORKER = ("pixels.js", "self_test.js", "network_worker.js")
"""Scripts of the web worker."""
STYLE = "style.css"
MOST_CLASSES = 12

_COMMON = "default-src 'none'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
THERE_POLICY = _COMMON + "script-src 'self'; style-src 'self'; connect-src 'self'"
HERE_POLICY = (
    _COMMON + "script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'; worker-src 'self' blob:"
)
"""Content security policy for the `_headers` of static hosts, and for the page itself."""


@cache
def web_part(name: str) -> bytes:
    """Return a file of the page."""
    return (package_files("headstart.exporters") / "web" / name).read_bytes()


@cache
def served_assets() -> dict[str, tuple[bytes, str]]:
    """Return the files that a served page requests: {name: (content, media type)}."""
    style = {STYLE: (web_part(STYLE), "text/css; charset=utf-8")}
    return style | {name: (web_part(name), "text/javascript; charset=utf-8") for name in THERE}


def served_page(about: Mapping[str, Any]) -> str:
    """Return the page that asks its server. `about` has model, classes and backbones (may be empty), and `explain`."""
    return web_page({"mode": "there", "parallel": 4, **about}, base="assets/")


def web_page(
    about: Mapping[str, Any],
    *,
    base: str,
    links: Sequence[tuple[str, str]] = (),
    inside: Mapping[str, bytes] | None = None,
) -> str:
    """Return the page as HTML. With `inside`, it also contains styles, scripts and these files, compressed.

    `about` has mode, model, classes and backbones, and what the scripts need; `links` are (URL, text) for the footer.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    names = HERE if about["mode"] == "here" else THERE
    texts = [web_part(name).decode() for name in names] if inside is not None else [""] * len(names)
    style = web_part(STYLE).decode() if inside is not None else ""
    linked = HERE_POLICY if about["mode"] == "here" else THERE_POLICY
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(web_part("index.html.j2").decode()).render(
        title=_title(about["classes"]),
        classes=_classes(about["classes"]),
        made=_made(about),
        links=links,
        base=base,
        policy=linked if inside is None else _inside_policy(style, texts),
        style=Markup(style),
        scripts=[{"name": name, "text": Markup(text)} for name, text in zip(names, texts, strict=True)],
        files=[(name, _packed(data)) for name, data in (inside or {}).items()],
        about=Markup(json.dumps({**about, "base": base}, default=list).replace("<", "\\u003c")),
    )


def _title(classes: Sequence[str]) -> str:
    known = few([plain(name) for name in classes], 4)
    return f"{known}: image classifier" if classes else "Image classifier"


def _made(about: Mapping[str, Any]) -> str:
    model = f"Model {about['model']}, {' + '.join(about['backbones'])}. " if about["model"] else ""
    return f"{model}Made with headstart."


def _classes(classes: Sequence[str]) -> str:
    if not classes:
        return "Enter the server's token to classify images."
    return f"It distinguishes {len(classes):,} classes: {few([plain(name) for name in classes], MOST_CLASSES)}."


def _inside_policy(style: str, scripts: Sequence[str]) -> str:
    """Return a policy without any host: only what is in the page, by hash, and what it unpacks itself."""
    hashes = " ".join(map(_hash, scripts))
    return (
        "default-src 'none'; img-src blob: data:; base-uri 'none'; form-action 'none'; "
        f"script-src {hashes} blob: 'wasm-unsafe-eval'; style-src {_hash(style)}; worker-src blob:"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _packed(data: bytes) -> str:
    """Return the bytes as gzip in base64; equal bytes give equal text."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()
