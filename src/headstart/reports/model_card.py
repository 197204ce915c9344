"""The model card: the README.md of a run folder."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

from headstart.data.checks import Finding
from headstart.data.corrections import given_and_left_out
from headstart.evaluation.metrics import Metrics
from headstart.io.text_table import few, plain
from headstart.model.inference.classifier import Classifier

SHOWN = ("accuracy", "balanced_accuracy", "f1_macro", "matthews_corrcoef", "roc_auc", "log_loss", "brier_score", "ece")


def model_card(classifier: Classifier, test: Metrics, val: Metrics, findings: Sequence[Finding]) -> str:
    """Markdown: what it is, how good it is (with intervals), what it was made from, how to use and reproduce it."""
    known = classifier.provenance
    rows = [f"| {name} | {test[name]} | {val[name]} |" for name in SHOWN]
    worst = min(test.per_class, key=lambda c: test.per_class[c]["recall"].value)
    problems = [f"- {f.severity}: {plain(f.message)}" for f in findings if f.severity != "info"] or ["- none"]
    used = [(m.extractor, m.extractor.backbone) for m in classifier.members]
    members = [f"- {e}, {b.licence}, weights SHA-256 {b.sha256[:16]}: {b.origin}" for e, b in used]
    data = known["data"]
    return "\n".join(
        [
            f"# Classifier of {len(classifier.classes)} classes",
            "",
            f"{few([plain(c) for c in classifier.classes], 30)}. {made_by(known)}; model {classifier.id}.",
            "",
            "## How good it is",
            f"95 % intervals; {test.n:,} test images, looked at once; {val.n:,} validation images, used for choosing.",
            "",
            "| metric | test | validation |",
            "|---|---|---|",
            *rows,
            "",
            f"The weakest class is {worst!r}: recall {test.per_class[worst]['recall']}.",
            f"Temperature {classifier.temperature:.4g} (folded into the weights). Sets at alpha = {classifier.alpha:g} hold "
            f"every class with probability >= {1 - classifier.conformal_threshold:.4g}. Submissions to a competition keep "
            f"probabilities at or above {classifier.clip:.2g} (chosen on validation for log-loss).",
            "",
            "## What it was made from",
            *members,
            f"- {data['images']:,} images, fingerprint {data['fingerprint'][:16]}; split {known['split_hash'][:16]}",
            *_corrections(known),
            f"- Python {platform.python_version()}, "
            + ", ".join(f"{k} {v}" for k, v in known["versions"].items() if k != "python"),
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


def _corrections(known: Mapping[str, Any]) -> list[str]:
    corrections, refused = known.get("corrections"), (known.get("copies") or {}).get("refused", 0)
    lines = []
    if corrections:
        words = given_and_left_out(corrections["labels"], corrections["dropped"])
        lines.append(f"- corrected by hand (corrections.csv): {words}")
    if refused:
        lines.append(f"- said to be no copies (not_copies.csv): {refused:,} pair{'s' * (refused != 1)} of images")
    return lines


def made_by(known: Mapping[str, Any]) -> str:
    """How a classifier was made, in some words, from its provenance."""
    head, tuned = known["head"], known["tuned"]
    frozen = f"Frozen backbone, {head['kind']} head" if head else ""
    if not tuned:
        return frozen
    how = {"finetune": "fine-tuned", "head_sgd": "dense layers trained on frozen features", "scratch": "from scratch"}
    trained = f"{tuned['backbone']} {how[tuned['approach']]}, {tuned['epochs']} epochs"
    return f"{frozen}, and {trained}" if frozen else trained


def _timm_lines(classifier: Classifier) -> list[str]:
    if len(classifier.members) == 1:
        return ['    timm.create_model("local-dir:THIS_FOLDER", pretrained=True)   # the same logits']
    return ["Each member* folder loads with timm (`local-dir:`); the logits are the sum over the members."]
