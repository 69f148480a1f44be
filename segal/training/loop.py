"""Fine-tunes a network on labelled regions only.

A sample is drawn as a region, in proportion to its pixels, and a crop around it; what lies outside
the labelled regions is ignore index before anything else sees it. Sample n of a training depends on
(seed, n) alone and dropout at step t on (seed, t), so that neither the number of workers nor an
interruption changes a result.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from segal.candidates.kept import Images, Kept
from segal.candidates.regions import Box
from segal.data.kept import KeptPool
from segal.data.labelled import LabelledDataset
from segal.data.pool import one_of
from segal.data.prefetch import prefetch
from segal.errors import SegalError
from segal.functional.labels import count_labelled, keep_regions
from segal.models.checkpoint import weights_of
from segal.models.wrapped import Model
from segal.system.digests import fingerprint
from segal.system.machine import autocast
from segal.system.ranks import ALONE, Ranks
from segal.tasks import Task, task_of
from segal.tasks.classes import check_classes
from segal.tasks.schemes import Batch, Scheme, SemiSupervised
from segal.tasks.sharing import metrics_on
from segal.training.balance import class_weights
from segal.training.convex import fit
from segal.training.parallel import Objective, over_ranks
from segal.training.pieces import Piece, RunningStatistics, check_pieces, divide
from segal.training.sampling import KeptSamples, LabelledRegions, Samples, UnlabelledSamples
from segal.training.settings import ALL_LAYERS, TrainSettings
from segal.training.state import TrainingState, copy_weights

__all__ = ["TrainResult", "TrainSettings", "train"]

Progress = Callable[[int, int, float], None]

# Streams of random numbers, beside those of segal.training.sampling.
_STEP, _LOSS_PREDICTION, _UNLABELLED, _SECOND_HEAD = 2, 3, 6, 7


@dataclass(frozen=True)
class TrainResult:
    """What came of a training; the network itself holds the weights.

    Attributes:
        steps: Optimizer steps that were taken, those before an interruption included.
        loss: Of the last step.
        validations: (step, score) of each validation.
        best_step: The step whose weights the network holds; None without validation.
        seconds: Wall-clock time of this process.
    """

    steps: int
    loss: float
    validations: tuple[tuple[int, float], ...]
    best_step: int | None
    seconds: float


def train(
    model: Model,
    dataset: LabelledDataset,
    settings: TrainSettings,
    *,
    seed: int,
    labelled: Mapping[int, Sequence[Box]] | None = None,
    validation: LabelledDataset | None = None,
    task: Task | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    ranks: Ranks = ALONE,
) -> TrainResult:
    """Trains a network in place and leaves it on `device`, in `eval()` mode.

    Args:
        model: The network. With `learning_loss` it is given a loss-prediction module, unless it has
            one, which is trained on; without, it loses its own, which would go out of date. The
            same goes for the second head of `mial`, where the network itself has none.
        dataset: Images and labels.
        settings: How to train.
        seed: Not negative; decides everything random.
        labelled: Boxes (x0, y0, x1, y1) that are labelled, by image index; labels outside them are
            not used. Images without any are unlabelled, and their labels are not read; nor are they
            themselves, unless the scheme asks for them. None: every image is labelled as a whole.
        validation: Measured now and then; the network ends with the weights that did best on it.
        task: What the network is asked; None for what its specification says.
        device: Where to train.
        progress: Called after each step with the steps done, the steps in all, and the loss.
        checkpoint: File for the state of an unfinished training (safetensors). Where it exists, the
            training goes on from there and ends, on a CPU, with the very weights that it would have
            had without the interruption. It stays after the end: the caller removes it once the
            network is saved.
        ranks: Of the job: all call this with the same, and have the same network afterwards. Rank 0
            writes the checkpoint, and fits a linear last layer, alone.

    Returns:
        What came of it.

    Raises:
        SegalError: If nothing is labelled, a box leaves its image, the network has other classes or
            cannot be trained so, the loss is not finite, or the checkpoint is damaged or belongs to
            another training.
    """
    for checked in (dataset, validation):
        if checked is not None:
            check_classes(model.spec, checked)
    task = task or task_of(model.spec)
    scheme = task.training_scheme(settings)
    scheme.check(model)
    check_pieces(settings, ranks)
    if settings.optimizer == "lbfgs":
        model.to(device)
        found = None
        if ranks.is_first:
            fitted = _fitted(model, dataset, labelled, settings, seed, task, progress)
            found = asdict(fitted)
        result = TrainResult(**ranks.told(found) | {"validations": ()})
        _share(ranks, model)
        model.eval()
        return result
    samples = _samples(model, dataset, labelled, settings, seed, task)
    weights = class_weights(settings, dataset, samples.regions, each=task.answers.each)
    scheme = task.training_scheme(settings, weights)
    run = _Run(
        model,
        samples,
        _unlabelled(scheme, samples, settings, seed, task),
        scheme,
        settings,
        seed=seed,
        validation=validation,
        task=task,
        device=torch.device(device),
        ranks=ranks,
    )
    return run(progress, checkpoint)


def _fitted(
    model: Model,
    dataset: LabelledDataset,
    labelled: Mapping[int, Sequence[Box]] | None,
    settings: TrainSettings,
    seed: int,
    task: Task,
    progress: Progress | None,
) -> TrainResult:
    """A training to the optimum of a linear last layer, of which there is one."""
    regions = LabelledRegions.of(dataset, labelled)
    _refuse_void(dataset, regions)
    weights = class_weights(settings, dataset, regions, each=task.answers.each)
    found, seconds = fit(
        *(model, dataset, regions, settings),
        seed=seed,
        class_weights=weights,
        progress=progress,
    )
    _check_finite(model, found.steps)
    return TrainResult(found.steps, found.loss, (), None, seconds)


def _samples(
    model: Model,
    dataset: LabelledDataset,
    labelled: Mapping[int, Sequence[Box]] | None,
    settings: TrainSettings,
    seed: int,
    task: Task,
) -> Samples:
    regions = LabelledRegions.of(dataset, labelled)
    _refuse_void(dataset, regions)
    pool = dataset.pool
    transform = task.transform(settings, pool.pixels(), np.unique(regions.images).tolist())
    if isinstance(pool, KeptPool):
        return KeptSamples(dataset, regions, transform, seed, pool, model.spec.channels)
    return Samples(dataset, regions, transform, seed)


def _unlabelled(
    scheme: Scheme, samples: Samples, settings: TrainSettings, seed: int, task: Task
) -> UnlabelledSamples | None:
    """What unlabelled batches are drawn from; None where the scheme draws none."""
    if not isinstance(scheme, SemiSupervised) or not scheme.unlabelled_before(settings.iterations):
        return None
    pool, labelled = samples.dataset.pool, np.unique(samples.regions.images).tolist()
    others = sorted(set(range(len(pool))) - set(labelled))
    generator = np.random.default_rng([seed, _UNLABELLED])
    images = scheme.unlabelled_images(labelled, others, generator)
    transform = task.transform(settings, pool, images)
    return UnlabelledSamples(pool, images, scheme.no_label, transform, seed)


def _refuse_void(dataset: LabelledDataset, regions: LabelledRegions) -> None:
    """Raises a SegalError if no pixel of the regions has a class; few labels are read to see it."""
    for image in np.unique(regions.images).tolist():
        if count_labelled(keep_regions(dataset.read_label(image), regions.of_image(image))):
            return
    raise SegalError(
        "nothing is labelled, so there is nothing to train on",
        expected=f"a class for one {one_of(dataset.pool.unit)} at least of what is labelled",
        got=f"{len(regions.images)} regions that are void all over",
        remedy="have other regions labelled, or check the labels with segal validate",
    )


class _Run:
    """One training, from its start or from a checkpoint."""

    def __init__(
        self,
        model: Model,
        samples: Samples,
        unlabelled: UnlabelledSamples | None,
        scheme: Scheme,
        settings: TrainSettings,
        *,
        seed: int,
        validation: LabelledDataset | None,
        task: Task,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.ranks, self.pieces = ranks, divide(settings, ranks)
        self.model, self.settings, self.seed, self.device = model, settings, seed, device
        self.task, self.validation, self.samples = task, validation, samples
        self.scheme, self.unlabelled = scheme, unlabelled
        self.identity = {
            "seed": str(seed),
            "settings": fingerprint(settings.identity()),
            "images": _fingerprint_images(samples.dataset),
            "labels": samples.dataset.digest(np.unique(samples.regions.images).tolist()),
            "labelled regions": fingerprint(samples.regions.images, samples.regions.boxes),
            "validation images": _fingerprint_images(validation),
            "validation labels": "" if validation is None else validation.digest(),
            "network": fingerprint(model.spec.as_dict(), *model.network.state_dict().values()),
        }
        if settings.learning_loss is None:
            model.loss_prediction = None
        else:
            module = model.loss_prediction or model.add_loss_prediction(
                self._derived_seed(_LOSS_PREDICTION)
            )
            self.identity["loss prediction"] = fingerprint(*module.state_dict().values())
        if not scheme.second_head:
            model.second_head = None
        else:
            second = model.second_head or model.add_second_head(self._derived_seed(_SECOND_HEAD))
            self.identity["second head"] = fingerprint(*second.state_dict().values())
        model.to(device)
        self.frozen = _Frozen.of(model, settings)
        self.optimizer = _optimizer(_parameter_groups(model, self.frozen.parameters), settings)
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self.state = TrainingState()

    def __call__(self, progress: Progress | None, checkpoint: Path | None) -> TrainResult:
        started, settings, state = time.perf_counter(), self.settings, self.state
        if self.ranks.told(checkpoint is not None and checkpoint.exists()):
            assert checkpoint is not None
            state.load(
                checkpoint, self.identity, weights_of(self.model), self.optimizer, self.scaler
            )
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), _without_gradient(self.frozen.parameters):
            objective = Objective(self.model, self.scheme)
            self.loss, self.apart = over_ranks(objective, self.ranks, self.device)
            for drawn in self._batches(state.step):
                state.loss = self._step(drawn)
                state.step += 1
                if progress is not None:
                    progress(state.step, settings.iterations, state.loss)
                kept = self.scheme.validates(state.step - 1)
                if self.validation is not None and kept and self._validation_is_due():
                    self._validate(self.validation)
                    if settings.patience is not None and state.worse >= settings.patience:
                        break
                if checkpoint is not None and state.step % settings.checkpoint_every == 0:
                    _check_finite(self.model, state.step)
                    if self.ranks.is_first:
                        state.save(
                            checkpoint,
                            self.identity,
                            weights_of(self.model),
                            self.optimizer,
                            self.scaler,
                        )
        _check_finite(self.model, state.step)
        if state.best is not None:
            copy_weights(state.best, weights_of(self.model))
        _share(self.ranks, self.model)
        self.model.eval()
        return TrainResult(
            steps=state.step,
            loss=state.loss,
            validations=tuple(state.validations),
            best_step=state.best_step,
            seconds=time.perf_counter() - started,
        )

    def _batches(self, step: int) -> Iterator[list[list[Batch]]]:
        """Of each step from this one on, and each of this rank's pieces of it, its batches.

        They are a labelled one, and perhaps an unlabelled one.
        """
        count, before = self.settings.iterations, self.scheme.unlabelled_before
        # The next batch is read while the network works on this one.
        pairs = self._read(self.samples, range(step, count))
        others: Iterator[Any] = iter(())
        if self.unlabelled is not None:
            others = self._read(self.unlabelled, range(before(step), before(count)))
        for number in range(step, count):
            sources = [pairs, *([others] if before(number + 1) > before(number) else [])]
            yield [
                [
                    Batch(*self._stack([next(source) for _ in piece.samples]), source is others)
                    for source in sources
                ]
                for piece in self._own_pieces
            ]

    @property
    def _own_pieces(self) -> list[Piece]:
        return self.pieces[self.ranks.rank]

    def _read(self, samples: Callable[[int], Any], batches: range) -> Iterator[Any]:
        """This rank's samples of whole batches, read ahead."""
        size = self.settings.batch_size
        own = [sample for piece in self._own_pieces for sample in piece.samples]
        numbers = (batch * size + sample for batch in batches for sample in own)
        return prefetch(samples, numbers, self.settings.workers, depth=len(own))

    def _stack(self, samples: Sequence[tuple[Any, Any]]) -> tuple[Images, Any]:
        images, labels = zip(*samples, strict=True)
        if isinstance(images[0], Kept):
            return Kept.stack(images), torch.from_numpy(np.stack(labels))
        return self.task.stack(samples)

    def _step(self, drawn: Sequence[Sequence[Batch]]) -> float:
        settings, step = self.settings, self.state.step
        moving = self.scheme.moving(step, self.model)
        self.model.train()
        for module in [*self.frozen.modules, *_still_batchnorms(self.model, moving)]:
            module.eval()
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate(step)
        self.optimizer.zero_grad()
        shares, value = self._shares(drawn), 0.0
        statistics = RunningStatistics(self.model, self.pieces)
        with _without_gradient(_resting(self.model, moving)):
            for piece, batches, share in zip(self._own_pieces, drawn, shares, strict=True):
                stream = (_STEP, step, piece.number) if piece.number else (_STEP, step)
                torch.manual_seed(self._derived_seed(*stream))
                is_last = piece is self._own_pieces[-1]
                with nullcontext() if is_last else self.apart():
                    value += share * self._take_back(batches, share, statistics)
        value = self._sum(value)
        if not math.isfinite(value):
            raise _diverged(step + 1, f"a loss of {value}", settings.learning_rate(step))
        statistics.settle(self.ranks)
        if settings.grad_clip is not None:
            self.scaler.unscale_(self.optimizer)
            for group in self.optimizer.param_groups:
                nn.utils.clip_grad_norm_(group["params"], settings.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value

    def _take_back(
        self, batches: Sequence[Batch], share: float, statistics: RunningStatistics
    ) -> float:
        """Adds a piece's part to the gradient of the whole batch's loss, and returns its own."""
        given = [self._on_device(one) for one in batches]
        with statistics.of_piece(), autocast(self.device, self.settings.precision):
            loss = self.loss(self.state.step, given)
        part = loss * (share * self.ranks.count)  # since gradients of ranks are averaged
        with self.ranks.together():
            self.scaler.scale(part).backward()
        return float(loss.detach())

    def _shares(self, drawn: Sequence[Sequence[Batch]]) -> list[float]:
        """What each of this rank's pieces counts in the loss of the batch; 1 in all."""
        count = sum(map(len, self.pieces))
        if count == 1:
            return [1.0]
        masses = [self.scheme.mass(batches) for batches in drawn]
        whole = self._sum(sum(masses))
        return [mass / whole if whole else 1 / count for mass in masses]

    def _sum(self, own: float) -> float:
        """Of all ranks."""
        return float(self.ranks.gather(torch.tensor([own], dtype=torch.float64)).sum())

    def _on_device(self, batch: Batch) -> Batch:
        images = self.model.normalise(batch.images.to(self.device))
        return Batch(images, batch.labels.to(self.device), batch.unlabelled)

    def _derived_seed(self, *stream: int) -> int:
        state = np.random.SeedSequence([self.seed, *stream]).generate_state(1, np.uint64)
        return int(state[0])

    def _validation_is_due(self) -> bool:
        every = self.settings.validate_every
        if every == 0:
            return False
        every = every or math.ceil(self.settings.iterations / 10)
        return self.state.step % every == 0 or self.state.step == self.settings.iterations

    def _validate(self, validation: LabelledDataset) -> None:
        metrics = metrics_on(
            *(self.ranks, self.task, self.model, validation),
            device=self.device,
            batch_size=self.settings.batch_size,
            workers=self.settings.workers,
            precision=self.settings.precision,
        )
        self.state.record(metrics.score, weights_of(self.model))


def _share(ranks: Ranks, model: Model) -> None:
    """Gives all ranks the weights of rank 0, to the last bit."""
    if ranks.count == 1:
        return
    with torch.no_grad():
        for value in weights_of(model).values():
            sent = value.detach().cpu().contiguous()
            ranks.fill(sent)
            value.copy_(sent)


def _fingerprint_images(dataset: LabelledDataset | None) -> str:
    if dataset is None:
        return fingerprint(None)
    return fingerprint(tuple(dataset.pool.paths), [info.digest for info in dataset.pool.infos])


def _optimizer(
    groups: Sequence[Sequence[nn.Parameter]], settings: TrainSettings
) -> torch.optim.Optimizer:
    parameters = [{"params": list(group)} for group in groups]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay)


@dataclass(frozen=True)
class _Frozen:
    """What a training leaves as it is.

    Attributes:
        modules: Those that stay in `eval()` mode.
        parameters: Those that do not move.
    """

    modules: Sequence[nn.Module]
    parameters: Sequence[nn.Parameter]

    @classmethod
    def of(cls, model: Model, settings: TrainSettings) -> "_Frozen":
        modules = _batchnorms(model) if settings.batchnorm == "frozen" else []
        parameters = [p for module in modules for p in module.parameters()]
        if settings.layers != ALL_LAYERS:
            cut = model.cut(settings.layers)
            modules += cut.frozen_modules()
            parameters += cut.frozen_parameters()
        return cls(modules, list(dict.fromkeys(parameters)))


def _batchnorms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def _still_batchnorms(model: nn.Module, moving: Collection[str] | None) -> list[nn.Module]:
    """Those of which no parameter moves: what they count must not move features either."""
    if moving is None:
        return []
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not any(f"{name}.{one}" in moving for one, _ in module.named_parameters())
    ]


def _parameter_groups(model: Model, frozen: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Those of its heads and all before; of its loss prediction. Gradients are clipped apart."""
    left_out = {id(parameter) for parameter in frozen}
    groups: list[list[nn.Module | None]] = [
        [model.network, model.second_head],
        [model.loss_prediction],
    ]
    there = [[part for part in group if part is not None] for group in groups]
    return [
        [p for x in parts for p in x.parameters() if p.requires_grad and id(p) not in left_out]
        for parts in there
        if parts
    ]


@contextmanager
def _without_gradient(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    still = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in still:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in still:
            parameter.requires_grad_(True)


def _resting(model: nn.Module, moving: Collection[str] | None) -> list[nn.Parameter]:
    """The parameters that a step does not move; none where it moves all that can be trained."""
    named = model.named_parameters()
    return [p for name, p in named if moving is not None and name not in moving]


def _check_finite(model: nn.Module, step: int) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise _diverged(step, f"values in {name} that are not finite", None)


def _diverged(step: int, got: str, lr: float | None) -> SegalError:
    return SegalError(
        f"the training diverged at step {step}",
        expected="a finite loss and finite weights",
        got=got if lr is None else f"{got} at a learning rate of {lr:.3g}",
        remedy="lower lr or set grad_clip; with precision fp16, try bf16 or fp32",
    )
