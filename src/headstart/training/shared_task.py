"""`sharing`: lets the other processes that torchrun started take part in a training. `run_together`: a command on all.

Rank 0 runs the command; the others wait until it has something to train, receive a `SharedTask`, and `follow`. They build
the same network from its description, and open the same activations, which rank 0 has computed into a file in the cache; for
batches of pixels, they read the images. They embed nothing and store nothing: each needs the memory of torch and of the
trained layers. Processes on several machines need the cache folder (`HEADSTART_CACHE`) and the images at the same paths.

A task is sent as a pickle from process to process and never stored. Whoever sent it, `TaskReader` creates only headstart's
own types, paths and arrays. When not to use it: with one process, call `training.loop.fit`.
"""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from headstart.errors import HeadstartError, RankLost, TrainingFailed
from headstart.io.progress import log
from headstart.training import ranks
from headstart.training.ranks import Team

if TYPE_CHECKING:
    from headstart.images.augment import Augment
    from headstart.training.loop import TrainingTask
    from headstart.training.prepare import CutNetwork, KeptFile, Plan, PreparedBatches


TRUSTED = ["headstart."]
"""Prefixes of the modules whose types a task may contain."""
ARRAYS = {"_reconstruct", "_frombuffer", "scalar", "ndarray", "dtype"}


class TaskReader(pickle.Unpickler):
    """Unpickles a task: only types of headstart, paths and numpy arrays; no function or other callable."""

    def find_class(self, module: str, name: str) -> object:
        """Return a type that a task may contain. Raises `pickle.UnpicklingError` for anything else."""
        found = super().find_class(module, name) if self._is_known(module, name) else None
        if isinstance(found, type) or (found is not None and module.startswith("numpy.")):
            return found
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a training task.")

    @staticmethod
    def _is_known(module: str, name: str) -> bool:
        if module == "numpy" or module.startswith("numpy."):
            return name in ARRAYS
        return module.startswith((*TRUSTED, "pathlib")) and "." not in name


class SharedJob(Protocol):
    """The description of a task for other processes; it can be pickled."""

    def use_gpu(self, team: Team) -> None:
        """Take this process's GPU if the task needs one; called on all ranks."""

    def open(self, team: Team) -> TrainingTask:
        """Build a task equal to that of rank 0."""


@dataclass(frozen=True, eq=False)
class SharedTask:
    """What another process needs to build an equal `TrainingTask`: the plan (without images if there are activations),
    where the network is cut, and the files of activations. `nccl`: each process has a GPU of its own."""

    plan: Plan
    n_frozen: int
    shape: tuple[int, ...]
    augment: Augment
    files: tuple[KeptFile, ...]
    nccl: bool

    @classmethod
    def of(cls, plan: Plan, network: CutNetwork, augment: Augment, prepared: PreparedBatches) -> SharedTask:
        """Describe this process's task."""
        backbone = replace(plan.extractor.backbone, weights=None)  # weights come with each order
        data = replace(plan.data, images=plan.data.images.take([]), names=()) if network.n_frozen else plan.data
        slim = replace(plan, extractor=replace(plan.extractor, backbone=backbone), data=data)
        nccl = plan.runtime.device == "cuda" and Team.has_gpu_each()
        return cls(slim, network.n_frozen, network.shape, augment, prepared.files, nccl)

    def use_gpu(self, team: Team) -> None:
        """See `SharedJob`."""
        if self.plan.runtime.device == "cuda":
            team.use_gpu(nccl=self.nccl)

    def open(self, team: Team) -> TrainingTask:
        """Build the task. Raises `TrainingFailed` if the activations are not there."""
        from headstart.model.backbones.cut_network import cut
        from headstart.training.activations import ViewBudget
        from headstart.training.prepare import CutNetwork, build_network, make_task

        plan = self.plan
        module = build_network(plan.extractor, plan.recipe, plan.data.n_classes, None)
        trunk, tail = cut(module, self.n_frozen, plan.extractor.spec.image_size)
        network = CutNetwork(module, trunk, tail, self.n_frozen, self.n_frozen, self.shape)
        try:
            return make_task(plan, network, self.augment, ViewBudget(), self.files)[0]
        except OSError as error:
            raise TrainingFailed(
                f"{error.filename}: could not be opened by process {team.rank} of this training run ({error.strerror}).",
                hint="On several machines, HEADSTART_CACHE has to be a folder that all of them share.",
            ) from error


@contextmanager
def sharing(team: Team | None, job: SharedJob, files: Sequence[KeptFile] = ()) -> Iterator[None]:
    """On rank 0: let the others follow the training inside the block. Without a team, do nothing.

    Raises `RankLost`, and what the others report.
    """
    if team is None:
        yield
        return
    team.call()
    team.send(pickle.dumps(job))
    try:
        _all_ready(team, job)
    finally:
        for file in files:  # all processes have opened it, and keep it open until they end
            file.path.unlink(missing_ok=True)
    try:
        yield
    except RankLost:
        raise
    except HeadstartError:  # between two orders; after anything else, such as Ctrl-C, this process ends
        team.tell("end")
        raise
    team.tell("end")


def _all_ready(team: Team, job: SharedJob) -> None:
    from headstart.training.shared_passes import raise_reported

    job.use_gpu(team)
    raise_reported(team, None)


def run_together(command: Callable[[], int]) -> int:
    """Run a command that may train, in each of the processes started together; return its exit code in all of them."""
    try:
        team = ranks.join()
    except RankLost as error:
        log.error("RankLost: %s", error)
        return 1
    if team.rank:
        return _serve(team)
    code = 1
    try:
        code = command()
    finally:
        with suppress(RankLost):
            team.dismiss(code)
    return code


def _serve(team: Team) -> int:
    """On other ranks: follow each training of rank 0; return its exit code. Only rank 0 prints."""
    log.setLevel(logging.ERROR)
    lost = RankLost("Process 0 of this training run ended without an error message.")
    try:
        while team.called():
            _follow_one(team)
    except RankLost as error:
        lost = error
    except KeyboardInterrupt:
        return 130
    code = team.last_word()
    if code is None and team.rank == 1:
        log.error("RankLost: %s", lost)
    return 1 if code is None else code


def _follow_one(team: Team) -> None:
    from headstart.training.follower import follow
    from headstart.training.shared_passes import raise_reported

    job: SharedJob = TaskReader(io.BytesIO(team.send(b""))).load()
    task, failure = None, None
    job.use_gpu(team)
    try:
        task = job.open(team)
    except HeadstartError as error:
        failure = error
    try:
        raise_reported(team, failure)
    except RankLost:
        raise
    except HeadstartError:  # rank 0 raises it too, and reports it
        return
    if task is not None:
        follow(team, task)
