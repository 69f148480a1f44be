"""Hold influence scores to what retraining to the optimum with single regions added really does.

    python tools/influence_retraining.py measure --data CAMVID --encoder-weights WEIGHTS \
        --store STORE --seeds 0:20 --out OUT
    python tools/influence_retraining.py summary --out OUT --chart influence.png

The network is that of configs/camvid_evidence.yaml: a linear layer on frozen features, whose loss
is convex, so that there is one optimum and no noise. `measure`, for each seed: the seed set of
`segal run`, its training, and then the same loss to a gradient of norm 1e-7; one scan with the
signals of every strategy; 40 regions along the ranking by exact influence; and for each of them the
optimum with its pixels added to the sample, at as many to a pixel as the labelled images have, with
the network's own predictions as labels and with the true ones, and at a thousandth of that weight,
where the first order has to be right. The effect of a region is what that changes in the mean
cross-entropy on the validation split, and in that of the pool on the network's own predictions. A
seed that is in OUT is not measured again. `summary` correlates scores and effects.
"""

# ruff: noqa: PLC0415 (torch reads its thread settings when first imported)

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from segal.candidates.table import CandidateTable
    from segal.data.pool import ImagePool
    from segal.strategies.base import Strategy

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "camvid_evidence.yaml"
ROWS = 2048  # looked at together
LITTLE = 1e-3  # of a region's weight, at which the first order has to be the effect
MEMORY = 40  # pairs of steps that are kept of a fit
REGION_STRIDE, VAL_STRIDE, POOL_STRIDE = 4, 16, 32
LABELS = ("predicted", "true")
EFFECTS = ("val", "pool")
REGULAR = {"inverse": "cg", "tolerance": 1e-4, "max_iterations": 5000, "hessian_pixels": 20_000}
ISAL: dict[str, dict[str, Any]] = {
    "isal, damping 0.001 (exact)": {**REGULAR, "damping": 1e-3, "reduction": "sum"},
    "isal, damping 0.01": {**REGULAR, "damping": 1e-2, "reduction": "sum"},
    "isal, damping 0.1": {**REGULAR, "damping": 1e-1, "reduction": "sum"},
    "isal, damping 1": {**REGULAR, "damping": 1.0, "reduction": "sum"},
    "isal, damping 100": {**REGULAR, "damping": 100.0, "reduction": "sum"},
    "isal, defaults": {},
    "isal, preset code": {"preset": "code", "reduction": "sum"},
}
EXACT, DAMPED, IDENTITY = "isal, damping 0.001 (exact)", "isal, damping 100", "grad_similarity"
LINEAR = "first order, on the pixels that are added"
RALIF: dict[str, dict[str, Any]] = {
    "ralif single, damping 0.001 (exact)": {**REGULAR, "damping": 1e-3, "classes": "single"},
    "ralif single": {"classes": "single"},
    "ralif truncated": {"classes": "truncated"},
    "ralif truncated, baseline drop": {"classes": "truncated", "baseline": "drop"},
}
OTHERS: dict[str, dict[str, Any]] = {
    IDENTITY: {"name": "grad_similarity", "reduction": "sum"},
    "error_change_first_order": {"name": "error_change_first_order", "layers": "last"},
    "entropy": {"name": "entropy"},
}
CONTRASTS = [(EXACT, other, f"val/{labels}") for other in (DAMPED, IDENTITY) for labels in LABELS]
PAPER = {"name": "isal", "preset": "paper", "reduction": "sum"}
FEATURE = "mean_feature"  # which RALIF thins out by


@dataclass
class Problem:
    """Softmax regressions that share pixels, each with some of its own; theta is (J, C, D + 1).

    Problem j's loss is `(sum_i CE_i + sum_q w_jq CE_jq) / (n + sum_q w_jq) + l2 / 2 |weight|^2`.

    Attributes:
        x: (n, D + 1) float64 features of the shared pixels, the last of which is 1.
        y: (n,) int64.
        l2: Of the weight; the bias is not penalised.
        own_x: (R, m, D + 1) features of further pixels.
        region: (J,) which of the R sets of pixels a problem has.
        own_y: (J, m) int64.
        own_w: (J, m) what they weigh, where a shared pixel weighs 1.
    """

    x: Tensor
    y: Tensor
    l2: float
    own_x: Tensor
    region: Tensor
    own_y: Tensor
    own_w: Tensor

    @classmethod
    def plain(cls, x: Tensor, y: Tensor, l2: float) -> Problem:
        """One problem, without pixels of its own."""
        none = torch.zeros(1, 0)
        zero = torch.zeros(1, dtype=torch.int64)
        return cls(x, y, l2, x.new_zeros(1, 0, x.shape[1]), zero, none.long(), none.double())

    def some(self, which: Tensor) -> Problem:
        """Those problems."""
        return replace(
            self, region=self.region[which], own_y=self.own_y[which], own_w=self.own_w[which]
        )

    def value(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The (J,) losses, and their (J, C, D + 1) gradients."""
        problems, classes, width = theta.shape
        flat = theta.reshape(-1, width)
        loss, gradient = theta.new_zeros(problems), torch.zeros_like(flat)
        for x, y in zip(self.x.split(ROWS), self.y.split(ROWS), strict=True):
            log_p = (x @ flat.T).view(-1, problems, classes).log_softmax(2)
            at = y[:, None, None].expand(-1, problems, 1)
            loss -= log_p.gather(2, at)[..., 0].sum(0)
            residual = log_p.exp_().scatter_add_(2, at, -torch.ones_like(log_p[..., :1]))
            gradient += residual.view(len(x), -1).T @ x
        gradient = gradient.view(theta.shape)
        for j, region in enumerate(self.region.tolist()):
            x, y, w = self.own_x[region], self.own_y[j], self.own_w[j]
            log_p = (x @ theta[j].T).log_softmax(1)
            loss[j] -= w @ log_p.gather(1, y[:, None])[:, 0]
            residual = log_p.exp_().scatter_add_(1, y[:, None], -torch.ones_like(w)[:, None])
            gradient[j] += (residual * w[:, None]).T @ x
        mass = len(self.x) + self.own_w.sum(1)
        weight = theta.clone()
        weight[..., -1] = 0
        loss = loss / mass + self.l2 / 2 * weight.square().sum((1, 2))
        return loss, gradient / mass[:, None, None] + self.l2 * weight

    def hessian(self, theta: Tensor, dtype: torch.dtype) -> Tensor:
        """(P, P) of the first problem's loss without its own pixels, at (C, D + 1).

        1 is added to all entries between biases, along whose shift it is singular: gradients have
        no part in that.
        """
        x = self.x.to(dtype)
        p = (self.x @ theta.T).softmax(1).to(dtype)
        classes, width = theta.shape
        matrix = x.new_empty(classes, width, classes, width)
        for c in range(classes):
            for k in range(c, classes):
                weight = p[:, c] * (float(c == k) - p[:, k]) / len(x)
                block = (x * weight[:, None]).T @ x
                block[-1, -1] += 1
                if c == k:
                    block.diagonal()[:-1] += self.l2
                matrix[c, :, k], matrix[k, :, c] = block, block
        return matrix.view(classes * width, -1)

    def hessian_product(self, theta: Tensor, vector: Tensor) -> Tensor:
        """The same matrix times (C, D + 1), in float64, block by block."""
        total = self.l2 * vector
        total[:, -1] = vector[:, -1].sum()
        for x in self.x.split(ROWS):
            p = (x @ theta.T).softmax(1)
            change = x @ vector.T
            total += (p * (change - (p * change).sum(1, keepdim=True))).T @ x / len(self.x)
        return total


@dataclass
class Fits:
    """What `fit_all` found.

    Attributes:
        theta: (J, C, D + 1) optima.
        norms: (J,) of the gradients there.
        steps: How many were taken.
    """

    theta: Tensor
    norms: Tensor
    steps: int


def fit_all(
    problem: Problem, start: Tensor, factor: Tensor, gradient_norm: float, steps: int = 300
) -> Fits:
    """Takes every problem to its optimum by L-BFGS, all at once.

    Args:
        problem: The problems.
        start: (C, D + 1), of all.
        factor: Cholesky factor of a matrix near their Hessians, whose inverse steps begin with.
        gradient_norm: It ends where every gradient's L2 norm is no more than this.
        steps: At most.
    """

    def solve(vectors: Tensor) -> Tensor:
        wide = vectors.flatten(1).T.to(factor)
        return torch.cholesky_solve(wide, factor).T.to(vectors).view_as(vectors)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((1, 2), keepdim=True)

    theta = start.expand(len(problem.region), -1, -1).clone()
    loss, gradient = problem.value(theta)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    for done in range(steps):  # noqa: B007 (used after the loop)
        norms = gradient.flatten(1).norm(dim=1)
        left = (norms > gradient_norm).nonzero()[:, 0]
        if not len(left):
            break
        along, alphas = gradient[left], []
        for s, y, rho in reversed(pairs):
            alphas.append(rho[left] * dot(s[left], along))
            along -= alphas[-1] * y[left]
        along = solve(along)
        for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
            along += (alpha - rho[left] * dot(y[left], along)) * s[left]
        step = torch.zeros_like(theta)
        step[left] = -along
        slope, before, at = dot(gradient, step)[:, 0, 0], theta, gradient
        theta, gradient, length = theta + step, gradient.clone(), 1.0
        trial_loss = loss.clone()
        while length > 1e-6:
            trial_loss[left], gradient[left] = problem.some(left).value(theta[left])
            # Near the optimum differences of the loss are rounding: there the gradient tells.
            poor = trial_loss[left] > loss[left] + 1e-4 * length * slope[left]
            poor &= gradient[left].flatten(1).norm(dim=1) > norms[left]
            left, length = left[poor], length / 4
            if not len(left):
                break
            theta[left] = before[left] + length * step[left]
        loss, s, y = trial_loss, theta - before, gradient - at
        curvature = dot(s, y)
        rho = torch.where(curvature > 0, 1 / curvature, torch.zeros_like(curvature))
        pairs = [*pairs, (s, y, rho)][-MEMORY:]
    return Fits(theta, gradient.flatten(1).norm(dim=1), done)


def inverse_times(problem: Problem, theta: Tensor, factor: Tensor, b: Tensor) -> Tensor:
    """H^-1 b in float64, by refining what the factor gives until the residual is 1e-10 of b."""
    x, residual = torch.zeros_like(b), b.clone()
    for _ in range(50):
        step = torch.cholesky_solve(residual.flatten()[:, None].to(factor), factor)
        x += step.to(b).view_as(b)
        residual = b - problem.hessian_product(theta, x)
        if float(residual.norm()) <= 1e-10 * float(b.norm()):
            return x
    raise ArithmeticError(f"refining stopped at a residual of {float(residual.norm()):g}")


def set_gradient(x: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    """(C, D + 1) gradient of the mean cross-entropy, float64; `x` without its 1 in float32."""
    total = torch.zeros_like(theta)
    for part, classes in zip(x.split(ROWS), y.split(ROWS), strict=True):
        wide = with_one(part.double())
        residual = (wide @ theta.T).softmax(1)
        residual[torch.arange(len(wide)), classes] -= 1
        total += residual.T @ wide
    return total / len(x)


def changes_of_loss(x: Tensor, y: Tensor, theta: Tensor, others: Tensor) -> Tensor:
    """(J,) how the mean cross-entropy of a set differs between heads and one head.

    With p the one head's probabilities and d the difference of logits it is the mean of
    `log1p(sum_c p_c expm1(d_c)) - d_y`, which keeps its digits however small d is.

    Args:
        x: (n, D), looked at in float32.
        y: (n,) int64.
        theta: (C, D + 1) float64, the one.
        others: (J, C, D + 1).
    """
    total = torch.zeros(len(others), dtype=torch.float64)
    apart = (others - theta).flatten(0, 1).float()
    for part, classes in zip(x.float().split(ROWS), y.split(ROWS), strict=True):
        wide = with_one(part)
        p = (wide.double() @ theta.T).softmax(1).float()
        d = (wide @ apart.T).view(len(part), *others.shape[:2])
        of_label = d.gather(2, classes[:, None, None].expand(-1, len(others), 1))[..., 0]
        each = (d.expm1_() * p[:, None]).sum(2).log1p_() - of_label
        total += each.double().sum(0)
    return total / len(x)


def with_one(x: Tensor) -> Tensor:
    """(n, D + 1), the last column 1."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def predicted_effects(problem: Problem, theta: Tensor, direction: Tensor) -> Tensor:
    """(J,) first-order change of a set's loss by adding each problem's own pixels.

    Args:
        problem: The problems.
        theta: (C, D + 1), the optimum without these pixels.
        direction: (C, D + 1) H^-1 times the set's gradient there.
    """
    found = torch.zeros(len(problem.region), dtype=torch.float64)
    weight = theta.clone()
    weight[:, -1] = 0
    for j, region in enumerate(problem.region.tolist()):
        x, y, w = problem.own_x[region], problem.own_y[j], problem.own_w[j]
        residual = (x @ theta.T).softmax(1)
        residual[torch.arange(len(x)), y] -= 1
        mass = w.sum()
        # The labelled pixels' mean gradient at the optimum is -l2 weight, and they count for less.
        gradient = (residual * w[:, None]).T @ x + mass * problem.l2 * weight
        found[j] = -(direction * gradient).sum() / (len(problem.x) + mass)
    return found


def evenly(order: NDArray[np.int64], count: int, start: float) -> NDArray[np.int64]:
    """A systematic sample: every `len(order) / count`-th, from a start in [0, 1) of that on."""
    places = (np.arange(count) + start) * len(order) / count
    return order[places.astype(np.int64)]


def grid_pixels(box: tuple[int, int, int, int], stride: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the pixels of a box on a regular grid of the image."""
    x0, y0, x1, y1 = box
    y = torch.arange(y0 + (stride // 2 - y0) % stride, y1, stride)
    x = torch.arange(x0 + (stride // 2 - x0) % stride, x1, stride)
    return y.repeat_interleave(len(x)), x.repeat(len(y))


@dataclass
class Grid:
    """Pixels of a set of images on a regular grid.

    Attributes:
        x: (n, D) float32 features, not standardised.
        image: (n,) int64.
        label: (n,) int64 true classes, 255 where there is none.
    """

    x: Tensor
    image: Tensor
    label: Tensor


class Experiment:
    """The data, the network before it is trained, and features of what effects are measured on."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import yaml

        from segal.jobs.keeping import Keeping
        from segal.jobs.network import initial_model
        from segal.jobs.rounds.run_data import RunData
        from segal.jobs.strategies import configure_run
        from segal.system.machine import use_threads
        from segal.tasks import find_task

        raw = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["run"]
        raw["data"] |= {"root": str(arguments.data), "validation": "val"}
        raw["model"]["encoder_weights"] = str(arguments.encoder_weights)
        raw["store"] = {"folder": str(arguments.store)}
        raw |= {"machine": {"threads": 1, "batch_size": 8}, "out": str(arguments.out / "none")}
        self.raw = {**raw, "strategy": {"name": "isal"}}
        self.config, _ = configure_run(self.raw)
        use_threads(1)
        self.data = RunData.open(self.config)
        self.task = find_task(self.config.task)
        self.outline = self.task.outline_of(self.data.pool_set)
        self.model = initial_model(self.config, self.outline).eval()
        self.keeping, self.out = Keeping.of(self.config), arguments.out
        self.strategies = strategies_of(self)
        self.attempt = configure_run({**self.raw, "strategy": PAPER})[1]
        self.images = arguments.images
        self.val = self._grid(self.data.held_out["validation"], VAL_STRIDE)
        self.pool = self._grid(self.data.pool_set, POOL_STRIDE)

    def features(self, pool: ImagePool, index: int, y: Tensor, x: Tensor) -> Tensor:
        """(n, D) float64 features of pixels of an image, not standardised."""
        from segal.functional.pooling import at_pixels
        from segal.models.wrapped import FEATURES

        with torch.no_grad():
            evidence = self.model(self.model.normalise(pool.batch([index])), (FEATURES,))
        spread = evidence.upsampling
        return at_pixels(evidence.caught[0], y, x, spread.size, spread.align_corners)

    def _grid(self, dataset: Any, stride: int) -> Grid:
        kept, parts = self.keeping.pool(self.model, dataset.pool), []
        for index in range(len(dataset.pool)):
            height, width = dataset.pool.size(index)
            y, x = grid_pixels((0, 0, width, height), stride)
            label = torch.from_numpy(dataset.read_label(index))[y, x].long()
            parts.append((self.features(kept, index, y, x).float(), label))
        counts = torch.tensor([len(label) for _, label in parts])
        image = torch.repeat_interleave(torch.arange(len(parts)), counts)
        return Grid(torch.cat([p[0] for p in parts]), image, torch.cat([p[1] for p in parts]))

    def seed_set(self, seed: int) -> dict[str, list[Any]]:
        """Boxes by image that a run of that seed buys first."""
        from segal.candidates.budget import Budget
        from segal.candidates.regions import RegionSize
        from segal.jobs.inputs import image_sizes
        from segal.runs.acquisition import SEED_SET, Offer, derive_generator

        config, pool = self.config, self.data.pool_set.pool
        budget = Budget.parse(config.seed_set)
        allowance = budget.allowance(self.data.areas(), pool.unit, config.budget_fit)
        sizes = image_sizes(pool)
        offer = Offer.of(sizes, RegionSize.parse(config.seed_region), {})
        order = torch.randperm(len(offer), generator=derive_generator(seed, 0, SEED_SET)).numpy()
        taken = order[allowance.takes(offer.prices[order])]
        paths = list(sizes)
        return {paths[i]: [(0, 0, sizes[paths[i]][1], sizes[paths[i]][0])] for i in sorted(taken)}

    def look_at(self, seed: int, bought: dict[str, list[Any]]) -> Tensor:
        """Sets the pool of a seed: the labelled images, and as many of the others as asked for.

        Returns:
            (n,) positions in the whole pool of those that are not labelled.
        """
        from segal.runs.oracle import Oracle

        whole = self.data.pool_set
        labelled = [i for i, path in enumerate(whole.pool.paths) if path in bought]
        others = np.setdiff1d(np.arange(len(whole.pool)), labelled)
        drawn = np.random.default_rng([seed, self.images]).permutation(others)[: self.images]
        self.pool_set = whole.subset(sorted([*labelled, *drawn.tolist()]))
        self.oracle = Oracle(self.pool_set, self.task)
        return torch.from_numpy(drawn)

    def train(self, seed: int, bought: dict[str, list[Any]]) -> tuple[Tensor, Tensor, Tensor]:
        """Trains the network as the run does, and returns the sample that it was trained on.

        Returns:
            (n, D) float64 features, standardised, (n,) classes, and the (C, D + 1) layer.
        """
        from segal.runs.acquisition import TRAIN, derive_seed
        from segal.training.convex import sample_elements
        from segal.training.loop import train
        from segal.training.sampling import LabelledRegions

        settings, drawn = self.config.train, derive_seed(seed, 0, TRAIN)
        dataset = self.keeping.dataset(self.model, self.oracle.reveal(bought))
        labelled = self.oracle.by_index(bought)
        train(self.model, dataset, settings, seed=drawn, labelled=labelled)
        regions = LabelledRegions.of(dataset, labelled)
        x, y = sample_elements(self.model, dataset, regions, settings, drawn)
        weight, bias = self.model.head.weight, self.model.head.bias
        theta = torch.cat([weight.detach()[:, :, 0, 0], bias.detach()[:, None]], 1).double()
        return x, y, theta

    def scan(
        self, seed: int, bought: dict[str, list[Any]]
    ) -> tuple[CandidateTable, dict[str, NDArray[np.float64]], list[str]]:
        """The scan of a run's first round, with the signals of all strategies."""
        from segal.candidates.table import CandidateTable
        from segal.jobs.rounds.scan import RoundScan
        from segal.scanning.scan import scan_notes
        from segal.strategies.base import PassContext

        def signals_of(strategy: Strategy) -> list[Any]:
            return [s for s in next(iter(strategy.passes(PassContext()))) if s.column != FEATURE]

        signals = [s for strategy in self.strategies.values() for s in signals_of(strategy)]
        signals += [Attempt(s) for s in signals_of(self.attempt)]
        config = self.config.model_copy(update={"seed": seed})
        scan = RoundScan(
            config=config,
            device=torch.device("cpu"),
            pool=self.pool_set.pool,
            oracle=self.oracle,
            validation=self.data.held_out["validation"],
            seed_set=bought,
            bought=bought,
            excluded={},
            keeping=self.keeping,
        )
        folder = self.out / "scan"
        scan.run(0, list(dict.fromkeys(signals)), self.model, folder)
        table = CandidateTable.open(folder / config.region)
        return table, scores_of(self.strategies, table), scan_notes(folder)

    def with_regions(
        self,
        base: Problem,
        theta: Tensor,
        table: CandidateTable,
        rows: NDArray[np.int64],
        bought: dict[str, list[Any]],
    ) -> tuple[Problem, list[float]]:
        """The problems with each region added, first with predicted labels, then with true ones.

        Returns:
            The problems, and the share of each region's labelled pixels that the network has wrong.
        """
        pool_set = self.pool_set
        kept = self.keeping.pool(self.model, pool_set.pool)
        positions = {path: i for i, path in enumerate(pool_set.pool.paths)}
        labels = (pool_set.read_label(positions[path]) for path in bought)
        density = len(base.x) / sum(int((label != 255).sum()) for label in labels)
        found, classes, weights, wrong = [], [], [], []
        for row in rows:
            index, box = positions[table.images[table.image[row]]], tuple(table.box[row].tolist())
            y, x = grid_pixels(box, REGION_STRIDE)
            features = with_one(self.features(kept, index, y, x))
            true = torch.from_numpy(pool_set.read_label(index))[y, x].long()
            known, own = true != 255, (features @ theta.T).argmax(1)
            weight = density * (box[2] - box[0]) * (box[3] - box[1]) / len(y)
            found.append(features)
            classes.append((own, torch.where(known, true, 0)))
            weights.append(
                (torch.full_like(own, weight, dtype=torch.float64), weight * known.double())
            )
            wrong.append(float((own != true)[known].double().mean()) if known.any() else 0.0)
        pad = torch.nn.utils.rnn.pad_sequence
        problem = Problem(
            x=base.x,
            y=base.y,
            l2=base.l2,
            own_x=pad(found, batch_first=True),
            region=torch.arange(len(rows)).repeat(len(LABELS)),
            own_y=pad([c[k] for k in range(len(LABELS)) for c in classes], batch_first=True),
            own_w=pad([w[k] for k in range(len(LABELS)) for w in weights], batch_first=True),
        )
        return problem, wrong


@dataclass
class Clock:
    """Processor seconds of the parts of a seed."""

    seconds: dict[str, float] = field(default_factory=dict)
    _at: float = field(default_factory=time.process_time)

    def __call__(self, name: str) -> None:
        """What was done since the last call is booked under a name."""
        now = time.process_time()
        self.seconds[name] = round(now - self._at, 2)
        self._at = now


@dataclass(frozen=True)
class Attempt:
    """A signal that may fail to get ready: then it is 0 everywhere, and the scan notes why.

    Attributes:
        signal: It.
    """

    signal: Any

    @property
    def column(self) -> str:
        """As the signal has it."""
        return str(self.signal.column)

    @property
    def needs(self) -> Any:
        """As the signal has them."""
        return self.signal.needs

    @property
    def of_labelled(self) -> bool:
        """As the signal has it."""
        return bool(self.signal.of_labelled)

    def prepare(self, bench: Any) -> Any:
        """The signal's meter, or one of nothing."""
        from segal.errors import SegalError

        try:
            return self.signal.prepare(bench)
        except SegalError as error:
            bench.note(f"{self.column}: {error.problem}: {error.got}")
            return Nothing()


class Nothing:
    """A meter of zeros."""

    catch: tuple[str, ...] = ()

    def measure(self, evidence: Any, units: Any) -> Tensor:
        """(B, units) float64."""
        return torch.zeros(len(evidence.logits), len(units), dtype=torch.float64)


def strategies_of(experiment: Experiment) -> dict[str, Strategy]:
    """By the name in the tables."""
    from segal.jobs.strategies import configure_run

    wanted = {name: {"name": "isal", **how} for name, how in ISAL.items()}
    wanted |= {name: {"name": "ralif", "diversity": "none", **how} for name, how in RALIF.items()}
    return {
        name: configure_run({**experiment.raw, "strategy": how})[1]
        for name, how in (wanted | OTHERS).items()
    }


def scores_of(
    strategies: dict[str, Strategy], table: CandidateTable
) -> dict[str, NDArray[np.float64]]:
    """Each strategy's own scores of all candidates, of which the lowest ought to help most.

    Of all but entropy the score is a predicted change of a loss, or a predicted loss.
    """
    none = np.zeros(0, np.int64)
    found = {}
    for name, strategy in strategies.items():
        generator = torch.Generator().manual_seed(0)
        picks = strategy.select(table, table.view(none, none), len(table), generator)
        values = np.full(len(table), np.nan)
        values[np.asarray(picks.rows)] = picks.scores
        found[name] = -values if name == "entropy" else values
    return found


def rank_correlation(a: Any, b: Any) -> float:
    """Spearman's."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def measure_seed(
    experiment: Experiment, seed: int, count: int, gradient_norm: float
) -> dict[str, Any]:
    """What came of a seed, as it is written."""
    clock, model = Clock(), experiment.model
    bought = experiment.seed_set(seed)
    looked_at = experiment.look_at(seed, bought)
    x, y, theta = experiment.train(seed, bought)
    clock("train")
    settings = experiment.config.train
    base = Problem.plain(with_one(x), y, settings.weight_decay)
    near = base.hessian(theta, torch.float32)
    factor = torch.linalg.cholesky(near)
    del near
    clock("hessian")
    alone = fit_all(base, theta, factor, 1e-3 * gradient_norm)
    trained, theta = theta, alone.theta[0]
    with torch.no_grad():
        model.head.weight.copy_(theta[:, :-1, None, None])
        model.head.bias.copy_(theta[:, -1])
    clock("optimum")
    table, scores, notes = experiment.scan(seed, bought)
    clock("scan")

    free = np.flatnonzero([table.images[i] not in bought for i in table.image])
    order = free[np.argsort(scores[EXACT][free], kind="stable")]
    start = float(np.random.default_rng([seed, count]).random())
    rows = evenly(order, count, start)
    problem, wrong = experiment.with_regions(base, theta, table, rows, bought)
    clock("regions")
    fits = fit_all(problem, theta, factor, gradient_norm)
    clock("retraining")
    predicted = problem.some(torch.arange(count))
    little = replace(predicted, own_w=LITTLE * predicted.own_w)
    little_fits = fit_all(little, theta, factor, 1e-2 * gradient_norm)
    clock("little weight")

    standardise = model.network.standardise
    effects: dict[str, list[float]] = {}
    linear: dict[str, list[float]] = {}
    losses = {}
    for name, grid in (("val", experiment.val), ("pool", experiment.pool)):
        kept = grid.label != 255 if name == "val" else torch.isin(grid.image, looked_at)
        features = (grid.x[kept] - standardise.mean) * standardise.scale
        label = grid.label[kept] if name == "val" else classes_of(features, theta)
        direction = inverse_times(base, theta, factor, set_gradient(features, label, theta))
        change = changes_of_loss(features, label, theta, fits.theta)
        first = predicted_effects(problem, theta, direction)
        for place, labels in enumerate(LABELS):
            part = slice(place * count, (place + 1) * count)
            effects[f"{name}/{labels}"] = change[part].tolist()
            linear[f"{name}/{labels}"] = first[part].tolist()
        if name == "val":
            effects["val/little"] = changes_of_loss(
                features, label, theta, little_fits.theta
            ).tolist()
            linear["val/little"] = predicted_effects(little, theta, direction).tolist()
            losses = {
                "trained": mean_loss(features, label, trained),
                "optimum": mean_loss(features, label, theta),
            }
    clock("effects")
    return {
        "seed": seed,
        "labelled": sorted(bought),
        "notes": notes,
        "losses": losses,
        "gradient_norm": max(float(alone.norms[0]), float(fits.norms.max())),
        "steps": [alone.steps, fits.steps],
        "regions": [[table.images[table.image[r]], *table.box[r].tolist()] for r in rows],
        "weight": problem.own_w.sum(1)[:count].tolist(),
        "wrong": wrong,
        "scores": {name: values[rows].tolist() for name, values in scores.items()},
        "with exact, of all": {
            name: rank_correlation(values[free], scores[EXACT][free])
            for name, values in scores.items()
        },
        "damping 100 with identity, of all": rank_correlation(
            scores[DAMPED][free], scores[IDENTITY][free]
        ),
        "linear": linear,
        "effects": effects,
        "seconds": clock.seconds,
    }


def classes_of(x: Tensor, theta: Tensor) -> Tensor:
    """(n,) likeliest classes of (n, D) features."""
    return torch.cat([(with_one(p.double()) @ theta.T).argmax(1) for p in x.split(ROWS)])


def mean_loss(x: Tensor, y: Tensor, theta: Tensor) -> float:
    """Mean cross-entropy, in nats."""
    total = 0.0
    for part, classes in zip(x.split(ROWS), y.split(ROWS), strict=True):
        log_p = (with_one(part.double()) @ theta.T).log_softmax(1)
        total -= float(log_p.gather(1, classes[:, None]).sum())
    return total / len(x)


def measure(arguments: argparse.Namespace) -> None:
    """All seeds that are not there yet."""
    from segal.system.files import write_json

    arguments.out.mkdir(parents=True, exist_ok=True)
    first, last = map(int, arguments.seeds.split(":"))
    missing = [s for s in range(first, last) if not (arguments.out / f"seed-{s}.json").exists()]
    if not missing:
        return
    experiment = Experiment(arguments)
    for seed in missing:
        found = measure_seed(experiment, seed, arguments.regions, arguments.gradient_norm)
        write_json(arguments.out / f"seed-{seed}.json", found)
        seconds = found["seconds"]
        print(f"seed {seed}: {sum(seconds.values()):.0f} s: {seconds}", flush=True)


def columns_of(found: list[dict[str, Any]]) -> dict[str, dict[str, NDArray[np.float64]]]:
    """By score and by effect, the rank correlation at each seed; `linear` is of its own effect."""
    names = list(found[0]["scores"])
    effects = [f"{of}/{labels}" for of in EFFECTS for labels in LABELS]

    def over_seeds(effect: str, name: str) -> NDArray[np.float64]:
        return np.array(
            [
                rank_correlation(
                    one["linear"][effect] if name == LINEAR else one["scores"][name],
                    one["effects"][effect],
                )
                for one in found
            ]
        )

    return {name: {e: over_seeds(e, name) for e in effects} for name in [LINEAR, *names]}


def interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % t interval."""
    from scipy.stats import t

    mean, n = float(values.mean()), len(values)
    half = float(t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5) if n > 1 else float("nan")
    return mean, mean - half, mean + half


def summary(arguments: argparse.Namespace) -> None:
    """Prints tables for the page, and draws the chart."""
    from segal.functional.significance import holm, sign_flip

    paths = sorted(arguments.out.glob("seed-*.json"), key=lambda p: int(p.stem.split("-")[1]))
    found = [json.loads(path.read_text()) for path in paths]
    columns = columns_of(found)
    effects = list(columns[LINEAR])
    print(f"{len(found)} seeds: {[one['seed'] for one in found]}\n")
    print("| score | " + " | ".join(effects) + " |")
    print("|" + "---|" * (len(effects) + 1))
    for name, by_effect in columns.items():
        cells = ["{:.2f} [{:.2f}, {:.2f}]".format(*interval(by_effect[e])) for e in effects]
        print(f"| {name} | " + " | ".join(cells) + " |")
    differences = [(a, b, e, columns[a][e] - columns[b][e]) for a, b, e in CONTRASTS]
    tests = [sign_flip(difference) for *_, difference in differences]
    adjusted = holm([test.p for test in tests])
    print("\n| contrast | effect | difference | p | p (Holm) |\n|---|---|---|---|---|")
    for (a, b, effect, difference), test, p in zip(differences, tests, adjusted, strict=True):
        mean, low, high = interval(difference)
        print(f"| {a} - {b} | {effect} | {mean:+.2f} [{low:+.2f}, {high:+.2f}] "
              f"| {test.p:.2g} | {p:.2g} |")  # fmt: skip
    agree = [
        rank_correlation(one["linear"]["val/predicted"], one["scores"][EXACT]) for one in found
    ]
    print("\nexact with the first order on the pixels that are added: "
          "{:.3f} [{:.3f}, {:.3f}]".format(*interval(np.array(agree))))  # fmt: skip
    for label, of in (("of the exact score with", "with exact, of all"),):
        for name in found[0][of]:
            values = np.array([one[of][name] for one in found])
            print("all candidates, {} {}: {:.3f} [{:.3f}, {:.3f}]".format(
                label, name, *interval(values)))  # fmt: skip
    values = np.array([one["damping 100 with identity, of all"] for one in found])
    print("all candidates, damping 100 with identity: {:.5f} [{:.5f}, {:.5f}]".format(
        *interval(values)))  # fmt: skip
    for effect in [*effects, "val/little"]:
        slopes = [
            float(np.polyfit(one["linear"][effect], one["effects"][effect], 1)[0]) for one in found
        ]
        sizes = [float(np.std(one["effects"][effect])) for one in found]
        means = [float(np.mean(one["effects"][effect])) for one in found]
        print(f"{effect}: effect {np.mean(means):+.1e} on average, {np.mean(sizes):.1e} between "
              f"regions; slope on the first order {np.mean(slopes):.2f}")  # fmt: skip
    for key in ("trained", "optimum"):
        print(f"loss on val, {key}: {np.mean([one['losses'][key] for one in found]):.3f}")
    print(f"largest gradient norm {max(one['gradient_norm'] for one in found):.1e}; "
          f"steps at most {max(max(one['steps']) for one in found)}")  # fmt: skip
    pairs = [
        (np.array(o["linear"]["val/little"]), np.array(o["effects"]["val/little"])) for o in found
    ]
    apart = [float(np.abs(first - real).max() / np.abs(real).max()) for first, real in pairs]
    rank = [rank_correlation(*pair) for pair in pairs]
    print(f"at {LITTLE:g} of the weight: rank correlation of the first order with the effect "
          f"{min(rank):.4f} at least, at most {max(apart):.1e} of the largest apart")  # fmt: skip
    wrong = np.array([w for one in found for w in one["wrong"]])
    print(f"pixels of the regions that the network has wrong: {wrong.mean():.3f}")
    print("seconds a seed: "
          f"{np.mean([sum(one['seconds'].values()) for one in found]):.0f}")  # fmt: skip
    for note in sorted({note for one in found for note in one["notes"]})[:20]:
        print(note)
    if arguments.chart is not None:
        arguments.chart.write_bytes(chart(columns))


def chart(columns: dict[str, dict[str, NDArray[np.float64]]]) -> bytes:
    """Rank correlations with the effect on val: a row a score, a dot a seed."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from segal.pictures.sheet import steady_style

    names = [LINEAR, *ISAL, IDENTITY, "entropy"]
    with steady_style():
        figure = Figure((9.0, 0.42 * len(names) + 1.2), dpi=96, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 2, sharey=True)
        titles = ("labelled as the network predicts", "labelled truly")
        for axes, labels, title in zip(panels, LABELS, titles, strict=True):
            for place, name in enumerate(names):
                values = columns[name][f"val/{labels}"]
                mean, low, high = interval(values)
                axes.scatter(values, [place] * len(values), s=14, color="#0072b2", alpha=0.35, lw=0)
                axes.plot([low, high], [place, place], color="#30343a", lw=2)
                axes.scatter([mean], [place], s=44, color="#d55e00", zorder=3)
            axes.axvline(0, color="#30343a", lw=0.8)
            axes.set_yticks(range(len(names)), names)
            axes.set_xlim(-1.03, 1.03)
            axes.grid(color="#dfe2e6", lw=0.8, axis="x")
            axes.set_axisbelow(True)
            axes.set_title(title, loc="left", fontsize=11, color="#30343a")
            axes.set_xlabel("rank correlation with the effect on val")
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        panels[0].invert_yaxis()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": "segal"})
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    subparsers = parser.add_subparsers(required=True)
    command = subparsers.add_parser("measure")
    command.set_defaults(work=measure)
    command.add_argument("--data", type=Path, required=True, help="CamVid's folder")
    command.add_argument("--encoder-weights", type=Path, required=True)
    command.add_argument("--store", type=Path, required=True, help="of the encoder's outputs")
    command.add_argument("--seeds", default="0:20", help="from:to, the last one left out")
    command.add_argument("--regions", type=int, default=40)
    command.add_argument("--images", type=int, default=120, help="of the pool, beside the labelled")
    command.add_argument("--gradient-norm", type=float, default=1e-7)
    command.add_argument("--out", type=Path, required=True, help="a folder, a file for each seed")
    command = subparsers.add_parser("summary")
    command.set_defaults(work=summary)
    command.add_argument("--out", type=Path, required=True, help="of measure")
    command.add_argument("--chart", type=Path, help="a PNG file that is drawn")
    arguments = parser.parse_args()
    arguments.work(arguments)


if __name__ == "__main__":
    main()
