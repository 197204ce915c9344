"""Shared fixtures: small real pictures made here, and the larger sets where a checkout has them beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data sets and weights that some checkouts have beside them; the test is skipped without it."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "weights").is_dir():
        pytest.skip("needs ../shared (real pictures and weights), which is not here")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Each test has a cache folder of its own, so that none sees another's features."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HEADSTART_CACHE", str(folder))
    for name in ("HEADSTART_WEIGHTS", "HF_HUB_OFFLINE"):
        if name in os.environ:
            monkeypatch.delenv(name)
    yield folder
