"""The processes of one training, as `torchrun` starts them: `Team`. The only module that uses torch.distributed.

    torchrun --nproc-per-node 2 -m headstart train photos --out run --grad-accum-steps 2

Rank 0 does everything that a single process would do. The others only compute gradients and scores when told to
(`training.shared_passes`), and have no state that rank 0 does not send them. So decisions that depend on time are made once,
and the number of processes does not affect the result.

Messages (orders, losses, errors) go through gloo, on CPUs. Weights and gradients go through NCCL if each process has a GPU
of its own; otherwise through gloo too, and rank 0 adds gradients in the order of ranks, so that sums are the same to the
bit. Between trainings, the others poll the store that torchrun keeps instead of waiting in a collective operation, since
rank 0 may spend hours on embeddings. A thread of rank 0 writes a heartbeat there.

Costs 0.3 ms per exchange, and the time to copy the weights and gradients of a step. When not to use it: if the network
is so small that this takes longer than a step. As usual in torch.distributed, processes trust each other and nothing is
encrypted: use a private network.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from headstart.errors import RankLost, RecipeError

if TYPE_CHECKING:
    import numpy as np
    import torch

PATIENCE = 600.0
"""Seconds without an answer or a heartbeat after which another process counts as lost."""
PULSE, LOOK = 5.0, 0.1
"""Seconds between two heartbeats, and between two polls of the store."""
FAREWELL = 10.0
"""Seconds that rank 0 waits for the others at the end, and that they wait for its exit code."""


def size() -> int:
    """Return the number of processes that were started together; 1 if there is only this one."""
    named = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return int(os.environ["WORLD_SIZE"]) if named else 1


def processes_here() -> int:
    """Return how many of these processes run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", size())) if current() else 1


def check_shared(batches_per_step: int) -> None:
    """Raise `RecipeError` if a step of that many batches cannot be divided evenly among these processes."""
    team = current()
    if team is not None and batches_per_step % team.size:
        more = team.size * -(-batches_per_step // team.size)
        raise RecipeError(
            f"grad_accum_steps {batches_per_step} cannot be divided among {team.size} processes: each computes whole "
            f"batches, so it must be a multiple of {team.size}.",
            hint=f"Add --grad-accum-steps {more}. A step then has {more} batches on any number of processes; for as "
            "many images per step as before, lower --batch-size.",
        )


def current() -> Team | None:
    """Return the team that this process has joined, None if it has joined none."""
    return _joined[0] if _joined else None


_joined: list[Team] = []


def join() -> Team:
    """Connect to the other processes. Raises `RankLost` if not all of them do so."""
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    wait = timedelta(seconds=PATIENCE)
    with _answering():
        bare, rank, count = next(rendezvous("env://", timeout=wait))
        life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # the store outlives processes that were killed
        store = dist.PrefixStore(f"headstart {life}", bare)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=wait)
    _joined[:] = [Team(store, rank, count)]
    return _joined[0]


class Team:
    """The `size` processes of a training, of which this one has the number `rank`. Methods that exchange something must be
    called by all ranks at the same time, and raise `RankLost` if one of them is gone."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.rank, self.size, self._store = rank, size, store
        self._gpus: Any = None
        self._jobs = itertools.count()
        if rank == 0:
            threading.Thread(target=self._live, name="sign of life", daemon=True).start()

    # ------------------------------------------------------------------------------------------- between trainings
    def call(self) -> None:
        """On rank 0: call the others, which are waiting in `called`."""
        with _answering():
            self._store.set(f"job {next(self._jobs)}", "1")

    def called(self) -> bool:
        """On other ranks: wait until rank 0 calls them for a training (True), or has finished everything (False)."""
        job, seen, since = f"job {next(self._jobs)}", b"", time.monotonic()
        with _answering():
            while not self._store.check([job]):
                if self._store.check(["end"]):
                    return False
                pulse = self._store.get("pulse") if self._store.check(["pulse"]) else b""
                if pulse != seen:
                    seen, since = pulse, time.monotonic()
                if time.monotonic() - since > PATIENCE:
                    raise RankLost(f"Process 0 of this training run has not responded for {PATIENCE:.0f} seconds.")
                time.sleep(LOOK)
        return True

    def dismiss(self, code: int) -> None:
        """On rank 0: publish the exit code, and wait briefly until the others have read it (the store may be in this
        process)."""
        with _answering():
            self._store.set("end", str(code))
            self._wait(lambda: int(self._store.add("gone", 0)) >= self.size - 1)

    def last_word(self) -> int | None:
        """On other ranks: return the exit code that rank 0 published; None if it ended without one."""
        try:
            with _answering():
                if not self._wait(lambda: self._store.check(["end"])):
                    return None
                code = int(self._store.get("end"))
                self._store.add("gone", 1)
        except RankLost:
            return None
        return code

    @staticmethod
    def _wait(done: Callable[[], bool]) -> bool:
        end = time.monotonic() + FAREWELL
        while not done():
            if time.monotonic() > end:
                return False
            time.sleep(LOOK)
        return True

    def _live(self) -> None:
        for number in itertools.count():
            try:
                self._store.set("pulse", str(number))
            except RuntimeError:  # the store is gone, and with it this training
                return
            time.sleep(PULSE)

    # ---------------------------------------------------------------------------------------------- within a training
    def tell(self, order: str, **details: Any) -> None:
        """On rank 0: give an order to the others, which are waiting in `hear`. `details` must be JSON-serialisable."""
        self.send(json.dumps([order, details]).encode())

    def hear(self) -> tuple[str, dict[str, Any]]:
        """On other ranks: wait for the next order."""
        order, details = json.loads(self.send(b""))
        return order, details

    def send(self, data: bytes, source: int = 0) -> bytes:
        """Return the bytes that rank `source` passes in; called on all ranks."""
        import torch
        import torch.distributed as dist

        length = torch.tensor([len(data)])
        with _answering():
            dist.broadcast(length, source)
            if not int(length):
                return b""
            sent = torch.frombuffer(bytearray(data if self.rank == source else int(length)), dtype=torch.uint8)
            dist.broadcast(sent, source)
        return sent.numpy().tobytes()

    def reports(self, text: str) -> list[str]:
        """Return the texts of all ranks, in the order of ranks."""
        return [self.send(text.encode(), source=rank).decode() for rank in range(self.size)]

    def total(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of the float64 arrays of all ranks; exact where at most one of them is not zero."""
        import torch
        import torch.distributed as dist

        summed = torch.from_numpy(values.copy())
        with _answering():
            dist.all_reduce(summed)
        return summed.numpy()

    def use_gpu(self, *, nccl: bool) -> None:
        """Take the GPU of this process; with `nccl`, exchange weights and gradients between GPUs directly."""
        import torch
        import torch.distributed as dist

        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", self.rank)) % torch.cuda.device_count())
        if nccl and self._gpus is None:
            with _answering():
                self._gpus = dist.new_group(backend="nccl")

    @staticmethod
    def has_gpu_each() -> bool:
        """Return whether each process on this machine can have a GPU of its own, as NCCL requires."""
        import torch
        import torch.distributed as dist

        return dist.is_nccl_available() and processes_here() <= torch.cuda.device_count()

    def same_state(self, module: torch.nn.Module) -> None:
        """Give all ranks the weights and buffers that the module has on rank 0."""
        import torch
        import torch.distributed as dist

        values = list(module.state_dict().values())
        for dtype in sorted({value.dtype for value in values}, key=str):
            of_type = [value for value in values if value.dtype == dtype]
            flat = torch.cat([value.reshape(-1) for value in of_type])
            flat = flat if self._gpus else flat.cpu()
            with _answering():
                dist.broadcast(flat, 0, group=self._gpus)
            if self.rank:
                for value, part in zip(of_type, flat.split([value.numel() for value in of_type]), strict=True):
                    value.copy_(part.view(value.shape))

    def collect(self, flat: torch.Tensor, givers: range, add: Callable[[torch.Tensor], None]) -> None:
        """Sum tensors on rank 0: each of the `givers` (other ranks) sends its `flat`, and rank 0 calls `add` on them in order.
        On rank 0, `flat` is only a buffer of the same size. NCCL adds them up on the way, so `add` gets their sum."""
        import torch.distributed as dist

        with _answering():
            if self._gpus is not None:
                dist.reduce(flat if self.rank in givers else flat.zero_(), 0, group=self._gpus)
            elif self.rank in givers:
                dist.send(flat.cpu(), 0)
        if self.rank == 0 and self._gpus is not None:
            add(flat)
        elif self.rank == 0:
            self._receive(flat, givers, add)

    @staticmethod
    def _receive(flat: torch.Tensor, givers: range, add: Callable[[torch.Tensor], None]) -> None:
        import torch.distributed as dist

        received = flat.cpu()
        for giver in givers:
            with _answering():
                dist.recv(received, giver)
            add(received.to(flat.device))


@contextmanager
def _answering() -> Iterator[None]:
    """Turn errors of torch.distributed into `RankLost`."""
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r"^\[[^]]*\] ", "", str(error)).partition(". ")[0].partition("\n")[0][:200]
        raise RankLost(
            f"Another process of this training run ended, or did not respond for {PATIENCE:.0f} seconds ({reason}).",
            hint="The same command resumes the training from its last snapshot. With `torchrun --max-restarts 3` that "
            "happens by itself.",
        ) from error
