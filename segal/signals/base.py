"""What a signal is, and what it may use while it gets ready for a pass over the pool."""

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Protocol,
    Self,
    TypeVar,
    runtime_checkable,
)

from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.candidates.regions import RegionSize
from segal.data.image_sets import ImageSet, SetName
from segal.models.wrapped import Model
from segal.system.machine import Precision

T = TypeVar("T")

NOT_FINITE = "check the checkpoint, and the mean and std of images; with fp16, try bf16 or fp32"
"""What to do about a network that gives NaN or infinity."""

Parameters = Mapping[str, Tensor]
"""A vector in the space of a tail's parameters: tensors of the shapes of `Tail.parameters`."""


class Need(NamedTuple):
    """Images that a signal looks at before the pass.

    Attributes:
        of: Which.
        labels: Whether their labels are needed, too.
    """

    of: SetName
    labels: bool


@dataclass(frozen=True)
class Visit:
    """A batch of images of a set.

    Attributes:
        evidence: Of a forward pass over them.
        mask: (B, H, W) bool, the pixels that are of the set; void pixels are not where labels are
            known.
        labels: (B, H, W) int64 classes where `mask` is true, `VOID` elsewhere; None if unknown. Of
            a task whose labels are no arrays, as `Task.known` has them.
    """

    evidence: Evidence
    mask: Tensor
    labels: Any


class Workbench(Protocol):
    """What a signal may use to get ready: the network, and sets of images."""

    @property
    def model(self) -> Model:
        """The network, in `eval()` mode."""
        ...

    @property
    def unit(self) -> str:
        """What elements of images are called, such as pixels, in messages."""
        ...

    @property
    def seed(self) -> int:
        """Of everything random in a pass; not negative."""
        ...

    @property
    def precision(self) -> Precision:
        """Of the network's forward passes."""
        ...

    @property
    def regions(self) -> Sequence[RegionSize]:
        """Sizes of the candidates that the pass measures."""
        ...

    @property
    def workers(self) -> int:
        """Threads that may read ahead; 0 reads in between."""
        ...

    def images(self, of: SetName) -> ImageSet:
        """A set of images.

        Raises:
            SegalError: If there is none of that name.
        """
        ...

    def visit(
        self, of: SetName, catch: Collection[str] = (), only: Collection[int] | None = None
    ) -> Iterator[Visit]:
        """Forward passes over a set, without gradients, in candidate order; a bar shows how far.

        Args:
            of: The set.
            catch: As of a `Meter`.
            only: Images of the set's pool that are looked at; None for all of the set.
        """
        ...

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Returns `compute()`, run at most once for a key before a pass."""
        ...

    def note(self, text: str) -> None:
        """Keeps something to tell the user, once."""
        ...


class Meter(Protocol):
    """A signal that is ready: it measures batch after batch."""

    @property
    def catch(self) -> tuple[str, ...]:
        """What of a pass it needs beside the logits; constants of `segal.models.wrapped`.

        `FEATURES`, names of tails, and `FEATURE_MAPS` are caught; `PIXELS` and `FURTHER_PASSES` say
        what is made of `Evidence.inputs`.
        """
        ...

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """Measures a batch: (B, units) float64 for a value, (B, units, d) for an embedding."""
        ...


@runtime_checkable
class Signal(Hashable, Protocol):
    """A column of the candidate table, as a strategy asks for it; hashable by its parameters."""

    @property
    def column(self) -> str:
        """Name of the column: unique among the signals of a scan, and good as a file's name.

        It tells apart whatever is measured otherwise: a run does not measure again what it finds
        under the same name.
        """
        ...

    @property
    def needs(self) -> frozenset[Need]:
        """Sets of images that `prepare` looks at."""
        ...

    @property
    def of_labelled(self) -> bool:
        """Whether regions that are labelled already are measured, too."""
        ...

    def prepare(self, bench: Workbench) -> Meter:
        """Gets ready for a pass over the pool, such as by a pass over a reference set."""
        ...


@runtime_checkable
class AsksOfNetwork(Protocol):
    """A signal that not every network will do for, and that can tell before work starts."""

    def check(self, model: Model) -> None:
        """Raises a SegalError if a network will not do.

        Args:
            model: It, trained or not, in `eval()` mode.
        """
        ...


@runtime_checkable
class TakesCrossEntropy(Protocol):
    """A signal of cross-entropy in which all classes weigh alike, as a training has it by default.

    Of a network that is trained otherwise it is measured all the same, and means something else.
    """

    @property
    def cross_entropy(self) -> Literal["differentiated", "minimised"]:
        """What is taken for granted.

        `differentiated`: its gradients are those that a step of training on a candidate takes;
        `minimised`: beside that, the network has come to the least mean of it over what is
        labelled, which influence functions start from.
        """
        ...


@runtime_checkable
class ReadsAdded(Protocol):
    """A signal that reads what a training adds to a network, which shows after it."""

    def was_added(self, model: Model) -> bool:
        """Whether it was added to a network."""
        ...


class Pooled:
    """A signal that heeds `Units.excluded`: it measures candidates without that part of the image.

    Whatever looks at them by `Units.pool` and `Units.pool_max`, or by tiles, does.
    """


class Piecewise:
    """A signal that can be measured of a large image in pieces.

    It looks at candidates by `Units.pool` and `Units.pool_max` alone, calls them in the same order
    whatever the image, and each element of what it pools depends on the logits, or each cell on
    the features, at that place and nowhere else.
    """

    @property
    def in_pieces(self) -> bool:
        """Whether that is so with these parameters."""
        return True


def in_pieces(signal: Signal) -> bool:
    """Whether a signal can be measured of a large image in pieces."""
    return isinstance(signal, Piecewise) and signal.in_pieces


class OfFeatures:
    """A signal of features alone: it is the same whatever the last layer's weights are.

    So it can be measured before anything is trained, with an encoder as its weights are published.
    """


class PlainSignal:
    """A signal that needs nothing but the evidence: it is its own meter."""

    catch: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[frozenset[Need]] = frozenset()
    of_labelled: ClassVar[bool] = True

    def prepare(self, bench: Workbench) -> Self:
        """Itself."""
        return self


class Direction(Hashable, Protocol):
    """A recipe for a vector in the space of a tail's parameters; hashable by its parameters."""

    @property
    def name(self) -> str:
        """Tells it apart from every other; good as a part of a file's name."""
        ...

    @property
    def layers(self) -> str:
        """Name of the tail."""
        ...

    @property
    def needs(self) -> frozenset[Need]:
        """Sets of images that it is computed from."""
        ...

    @property
    def cross_entropy(self) -> Literal["differentiated", "minimised"]:
        """As of `TakesCrossEntropy`."""
        ...

    def vector(self, bench: Workbench) -> Parameters:
        """Computes it: float64 tensors by the names of the tail's parameters."""
        ...
