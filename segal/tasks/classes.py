"""The classes of a task, and whether a network and a data set have the same."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from segal.data.labelled import LabelledDataset
from segal.data.layout import distinct_colours
from segal.errors import SegalError
from segal.models.spec import ModelSpec


@dataclass(frozen=True, eq=False)
class ClassNames:
    """The classes that a network learns, in the order of its outputs.

    Attributes:
        names: Name of each of the C classes.
        notes: What a user should know of how labels are read.
    """

    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def palette(self) -> NDArray[np.uint8]:
        """(C, 3) RGB, to draw them in."""
        return distinct_colours(len(self.names))


def check_classes(spec: ModelSpec, dataset: LabelledDataset) -> None:
    """Raises a SegalError if a data set has other classes than a network, or in another order."""
    check_class_names(spec, dataset.classes.names, str(dataset.pool.root))


def check_class_names(spec: ModelSpec, names: Sequence[str], where: str) -> None:
    """Compares the classes of a network with those of a data set.

    Case, blanks, hyphens and underscores do not count; names that only number the classes stand for
    any.

    Args:
        spec: Of the network.
        names: Of the data set.
        where: The data set, as the message says it.

    Raises:
        SegalError: If there are others, in number, by name or in order.
    """
    if len(names) != spec.num_classes:
        raise SegalError(
            f"{where}: labels of other classes than the network's",
            expected=f"{spec.num_classes} classes",
            got=f"{len(names)}: {', '.join(names)}"[:200],
            remedy="give the data set that the network was trained for, or a checkpoint that was "
            "trained for these classes; where one stands for void, name its value as "
            "data.ignore_index or reference.ignore_index",
        )
    theirs, own = ([_plain(name) for name in given] for given in (spec.class_names, names))
    if theirs == own or are_numbers(spec.class_names) or are_numbers(names):
        return
    same = sorted(theirs) == sorted(own)
    raise SegalError(
        f"{where}: the network's classes in another order"
        if same
        else f"{where}: labels of other classes than the network's",
        expected=f"as in the checkpoint: {', '.join(spec.class_names)}",
        got=", ".join(names),
        remedy="list the classes in the checkpoint's order, with their values in label files: "
        "VALUE NAME is sorted by value, so map the files' values too"
        if same
        else "give them the checkpoint's names where they mean the same, or a checkpoint that was "
        "trained for them; to fine-tune it to other classes: --new-classes",
    )


def are_numbers(names: Sequence[str]) -> bool:
    """Whether names only number the classes, as those of a plain state_dict do."""
    numbered = [re.fullmatch(r"(?:class|label)?\s*(\d+)", _plain(name)) for name in names]
    numbers = [int(match[1]) for match in numbered if match]
    return numbers == list(range(len(names)))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
