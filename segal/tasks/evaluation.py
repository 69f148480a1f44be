"""What a task is judged by, and what it keeps of every image that it was judged on."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from segal.functional.significance import Score
from segal.system.files import replacing

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Metric:
    """The metric that runs of a task are judged by, and how it is told.

    Metrics of a split, as `metrics.json` has them, are plain values by name; None stands for NaN.

    Attributes:
        key: Name of the metric there.
        title: For people, within a sentence.
        class_key: Name there of the mapping from class name to the class's own quantity.
        class_title: That quantity, as a heading begins.
        of_classes: Whether the metric is a mean over classes, absent ones left out.
        absent: What it is of a class to be absent, after `absent:`.
        elements: What is bought, labelled and counted, such as pixels.
        regions: What a region is called; `elements` where each is one.
        clicks: What annotators do, and clicks are counted by, is called.
        score: From `Evaluation.statistics`, summed over images, to the metric in [0, 1].
        by_image: What of the test over images must be known; no text where its statistic is the
            metric itself.
        labelled: Numbers of labelled elements, from the metrics of a split: whatever a network
            predicts, they are the same.
        answered: (C,) how many elements were answered with each class, from the metrics of a split;
            None where an answer is no class.
        by_class: For each class how often the labels show it, and how often the network
            predicts it, from the metrics of a split; nothing where they do not say so.
        mean_key: Name there of the mean of the quantity over classes, where it is not the metric.
        per_clicks: So many clicks that the metric is also told by; None where that is not usual.
    """

    key: str
    title: str
    class_key: str
    class_title: str
    of_classes: bool
    absent: str
    elements: str
    regions: str
    clicks: str
    score: Score
    by_image: str
    labelled: Callable[[Mapping[str, Any]], list[Any]]
    answered: Callable[[Mapping[str, Any]], Counts] | None
    by_class: Callable[[Mapping[str, Any]], Iterable[tuple[int, int]]]
    mean_key: str | None
    per_clicks: int | None = None

    @property
    def a_title(self) -> str:
        """The title behind its article."""
        return f"{'an' if self.title[0] in 'aeiouA' else 'a'} {self.title}"

    @property
    def heading(self) -> str:
        """The title where a line begins."""
        return self.title.capitalize() if self.title.islower() else self.title

    def of(self, metrics: Mapping[str, Any]) -> float | None:
        """The metric of a split, in [0, 1]; None where nothing was counted."""
        value = metrics[self.key]
        return None if value is None else float(value)

    def classes(self, metrics: Mapping[str, Any]) -> list[str]:
        """Names of the classes of a split, in order."""
        return list(metrics[self.class_key])


class Metrics(Protocol):
    """All that is said of how well a network does on a data set."""

    @property
    def score(self) -> float:
        """By the metric that runs are judged by; in [0, 1], or NaN."""
        ...

    def as_dict(self) -> dict[str, object]:
        """As plain values, for JSON; NaN becomes None."""
        ...


@dataclass(frozen=True)
class Evaluation(ABC):
    """What a network did on every image of a data set.

    Attributes:
        metric: What it is judged by.
        kind: What its file calls itself; no text where the file names none.
        by_image: Names of its arrays, each with a row for each image; no names where there are
            others, and images are in the data set's order however they are evaluated.
        class_names: The C classes.
        images: N paths relative to the split's folder.
    """

    metric: ClassVar[Metric]
    kind: ClassVar[str]
    by_image: ClassVar[tuple[str, ...]] = ()
    class_names: tuple[str, ...]
    images: tuple[str, ...]

    @property
    @abstractmethod
    def metrics(self) -> Metrics:
        """Of the whole data set."""

    @property
    @abstractmethod
    def statistics(self) -> Counts:
        """(N, K) int64, what each image adds to what `Metric.score` takes; sums below 2^53."""

    @property
    @abstractmethod
    def truth(self) -> NDArray[Any]:
        """(N, ...) what is known of the labels of each image, whatever a network predicts."""

    @property
    @abstractmethod
    def answers(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """(E,) true and (E,) predicted classes of the labelled elements that are kept."""

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """As its file has it."""

    def taken(self, order: NDArray[np.int64]) -> Self:
        """The same of its images in another order.

        Args:
            order: (N,) positions of the images, each once.
        """
        if np.array_equal(order, np.arange(len(self.images))):
            return self
        found = {name: getattr(self, name)[order] for name in self.by_image}
        return replace(self, images=tuple(self.images[i] for i in order), **found)

    @classmethod
    @abstractmethod
    def of_arrays(cls, stored: Mapping[str, NDArray[Any]]) -> Self:
        """From what a file has.

        Raises:
            ValueError: If an array has another shape, type or value than it should.
            KeyError: If one is missing.
        """

    def write(self, path: Path) -> None:
        """Writes a compressed `.npz`.

        Raises:
            SegalError: If the disk is full or the folder cannot be written.
        """
        named = {"kind": np.array(self.kind)} if self.kind else {}
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **named, **self.arrays())  # type: ignore[arg-type]


def number_or_none(value: float) -> float | None:
    """A number for JSON: NaN becomes None."""
    return None if np.isnan(value) else float(value)


def packed(names: tuple[str, ...]) -> NDArray[np.uint8]:
    """Names as bytes, with zeros between them: a million paths take megabytes, not hundreds."""
    return np.frombuffer("\0".join(names).encode("utf-8", "surrogatepass"), np.uint8)


def unpacked(stored: NDArray[Any], count: int) -> tuple[str, ...]:
    """What `packed` packed.

    Raises:
        ValueError: If there are not so many names.
    """
    text = stored.astype(np.uint8).tobytes().decode("utf-8", "surrogatepass")
    names = tuple(text.split("\0")) if count else ()
    if len(names) != count:
        raise ValueError(f"{len(names)} names of {count} images")
    return names
