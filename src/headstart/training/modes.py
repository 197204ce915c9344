"""`TrainingMode`: what an approach by gradient descent trains of a network, and its defaults. Imports nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingMode:
    """What is trained, and what options of the recipe become that are left open.

    `freezes` nothing: the whole network is trained; stages: the first ones stay as they are, as `Recipe.unfreeze` says;
    backbone: only what stands on the backbone is trained. `augment` is for `Recipe.augment` auto. `lr` is the learning
    rate of AdamW for `Recipe.lr` 0; None: a range test finds one. `most_epochs` bounds `Recipe.epochs` 0. With
    `interpolates`, the result may lie between the weights before and after training (WiSE-FT).
    """

    name: str
    freezes: Literal["nothing", "stages", "backbone"]
    augment: str
    lr: float | None
    most_epochs: int
    interpolates: bool = False

    @property
    def freezes_stages(self) -> bool:
        """Whether some stages of the backbone are trained and others not."""
        return self.freezes == "stages"

    @property
    def freezes_backbone(self) -> bool:
        """Whether only what stands on the backbone is trained."""
        return self.freezes == "backbone"
