"""All errors that headstart raises on purpose, as one tree.

    HeadstartError                 the command line prints it without a traceback and exits with 1
    ├── DataError                  the images or their labels
    │   ├── MissingData            no such folder, table or image
    │   ├── NoImages               no file there can be read as an image
    │   ├── BadLabels              unusable labels: one class, an empty class, rows without files
    │   ├── BadSplit               a split that cannot be used, or does not match the images
    │   ├── BadCopies              a table of pairs that are not copies, which does not match the images
    │   ├── BadSubmission          a sample submission that does not match the images or the classes
    │   ├── BadArchive             an archive that is damaged or cannot be unpacked safely
    │   └── UnreadableImage        one image; `reason` is a short code (see `images.limits`)
    ├── BackboneError              backbones and their weights
    │   ├── UnknownBackbone        a name that timm does not know
    │   ├── MissingWeights         a known backbone whose weights are not available (or offline)
    │   │   └── NoAnswer           the hub of weights did not answer
    │   ├── BadWeights             damaged, a pickle, or for another architecture
    │   └── CannotCut              a network that cannot be split into frozen and trained layers at that point
    ├── RunError                   a run folder
    │   ├── MissingRun             no run folder at that path
    │   ├── DamagedRun             its files have changed since they were written
    │   └── UnsupportedRun         written by an earlier or newer headstart, in another format
    ├── ExportError                an exported classifier
    │   ├── MissingExport          no export at that path
    │   ├── DamagedExport          its files have changed since they were written
    │   ├── UnsupportedExport      written by a newer headstart, in another format
    │   └── ParityFailed           what would have been exported does not answer as the run does
    ├── RecipeError                an option with an invalid value
    │   └── BudgetTooSmall         the budget does not allow a single epoch
    ├── TrainingError              gradient training
    │   ├── TrainingFailed         no epoch finished
    │   ├── UnfinishedTraining     an interrupted run with other images or options is in the way
    │   └── RankLost               another process of the same training ended, or does not answer
    ├── WriteError                 a full disk, a missing permission, a folder in the way
    ├── StoreError                 a store of files, such as a bucket
    │   ├── MissingInStore         no such file
    │   ├── ChangedInStore         a file is no longer the one that was listed
    │   ├── StoreRefused           no credentials, no permission, or no such bucket
    │   │   └── DeniedInStore      no permission, perhaps only for one file
    │   └── StoreUnreachable       no network, --offline, or no usable answer after all attempts
    ├── ShardError                 work that is done shard by shard (`--shards`)
    │   ├── OtherPlan              the folder holds parts of another run, other images or other options
    │   └── ShardFailed            a shard that ends its process again and again
    ├── ServeError                 a server that cannot start: its port, token or options
    ├── PackagingError             a package that a bundle needs is not installed, or could not be fetched
    ├── RemoteError                another machine, or the connection to it
    │   ├── Unreachable            no network, --offline, or no answer
    │   ├── NoCredentials          no key or token, or one that the server does not accept
    │   ├── NotAllowed             rules not accepted, private content, or an exhausted quota
    │   ├── UnknownSlug            no such competition or dataset
    │   └── BadDownload            the file received is not the one announced
    └── MissingExtra               an optional package is not installed; the hint names the install command

A message says what is wrong, which value, where, and what was expected; `hint` says what to do next. Example:

>>> raise UnknownBackbone("'resnet-50' is not a known backbone.", hint="Did you mean 'resnet50'?")
Traceback (most recent call last):
    ...
headstart.errors.UnknownBackbone: 'resnet-50' is not a known backbone.
  Did you mean 'resnet50'?
"""

from __future__ import annotations


class HeadstartError(Exception):
    """Base of all errors raised on purpose. `str()` gives the message with the hint indented below it."""

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
    """No file there can be read as an image."""


class BadLabels(DataError):
    """Labels that cannot be used."""


class BadSplit(DataError):
    """A split that cannot be used, or does not match the images."""


class BadCopies(DataError):
    """A table of pairs that are not copies, which does not match the images."""


class BadSubmission(DataError):
    """A sample submission that does not match the images or the classes."""


class BadArchive(DataError):
    """An archive that is damaged or cannot be unpacked safely."""


class UnreadableImage(DataError):
    """One image that cannot be used. `reason` is a short code such as ``truncated``, for tables and scripts.

    `kind` is the name of its format, '' if that is not known.
    """

    def __init__(self, message: str, *, reason: str, kind: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.kind = kind


class BackboneError(HeadstartError):
    """Backbones and their weights."""


class UnknownBackbone(BackboneError):
    """A name that timm does not know."""


class MissingWeights(BackboneError):
    """A known backbone whose weights are not available."""


class NoAnswer(MissingWeights):
    """The hub that has the weights did not answer: others would not come either."""


class BadWeights(BackboneError):
    """A weights file that is damaged, a pickle, or for another architecture."""


class CannotCut(BackboneError):
    """A network that cannot be split into frozen and trained layers at that point."""


class RunError(HeadstartError):
    """A run folder."""


class MissingRun(RunError):
    """There is no run folder at that path."""


class DamagedRun(RunError):
    """The files in a run folder have changed since they were written."""


class UnsupportedRun(RunError):
    """A run folder written by an earlier or newer headstart, in a format that this version does not read."""


class ExportError(HeadstartError):
    """An exported classifier."""


class MissingExport(ExportError):
    """There is no export at that path."""


class DamagedExport(ExportError):
    """The files of an export have changed since they were written."""


class UnsupportedExport(ExportError):
    """An export written by a newer headstart, in a format that this version does not read."""


class ParityFailed(ExportError):
    """What would have been exported does not answer as the run does."""


class RecipeError(HeadstartError):
    """An option with an invalid value."""


class BudgetTooSmall(RecipeError):
    """The budget does not allow a single epoch."""


class TrainingError(HeadstartError):
    """Gradient training."""


class TrainingFailed(TrainingError):
    """No epoch finished: the loss is not finite, or memory ran out.

    `images` are the indices of the training images in the batch that failed, if one did.
    """

    def __init__(self, message: str, *, images: tuple[int, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.images = images


class UnfinishedTraining(TrainingError):
    """An interrupted run with other images or options is in the way; it cannot be resumed."""


class RankLost(TrainingError):
    """Another process of the same training ended, or does not answer."""


class WriteError(HeadstartError):
    """A full disk, a missing permission, a folder in the way."""


class StoreError(HeadstartError):
    """A store of files, such as a bucket. No message contains credentials."""


class MissingInStore(StoreError):
    """No such file."""


class ChangedInStore(StoreError):
    """A file is no longer the one that was listed."""


class StoreRefused(StoreError):
    """No credentials, expired ones, no permission, or no such bucket: no file of it can be had."""


class DeniedInStore(StoreRefused):
    """No permission for a request; there may be permission for other files."""


class StoreUnreachable(StoreError):
    """No network, `offline`, or no usable answer after all attempts."""


class ShardError(HeadstartError):
    """Work that is done shard by shard."""


class OtherPlan(ShardError):
    """The folder holds parts of another run, other images or other options."""


class ShardFailed(ShardError):
    """A shard that ends its process again and again, whatever is left out of it."""


class ServeError(HeadstartError):
    """A server that cannot start: its port, token or options."""


class PackagingError(HeadstartError):
    """A package that a bundle needs is not installed, or could not be fetched."""


class RemoteError(HeadstartError):
    """Another machine (such as Kaggle), or the connection to it."""


class Unreachable(RemoteError):
    """No network, `offline`, or no answer."""


class NoCredentials(RemoteError):
    """No key or token, or one that the server does not accept."""


class NotAllowed(RemoteError):
    """Rules not accepted, private content, or an exhausted quota."""


class UnknownSlug(RemoteError):
    """No such competition or dataset."""


class BadDownload(RemoteError):
    """The file received is not the one announced."""


class MissingExtra(HeadstartError):
    """An optional package is not installed; the hint names the install command."""


def near_names(name: str, known: list[str], n: int = 3) -> str:
    """Return a hint with the known names nearest to `name`, or an empty string.

    >>> near_names("resnet-50", ["resnet50", "vgg16"])
    "Did you mean 'resnet50'?"
    """
    from difflib import get_close_matches

    matches = get_close_matches(name, known, n=n, cutoff=0.6)
    return f"Did you mean {' or '.join(repr(x) for x in matches)}?" if matches else ""
