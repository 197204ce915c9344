"""Ways from images to a classifier: a table, and one file per approach.

    result = APPROACHES[recipe.approach].fit(task, extractors)

A new approach is one file here, `NAME_approach.py` with an `APPROACH` (see `approach.Approach`), and its name in
`training.recipe`. None of these files imports torch before it trains.
"""

from __future__ import annotations

from importlib import import_module

from headstart.pipeline.approaches.approach import Approach
from headstart.training import recipe

APPROACHES: dict[str, Approach] = {
    name: import_module(f"{__name__}.{name}_approach").APPROACH for name in recipe.APPROACHES
}
