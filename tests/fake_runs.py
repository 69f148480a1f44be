"""Run folders of `segal run` made in a moment: no network, but the real ledger and the real files.

The score of every round is what the test asks for (a mIoU to about 1e-4, an accuracy to the image,
a mAP to 1e-3), so that it knows which arm must come out ahead, and by how much.
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from segal.candidates.budget import Budget
from segal.candidates.regions import RegionSize
from segal.candidates.selection import Selected, write_selection
from segal.candidates.table import CandidateTable, TableWriter
from segal.config import RunConfig
from segal.data.images import ImageInfo
from segal.data.pool import ImagePool
from segal.functional.batch import batch_statistics
from segal.runs.history import (
    CANDIDATES_FOLDER,
    COMMAND,
    CONFIG_FILE,
    EVALUATION_FILE,
    METRICS_FILE,
    OVERLAYS_FOLDER,
    PICKS_FILE,
    SELECTION_FILE,
    round_folder,
)
from segal.runs.ledger import Ledger, Purchase
from segal.runs.run_folder import fingerprint
from segal.tasks.classification.evaluation import ClassificationEvaluation, MultilabelEvaluation
from segal.tasks.evaluation import Evaluation
from segal.tasks.segmentation.evaluation import SAMPLED_PIXELS, SegmentationEvaluation

CLASSES = ("road", "building", "sky", "car", "tree", "sign")
HEIGHT, WIDTH = 256, 384
FEATURES = 12
TEST_IMAGES = 10
CLASSIFIED_IMAGES = 600
"""Of the test split where whole images are classified."""
_CLASS_PIXELS = 10_000
"""Of every class in every test image: a score is a multiple of about 1e-4."""


def make_run(
    folder: Path,
    *,
    task: str = "segmentation",
    strategy: str | Mapping[str, object] = "uwe",
    region: str | None = None,
    seed: int = 0,
    scores: Sequence[float] = (0.40, 0.50, 0.56),
    images: int = 12,
    classes: Sequence[str] = CLASSES,
    absent: Sequence[str] = (),
    seed_set: str = "2img",
    budget: str = "10%",
    full: bool = False,
    clicks: bool = True,
    measured: bool = True,
    noise: float = 0.0,
    settings: Mapping[str, object] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Makes the folder of a finished run.

    Args:
        folder: The run folder; a folder that is not there yet.
        task: `segmentation`, `classification`, or `multilabel`.
        strategy: Its name, or its name and parameters.
        region: Region size of what is selected; 64, or whole images where these are classified.
        seed: Of the seed set, the picks and the noise.
        scores: On the test split by round.
        images: Of the pool, 256 x 384 pixels each, or as many elements as a task has.
        classes: Their names.
        absent: Names of classes that are nowhere in the test split.
        seed_set: What is labelled at the start; whole images.
        budget: What is bought after each round but the last.
        full: The fully supervised arm: one round, of all images.
        clicks: Whether purchases are booked in clicks.
        measured: Whether candidates and statistics of picks are there.
        noise: Standard deviation of each image's own part of correct pixels; 0.01 is usual. Where
            whole images are classified, of what makes an arm err on others than its neighbour.
        settings: Further keys of the configuration, dotted.
        notes: Of `summary.json`.

    Returns:
        The folder.
    """
    rounds = len(scores)
    sizes = {"classification": (1, 1), "multilabel": (len(classes), 1)}
    height, width = sizes.get(task, (HEIGHT, WIDTH))
    if region is None:
        region = "64" if task == "segmentation" else "image"
    config = _config(
        folder,
        {
            "strategy": {"name": strategy} if isinstance(strategy, str) else dict(strategy),
            "region": region,
            "seed": seed,
            "seed_set": "100%" if full else seed_set,
            "budgets": [] if full else [budget] * (rounds - 1),
            **(settings or {}),
        },
    )
    configuration = _identity(config)
    inputs = fingerprint(configuration)
    pool = _pool(images, height, width)
    rng = np.random.default_rng([seed, zlib.crc32(str(config.strategy).encode())])
    bought: set[tuple[int, tuple[int, ...]]] = set()
    with Ledger.open(folder, COMMAND, configuration) as ledger:
        (folder / CONFIG_FILE).write_text(yaml.safe_dump(config.model_dump(mode="json")))
        ledger.record_images(pool)
        purchases = _seed_set(config, pool)
        bought |= {(pool.paths.index(p.image), p.box) for p in purchases}
        ledger.finish(
            "seed", 0, inputs, seconds=0.5, purchases=_with_clicks(purchases, clicks, seed)
        )
        for number, score in enumerate(scores):
            files = round_folder(folder, number)
            files.mkdir(parents=True)
            ledger.finish("train", number, inputs, seconds=60 + 5.0 * number)
            evaluation = _EVALUATIONS[task](score, classes, absent, noise, rng)
            evaluation.write(files / EVALUATION_FILE)
            metrics = {"test": evaluation.metrics.as_dict()}
            if config.data.validation:
                metrics["validation"] = metrics["test"]
            _write_json(files / METRICS_FILE, {"steps": config.train.iterations, **metrics})
            ledger.finish("evaluate", number, inputs, [files / METRICS_FILE], seconds=4.0)
            if number == rounds - 1:
                break
            # The first network is the same in every arm, and so is what it measures.
            scanning = rng if number else np.random.default_rng([seed, 1])
            table = _scan(files / CANDIDATES_FOLDER, config, pool, bought, scanning)
            ledger.finish("scan-0", number, inputs, seconds=9.0)
            chosen = _choose(table, config, budget, rng, height * width)
            _write_picks(files, table, chosen, config, measured)
            purchases = [
                Purchase(
                    rank,
                    config.strategy["name"],
                    table.images[table.image[row]],
                    tuple(table.box[row].tolist()),
                    float(table.values["entropy"][row]),
                )
                for rank, row in enumerate(chosen, 1)
            ]
            bought |= {(pool.paths.index(p.image), p.box) for p in purchases}
            _draw_overlays(files / OVERLAYS_FOLDER, purchases)
            ledger.finish("select", number, inputs, seconds=0.2)
            ledger.finish("inspect", number, inputs, seconds=0.1)
            ledger.finish(
                "buy",
                number,
                inputs,
                seconds=0.1,
                purchases=_with_clicks(purchases, clicks, number),
            )
            if not measured:
                _remove_tables(files / CANDIDATES_FOLDER)
    _write_json(
        folder / "summary.json",
        {
            "fingerprint": inputs,
            "notes": list(notes),
            "seconds": 80.0 * rounds,
            "machine": {"device": "cpu"},
        },
    )
    return folder


def make_comparison(
    folder: Path, arms: Mapping[str, Mapping[str, Any]], seeds: Sequence[int] = (0, 1)
) -> Path:
    """Makes a comparison's folder: `runs/<arm>/seed-<n>`.

    Args:
        folder: Where.
        arms: By name, the arguments of `make_run`; `lift` is added to each score per seed.
        seeds: Of each arm.
    """
    for name, given in arms.items():
        arguments = dict(given)
        lift, scores = arguments.pop("lift", 0.0), arguments.pop("scores", (0.40, 0.50, 0.56))
        for position, seed in enumerate(seeds):
            make_run(
                folder / "runs" / name / f"seed-{seed}",
                seed=seed,
                scores=[score + lift * position for score in scores],
                **arguments,
            )
    return folder


def _config(folder: Path, keys: Mapping[str, object]) -> RunConfig:
    raw: dict[str, Any] = {
        "out": str(folder),
        "data": {"root": str(folder.parent / "data"), "validation": "val", "test": "test"},
        "train": {"iterations": 100},
    }
    for key, value in keys.items():
        *path, last = key.split(".")
        inner = raw
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return RunConfig.model_validate(raw)


def _identity(config: RunConfig) -> dict[str, object]:
    identity = config.model_dump(mode="json", exclude={"out", "machine", "overlays"})
    del identity["data"]["root"], identity["train"]["workers"]
    return identity


def _pool(images: int, height: int = HEIGHT, width: int = WIDTH) -> ImagePool:
    return ImagePool(
        root=Path("images"),
        paths=tuple(f"street/{i:04d}.png" for i in range(images)),
        infos=tuple(ImageInfo(height, width, f"digest-{i}") for i in range(images)),
        stats=((100, 10**18 + 1),) * images,
    )


def _seed_set(config: RunConfig, pool: ImagePool) -> list[Purchase]:
    """Whole images at random; of one seed the same in every arm."""
    order = np.random.default_rng(config.seed).permutation(len(pool))
    height, width = pool.size(0)
    prices = np.full(len(pool), height * width)
    count = Budget.parse(config.seed_set).allowance(prices).fits(prices[order])
    return [
        Purchase(rank, "seed", f"street/{image:04d}.png", (0, 0, width, height), 0.0)
        for rank, image in enumerate(order[:count].tolist(), 1)
    ]


def _with_clicks(purchases: Sequence[Purchase], known: bool, seed: int) -> list[Purchase]:
    rng = np.random.default_rng([seed, 7])
    return [
        Purchase(p.rank, p.strategy, p.image, p.box, p.score, clicks=int(rng.integers(5, 60)))
        if known
        else p
        for p in purchases
    ]


def _evaluation(
    score: float,
    classes: Sequence[str],
    absent: Sequence[str],
    noise: float,
    rng: np.random.Generator,
) -> SegmentationEvaluation:
    """Confusions whose mIoU is the score: errors of a class go to the next one that is present."""
    present = [i for i, name in enumerate(classes) if name not in absent]
    count = len(present)
    # IoU of class c is a_c / (2 - a_(c-1)), where a is the share of correct pixels.
    wanted = score + 0.25 * min(score, 1 - score) * np.linspace(-1, 1, count)
    system = np.eye(count) + wanted[:, None] * np.roll(np.eye(count), -1, axis=1)
    correct = np.linalg.solve(system, 2 * wanted)
    hardness = np.linspace(-0.05, 0.05, TEST_IMAGES)[:, None]  # of an image, in every arm
    own = rng.normal(0, noise, (TEST_IMAGES, count)) if noise else 0.0
    right = np.rint(_CLASS_PIXELS * (correct + hardness + own)).clip(0, _CLASS_PIXELS)
    confusions = np.zeros((TEST_IMAGES, len(classes), len(classes)), np.int32)
    labels = np.full((TEST_IMAGES, SAMPLED_PIXELS), 255, np.uint8)
    predictions = np.zeros_like(labels)
    for place, name in enumerate(present):
        following = present[(place + 1) % count]
        confusions[:, name, name] = right[:, place]
        confusions[:, name, following] = _CLASS_PIXELS - right[:, place]
        pixels = slice(place, None, count)
        sampled = labels[:, pixels].shape
        labels[:, pixels] = name
        is_right = rng.random(sampled) < right[:, [place]] / _CLASS_PIXELS
        predictions[:, pixels] = np.where(is_right, name, following)
    names = tuple(f"test/{i:03d}.png" for i in range(TEST_IMAGES))
    return SegmentationEvaluation(tuple(classes), names, confusions, labels, predictions)


def _classification(
    score: float,
    classes: Sequence[str],
    absent: Sequence[str],
    noise: float,
    rng: np.random.Generator,
) -> ClassificationEvaluation:
    """The easiest images are right, as many as the accuracy says; others are of the next class."""
    present = np.array([i for i, name in enumerate(classes) if name not in absent])
    fixed = np.random.default_rng(5)  # the same test images in every arm
    places = fixed.permutation(CLASSIFIED_IMAGES) % len(present)
    hardness = fixed.random(CLASSIFIED_IMAGES) + rng.normal(0, noise, CLASSIFIED_IMAGES)
    wrong = np.argsort(hardness, kind="stable")[round(score * CLASSIFIED_IMAGES) :]
    predicted = places.copy()
    predicted[wrong] = (places[wrong] + 1) % len(present)
    names = tuple(f"test/{i:03d}.png" for i in range(CLASSIFIED_IMAGES))
    labels, predictions = (present[p].astype(np.int32) for p in (places, predicted))
    return ClassificationEvaluation(tuple(classes), names, labels, predictions)


def _multilabel(
    score: float,
    classes: Sequence[str],
    absent: Sequence[str],
    noise: float,
    rng: np.random.Generator,
) -> MultilabelEvaluation:
    """Scores that tell yes from no as clearly as the mAP says."""
    fixed = np.random.default_rng(5)  # the same test images in every arm
    labels = (fixed.random((CLASSIFIED_IMAGES, len(classes))) < 0.3).astype(np.int8)
    labels[:, [name in absent for name in classes]] = 0
    chance = fixed.normal(size=labels.shape) + rng.normal(0, noise, labels.shape)
    names = tuple(f"test/{i:03d}.png" for i in range(CLASSIFIED_IMAGES))

    def at(lead: float) -> MultilabelEvaluation:
        scores = (chance + lead * labels - lead / 2).astype(np.float32)
        return MultilabelEvaluation(tuple(classes), names, labels, scores)

    low, high = 0.0, 8.0
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).metrics.map < score else (low, middle)
    return at(high)


_EVALUATIONS: Mapping[str, Callable[..., Evaluation]] = {
    "segmentation": _evaluation,
    "classification": _classification,
    "multilabel": _multilabel,
}


def _scan(
    folder: Path,
    config: RunConfig,
    pool: ImagePool,
    bought: set[tuple[int, tuple[int, ...]]],
    rng: np.random.Generator,
) -> CandidateTable:
    """Tables of what can be bought and of what is; returns the first."""
    height, width = pool.size(0)
    whole = {image for image, box in bought if box == (0, 0, width, height)}
    boxes = [
        (image, box)
        for image in range(len(pool))
        if image not in whole
        for box in _grid(config.region, height, width)
        if (image, box) not in bought
    ]
    for name, rows in ((config.region, boxes), ("labelled", sorted(bought))):
        clusters = np.random.default_rng(3).normal(size=(4, FEATURES)) * 2
        with TableWriter(folder / name, pool.paths, len(rows)) as writer:
            for image, box in rows:
                cluster = clusters[rng.integers(4)]
                writer.append(
                    [image],
                    np.array([box], np.int32),
                    {
                        "entropy": rng.gamma(2.0, 0.3, (1, 1)),
                        "mean_feature": (cluster + rng.normal(size=FEATURES))[None, None],
                    },
                )
    return CandidateTable.open(folder / config.region)


def _grid(region: str, height: int, width: int) -> list[tuple[int, ...]]:
    grid = RegionSize.parse(region).grid(height, width)
    return [tuple(box.tolist()) for box in grid.boxes()]


def _choose(
    table: CandidateTable, config: RunConfig, budget: str, rng: np.random.Generator, elements: int
) -> NDArray[np.int64]:
    """Rows in pick order: by entropy for `entropy`, at random for `random`, half and half else."""
    chance = rng.random(len(table))
    weight = {"random": 0.0, "entropy": 1.0}.get(config.strategy["name"], 0.5)
    order = np.argsort(-(weight * table.values["entropy"] + (1 - weight) * chance), kind="stable")
    pool_pixels = np.full(len(table.images), elements)
    fits = Budget.parse(budget).allowance(pool_pixels).fits(table.pixels[order])
    return order[:fits]


def _write_picks(
    files: Path,
    table: CandidateTable,
    chosen: NDArray[np.int64],
    config: RunConfig,
    measured: bool,
) -> None:
    selected = [
        Selected(
            rank,
            table.images[table.image[row]],
            tuple(table.box[row].tolist()),
            int(table.pixels[row]),
            float(table.values["entropy"][row]),
        )
        for rank, row in enumerate(chosen, 1)
    ]
    write_selection(files / SELECTION_FILE, selected)
    picks: dict[str, object] = {"region": config.region, "count": len(chosen)}
    if measured:
        features = table.embedding("mean_feature")[chosen]
        picks |= asdict(batch_statistics(table.values["entropy"][chosen], features))
    _write_json(files / PICKS_FILE, picks)


def _draw_overlays(folder: Path, purchases: Sequence[Purchase]) -> None:
    """A small picture of each of the two images with the best ranks."""
    folder.mkdir()
    for image in list(dict.fromkeys(p.image for p in purchases))[:2]:
        picture = np.zeros((HEIGHT // 2, WIDTH // 2, 3), np.uint8)
        picture[..., 1] = np.linspace(30, 200, WIDTH // 2).astype(np.uint8)
        own = [p for p in purchases if p.image == image]
        for p in own:
            x0, y0, x1, y1 = (side // 2 for side in p.box)
            cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), (255, 230, 30), 1)
        cv2.imwrite(str(folder / f"{own[0].rank:04d}_{Path(image).stem}.png"), picture)


def _remove_tables(folder: Path) -> None:
    for file in sorted(folder.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    folder.rmdir()


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1))
