"""The demo: scenes, a first model, a selection, a retrained model, and random at equal cost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segal.candidates.selection import MASKS_FOLDER
from segal.config import DataConfig, MachineConfig, NetworkConfig, TrainConfig, validate
from segal.errors import raise_all
from segal.jobs.select import OVERLAYS_FOLDER, SelectionResult, run_selection
from segal.jobs.strategies import configure_selection
from segal.jobs.train import TrainingOutcome, run_training
from segal.scenes.synthetic import make_scenes
from segal.system.console import bar, say
from segal.tasks.judging import metric_of, shown_score
from segal.training.settings import TrainSettings


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does; the defaults take about five minutes on two cores.

    Attributes:
        frames: Scenes to select from, and half as many to test on.
        height: Of the scenes, in pixels; they are twice as wide.
        seed_budget: What the first model is trained on.
        budget: What each strategy then buys.
        first_iterations: Of the first training.
        iterations: Of each retraining.
    """

    frames: int = 80
    height: int = 192
    seed_budget: str = "8%"
    budget: str = "8%"
    first_iterations: int = 250
    iterations: int = 200

    @property
    def region(self) -> str:
        """As 512 is to the 1024 rows of a Cityscapes image."""
        return str(self.height // 2)


def run_demo(
    out: Path, seed: int = 0, threads: int | None = None, size: DemoSize | None = None
) -> str:
    """Runs the demo in a folder; a demo that was stopped goes on where it was.

    Args:
        out: The folder.
        seed: Of everything random.
        threads: As in `MachineConfig`.
        size: How much to do.

    Returns:
        What came of it, and where to look, as text.

    Raises:
        SegalError: If the folder cannot be written, or holds another demo.
    """
    machine, errors = validate(MachineConfig, {"threads": threads, "batch_size": 4})
    raise_all(errors)
    assert machine is not None
    demo = _Demo(out, seed, machine, size or DemoSize())
    demo.make_scenes()
    start = demo.select("random", "1-seed-set", demo.size.seed_budget, [])
    first = demo.train("2-first-model", [start], demo.size.first_iterations, None)
    results = {}
    for name in ("uwe", "random"):
        picked = demo.select(name, f"3-{name}", demo.size.budget, [start], first)
        retrained = demo.train(f"4-{name}-model", [start, picked], demo.size.iterations, first)
        results[name] = (picked, retrained)
    return _report(out, first, results)


class _Demo:
    def __init__(self, out: Path, seed: int, machine: MachineConfig, size: DemoSize) -> None:
        self.out, self.seed, self.machine, self.size = out, seed, machine, size
        self.scenes = out / "scenes"

    def make_scenes(self) -> None:
        frames, height = self.size.frames, self.size.height
        with bar("Drawing street scenes") as advance:
            make_scenes(
                self.scenes,
                splits={"train": frames, "val": frames // 2},
                size=(height, 2 * height),
                seed=self.seed,
                progress=advance,
            )

    def select(
        self,
        strategy: str,
        name: str,
        budget: str,
        labelled: list[SelectionResult],
        model: TrainingOutcome | None = None,
    ) -> SelectionResult:
        say(f"\n{name}: {budget} of the pixels, by {strategy}", style="bold")
        raw = {
            "images": self.scenes / "leftImg8bit" / "train",
            "checkpoint": model.model if model else None,
            "region": self.size.region,
            "budget": budget,
            "strategy": {"name": strategy},
            "labelled": [result.selection for result in labelled],
            "out": self.out / name,
            # The seed set and the random arm must not be drawn alike.
            "seed": self.seed + len(labelled),
            "machine": self.machine,
        }
        result = run_selection(*configure_selection(raw))
        say(result.headline)
        return result

    def train(
        self,
        name: str,
        labelled: list[SelectionResult],
        iterations: int,
        start: TrainingOutcome | None,
    ) -> TrainingOutcome:
        say(f"\n{name}: {iterations} steps on what is labelled", style="bold")
        height = self.size.height
        config = TrainConfig(
            data=DataConfig(root=self.scenes, test="val"),
            labelled=tuple(result.selection for result in labelled),
            missing_labels="skip",  # a region may hold nothing that has a class
            checkpoint=start.model if start else None,
            model=NetworkConfig(encoder="resnet18"),
            train=TrainSettings(
                iterations=iterations,
                optimizer="adamw",
                lr=2e-3 if start is None else 1e-3,
                crop=str(height // 2),
                scale=(0.75, 1.5),
            ),
            out=self.out / name,
            seed=self.seed,
            machine=self.machine,
        )
        outcome = run_training(config)
        say(shown_score(outcome.metrics["test"]))
        return outcome


def _percent(share: float | None) -> str:
    """None stands for a metric of no labelled pixel."""
    return "-" if share is None else f"{100 * share:.1f} %"


def _report(
    out: Path,
    first: TrainingOutcome,
    results: dict[str, tuple[SelectionResult, TrainingOutcome]],
) -> str:
    """The table, and where to look."""

    def row(name: str, metrics: dict[str, Any], cost: str) -> str:
        test = metrics["test"]
        score, accuracy = _percent(metric.of(test)), _percent(test["accuracy"])
        return f"{name:<28}{score:>10}{accuracy:>12}   {cost}"

    metric = metric_of(first.metrics["test"])
    lines = ["", f"{'after':<28}{metric.title:>10}{'accuracy':>12}   bought"]
    lines.append(row("the seed set", first.metrics, "-"))
    for name, (picked, outcome) in results.items():
        share = 100 * picked.summary["cost"]["share_of_pool"]
        cost = f"{len(picked.picks)} regions, {share:.2f} % of the pixels"
        lines.append(row(f"the seed set and {name}", outcome.metrics, cost))
    run = results["uwe"][0].out
    lines += [
        "",
        "One seed on made scenes shows how it works, not which strategy is better.",
        "Where to look:",
        f"  {run / OVERLAYS_FOLDER}  what was picked, and why",
        f"  {run / MASKS_FOLDER}  what to annotate: 255 in the masks",
        f"  {results['uwe'][0].selection}  the picks in order",
        f"  {out / '4-uwe-model' / 'metrics.json'}  {metric.class_title} of every class",
    ]
    return "\n".join(lines)
