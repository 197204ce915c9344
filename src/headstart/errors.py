"""Every error that headstart raises on purpose, as one tree.

    HeadstartError                 the command line prints it without a traceback and exits with 1
    ├── DataError                  the images or their labels
    │   ├── MissingData            no such folder, table or image
    │   ├── NoImages               nothing in there can be read as an image
    │   ├── BadLabels              labels that cannot be used: one class, an empty class, rows without files
    │   ├── BadSplit               a split that cannot be used, or does not fit the images
    │   ├── BadCopies              a table of pairs that are no copies, which does not fit the images
    │   ├── BadSubmission          a sample submission that does not fit the images or the classes
    │   ├── BadArchive             an archive that is damaged, or holds what cannot be unpacked safely
    │   └── UnreadableImage        one image; `reason` is a short code (see `images.headers`)
    ├── BackboneError              backbones and their weights
    │   ├── UnknownBackbone        a name that timm does not know
    │   ├── MissingWeights         known, but no weights at hand (or offline)
    │   ├── BadWeights             damaged, a pickle, or of another architecture
    │   └── CannotCut              a network that cannot be divided into a frozen and a trained part there
    ├── RunError                   a run folder
    │   ├── MissingRun             there is none
    │   ├── DamagedRun             its files are not those that were written
    │   └── UnsupportedRun         an earlier or a newer headstart wrote it
    ├── RecipeError                an option with a value that cannot work
    │   └── BudgetTooSmall         the time does not allow a single epoch
    ├── TrainingError              a training by gradient descent
    │   ├── TrainingFailed         it could not be brought to the end of a single epoch
    │   └── UnfinishedTraining     an interrupted one lies there, of other images or with other options
    ├── WriteError                 a full disk, a missing permission, a folder in the way
    ├── PackagingError             a package that a bundle needs is not installed, or could not be fetched
    ├── RemoteError                another machine, and the way there
    │   ├── Unreachable            no network, --offline, or no answer
    │   ├── NoCredentials          no key or token for it, or one that it does not accept
    │   ├── NotAllowed             rules that were not accepted, something private, a limit that is used up
    │   ├── UnknownSlug            it has nothing of that name
    │   └── BadDownload            what came is not what was announced
    └── MissingExtra               an optional part that is not installed; names the install command

A message says what, which value, where, what was expected; `hint` says what to do next. Example:

>>> raise UnknownBackbone("'resnet-50' is not a known backbone.", hint="Did you mean 'resnet50'?")
Traceback (most recent call last):
    ...
headstart.errors.UnknownBackbone: 'resnet-50' is not a known backbone.
  Did you mean 'resnet50'?
"""

from __future__ import annotations


class HeadstartError(Exception):
    """Base of all errors raised on purpose. `str()` gives the message and, indented below it, the hint."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(message, hint)

    def __str__(self) -> str:
        return "\n  ".join([self.message, *self.hint.splitlines()])


class DataError(HeadstartError):
    """The images or their labels."""


class MissingData(DataError):
    """No such folder, table or image."""


class NoImages(DataError):
    """Nothing in there can be read as an image."""


class BadLabels(DataError):
    """Labels that cannot be used."""


class BadSplit(DataError):
    """A split that cannot be used, or does not fit the images."""


class BadCopies(DataError):
    """A table of pairs that are said to be no copies, and that does not fit the images."""


class BadSubmission(DataError):
    """A sample submission that does not fit the images or the classes."""


class BadArchive(DataError):
    """An archive that is damaged, or holds what cannot be unpacked safely."""


class UnreadableImage(DataError):
    """One image that cannot be used. `reason` is a short code such as ``truncated``, for tables and scripts."""

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class BackboneError(HeadstartError):
    """Backbones and their weights."""


class UnknownBackbone(BackboneError):
    """A name that timm does not know."""


class MissingWeights(BackboneError):
    """A known backbone whose weights are not at hand."""


class BadWeights(BackboneError):
    """A weights file that is damaged, a pickle, or of another architecture."""


class CannotCut(BackboneError):
    """A network that cannot be divided into a frozen and a trained part there."""


class RunError(HeadstartError):
    """A run folder."""


class MissingRun(RunError):
    """There is no run folder at that place."""


class DamagedRun(RunError):
    """The files in a run folder are not those that were written."""


class UnsupportedRun(RunError):
    """An earlier or a newer headstart wrote the run folder, in a format that this one does not read."""


class RecipeError(HeadstartError):
    """An option with a value that cannot work."""


class BudgetTooSmall(RecipeError):
    """The time does not allow a single epoch."""


class TrainingError(HeadstartError):
    """A training by gradient descent."""


class TrainingFailed(TrainingError):
    """It could not be brought to the end of a single epoch: the loss is not finite, or memory is too small.

    `images` are the numbers of the training images in the batch at which that showed, if it did at one.
    """

    def __init__(self, message: str, *, images: tuple[int, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.images = images


class UnfinishedTraining(TrainingError):
    """An interrupted training lies there, of other images or with other options, so it cannot be gone on with."""


class WriteError(HeadstartError):
    """A full disk, a missing permission, a folder in the way."""


class PackagingError(HeadstartError):
    """A package that a bundle needs is not installed, or could not be fetched."""


class RemoteError(HeadstartError):
    """Another machine (Kaggle, say), and the way there."""


class Unreachable(RemoteError):
    """No network, `offline`, or no answer."""


class NoCredentials(RemoteError):
    """No key or token for it, or one that it does not accept."""


class NotAllowed(RemoteError):
    """Rules that were not accepted, something private, a limit that is used up."""


class UnknownSlug(RemoteError):
    """It has nothing of that name."""


class BadDownload(RemoteError):
    """What came is not what was announced."""


class MissingExtra(HeadstartError):
    """An optional part that is not installed; the hint names the install command."""


def near_names(name: str, known: list[str], n: int = 3) -> str:
    """A hint with the known names nearest to `name`, or an empty string.

    >>> near_names("resnet-50", ["resnet50", "vgg16"])
    "Did you mean 'resnet50'?"
    """
    from difflib import get_close_matches

    found = get_close_matches(name, known, n=n, cutoff=0.6)
    return f"Did you mean {' or '.join(repr(x) for x in found)}?" if found else ""
