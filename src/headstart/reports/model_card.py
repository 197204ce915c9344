"""The model card: the README.md of a run folder."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from headstart.data.corrections import given_and_left_out
from headstart.data.findings import Finding
from headstart.evaluation.metrics import Metrics
from headstart.io.text_table import few, plain
from headstart.model.inference.classifier import Classifier
from headstart.runs.provenance import Provenance
from headstart.runs.run_folder import CORRECTIONS, NOT_COPIES

SHOWN = ("accuracy", "balanced_accuracy", "f1_macro", "matthews_corrcoef", "roc_auc", "log_loss", "brier_score", "ece")

ON_VALIDATION = (
    "No test set was kept. These metrics are from the validation set, which also chose the head and the temperature, so "
    "they are optimistic."
)
"""What to say wherever metrics of a run without a test set are shown."""


def about_known(known: int, images: int) -> str:
    """Return what to say wherever figures of an evaluation are shown, if `known` of its `images` were in the training.

    >>> about_known(12, 1300)
    "12 of these 1,300 images are in the run's training or validation set, so the metrics are too optimistic."
    """
    if not known:
        return ""
    return (
        f"{known:,} of these {images:,} images are in the run's training or validation set, so the metrics are too "
        "optimistic."
    )


def model_card(
    classifier: Classifier, made: Provenance, test: Metrics | None, val: Metrics, findings: Sequence[Finding]
) -> str:
    """Return Markdown: what the classifier is, its metrics with intervals, its origin, how to use and reproduce it."""
    calibration = classifier.calibration
    judged = test or val
    problems = [f"- {f.severity}: {plain(f.message)}" for f in findings if f.severity != "info"] or ["- none"]
    used = [(m.extractor, m.extractor.backbone) for m in classifier.members]
    members = [f"- {e}, {b.licence}, weights SHA-256 {b.sha256[:16]}: {b.origin}" for e, b in used]
    return "\n".join(
        [
            f"# Classifier of {len(classifier.classes)} classes",
            "",
            f"{few([plain(c) for c in classifier.classes], 30)}. {made_by(made)}; model {classifier.id}.",
            "",
            "## How good it is",
            *metrics_table(test, val),
            "",
            f"The weakest class is {judged.weakest!r}: recall {judged.per_class[judged.weakest]['recall']}.",
            "Probabilities are calibrated: a temperature was fitted on the validation set, and is folded into the weights. "
            f"A prediction set (alpha {calibration.conformal_alpha:g}) has the most likely class, and every other one with a "
            f"probability of at least {1 - calibration.conformal_threshold:.4g}. Submissions to a competition keep "
            f"probabilities at or above {calibration.clip:.2g}, which was chosen on the validation set for log-loss.",
            "",
            "## What it was made from",
            *members,
            f"- {made.data.images:,} images, fingerprint {made.data.fingerprint[:16]}; split {made.split_hash[:16]}",
            *_corrections(made),
            f"- Python {platform.python_version()}, "
            + ", ".join(f"{k} {v}" for k, v in made.versions.items() if k != "python"),
            "",
            "What the checks found in the data:",
            *problems,
            "",
            "## How to use it",
            "    headstart predict THIS_FOLDER image.jpg --out predictions.csv",
            *_timm_lines(classifier),
            "",
            "## How to reproduce it",
            "    headstart reproduce THIS_FOLDER --data DATA",
            "",
        ]
    )


def metrics_table(test: Metrics | None, val: Metrics) -> list[str]:
    """Return the metrics as a table, with the sentence above it."""
    if test is None:
        said = f"95 % intervals; {val.n:,} validation images. {ON_VALIDATION}"
        return [
            said,
            *_about_groups(val),
            "",
            "| metric | validation |",
            "|---|---|",
            *(f"| {name} | {val[name]} |" for name in SHOWN),
        ]
    return [
        f"95 % intervals; {test.n:,} test images, used once; {val.n:,} validation images, used for model selection.",
        *_about_groups(test),
        "",
        "| metric | test | validation |",
        "|---|---|---|",
        *(f"| {name} | {test[name]} | {val[name]} |" for name in SHOWN),
    ]


def _about_groups(judged: Metrics) -> list[str]:
    return [judged.about_groups] if judged.groups else []


def _corrections(made: Provenance) -> list[str]:
    given, refused = made.corrections, made.copies.refused
    lines = []
    if given:
        lines.append(f"- corrected by hand ({CORRECTIONS}): {given_and_left_out(given.relabelled, given.dropped)}")
    if refused:
        lines.append(f"- marked as not copies ({NOT_COPIES}): {refused:,} pair{'s' * (refused != 1)} of images")
    return lines


def made_by(made: Provenance) -> str:
    """Say in a few words how a classifier was made."""
    tuned, kinds = made.tuned, list(dict.fromkeys(head.kind for head in made.heads))
    frozen = f"Frozen backbone, {kinds[0]} head" if kinds else ""
    if len(made.heads) > 1:
        listed = " and ".join(filter(None, [", ".join(kinds[:-1]), kinds[-1]]))
        frozen = f"Frozen backbones, {len(made.heads)} heads ({listed})"
    frozen += " with kernels" * any(head.kernel is not None for head in made.heads)
    if not tuned:
        return frozen
    how = {"finetune": "fine-tuned", "head_sgd": "dense layers trained on frozen features", "scratch": "from scratch"}
    trained = f"{tuned.backbone} {how[tuned.approach]}, {tuned.epochs} epoch{'s' * (tuned.epochs != 1)}"
    return f"{frozen}, and {trained}" if frozen else trained


def _timm_lines(classifier: Classifier) -> list[str]:
    staged = any(member.extractor.pooling == "stages" for member in classifier.members)
    first = (
        ["    import headstart.model.backbones.networks   # tells timm about last layers on all stages"]
        if staged
        else []
    )
    if len(classifier.members) == 1:
        return [*first, '    timm.create_model("local-dir:THIS_FOLDER", pretrained=True)   # the same logits']
    return [
        *first,
        *([""] if first else []),
        "Each member* folder loads with timm (`local-dir:`); the logits are the sum over the members.",
    ]
