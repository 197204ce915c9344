"""Snapshots of a training run, from which it resumes to the bit.

One safetensors file holds the weights, the optimiser's state, the moving average, the best weights so far and all
histories; everything else is JSON in its metadata, with a SHA-256 of the whole. It is written to a temporary file and
renamed (`io.files.write_bytes`), so a process that dies while saving leaves the previous snapshot intact. No pickle is
involved.

A snapshot of AdamW with a moving average is about five times as large as the weights (MobileNetV2: 45 MB, half a
second), and needs twice that in memory while it is written. After a slow save the next one is delayed, so that saving
takes at most a twentieth of the time.

A snapshot belongs to a key: the recipe and the images it was made with. With any other key it is rejected.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import UnfinishedTraining
from headstart.io.files import safetensors_bytes, write_bytes
from headstart.io.progress import log
from headstart.training.recipe import Recipe

VERSION = "1"
SAVING_SHARE = 20
"""Saving takes at most one part in this many of the training time."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """`tensors` by name, and JSON-serialisable `values`."""

    tensors: Mapping[str, np.ndarray]
    values: Mapping[str, Any]


@dataclass(eq=False)
class Checkpoint:
    """The snapshot file at `path`. `key` is what the training depends on (options, images), in readable words.

    `choices` (JSON) are kept with it, and not compared. With `every_seconds` 0 every step is saved. `clock` returns seconds.
    """

    path: Path
    key: Mapping[str, str]
    every_seconds: float = 30.0
    clock: Callable[[], float] = time.monotonic
    choices: Mapping[str, Any] = field(default_factory=dict)
    _saved_at: float = field(init=False)
    _seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._saved_at = self.clock()

    def load(self) -> Snapshot | None:
        """Read the snapshot. None if there is none or it is damaged (with a warning: training starts over).

        Raises `UnfinishedTraining` if it was made with another key.
        """
        if not self.path.exists():
            return None
        try:
            metadata, tensors = _read(self.path)
            if metadata.get("version") != VERSION:
                raise ValueError("it was not written by this version of headstart")
            if metadata.get("sha256") != _digest(tensors, _texts(metadata)):
                raise ValueError("its SHA-256 does not match")
            key, values = json.loads(metadata["key"]), json.loads(metadata["values"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("%s: cannot resume the unfinished training (%s); starting over.", self.path, error)
            return None
        self._refuse_another(key)
        return Snapshot(tensors, values)

    def refuse_another(self) -> None:
        """Raise `UnfinishedTraining` if there is a snapshot that differs in an entry of this key, which may be a part of its
        own: before any work, when not all of it is known."""
        recorded = self.recorded()
        if recorded:
            self._refuse_another({name: value for name, value in recorded.items() if name in self.key})

    def recorded(self) -> dict[str, str]:
        """Return the snapshot's key; empty if there is no snapshot or it cannot be read."""
        try:
            key = json.loads(_read(self.path, with_tensors=False)[0]["key"])
        except (OSError, ValueError, KeyError, RecursionError):
            return {}
        return dict(key)

    def recorded_choices(self) -> dict[str, Any]:
        """Return the choices kept with the snapshot; none if there is no snapshot, or if this key differs from its own."""
        try:
            metadata = _read(self.path, with_tensors=False)[0]
            key, choices = dict(json.loads(metadata["key"])), dict(json.loads(metadata.get("choices", "{}")))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}
        return choices if all(key.get(name) == value for name, value in self.key.items()) else {}

    def due(self, epoch_ended: bool = False) -> bool:
        """Return whether it is time to save: after `every_seconds`, or at the end of an epoch unless saving is slow."""
        wait = SAVING_SHARE * self._seconds if self.every_seconds else 0.0
        return self.clock() - self._saved_at >= max(0.0 if epoch_ended else self.every_seconds, wait)

    def keep(self, snapshot: Snapshot) -> None:
        """Replace the snapshot. Raises `WriteError`."""
        begun = self.clock()
        key, values = json.dumps(dict(self.key), sort_keys=True), json.dumps(dict(snapshot.values))
        metadata = {"version": VERSION, "key": key, "values": values, "choices": json.dumps(dict(self.choices))}
        metadata["sha256"] = _digest(snapshot.tensors, _texts(metadata))
        write_bytes(self.path, safetensors_bytes(snapshot.tensors, metadata))
        self._saved_at = self.clock()
        self._seconds = self._saved_at - begun

    def discard(self) -> None:
        """Remove the snapshot: once the result is saved elsewhere, or to start over."""
        self.path.unlink(missing_ok=True)

    def _refuse_another(self, key: Mapping[str, str]) -> None:
        changed = [
            f"{name}: {_change(name, key.get(name), self.key.get(name))}"
            for name in sorted({*key, *self.key})
            if key.get(name) != self.key.get(name)
        ]
        if changed:
            threads = f" (Threads: set OMP_NUM_THREADS={key.get('threads')}.)" if _threads_differ(key, self.key) else ""
            raise UnfinishedTraining(
                f"{self.path}: an unfinished training run is in the way, and this one differs from it:\n    "
                + "\n    ".join(changed),
                hint=f"Repeat the earlier command to resume it, or add --restart to discard it.{threads}",
            )


def _change(name: str, before: str | None, now: str | None) -> str:
    """Return how an entry of a key differs, in words; hashes say nothing to a reader.

    >>> _change("epochs", "8", "0"), _change("images", 64 * "a", 64 * "b")
    ('was 8, is the default (0)', 'not the same')
    """
    if all(text and re.fullmatch("[0-9a-f]{16,64}", text) for text in (before, now)):
        return "not the same"
    return f"was {_in_words(name, before)}, is {_in_words(name, now)}"


def _in_words(name: str, text: str | None) -> str:
    """Return a value, and whether it is the default of the recipe's option of that name."""
    if text is None:
        return "not there"
    shown = f"{text[:12]}..." if re.fullmatch("[0-9a-f]{64}", text) else text or "empty"
    is_default = text == {option.name: str(option.default) for option in fields(Recipe)}.get(name)
    return f"the default ({shown})" if is_default else shown


def _threads_differ(key: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Return whether torch used another number of threads: torchrun sets it to 1 for several processes."""
    return "threads" in key and key["threads"] != other.get("threads")


def _texts(metadata: Mapping[str, str]) -> str:
    return metadata["key"] + metadata["values"] + metadata.get("choices", "")


def _digest(tensors: Mapping[str, np.ndarray], text: str) -> str:
    """Hash (SHA-256) the text, and the name, type, shape and bytes of each tensor."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        found.update(f"\n{name} {array.dtype.str} {tensors[name].shape}\n".encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _read(path: Path, with_tensors: bool = True) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Read the metadata and tensors of a safetensors file. Raises `OSError` and `ValueError`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118
            return dict(file.metadata() or {}), tensors
    except SafetensorError as error:
        raise ValueError(str(error)) from error
