"""Time rounds on a frozen encoder, a linear head beside scikit-learn's, and picks from features.

    python tools/bench_frozen.py round --data CAMVID --encoder-weights WEIGHTS --out OUT
    python tools/bench_frozen.py head --data CAMVID --encoder-weights WEIGHTS --out OUT
    python tools/bench_frozen.py herding --help

`round`: train, evaluate, scan and select of the first round of configs/camvid_frozen.yaml, its
store filled, and of configs/camvid_run_128.yaml, by turns, each in a process of its own with one
thread; and what filling the store takes beside a bare pass of the encoder over the same images.
`head`: the linear layer on the pixels that a training draws, fitted by segal and by scikit-learn's
`LogisticRegression` with the same penalty, and the mIoU of both networks. Times are of the
processor, medians. `herding` is bench_herding.py.
"""

# ruff: noqa: PLC0415 (libraries are loaded in the processes that need them)

import argparse
import json
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

FROZEN, TUNED = (ROOT / "configs" / f"camvid_{name}.yaml" for name in ("frozen", "run_128"))
PHASES = ("train", "evaluate", "scan-0", "select")


def main() -> None:
    if sys.argv[1:2] == ["herding"]:
        import bench_herding

        bench_herding.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    subparsers = parser.add_subparsers(required=True)
    for name, work in (("round", bench_round), ("head", bench_head), ("child", child)):
        command = subparsers.add_parser(name)
        command.set_defaults(work=work)
        command.add_argument("--data", type=Path, required=True, help="CamVid's folder")
        command.add_argument("--encoder-weights", type=Path, required=True)
        command.add_argument("--out", type=Path, required=True, help="a new folder")
        command.add_argument("--repeats", type=int, default=3)
        command.add_argument("--json", type=Path, help="where to write the numbers")
        command.add_argument("--config", type=Path, default=FROZEN)
        command.add_argument("overrides", nargs="*", help="key.path=value, for both")
    arguments = parser.parse_args()
    numbers = arguments.work(arguments)
    print(json.dumps(numbers, indent=2))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(numbers, indent=2) + "\n")


def bench_round(arguments: argparse.Namespace) -> dict[str, Any]:
    """By turns, in processes of their own; the store is filled before, once."""
    filled = _fill(arguments)
    found: dict[str, list[dict[str, float]]] = {"frozen": [], "tuned": []}
    for number in range(arguments.repeats):
        for name, config in (("frozen", FROZEN), ("tuned", TUNED)):
            out = arguments.out / f"{name}-{number}"
            command = [sys.executable, __file__, "child", "--data", arguments.data]
            command += ["--encoder-weights", arguments.encoder_weights, "--out", out]
            command += ["--config", config, *arguments.overrides]
            told = subprocess.run(
                [str(part) for part in command], check=True, capture_output=True, text=True
            )
            found[name].append(json.loads(told.stdout))
    medians = {
        name: {phase: statistics.median(one[phase] for one in runs) for phase in PHASES}
        for name, runs in found.items()
    }
    whole = {name: sum(seconds.values()) for name, seconds in medians.items()}
    return {
        "seconds": medians,
        "round": whole["tuned"] / whole["frozen"],
        "training": medians["tuned"]["train"] / medians["frozen"]["train"],
        **filled,
    }


def child(arguments: argparse.Namespace) -> dict[str, float]:
    """Processor seconds of the phases of a first round."""
    from segal.jobs.rounds.loop import Rounds
    from segal.jobs.rounds.run import run_rounds

    seconds: dict[str, float] = {}
    real = Rounds.phase

    def timed(self: Rounds, name: str, *rest: Any, **options: Any) -> None:
        started = time.process_time()
        real(self, name, *rest, **options)
        seconds[name] = time.process_time() - started
        if name == PHASES[-1]:
            raise StopIteration  # the next round's training is not timed

    with patch.object(Rounds, "phase", timed), suppress(StopIteration):
        run_rounds(*_configured(arguments, arguments.out))
    return {phase: seconds[phase] for phase in PHASES}


def _configured(arguments: argparse.Namespace, out: Path) -> Any:
    from segal.config import read_config
    from segal.jobs.strategies import configure_run

    flags: dict[str, Any] = {
        "data.root": arguments.data,
        "model.encoder_weights": arguments.encoder_weights,
        "machine.threads": 1,
        "out": out,
    }
    if arguments.config == FROZEN:
        flags["store.folder"] = arguments.out.parent / "store"
    overrides = ["budgets=5%", "measure_picks=false", "overlays=0", *arguments.overrides]
    return configure_run(read_config(arguments.config, overrides, flags))


def _opened(arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The frozen configuration, its network and its data sets."""
    from segal.jobs.network import initial_model
    from segal.jobs.rounds.run_data import RunData
    from segal.system.machine import use_threads
    from segal.tasks import find_task

    config, _ = _configured(arguments, arguments.out / "none")
    use_threads(1)
    data = RunData.open(config)
    model = initial_model(config, find_task(config.task).outline_of(data.pool_set)).eval()
    return config, model, data


def _fill(arguments: argparse.Namespace) -> dict[str, float]:
    """What it takes to fill the store, and a bare pass of the encoder over the same images."""
    import torch

    from segal.jobs.keeping import Keeping

    arguments.out.mkdir(parents=True)
    config, model, data = _opened(arguments)
    config = config.model_copy(
        update={"store": config.store.model_copy(update={"folder": arguments.out / "store"})}
    )
    keeping = Keeping.of(config)
    seconds = {"pass": 0.0, "fill": 0.0}
    for pool in data.pools():
        kept = keeping.pool(model, pool)
        for index in range(len(pool)):
            started = time.process_time()
            with torch.no_grad():
                model.network.encoder(model.prepared(model.normalise(pool.batch([index]))))
            between = time.process_time()
            kept.batch([index])
            seconds["pass"] += between - started
            seconds["fill"] += time.process_time() - between
    return {**seconds, "fill of a pass": seconds["fill"] / seconds["pass"]}


def bench_head(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both fits on the same pixels, by turns, and what both networks reach on the test split."""
    import torch
    from sklearn.linear_model import LogisticRegression

    from segal.candidates.budget import Budget
    from segal.functional.softmax_regression import fit_softmax
    from segal.tasks import find_task
    from segal.training.convex import sample_elements
    from segal.training.sampling import LabelledRegions

    arguments.out.mkdir(parents=True)
    config, model, data = _opened(arguments)
    settings, dataset = config.train, data.pool_set
    share = Budget.parse(config.seed_set).amount / 100
    count = max(1, round(float(share) * len(dataset)))
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(config.seed))
    sizes = {i: dataset.pool.size(i) for i in sorted(order[:count].tolist())}
    labelled = {i: [(0, 0, width, height)] for i, (height, width) in sizes.items()}
    regions = LabelledRegions.of(dataset, labelled)
    x, y = sample_elements(model, dataset, regions, settings, config.seed)
    mean, scale = x.mean(0), x.std(0, correction=0).clamp(min=1e-12).reciprocal()
    x = (x - mean) * scale
    found: dict[str, list[float]] = {"segal": [], "scikit-learn": []}
    weights: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for _ in range(arguments.repeats):
        started = time.process_time()
        ours = fit_softmax(
            x,
            y,
            model.spec.num_classes,
            l2=settings.weight_decay,
            gradient_norm=settings.gradient_norm,
        )
        found["segal"].append(time.process_time() - started)
        weights["segal"] = ours.weight, ours.bias
        oracle = LogisticRegression(C=1 / (settings.weight_decay * len(y)), max_iter=1000)
        started = time.process_time()
        oracle.fit(x.numpy(), y.numpy())
        found["scikit-learn"].append(time.process_time() - started)
        weight = torch.zeros_like(ours.weight)
        bias = torch.full_like(ours.bias, -1e4)  # a class without a pixel is never answered
        weight[oracle.classes_] = torch.from_numpy(oracle.coef_)
        bias[oracle.classes_] = torch.from_numpy(oracle.intercept_)
        weights["scikit-learn"] = weight, bias
    model.network.standardise.mean.copy_(mean)
    model.network.standardise.scale.copy_(scale)
    scores: dict[str, float] = {}
    for name, (weight, bias) in weights.items():
        with torch.no_grad():
            model.head.weight.copy_(weight[:, :, None, None])
            model.head.bias.copy_(bias)
        scores[name] = find_task(config.task).evaluate(model, data.held_out["test"]).score
    seconds = {name: statistics.median(each) for name, each in found.items()}
    return {
        "pixels": list(x.shape),
        "seconds": seconds,
        "times": seconds["scikit-learn"] / seconds["segal"],
        "mIoU": scores,
        "gradient": ours.gradient_norm,
        "steps": ours.steps,
    }


if __name__ == "__main__":
    main()
