"""A run as a model repository: a folder that timm, transformers and the pages of the Hugging Face hub can read.

    write_hub_folder(RunFolder("run"), folder)        config.json, model.safetensors, README.md

The network and its config are those of the run folder, whose layout is timm's (`runs.saved_classifier`); the temperature
is in the last layer. README.md is a model card: metadata that the hub's client has checked, and figures with intervals.
It names no path, no image and no place of the data.

Costs a copy of the weights, and 0.2 s for the hub's client. When not to use it: for an ensemble, since timm's layout
has only one network; or for exactly the same answers in any language, which `onnx` gives (timm resizes images a little
differently from headstart).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headstart.errors import ExportError
from headstart.evaluation.metrics import Metrics
from headstart.images.preprocess import Preprocess
from headstart.io.files import copy_file, write_bytes
from headstart.io.progress import log
from headstart.io.text_table import few, plain
from headstart.model.inference.classifier import Classifier, EnsembleMember
from headstart.reports.model_card import made_by, metrics_table
from headstart.runs.run_folder import RunFolder
from headstart.runs.saved_classifier import TIMM_CONFIG, WEIGHTS

CARD = "README.md"
HUB_FILES = (TIMM_CONFIG, WEIGHTS, CARD)

REPO = "OWNER/NAME"
"""Placeholder for the repository in a card that is not on the hub yet."""

LICENCES = frozenset(
    {
        *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "unknown"),
        *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0"),
    }
)
"""Licences of timm's weights that have an identifier on the hub; any other is 'other', with its name."""

METRICS = {
    "accuracy": ("accuracy", "Accuracy"),
    "balanced_accuracy": ("balanced_accuracy", "Balanced accuracy"),
    "f1_macro": ("f1", "Macro F1"),
    "matthews_corrcoef": ("matthews_correlation", "Matthews correlation coefficient"),
    "roc_auc": ("roc_auc", "ROC AUC"),
    "log_loss": ("log_loss", "Log-loss"),
    "brier_score": ("brier_score", "Brier score"),
    "ece": ("ece", "Expected calibration error"),
}
"""headstart's name of a metric -> the hub's metric type, and the name to show."""

USE_TIMM = """\
import timm, torch
from PIL import Image, ImageOps
{first}

def upright_rgb(file):
    image = ImageOps.exif_transpose(Image.open(file))
{scaled}    rgba = image.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba)
    return white

model = timm.create_model("hf-hub:{repo}", pretrained=True).eval()    # or "local-dir:FOLDER"
transform = timm.data.create_transform(**timm.data.resolve_data_config({{}}, model=model))
with torch.inference_mode():
    chances = model(transform(upright_rgb("image.jpg"))[None]).softmax(-1)[0]
print(model.pretrained_cfg["label_names"][int(chances.argmax())], float(chances.max()))
"""
USE_TRANSFORMERS = """\
from transformers import pipeline
print(pipeline("image-classification", model="{repo}")(upright_rgb("image.jpg")))  # as above
"""
SCALED = {
    "integers": """\
    if image.mode.startswith("I"):  # of more than 8 bits: {low:.9g} to {high:.9g} become 0 to 255
        image = image.convert("I").convert("F").point(lambda value: value * {scale!r} + {offset!r}).convert("L")
""",
    "floats": """\
    if image.mode == "F":  # floating point: {low:.9g} to {high:.9g} become 0 to 255
        image = image.point(lambda value: value * {scale!r} + {offset!r}).convert("L")
""",
}
"""Lines of the code for images of more than 8 bits, if the run has a range for them."""
DEEP = (
    "The run's images have more than 8 bits per channel, and only the Python code of the card scales them as training did, if "
    "they are grey: the widget of the hub does not, and Pillow keeps the upper 8 bits of colours. `export --to onnx` writes "
    "a program that verifies a pipeline of your own."
)
ONLY_WITH_HEADSTART = (
    "timm knows this network only after `import headstart.model.backbones.networks`, and transformers cannot load it: the "
    "card says so. A run with --pooling last, of one of timm's networks, is loaded by both."
)
NEEDS_HEADSTART = "import headstart.model.backbones.networks  # needs headstart with its extra 'train'"


def write_hub_folder(run: RunFolder, folder: Path) -> None:
    """Write the three files into a new folder. Raises `RunError`, `ExportError` for an ensemble, `WriteError`."""
    for name, content in hub_contents(run).items():
        if isinstance(content, Path):
            copy_file(content, folder / name)
        else:
            write_bytes(folder / name, content)


def hub_contents(run: RunFolder) -> dict[str, bytes | Path]:
    """Return the files of a repository, by name: their bytes, or the file of the run to copy. Raises as above."""
    card = hub_card(run)
    if needs_headstart(run.classifier):
        log.warning("%s", ONLY_WITH_HEADSTART)
    if _only_member(run).extractor.spec.ranges.as_dict():
        log.warning("%s", DEEP)
    return {**{name: run.checked(name) for name in (TIMM_CONFIG, WEIGHTS)}, CARD: card.encode()}


def _only_member(run: RunFolder) -> EnsembleMember:
    members = run.classifier.members
    if len(members) > 1:
        names = [str(member.extractor) for member in members]
        raise ExportError(
            f"{run.path}: combines {len(members)} networks ({few(names, 4)}), and a model repository holds one.",
            hint="Export it `--to onnx`, which makes them one graph, or train with one of them and one input: --backbone NAME "
            "--resize crop.",
        )
    return members[0]


def needs_headstart(classifier: Classifier) -> bool:
    """Return whether timm knows the network only after headstart's networks have been imported."""
    (member,) = classifier.members
    return member.extractor.pooling == "stages" or member.extractor.backbone.architecture.startswith("headstart_")


def hub_card(run: RunFolder) -> str:
    """Return the model card: YAML that the hub's client accepts, and Markdown. Raises `ExportError` for an ensemble."""
    from huggingface_hub import ModelCard

    member = _only_member(run)
    data = _metadata(run, member)
    text = "\n".join(_text(run, member))
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


def _metadata(run: RunFolder, member: EnsembleMember) -> Any:
    """Return the card's metadata, a `ModelCardData`. Facts that the hub has no field for are left out."""
    from huggingface_hub import ModelCardData

    ours = needs_headstart(run.classifier)
    return ModelCardData(
        library_name="headstart" if ours else "timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "headstart", *([] if ours else ["timm", "transformers"])],
        model_name=f"{member.extractor.backbone.name}, {len(run.classifier.classes)} classes",
        eval_results=_results(run),
        ignore_metadata_errors=False,
        **_licence(member.extractor.backbone.licence),
        **_base_model(member.extractor.backbone.origin),
    )


def _licence(licence: str) -> dict[str, Any]:
    """Return the fields of a licence; none for weights trained from scratch, whose licence their owner chooses.

    >>> _licence("apache-2.0"), _licence("none")
    ({'license': 'apache-2.0'}, {})
    >>> _licence("Some Terms 2.0")
    {'license': 'other', 'license_name': 'some-terms-2.0'}
    """
    name = re.sub(r"[^\w.]+", "-", licence.strip().lower()).strip("-")
    if name in ("", "none"):
        return {}
    return {"license": name} if name in LICENCES else {"license": "other", "license_name": name}


def _base_model(origin: str) -> dict[str, Any]:
    """Return the fields for the repository that weights came from, if they came from the hub.

    >>> _base_model("trained here from resnet50 (hub: timm/resnet50.a1_in1k at 0123456789ab)")
    {'base_model': 'timm/resnet50.a1_in1k', 'base_model_relation': 'finetune'}
    >>> _base_model("random weights")
    {}
    """
    found = re.search(r"hub: ([\w.-]+/[\w.-]+) at ", origin)
    return {"base_model": found[1], "base_model_relation": "finetune"} if found else {}


def _results(run: RunFolder) -> list[Any]:
    """Return the metrics that are defined as the hub's `EvalResult`s; the data is described, not named."""
    from huggingface_hub import EvalResult

    judged, split = run.metrics.judged, {"test": "test", "val": "validation"}[run.metrics.split]
    data = f"{judged.n:,} {split} images of {len(run.classifier.classes)} classes"
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type="imagefolder",
            dataset_name=data,
            dataset_split=split,
            metric_type=kind,
            metric_name=shown,
            metric_value=round(judged[name].value, 6),
        )
        for name, (kind, shown) in METRICS.items()
        if not judged[name].undefined
    ]


# The text


def _text(run: RunFolder, member: EnsembleMember) -> list[str]:
    classifier, made, metrics = run.classifier, run.provenance, run.metrics
    backbone = member.extractor.backbone
    return [
        f"# Image classifier of {len(classifier.classes)} classes",
        "",
        f"{few([_name(c) for c in classifier.classes], 50)}. {made_by(made)} on {_name(backbone.name)}, made with headstart "
        f"{made.versions.get('headstart', '')}; model {classifier.id}.",
        "",
        "## How good it is",
        "",
        *metrics_table(metrics.test, metrics.val),
        "",
        _weakest(metrics.judged),
        "The intervals are about images like these, not about another camera or another place.",
        "",
        "## How to use it",
        "",
        *_usage(member, needs_headstart(classifier)),
        "",
        "## What it expects",
        "",
        *_input(member),
        "",
        "## How far to trust its probabilities",
        "",
        _calibration(classifier),
        "",
        "## What it was made from",
        "",
        f"- {_name(backbone.name)}, licence {_name(backbone.licence)}, weights SHA-256 {backbone.sha256[:16]}",
        f"- {made.data.images:,} images, fingerprint {made.data.fingerprint[:16]}; split {made.split_hash[:16]}",
        f"- {', '.join(f'{name} {version}' for name, version in _shown(made.versions).items())}",
        "",
    ]


def _name(text: str) -> str:
    """Return a name escaped for Markdown."""
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", html.escape(plain(text), quote=False))


def _weakest(metrics: Metrics) -> str:
    return f"The weakest class is {_name(metrics.weakest)}: recall {metrics.per_class[metrics.weakest]['recall']}."


def _usage(member: EnsembleMember, ours: bool) -> list[str]:
    first, scaled = NEEDS_HEADSTART if ours else "", "".join(_scaling(member.extractor.spec))
    code = ["```python", *USE_TIMM.format(first=first, scaled=scaled, repo=REPO).splitlines(), "```", ""]
    if not ours:
        return [*code, "With transformers:", "", "```python", *USE_TRANSFORMERS.format(repo=REPO).splitlines(), "```"]
    why = "its last layer reads all stages" if member.extractor.pooling == "stages" else "it is one of headstart's own"
    return [
        *code,
        f"The import tells timm about this network: {why}. transformers, and the widget of this page, cannot load it; "
        "they can load what `headstart train --pooling last` makes.",
    ]


def _scaling(spec: Preprocess) -> Iterator[str]:
    """Yield the lines of code that scale images of more than 8 bits as `verify_steps.pillow_decode` does."""
    for kind, (low, high) in spec.ranges.as_dict().items():
        scale = 255 / (high - low)
        yield SCALED[kind].format(low=low, high=high, scale=scale, offset=0.5 - low * scale)


def _input(member: EnsembleMember) -> list[str]:
    spec = member.extractor.spec
    shape = {
        "crop": f"the middle {spec.crop_pct:.4g} of the image",
        "squash": "the whole image, squeezed to a square",
        "pad": "the whole image, padded to a square",
    }[spec.resize]
    lines = [
        f"An upright RGB image: {shape}, {spec.image_size} x {spec.image_size} pixels, {spec.interpolation}. timm's "
        "preprocessing, from config.json, resizes in other steps than headstart did for the metrics above; on equal "
        "pixels the logits are the same.",
    ]
    if spec.ranges.as_dict():
        lines += [
            "",
            "The run's images have more than 8 bits per channel. `upright_rgb` scales grey ones as training did; the widget "
            "of this page does not scale them at all, and Pillow keeps only the upper 8 bits of colours.",
        ]
    if spec.tta == "flip":
        lines += [
            "",
            "The metrics are for the mean over an image and its mirror image. The network here sees the image alone: add "
            "its logits for `pixels.flip(-1)`, and halve.",
        ]
    return lines


def _calibration(classifier: Classifier) -> str:
    calibration = classifier.calibration
    return (
        "They are calibrated: a temperature was fitted on validation images, and is in the last layer. A prediction set has "
        f"the most likely class, and every other one with a probability of at least "
        f"{1 - calibration.conformal_threshold:.4g}: on images like those of the validation set, it misses the right class "
        f"with a probability of at most {calibration.conformal_alpha:g}."
    )


def _shown(versions: Mapping[str, str]) -> dict[str, str]:
    return {name: version for name, version in versions.items() if not name.startswith("headstart")}
