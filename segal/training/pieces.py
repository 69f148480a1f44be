"""The pieces that a step's batch is worked on in, and which of them a rank takes.

A step minimises the mean over its whole batch. Of `P` pieces it is `sum m_p loss_p / sum m_p`, with
`m_p` what piece `p` counts (`Scheme.mass`): for losses of elements the weights of its labelled
elements, so that the gradient is that of the whole batch however they are spread. What pieces are
alone with is fixed by their number, whoever works on them: piece `p` of step `t` draws its dropout
from (seed, t, p), and BatchNorm normalises by the piece's own statistics.

The running statistics of BatchNorm go through the pieces in their order: `r <- (1 - m) r + m s`.
Over the `k` calls that a piece makes this is `r <- (1 - m)^k r + b`, with `b` what becomes of
zeros, so that each rank finds the `b` of its own pieces.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from segal.errors import SegalError, raise_all
from segal.models.dropouts import active_dropouts
from segal.models.wrapped import Model
from segal.system.ranks import Ranks
from segal.tasks.losses import OF_ELEMENTS
from segal.training.settings import ALL_LAYERS, TrainSettings

BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class Piece:
    """A part of every step's batch.

    Attributes:
        number: Of it, from 0.
        samples: Which samples of the batch it has.
    """

    number: int
    samples: range


def divide(settings: TrainSettings, ranks: Ranks) -> list[list[Piece]]:
    """The pieces of a batch, by the rank that works on them; sizes differ by one at most.

    Args:
        settings: Of the training; where they name no number, there are as many pieces as ranks.
        ranks: Of the job.

    Examples:
        >>> settings = TrainSettings(batch_size=8, accumulate=3)
        >>> [[piece.samples for piece in own] for own in divide(settings, Ranks(0, 2))]
        [[range(0, 3), range(3, 6)], [range(6, 8)]]
    """
    count = settings.accumulate or ranks.count
    pieces = [
        Piece(number, range(int(samples[0]), int(samples[-1]) + 1))
        for number, samples in enumerate(np.array_split(np.arange(settings.batch_size), count))
    ]
    return [
        [pieces[number] for number in own] for own in np.array_split(np.arange(count), ranks.count)
    ]


def check_pieces(settings: TrainSettings, ranks: Ranks) -> None:
    """Raises a SegalError if a rank would have nothing to do, or a piece is too small."""
    if settings.optimizer == "lbfgs" or ranks.count == 1:
        return
    errors = []
    if settings.mial is not None:
        errors.append(
            SegalError(
                f"train.mial: over {ranks.count} ranks",
                expected="one process: its stages move other parameters each",
                got=f"{ranks.count} ranks",
                remedy="start it without torchrun, or leave train.mial out",
            )
        )
    if settings.accumulate is not None and settings.accumulate < ranks.count:
        errors.append(
            SegalError(
                f"train.accumulate: {settings.accumulate}, over {ranks.count} ranks",
                expected=f"at least {ranks.count}, a piece of each batch for each rank",
                got=str(settings.accumulate),
                remedy="leave it out, or start fewer ranks",
            )
        )
    least = settings.least_piece()
    if settings.accumulate is None and settings.batch_size < least * ranks.count:
        errors.append(
            SegalError(
                f"train.batch_size: {settings.batch_size}, over {ranks.count} ranks",
                expected=f"at least {least * ranks.count}, {least} for each rank"
                + (" with batchnorm=train, or learning_loss" if least > 1 else ""),
                got=str(settings.batch_size),
                remedy="give a larger batch_size, or start fewer ranks",
            )
        )
    raise_all(errors)


def pieces_notes(settings: TrainSettings, model: Model, ranks: Ranks) -> list[str]:
    """What the user should know of a training that another number of ranks would do otherwise.

    Args:
        settings: Of the training.
        model: The network.
        ranks: Of the job.
    """
    if ranks.count == 1 or settings.accumulate is not None or settings.optimizer == "lbfgs":
        return []
    frozen = [] if settings.layers == ALL_LAYERS else model.cut(settings.layers).frozen_modules()
    still = {id(module) for part in frozen for module in part.modules()}
    dropouts = active_dropouts(model.network).values()
    has = {
        "BatchNorm": settings.batchnorm == "train"
        and any(isinstance(one, BatchNorm) and id(one) not in still for one in model.modules()),
        "dropout": any(id(one) not in still for one in dropouts),
        "the loss": model.spec.task == "detection"
        or not set((settings.loss or OF_ELEMENTS[0]).split("+")) <= set(OF_ELEMENTS)
        or settings.learning_loss is not None,
    }
    named = [name for name, depends in has.items() if depends]
    if not named:
        return []
    return [
        f"Each of {ranks.count} ranks trains on its piece of a batch, and what "
        f"{' and '.join(named)} {'make' if len(named) > 1 else 'makes'} of one depends on how many "
        f"there are. train.accumulate={ranks.count} fixes that, for any number of ranks up to it."
    ]


class RunningStatistics:
    """Those of BatchNorm in a step; made before its first piece.

    Args:
        model: The network; modules in `train()` mode count.
        pieces: By rank, as `divide` gives them.
    """

    def __init__(self, model: nn.Module, pieces: Sequence[Sequence[Piece]]) -> None:
        self._pieces = pieces
        several = sum(map(len, pieces)) > 1  # else torch does just that
        self._norms = [
            module
            for module in model.modules()
            if several
            and isinstance(module, BatchNorm)
            and module.training
            and module.track_running_stats
        ]
        self._before = [[x.clone() for x in self._buffers(norm)] for norm in self._norms]
        self._found: list[Tensor] = []

    @contextmanager
    def of_piece(self) -> Iterator[None]:
        """While it lasts, the network runs on one of this rank's pieces."""
        for norm in self._norms:
            for buffer in self._buffers(norm):
                buffer.zero_()
        yield
        if self._norms:
            parts = [x.flatten().double() for norm in self._norms for x in self._buffers(norm)]
            self._found.append(torch.cat(parts).cpu())

    def settle(self, ranks: Ranks) -> None:
        """Sets them to what the pieces of all ranks come to."""
        if not self._norms:
            return
        most = max(map(len, self._pieces))
        own = torch.stack(self._found + [self._found[0]] * (most - len(self._found)))
        every = ranks.gather(own)
        rows = [
            row
            for part, there in zip(every, self._pieces, strict=True)
            for row in part[: len(there)]
        ]
        start = 0
        for norm, before in zip(self._norms, self._before, strict=True):
            mean, var, calls = (one.double().cpu() for one in before)
            size = len(mean)
            for row in rows:
                of_mean, of_var, made = row[start : start + 2 * size + 1].split([size, size, 1])
                calls = calls + made[0]
                if norm.momentum is None:  # the mean over all calls
                    share = made / calls.clamp(min=1)
                    mean, var = mean + (of_mean - mean) * share, var + (of_var - var) * share
                else:
                    left = (1 - norm.momentum) ** made
                    mean, var = mean * left + of_mean, var * left + of_var
            for buffer, value in zip(self._buffers(norm), (mean, var, calls), strict=True):
                buffer.copy_(value)
            start += 2 * size + 1

    @staticmethod
    def _buffers(norm: BatchNorm) -> tuple[Tensor, Tensor, Tensor]:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        return norm.running_mean, norm.running_var, norm.num_batches_tracked
