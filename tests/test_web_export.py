"""A page that classifies in the browser answers as the export does, tests itself, and asks nobody for anything.

Needs Playwright, its axe package, a Chromium, and onnxruntime-web: from HEADSTART_TEST_ORT (npm's .tgz, or a folder), from
the user's cache, or by `npm pack`. Tests of the page skip, saying so, where one of them is missing.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import os
import shutil
import socketserver
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import headstart
from conftest import PATIENCE, WAIT, Opened, scene, serious_violations
from headstart import Recipe
from headstart.errors import BadDownload, MissingExtra, RecipeError, Unreachable
from headstart.exporters import web_page
from headstart.exporters.export_calibration import ExportCalibration
from headstart.exporters.export_folder import ExportFolder
from headstart.exporters.exported_classifier import ExportedClassifier
from headstart.exporters.golden_images import rendered_images
from headstart.exporters.golden_samples import sample_files
from headstart.exporters.onnxruntime_web import SCRIPT, VERSION, WASM, OnnxRuntimeWeb, onnxruntime_web
from headstart.exporters.pixel_contract import PixelContract
from headstart.exporters.portable_images import portable_pixels
from headstart.exporters.web_folder import HOST_HEADERS, check_for_web, web_files
from headstart.images.image_refs import read_image
from headstart.images.preprocess import Preprocess
from headstart.images.value_ranges import ValueRanges
from tiny_export import Tiny, runner

onnx = pytest.importorskip("onnx", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra export")

CLASSES = (
    "sea",
    '<img src=x onerror="document.title=1">',
    "</script><b>street",
    "for\u00eat\nline",
    "\u05d0\u05d1 \U0001f989",
)
SPECS = {
    "pixels_1": Preprocess(image_size=96, crop_pct=0.9, interpolation="bicubic"),
    "pixels_2": Preprocess(image_size=64, resize="pad", interpolation="bilinear"),
}
CONTRACTS = {name: PixelContract.of(spec) for name, spec in SPECS.items()}
CALIBRATION = ExportCalibration(conformal_threshold=0.8, conformal_alpha=0.1)
STRICT = ExportCalibration(conformal_threshold=0.1, conformal_alpha=0.025)
"""For the page as one file: few images reach the threshold."""
FACTS = {"id": "0123456789abcdef", "classes": list(CLASSES), "backbones": ["tiny at 96 px"]}


@dataclass(frozen=True, eq=False)
class Site:
    """A page in both of its forms, and the network that answers in it."""

    folder: Path
    one_file: Path
    address: str
    run: Callable[..., Any]

    def expected(self, data: bytes) -> np.ndarray:
        """Probabilities (K,) of an image file, by Pillow and onnxruntime."""
        image = read_image(data)
        pixels = {name: portable_pixels(image, contract)[None] for name, contract in CONTRACTS.items()}
        return np.asarray(self.run(pixels)[1][0])


class _StaticHost(http.server.SimpleHTTPRequestHandler):
    """As hosts that read `_headers`."""

    def end_headers(self) -> None:
        for line in HOST_HEADERS.splitlines()[1:]:
            name, _, value = line.strip().partition(": ")
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *args: Any) -> None:
        pass


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def handle_error(self, *args: Any) -> None:
        """A browser that closes a connection early is no error."""


@pytest.fixture(scope="module")
def ort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """onnxruntime-web, or the tests that need it are skipped."""
    from platformdirs import user_cache_path

    if given := os.environ.get("HEADSTART_TEST_ORT"):
        return Path(given)
    kept = user_cache_path("headstart", appauthor=False) / "onnxruntime-web" / VERSION
    if (kept / WASM).is_file():
        return kept
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("npm")
    if npm is None:
        pytest.skip("needs onnxruntime-web (HEADSTART_TEST_ORT), or npm to get it")
    try:
        got = subprocess.run([npm, "pack", f"onnxruntime-web@{VERSION}"], cwd=folder, capture_output=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("npm does not answer, and onnxruntime-web is not here (HEADSTART_TEST_ORT)")
    if got.returncode:
        pytest.skip("npm cannot get onnxruntime-web, which is not here (HEADSTART_TEST_ORT)")
    return next(folder.glob("*.tgz"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, ort: Path) -> Iterator[Site]:
    """A tiny network with two inputs; its page as a folder on a web server, and as one file."""
    folder, one = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("one")
    model = Tiny(inputs={name: spec.image_size for name, spec in SPECS.items()}).model()
    run, runtime = runner(model), onnxruntime_web(ort)
    files = {"model.onnx": model.SerializeToString(), "README.md": b"", "parity.html": b""}
    files |= sample_files(rendered_images(12), CONTRACTS, run, classes=CLASSES, conformal_threshold=0.8)
    write(folder, files | web_files(FACTS, CONTRACTS, CALIBRATION, files, runtime, one_file=False))
    write(one, web_files(FACTS, CONTRACTS, STRICT, files, runtime, one_file=True))
    server = _Server(("127.0.0.1", 0), functools.partial(_StaticHost, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Site(folder, one / "index.html", f"http://127.0.0.1:{server.server_port}/", run)
    server.shutdown()
    server.server_close()


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


class WebPage(Opened):
    """An opened page; at its end, it has asked nobody but its own host, and nothing was complained of."""

    def __init__(self, browser: Any, place: Path | str, **context: Any) -> None:
        super().__init__(browser, place, **context)
        self.own = "file:" if isinstance(place, Path) else place

    def state(self) -> str:
        """good or bad, once it is known."""
        state = self.page.locator("#state:not([data-state=wait])")
        state.wait_for(state="attached")
        return str(state.get_attribute("data-state"))

    def said_state(self) -> str:
        return str(self.page.locator("#said").inner_text())

    def give(self, files: dict[str, bytes]) -> None:
        described = [{"name": name, "mimeType": "", "buffer": data} for name, data in files.items()]
        self.page.set_input_files("#files", described)

    def card(self, name: str) -> Any:
        """The card of an image, once it has an answer or a refusal."""
        card = self.page.locator("#cards > li", has=self.page.get_by_text(name, exact=True))
        card.locator(".took, .refused").first.wait_for(state="attached")
        return card

    def probabilities(self, name: str) -> np.ndarray:
        """As the bars of a card show them, in the order of the classes."""
        rows = (
            self.card(name)
            .locator(".bars li")
            .evaluate_all(
                "rows => rows.map(row => [row.querySelector('bdi').textContent, row.querySelector('.fill').style.width])"
            )
        )
        shown = {label: float(width.rstrip("%")) / 100 for label, width in rows}
        return np.array([shown[label.replace("\n", " ")] for label in CLASSES])

    def set_sentence(self, name: str) -> str:
        return str(self.card(name).locator(".set").inner_text()).replace("\u202f", " ")

    def promise(self) -> str:
        return str(self.page.locator("#promise").inner_text()).replace("\u202f", " ")

    def others_asked(self) -> list[str]:
        return [url for url in self.asked if not url.startswith((self.own, "blob:", "data:"))]

    def close(self) -> None:
        self.context.close()
        assert self.said == [] and self.others_asked() == []


@pytest.fixture(scope="module")
def one_page(browser: Any, site: Site) -> Iterator[WebPage]:
    """The folder on a web server, opened once: the network is large."""
    page = WebPage(browser, site.address, reduced_motion="reduce")
    assert page.state() == "good"
    yield page
    page.close()


@pytest.fixture
def opened(one_page: WebPage) -> WebPage:
    """The same, without any image."""
    if one_page.page.locator("#clear").is_visible():
        one_page.page.locator("#clear").click()
    return one_page


def answer_with(body: bytes, route: Any) -> None:
    route.fulfill(body=body, headers={"content-type": "text/javascript"})


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation: int, kind: str = "JPEG", **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    return encoded(scene(1), kind, exif=exif, **options)


def with_xmp(kind: str, orientation: int, *, exif: int | None = None, packed: bool = False) -> bytes:
    """An image whose XMP has an orientation, and its EXIF perhaps another."""
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'
    options: dict[str, Any] = {"xmp": xmp.encode()}
    if kind == "PNG":
        options = {"pnginfo": PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp, zip=packed)
    if exif is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x112] = exif
    return encoded(scene(1), kind, **options)


def profile(orientation: int) -> str:
    """EXIF data as text, as ImageMagick and older programs write it."""
    exif = Image.Exif()
    exif[0x112] = orientation
    digits = exif.tobytes().hex()
    lines = [digits[i : i + 72] for i in range(0, len(digits), 72)]
    return "\n".join(["", "exif", f"{len(digits) // 2:8}", *lines, ""])


def with_profile(text: str, *, packed: bool = False, exif: int = 0, xmp: str = "") -> bytes:
    """A PNG with EXIF data in a text chunk, and perhaps in its own one and in XMP."""
    chunks, own = PngInfo(), Image.Exif()
    chunks.add_text("Raw profile type exif", text, zip=packed)
    if xmp:
        chunks.add_itxt("XML:com.adobe.xmp", xmp)
    if exif:
        own[0x112] = exif
    return encoded(scene(1), "PNG", pnginfo=chunks, **({"exif": own} if exif else {}))


# What is read before the browser decodes


WORKER = """
const vm = require("node:vm"), fs = require("node:fs");
const [script, list] = process.argv.slice(2), said = [];
Object.assign(globalThis, { onmessage: null, postMessage: answer => said.push(answer) });
vm.runInThisContext(fs.readFileSync(script, "utf8"));
(async () => {
  for (const name of JSON.parse(list)) {
    await onmessage({ data: { id: name, call: "classify", given: { file: new Blob([fs.readFileSync(name)]) } } });
  }
  console.log(JSON.stringify(said.map(({ id, refusal, error }) => refusal ?? error)));
})();
"""


def refusals(folder: Path, images: dict[str, bytes]) -> dict[str, str]:
    """What the page's worker says about images, in node, which has all that it needs but a decoder."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node, which is not installed")
    write(folder, images | {"run.js": WORKER.encode()})
    script = Path(web_page.__file__).with_name("web") / "network_worker.js"
    command = [node, "run.js", str(script), json.dumps(list(images))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return dict(zip(images, json.loads(done.stdout), strict=True))


NOT_UPRIGHT = "The {} is not stored upright, and browsers ignore the orientation in its {}. Save it upright."
UNKNOWN = (
    "This browser cannot decode the image: it is damaged, or of a kind that browsers do not know, such as TIFF. "
    "Save it as JPEG or PNG."
)


def test_images_that_predict_turns_by_their_xmp_are_refused_and_no_others(tmp_path: Path) -> None:
    """Node cannot decode: an image that is not refused before that is refused there."""
    kinds = {"JPEG": "JPEG", "PNG": "PNG", "WEBP": "WebP"}
    images, expected = {}, {}
    for kind, name in kinds.items():
        for orientation in range(1, 9):
            data = with_xmp(kind, orientation)
            assert (read_image(data).size == scene(1).size) == (orientation < 5)
            images[f"{kind} {orientation}"] = data
            said = NOT_UPRIGHT.format(name, "XMP data")
            expected[f"{kind} {orientation}"] = UNKNOWN if orientation == 1 else said
        images[f"{kind} upright"] = with_xmp(kind, 6, exif=1)  # EXIF comes first, as in `predict`
        expected[f"{kind} upright"] = UNKNOWN
    images["packed"] = with_xmp("PNG", 6, packed=True)
    expected["packed"] = expected["PNG 6"]
    images["cut"] = images["packed"][: images["packed"].index(b"XML:com.adobe.xmp") + 25]
    expected["cut"] = UNKNOWN
    images["exif"] = turned(6, "WEBP")
    expected["exif"] = NOT_UPRIGHT.format("WebP", "EXIF data")
    assert refusals(tmp_path, images) == expected


def test_png_images_that_predict_turns_by_a_text_chunk_are_refused_and_no_others(tmp_path: Path) -> None:
    xmp = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    images = {
        "turned": (with_profile(profile(6)), True),
        "mirrored": (with_profile(profile(2)), True),
        "packed": (with_profile(profile(8), packed=True), True),
        "upright": (with_profile(profile(1)), False),
        "exif comes first": (with_profile(profile(6), exif=1), False),
        "xmp comes last": (with_profile(profile(1), xmp=xmp), False),
        "no digits": (with_profile(profile(6).replace("06", "0x")), False),
        "no lines": (with_profile("6"), False),
    }
    for name, (data, is_turned) in images.items():
        with Image.open(io.BytesIO(data)) as stored:
            assert (read_image(data).tobytes() != stored.convert("RGB").tobytes()) == is_turned, name
    said = NOT_UPRIGHT.format("PNG", "text chunk for EXIF data")
    found = refusals(tmp_path, {name: data for name, (data, _) in images.items()})
    assert found == {name: said if is_turned else UNKNOWN for name, (_, is_turned) in images.items()}


# The page


def test_every_step_gives_what_was_proven_and_the_page_says_so(opened: WebPage) -> None:
    assert opened.state() == "good"
    assert opened.said_state() == "Self-test passed: all 12 samples match the export."
    opened.page.locator("summary").click()
    rows = opened.page.locator("#tests tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.cells].map(c => c.textContent))"
    )
    assert len(rows) == 12
    for name, decoded, resized, *rest in rows:
        assert resized == "equal", name  # the resize is ours
        assert decoded == "equal" or (float(decoded) <= (1 if name.endswith("alpha.png") else 2)), name
        assert all(each == "equal" or float(each) < 1e-2 for each in rest), name
    assert opened.violations() == []


def test_one_file_opens_from_a_disk_without_a_network(browser: Any, site: Site) -> None:
    page = WebPage(browser, site.one_file, offline=True)
    assert page.state() == "good" and page.said_state().startswith("Self-test passed: all 12 ")
    data = encoded(scene(29), "JPEG", quality=90)
    page.give({"one.jpg": data, "two.png": encoded(scene(31), "PNG")})
    assert np.abs(page.probabilities("one.jpg") - site.expected(data)).max() < 0.01
    likeliest = CLASSES[int(site.expected(data).argmax())].replace("\n", " ")
    unsure = f"Prediction set: {likeliest}. It is only the likeliest class: the right class is usually more probable."
    assert page.set_sentence("one.jpg") == unsure and "likeliest" not in page.set_sentence("two.png")
    assert page.promise() == PROMISE.format("97.5")
    assert page.probabilities("two.png").sum() == pytest.approx(1, abs=1e-3)
    asked = [url for url in page.asked if not url.startswith("blob:")]
    assert asked == [site.one_file.as_uri()]
    page.close()


def test_images_of_every_kind_get_the_answer_of_the_export(opened: WebPage, site: Site) -> None:
    photo = scene(1)
    wide_gamut = next(data for name, data in rendered_images(4).items() if name.endswith("profile.jpg"))
    transparent = photo.copy()
    transparent.putalpha(Image.fromarray(np.tile(np.arange(240, dtype=np.uint8), (180, 1))))
    files = {f"turned-{k}.jpg": turned(k, quality=90) for k in range(1, 9)} | {
        "profile.jpg": wide_gamut,  # Display P3: Pillow and the page ignore it, a plain canvas would not
        "progressive.jpg": encoded(photo, "JPEG", progressive=True),
        "full-colour.jpg": encoded(photo, "JPEG", subsampling=0),
        "grey.jpg": encoded(photo.convert("L"), "JPEG"),
        "profile.png": encoded(photo, "PNG", icc_profile=Image.open(io.BytesIO(wide_gamut)).info["icc_profile"]),
        "transparent.png": encoded(transparent, "PNG"),
        "palette.gif": encoded(photo.quantize(32), "GIF"),
        "lossy.webp": encoded(photo, "WEBP"),
        "plain.bmp": encoded(photo, "BMP"),
    }
    opened.give(files)
    for name, data in files.items():
        expected = site.expected(data)
        assert np.abs(opened.probabilities(name) - expected).max() < 0.01, name
        label = opened.card(name).locator("h3 bdi").inner_text()
        assert label == CLASSES[int(expected.argmax())].replace("\n", " ") or np.ptp(np.sort(expected)[-2:]) < 0.02, (
            name
        )


REFUSED = {
    "cmyk.jpg": (lambda: encoded(scene(1).convert("CMYK"), "JPEG"), "The JPEG has CMYK colours"),
    "half.jpg": (lambda: encoded(scene(1), "JPEG")[:3_000], "The JPEG has no end"),
    "half.png": (lambda: encoded(scene(1), "PNG")[:9_000], "This browser cannot decode the image"),
    "profile.png": (lambda: with_profile(profile(6)), "The PNG is not stored upright"),
    "turned.webp": (
        lambda: turned(6, "WEBP"),
        "The WebP is not stored upright, and browsers ignore the orientation in its EXIF",
    ),
    "xmp.jpg": (lambda: with_xmp("JPEG", 6), NOT_UPRIGHT.format("JPEG", "XMP data")),
    "xmp.png": (lambda: with_xmp("PNG", 6), NOT_UPRIGHT.format("PNG", "XMP data")),
    "xmp.webp": (lambda: with_xmp("WEBP", 6), NOT_UPRIGHT.format("WebP", "XMP data")),
    "pages.tif": (lambda: encoded(scene(1), "TIFF"), "This browser cannot decode the image"),
    "text.jpg": (lambda: b"no image", "This browser cannot decode the image"),
    "empty.png": (lambda: b"", "The file is empty."),
}


def test_what_cannot_be_classified_is_refused_with_a_sentence_and_the_next_one_is_fine(opened: WebPage) -> None:
    opened.give({name: make() for name, (make, _) in REFUSED.items()} | {"good.png": encoded(scene(4), "PNG")})
    for name, (_, sentence) in REFUSED.items():
        assert opened.card(name).locator(".refused").inner_text().startswith(sentence)
    assert opened.probabilities("good.png").sum() == pytest.approx(1, abs=1e-3)


PROMISE = (
    "Prediction sets are chosen so that at least {} % of them contain the right class: on average over images like the "
    "validation images, not for each single image."
)


def test_the_prediction_set_is_said_in_words_and_names_are_never_markup(opened: WebPage, site: Site) -> None:
    assert opened.state() == "good"
    data = {f"{k}.png": encoded(scene(k), "PNG") for k in range(20, 32)}
    opened.give(data)
    said = set()
    for name, each in data.items():
        expected = site.expected(each)
        order = np.argsort(-expected, kind="stable")
        names = [CLASSES[k].replace("\n", " ") for k in order if 1 - expected[k] <= 0.8 or k == order[0]]
        said.add(len(names))
        listed = " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
        assert opened.set_sentence(name) == f"Prediction set: {listed}.", name
    assert len(said) > 1
    assert opened.promise() == PROMISE.format("90")
    page = opened.page
    assert (
        page.title()
        == 'sea, <img src=x onerror="document.title=1">, </script><b>street, for\u00eat\\nline and 1 more: image classifier'
    )
    assert page.locator("main img[src='x'], main b").count() == 0
    assert opened.violations() == []


def assert_is_red(browser: Any, site: Site, name: str, body: bytes, sentence: str) -> None:
    """With another file instead of its own, the page says what is wrong, and classifies nothing."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.route(f"**/{name}", functools.partial(answer_with, body))
    page.goto(site.address)
    page.locator("#state[data-state=bad]").wait_for()
    assert page.locator("#said").inner_text().startswith(sentence)
    assert page.get_by_role("button", name="Choose images").is_disabled()
    page.set_input_files("#files", {"name": "a.png", "mimeType": "", "buffer": encoded(scene(1), "PNG")})
    assert page.locator("#cards li").count() == 0
    assert serious_violations(page) == []
    context.close()


def test_another_resize_disables_prediction(browser: Any, site: Site) -> None:
    pixels = (site.folder / "page" / "pixels.js").read_text(encoding="utf-8")
    planted = pixels.replace("Math.max(axis.scale, 1)", "1")  # no antialiasing, as a canvas resizes
    assert planted != pixels
    assert_is_red(browser, site, "page/pixels.js", planted.encode(), "Self-test failed: resizing differs by up to")


def test_a_network_that_cannot_be_opened_disables_prediction(browser: Any, site: Site) -> None:
    assert_is_red(browser, site, "model.onnx", b"no network" * 100, "The network cannot be opened here")


@pytest.mark.slow
def test_another_network_disables_prediction(browser: Any, site: Site) -> None:
    other = Tiny(inputs={name: spec.image_size for name, spec in SPECS.items()}, temperature=1.8).model()
    sentence = "Self-test failed: logits differ by up to"
    assert_is_red(browser, site, "model.onnx", other.SerializeToString(), sentence)


def test_the_folder_says_why_it_does_not_open_from_a_disk(browser: Any, site: Site) -> None:
    page = WebPage(browser, site.folder / "index.html")
    assert page.state() == "bad" and "Put the folder on a web server" in page.said_state()
    page.close()


def test_images_are_dropped_pasted_and_photographed(opened: WebPage) -> None:
    page = opened.page
    given = """async () => {
        const data = new DataTransfer(), canvas = new OffscreenCanvas(40, 30);
        canvas.getContext("2d").fillRect(0, 0, 20, 20);
        data.items.add(new File([await canvas.convertToBlob()], "given.png", {type: "image/png"}));
        return data;
    }"""
    page.dispatch_event("#drop", "drop", {"dataTransfer": page.evaluate_handle(given)})
    opened.card("given.png")
    page.evaluate(f"async () => dispatchEvent(new ClipboardEvent('paste', {{clipboardData: await ({given})()}}))")
    page.locator("#cards > li:nth-child(2) .took").wait_for()
    streams = "() => document.getElementById('video').srcObject?.active ?? false"
    assert page.evaluate(streams) is False  # the camera is off until it is asked for
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the photograph").click()
    opened.card("photograph 1")
    assert page.evaluate(streams) is False and not page.locator("#camera").is_visible()
    page.get_by_role("button", name="Remove all").click()
    assert page.locator("#cards li").count() == 0 and not page.locator("#results").is_visible()


def test_an_image_that_is_removed_while_it_is_classified_does_not_reach_the_network(opened: WebPage) -> None:
    (worker,) = opened.page.workers
    worker.evaluate("""() => {
        const run = session.run.bind(session);
        session.runs = 0;
        session.run = feeds => { session.runs += 1; return run(feeds); };
    }""")
    opened.page.evaluate("""async () => {
        const data = new DataTransfer(), canvas = new OffscreenCanvas(40, 30), input = document.getElementById("files");
        canvas.getContext("2d").fillRect(0, 0, 20, 20);
        const image = await canvas.convertToBlob();
        for (const name of ["removed.png", "kept.png"]) data.items.add(new File([image], name, {type: "image/png"}));
        input.files = data.files;
        input.dispatchEvent(new Event("change"));
        document.querySelector("[aria-label='Remove removed.png']").click();
    }""")
    assert opened.card("kept.png").locator(".label").count() == 1
    assert worker.evaluate("() => session.runs") == 1
    assert opened.page.locator("#cards > li").count() == 1
    worker.evaluate("() => { delete session.run; }")


def test_a_camera_that_comes_after_its_window_was_closed_is_turned_off(opened: WebPage) -> None:
    """As if the browser asked for permission, and the window was closed and opened again before the answer."""
    page = opened.page
    page.evaluate("""() => {
        window.streams = [];
        window.asked = [];
        window.original = navigator.mediaDevices.getUserMedia;
        navigator.mediaDevices.getUserMedia = wanted => new Promise(resolve => asked.push(async () => {
            streams.push(await original.call(navigator.mediaDevices, wanted));
            resolve(streams.at(-1));
        }));
    }""")
    for _ in range(2):
        page.get_by_role("button", name="Use the camera").click()
        page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Use the camera").click()
    page.evaluate("async () => { for (const answer of asked) await answer(); }")
    page.locator("#take:enabled").wait_for()
    active = "() => streams.map(stream => stream.active)"
    assert page.evaluate(active) == [False, False, True] and page.locator("#camera-said").inner_text() == ""
    page.get_by_role("button", name="Close").click()
    page.wait_for_function("() => !streams.some(stream => stream.active)")
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = original; }")


def test_everything_can_be_done_with_the_keyboard(opened: WebPage) -> None:
    page = opened.page
    name = "() => document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"
    with (
        page.expect_file_chooser() as chooser
    ):  # some steps before it opens: just before, the browser may miss the request
        page.locator(".skip").focus()
        page.keyboard.press("Enter")
        while page.evaluate(name) != "Choose images":
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
    files = [{"name": f"{k}.png", "mimeType": "", "buffer": encoded(scene(k), "PNG")} for k in (1, 2)]
    chooser.value.set_files(files)
    opened.card("1.png"), opened.card("2.png")
    assert page.locator("#aloud").inner_text().startswith("2.png: ")
    while page.evaluate(name) != "Remove 1.png":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#cards > li").count() == 1 and page.evaluate(name) == "Remove 2.png"
    page.get_by_role("button", name="Switch to dark colours").focus()
    page.keyboard.press("Enter")
    assert page.locator("html").get_attribute("data-theme") == "dark" and opened.violations() == []
    page.keyboard.press("Enter")


def test_a_phone_shows_all_of_it_without_scrolling_sideways(opened: WebPage) -> None:
    page = opened.page
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    long_name = "a-file-with-a-long-name-that-has-no-place-to-break-it-" + "x" * 80 + ".png"
    opened.give({long_name: encoded(scene(1), "PNG")})
    opened.card(long_name)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert opened.violations() == []
    page.set_viewport_size({"width": 1100, "height": 800})
    page.emulate_media(color_scheme="light", reduced_motion="reduce")


# onnxruntime-web, and the options


def test_onnxruntime_web_is_taken_from_a_folder_or_an_archive(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b" / "dist", tmp_path / "c" / "package" / "dist"):
        write(folder, {SCRIPT: b"/*!\n * ONNX Runtime Web v9.8.7\n */", WASM: b"wasm"})
        assert onnxruntime_web(tmp_path / folder.relative_to(tmp_path).parts[0]).version == "9.8.7"
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as tar:
        tar.add(tmp_path / "c" / "package", "package")
    assert onnxruntime_web(tmp_path / "x.tgz") == OnnxRuntimeWeb(b"/*!\n * ONNX Runtime Web v9.8.7\n */", b"wasm")


@pytest.mark.parametrize("name", ["gone.tgz", "text.tgz", "other.tgz", "empty"])
def test_another_place_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tgz").write_text("no archive")
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as tar:
        tar.add(tmp_path / "empty", "package")
    with pytest.raises(RecipeError, match="is not onnxruntime-web: ") as refused:
        onnxruntime_web(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value) and f"npm pack onnxruntime-web@{VERSION}" in refused.value.hint


def test_it_is_fetched_with_npm_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From whatever registry npm is set to; here, one on this machine that has another archive under that name."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    package = tmp_path / "package"
    write(package, {"package.json": json.dumps({"name": "onnxruntime-web", "version": VERSION}).encode()})
    archive = tmp_path / "registry" / "archive.tgz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(package, "package")
    server = _Server(("127.0.0.1", 0), functools.partial(_StaticHost, directory=str(archive.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    dist = {"tarball": f"{address}/archive.tgz", "shasum": hashlib.sha1(archive.read_bytes()).hexdigest()}
    version = {"name": "onnxruntime-web", "version": VERSION, "dist": dist}
    document = {"name": "onnxruntime-web", "dist-tags": {"latest": VERSION}, "versions": {VERSION: version}}
    (archive.parent / "onnxruntime-web").write_text(json.dumps(document))
    for name, value in {"registry": address, "cache": str(tmp_path / "npm"), "fetch_retries": "0"}.items():
        monkeypatch.setenv(f"npm_config_{name}", value)
    with pytest.raises(BadDownload, match="is not what was published"):
        onnxruntime_web()
    (archive.parent / "onnxruntime-web").unlink()
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "another"))
    with pytest.raises(Unreachable, match=r"could not be downloaded with npm: E404\."):
        onnxruntime_web()
    server.shutdown()
    server.server_close()


def test_without_npm_or_offline_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtra, match="needs onnxruntime-web, and npm to download it") as refused:
        onnxruntime_web()
    assert f"--ort onnxruntime-web-{VERSION}.tgz" in refused.value.hint
    with pytest.raises(MissingExtra, match="--offline downloads nothing") as refused:
        onnxruntime_web(offline=True)
    assert f"--ort onnxruntime-web-{VERSION}.tgz" in refused.value.hint


def test_what_was_fetched_is_kept(ort: Path, own_cache: Path) -> None:
    runtime = onnxruntime_web(ort)
    if runtime.version != VERSION:
        pytest.skip(f"HEADSTART_TEST_ORT is of another version than {VERSION}")
    write(own_cache / "onnxruntime-web" / VERSION, {SCRIPT: runtime.script, WASM: runtime.wasm})
    assert onnxruntime_web(offline=True) == runtime
    (own_cache / "onnxruntime-web" / VERSION / WASM).write_bytes(b"damaged")
    with pytest.raises(MissingExtra):
        onnxruntime_web(offline=True)


def test_deep_images_and_no_samples_are_refused() -> None:
    deep = {"pixels": PixelContract(ranges=ValueRanges.from_dict({"integers": [0, 4095]}))}
    with pytest.raises(RecipeError, match="more than 8 bits per channel"):
        check_for_web(deep, 12)
    with pytest.raises(RecipeError, match="--samples above 0"):
        check_for_web(CONTRACTS, 0)


@pytest.mark.slow
def test_two_hundred_images_get_the_class_that_predict_gives(browser: Any, ort: Path, tmp_path: Path) -> None:
    headstart.sample("scenes", tmp_path / "images", n=1_100, flaws=False)
    recipe = Recipe(approach="linear", backbone="mobilenetv2_050.headstart")
    headstart.train(tmp_path / "images", out=tmp_path / "run", recipe=recipe, report=False)
    headstart.export(tmp_path / "run", out=tmp_path / "page", to="web", ort=ort, one_file=True)
    place = tmp_path / "page" / "index.html"
    assert place.stat().st_size <= 25 << 20
    (tmp_path / "flat").mkdir()
    for i, file in enumerate(sorted((tmp_path / "images" / "test").rglob("*.jpg"))[:200]):
        shutil.copy(file, tmp_path / "flat" / f"{i:03}.jpg")
    files = sorted((tmp_path / "flat").iterdir())
    assert len(files) == 200
    answers = ExportedClassifier(ExportFolder(tmp_path / "page")).predict(files)
    page = WebPage(browser, place, offline=True)
    assert page.state() == "good"
    page.page.set_input_files("#files", files)
    page.page.locator(f"#cards > li:nth-child({len(files)})").wait_for()
    for file in files:
        card = page.page.locator("#cards > li", has=page.page.get_by_text(file.name, exact=True))
        card.locator(".took").first.wait_for(state="attached")
    shown = dict(
        page.page.locator("#cards > li").evaluate_all(
            "cards => cards.map(c => [c.querySelector('.file').textContent, c.querySelector('.label bdi').textContent])"
        )
    )
    predicted = {Path(path).name: answers.classes[k] for path, k in zip(answers.paths, answers.predicted, strict=True)}
    assert len(shown) == len(files) and shown == predicted
    page.close()
