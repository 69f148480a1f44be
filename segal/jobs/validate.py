"""Checks what a user has before work is done with it: runs, comparisons, data, configurations."""

from pathlib import Path
from typing import Literal, cast

from segal.config import CompareConfig, MachineConfig, TrainConfig, read_config, validate
from segal.console import bar
from segal.data.datasets import LabelledDataset, open_dataset, splits
from segal.data.pool import open_pool
from segal.errors import SegalError, raise_all
from segal.jobs.compare import CONFIG_FILE
from segal.jobs.copies import copies_notes
from segal.jobs.explain import configure_explanation
from segal.jobs.planning import RUNS_FOLDER
from segal.jobs.strategies import configure_run, configure_selection
from segal.jobs.tune import configure_tuning
from segal.ledger import Ledger
from segal.run_folder import LEDGER_FILE

Layout = Literal["auto", "cityscapes", "folder"]
_LAYOUTS = ("auto", "cityscapes", "folder")


def validate_path(path: Path, layout: str, ignore_index: int | None, workers: int) -> list[str]:
    """Checks what a path leads to.

    Args:
        path: A folder of a run, of a comparison, of a data set or of images, or a YAML file.
        layout: Of a data set.
        ignore_index: Of a data set, as in `DataConfig`.
        workers: Threads that read.

    Returns:
        What it is, in lines.

    Raises:
        SegalError: With all mistakes that were found.
    """
    if layout not in _LAYOUTS:
        raise SegalError(
            "layout: not valid",
            expected=f"one of {', '.join(_LAYOUTS)}",
            got=repr(layout),
            remedy="leave it out to tell by the folders",
        )
    raise_all(validate(MachineConfig, {"workers": workers})[1])
    if path.suffix in {".yaml", ".yml"}:
        return _validate_config(path)
    if (path / LEDGER_FILE).is_file():
        return _validate_run(path)
    if (path / CONFIG_FILE).is_file() and (path / RUNS_FOLDER).is_dir():
        return _validate_comparison(path)
    if (path / "leftImg8bit").is_dir() or (path / "images").is_dir() or layout != "auto":
        return _validate_dataset(path, cast(Layout, layout), ignore_index, workers)
    return _validate_images(path, workers)


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


def _validate_run(path: Path) -> list[str]:
    with Ledger.read(path) as ledger:
        damage = ledger.damage()
        if damage:
            raise SegalError(
                f"{path}: {len(damage)} files are not as they were written",
                expected="the files that the ledger records",
                got="; ".join(damage[:5]),
                remedy="run the same command again: it makes them anew",
            )
        cost = ledger.cost()
        lines = [f"{path}: a run of segal {ledger.command}, whole"]
        lines += [f"  {p.name}: {p.finished}, {p.seconds:.1f} s" for p in ledger.phases()]
        lines.append(
            f"bought: {cost.regions} regions, {cost.pixels} pixels, {cost.images:.2f} images"
        )
    return lines


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


def _validate_dataset(
    path: Path, layout: Layout, ignore_index: int | None, workers: int
) -> list[str]:
    lines, errors = [], []
    for split in splits(path, layout):
        try:
            with bar(f"Images of {split}") as advance:
                dataset = open_dataset(
                    path,
                    split,
                    layout=layout,
                    ignore_index=ignore_index,
                    workers=workers,
                    progress=advance,
                )
            with bar(f"Labels of {split}") as advance:
                dataset.check(progress=advance)
            lines.append(_describe(split, dataset))
            lines += [f"  {split}: {note}" for note in copies_notes(dataset.pool)]
        except SegalError as error:
            errors.append(error)
    raise_all(errors)
    return [f"{path}: a data set, without mistakes", *lines]


def _describe(split: str, dataset: LabelledDataset) -> str:
    sizes = sorted({dataset.pool.size(i) for i in range(len(dataset))})
    shown = ", ".join(f"{h}x{w}" for h, w in sizes[:4]) + (", ..." if len(sizes) > 4 else "")
    return (
        f"  {split}: {len(dataset)} images of {shown} (height x width), "
        f"{len(dataset.classes.names)} classes"
    )


def _validate_images(path: Path, workers: int) -> list[str]:
    with bar("Checking images") as advance:
        pool = open_pool(path, workers=workers, progress=advance)
    pixels = sum(height * width for height, width in (pool.size(i) for i in range(len(pool))))
    return [
        f"{path}: a folder of {len(pool)} images, {pixels} pixels, without mistakes",
        *copies_notes(pool),
    ]
