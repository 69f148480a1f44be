"""A training's loss, whose gradient Hugging Face Accelerate takes over the ranks of a job."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from segal.errors import SegalError
from segal.models.wrapped import Model
from segal.system.ranks import Ranks
from segal.tasks.schemes import Batch, Scheme


class Objective(nn.Module):
    """The loss of a step as a module, whose parameters are the network's.

    Args:
        model: The network.
        scheme: How its steps go.
    """

    def __init__(self, model: Model, scheme: Scheme) -> None:
        super().__init__()
        self.model, self._scheme = model, scheme

    def forward(self, step: int, batches: Sequence[Batch]) -> Tensor:
        """See `Scheme.loss`."""
        return self._scheme.loss(self.model, step, batches)


Apart = Callable[[], AbstractContextManager[Any]]
"""Within what it returns, gradients stay with their rank."""


def check_accelerate(ranks: Ranks) -> None:
    """Raises a SegalError if there are several ranks, and Accelerate is not installed."""
    if ranks.count > 1 and find_spec("accelerate") is None:
        raise SegalError(
            f"training over {ranks.count} ranks goes through Hugging Face Accelerate",
            expected="the package accelerate",
            got="no such package",
            remedy="pip install accelerate; or train with one process, without torchrun",
        )


def over_ranks(objective: Objective, ranks: Ranks, device: torch.device) -> tuple[nn.Module, Apart]:
    """A loss whose gradient is the mean over all ranks, once it is taken back through the network.

    Args:
        objective: The loss, on `device`; the parameters that take a gradient now are trained.
        ranks: Of the job; all have to call this, and start from rank 0's weights.
        device: Where this rank trains.

    Returns:
        The loss, and what keeps gradients apart while they add up.

    Raises:
        SegalError: If there are several ranks, and Accelerate is not installed.
    """
    if ranks.count == 1:
        return objective, nullcontext
    check_accelerate(ranks)
    from accelerate import Accelerator  # noqa: PLC0415
    from accelerate.utils import DistributedDataParallelKwargs  # noqa: PLC0415

    # Of a network only what a step's loss depends on has a gradient. Buffers are settled by
    # `segal.training.pieces`, and products are rounded where the loss says so.
    handler = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True)
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        # Of the threads that it sets by the machine's cores, and of what torch calls things now.
        warnings.simplefilter("ignore")
        accelerator = Accelerator(
            cpu=device.type == "cpu", mixed_precision="no", kwargs_handlers=[handler]
        )
        wrapped = accelerator.prepare_model(objective, device_placement=False)
    torch.set_num_threads(threads)
    return wrapped, partial(accelerator.no_sync, wrapped)
