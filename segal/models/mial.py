"""How a network with two class heads is trained by MIAL: settings, stages, and what moves in each.

After Yuan et al., "Multiple Instance Active Learning for Object Detection" (CVPR 2021), sections
3.2 and 3.3, and their public code (github.com/yuantn/MI-AOD).
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from segal.models.two_heads import Part, TwoHeads, part_of
from segal.models.wrapped import Model
from segal.system.sections import Result, Section

Preset = Literal["paper", "code"]
Kind = Literal["label", "maximise", "minimise"]

_PARTS: frozenset[Part] = frozenset({"g", "f1", "f2", "fr", "mil"})
_MOVING: dict[tuple[Preset, Kind], frozenset[Part]] = {
    ("paper", "label"): _PARTS,
    ("paper", "maximise"): _PARTS - {"g"},
    ("paper", "minimise"): frozenset({"g", "mil"}),
    ("code", "label"): _PARTS,
    ("code", "maximise"): frozenset({"f1", "f2"}),
    ("code", "minimise"): _PARTS - {"f1", "f2"},
}


class MialSettings(Section):
    """How a network with two class heads f1, f2 and a MIL head is trained.

    Stages follow each other. On the labelled set, all is trained on the detector's loss and the MIL
    loss. Where instance uncertainty is learned, each step also takes a batch of unlabelled images:
    heads are trained to disagree about them (maximise), features to make them agree (minimise).

    | | paper | code |
    |---|---|---|
    | stages | label, (maximise, minimise) x 2, label | label, (minimise, maximise, label) x 2 |
    | their lengths | not given; here 3, (1, 1) x 2, 3 | 3, (1, 1, 3) x 2 |
    | maximise moves | all but the feature extractor | f1 and f2 |
    | minimise moves | the feature extractor and the MIL head | all but f1 and f2 |
    | MIL score (eq. 5) | over all anchors, of each class | in a level, of the likeliest class |
    | image label's loss (eq. 6) | sum over classes | mean, of scores in [1e-5, 1 - 1e-5] |
    | class losses of f1 and f2 | sum | mean |
    | discrepancy of a batch | mean over images | sum over images |
    | pseudo-labels without a class | count | the image's MIL loss is left out |
    | unlabelled images | all | as many as are labelled, drawn at random |

    Where there are fewer unlabelled images than that, or none at all, labelled ones are taken for
    unlabelled, as the code does; their labels are not looked at. The code steps on a labelled batch
    and on an unlabelled one in turn; here a step takes both, as equations 8 and 9 do. Validation
    happens in the last stage alone, so that the weights kept are those of a whole training.

    A network that classifies images is trained so, too (table 2 of the paper): f2 is a second last
    layer, which the training adds, an image is its only instance, and there is no MIL head. With
    one instance there is nothing to re-weight: `iur`, `weight` and `iur_set` make no difference.
    Its loss of labelled images is that of the task, of f1 and of f2, added up as in the table.

    Attributes:
        preset: Which column.
        iul: Learn instance uncertainty; false for the labelled set alone, for the whole training.
        iur: Re-weight instance uncertainty; false stands for `weight: one` and `iur_set: none`.
        weight: What the discrepancy is weighted by (eq. 7): `mil`, the MIL score; `f1`, the
            probabilities of f1; or `one`. The weights of `f1` and `one` are divided by their sum
            over an image's anchors, as that of the MIL scores is limited: a sum over 100,000
            anchors would leave nothing of the detector's own loss.
        iur_set: Images that the MIL loss is trained on: `all`, those that are `labelled`, `none`.
        discrepancy: Weight of the discrepancy (lambda of eqs. 2, 4, 8 and 9).
        repeats: How often the stages in brackets come.
        ratio: Lengths of a stage on the labelled set and of each other, as parts of the training.
    """

    preset: Result[Preset] = "paper"
    iul: Result[bool] = True
    iur: Result[bool] = True
    weight: Result[Literal["one", "f1", "mil"]] = "mil"
    iur_set: Result[Literal["none", "labelled", "all"]] = "all"
    discrepancy: Result[float] = Field(default=0.5, gt=0)
    repeats: Result[int] = Field(default=2, ge=1, le=100)
    ratio: Result[tuple[int, int]] = (3, 1)

    @model_validator(mode="before")
    @classmethod
    def _without_weights(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and str(raw.get("iur")).lower() == "false":
            return {"weight": "one", "iur_set": "none"} | raw
        return raw

    @model_validator(mode="after")
    def _consistent(self) -> "MialSettings":
        if min(self.ratio) < 1 or max(self.ratio) > 1000:
            raise ValueError(f"ratio: expected two numbers from 1 to 1000, got {self.ratio}")
        if not self.iur and (self.weight, self.iur_set) != ("one", "none"):
            raise ValueError(
                "iur: false leaves nothing to weight and iur_set to say|leave them out"
            )
        if self.weight == "mil" and self.iur_set == "none":
            raise ValueError(
                "iur_set: expected labelled or all for weight mil, whose MIL head would not be "
                "trained otherwise"
            )
        return self

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The stages, in order."""
        if not self.iul:
            return ("label",)
        if self.preset == "paper":
            return ("label", *(("maximise", "minimise") * self.repeats), "label")
        return ("label", *(("minimise", "maximise", "label") * self.repeats))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Length of each stage, as parts of the training."""
        return tuple(self.ratio[kind != "label"] for kind in self.kinds)


@dataclass(frozen=True)
class Stage:
    """A stage of a training.

    Attributes:
        kind: What is trained.
        start: Its first step, counted from 0.
        stop: The step after its last.
    """

    kind: Kind
    start: int
    stop: int


def schedule(settings: MialSettings, iterations: int) -> tuple[Stage, ...]:
    """The stages of a training: their lengths are in proportion to `ratio`.

    Args:
        settings: Of the training.
        iterations: Its steps; from the sum of `settings.lengths` on no stage is empty.

    Examples:
        >>> [(one.kind, one.start, one.stop) for one in schedule(MialSettings(repeats=1), 16)]
        [('label', 0, 6), ('maximise', 6, 8), ('minimise', 8, 10), ('label', 10, 16)]
    """
    lengths = settings.lengths
    ends = [iterations * end // sum(lengths) for end in accumulate(lengths, initial=0)]
    pairs = zip(settings.kinds, pairwise(ends), strict=True)
    return tuple(Stage(kind, start, stop) for kind, (start, stop) in pairs)


def moving(kind: Kind, preset: Preset, model: Model) -> frozenset[str]:
    """Parameters that move in a stage; the others stay as they are.

    Args:
        kind: Of the stage.
        preset: As in `MialSettings`.
        model: Of a network with two class heads, its own or an added one.

    Returns:
        Names, as `model.named_parameters` has them.

    Raises:
        TypeError: If it has no two heads.
    """
    parts = _MOVING[preset, kind]
    return frozenset(name for name, part in parts_of(model).items() if part in parts)


def parts_of(model: Model) -> dict[str, Part]:
    """What each parameter of a network with two class heads is of.

    Args:
        model: As `moving` takes it.

    Returns:
        By the name that `model.named_parameters` has.

    Raises:
        TypeError: If it has no two heads.
    """
    network = model.network
    if isinstance(network, TwoHeads):
        names = (name for name, _ in network.named_parameters())
        return {f"network.{name}": part_of(network, name) for name in names}
    if model.second_head is None:
        raise TypeError(f"expected a network with two class heads, got {type(network).__name__}")
    first = {id(parameter) for parameter in model.head.parameters()}
    own: dict[str, Part] = {
        f"network.{name}": "f1" if id(parameter) in first else "g"
        for name, parameter in network.named_parameters()
    }
    second = (name for name, _ in model.second_head.named_parameters())
    return own | {f"second_head.{name}": "f2" for name in second}


def _switched(value: object) -> object:
    if isinstance(value, bool | str):
        return {} if TypeAdapter(bool).validate_python(value) else None
    return value


Mial = Annotated[MialSettings | None, BeforeValidator(_switched)]
"""A setting: `true` stands for the defaults, `false` for no such training."""
