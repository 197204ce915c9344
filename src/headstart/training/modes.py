"""`TrainingMode`: which part of a network a gradient approach trains, and its defaults. Imports nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingMode:
    """Which part of the network is trained, and values for options that the recipe leaves open.

    `freezes` nothing: the whole network is trained; stages: the first ones stay frozen, see `Recipe.unfreeze`;
    backbone: only the layers on top of the backbone are trained. `augment` replaces `Recipe.augment` auto. `lr` is
    AdamW's learning rate for `Recipe.lr` 0; None: a range test finds one. `most_epochs` limits the epochs for
    `Recipe.epochs` 0. With `interpolates`, the result may be a mix of the weights before and after training (WiSE-FT).
    """

    name: str
    freezes: Literal["nothing", "stages", "backbone"]
    augment: str
    lr: float | None
    most_epochs: int
    interpolates: bool = False

    @property
    def freezes_stages(self) -> bool:
        """Whether only some stages of the backbone are trained."""
        return self.freezes == "stages"

    @property
    def freezes_backbone(self) -> bool:
        """Whether only the layers on top of the backbone are trained."""
        return self.freezes == "backbone"
