"""`segal review`: a page on which people look at picks before these go to annotators."""

import base64
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from segal.annotation.dealing import crop_frame
from segal.annotation.handout import task_key
from segal.annotation.review import MARK, REASONS, VERSION, selection_key
from segal.candidates.regions import Box
from segal.candidates.table import MEAN_FEATURE, CandidateTable
from segal.config import RunConfig
from segal.errors import SegalError
from segal.jobs.annotate.shown import drawn_of
from segal.jobs.annotate.source import RunSource
from segal.jobs.annotate.spares import last_purchase
from segal.jobs.inputs import refuse_out_within
from segal.jobs.passes import table_folder
from segal.jobs.picks import rows_of, selected_from
from segal.reporting.review import review_page
from segal.runs.history import round_folder
from segal.runs.ledger import Ledger, Purchase
from segal.runs.returns import handouts_of, labels_of, returns_of, run_key
from segal.runs.stages import Phase
from segal.system.console import bar
from segal.system.files import write_bytes
from segal.tasks import find_task
from segal.tasks.drawing import Drawn, Look

MOST_PICKS = 2000
"""Of one page."""
PICTURE_BYTES = 36 * 2**20
"""Of all pictures of a page; as text in it they are a third larger."""
_MOST_EACH = 120_000
_SIDES = (960, 720, 540, 400, 300, 224, 160, 112, 80)
_QUALITIES = (85, 70, 50)
_MAP_SIDE, _CROP_SIDE = 540, 400
_LEAST_PAD, _PAD_SHARE = 32, 0.35
_TOP_SHARE = 0.005  # of the maps' pixels may lie above the colour scale
_NEIGHBOURS = 4
_COLORMAP = "inferno"


@dataclass(frozen=True)
class ReviewSettings:
    """What the page shows.

    Attributes:
        out: The HTML file; None for `review.html` in the run folder.
        picks: Places in the pick order, `FIRST:LAST`, both counted from 1 and shown; empty for all.
        images: Where the images are, if they moved.
        checkpoint: The network, if it is not where the run had it.
    """

    out: Path | None = None
    picks: str = ""
    images: Path | None = None
    checkpoint: Path | None = None


@dataclass(frozen=True)
class ReviewPage:
    """A page that was written.

    Attributes:
        path: Where.
        picks: How many picks it shows.
        bytes: Its size.
        notes: What the user should know.
    """

    path: Path
    picks: int
    bytes: int
    notes: Sequence[str]


def write_review(folder: Path, settings: ReviewSettings) -> ReviewPage:
    """Writes the page of what a run bought last.

    Args:
        folder: Of a run of `segal select`, or of one of `segal run --annotate`.
        settings: What it shows.

    Raises:
        SegalError: If nothing is bought yet, people do not label what the run buys, there are too
            many picks for one page, or the images are gone.
    """
    with Ledger.read(folder) as ledger:
        source = RunSource.open(ledger)
        if isinstance(source.config, RunConfig) and not source.config.annotate:
            raise SegalError(
                f"{folder}: labels of its picks are there already",
                expected="a run of segal select, or of segal run --annotate, whose picks wait",
                got="a run whose labels are known",
                remedy="look at it with segal report",
            )
        out = settings.out or folder / "review.html"
        _refuse_images(out, source)
        phase = last_purchase(ledger)
        bought = ledger.purchases(phase.name, phase.round)
        shown = bought[_places(settings.picks, len(bought))]
        pool = source.pool(settings.images)
        drawn, notes = drawn_of(ledger, source, phase, pool, settings.checkpoint)
        run = run_key(ledger)
        keys = [task_key(run, p.image, p.box) for p in shown]
        returned = {task_key(run, *region) for region in labels_of(returns_of(ledger))}
        handed = {key for handout in handouts_of(ledger) for key in handout.by_key}
        pictures = _Pictures.of(source, drawn, shown)
        near, near_by = _neighbours(source, phase, shown)
        first = bought.index(shown[0]) + 1
    picks: list[dict[str, Any]] = [
        {
            "key": key,
            "image": one.image,
            "box": _plain(pictures.regions[one.image, one.box]),
            "size": pictures.sizes[one.image][::-1],
            "score": one.score,
            "state": "returned" if key in returned else "handed" if key in handed else "open",
            "of": pictures.images[one.image],
            "near": near[place],
            **pictures.crops[place],
        }
        for place, (key, one) in enumerate(zip(keys, shown, strict=True))
    ]
    file = {MARK: VERSION, "run": run, "phase": phase.name, "round": phase.round}
    data = {
        "file": {**file, "picks": keys, "selection": selection_key(keys)},
        "name": re.sub(r"[^\w.-]+", "_", folder.resolve().name, flags=re.ASCII)[:60] or "run",
        "picks": picks,
        "images": pictures.described,
        "reasons": list(REASONS),
        "first": first,
        "all": len(bought),
        "map": {"caption": drawn.caption, "low": pictures.low, "high": pictures.high},
        "near": near_by,
        "unit": find_task(source.config.task).metric.elements,
    }
    what = shown[0].strategy if phase.name != "seed" else "the seed set, drawn at random"
    title = f"Review of {folder.resolve().name}"
    lead = f"{len(shown)} of {len(bought)} picks of round {phase.round}, {what}"
    text = review_page(title, lead, data, pictures.encoded, REASONS)
    write_bytes(out, text)
    return ReviewPage(out, len(shown), len(text), notes)


def _refuse_images(out: Path, source: RunSource) -> None:
    config = source.config
    images = config.data.root if isinstance(config, RunConfig) else config.images
    if images.is_dir():
        refuse_out_within(out, images, "folder of images")
    if out.is_dir():
        raise SegalError(
            f"{out}: a folder",
            expected="an HTML file to write",
            got="a folder",
            remedy=f"give --out {out / 'review.html'}",
        )


def _places(text: str, many: int) -> slice:
    """Which picks a page shows."""
    found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text.strip()) if text else None
    first, last = (int(found[1]), int(found[2])) if found else (1, many)
    if text and (found is None or not 1 <= first <= last or first > many):
        raise SegalError(
            f"picks: {text!r}",
            expected=f"FIRST:LAST within 1:{many}",
            got=text,
            remedy=f"give for example --picks 1:{min(many, 200)}",
        )
    last = min(last, many)
    if last - first >= MOST_PICKS:
        raise SegalError(
            f"picks: {last - first + 1} on one page",
            expected=f"at most {MOST_PICKS}",
            got=text or f"all {many}",
            remedy=f"make several pages, such as with --picks {first}:{first + MOST_PICKS - 1}",
        )
    return slice(first - 1, last)


@dataclass(frozen=True)
class _Pictures:
    """Pictures of a page; made by `of`.

    Attributes:
        encoded: As base64, by number.
        described: Of each image: numbers of its pictures, its legend, what the network says.
        images: Positions among these, by path.
        crops: Of each pick: the number of its picture, and where its region lies in it.
        regions: By image and box of a pick, the region in pixels of the image.
        sizes: (height, width) by path.
        low: Lowest value of the maps' scale.
        high: Highest.
    """

    encoded: Sequence[str]
    described: Sequence[Mapping[str, Any]]
    images: Mapping[str, int]
    crops: Sequence[Mapping[str, Any]]
    regions: Mapping[tuple[str, Box], Box]
    sizes: Mapping[str, tuple[int, int]]
    low: float | None
    high: float | None

    @classmethod
    def of(cls, source: RunSource, drawn: Drawn, shown: Sequence[Purchase]) -> "_Pictures":
        by_image: dict[str, list[int]] = {}
        for place, one in enumerate(shown):
            by_image.setdefault(one.image, []).append(place)
        # A picture of the image, a map and a prediction of each, and a crop of each pick.
        most = min(_MOST_EACH, PICTURE_BYTES // (3 * len(by_image) + len(shown)))
        positions = {path: i for i, path in enumerate(drawn.pool.paths)}
        encoded, described, maps = list[str](), list[dict[str, Any]](), list[NDArray[Any] | None]()
        crops: list[dict[str, Any]] = [{} for _ in shown]
        regions: dict[tuple[str, Box], Box] = {}
        sizes: dict[str, tuple[int, int]] = {}

        def put(picture: NDArray[np.uint8] | None, side: int) -> int | None:
            data = None if picture is None else _jpeg(picture, side, most)
            if data is None:
                return None
            encoded.append(base64.b64encode(data).decode())
            return len(encoded) - 1

        task = find_task(source.config.task)
        with bar("Drawing pictures") as advance:
            for done, (image, places) in enumerate(by_image.items(), 1):
                look = task.look(drawn, positions[image])
                described.append(
                    {
                        "image": put(look.image, _SIDES[0]),
                        "predicted": put(look.predicted, _SIDES[1]),
                        "legend": [
                            [name, "#{:02x}{:02x}{:02x}".format(*c)] for name, c in look.legend
                        ],
                        "said": list(look.said),
                    }
                )
                maps.append(_small_map(look))
                for place in places:
                    one = shown[place]
                    region, size = source.region_of(one.image, one.box)
                    regions[one.image, one.box], sizes[image] = region, size
                    crops[place] = _crop(look.image, region, size, put)
                advance(done, len(by_image))
        low, high = _scale([m for m in maps if m is not None])
        for about, values in zip(described, maps, strict=True):
            about["map"] = None if values is None else put(_coloured(values, low, high), _MAP_SIDE)
        images = {image: i for i, image in enumerate(by_image)}
        return cls(encoded, described, images, crops, regions, sizes, low, high)


def _crop(
    image: NDArray[np.uint8] | None, region: Box, size: tuple[int, int], put: Any
) -> dict[str, Any]:
    """A region with what is around it; nothing where it is the whole image."""
    x0, y0, x1, y1 = region
    if image is None or region == (0, 0, size[1], size[0]) or image.shape[:2] != size:
        return {"crop": None, "inner": None}
    pad = max(_LEAST_PAD, round(_PAD_SHARE * max(x1 - x0, y1 - y0)))
    left, top, right, bottom = frame = crop_frame(region, size, pad)
    inner = (x0 - frame[0], y0 - frame[1], x1 - frame[0], y1 - frame[1])
    across, down = right - left, bottom - top
    shares = [inner[0] / across, inner[1] / down, (x1 - x0) / across, (y1 - y0) / down]
    return {
        "crop": put(image[top:bottom, left:right], _CROP_SIDE),
        "inner": [round(100 * share, 3) for share in shares],
    }


def _jpeg(picture: NDArray[np.uint8], side: int, most: int) -> bytes | None:
    """A picture as JPEG of at most so many bytes, as large as that allows; None of what will not.

    Args:
        picture: (H, W, 3) RGB.
        side: The most pixels of the longer side.
        most: Bytes.
    """
    height, width = picture.shape[:2]
    for longest in (s for s in _SIDES if s <= side):
        factor = min(1.0, longest / max(height, width))
        size = max(1, round(width * factor)), max(1, round(height * factor))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        for quality in _QUALITIES:
            settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
            data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), settings)[1]
            if data.nbytes <= most:
                return data.tobytes()
    return None


def _small_map(look: Look) -> NDArray[np.float32] | None:
    """A map at the size at which it is shown: of many images all are held."""
    if look.uncertainty is None:
        return None
    height, width = look.uncertainty.shape
    factor = min(1.0, _MAP_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    values = look.uncertainty.astype(np.float32)
    small = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    return small.astype(np.float32, copy=False)


def _scale(maps: Sequence[NDArray[np.float32]]) -> tuple[float | None, float | None]:
    """Of all maps together, so that they can be compared: few values lie above."""
    if not maps:
        return None, None
    low = min(0.0, *(float(values.min()) for values in maps))
    high = max(float(np.quantile(values, 1 - _TOP_SHARE)) for values in maps)
    return low, high if high > low else low + 1.0


def _coloured(
    values: NDArray[np.float32], low: float | None, high: float | None
) -> NDArray[np.uint8]:
    assert low is not None
    assert high is not None
    shares = ((values - low) / (high - low)).clip(0, 1)
    colours: NDArray[np.uint8] = colormaps[_COLORMAP](shares, bytes=True)[..., :3]
    return np.ascontiguousarray(colours)


def _neighbours(
    source: RunSource, phase: Phase, shown: Sequence[Purchase]
) -> tuple[list[list[int]], str]:
    """Of each pick the nearest others that are shown, and by what they are the nearest."""
    features = _features(source, phase, shown)
    number = min(_NEIGHBOURS, len(shown) - 1)
    found: list[list[int]] = []
    if features is not None:
        squares = (features**2).sum(1)
        for place, feature in enumerate(features):
            apart = squares - 2 * features @ feature
            apart[place] = np.inf
            found.append(np.argsort(apart, kind="stable")[:number].tolist())
        return found, "Picks that look most alike to the network"
    for place, one in enumerate(shown):
        order = sorted(
            (other for other in range(len(shown)) if other != place),
            key=lambda o: (shown[o].image != one.image, _apart(shown[o].box, one.box), o),
        )
        same = [o for o in order if shown[o].image == one.image]
        by_rank = sorted(set(order) - set(same), key=lambda o: (abs(o - place), o))
        found.append([*same, *by_rank][:number])
    return found, "Picks of the same image, then those next in the order"


def _features(
    source: RunSource, phase: Phase, shown: Sequence[Purchase]
) -> NDArray[np.float32] | None:
    """(n, d) mean features of the picks; None where they were not measured."""
    if phase.name == "seed":
        return None
    is_round = isinstance(source.config, RunConfig)
    folder = round_folder(source.folder, phase.round) if is_round else source.folder
    with suppress(SegalError, OSError, KeyError):
        table = CandidateTable.open(table_folder(folder, 0) / source.config.region)
        if MEAN_FEATURE in table.embeddings:
            rows = rows_of(table, selected_from(shown))
            return np.asarray(table.embeddings[MEAN_FEATURE][rows], np.float32)
    return None


def _apart(one: Box, other: Box) -> int:
    """Squared distance of two boxes' corners."""
    return (one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2


def _plain(box: Box) -> list[int]:
    x0, y0, x1, y1 = map(int, box)
    return [x0, y0, x1 - x0, y1 - y0]
