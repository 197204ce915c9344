"""Images to feature vectors: the costly step of frozen-backbone training, so it runs once per image and is cached.

Each worker thread decodes a small batch straight into its session's input and then runs the network on it; with four
workers per stream of the network, batches wait for the network and never the network for a batch, without a queue.
Besides the features, memory holds a few batches, whatever the number of images.

Backbones with the same pixels (equal `Preprocess.geometry`) share the decoding.

The cache key is made from the weights, the input spec and the precision (`engines.features_key`), then the SHA-256 of
the image's bytes: a renamed file hits, a changed pixel misses. About every 20 seconds a shard of the cache is written
to a temporary file and renamed, so a killed run loses at most that much, and two processes can share the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from headstart.errors import UnreadableImage, WriteError
from headstart.images.image_refs import Images
from headstart.images.preprocess import Preprocess, read_pixels
from headstart.images.validate import cores
from headstart.images.value_ranges import ValueRanges
from headstart.io.files import cache_dir, safetensors_bytes, sha256_bytes, write_cache
from headstart.io.progress import bar
from headstart.io.result_repr import OneLineRepr, short_facts
from headstart.model.backbones.registry import Backbone
from headstart.model.inference.engines import features_key, open_network
from headstart.model.inference.runtime import Network, Runtime, Session

SHARD_ROWS = 4096
SHARD_SECONDS = 20.0

Pooling = Literal["last", "stages"]

WORKERS_PER_CORE = 4
"""Two reached 0.95 of the serial bound, three and four 1.01, six 0.98 (medians of nine repeats; LOG.md)."""


@dataclass(frozen=True)
class FeatureExtractor:
    """A backbone with its input spec (its own, or at another size), and which of its features to use.

    `pooling` is ``last`` (the backbone's own pooled features) or ``stages`` (those, and the mean of every stage's maps).
    Both come from one pass and share one cache.
    """

    backbone: Backbone
    spec: Preprocess
    pooling: Pooling = "last"

    def __str__(self) -> str:
        return f"{self.backbone.name} at {self._features}"

    @property
    def _features(self) -> str:
        resize = self.spec.resize if self.spec.resize != self.backbone.preprocess.resize else ""
        stages = "all stages" if self.pooling == "stages" else ""
        return ", ".join(filter(None, (f"{self.spec.image_size} px", resize, stages, self.backbone.training)))


def listed(extractors: Iterable[FeatureExtractor]) -> str:
    """List the backbones of a classifier, each with all its inputs; a fine-tuned network is another one than it began as.

    >>> from headstart.model.backbones.registry import without_weights
    >>> own = FeatureExtractor(without_weights("resnet18"), Preprocess())
    >>> listed([own, replace(own, spec=Preprocess(image_size=288))])
    'resnet18 at 224 px and at 288 px'
    >>> tuned = replace(own.backbone, origin="trained here from resnet18 (hub)")
    >>> listed([own, replace(own, backbone=tuned)])
    'resnet18 at 224 px + resnet18 at 224 px, fine-tuned'
    """
    seen: dict[tuple[str, str], list[str]] = {}
    for each in extractors:
        seen.setdefault((each.backbone.name, each.backbone.training), []).append(f"at {each._features}")
    return " + ".join(f"{name} {' and '.join(places)}" for (name, _), places in seen.items())


@dataclass(frozen=True, eq=False, repr=False)
class Features(OneLineRepr):
    """Feature vectors of images. `values` float32 (N, D) in the order of `paths`.

    `fingerprint` is a SHA-256 over weights, preprocessing and the images' bytes: equal fingerprints mean equal
    features. `errors` maps the paths of images that could not be read, which have no row, to the reason.
    """

    values: np.ndarray
    paths: tuple[str, ...]
    backbone: str
    fingerprint: str
    errors: dict[str, str]

    def summary(self) -> str:
        """Number of images and features, and the backbone."""
        images, features = self.values.shape
        return f"{images:,} images x {features:,} features of {self.backbone}"

    def facts(self) -> list[tuple[str, str]]:
        """The fields, with the array's shape."""
        images, features = self.values.shape
        shown = {"images": images, "features": features, "backbone": self.backbone}
        return list(short_facts({**shown, "fingerprint": self.fingerprint, "errors": self.errors}))


@dataclass(frozen=True, eq=False)
class _Shard:
    """A file of the feature cache, mapped into memory: the images' SHA-256 uint8 (N, 32), and their features (N, D)."""

    keys_N32: np.ndarray
    values_ND: np.ndarray
    content: str

    @cached_property
    def intact(self) -> bool:
        """Whether the content is what was written; reads all of it."""
        return self.content == _content(self.keys_N32, self.values_ND)


class FeatureStore:
    """The feature cache of one (weights, input spec, precision), by the SHA-256 of the images' bytes.

    Opening it reads 32 bytes per image. A shard is read and its hash compared when its first features are used.
    """

    def __init__(self, key: str) -> None:
        self._folder = cache_dir() / "features" / key
        self._shards: list[_Shard] = []
        self._row: dict[bytes, tuple[_Shard, int]] = {}
        self.block_sizes: tuple[int, ...] = ()
        for path in sorted(self._folder.glob("*.safetensors")):
            self._take_up(path)

    def find(self, sha256: bytes) -> np.ndarray | None:
        """Return the feature vector (D,) of an image, or None. A damaged shard is left out: its images are embedded again."""
        while (found := self._row.get(sha256)) is not None:
            shard, row = found
            if shard.intact:
                vector: np.ndarray = shard.values_ND[row]
                return vector
            self._shards.remove(shard)
            self._row.clear()
            for other in self._shards:
                self._index(other)
        return None

    def keep(self, sha256s: Sequence[bytes], values_ND: np.ndarray, block_sizes: Sequence[int]) -> None:
        """Write a shard. A full or failing disk raises `WriteError`."""
        keys_N32 = np.frombuffer(b"".join(sha256s), np.uint8).reshape(-1, 32)
        name = sha256_bytes(keys_N32.tobytes())[:32]
        arrays = {"sha256": keys_N32, "values": values_ND}
        metadata = {"content": _content(keys_N32, values_ND), "blocks": json.dumps(list(block_sizes))}
        path = self._folder / f"{name}.safetensors"
        write_cache(path, safetensors_bytes(arrays, metadata))
        self._take_up(path)  # mapped from the file, so that an open store does not fill memory

    def _take_up(self, path: Path) -> None:
        """Map a shard into memory; one that cannot be read is skipped."""
        try:
            mapped = np.memmap(path, np.uint8, "r")
            size = int.from_bytes(mapped[:8].tobytes(), "little")
            header = json.loads(bytes(mapped[8 : 8 + size]))
            data = mapped[8 + size :]
            keys_N32 = _mapped_array(data, header["sha256"], np.dtype(np.uint8))
            values_ND = _mapped_array(data, header["values"], np.dtype(np.float32))
            shard = _Shard(keys_N32, values_ND, header["__metadata__"]["content"])
            self.block_sizes = tuple(json.loads(header["__metadata__"]["blocks"]))
            self._index(shard)
            self._shards.append(shard)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return

    def _index(self, shard: _Shard) -> None:
        for row, key in enumerate(shard.keys_N32):
            self._row[key.tobytes()] = (shard, row)


def embed_images(
    images: Images, extractors: Sequence[FeatureExtractor], runtime: Runtime, *, keep: bool = True
) -> tuple[list[np.ndarray], dict[int, str]]:
    """Embed images: one float32 (N, D) array per extractor, in their order. This is one call of an `Embedder`.

    A file that has changed since it was inspected is an error for that image, not for the run. Returns the arrays and
    {row: reason} of unreadable images (their features are zero). `keep=False` neither reads nor writes the cache.
    Raises `BackboneError`, `WriteError`.
    """
    return Embedder(extractors, runtime, keep=keep)(images)


class Embedder:
    """Extractors that stay open between calls: networks and caches are opened on first use."""

    def __init__(self, extractors: Sequence[FeatureExtractor], runtime: Runtime, *, keep: bool = True) -> None:
        self.extractors, self.runtime, self.keep = tuple(extractors), runtime, keep
        self._networks: dict[int, Network] = {}
        self._stores: dict[int, FeatureStore] = {}
        self.computed = 0
        """Images that networks have embedded so far, those of all extractors together; the cache had the others."""

    def __call__(self, images: Images) -> tuple[list[np.ndarray], dict[int, str]]:
        """Embed images, see `embed_images`."""
        arrays: list[np.ndarray | None] = [None] * len(self.extractors)
        errors: dict[int, str] = {}
        for members in _by_geometry(self.extractors):
            found, failed = self._embed_one_geometry(images, members)
            errors.update(failed)
            for member, values_ND in zip(members, found, strict=True):
                arrays[member] = values_ND
        return [a for a in arrays if a is not None], errors

    def cached(self, sha256s: Sequence[str]) -> tuple[list[np.ndarray], list[int]]:
        """Return the features that the cache has of images, one float32 (N, D) array per extractor, and the rows that it
        lacks for any extractor (zeros; D is 0 if it lacks all). Computes nothing."""
        keys, lacking = [bytes.fromhex(sha256) for sha256 in sha256s], self.lacking(sha256s)
        stores = [self._store(member) for member in range(len(self.extractors))]
        if len(lacking) == len(keys):
            return [np.zeros((len(keys), 0), np.float32) for _ in stores], lacking
        arrays = [self.selected(m, _assemble(keys, store, _Rows(0, set()))) for m, store in enumerate(stores)]
        return arrays, lacking

    def lacking(self, sha256s: Sequence[str]) -> list[int]:
        """Return the rows of images whose features the cache lacks for any extractor. Assembles nothing."""
        keys = [bytes.fromhex(sha256) for sha256 in sha256s]
        stores = [self._store(member) for member in range(len(self.extractors))]
        return [i for i, key in enumerate(keys) if any(not s or s.find(key) is None for s in stores)]

    def open(self, member: int, images: Images) -> None:
        """Open an extractor's network, by the extractor's number, unless the cache has the features of all these images.

        Raises `BackboneError` or `MissingExtra` if it cannot be used here.
        """
        if _missing(self._store(member), [bytes.fromhex(sha256) for sha256 in images.sha256s]):
            self.network(member)

    def missing(self, images: Images) -> list[set[int]]:
        """Return the rows of images whose features would have to be computed, for each extractor."""
        keys = [bytes.fromhex(sha256) for sha256 in images.sha256s]
        return [_missing(self._store(member), keys) for member in range(len(self.extractors))]

    def network(self, member: int) -> Network:
        """Return an extractor's network, by the extractor's number. Raises `BackboneError`."""
        if member not in self._networks:
            extractor = self.extractors[member]
            self._networks[member] = open_network(extractor.backbone, extractor.spec, self.runtime)
        return self._networks[member]

    def selected(self, member: int, values_ND: np.ndarray) -> np.ndarray:
        """Return the columns that the extractor uses."""
        if self.extractors[member].pooling == "stages" or not len(values_ND):
            return values_ND
        return values_ND[:, : self.block_sizes(member)[0]]

    def block_sizes(self, member: int) -> tuple[int, ...]:
        """Return the number of columns of each block of an extractor's features, by the extractor's number."""
        store = self._stores.get(member)
        sizes = (store.block_sizes if store else ()) or self.network(member).block_sizes
        return sizes if self.extractors[member].pooling == "stages" else sizes[:1]

    def own(self, features: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Return the backbones' own pooled features, whatever the extractors' pooling: those say what an image shows, and
        early stages more about how it looks. Raises `BackboneError`."""
        return tuple(
            x[:, : self.block_sizes(i)[0]] if each.pooling == "stages" else x
            for i, (x, each) in enumerate(zip(features, self.extractors, strict=True))
        )

    def _store(self, member: int) -> FeatureStore | None:
        if self.keep and member not in self._stores:
            extractor = self.extractors[member]
            self._stores[member] = FeatureStore(features_key(extractor.backbone, extractor.spec, self.runtime))
        return self._stores.get(member)

    def _embed_one_geometry(self, images: Images, members: Sequence[int]) -> tuple[list[np.ndarray], dict[int, str]]:
        keys = [bytes.fromhex(s) for s in images.sha256s]
        stores = [self._store(member) for member in members]
        missing = [_missing(store, keys) for store in stores]
        networks = [self.network(p) if m else None for p, m in zip(members, missing, strict=True)]
        wanted = sorted(set().union(*missing))
        work = _EmbeddingWork(
            images=images,
            networks=networks,
            missing=missing,
            spec=self.extractors[members[0]].spec,
            batch=self.runtime.batch,
        )
        names = [self.extractors[p].backbone.name for p, m in zip(members, missing, strict=True) if m]
        title = names[0] if len(names) == 1 else f"{len(names)} backbones"
        with bar(f"Embedding with {title}", len(wanted)) as advance:
            work.run(wanted, stores, keys, advance)
        self.computed += sum(map(len, missing))
        failed = {keys[i]: reason for i, reason in work.errors.items()}
        arrays = [
            self.selected(member, _assemble(keys, store, fresh))
            for member, store, fresh in zip(members, stores, work.fresh, strict=True)
        ]
        return arrays, {i: failed[key] for i, key in enumerate(keys) if key in failed}


def fingerprint(extractor: FeatureExtractor, runtime: Runtime, sha256s: Sequence[str]) -> str:
    """Hash (SHA-256) everything that features depend on: the network's key and each image's bytes, in order."""
    digest = hashlib.sha256(features_key(extractor.backbone, extractor.spec, runtime).encode())
    for sha256 in sha256s:
        digest.update(bytes.fromhex(sha256))
    return digest.hexdigest()


def _by_geometry(extractors: Sequence[FeatureExtractor]) -> Iterator[list[int]]:
    groups: dict[tuple[object, ...], list[int]] = {}
    for member, extractor in enumerate(extractors):
        groups.setdefault(extractor.spec.geometry(), []).append(member)
    yield from groups.values()


def _missing(store: FeatureStore | None, keys: Sequence[bytes]) -> set[int]:
    """Return the indices to compute: each content once, at its first index; without a store, every image."""
    if store is None:
        return set(range(len(keys)))
    seen: set[bytes] = set()
    out = set()
    for i, key in enumerate(keys):
        if key not in seen and store.find(key) is None:
            out.add(i)
        seen.add(key)
    return out


class _EmbeddingWork:
    """State shared by the threads: remaining batches, rows done so far, and errors."""

    def __init__(
        self,
        images: Images,
        networks: Sequence[Network | None],
        missing: Sequence[set[int]],
        spec: Preprocess,
        batch: int,
    ) -> None:
        self.images, self.networks, self.missing, self.spec = images, networks, missing, spec
        self.batch = batch
        self.errors: dict[int, str] = {}
        self.fresh = [_Rows(sum(n.block_sizes) if n else 0, m) for n, m in zip(networks, missing, strict=True)]
        self._lock = threading.Lock()
        self._stop: BaseException | None = None

    def run(
        self,
        wanted: Sequence[int],
        stores: Sequence[FeatureStore | None],
        keys: Sequence[bytes],
        advance: Callable[[int], None],
    ) -> None:
        batches = iter([wanted[i : i + self.batch] for i in range(0, len(wanted), self.batch)])
        threads = [
            threading.Thread(target=self._guarded, args=(batches, advance), daemon=True)
            for _ in range(min(WORKERS_PER_CORE * cores(), -(-len(wanted) // self.batch)))
        ]
        for thread in threads:
            thread.start()
        try:
            self._keep_while_running(threads, stores, keys)
        except BaseException as error:  # also Ctrl-C: stop the threads, and save finished rows before raising
            self._stop = self._stop or error
        for thread in threads:
            thread.join()
        if not isinstance(self._stop, WriteError):
            self._keep_new(stores, keys)
        if self._stop is not None:
            raise self._stop

    def _keep_while_running(
        self, threads: Sequence[threading.Thread], stores: Sequence[FeatureStore | None], keys: Sequence[bytes]
    ) -> None:
        last = time.monotonic()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.25)
                many = any(len(rows.unkept) >= SHARD_ROWS for rows in self.fresh)
                if many or time.monotonic() - last > SHARD_SECONDS:
                    self._keep_new(stores, keys)
                    last = time.monotonic()

    def _keep_new(self, stores: Sequence[FeatureStore | None], keys: Sequence[bytes]) -> None:
        for store, rows, network in zip(stores, self.fresh, self.networks, strict=True):
            if store is None or network is None:
                continue
            with self._lock:
                indices, values_ND = rows.take_unkept()
            if indices:
                store.keep([keys[i] for i in indices], values_ND, network.block_sizes)

    def _guarded(self, batches: Iterator[Sequence[int]], advance: Callable[[int], None]) -> None:
        run_in_long_slices()
        try:
            self._work(batches, advance)
        except BaseException as error:
            self._stop = self._stop or error

    def _work(self, batches: Iterator[Sequence[int]], advance: Callable[[int], None]) -> None:
        sessions = [n.session() if n else None for n in self.networks]
        while self._stop is None:
            with self._lock:
                batch = next(batches, None)
            if batch is None:
                return
            readable = self._fill(batch, sessions)
            for session, missing, rows in zip(sessions, self.missing, self.fresh, strict=True):
                if session is None or not any(i in missing for i in readable):
                    continue
                values_BD = session.run()
                with self._lock:
                    for i, place in readable.items():
                        if i in missing:
                            rows.add(i, values_BD[place])
            advance(len(batch))

    def _fill(self, batch: Sequence[int], sessions: Sequence[Session | None]) -> dict[int, int]:
        """Decode a batch into the first session's pixels and copy them to the others; return readable {index: row}."""
        buffers = [s.pixels for s in sessions if s is not None]
        readable = {}
        for place, i in enumerate(batch):
            try:
                buffers[0][place] = read_pixels(self.images.refs[i], self.spec, sha256=self.images.sha256s[i])
                readable[i] = place
            except UnreadableImage as error:
                self.errors[i] = error.reason
                buffers[0][place] = 0
        buffers[0][len(batch) :] = 0
        for other in buffers[1:]:
            other[...] = buffers[0]
        return readable


def run_in_long_slices() -> None:
    """Mark this thread as batch work on Linux: fewer switches between decoding and computing, 3 % more images/s."""
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):  # a container may forbid it, which costs a little speed
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_BATCH, os.sched_param(0))


class _Rows:
    """Rows computed in this run: one per missing image in the order of indices, and which are not yet saved."""

    def __init__(self, feature_dim: int, missing: set[int]) -> None:
        self.place = {index: place for place, index in enumerate(sorted(missing))}
        self.values = np.zeros((len(missing), feature_dim), np.float32)
        self.unkept: list[int] = []

    def add(self, index: int, vector_D: np.ndarray) -> None:
        self.values[self.place[index]] = vector_D
        self.unkept.append(index)

    def take_unkept(self) -> tuple[list[int], np.ndarray]:
        """Return the indices added since the last call, in order, and their rows."""
        indices, self.unkept = sorted(self.unkept), []
        return indices, self.values[[self.place[i] for i in indices]]


def _content(keys_N32: np.ndarray, values_ND: np.ndarray) -> str:
    """Hash (SHA-256) a shard: shapes, the images' hashes, and their features."""
    digest = hashlib.sha256(f"{keys_N32.shape} {values_ND.shape}".encode())
    digest.update(np.ascontiguousarray(keys_N32).data)
    digest.update(np.ascontiguousarray(values_ND).data)
    return digest.hexdigest()


def _assemble(keys: Sequence[bytes], store: FeatureStore | None, fresh: _Rows) -> np.ndarray:
    """Return all rows in the requested order, from the cache and this run; zero for unreadable images."""
    if store is None:
        return fresh.values
    place = {keys[index]: place for index, place in fresh.place.items()}
    vectors = [fresh.values[place[key]] if key in place else store.find(key) for key in keys]
    dim = next(len(v) for v in vectors if v is not None) if vectors else 0
    values_ND = np.zeros((len(keys), dim), np.float32)
    for i, vector in enumerate(vectors):
        if vector is not None:
            values_ND[i] = vector
    return values_ND


def _mapped_array(data: np.ndarray, entry: Mapping[str, Any], dtype: np.dtype[Any]) -> np.ndarray:
    """Return a tensor of a memory-mapped safetensors file, by its header entry. Raises `ValueError` if truncated."""
    start, end = entry["data_offsets"]
    if end > len(data):
        raise ValueError("cut")
    return data[start:end].view(dtype).reshape(entry["shape"])


def fitted_spec(backbone: Backbone, image_size: int, resize: str, ranges: ValueRanges = ValueRanges()) -> Preprocess:
    """Return the backbone's own input spec, with the given options and the ranges of the images (`Images.ranges`)."""
    values = backbone.preprocess.as_dict()
    if image_size:
        values["image_size"] = image_size
    if resize != "auto":
        values["resize"] = resize
    return replace(Preprocess.from_dict(values), ranges=ranges)
