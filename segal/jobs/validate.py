"""Checks what a user has before work is done with it: runs, comparisons, data, configurations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segal.candidates.selection import MASKS_FOLDER, read_selection
from segal.config import CompareConfig, MachineConfig, TrainConfig, read_config, validate
from segal.config.sections import LabelsConfig
from segal.data.changes import count
from segal.data.feature_store import check_store, is_store
from segal.data.image_file import Reading
from segal.data.labelled import LabelCounts, LabelledDataset
from segal.data.pool import ImagePool
from segal.errors import SegalError, raise_all
from segal.jobs.annotate.source import SELECT
from segal.jobs.comparing.compare import CONFIG_FILE
from segal.jobs.copies import copies_notes
from segal.jobs.explain import configure_explanation
from segal.jobs.inputs import image_shapes
from segal.jobs.labels import class_notes, describe_counts, notes_of
from segal.jobs.planning import RUNS_FOLDER
from segal.jobs.strategies import configure_run, configure_selection
from segal.jobs.tuning.tune import configure_tuning
from segal.models.spec import DEFAULT_TASK
from segal.runs.accounts import account_problems, mask_problems
from segal.runs.history import COMMAND, SELECTION_FILE, round_folder
from segal.runs.history import CONFIG_FILE as RUN_CONFIG_FILE
from segal.runs.ledger import Ledger
from segal.runs.run_folder import LEDGER_FILE
from segal.runs.withdrawal import withdrawn_files
from segal.system.console import bar
from segal.tasks import TASKS, Task, find_task


def validate_path(path: Path, given: Mapping[str, Any], workers: int, task: str = "") -> list[str]:
    """Checks what a path leads to.

    Args:
        path: A run, a comparison, a data set, images, a store of features, or a YAML file.
        given: What is said of a data set and of how images are read, as `LabelsConfig` takes it.
        workers: Threads that read.
        task: Of a data set or of images; empty to tell it by what is there.

    Returns:
        What it is, in lines.

    Raises:
        SegalError: With all mistakes that were found.
    """
    section, errors = validate(LabelsConfig, {"root": path, **given})
    raise_all([*validate(MachineConfig, {"workers": workers})[1], *errors])
    assert section is not None
    if path.suffix in {".yaml", ".yml"}:
        return _validate_config(path)
    if is_store(path):
        return _validate_store(path)
    if (path / LEDGER_FILE).is_file():
        return _validate_run(path)
    if (path / CONFIG_FILE).is_file() and (path / RUNS_FOLDER).is_dir():
        return _validate_comparison(path)
    named = [find_task(name) for name in ([task] if task else TASKS)]
    if section.layout != "auto":
        fitting = [one for one in named if section.layout in one.layouts]
    else:
        fitting = [one for one in named if one.is_dataset(path)]
        if task and not fitting:  # another task's data, perhaps: opening it says why not
            alike = [o for o in map(find_task, TASKS) if set(o.layouts) & set(named[0].layouts)]
            fitting = named if any(o.is_dataset(path) for o in alike) else []
    if len(fitting) > 1:
        raise SegalError(
            f"{path}: data of more than one task",
            expected=f"one of {', '.join(one.name for one in fitting)}",
            got="what each of them would read",
            remedy=f"choose it with --task {fitting[0].name}",
        )
    if fitting:
        return _validate_dataset(fitting[0], section, workers)
    return _validate_images(named[0], path, workers, section.reading)


def _validate_config(path: Path) -> list[str]:
    raw = read_config(path, [], {})
    if "arms" in raw:
        config, errors = validate(CompareConfig, raw)
        raise_all(errors)
        assert config is not None
        arms = [f"  arm {arm.name}" for arm in config.arms]
        return [f"{path}: a configuration of segal compare, without mistakes of its own", *arms]
    if "seed_set" in raw:
        _, strategy = configure_run(raw)
        command = "run"
    elif "data" in raw:
        _, errors = validate(TrainConfig, raw)
        raise_all(errors)
        return [f"{path}: a configuration of segal train, without mistakes"]
    elif "scan" in raw:
        configure_tuning(raw)
        return [f"{path}: a configuration of segal tune, without mistakes"]
    elif "reference" in raw and not raw.keys() & {"budget", "strategy"}:
        configure_explanation(raw)
        return [f"{path}: a configuration of segal explain, without mistakes"]
    else:
        _, strategy = configure_selection(raw)
        command = "select"
    return [
        f"{path}: a configuration of segal {command}, without mistakes",
        f"strategy: {strategy}",
    ]


def _validate_store(path: Path) -> list[str]:
    found = check_store(path)
    return [
        f"{path}: a store of {found.files} images' features, {found.bytes / 1e6:.1f} MB, whole",
        f"  of {found.parts} frozen parts of networks",
    ]


def _validate_run(path: Path) -> list[str]:
    with Ledger.read(path) as ledger:
        damage = ledger.damage()
        if damage:
            raise SegalError(
                f"{path}: {len(damage)} files are not as they were written",
                expected="the files that the ledger records",
                got="; ".join(damage[:5]),
                remedy=f"mend what the ledger can tell with segal validate {path} --repair; the "
                "same command as before makes the rest anew",
            )
        task = find_task(str(ledger.configuration.get("task", DEFAULT_TASK)))
        wrong = [*account_problems(ledger, task.name), *_selection_problems(ledger, path)]
        wrong += [f"{file} is withdrawn, and still there" for file in withdrawn_files(ledger)]
        if wrong:
            raise SegalError(
                f"{path}: its account is not right",
                expected="every pixel bought once, and files that say what the ledger does",
                got="; ".join(wrong[:5]) + f"; and {len(wrong) - 5} more" * (len(wrong) > 5),
                remedy=f"see what segal validate {path} --repair mends, or put the folder back "
                "from a backup",
            )
        cost, unit = ledger.cost(), task.metric.elements
        lines = [f"{path}: a run of segal {ledger.command}, whole"]
        lines += [f"  {p.name}: {p.finished}, {p.seconds:.1f} s" for p in ledger.phases()]
        lines.append(
            f"bought: {cost.regions} regions, {cost.pixels} {unit}, {cost.images:.2f} images"
        )
        lines += [f"  note: {note}" for note in _withdrawn_since(ledger)]
    return lines


def _withdrawn_since(ledger: Ledger) -> list[str]:
    """Of a network that was trained on the labels of runs: what these have withdrawn since."""
    if ledger.command != "train" or not (ledger.folder / RUN_CONFIG_FILE).is_file():
        return []
    config, _ = validate(TrainConfig, read_config(ledger.folder / RUN_CONFIG_FILE, [], {}))
    rows = ledger.rows("SELECT digest FROM inputs WHERE kind = 'images of training'")
    used, notes = {digest for (digest,) in rows}, []
    for run in config.labelled if config is not None else ():
        if (run / LEDGER_FILE).is_file():
            with Ledger.read(run) as other:
                withdrawn = other.pool_log.withdrawn
            gone = used & (withdrawn.images | set(withdrawn.boxes or {}))
            if gone:
                notes.append(
                    f"its network was trained on {count(len(gone), 'image')} of which {run} has "
                    "withdrawn something since: train again, with another --out"
                )
    return notes


def _selection_problems(ledger: Ledger, path: Path) -> list[str]:
    """Whether selections and masks say what was bought."""
    problems, log = [], ledger.pool_log
    made = [(path, SELECT, 0)]
    if ledger.command == COMMAND:
        numbers = [phase.round for phase in ledger.phases() if phase.name == "buy"]
        made = [(round_folder(path, number), "buy", number) for number in numbers]
    for folder, phase, number in made:
        if ledger.phase(phase, number) is None or ledger.command not in (SELECT, COMMAND):
            continue
        there = read_selection(folder / SELECTION_FILE)
        if [(s.rank, s.image, s.box, s.pixels) for s in there] != [
            (p.rank, p.image, p.box, p.pixels) for p in ledger.purchases(phase, number)
        ]:
            problems.append(f"{folder / SELECTION_FILE} does not list what was bought")
    if ledger.command == SELECT and (path / MASKS_FOLDER).is_dir():
        problems += mask_problems(path / MASKS_FOLDER, ledger.held(SELECT, 0), log.boxes)
    return problems


def _validate_comparison(path: Path) -> list[str]:
    folders = sorted(file.parent for file in path.glob(f"{RUNS_FOLDER}/*/*/{LEDGER_FILE}"))
    errors = []
    for folder in folders:
        try:
            _validate_run(folder)
        except SegalError as error:
            errors.append(error)
    raise_all(errors)
    return [f"{path}: a comparison with {len(folders)} runs, all whole"]


def _validate_dataset(task: Task, source: LabelsConfig, workers: int) -> list[str]:
    path = source.root
    lines, errors, opened = list[str](), list[SegalError](), dict[str, LabelledDataset]()
    for split in task.splits(path, source.layout):
        try:
            with bar(f"Images of {split}") as advance:
                dataset = task.open_split(source, split, workers=workers, progress=advance)
            with bar(f"Labels of {split}") as advance:
                counts = dataset.check(progress=advance)
            dataset.refuse_values(split, counts)
            lines += _describe(split, dataset, counts, task.metric.elements)
            opened[split] = dataset
            lines += [f"    {note}" for note in copies_notes(dataset.pool)]
        except SegalError as error:
            errors.append(error)
    raise_all(list({str(error): error for error in errors}.values()))
    task.check_splits(opened)
    notes = [f"  note: {note}" for note in class_notes(*opened.values())]
    return [f"{path}: a data set of {task.name}, without mistakes", *notes, *lines]


def _describe(split: str, dataset: LabelledDataset, counts: LabelCounts, unit: str) -> list[str]:
    sizes = sorted(image_shapes(dataset.pool))
    shown = ", ".join(f"{h}x{w}" for h, w in sizes[:4]) + (", ..." if len(sizes) > 4 else "")
    return [
        f"  {split}: {len(dataset)} images of {shown} (height x width), "
        f"{len(dataset.classes.names)} classes",
        *describe_counts(dataset, counts, unit),
        *(f"    note: {note}" for note in notes_of(dataset, split, counts)),
        *(f"    {line}" for line in _about(dataset.pool, labelled=True)),
    ]


def _about(pool: ImagePool, labelled: bool) -> list[str]:
    """What is known of images that are not wrong."""
    turned = [f"{pool.turned} images are turned or mirrored by EXIF"] if pool.turned else []
    return [*turned, *pool.notes(labelled)]


def _validate_images(task: Task, path: Path, workers: int, reading: Reading) -> list[str]:
    with bar("Checking images") as advance:
        pool = task.open_pool(path, workers=workers, progress=advance, reading=reading)
    counted = f"{len(pool)} images"
    if pool.unit != "images":
        elements = sum(height * width for height, width in map(pool.size, range(len(pool))))
        counted += f", {elements} {pool.unit}"
    line = f"{path}: a folder of {counted}, without mistakes"
    notes = [*_about(pool, labelled=False), *copies_notes(pool)]
    return [line, *(f"  {note}" for note in notes)]
