"""What a source of networks does, and what the sources share."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from segal.errors import SegalError, raise_all
from segal.models.normalisation import Constants
from segal.models.spec import ANSWERS, DEFAULT_TASK, Answered, Framing, ModelSpec, answers_of
from segal.registry import nearest

Options = Mapping[str, Any]

USUAL_MULTIPLE = 32
"""Of the sides of a network's input, where the network does not say."""

_MOST = 4096  # of an option's number: a file's metadata must not fill the memory
_LONGEST = 64


@dataclass(frozen=True)
class Named:
    """A network's name, checked, with what its source knows of it before it is built.

    Attributes:
        architecture: As `ModelSpec` keeps it.
        encoder: Likewise.
        constants: Mean and std that its published weights expect.
        multiple: Of the sides of its input.
        options: What its constructor takes, checked.
        class_names: Of its own classes; empty where it has none.
        framing: How its published weights expect whole images; None: as they are.
    """

    architecture: str
    encoder: str
    constants: Constants
    multiple: int = USUAL_MULTIPLE
    options: Options = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    framing: Framing | None = None


@dataclass(frozen=True)
class Sides:
    """What the sides of a network's input may be; it is tried which of them hold.

    Attributes:
        multiples: Candidates, the best first; a single one is known to hold, of several each is
            tried.
        fixed: The side of the one square that the network may be bound to, or None.
    """

    multiples: Sequence[int]
    fixed: int | None = None


class Source(Protocol):
    """A library that networks come from."""

    @property
    def trusted(self) -> bool:
        """Whether a file's metadata may name its networks: their code is not the user's own."""
        ...

    def usual_encoder(self, architecture: str, task: str = DEFAULT_TASK) -> str:
        """The encoder where none is named; empty where a network's name says all of it.

        Args:
            architecture: The name.
            task: What the network is asked.
        """
        ...

    def resolve(self, architecture: str, encoder: str, options: Options, task: str) -> Named:
        """Checks names and options, and that the network is for the task; nothing is built.

        Raises:
            SegalError: With all mistakes at once.
        """
        ...

    def build(self, spec: ModelSpec) -> nn.Module:
        """The network, with random weights; whatever its code raises passes through."""
        ...

    def sides(self, network: nn.Module, spec: ModelSpec) -> Sides:
        """What the sides of its input may be."""
        ...


_NETWORKS: Mapping[Answered, str] = {
    "images": "torchvision:NAME such as torchvision:resnet18, timm:NAME, linear, or "
    "package.module:name",
    "pixels": "a name of segmentation_models_pytorch such as DeepLabV3Plus, torchvision:NAME such "
    "as torchvision:deeplabv3_resnet50, hf:FOLDER, or package.module:name",
    "objects": "torchvision:NAME such as torchvision:fasterrcnn, hf:FOLDER, or package.module:name",
}
"""Names of networks, by what they answer."""


def check_answers(architecture: str, task: str, of: Answered) -> None:
    """Refuses a network that answers for something else than the networks of a task.

    Args:
        architecture: Its name.
        task: The task.
        of: What it answers.

    Raises:
        SegalError: With what would do, and the first task that the network would do for.
    """
    asked = answers_of(task).of
    if of != asked:
        fitting = next(name for name in ANSWERS if ANSWERS.get(name).of == of)
        raise SegalError(
            f"{architecture}: a network that classifies {of}",
            expected=f"for {task}: {_NETWORKS[asked]}",
            got=architecture,
            remedy=f"give another --arch, or task: {fitting}",
        )


def without_one_output(refused: Mapping[str, str], name: str, options: Options) -> dict[str, str]:
    """Options that are refused; a number of outputs is none where it is 1, as of two classes.

    Args:
        refused: As in `check_options`.
        name: Of the number of outputs.
        options: As in `check_options`.
    """
    one = options.get(name) == 1
    return {key: why for key, why in refused.items() if not (one and key == name)}


def check_options(
    options: Options, takes: Collection[str], refused: Mapping[str, str], of: str
) -> None:
    """Checks the options of a constructor.

    Args:
        options: By name.
        takes: Names that it takes.
        refused: Names that it takes but that are not the user's to give, with the reason.
        of: What takes them, for messages.

    Raises:
        SegalError: With every option that is unknown, refused, or no plain value.
    """
    mistakes = []
    for name, value in options.items():
        key = f"model.options.{name}"
        if name in refused:
            mistakes.append(
                SegalError(
                    f"{key}: not an option",
                    expected="nothing here",
                    got=repr(value)[:200],
                    remedy=refused[name],
                )
            )
        elif name not in takes:
            near = nearest(name, sorted(takes))
            mistakes.append(
                SegalError(
                    f"{key}: {of} takes no such option",
                    expected=f"one of {', '.join(sorted(takes))}" if takes else "no option",
                    got=repr(name),
                    remedy=f"did you mean {near!r}?" if near else "leave it out",
                )
            )
        elif not _plain(value):
            mistakes.append(
                SegalError(
                    f"{key}: cannot be used",
                    expected=f"a text, a number up to {_MOST}, true, false, null, or a list or "
                    f"mapping of up to {_LONGEST} of these",
                    got=repr(value)[:200],
                    remedy="give it such a value",
                )
            )
    raise_all(mistakes)


def _plain(value: object, depth: int = 0) -> bool:
    if isinstance(value, list | tuple):
        return depth < 2 and len(value) <= _LONGEST and all(_plain(v, depth + 1) for v in value)
    if isinstance(value, Mapping):
        return (
            depth < 2
            and len(value) <= _LONGEST
            and all(isinstance(k, str) and _plain(v, depth + 1) for k, v in value.items())
        )
    if isinstance(value, int | float):
        return abs(value) <= _MOST  # also for true and false; NaN is not
    return value is None or (isinstance(value, str) and len(value) <= 200)
