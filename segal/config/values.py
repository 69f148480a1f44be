"""Values of keys: how their texts are read, and what is in range."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat

from segal.candidates.budget import Budget, Fit
from segal.candidates.regions import RegionSize
from segal.errors import SegalError
from segal.models.build import MAX_SCALE, MAX_SIDE, MIN_SCALE
from segal.models.spec import DEFAULT_TASK
from segal.system.sections import result_unless, split_commas
from segal.tasks import layout_name, task_name


def _parsed(parse: Any) -> Any:
    """A validator that keeps the text of what `parse` accepts, in its normal form."""

    def check(value: object) -> str:
        try:
            return str(parse(str(value)))
        except SegalError as error:
            raise ValueError(str(error.expected)) from error  # its remedy is of another option

    return check


Range = Annotated[tuple[float, float], BeforeValidator(split_commas)]
RegionText = Annotated[str, BeforeValidator(_parsed(RegionSize.parse))]
BudgetText = Annotated[str, BeforeValidator(_parsed(Budget.parse))]
BudgetFit = Annotated[Fit, result_unless("prefix")]
Channels = Annotated[
    tuple[float, ...], BeforeValidator(split_commas), Field(min_length=1, max_length=64)
]
PositiveChannels = Annotated[
    tuple[PositiveFloat, ...], BeforeValidator(split_commas), Field(min_length=1, max_length=64)
]
Layout = Annotated[str, BeforeValidator(_parsed(layout_name))]
BandNumber = Annotated[int, Field(ge=1, le=65535)]
BandNumbers = Annotated[
    Literal["all"] | Annotated[tuple[BandNumber, ...], Field(min_length=1, max_length=64)],
    BeforeValidator(lambda value: value if value == "all" else split_commas(value)),
]
Suffix = Annotated[str, Field(max_length=100)]
Scale = Annotated[float, Field(ge=MIN_SCALE, le=MAX_SCALE)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Side = Annotated[int, Field(ge=0, le=MAX_SIDE)]
TaskName = Annotated[str, BeforeValidator(_parsed(task_name)), result_unless(DEFAULT_TASK)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(split_commas)]
AT_RANDOM: dict[str, Any] = {"name": "random"}
"""The seed set's strategy where none is given."""
SeedStrategy = Annotated[
    Annotated[
        dict[str, Any],
        BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value),
    ],
    result_unless(AT_RANDOM),
]
