"""What is wrong with labels that can be read: refused, or told before work starts."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from segal.candidates.regions import Box
from segal.candidates.selection import Selected
from segal.data.labelled import LabelCounts, LabelledDataset
from segal.data.pool import one_of
from segal.errors import SegalError
from segal.system.console import bar, tell

OWED_FILE = "owed.csv"
_SHOWN = 20


def check_labels(
    dataset: LabelledDataset, split: str, within: Mapping[int, Sequence[Box]] | None = None
) -> LabelCounts:
    """Reads the labels of a split, and says what is odd about them.

    Args:
        dataset: The split.
        split: Its name.
        within: Boxes by image index that count; whole images by default.

    Raises:
        SegalError: If a label is missing or damaged, or all masks are of 0 and 255 only.
    """
    with bar(f"Checking labels of {split}") as advance:
        counts = dataset.check(within=within, progress=advance)
    dataset.refuse_values(split, counts)
    tell(*notes_of(dataset, split, counts))
    return counts


def refuse_unlabelled(dataset: LabelledDataset, split: str, counts: LabelCounts, use: str) -> None:
    """Raises a SegalError if no pixel has a class.

    Args:
        dataset: The split.
        split: Its name.
        counts: Of its labels.
        use: What they are needed for, such as `trained on`.
    """
    if counts.pixels.any():
        return
    raise SegalError(
        f"{dataset.pool.root}: cannot be {use}: {split} has no labels",
        expected=f"labels of some {dataset.pool.unit} at least",
        got=f"{len(dataset)} labels that are void everywhere" if len(dataset) else "no image",
        remedy="choose a split whose labels are public, such as val of Cityscapes; see "
        "segal validate for what its label files hold",
    )


def notes_of(dataset: LabelledDataset, split: str, counts: LabelCounts) -> list[str]:
    """What a user should know of labels that are used all the same."""
    names, unit = dataset.classes.names, dataset.pool.unit
    absent = [name for name, pixels in zip(names, counts.pixels, strict=True) if not pixels]
    notes = []
    if len(absent) == len(names):
        notes.append(f"{split}: all {unit} are void; nothing can be trained or evaluated on them")
    elif absent:
        shown = ", ".join(absent[:_SHOWN]) + (", ..." if len(absent) > _SHOWN else "")
        none = f"{len(absent)} of {len(names)} classes have no {one_of(unit)}"
        notes.append(f"{split}: {none}: {shown}")
    return notes


def class_notes(*datasets: LabelledDataset | None) -> list[str]:
    """What a user should know of how label files are read, each once."""
    opened = [dataset for dataset in datasets if dataset is not None]
    found = [note for dataset in opened for note in (*dataset.classes.notes, *dataset.notes())]
    return list(dict.fromkeys(found))


def describe_counts(dataset: LabelledDataset, counts: LabelCounts, unit: str) -> list[str]:
    """What there is of each class, such as pixels, and the share that is ignored, in lines."""
    labelled, unit = int(counts.pixels.sum()), counts.counted or unit
    width = max(map(len, (counts.without, *dataset.classes.names)))
    lines = [
        f"    {name:<{width}}  {pixels:>15,} {unit}  {_share(pixels, labelled)}"
        for name, pixels in zip(dataset.classes.names, counts.pixels.tolist(), strict=True)
    ]
    ignored = _share(counts.void, labelled + counts.void)
    return [
        *lines,
        f"    {counts.without:<{width}}  {counts.void:>15,} {unit}  {ignored} of all {unit}",
    ]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:6.2f} %" if whole else f"{'-':>6} %"


def owed_regions(dataset: LabelledDataset, empty: Mapping[int, Sequence[Box]]) -> list[Selected]:
    """Regions whose labels have not come, as a selection has them.

    Args:
        dataset: The data set.
        empty: Boxes by image index.
    """
    pairs = [(dataset.pool.paths[i], box) for i in sorted(empty) for box in empty[i]]
    return [
        Selected(rank, image, (x0, y0, x1, y1), (x1 - x0) * (y1 - y0), 0.0)
        for rank, (image, (x0, y0, x1, y1)) in enumerate(pairs, start=1)
    ]


def refuse_owed(owed: Sequence[Selected], bought: int, root: Path, missing: str, unit: str) -> None:
    """Raises a SegalError for labelled regions whose labels have not come.

    Args:
        owed: Those regions.
        bought: Regions that are said to be labelled.
        root: The data set.
        missing: `refuse`, or `skip` where it is enough that some have come.
        unit: What has a class, such as pixels.
    """
    if not owed or (missing == "skip" and len(owed) < bought):
        return
    none = len(owed) >= bought
    raise SegalError(
        f"{root}: no label has come for {len(owed)} of {bought} regions (no label file, or void "
        f"all over):{_named(owed)}",
        expected=f"a class for some {unit} of every region that is said to be labelled",
        got="none for any of them" if none else f"none for {len(owed)}",
        remedy="put the labels into the data set, or check that it is the one that was labelled"
        if none
        else "have them labelled, or train on what has come with --missing-labels skip, which "
        f"writes the others into {OWED_FILE}",
    )


def _named(owed: Sequence[Selected]) -> str:
    lines = [
        f"\n  {s.image}: x {s.box[0]}, y {s.box[1]}, "
        f"width {s.box[2] - s.box[0]}, height {s.box[3] - s.box[1]}"
        for s in owed[:_SHOWN]
    ]
    more = [f"\n  and {len(owed) - _SHOWN} more"] if len(owed) > _SHOWN else []
    return "".join([*lines, *more])
