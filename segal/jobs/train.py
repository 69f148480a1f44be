"""Trains a network on labelled regions, evaluates it, and writes the run folder."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segal import __version__
from segal.candidates.regions import Box
from segal.candidates.selection import Selected, write_selection
from segal.config import DataConfig, TrainConfig
from segal.data.labelled import LabelledDataset
from segal.data.pool import one_of
from segal.errors import raise_all
from segal.jobs.exclusions import annotated, refuse_task, without_excluded
from segal.jobs.inputs import check_channels, image_digests, named_inputs
from segal.jobs.keeping import Keeping, check_keeping
from segal.jobs.labelled import Labelled
from segal.jobs.labels import (
    OWED_FILE,
    check_labels,
    class_notes,
    owed_regions,
    refuse_owed,
    refuse_unlabelled,
)
from segal.jobs.network import (
    check_sizes,
    check_training,
    draw_scenes,
    initial_model,
    open_split,
    refuse_two_sources,
    resolved,
    with_folder,
)
from segal.jobs.own_code import code_notes, identity_of
from segal.jobs.threads import fix_threads
from segal.models.checkpoint import CheckpointOptions, load_checkpoint, save_checkpoint
from segal.models.wrapped import Model
from segal.runs.following import SharedLedger, open_shared
from segal.runs.run_folder import fingerprint
from segal.system.console import bar, tell
from segal.system.files import remove, write_bytes, write_json
from segal.system.machine import describe, find_device, peak_memory_bytes, readers, use_threads
from segal.system.ranks import all_ranks
from segal.tasks import find_task, task_of
from segal.tasks.judging import named
from segal.tasks.sharing import metrics_on
from segal.training.balance import check_class_weights
from segal.training.loop import TrainResult, train
from segal.training.pieces import pieces_notes

MODEL_FILE, METRICS_FILE = "model.safetensors", "metrics.json"
_UNFINISHED_FILE = "unfinished.safetensors"
_ROUND = 0
_SHOWN = 20


@dataclass(frozen=True)
class TrainingOutcome:
    """What a training came to.

    Attributes:
        model: Where the network is.
        metrics: As in `metrics.json`.
    """

    model: Path
    metrics: dict[str, Any]


def run_training(config: TrainConfig) -> TrainingOutcome:
    """Trains, evaluates, and writes the run folder `config.out`.

    A training that was killed goes on from its last checkpoint; one that is done is not repeated.

    Raises:
        SegalError: For anything that the user can mend.
    """
    config = with_folder(config)
    refuse_two_sources(config)
    check_training(config)
    raise_all(refuse_task(config))
    device = find_device(config.machine.device)
    use_threads(config.machine.threads)
    data = config.data
    draw_scenes(data)
    given = Labelled.open(config.labelled, skip_missing=config.skip_missing)
    dataset, validation, test = _open_splits(config, given)
    labelled: Mapping[int, Sequence[Box]] | None = None
    if given:
        labelled = annotated(given.boxes(dataset.pool), dataset)
        tell(*given.notes)
    elif _may_miss(config):
        labelled = {i: [(0, 0, *dataset.pool.size(i)[::-1])] for i in range(len(dataset))}
    check_class_weights(config.train, dataset.classes.names)
    labelled, owed = _arrived(config, dataset, labelled)
    # What was not bought is never read, not even for a fingerprint.
    bought = None if labelled is None else list(labelled)
    _check_held_out(data, validation, test)
    tell(*class_notes(dataset, validation, test))
    task = find_task(config.task)
    named = {data.train: dataset, data.validation: validation, data.test: test}
    task.check_splits({name: split for name, split in named.items() if split is not None})
    model = initial_model(config, task.outline_of(dataset)).to(device)
    opened = [used for used in (dataset, validation, test) if used is not None]
    keeping = _check_network(config, model, opened)
    config = resolved(config, model.spec)
    identity = _identity(config, given)
    tell(*model.notes, *code_notes(identity), *pieces_notes(config.train, model, all_ranks()))
    used_for = {"training": dataset, "validation": validation, "test": test}
    read = named_inputs(used_for, None if bought is None else {"training": bought})
    opened_folder = open_shared(config.out, "train", identity, ranks=all_ranks(), inputs=read)
    with opened_folder as ledger:
        tell(*fix_threads(ledger, config.machine.threads))
        inputs = fingerprint(
            [
                [image_digests(used.pool), used.digest(images)]
                for used, images in ((dataset, bought), (validation, None), (test, None))
                if used is not None
            ]
        )
        trained = ledger.finished("train", _ROUND, inputs)
        evaluated = trained and ledger.finished("evaluate", _ROUND, inputs)
        if not trained:
            if owed and ledger.leads:
                write_selection(config.out / OWED_FILE, owed)
            _train(config, ledger, model, dataset, labelled, validation, keeping, inputs)
        elif not evaluated:
            own = CheckpointOptions(architecture=config.model.architecture)
            model = load_checkpoint(config.out / MODEL_FILE, own).to(device)
        ledger.alone(lambda: remove(config.out / _UNFINISHED_FILE))
        if not evaluated:
            held_out = {"validation": validation, "test": test}
            _evaluate(config, ledger, model, held_out, keeping, inputs)
    return TrainingOutcome(
        config.out / MODEL_FILE, json.loads((config.out / METRICS_FILE).read_text())
    )


def _open_splits(
    config: TrainConfig, given: Labelled
) -> tuple[LabelledDataset, LabelledDataset | None, LabelledDataset | None]:
    """What is trained on, what picks the best weights, and what the result is evaluated on."""
    data = config.data
    with bar("Checking images") as advance:
        # Images of which nothing is labelled need no label, and are not looked at unless the
        # training draws unlabelled ones.
        only = given.images if given and config.train.mial is None else None
        dataset = open_split(
            config.task,
            data,
            data.train,
            config.machine,
            advance,
            only,
            missing_labels=_may_miss(config),
        )
        held_out = [
            open_split(config.task, data, split, config.machine, advance) if split else None
            for split in (data.validation, data.test)
        ]
    if given.withdrawn.images:
        dataset = dataset.subset(given.withdrawn.left(dataset.pool))
    dataset = given.answered(dataset, config.task)
    dataset, *others = without_excluded(
        config.exclude,
        [dataset, *filter(None, held_out)],
        config.task,
        all_there=only is None,
    )
    validation, test = (others.pop(0) if split is not None else None for split in held_out)
    return dataset, validation, test


def _check_network(config: TrainConfig, model: Model, opened: Sequence[LabelledDataset]) -> Keeping:
    """Refuses a network that does not fit the data sets, of which the first is trained on."""
    for used in opened:
        check_channels(model.spec, used.pool)
        tell(*used.pool.notes(labelled=True))
    model.check()
    keeping = check_keeping(config, model, opened[0].pool)
    check_sizes(model, config.train.crop, *(used.pool for used in opened))
    return keeping


def _check_held_out(
    data: DataConfig, validation: LabelledDataset | None, test: LabelledDataset | None
) -> None:
    """Refuses held-out splits whose labels do not do for what they are there for."""
    if validation is not None:
        counts = check_labels(validation, data.validation)
        reason = "what the best weights are chosen by"
        refuse_unlabelled(validation, data.validation, counts, reason)
    if test is not None:
        check_labels(test, data.test)


def _may_miss(config: TrainConfig) -> bool:
    """Whether labels that are not there are told of by region, and may be done without."""
    return bool(config.labelled) or config.missing_labels == "skip"


def _arrived(
    config: TrainConfig,
    dataset: LabelledDataset,
    labelled: Mapping[int, Sequence[Box]] | None,
) -> tuple[Mapping[int, Sequence[Box]] | None, list[Selected]]:
    """What of the labelled regions has labels, and what has none."""
    counts = check_labels(dataset, config.data.train, labelled)
    pairs = zip(dataset.classes.names, counts.pixels.tolist(), strict=True)
    absent = [name for name, shown in pairs if not shown]
    if config.train.class_weights == "balanced" and absent:
        without = f"without a labelled {one_of(dataset.pool.unit)}"
        tell(f"Balanced class weights leave out classes {without}: {named(absent, _SHOWN)}.")
    if labelled is None:
        refuse_unlabelled(dataset, config.data.train, counts, "trained on")
        return None, []
    owed = owed_regions(dataset, counts.empty)
    bought, missing = sum(map(len, labelled.values())), config.missing_labels
    refuse_owed(owed, bought, config.data.root, missing, dataset.pool.unit)
    kept = {
        image: [box for box in boxes if box not in counts.empty.get(image, ())]
        for image, boxes in labelled.items()
    }
    if owed:
        tell(
            f"Labels of {len(owed)} regions have not come; the training goes on without them, and "
            f"{config.out / OWED_FILE} lists them.",
        )
    return {image: boxes for image, boxes in kept.items() if boxes}, owed


def _identity(config: TrainConfig, labelled: Labelled) -> dict[str, object]:
    """What the result depends on, but for the images."""
    return identity_of(config) | {"labelled": labelled.identity()}


def _train(
    config: TrainConfig,
    ledger: SharedLedger,
    model: Model,
    dataset: LabelledDataset,
    labelled: Mapping[int, Sequence[Box]] | None,
    validation: LabelledDataset | None,
    keeping: Keeping,
    inputs: str,
) -> None:
    unfinished = config.out / _UNFINISHED_FILE
    with bar("Training") as advance:
        result = train(
            model,
            keeping.dataset(model, dataset),
            config.train,
            seed=config.seed,
            labelled=labelled,
            validation=validation and keeping.dataset(model, validation),
            device=model.device,
            progress=lambda step, total, loss: advance(step, total, f"loss {loss:.3f}"),
            checkpoint=unfinished,
            ranks=ledger.ranks,
        )
    artefacts = [config.out / MODEL_FILE, config.out / "config.yaml"]
    if ledger.leads:
        _write(config, model, result)
    ledger.finish("train", _ROUND, inputs, artefacts, seconds=result.seconds)


def _write(config: TrainConfig, model: Model, result: TrainResult) -> None:
    history = {
        "settings": config.train.model_dump(mode="json"),
        "seed": config.seed,
        "steps": result.steps,
        "loss": result.loss,
        "validations": result.validations,
        "best_step": result.best_step,
    }
    save_checkpoint(model, config.out / MODEL_FILE, history)
    resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_bytes(config.out / "config.yaml", resolved.encode())


def _evaluate(
    config: TrainConfig,
    ledger: SharedLedger,
    model: Model,
    held_out: Mapping[str, LabelledDataset | None],
    keeping: Keeping,
    inputs: str,
) -> None:
    start = time.perf_counter()
    metrics: dict[str, object] = {"segal": __version__, "machine": describe(model.device)}
    for name, dataset in held_out.items():
        if dataset is None:
            continue
        with bar(f"Evaluating on {name}") as advance:
            measured = metrics_on(
                *(ledger.ranks, task_of(model.spec), model),
                keeping.dataset(model, dataset),
                device=model.device,
                batch_size=config.machine.batch_size,
                workers=readers(config.machine.workers, model.device),
                progress=advance,
            )
        metrics[name] = measured.as_dict()
    trained = next(phase for phase in ledger.phases() if phase.name == "train")
    seconds = time.perf_counter() - start
    metrics["seconds"] = {"train": round(trained.seconds, 1), "evaluate": round(seconds, 1)}
    metrics["peak_memory_bytes"] = peak_memory_bytes(model.device)
    if ledger.leads:
        write_json(config.out / METRICS_FILE, metrics)
    ledger.finish("evaluate", _ROUND, inputs, [config.out / METRICS_FILE], seconds=seconds)
