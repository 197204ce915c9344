"""Part of verify.py: finds the known mistake that best explains a difference.

Every mistake in the lists below is made on purpose, on the golden samples, and its result is compared with the one that was
found. The closest mistake is named if it explains at least half of the difference. It is a guess: others may look alike.

It imports nothing of headstart, because it is part of every export (`golden_samples.verify_script`).
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from headstart.exporters.verify_files import ExpectedSample, ExpectedSamples
from headstart.exporters.verify_steps import NetworkStep, axes, pillow_resize

Pairs = list[tuple[np.ndarray, np.ndarray]]
"""What was found and what was expected, per sample."""
Guesses = Iterator[tuple[str, Callable[[int], Any]]]
"""The name of a mistake, and a function from a sample's number to what the mistake makes of it (None: no change)."""

Answers = list[tuple[np.ndarray, np.ndarray]]
"""Logits and probabilities of every sample."""
ResizeMistake = Callable[[np.ndarray, Mapping[str, Any]], np.ndarray]
"""From decoded pixels and the contract to what the network would see."""

EXPLAINS = 0.5
"""A mistake is named if it leaves at most this share of the difference."""
LOOKED_AT = 2
"""How many samples mistakes are tried on: those that differ most."""
LOOK_AT = {
    "decoded": "No known mistake explains it. Compare orientation, transparency, colour profile and the JPEG decoder.",
    "resized": "No known mistake explains it. Compare the part that is cut out, the filter, antialiasing and rounding.",
    "logits": "No known mistake explains it. Often pixels are normalised twice: the network does so itself.",
    "probabilities": "No known mistake explains it. Compare the softmax, the temperature and the order of the classes.",
}
"""What to say if no mistake explains enough."""
NORMALISATIONS = {
    "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mean and std 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "no mean and std": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def likely_cause(stage: str, pairs: Pairs, golden: ExpectedSamples, network: NetworkStep | None) -> str:
    """Return a sentence that names the mistake that best explains the difference, or says what to look at.

    `network` is a runtime that gives the expected answers; it is used to try mistakes in the input of the network.
    """
    if stage == "answers":
        return "Probabilities are as expected, so the class names are in a different order, or named differently."
    far = [_distance(*pair) for pair in pairs]
    looked_at = np.argsort(far)[::-1][:LOOKED_AT].tolist()
    unexplained = sum(far[i] for i in looked_at)
    best, least = "", np.inf
    for name, guess in _guesses(stage, golden, pairs, network):
        left = sum(_distance(pairs[i][0], _given(guess(i), pairs[i][1])) for i in looked_at)
        if left < least:
            best, least = name, left
    share = 1 - least / unexplained if unexplained else 0.0
    return f"Looks like {best} (explains {100 * share:.0f} % of it)." if share >= 1 - EXPLAINS else LOOK_AT[stage]


def as_one(pixels: Any) -> np.ndarray:
    """Return the pixels of all inputs in one array, so that they are compared together."""
    if not isinstance(pixels, Mapping):
        return np.asarray(pixels).reshape(np.shape(pixels)[-3:])
    arrays = [np.asarray(pixels[name]) for name in sorted(pixels)]
    return arrays[0] if len(arrays) == 1 else np.concatenate([each.reshape(-1) for each in arrays])


_OTHER_SHAPE = 1000.0


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the mean difference; very large if the shapes differ."""
    if found.shape != expected.shape:
        return _OTHER_SHAPE
    gap = np.abs(found.astype(np.float64) - expected)
    return float(np.minimum(np.nan_to_num(gap, nan=_OTHER_SHAPE), _OTHER_SHAPE).mean())


def _given(guess: Any, expected: np.ndarray) -> np.ndarray:
    return expected if guess is None else np.asarray(guess)


def _guesses(stage: str, golden: ExpectedSamples, pairs: Pairs, network: NetworkStep | None) -> Guesses:
    if stage == "decoded":
        for name, decode in DECODINGS.items():
            yield name, _decoded_with(decode, golden)
    elif stage == "resized":
        for name, resize in RESIZINGS.items():
            yield name, _resized_with(resize, golden)
    else:
        which = 0 if stage == "logits" else 1
        for name, answers in (*_changed_answers(golden, pairs, which), *_changed_inputs(golden, network)):
            yield name, lambda i, answers=answers: answers[i][which]  # type: ignore[misc]


def _decoded_with(mistake: Callable[[ExpectedSample], Any], golden: ExpectedSamples) -> Callable[[int], Any]:
    return lambda i: mistake(golden.samples[i])


def _resized_with(mistake: ResizeMistake, golden: ExpectedSamples) -> Callable[[int], Any]:
    def resized(i: int) -> np.ndarray:
        decoded = golden.samples[i].decoded
        return as_one({name: mistake(decoded, contract) for name, contract in golden.contracts.items()})

    return resized


# Decoding


def _opened(sample: ExpectedSample) -> Image.Image:
    return Image.open(io.BytesIO(sample.data))


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _alpha_as(
    blended: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Callable[[ExpectedSample], np.ndarray | None]:
    """Return a mistake with transparency: `blended` maps colours and alpha (0 to 1) to colours."""

    def mistaken(sample: ExpectedSample) -> np.ndarray | None:
        image = _opened(sample)
        if not _has_alpha(image):
            return None
        rgba = np.asarray(ImageOps.exif_transpose(image).convert("RGBA"), np.float64)
        return np.clip(np.round(blended(rgba[..., :3], rgba[..., 3:] / 255)), 0, 255)

    return mistaken


def _not_turned(sample: ExpectedSample) -> np.ndarray | None:
    image = _opened(sample)
    turned = image.getexif().get(0x112, 1) != 1
    return np.asarray(image.convert("RGB")) if turned else None


def _profile_applied(sample: ExpectedSample) -> np.ndarray | None:
    profile = _opened(sample).info.get("icc_profile")
    if not profile or _opened(sample).mode != "RGB":
        return None
    opened, standard = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(Image.fromarray(sample.decoded), opened, standard)
    return None if converted is None else np.asarray(converted)


def _blocks_of_colour(sample: ExpectedSample) -> np.ndarray | None:
    """Colour repeated in blocks of 2 x 2, where libjpeg-turbo interpolates."""
    image = _opened(sample)
    layers = getattr(image, "layer", [])
    if image.format != "JPEG" or len(layers) < 3 or layers[0][1:3] != (2, 2):
        return None
    planes = Image.fromarray(sample.decoded).convert("YCbCr")
    half = planes.reduce(2).resize((2 * -(-planes.width // 2), 2 * -(-planes.height // 2)), Image.Resampling.NEAREST)
    colour = half.crop((0, 0, *planes.size))
    return np.asarray(Image.merge("YCbCr", (planes.getchannel(0), *colour.split()[1:])).convert("RGB"))


def _reduced(sample: ExpectedSample) -> np.ndarray | None:
    image = _opened(sample)
    if image.format != "JPEG":
        return None
    image.draft("RGB", (image.width // 2, image.height // 2))
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


DECODINGS: dict[str, Callable[[ExpectedSample], np.ndarray | None]] = {
    "blue and red exchanged (BGR)": lambda sample: sample.decoded[..., ::-1],
    "the EXIF orientation not applied": _not_turned,
    "a colour profile applied": _profile_applied,
    "transparency on black": _alpha_as(lambda colour, alpha: colour * alpha),
    "transparency dropped": _alpha_as(lambda colour, alpha: colour),
    "colours taken as premultiplied by alpha": _alpha_as(lambda colour, alpha: colour + 255 * (1 - alpha)),
    "colours multiplied by alpha twice": _alpha_as(lambda colour, alpha: colour * alpha**2 + 255 * (1 - alpha)),
    "colours of subsampled JPEGs repeated in blocks": _blocks_of_colour,
    "JPEGs decoded at half their size": _reduced,
    "values of 0 to 1 in place of 0 to 255": lambda sample: sample.decoded / 255,
    "everything in grey": lambda sample: np.asarray(Image.fromarray(sample.decoded).convert("L").convert("RGB")),
    "rows and columns exchanged": lambda sample: sample.decoded.swapaxes(0, 1),
    "channels first": lambda sample: sample.decoded.transpose(2, 0, 1),
}


# Resizing


def _with(**changed: Any) -> ResizeMistake:
    return lambda decoded, contract: pillow_resize(decoded, {**contract, **changed})


def _cropped(crop_pct: float) -> ResizeMistake:
    def resize(decoded: np.ndarray, contract: Mapping[str, Any]) -> np.ndarray:
        shorter = int(contract["image_size"] / crop_pct)
        return pillow_resize(decoded, {**contract, "resize": "crop", "shorter_side": shorter})

    return resize


def _own_resize(
    name: str, *, antialias: bool = True, between: bool = True, after: bool = True, a: float = -0.5
) -> ResizeMistake:
    """Resize without Pillow: with another filter ('': the contract's), not widened, not rounded, or with another `a`."""

    def resize(decoded: np.ndarray, contract: Mapping[str, Any]) -> np.ndarray:
        how = name or contract["interpolation"]
        if contract["resize"] == "pad" or how not in _KERNELS:
            return pillow_resize(decoded, contract)
        columns, rows = (
            _weights(how, length, axis, antialias, a)
            for length, axis in zip(decoded.shape[1::-1], axes(contract, *decoded.shape[1::-1]), strict=True)
        )
        turned = decoded.transpose(1, 0, 2).astype(np.float64)
        wide = _whole(np.tensordot(columns, turned, axes=1), between)
        return _whole(np.tensordot(rows, wide.transpose(1, 0, 2), axes=1), after)

    return resize


_KERNELS: dict[str, tuple[float, Callable[[np.ndarray, float], np.ndarray]]] = {
    "bilinear": (1.0, lambda x, a: np.maximum(0, 1 - x)),
    "bicubic": (
        2.0,
        lambda x, a: np.where(
            x < 1, ((a + 2) * x - (a + 3)) * x * x + 1, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * a, 0)
        ),
    ),
    "lanczos": (3.0, lambda x, a: np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0)),
}


def _whole(values: np.ndarray, rounded: bool) -> np.ndarray:
    return np.clip(np.floor(values + 0.5), 0, 255) if rounded else values


def _weights(name: str, length: int, axis: tuple[float, float, int, int], antialias: bool, a: float) -> np.ndarray:
    """Return (S, length): the weight of every input pixel in every output pixel."""
    begin, end, count, _ = axis
    scale = (end - begin) / count
    widened = max(1.0, scale) if antialias else 1.0
    centres = begin + (np.arange(count) + 0.5) * scale
    support, kernel = _KERNELS[name]
    distance = np.abs(np.arange(length) + 0.5 - centres[:, None]) / widened
    weights = np.where(distance < support, kernel(distance, a), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _height_first(decoded: np.ndarray, contract: Mapping[str, Any]) -> np.ndarray:
    return pillow_resize(decoded.swapaxes(0, 1), contract).swapaxes(0, 1)


RESIZINGS: dict[str, ResizeMistake] = {
    "bilinear without antialiasing (as OpenCV's INTER_LINEAR)": _own_resize("bilinear", antialias=False),
    "bicubic without antialiasing (as OpenCV's INTER_CUBIC)": _own_resize("bicubic", antialias=False, a=-0.75),
    "the right filter without antialiasing": _own_resize("", antialias=False),
    "bicubic with a = -0.75": _own_resize("bicubic", a=-0.75),
    "numbers not rounded between the passes": _own_resize("", between=False),
    "numbers never rounded": _own_resize("", between=False, after=False),
    "rows resized before columns": _height_first,
    **{
        f"the {name} filter": _with(interpolation=name) for name in ("nearest", "bilinear", "bicubic", "lanczos", "box")
    },
    "the whole image squashed": _with(resize="squash"),
    "the whole image padded": _with(resize="pad"),
    **{f"a central crop with crop_pct {pct}": _cropped(pct) for pct in (1.0, 0.96, 0.95, 0.9, 0.875)},
    "blue and red exchanged (BGR)": lambda decoded, contract: pillow_resize(decoded, contract)[..., ::-1],
    "rows and columns exchanged": lambda decoded, contract: pillow_resize(decoded, contract).swapaxes(0, 1),
    "channels first": lambda decoded, contract: pillow_resize(decoded, contract).transpose(2, 0, 1),
    "values of 0 to 1 in place of 0 to 255": lambda decoded, contract: pillow_resize(decoded, contract) / 255,
}


# The network


def _changed_answers(golden: ExpectedSamples, pairs: Pairs, which: int) -> Iterator[tuple[str, Answers]]:
    """Yield mistakes made after the network: their names, and (logits, probabilities) of every sample."""
    logits_NK = np.array([sample.logits for sample in golden.samples])
    probabilities_NK = np.array([sample.probabilities for sample in golden.samples])
    if any(found.shape != expected.shape for found, expected in pairs):
        return
    found_NK = np.array([found for found, _ in pairs])
    order = _order(found_NK, (logits_NK, probabilities_NK)[which])
    yield "the classes in another order", _rows(logits_NK[:, order], probabilities_NK[:, order])
    if which == 0:
        factor = float((found_NK * logits_NK).sum() / max((logits_NK**2).sum(), 1e-12))
        yield f"a temperature missing or applied twice (logits {factor:.3g} times as large)", _rows(logits_NK * factor)
        yield "probabilities in place of logits", _rows(probabilities_NK)
        yield "logarithms of probabilities in place of logits", _rows(np.log(np.maximum(probabilities_NK, 1e-30)))
        return
    yield "logits in place of probabilities (no softmax)", _rows(logits_NK, logits_NK)
    yield "a softmax applied twice", _rows(logits_NK, _softmax(probabilities_NK))
    yield "a sigmoid in place of the softmax", _rows(logits_NK, 1 / (1 + np.exp(-logits_NK)))
    for factor in np.geomspace(0.2, 5, 40):
        name = f"a temperature missing or applied twice (logits {factor:.2g} times as large)"
        yield name, _rows(logits_NK, _softmax(logits_NK * factor))


def _rows(logits_NK: np.ndarray, probabilities_NK: np.ndarray | None = None) -> Answers:
    return list(zip(logits_NK, logits_NK if probabilities_NK is None else probabilities_NK, strict=True))


def _softmax(logits_NK: np.ndarray) -> np.ndarray:
    raised = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _order(found_NK: np.ndarray, expected_NK: np.ndarray) -> list[int]:
    """Return, for each class found, the expected class that it resembles most; each is used once."""
    far_KK = np.abs(found_NK[:, :, None] - expected_NK[:, None, :]).mean(axis=0)
    order = [-1] * len(far_KK)
    for place in np.argsort(far_KK, axis=None):
        found, expected = np.unravel_index(place, far_KK.shape)
        if order[int(found)] < 0 and int(expected) not in order:
            order[int(found)] = int(expected)
    return order


def _changed_inputs(golden: ExpectedSamples, network: NetworkStep | None) -> Iterator[tuple[str, Answers]]:
    """Yield mistakes made before the network, as far as pixels from 0 to 255 can imitate them."""
    if network is None:
        return
    for name, change in _input_mistakes():
        answers: Answers = []
        for sample in golden.samples:
            given = {key: change(pixels)[None] for key, pixels in sample.resized.items()}
            logits, probabilities = network(given)
            answers.append((np.asarray(logits, np.float64)[0], np.asarray(probabilities, np.float64)[0]))
        yield name, answers


def _input_mistakes() -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    yield "blue and red exchanged (BGR)", lambda pixels: np.ascontiguousarray(pixels[..., ::-1])
    yield "rows and columns exchanged", lambda pixels: np.ascontiguousarray(pixels.swapaxes(0, 1))
    yield "images mirrored", lambda pixels: np.ascontiguousarray(pixels[:, ::-1])
    yield "values of 0 to 1 in place of 0 to 255", lambda pixels: np.round(pixels / 255).astype(np.uint8)
    for wrong, right in itertools.permutations(NORMALISATIONS, 2):
        name = f"{wrong} in place of {right}"
        if right == "no mean and std":
            name = f"{wrong} applied in front of a network that normalises itself"
        yield name, _normalised_by(*NORMALISATIONS[wrong], *NORMALISATIONS[right])


def _normalised_by(
    mean: Sequence[float], std: Sequence[float], own_mean: Sequence[float], own_std: Sequence[float]
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a change of pixels that makes a network with `own_mean` and `own_std` see them as with `mean` and `std`."""

    def change(pixels: np.ndarray) -> np.ndarray:
        seen = (pixels / 255 - np.array(mean)) / np.array(std)
        return np.asarray(np.clip(np.round(255 * (seen * np.array(own_std) + np.array(own_mean))), 0, 255), np.uint8)

    return change
