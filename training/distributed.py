"""Several processes that train one model: each has its share of every batch, and all take the same steps.

``torchrun`` starts them, and tells each its place in the environment. Images come in the same order and with the same
noise as in one process, so the curves are the same but for rounding.

Gradients are averaged here, all in one sum, and not by DistributedDataParallel. That wraps a module's ``forward``, and
an objective calls a model's parts; and it groups gradients anew after its first step, so that the first step of a
resumed run would be summed, and by three processes or more rounded, in another order than in a run left alone.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from training.config import RunConfig
from training.device import choose_device
from training.errors import ConfigError, ProcessLost
from training.objectives.settings import BetaTCSettings, ElboSettings
from training.words import count

# The first process may decode pictures for hours while the others wait. A process that dies closes its connections, and
# torchrun ends the others: nobody waits for the dead.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class World:
    """The processes of a run, as one of them sees them. The first, of rank 0, writes and speaks for all.

    Alone, which is the default, nothing is sent anywhere. Everything that the methods send goes through the CPU (gloo),
    but for tensors that are on a CUDA device (NCCL).
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among those on this machine."""
    local_size: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "World":
        """As torchrun describes it; alone, where it did not start this process.

        >>> World.of({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"})
        World(rank=1, size=2, local_rank=1, local_size=2)

        Raises:
            ConfigError: the environment contradicts itself.
        """
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return cls()
        names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        try:
            rank, size, local_rank, local_size = (int(environment.get(name, value)) for name, value in names.items())
        except ValueError as error:
            raise ConfigError(f"{', '.join(names)}: not whole numbers, as torchrun sets them") from error
        if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
            raise ConfigError(f"RANK = {rank} of WORLD_SIZE = {size} is no place that torchrun gives")
        return cls(rank, size, local_rank, local_size)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def check(self, config: RunConfig) -> None:
        """Refuse what cannot be divided among the processes.

        Raises:
            ConfigError: a batch does not divide, or the objective needs all images of a batch in one place.
        """
        batch, objective = config.optimization.batch_size, config.objective
        if batch % self.size:
            raise ConfigError(f"optimization.batch_size = {batch} does not divide among {self.size} processes")
        compares = isinstance(objective, BetaTCSettings) or (
            isinstance(objective, ElboSettings) and objective.free_bits > 0
        )
        if self.size > 1 and compares:
            which = "objective.free_bits" if isinstance(objective, ElboSettings) else "objective.kind = 'beta-tc'"
            raise ConfigError(f"{which} looks at all images of a batch together: train it in one process")

    def device(self, name: str) -> torch.device:
        """The device of this process: on CUDA, each process of a machine takes one of its own.

        Raises:
            ConfigError: as ``choose_device`` does, or there are fewer devices than processes.
        """
        device = choose_device(name)
        if self.size == 1 or device.type == "cpu":
            return device
        if device.index is not None:
            raise ConfigError(f"device = '{name}' is one device, and {self.size} processes train: use 'cuda'")
        devices = torch.cuda.device_count()
        if self.local_size > devices:
            raise ConfigError(
                f"{self.local_size} processes on this machine take as many CUDA devices, and PyTorch sees {devices}: "
                f"use --nproc-per-node {devices}, or device = 'cpu'"
            )
        return torch.device("cuda", self.local_rank)

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """While entered, the processes are connected; they leave together, unless there is an error.

        Raises:
            ConfigError: they cannot find each other.
            ProcessLost: from any method, when another process is gone.
        """
        if self.size == 1:
            yield
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # Before the group: this module keeps the group of the time when it is imported, as the default of arguments.
        # An optimizer's first step imports it, and the group would outlive its end, with threads that now and then
        # abort an interpreter that ends. Not every build of PyTorch has it, and one process does not need it.
        importlib.import_module("torch.distributed.nn")
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, timeout=_PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"the {self.size} processes cannot find each other: {error}") from error
        try:
            yield
            self.wait()
        finally:
            dist.destroy_process_group()

    def rows(self, images: int) -> slice | None:
        """Which of so many images are this process's; None: all, since it is alone. Where images are fewer than
        processes, some have none."""
        if self.size == 1:
            return None
        return slice(images * self.rank // self.size, images * (self.rank + 1) // self.size)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Let each of the tensors, of one type and on one device, be its mean over the processes."""
        if self.size == 1:
            return
        flat = self.total(torch.cat([tensor.reshape(-1) for tensor in tensors])) / self.size
        sizes = [tensor.numel() for tensor in tensors]
        for tensor, mean in zip(tensors, torch.split(flat, sizes), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the processes; the same bits for each of them."""
        if self.size > 1:
            with self._others():
                dist.all_reduce(tensor)
        return tensor

    def any(self, here: bool) -> bool:
        """Whether it is so for one of them."""
        return bool(self.total(torch.tensor(int(here))))

    def told(self, first: bool) -> bool:
        """What the first process says."""
        return bool(self.total(torch.tensor(int(self.leads and first))))

    def wait(self) -> None:
        """Until all are here."""
        self.any(False)

    @contextmanager
    def one_after_the_other(self) -> Iterator[None]:
        """The first process goes first, the others when it is done: they find what it has fetched or kept."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def agrees(self, digest: str) -> bool:
        """Whether the first process has the same digest, which is in hexadecimal."""
        own = torch.tensor(list(bytes.fromhex(digest)))
        first = own.clone()
        self.copy_first([first])
        return torch.equal(own, first)

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Let the tensors be those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                with self._others():
                    dist.broadcast(tensor, src=0)

    def named(self, message: str) -> str:
        """A message of this process, among those of others."""
        return message if self.leads else f"process {self.rank} of {self.size}: {message}"

    @contextmanager
    def _others(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            others = count(self.size - 1, "other process", "other processes")
            raise ProcessLost(f"the connection to the {others} broke: one has ended, and says why itself") from error


ALONE = World()
"""One process."""
