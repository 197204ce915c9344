"""Batches of varied images: which ones, in which version, whatever the number of threads and wherever an epoch begins."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import draw
from headstart.errors import NoImages, UnreadableImage
from headstart.images.augment import augmented, parse_augment, read_views, rng_for
from headstart.images.image_refs import ImageRef, Images
from headstart.images.preprocess import Preprocess, read_pixels
from headstart.io.files import sha256_bytes
from headstart.training.batches import Batch, TensorBatches
from headstart.training.image_batches import AHEAD, ImageBatches

SPEC = Preprocess(16)
AUGMENT = parse_augment("flip,rotation=20,brightness=0.2")
N = 11


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eleven JPEGs. Never write into this folder."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(N):
        draw(i % 3, i, (40, 30)).save(folder / f"{i}.jpg", quality=90)
    return [folder / f"{i}.jpg" for i in range(N)]


def hashes(files: Sequence[Path]) -> list[str]:
    return [sha256_bytes(f.read_bytes()) for f in files]


def batches(files: Sequence[ImageRef], sha256s: Sequence[str] | None = None, **options: object) -> ImageBatches:
    images = Images.recorded(files, hashes(files) if sha256s is None else sha256s)  # type: ignore[arg-type]
    labels = np.arange(len(files)) % 3
    return ImageBatches(images, labels, SPEC, AUGMENT, **{"batch_size": 4, **options})  # type: ignore[arg-type]


def content(made: Sequence[Batch]) -> list[tuple[bytes, list[object], list[int]]]:
    return [(b.inputs.numpy().tobytes(), b.targets.tolist(), b.indices.tolist()) for b in made]


def test_a_batch_holds_what_its_images_become_in_that_epoch(files: list[Path]) -> None:
    source = batches(files, seed=5)
    assert len(source) == 3
    for epoch in (0, 7):
        made = list(source.epoch(epoch))
        assert [len(b) for b in made] == [4, 4, 3]
        assert sorted(i for b in made for i in b.indices) == list(range(N))
        for batch in made:
            assert batch.inputs.shape == (len(batch), 16, 16, 3) and str(batch.inputs.dtype) == "torch.uint8"
            assert batch.targets.tolist() == [i % 3 for i in batch.indices]
            for pixels, i in zip(batch.inputs.numpy(), batch.indices, strict=True):
                sha256 = sha256_bytes(files[i].read_bytes())
                with Image.open(files[i]) as image:
                    expected = augmented(image, SPEC, AUGMENT, rng_for(5, epoch, sha256))
                np.testing.assert_array_equal(pixels, expected)
                view = read_views(source.images, i, SPEC, AUGMENT, seed=5, numbers=(epoch,))[0]
                np.testing.assert_array_equal(pixels, view)


@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"steps_per_epoch": 7}, {"steps_per_epoch": 2}])
def test_order_is_that_of_tensor_batches(files: list[Path], options: dict[str, int]) -> None:
    ours, labels = batches(files, seed=3, **options), np.arange(N) % 3
    theirs = TensorBatches(np.zeros((1, N, 2), np.float32), labels, batch_size=4, seed=3, **options)  # type: ignore[arg-type]
    assert len(ours) == len(theirs)
    for epoch in (0, 1):
        for mine, other in zip(ours.epoch(epoch), theirs.epoch(epoch), strict=True):
            np.testing.assert_array_equal(mine.indices, other.indices)
            assert mine.targets.tolist() == other.targets.tolist()


def test_threads_and_the_start_change_nothing(files: list[Path]) -> None:
    whole = content(list(batches(files, steps_per_epoch=9, workers=1).epoch(2)))
    assert len(whole) == 9
    for workers in (2, 5):
        assert content(list(batches(files, steps_per_epoch=9, workers=workers).epoch(2))) == whole
    for start in (1, 6, 8, 9):
        assert content(list(batches(files, steps_per_epoch=9).epoch(2, start))) == whole[start:]


def test_an_image_that_comes_again_in_an_epoch_comes_in_another_version(files: list[Path]) -> None:
    versions: dict[int, list[bytes]] = {}
    for batch in batches(files, steps_per_epoch=9).epoch(0):
        for pixels, i in zip(batch.inputs.numpy(), batch.indices, strict=True):
            versions.setdefault(int(i), []).append(pixels.tobytes())
    assert max(map(len, versions.values())) == 4  # 36 places for 11 images
    assert all(len(set(seen)) == len(seen) for seen in versions.values())


def test_some_of_the_images_and_soft_labels(files: list[Path]) -> None:
    labels = np.eye(N, 4, dtype=np.float32)
    chosen = np.array([9, 2, 5])
    images = Images.recorded(files, hashes(files)).take(chosen)
    source = ImageBatches(images, labels[chosen], SPEC, batch_size=2, shuffle=False)
    first, second = source.epoch(0)
    assert [first.indices.tolist(), second.indices.tolist()] == [[0, 1], [2]]
    assert first.targets.tolist() == labels[[9, 2]].tolist()
    np.testing.assert_array_equal(second.inputs[0].numpy(), read_pixels(files[5], SPEC))  # no augmentation asked for


def test_images_in_memory(files: list[Path]) -> None:
    arrays = [np.asarray(draw(i, i, (40, 30))) for i in range(3)]
    source = batches(arrays, ["a", "b", "c"], shuffle=False)
    (batch,) = source.epoch(0)
    views = [read_views(source.images, i, SPEC, AUGMENT, seed=0, numbers=(0,))[0] for i in range(3)]
    np.testing.assert_array_equal(batch.inputs.numpy(), views)


def test_images_that_become_unreadable_are_left_out_and_named(
    files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = [tmp_path / f.name for f in files]
    for source, target in zip(files, own, strict=True):
        target.write_bytes(source.read_bytes())
    sha256s = hashes(own)
    before = content(list(batches(own, sha256s, shuffle=False).epoch(0)))
    own[1].unlink()
    own[4].write_bytes(own[5].read_bytes())  # another image under an old name
    own[6].write_bytes(own[6].read_bytes()[:200])
    for i in (8, 9, 10):
        own[i].write_bytes(b"")
    source = batches(own, sha256s, shuffle=False, names=[f.name for f in own])
    made = list(source.epoch(0))
    assert source.errors == {1: "not_a_file", 4: "changed", 6: "changed", 8: "changed", 9: "changed", 10: "changed"}
    assert [b.indices.tolist() for b in made] == [[0, 2, 3], [5, 7]]  # the third batch is left out
    assert [b.targets.tolist() for b in made] == [[0, 2, 0], [2, 1]]
    size = 16 * 16 * 3
    assert made[1].inputs.numpy().tobytes() == before[1][0][size : 2 * size] + before[1][0][3 * size :]
    own[1].write_bytes(files[1].read_bytes())  # it is there again: so it is used again
    again = source.epoch(1)
    assert next(again).indices.tolist() == [0, 1, 2, 3]
    next(again)
    again.close()  # type: ignore[attr-defined]  # as at the last step of a training
    assert caplog.messages == [
        "6 of the training images could not be read in epoch 1, and were left out: 1.jpg (not_a_file), 4.jpg (changed), "
        "6.jpg (changed), 8.jpg (changed), 9.jpg (changed) and others.",
        "2 of the training images could not be read in epoch 2, and were left out: 4.jpg (changed), 6.jpg (changed).",
    ]


@pytest.mark.parametrize("share", [(0, 1), (1, 2)])
def test_validation_needs_all_of_its_images(files: list[Path], tmp_path: Path, share: tuple[int, int]) -> None:
    own = [*files[:5], tmp_path / "gone.jpg", *files[6:]]
    source = batches(own, hashes(files), shuffle=False, names=[f.name for f in own], required=True)
    with pytest.raises(UnreadableImage) as error:
        list(source.epoch(0, only=share))
    assert str(error.value) == (
        "gone.jpg: this validation image cannot be read any more: there is no such file, or it is a folder or a device.\n"
        "  Results without it could not be compared with earlier ones. Restore it, and repeat the command."
    )


def test_damage_that_was_there_from_the_start_is_named_too(tmp_path: Path, files: list[Path]) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(files[0].read_bytes()[:300])
    source = batches([files[1], cut], shuffle=False)
    assert [b.indices.tolist() for b in source.epoch(0)] == [[0]]
    assert source.errors == {1: "truncated"}


def test_no_readable_image_at_all_stops_the_training(tmp_path: Path, files: list[Path]) -> None:
    source = batches([tmp_path / f"{i}.jpg" for i in range(5)], ["0" * 64] * 5)
    with pytest.raises(NoImages) as error:
        list(source.epoch(1))
    assert str(error.value) == (
        "none of 5 training images could be read in epoch 2.\n"
        "  Is the image folder still there? `headstart check` lists the unreadable images."
    )
    assert list(batches(files).epoch(0, start=3)) == []  # nothing was left to read, which is no failure


def test_lists_of_different_lengths_are_refused(files: list[Path]) -> None:
    with pytest.raises(ValueError, match="11 images, 2 labels"):
        ImageBatches(Images.recorded(files, hashes(files)), np.arange(2), SPEC)


class Counting(Sequence[ImageRef]):
    """Images in memory that note how many of them were asked for."""

    def __init__(self, n: int) -> None:
        self.asked, self._n, self._lock = 0, n, threading.Lock()

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, i: int) -> np.ndarray:  # type: ignore[override]
        with self._lock:
            self.asked += 1
        return np.full((8, 8, 3), i % 256, np.uint8)


def test_only_a_few_batches_are_made_ahead_and_threads_end_with_the_loop() -> None:
    threads, sources = threading.active_count(), Counting(400)
    epoch = batches(sources, [str(i) for i in range(400)], workers=2).epoch(0)
    for used in range(1, 4):
        next(epoch)
        assert sources.asked <= 4 * (used + AHEAD)
    epoch.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads
    assert sources.asked <= 4 * (4 + AHEAD)


def test_other_errors_are_not_swallowed() -> None:
    class Broken(Counting):
        def __getitem__(self, i: int) -> np.ndarray:
            raise RuntimeError("a mistake in the program")

    with pytest.raises(RuntimeError, match="a mistake in the program"):
        list(batches(Broken(4), list("abcd")).epoch(0))
