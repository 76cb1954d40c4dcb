"""The processes of a data parallel training: which one this is, and what they agree on.

A training in one process is a world of one, in which nothing is sent. Import this module only inside functions: it
needs torch.
"""

from typing import Any, TypeVar

import torch.distributed  # noqa: TID253

Value = TypeVar("Value")


def rank() -> int:
    """Return the number of this process; 0 writes checkpoints, adapters and logs."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def size() -> int:
    """Return the number of processes."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def from_first(value: Value) -> Value:
    """Return the value that process 0 has, in all of them; all have to call it."""
    if size() == 1:
        return value
    values: list[Any] = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    result: Value = values[0]
    return result


def wait_for_all() -> None:
    """Return when all processes have called it."""
    if size() > 1:
        torch.distributed.barrier()
