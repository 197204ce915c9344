"""README.md of an export: what it is, and code that loads it in Python, C++ and JavaScript.

The tests run the Python code exactly as it is here. The C++ and JavaScript code was run by hand and gave the same answers,
since the tests should not need a compiler, or node with its packages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from headstart.exporters.pixel_contract import PixelContract
from headstart.io.text_table import few, plain

PYTHON_ONNX = """\
import json

import onnxruntime
from verify import pillow_decode  # the steps above that make an upright RGB image; verify.py is in this folder

classes = [json.loads(line) for line in open("labels.txt", encoding="utf-8")]
image = pillow_decode(open("photo.jpg", "rb").read()RANGES)
session = onnxruntime.InferenceSession("image.onnx")
(probabilities,) = session.run(["probabilities"], {"image": image})
print(classes[probabilities[0].argmax()], probabilities[0].max())
"""

PYTHON_OPENVINO = """\
import json

import openvino
from verify import pillow_decode  # the steps above that make an upright RGB image; verify.py is in this folder

classes = [json.loads(line) for line in open("labels.txt", encoding="utf-8")]
image = pillow_decode(open("photo.jpg", "rb").read()RANGES)
model = openvino.Core().compile_model("openvino/image.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
probabilities = model({"image": image})["probabilities"]
print(classes[probabilities[0].argmax()], probabilities[0].max())
"""

CPP_OPENVINO = """\
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

#include <openvino/openvino.hpp>

int main(int argc, char** argv) {  // photo.rgb (height * width * 3 bytes, upright RGB), height, width
    std::ifstream file(argv[1], std::ios::binary);
    std::vector<uint8_t> rgb((std::istreambuf_iterator<char>(file)), {});
    ov::Shape shape{std::stoul(argv[2]), std::stoul(argv[3]), 3};
    ov::Core core;
    auto model = core.compile_model("openvino/image.xml", "CPU", {{"INFERENCE_PRECISION_HINT", "f32"}});
    auto request = model.create_infer_request();
    request.set_tensor("image", ov::Tensor(ov::element::u8, shape, rgb.data()));
    request.infer();
    auto probabilities = request.get_tensor("probabilities");
    for (size_t k = 0; k < probabilities.get_size(); ++k) std::cout << probabilities.data<float>()[k] << "\\n";
}
"""

JAVASCRIPT_ONNX = """\
const fs = require("fs");
const ort = require("onnxruntime-node");
const sharp = require("sharp");

async function main() {
  const classes = fs.readFileSync("labels.txt", "utf8").trim().split("\\n").map(JSON.parse);
  const upright = sharp("photo.jpg").rotate().flatten({ background: "white" }).toColourspace("srgb").removeAlpha();
  const { data, info } = await upright.raw().toBuffer({ resolveWithObject: true });
  const session = await ort.InferenceSession.create("image.onnx");
  const image = new ort.Tensor("uint8", data, [info.height, info.width, 3]);
  const { probabilities } = await session.run({ image });
  const best = probabilities.data.indexOf(Math.max(...probabilities.data));
  console.log(classes[best], probabilities.data[best]);
}

main();
"""

INTRODUCTION = """\
# Image classifier, exported by headstart

{classes}. Backbone: {backbones}.

Everything from pixels to calibrated probabilities is in the graph: do not normalise, and do not apply a softmax.

| file | input | outputs |
|---|---|---|
{files}

{kinds} take pixels that are already resized. How, step by step:

{steps}

Resizing with another library, without antialiasing or with another filter, is the commonest way to lose accuracy. If you
resize yourself, compare with `samples/`: for each image it has the pixels after every step and the expected answers.

    python verify.py            # numpy, Pillow and onnxruntime or openvino; no headstart
    headstart verify .          # the same, where headstart is installed

{proof}
"""


WHOLE_IMAGES = "`image.*` take an upright RGB image of any size and resize it as the classifier expects. `model.*`"

IN_A_BROWSER = """\
## In a browser

`index.html` is a page that classifies images in the browser; they are sent to nobody. It first tests itself with the samples,
and classifies nothing if they do not match the export.

{how}
"""
ONE_FILE = "Everything is in that file: open it from the disk, send it by mail, or put it on any web server."
FOLDER = """\
Put this folder on any static web server; what the page needs is `index.html`, `page`, `samples` and `model.onnx`. To try
it: `python -m http.server` in this folder, then http://localhost:8000. From the disk it does not open: browsers do not let a
page there read other files. `_headers` is read by Netlify and Cloudflare Pages; elsewhere, the page's own policy is enough.
`page/ort` is onnxruntime-web {version} (MIT, see the LICENSE there)."""


def export_readme(facts: Mapping[str, Any], contracts: Mapping[str, PixelContract]) -> str:
    """Return the text."""
    text = INTRODUCTION.format(
        classes=f"{len(facts['classes']):,} classes: {few([plain(name) for name in facts['classes']], 20)}",
        backbones=" + ".join(facts["backbones"]),
        files="\n".join(_file_rows(facts)),
        kinds="`model.*`" if facts["formats"] == ["web"] else WHOLE_IMAGES,
        steps="\n\n".join(_steps(name, contract, len(contracts)) for name, contract in contracts.items()),
        proof=_proof(facts),
    )
    ranges = next(iter(contracts.values())).ranges.as_dict()
    return "\n".join([text, *_in_a_browser(facts), *_languages(facts["formats"], ranges)])


def _file_rows(facts: Mapping[str, Any]) -> list[str]:
    sizes = [f"`{name}` uint8 {' x '.join(map(str, each['shape']))}" for name, each in facts["inputs"].items()]
    rows = []
    for kind, folder, suffix in (("onnx", "", "onnx"), ("openvino", "openvino/", "xml")):
        if kind in facts["formats"]:
            outputs = "`logits`, `probabilities`"
            rows.append(f"| `{folder}image.{suffix}` | `image` uint8 height x width x 3 | {outputs}, the pixels |")
            rows.append(f"| `{folder}model.{suffix}` | {', '.join(sizes)} | {outputs} |")
    if "web" in facts["formats"] and "onnx" not in facts["formats"]:
        rows.append(f"| `model.onnx` | {', '.join(sizes)} | `logits`, `probabilities` |")
    return rows


def _in_a_browser(facts: Mapping[str, Any]) -> list[str]:
    if "web" not in facts:
        return []
    how = ONE_FILE if facts["web"]["one_file"] else FOLDER.format(version=facts["web"]["onnxruntime-web"])
    return [IN_A_BROWSER.format(how=how)]


def _steps(name: str, contract: PixelContract, inputs: int) -> str:
    title = [f"For `{name}`:\n"] if inputs > 1 else []
    return "\n".join([*title, *(f"{number}. {text}" for number, text in enumerate(contract.sentences(), 1))])


def _proof(facts: Mapping[str, Any]) -> str:
    parity = facts["parity"]
    if parity is None:
        return "This export was not compared with its run (`--check 0`)."
    flips = parity["flips"]
    return (
        f"Compared with its run before it was written: logits within {parity['logit']:.1e} of torch's on equal pixels; from "
        f"the file on, {flips['value']:.2%} of {flips['n']:,} images get another class than with `headstart predict` "
        f"(95 % interval {flips['low']:.2%} to {flips['high']:.2%}). {parity['images']} See parity.html."
    )


def _languages(formats: list[str], ranges: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the code, which scales values in these `ranges` (of images of more than 8 bits) as training did."""
    parts = []
    if "onnx" in formats:
        parts += [
            _part("Python, onnxruntime", "pip install onnxruntime pillow", "python", _with_ranges(PYTHON_ONNX, ranges))
        ]
        parts += [_part("JavaScript, node", "npm install onnxruntime-node sharp", "js", JAVASCRIPT_ONNX)]
        parts += [SHARP_NOTE] if ranges else []
    if "openvino" in formats:
        parts += [
            _part("Python, OpenVINO", "pip install openvino pillow", "python", _with_ranges(PYTHON_OPENVINO, ranges))
        ]
        parts += [_part("C++, OpenVINO", "the OpenVINO archive, or pip install openvino", "cpp", CPP_OPENVINO)]
    return [*parts, PRECISION_NOTE] if "openvino" in formats else parts


SHARP_NOTE = """\
sharp does not scale images of more than 8 bits as the steps above say: give it images of 8 bits that were scaled so.
"""

PRECISION_NOTE = """\
OpenVINO computes in bf16 on processors that have it unless it is told not to: with the hint `f32`, as above, answers are
those that were proven. Without it, it is about twice as fast, and probabilities move by up to some hundredths.
"""


def _with_ranges(code: str, ranges: Mapping[str, Sequence[float]]) -> str:
    return code.replace("RANGES", f", {json.dumps(ranges)}" if ranges else "")


def _part(title: str, needs: str, language: str, code: str) -> str:
    return f"## {title}\n\nNeeds: {needs}\n\n```{language}\n{code}```\n"
