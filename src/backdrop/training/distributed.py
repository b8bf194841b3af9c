"""The processes that train one member together, one per GPU of a pod; `torchrun` starts them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from backdrop.common.environment import read_count
from backdrop.common.errors import TrainingError, shorten
from backdrop.common.progress import only_log

# The others wait while one process validates or writes, however long that takes.
TIMEOUT = timedelta(days=1)

T = TypeVar("T")


@dataclass(frozen=True)
class Distributed:
    """This process's rank among those that train together; rank 0 writes."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def wrap(self, network: nn.Module, sync_batch_norm: bool) -> nn.Module:
        """The network with gradients averaged over all processes."""
        if self.size == 1:
            return network
        if sync_batch_norm:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]  # torch left it untyped
        return DistributedDataParallel(network)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of each value over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.size
        return values

    def sync(self, network: nn.Module) -> None:
        """Copies the first process's weights and batch norm statistics (which differ by process) to all processes."""
        if self.size > 1:
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, src=0)

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of the items."""
        return items[self.rank :: self.size]

    def gather(self, results: Sequence[T]) -> list[T]:
        """The results of all processes' shards, in the order of the items."""
        if self.size == 1:
            return list(results)
        parts: list[Sequence[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, list(results))
        return [parts[i % self.size][i // self.size] for i in range(sum(map(len, parts)))]

    def broadcast(self, value: T) -> T:
        """The first process's value."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The first process runs the block alone, then all others run it."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.size > 1:
            dist.barrier()


ALONE = Distributed()


@contextmanager
def join() -> Iterator[Distributed]:
    """Joins the processes that `torchrun` started; without `torchrun` this process trains alone.

    Raises:
        ConfigError: if the variables that `torchrun` sets are wrong.
        TrainingError: if the processes can't find each other.
    """
    if read_count("WORLD_SIZE") == 1:
        yield ALONE
        return
    try:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    except (KeyError, ValueError, RuntimeError) as error:
        what = f"The {os.environ['WORLD_SIZE']} processes of this training can't find each other ({shorten(error)})"
        raise TrainingError(what, "Start them by torchrun, or unset WORLD_SIZE to train with one process") from error
    if dist.get_rank() > 0:
        only_log()
    try:
        yield Distributed(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
