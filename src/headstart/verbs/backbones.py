"""`headstart backbones [PATTERN]`: list networks, and show which have weights on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from headstart.io.result_repr import Result
from headstart.model.backbones import builtin
from headstart.model.backbones.registry import BackboneRow
from headstart.model.backbones.registry import backbones as find_all
from headstart.model.backbones.weights_source import WeightsFolder, WeightsSource, as_weights_folder


@dataclass(frozen=True, repr=False)
class BackboneList(Result):
    """Rows of `backbones`, those with local weights first."""

    rows: list[BackboneRow]

    def summary(self) -> str:
        """Count the backbones, and those with local weights."""
        return (
            f"{len(self.rows):,} backbones, {sum(bool(row.here) for row in self.rows):,} with weights on this machine"
        )

    def facts(self) -> list[tuple[str, str]]:
        """Return a row per backbone: where its weights are, image size, licence."""
        return [(row.name, f"{row.here or '-'}, {row.image_size} px, {row.licence}") for row in self.rows]

    def to_json(self) -> dict[str, Any]:
        """Return the document of `backbones --json`."""
        return {"backbones": [asdict(row) for row in self.rows]}

    def table(self) -> str:
        """Format as plain text for a terminal."""
        if not self.rows:
            return "None. `headstart backbones --all` lists everything that timm has pretrained weights for."
        width = max(len(r.name) for r in self.rows)
        lines = [f"{'name':<{width}}  {'weights':<8}{'px':>5}{'parameters':>13}{'features':>10}  licence"]
        for r in self.rows:
            numbers = [f"{x:,}" if x else "-" for x in (r.parameters, r.feature_dim)]
            lines.append(
                f"{r.name:<{width}}  {r.here or '-':<8}{r.image_size:>5}{numbers[0]:>13}{numbers[1]:>10}  {r.licence}"
            )
        if any(r.measured for r in self.rows):
            lines.append(
                f"{builtin.NAME} comes with headstart as a fallback. Accuracy of a linear head on it: {builtin.accuracies()}."
            )
        return "\n".join(lines)


def backbones(pattern: str = "", *, weights: WeightsFolder = WeightsSource(), all: bool = False) -> BackboneList:
    """List backbones: those with weights on this machine; with --all or a pattern, all that timm knows. Example:

        headstart backbones resnet

    Args:
        pattern: Part of a name, or a wildcard pattern such as 'resnet50.*'.
        weights: Where to look for weights: a folder, only on this machine.
        all: Include backbones whose weights would have to be downloaded.

    Raises:
        MissingWeights: the weights folder does not exist.
    """
    return BackboneList(find_all(pattern, weights=as_weights_folder(weights), only_here=not (all or pattern)))
