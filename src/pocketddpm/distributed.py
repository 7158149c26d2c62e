"""Several processes under torchrun: who am I, and joining what each of them has done.

Gradients and losses travel by the device's own backend (NCCL on CUDA), everything else by gloo.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from pocketddpm.errors import ConfigError, DDPMError

T = TypeVar("T")
NETWORK = ("gloo", "nccl", "connection", "peer", "socket", "timed out")


def rank() -> int:
    """Return this process's number among those that torchrun started; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Return this process's number on this machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def count() -> int:
    """Return how many processes torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> None:
    """Meet the other processes, unless that was done before."""
    if count() > 1 and not distributed.is_initialized():
        nccl = torch.cuda.is_available() and distributed.is_nccl_available()
        distributed.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo")


def gathered(mine: T) -> list[T]:
    """Return what every process has, in the order of their numbers; each waits for the others."""
    if count() == 1:
        return [mine]
    join()
    everyone: list[Any] = [None] * count()
    distributed.all_gather_object(everyone, mine)
    return everyone


def barrier() -> None:
    """Wait until all processes are here."""
    gathered(None)


def mean(value: Tensor) -> Tensor:
    """Return the mean of the processes' tensors, on their device."""
    if count() == 1:
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / count()


def parallel(network: nn.Module, device: torch.device) -> nn.Module:
    """Return a module that calls the network, and averages its gradients over the processes.

    The network keeps the weights, under their own names.
    """
    if count() == 1:
        return network
    join()
    return nn.parallel.DistributedDataParallel(
        network, device_ids=[device] if device.type == "cuda" else None
    )


def share_batches(
    n: int, batch_size: int, work: Callable[[slice], T], *, together: bool = True
) -> list[tuple[slice, T]]:
    """Return (which, work(which)) for all batches of 0..n-1, in order; each is done by one process.

    The batches are those that one process would make, so that results agree to the last bit.
    together: False does all of them in this process, whatever the others do.
    """
    slices = [slice(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    if not together:
        return [(which, work(which)) for which in slices]
    join()
    everyone = gathered([work(which) for which in slices[rank() :: count()]])
    return [(which, everyone[k % count()][k // count()]) for k, which in enumerate(slices)]


def agree_on_start(step: int, device: torch.device, folder: Path) -> None:
    """Raise ConfigError unless all processes begin at the same step, each on a GPU of its own."""
    steps = gathered(step)
    places = gathered((socket.gethostname(), str(device)))
    if device.type != "cpu" and len(set(places)) < len(places):
        raise ConfigError(
            f"several processes of this machine would train on {device}; give --device cuda, which "
            "is another GPU for each, and --nproc-per-node no larger than their number"
        )
    if len(set(steps)) > 1:
        raise ConfigError(
            f"the processes begin at steps {', '.join(map(str, steps))}: all of them must see the "
            f"same files in {folder}; put it on a disk that they share"
        )


@contextmanager
def ending_together(hint: str) -> Iterator[None]:
    """Turn the error that a lost process causes in the others into DDPMError.

    hint: what is safe, and what to do next.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error).strip().split("\n", 1)[0]
        known = isinstance(error, distributed.DistError) or any(
            word in said.lower() for word in NETWORK
        )
        if count() == 1 or not known:
            raise
        raise DDPMError(
            f"process {rank()} of {count()}: another process has ended, or cannot be reached "
            f"({said[:200]}); {hint}"
        ) from error
