"""What several processes that compute one thing together tell each other."""

from typing import Protocol

from torch import Tensor

__all__ = ["ALONE", "Alone", "Exchange"]


class Exchange(Protocol):
    """Processes that run the same code, each on rows of its own.

    Attributes:
        rank: Which of them this is, from 0.
        count: How many there are.
    """

    @property
    def rank(self) -> int:
        """Which of them this is."""
        ...

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def gather(self, own: Tensor) -> Tensor:
        """Every process's tensor, on every process: (count, *shape), by rank.

        Args:
            own: This process's, of the same shape and dtype on each; on the CPU.
        """
        ...


class Alone:
    """One process.

    Examples:
        >>> import torch
        >>> ALONE.gather(torch.tensor([1, 2]))
        tensor([[1, 2]])
    """

    rank = 0
    count = 1

    def gather(self, own: Tensor) -> Tensor:
        """(1, *shape): this process's own."""
        return own[None]


ALONE = Alone()
