"""Pictures of where accepting a network's own prediction would hurt, element by element."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from segal import __version__
from segal.config import LabelsConfig, MachineConfig, ModelConfig, validate
from segal.config.sections import ImagesSection
from segal.config.values import Paths, TaskName
from segal.data.image_sets import ImageSet, SetName
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool
from segal.errors import SegalError, raise_all
from segal.jobs.inputs import check_channels, image_shapes, refuse_out_within
from segal.jobs.labelled import Labelled
from segal.jobs.losses import TrainedBy, loss_notes
from segal.jobs.network import with_folder
from segal.jobs.reference import check_apart, open_labels, reference_cost
from segal.jobs.strategies import check_signals
from segal.models.build import check_image_sizes
from segal.models.checkpoint import CheckpointOptions, load_checkpoint
from segal.models.spec import DEFAULT_TASK, ModelSpec
from segal.scanning.workbench import Bench, ScanSettings
from segal.signals import Direction, Value
from segal.signals.directional import Directional, DirectionalMeter
from segal.signals.directions import Influence, Inverse, ReferenceGradient
from segal.system.console import bar, say, tell
from segal.system.files import remove, replacing, write_json
from segal.system.machine import find_device, precision_note, readers, use_threads
from segal.tasks import TASKS, find_task, task_of
from segal.tasks.classes import check_classes
from segal.tasks.explaining import Explainer, Explaining, Pictures, ScoredImage

PICTURES_FOLDER, MAPS_FOLDER, SUMMARY_FILE = "pictures", "maps", "explain.json"
Score = Literal["error_change", "influence"]
_CAPTIONS: Mapping[Score, str] = {"error_change": "error change", "influence": "influence"}
_LAYERS: Mapping[Score, str] = {"error_change": "last_two", "influence": "last"}


class ExplainConfig(ImagesSection):
    """Configuration of `segal explain`, beside what `ImagesSection` has.

    Attributes:
        task: As in `SelectConfig`.
        images: Folder of images.
        checkpoint: The network.
        model: What the checkpoint does not say.
        reference: Labelled images whose loss the score is about; none of them may be among the
            images.
        score: `error_change`, how the loss of the reference set changes with a small step on the
            pixel and its prediction (S_a of IWPS, eq. 10); `influence`, with the pixel and its
            prediction added to what the network is trained on, and training to the end (ISAL,
            eq. 2).
        layers: What is differentiated by: `last`, `last_two`, `all` or the name of a module. None:
            `last_two` for the error change, `last` for influence, as the strategies have it.
        labelled: Selections and run folders of what is labelled, on which influence takes the
            Hessian; on the reference set without any.
        skip_missing: As in `SelectConfig`.
        damping: Added to the Hessian's eigenvalues.
        count: How many images, spread evenly over the folder; None for all.
        raw: Also write the maps as `.npy` files.
        out: Takes the pictures, the maps and a summary.
        seed: Of the pixels that a Hessian is taken on.
        precision: Of the network's forward pass.
        skip_unreadable: As in `SelectConfig`.
        follow_links: Likewise.
        machine: How to run.
    """

    task: TaskName = DEFAULT_TASK
    images: Path
    checkpoint: Path | None = None
    model: ModelConfig = ModelConfig()
    reference: LabelsConfig
    score: Score = "error_change"
    layers: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    labelled: Paths = ()
    skip_missing: bool = False
    damping: Annotated[float, Field(ge=0)] = 0.01
    count: Annotated[int, Field(ge=1)] | None = None
    raw: bool = False
    out: Path
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    skip_unreadable: bool = False
    follow_links: bool = False
    machine: MachineConfig = MachineConfig()

    def direction(self) -> Direction:
        """What the pixels' gradients are compared with."""
        usual = find_task(self.task).strategy_defaults.get("layers", _LAYERS[self.score])
        layers = self.layers or str(usual)
        if self.score == "error_change":
            return ReferenceGradient("val", layers)
        return Influence(
            "val", layers, Inverse(damping=self.damping), "labelled" if self.labelled else "val"
        )


@dataclass(frozen=True)
class Explained:
    """An image and what is known of it.

    Attributes:
        image: Its path, relative to the folder of images.
        picture: File name of the picture that shows it; None where there is none.
        mean: Of the score over its elements.
        hurting: Share of its elements whose score is above 0.
        entropy: Mean over its elements, in nats.
    """

    image: str
    picture: str | None
    mean: float
    hurting: float
    entropy: float


@dataclass(frozen=True)
class Explanation:
    """What was written.

    Attributes:
        out: The folder.
        images: In candidate order.
        notes: What the user was told.
    """

    out: Path
    images: Sequence[Explained]
    notes: Sequence[str]


def configure_explanation(raw: Mapping[str, Any]) -> ExplainConfig:
    """Validates a configuration.

    Raises:
        SegalError: With all mistakes at once.
    """
    config, mistakes = validate(ExplainConfig, raw)
    if raw.get("task") in TASKS:
        try:
            find_task(str(raw["task"])).check_explained()
        except SegalError as error:
            mistakes.append(error)
    raise_all(mistakes)
    assert config is not None
    return config


def run_explanation(config: ExplainConfig) -> Explanation:
    """Writes pictures of images with their maps, and the maps themselves if asked to.

    Args:
        config: The configuration.

    Raises:
        SegalError: For anything that the user can mend.
    """
    device = find_device(config.machine.device)
    use_threads(config.machine.threads)
    refuse_out_within(config.out, config.images, "folder of images")
    config = with_folder(config)
    if config.checkpoint is None:
        raise SegalError(
            "checkpoint: missing",
            expected="the network whose predictions are looked at",
            got="no --checkpoint",
            remedy="give --checkpoint FILE",
        )
    options = CheckpointOptions(**config.model.model_dump(), task=config.task)
    model = load_checkpoint(config.checkpoint, options).to(device)
    model.check()
    signals = [Directional(config.direction())]
    check_signals(signals, model, "explain")
    of_loss = loss_notes(signals, TrainedBy.checkpoint(config.checkpoint), "explain")
    reference = open_labels(task_of(model.spec), config.reference.beside(config), config.machine)
    check_classes(model.spec, reference)
    pool = _open_pool(model.spec, config)
    check_channels(model.spec, reference.pool, pool)
    check_image_sizes(model, image_shapes(reference.pool) | image_shapes(pool))
    say(model.spec.input_line)
    tell(*pool.notes())
    check_apart(reference.pool, pool)
    workers = readers(config.machine.workers, device)
    settings = ScanSettings(device, config.machine.batch_size, workers, config.precision)
    sets = _sets(config, pool, reference)
    bench = Bench(model, task_of(model.spec), settings, sets, config.seed)
    slow = precision_note(device, config.precision)
    for note in [*model.notes, *of_loss, *([slow] if slow else [])]:
        bench.note(note)
    if config.score == "influence" and not config.labelled:
        bench.note(
            "The Hessian is taken on the reference set; give --labelled FILE to take it on what "
            "the network was trained on."
        )
    with TemporaryDirectory() as scratch:
        return _Explaining(config, pool, reference, bench, Path(scratch)).run()


def _open_pool(spec: ModelSpec, config: ExplainConfig) -> ImagePool:
    with bar("Checking images") as advance:
        return task_of(spec).open_pool(
            config.images,
            classes=spec.num_classes,
            skip_unreadable=config.skip_unreadable,
            follow_links=config.follow_links,
            reading=config.reading,
            workers=readers(config.machine.workers),
            progress=advance,
        )


def _sets(
    config: ExplainConfig, pool: ImagePool, reference: LabelledDataset
) -> dict[SetName, ImageSet]:
    count = min(config.count or len(pool), len(pool))
    shown = [i * len(pool) // count for i in range(count)]
    whole = {i: [(0, 0, pool.size(i)[1], pool.size(i)[0])] for i in shown}
    sets: dict[SetName, ImageSet] = {
        "val": ImageSet(reference.pool, reference),
        "pool": ImageSet(pool, inside=whole),
    }
    if config.labelled:
        given = Labelled.open(config.labelled, skip_missing=config.skip_missing)
        sets["labelled"] = ImageSet(pool, inside=given.boxes(pool))
        tell(*given.notes)
    return sets


class _Explaining:
    """One explanation at work: a pass over the images, then the drawing."""

    def __init__(
        self,
        config: ExplainConfig,
        pool: ImagePool,
        reference: LabelledDataset,
        bench: Bench,
        scratch: Path,
    ) -> None:
        self.config, self.pool, self.bench, self.reference = config, pool, bench, reference
        self.explaining = Explaining(
            pool, reference.classes, config.score, _CAPTIONS[config.score], scratch
        )

    def run(self) -> Explanation:
        config = self.config
        explainer = self.bench.task.explainer(self.explaining)
        maps = config.out / MAPS_FOLDER
        if config.raw:
            with replacing(maps) as folder:
                folder.mkdir()
                measured = self.measure(explainer, folder)
        else:
            measured = self.measure(explainer, None)
            remove(maps)  # those of an earlier run are not of these pictures
        with replacing(config.out / PICTURES_FOLDER) as folder, bar("Drawing") as advance:
            folder.mkdir()
            pictures = explainer.draw(folder, advance)
        explained = [
            Explained(name, picture, *numbers)
            for (name, *numbers), picture in zip(measured, pictures.files, strict=True)
        ]
        write_json(config.out / SUMMARY_FILE, self.summary(explained, pictures))
        return Explanation(config.out, explained, self.bench.notes)

    @torch.no_grad()
    def measure(
        self, explainer: Explainer, maps: Path | None
    ) -> list[tuple[str, float, float, float]]:
        """The pass over the images: path, mean, share that hurts, and mean entropy of each."""
        signal = Directional(self.config.direction())
        meter = signal.prepare(self.bench)
        positions = {path: i for i, path in enumerate(self.pool.paths)}
        measured: list[tuple[str, float, float, float]] = []
        for name, logits, entropy, scores in _maps(self.bench, meter):
            if not np.isfinite(scores).all():
                raise SegalError(
                    f"{name}: the {self.explaining.caption} is not finite",
                    expected="finite logits and features from the network",
                    got="NaN or infinity",
                    remedy="check --mean and --std, and the checkpoint; with fp16, try fp32",
                )
            stem = f"{len(measured) + 1:04d}_{_plain(name)}"
            image = ScoredImage(positions[name], stem, logits, entropy, scores)
            explainer.add(image)
            measured.append((name, image.mean, image.hurting, image.mean_entropy))
            if maps is not None:
                np.save(maps / f"{stem}.entropy.npy", entropy)
                np.save(maps / f"{stem}.{self.config.score}.npy", scores)
        return measured

    def summary(self, explained: Sequence[Explained], pictures: Pictures) -> dict[str, object]:
        return {
            "segal": __version__,
            "configuration": self.config.model_dump(mode="json"),
            "direction": self.config.direction().name,
            "reference": reference_cost(self.reference),
            "scales": dict(pictures.scales),
            "images": [vars(image) for image in explained],
            "notes": list(self.bench.notes),
        }


Array = NDArray[np.float32]


def _maps(bench: Bench, meter: DirectionalMeter) -> Iterator[tuple[str, Tensor, Array, Array]]:
    """Path, logits, entropy and score of every image.

    The score is minus the derivative of an element's loss along the direction: how the loss of the
    reference set changes to first order.
    """
    entropy = Value("entropy")
    for visit in bench.visit("pool", meter.catch):
        evidence = visit.evidence
        entropies = entropy.element_map(evidence).float().cpu().numpy()
        scores = meter.element_map(evidence).neg().float().cpu().numpy()
        yield from zip(evidence.images, evidence.logits, entropies, scores, strict=True)


def _plain(image: str) -> str:
    """An image's name without its folder and suffix, of characters that any system takes."""
    return re.sub(r"[^\w-]+", "_", PurePosixPath(image).stem, flags=re.ASCII)[:80]
