"""`segal export`: hands a run's picks out to annotators."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from segal.annotation.answers import Answer
from segal.annotation.dealing import crop_frame, deal
from segal.annotation.formats import FORMATS
from segal.annotation.formats.base import Drafts, Format, WriteOptions
from segal.annotation.handout import CROP, MANIFEST_FILE, AnnotationTask, Handout, Mode, task_key
from segal.annotation.manifest import manifest_text
from segal.annotation.questions.base import VOID
from segal.candidates.regions import Box
from segal.config import SelectConfig
from segal.data.changes import count
from segal.data.layout import distinct_colours
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.jobs.annotate.place import check_place, digests_of
from segal.jobs.annotate.source import RunSource
from segal.jobs.inputs import refuse_out_within
from segal.models.checkpoint import CheckpointOptions, load_checkpoint
from segal.pictures.overlays import shown_bands
from segal.runs.history import MODEL_FILE, ROUNDS_FOLDER
from segal.runs.ledger import Ledger, Purchase
from segal.runs.returns import book_handout, labels_of, returns_of, run_key
from segal.system.console import bar
from segal.system.files import file_digest, replacing

CROPS_FOLDER = "crops"


@dataclass(frozen=True)
class ExportSettings:
    """How picks are handed out.

    Attributes:
        to: Name of the format.
        out: Folder of the handout.
        mode: Whole images, in which the region is marked, or crops.
        pad: Pixels around the region of a crop.
        annotators: Who shares the tasks; nobody for one handout that anyone may take.
        overlap: Share of the tasks that two annotators are given.
        drafts: Whether the network says first what it sees; `checkpoint` is its file, where it is
            not the run's own.
        checkpoint: See there.
        images: Where the images are, if they moved.
        classes: A list of the classes' names, where neither network nor data set tells them.
        image_url: Where the tool finds an image, with `{file}` for its path.
        round: Of this round only.
        open_only: Whether regions that came back are left out.
    """

    to: str
    out: Path
    mode: Mode = "context"
    pad: int = 32
    annotators: Sequence[str] = ()
    overlap: float = 0.0
    drafts: bool = False
    checkpoint: Path | None = None
    images: Path | None = None
    classes: Path | None = None
    image_url: str = "/data/local-files/?d={file}"
    round: int | None = None
    open_only: bool = True


@dataclass(frozen=True)
class Exported:
    """What was handed out.

    Attributes:
        handout: It.
        files: What the tool takes.
        notes: What the user should know.
    """

    handout: Handout
    files: Sequence[Path]
    notes: Sequence[str]


def export_run(folder: Path, settings: ExportSettings) -> Exported:
    """Writes a handout, and books it.

    Args:
        folder: Of a run of `segal select` or `segal run`.
        settings: How.

    Raises:
        SegalError: If there is nothing to hand out, the format cannot ask it, or names of classes
            are such that the tool would mix them up.
    """
    with Ledger.reopen(folder) as ledger:
        source = RunSource.open(ledger)
        form = _form(settings, source)
        if isinstance(source.config, SelectConfig):
            refuse_out_within(settings.out, source.config.images, "folder of images")
        returned = labels_of(returns_of(ledger)) if settings.open_only else {}
        bought = _bought(source, settings.round)
        wanted = [p for p in bought if (p.image, p.box) not in returned]
        if not wanted:
            raise SegalError(
                f"{folder}: no region to hand out",
                expected="regions that were bought" + " and have not come back" * bool(returned),
                got=f"{len(bought)} bought, {len(bought)} of them back",
                remedy="select more, or hand out again what came back with --again",
            )
        handout = _handout(ledger, source, settings, wanted)
        form.check(handout)
        check_place(settings.out, handout)
        pool = drafts = None
        if settings.mode == CROP or settings.drafts:
            pool = source.pool(settings.images)
        if settings.drafts:
            assert pool is not None
            boxes = {task_key(handout.run, p.image, p.box): p.box for p in wanted}
            network = _network(source, settings.checkpoint)
            handout = replace(handout, model=file_digest(network[0]))
            drafts = _drafted(source, network, pool, handout, boxes)
        handout, files = _write(settings, form, handout, pool, drafts)
        book_handout(ledger, handout)
    return Exported(handout, files, _notes(form, handout))


def _form(settings: ExportSettings, source: RunSource) -> Format:
    form, task = FORMATS[settings.to], source.config.task
    asked = [name for name, one in FORMATS.items() if task in one.questions]
    if task not in form.questions:
        raise SegalError(
            f"to: {settings.to} has no form for {task}",
            expected=f"one of {', '.join(asked)}",
            got=settings.to,
            remedy=f"choose another with --to, such as {asked[0]}",
        )
    if settings.mode not in form.modes:
        raise SegalError(
            f"mode: {settings.to} takes no {settings.mode}",
            expected=" or ".join(form.modes),
            got=settings.mode,
            remedy=f"give --mode {form.modes[0]}",
        )
    return form


def _bought(source: RunSource, number: int | None) -> list[Purchase]:
    """What was bought in a round; in all of them where none is named."""
    found = [p for p in source.purchases if number in (None, p.round)]
    rounds = sorted({str(p.round) for p in source.purchases}, key=int)
    if rounds and not found:
        raise SegalError(
            f"round: {source.folder} has no regions of round {number}",
            expected=f"a round with purchases: {', '.join(rounds)}",
            got=f"--round {number}",
            remedy="give one of these, or leave --round out for all of them",
        )
    return found


def _handout(
    ledger: Ledger, source: RunSource, settings: ExportSettings, wanted: Sequence[Purchase]
) -> Handout:
    run, tasks = run_key(ledger), []
    for rank, purchase in enumerate(wanted, 1):
        region, size = source.region_of(purchase.image, purchase.box)
        key, frame, file = task_key(run, purchase.image, purchase.box), (0, 0, *size[::-1]), ""
        if settings.mode == CROP:
            frame, file = crop_frame(region, size, settings.pad), f"{CROPS_FOLDER}/{key}.png"
        tasks.append(
            AnnotationTask(
                key=key,
                rank=rank,
                image=purchase.image,
                digest=source.known[purchase.image][2].digest,
                size=size,
                region=region,
                frame=frame,
                file=file or source.log.files.get(purchase.image, purchase.image),
            )
        )
    classes = source.classes(settings.classes, settings.images)
    void = source.question.offers_void and VOID not in classes
    return Handout(
        run=run,
        kind=settings.to,
        mode=settings.mode,
        question=source.config.task,
        classes=(*classes, VOID) if void else classes,
        void=void,
        model=None,
        tasks=tuple(deal(tasks, settings.annotators, settings.overlap)),
    )


def _write(
    settings: ExportSettings,
    form: Format,
    handout: Handout,
    pool: ImagePool | None,
    drafts: Drafts | None,
) -> tuple[Handout, list[Path]]:
    """Writes all of it, and says in it what was written."""
    colours = distinct_colours(len(handout.classes)).tolist()
    options = WriteOptions(settings.image_url, tuple((r, g, b) for r, g, b in colours))
    with replacing(settings.out) as temporary:
        temporary.mkdir()
        if settings.mode == CROP:
            assert pool is not None
            _cut(temporary, handout, pool)
        written = form.write(temporary, handout, drafts, options)
        handout = replace(handout, files=digests_of(temporary))
        (temporary / MANIFEST_FILE).write_text(manifest_text(handout))
        check_place(settings.out, handout)  # crops and drafts may have taken an hour
    return handout, [settings.out / path.relative_to(temporary) for path in written]


def _cut(folder: Path, handout: Handout, pool: ImagePool) -> None:
    """Writes crops, image by image."""
    (folder / CROPS_FOLDER).mkdir()
    by_image = _by_image(handout)
    positions = {path: i for i, path in enumerate(pool.paths)}
    with bar("Cutting out crops") as advance:
        for done, (image, tasks) in enumerate(by_image.items(), 1):
            for task, crop in zip(tasks, _crops(pool, positions[image], tasks), strict=True):
                data = cv2.imencode(".png", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))[1].tobytes()
                (folder / task.file).write_bytes(data)
            advance(done, len(by_image))


def _crops(
    pool: ImagePool, index: int, tasks: Sequence[AnnotationTask]
) -> Iterator[NDArray[np.uint8]]:
    """What tasks show of an image; of a large one nothing else is decoded."""
    if pool.is_large(index):
        yield from (shown_bands(pool.window(index, task.frame)) for task in tasks)
        return
    pixels = shown_bands(pool.read(index))
    for task in tasks:
        x0, y0, x1, y1 = task.frame
        yield np.ascontiguousarray(pixels[y0:y1, x0:x1])


def _by_image(handout: Handout) -> dict[str, list[AnnotationTask]]:
    """One task of each region, by image."""
    found: dict[str, list[AnnotationTask]] = {}
    for one in {task.key: task for task in handout.tasks}.values():
        found.setdefault(one.image, []).append(one)
    return found


def _notes(form: Format, handout: Handout) -> list[str]:
    notes = []
    if not form.is_lossless:
        notes.append(f"{form.name} keeps outlines, not pixels: what comes back is not exact.")
    names = sorted({task.annotator for task in handout.tasks} - {""})
    if names:
        shares = [f"{name} {sum(t.annotator == name for t in handout.tasks)}" for name in names]
        notes.append(f"{count(len(handout.by_key), 'region')}, shared out: {', '.join(shares)}.")
    return notes


def named_annotators(text: str) -> tuple[str, ...]:
    """Names of annotators: as many as a number says, or a list.

    Raises:
        SegalError: If a name is empty, there twice, or none that can be a file's.

    Examples:
        >>> named_annotators("2"), named_annotators("ann,bob"), named_annotators("")
        (('annotator-1', 'annotator-2'), ('ann', 'bob'), ())
    """
    if not text:
        return ()
    if text.isdecimal() and 0 < int(text) <= 1000:
        return tuple(f"annotator-{number}" for number in range(1, int(text) + 1))
    names = tuple(name.strip() for name in text.split(","))
    wrong = [n for n in names if not n or set(n) & set('/\\:*?"<>|\0') or n.startswith(".")]
    if wrong or len(set(names)) < len(names):
        raise SegalError(
            f"annotators: {text!r}",
            expected="a number, or names separated by commas, each once, that files can have",
            got="a name twice" if not wrong else f"{wrong[0]!r}",
            remedy="give --annotators 4, or --annotators ann,bob",
        )
    return names


def _network(source: RunSource, given: Path | None) -> tuple[Path, CheckpointOptions]:
    """The network that says first what it sees: one that is given, or the run's own."""
    config = source.config
    options, path = CheckpointOptions(task=config.task), given
    if path is None and isinstance(config, SelectConfig):
        path = config.checkpoint
        options = CheckpointOptions(**config.model.of_checkpoint(), task=config.task)
    elif path is None:
        trained = sorted(source.folder.glob(f"{ROUNDS_FOLDER}/*/{MODEL_FILE}"))
        path = trained[-1] if trained else None
    if path is None or not path.exists():
        raise SegalError(
            "drafts: no network",
            expected="the network that the picks were made with, or another of the same classes",
            got="a run without one so far" if path is None else f"{path}, which is not there",
            remedy="give --checkpoint FILE, or leave --drafts out",
        )
    return path, options


def _drafted(
    source: RunSource,
    network: tuple[Path, CheckpointOptions],
    pool: ImagePool,
    handout: Handout,
    boxes: Mapping[str, Box],
) -> Drafts:
    """What the network says of every region."""
    model, question = load_checkpoint(*network).eval(), source.question
    known = model.spec.class_names
    if handout.classes[: -1 if handout.void else None] != known:
        raise SegalError(
            "drafts: a network of other classes",
            expected=", ".join(handout.classes),
            got=", ".join(known),
            remedy="give the network of these classes with --checkpoint",
        )
    by_image, positions = _by_image(handout), {path: i for i, path in enumerate(pool.paths)}
    said: dict[str, bytes] = {}
    with bar("Drafting answers") as advance, torch.inference_mode():
        for done, (image, tasks) in enumerate(by_image.items(), 1):
            evidence = model(model.normalise(torch.from_numpy(pool.read(positions[image]))[None]))
            for task in tasks:
                said[task.key] = question.encode(question.predicted(evidence, task))
            advance(done, len(by_image))

    def draft(task: AnnotationTask) -> Answer:
        label = question.decode(said[task.key], boxes[task.key])
        return question.answer(label, task, handout.classes)

    return draft
