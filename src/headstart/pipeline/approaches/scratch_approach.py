"""`scratch`: a network from random weights. Costs minutes to hours; for comparison, or where nothing pretrained fits."""

from __future__ import annotations

from headstart.pipeline.approaches.gradient import SingleNetwork
from headstart.training.modes import TrainingMode

APPROACH = SingleNetwork(
    TrainingMode("scratch", freezes="nothing", augment="flip,crop=0.35", lr=None, most_epochs=30), pretrained=False
)
