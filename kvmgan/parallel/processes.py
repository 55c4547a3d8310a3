"""The processes that torchrun started: who they are, how they begin and end, and what they agree on.

Everything here is a matter of course in one process, which is its own leader: no caller has to ask how many there are.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from kvmgan.errors import UserError

Value = TypeVar("Value")

# torchrun watches the processes and ends all when one fails; what waits here waits for drawing or for a classifier.
_PATIENCE = timedelta(hours=24)
# For numbers and objects on the host: no device is waited for.
_control: dist.ProcessGroup | None = None
# How long a process waits to be ended once it has lost another [seconds].
_GRACE = 10


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if count() > 1 else 0


def leads() -> bool:
    """Whether this process is the one that prints and writes."""
    return rank() == 0


def started_together() -> int:
    """How many processes torchrun started in all; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Context in which the processes that torchrun started are joined; yields this one's device.

    On ``cuda`` each process of a machine has a GPU of its own, by NCCL, or, where there are fewer GPUs, shares one, by
    gloo; on CPUs gloo joins them. Only the leader's standard output is shown.

    Raises:
        UserError: if the processes can't be joined, or one of them is lost.
    """
    if started_together() == 1:
        yield device
        return
    _check_restarts()
    local, backend = int(os.environ["LOCAL_RANK"]), "gloo"
    if device.type == "cuda":
        gpus = torch.cuda.device_count()
        device = torch.device("cuda", local % gpus)
        torch.cuda.set_device(device)
        backend = "nccl" if int(os.environ["LOCAL_WORLD_SIZE"]) <= gpus and dist.is_nccl_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the {started_together()} processes can't be joined by {backend}: {error}") from None
    global _control
    _control = dist.new_group(backend="gloo", timeout=_PATIENCE) if backend == "nccl" else dist.group.WORLD
    with contextlib.ExitStack() as stack:
        if not leads():
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        try:
            yield device
            # No process leaves while another still needs it.
            wait_for_all()
        except RuntimeError as error:
            if not _is_lost_connection(error):
                raise
            # The launcher is to see the one that failed first, and ends this one meanwhile.
            time.sleep(_GRACE)
            raise UserError("another process failed: its message stands above, or in its own log") from None
        finally:
            dist.destroy_process_group()


def _check_restarts() -> None:
    """Find out whether processes that are started again can join: torchrun lets all starts share one store, from which
    they would take the addresses of the dead.

    Raises:
        UserError: if they can't; before the first start, since with NCCL they would wait for ever.
    """
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise UserError(
            f"with --max-restarts {restarts} torchrun hands the addresses of lost processes to those it starts again: "
            "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment"
        )


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether it says that another process is gone: gloo has no type for it."""
    return isinstance(error, dist.DistError) or ("peer" in str(error) and "onnection" in str(error))


def agreed(number: int) -> int:
    """The largest of all processes' numbers."""
    if count() == 1:
        return number
    largest = torch.tensor(number)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=_control)
    return int(largest)


def of_leader(value: Value) -> Value:
    """The leader's value, for all; any object that can be pickled."""
    if count() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, group=_control)
    return values[0]


def control() -> dist.ProcessGroup | None:
    """The group for tensors on the host."""
    return _control


def wait_for_all() -> None:
    """Return once every process has called this."""
    if count() > 1:
        dist.barrier(_control)


@contextlib.contextmanager
def leader_first() -> Iterator[None]:
    """Context that the leader goes through before the others enter it: what it makes, they find."""
    if not leads():
        wait_for_all()
    yield
    if leads():
        wait_for_all()


def own_rows(total: int, parts: int = 1) -> torch.Tensor:
    """The rows (n,) int64 of a batch of ``total`` that are this process's: an equal share of each of its ``parts``.

    In the order of the batch; part p of a process's rows lies in part p of the whole batch.

    Raises:
        ValueError: the batch can't be shared equally.
    """
    rows = torch.arange(total)
    if count() == 1:
        return rows
    if total % (parts * count()):
        raise ValueError(f"total is {total}, expected a multiple of {parts} parts of {count()} processes")
    return rows.reshape(parts, count(), -1)[:, rank()].flatten()


def check_shares(option: str, batch_size: int, parts: int = 1) -> None:
    """Find out whether a batch can be shared equally.

    Raises:
        UserError: names the option.
    """
    shares = parts * started_together()
    if started_together() > 1 and batch_size % shares:
        of_parts = f" of {parts} parts each" if parts > 1 else ""
        raise UserError(
            f"{option} is {batch_size}, which {started_together()} processes{of_parts} can't share equally: "
            f"take a multiple of {shares}"
        )
