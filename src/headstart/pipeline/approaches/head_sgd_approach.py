"""`head_sgd`: dense last layers on one frozen backbone, by gradient descent, as in Keras tutorials.

Costs one pass of each augmented image through the backbone, and milliseconds per step. Not for a single last layer:
`linear` fits a better one in closed form.
"""

from __future__ import annotations

from headstart.pipeline.approaches.gradient import SingleNetwork
from headstart.training.modes import TrainingMode

APPROACH = SingleNetwork(
    TrainingMode("head_sgd", freezes="backbone", augment="none", lr=None, most_epochs=30), pretrained=True
)
