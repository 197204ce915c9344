"""From a Kaggle competition to a submission, in one call: download, check, split, train, predict, write.

    python kaggle_cats_dogs.py [BACKBONE]

Needs `pip install '.[kaggle,train]'`, Kaggle's credentials (kaggle.json, or KAGGLE_API_TOKEN), and the rules
accepted on the competition's page. Writes cats-dogs, cats-dogs-run (with report.html in it) and submission.csv into the
current folder.
"""

import logging
import sys
from pathlib import Path

import headstart

COMPETITION = "dogs-vs-cats-redux-kernels-edition"


def main(backbone: str = "mobilenetv2_100") -> None:
    """All of it with that backbone, whose weights are downloaded once."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    made = headstart.kaggle(
        COMPETITION,
        out=Path("cats-dogs"),
        train=True,
        submit_file=Path("submission.csv"),
        recipe=headstart.Recipe(backbone=backbone, budget="10m"),
    )
    print(made.table())


if __name__ == "__main__":
    main(*sys.argv[1:])
