"""Reads what a run of rounds came to, from its folder; for reports and comparisons."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from segal.errors import SegalError
from segal.runs.ledger import Cost, Ledger, Purchase
from segal.runs.returns import Return, hours_of, returns_of
from segal.runs.run_folder import fingerprint
from segal.system.files import read_error
from segal.tasks.evaluation import Evaluation, Metric
from segal.tasks.judging import metric_of, read_evaluation

COMMAND = "run"
ROUNDS_FOLDER = "rounds"
SEED_FOLDER = "seed"
"""In the first round's, of a seed set that a strategy chose."""
CONFIG_FILE, METRICS_FILE, PICKS_FILE = "config.yaml", "metrics.json", "picks.json"
MODEL_FILE, SELECTION_FILE, EVALUATION_FILE = "model.safetensors", "selection.csv", "evaluation.npz"
CANDIDATES_FOLDER, OVERLAYS_FOLDER = "candidates", "overlays"


Axis = Literal["share", "regions", "pixels", "images", "clicks"]
"""What a cost is counted in; `share` is of the pool's pixels, `images` are image equivalents.

Pixels are a task's elements, of which an image that is classified as a whole has one.
"""
AXES: tuple[Axis, ...] = get_args(Axis)


@dataclass(frozen=True)
class Round:
    """A round that was trained and evaluated.

    Attributes:
        number: From 0, which trains on the seed set.
        folder: Its files.
        cost: Of all that its network was trained on.
        share: The same as a share of the pool's pixels, in [0, 1].
        metrics: As in `metrics.json`: `steps`, and for each split evaluated (`validation`, `test`)
            what its task says of it, `absent` and the metric that it is judged by among it; None
            stands for NaN.
        picks: As in `picks.json`: statistics of what was picked after it; None before that.
        bought: What was bought after it, in pick order.
        seconds: By phase.
        hours: What annotators took for all that its network was trained on, as far as it is known;
            None where nothing is.
    """

    number: int
    folder: Path
    cost: Cost
    share: float
    metrics: Mapping[str, Any]
    picks: Mapping[str, Any] | None
    bought: Sequence[Purchase]
    seconds: Mapping[str, float]
    hours: float | None = None

    def spent(self, axis: Axis) -> float | None:
        """The cost on an axis, a share in per cent; None for clicks that are not known."""
        if axis == "share":
            return 100 * self.share
        spent: float | None = getattr(self.cost, axis)
        return spent

    def evaluation(self) -> Evaluation:
        """Image by image, on the split that results are reported on.

        Raises:
            SegalError: If the file is missing or damaged.
        """
        return read_evaluation(self.folder / EVALUATION_FILE)


@dataclass(frozen=True)
class History:
    """A run of rounds.

    Attributes:
        folder: The run folder.
        configuration: All that its result depends on, as `segal run` compares it.
        report_split: The split that results are reported on: `test`, or else `validation`.
        pool_pixels: Of all images of the pool, as purchases count them.
        pool_images: Their number.
        rounds: Those that were evaluated, in order.
        seed_set: What was labelled at the start.
    """

    folder: Path
    configuration: Mapping[str, Any]
    report_split: str
    pool_pixels: int
    pool_images: int
    rounds: Sequence[Round]
    seed_set: Sequence[Purchase]

    @property
    def fingerprint(self) -> str:
        """Of the configuration."""
        return fingerprint(self.configuration)

    @property
    def scores(self) -> list[float]:
        """In [0, 1] by round, on the split that results are reported on; NaN if absent."""
        scores = [metric_of(metrics).of(metrics) for metrics in self.metrics]
        return [float("nan") if score is None else score for score in scores]

    @property
    def metrics(self) -> list[Mapping[str, Any]]:
        """By round, those of the split that results are reported on."""
        return [r.metrics[self.report_split] for r in self.rounds]

    @property
    def metric(self) -> Metric:
        """What it is judged by; it has at least one round."""
        return metric_of(self.metrics[0])

    @property
    def class_names(self) -> list[str]:
        """Of what it is evaluated on; it has at least one round."""
        return self.metric.classes(self.metrics[0])


def round_folder(run: Path, number: int) -> Path:
    """Where a round's files are."""
    return run / ROUNDS_FOLDER / f"{number:03d}"


def read_history(folder: Path) -> History:
    """Reads a run folder of `segal run`; it may be at work.

    Raises:
        SegalError: If it is none, or a file of it is missing or damaged.
    """
    with Ledger.read(folder) as ledger:
        if ledger.command != COMMAND:
            raise SegalError(
                f"{folder}: a run folder of segal {ledger.command}",
                expected="a run folder of segal run",
                got=f"one of segal {ledger.command}",
                remedy="give the folder that was the --out of segal run",
            )
        pool = _Pool(*ledger.extent())
        evaluated = [p.round for p in ledger.phases() if p.name == "evaluate"]
        returns = returns_of(ledger, withdrawn=True)
        rounds = [_read_round(folder, ledger, number, pool, returns) for number in evaluated]
        configuration: dict[str, Any] = ledger.configuration
        return History(
            folder=folder,
            configuration=configuration,
            report_split="test" if configuration["data"]["test"] else "validation",
            pool_pixels=pool.pixels,
            pool_images=pool.images,
            rounds=sorted(rounds, key=lambda r: r.number),
            seed_set=ledger.purchases("seed", 0),
        )


@dataclass(frozen=True)
class _Pool:
    pixels: int
    images: int


def _read_round(
    folder: Path, ledger: Ledger, number: int, pool: _Pool, returns: Sequence[Return]
) -> Round:
    files = round_folder(folder, number)
    # The network of a round is trained on what was bought before it.
    before = [p for p in ledger.purchases("buy") if p.round is not None and p.round < number]
    trained = [*ledger.purchases("seed"), *before]
    cost = _cost(trained, pool)
    return Round(
        number=number,
        folder=files,
        cost=cost,
        share=cost.pixels / pool.pixels,
        metrics=_load(files / METRICS_FILE),
        picks=_load(files / PICKS_FILE) if (files / PICKS_FILE).exists() else None,
        bought=ledger.purchases("buy", number),
        seconds={p.name: p.seconds for p in ledger.phases() if p.round == number},
        hours=hours_of(returns, {(p.image, p.box) for p in trained}),
    )


def _cost(purchases: Sequence[Purchase], pool: _Pool) -> Cost:
    pixels = sum(p.pixels or 0 for p in purchases)
    clicks = [p.clicks for p in purchases]
    return Cost(
        regions=len(purchases),
        pixels=pixels,
        images=pixels * pool.images / pool.pixels,
        clicks=None if None in clicks else sum(c for c in clicks if c is not None),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise read_error(path, error, "a file of the run") from error
    except ValueError as error:
        raise SegalError(
            f"{path}: damaged",
            expected="the file that segal run wrote",
            got=str(error).split("\n")[0],
            remedy="run the same command again: it makes damaged files anew",
        ) from error
    if not isinstance(loaded, dict):
        raise SegalError(
            f"{path}: damaged",
            expected="a mapping",
            got=type(loaded).__name__,
            remedy="run the same command again: it makes damaged files anew",
        )
    return loaded
