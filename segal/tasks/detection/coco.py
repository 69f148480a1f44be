"""The layout of COCO: one JSON of all boxes of a split.

Source: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from segal.data.find import SUFFIXES, shortened
from segal.errors import SegalError, raise_all
from segal.system.files import is_there, read_error
from segal.tasks.classes import ClassNames
from segal.tasks.detection.layout import Finding, Labels, Row, Source, Written, in_order

LAYOUT = """\
annotations/instances_<split>.json  (or annotations/<split>.json)
<split>/NAME.jpg                    (or images/<split>/, or images/)
or, as Roboflow writes it:
<split>/_annotations.coco.json, <split>/NAME.jpg
or one JSON of all images (annotations.json, result.json), split by segal"""

ROBOFLOW = "_annotations.coco.json"
_PREFIX = "instances_"
_OTHER_KINDS = ("captions_", "panoptic_", "person_keypoints_", "stuff_", "image_info_")
_SINGLE = (ROBOFLOW, "annotations.json", "result.json", "coco.json", "instances_default.json")
_MAX_BYTES = 2**32
_PROBED = 50


def found(root: Path) -> bool:
    """Whether a folder or a file looks like this layout."""
    return bool(_files(root))


def splits(root: Path) -> list[str]:
    """The splits that have a file, sorted; none where one file lists all images."""
    return sorted(split for split in _files(root) if split)


def source(root: Path, split: str | None) -> Source:
    """A split, or all images where they are not split.

    Raises:
        SegalError: For all that is wrong with the file.
    """
    file = _files(root)[split or ""]
    status = file.stat()
    listing = _listing(file, status.st_size, status.st_mtime_ns)
    images = _folder(root, file, split or "", list(listing.images))
    paths = {name: _path(images, name) for name in listing.images}
    twice = [path for path, times in Counter(paths.values()).items() if times > 1]
    if twice or not paths:
        raise SegalError(
            f"{file}: lists images more than once" if twice else f"{file}: lists no image",
            expected="every image once",
            got=", ".join(twice[:5]) or "an empty list",
            remedy="mend the file",
        )
    written = {paths[name]: label for name, label in listing.images.items()}

    def read(chosen: Sequence[str]) -> Labels:
        labels = Labels({path: written[path] for path in chosen})
        for path in chosen:
            crowds = int(written[path].crowd.sum())
            text = f"{path} ({crowds})" if crowds > 1 else path
            if crowds:
                fate = "which are neither trained on nor counted as right or wrong"
                labels.findings.append(Finding("images with crowd regions", fate, path, text))
        return labels

    whole = not split or images.name == split  # a folder of all splits holds others' images
    findings = (*listing.findings, *(_unlisted(images, set(written)) if whole else ()))
    return Source(images, in_order(list(written)), listing.classes, read, findings)


def _files(root: Path) -> dict[str, Path]:
    """The files of the splits; of "" for one that lists all images."""
    if root.is_file():
        return {"": root} if root.suffix.lower() == ".json" else {}
    named = {
        file.stem.removeprefix(_PREFIX): file
        for file in sorted((root / "annotations").glob("*.json"))
        if not file.name.startswith((*_OTHER_KINDS, "."))
    }
    named |= {file.parent.name: file for file in sorted(root.glob(f"*/{ROBOFLOW}"))}
    if set(named) == {"default"}:  # CVAT's name for images that are in no split
        return {"": named["default"]}
    if named:
        return named
    single = [root / name for name in _SINGLE if (root / name).is_file()]
    return {"": single[0]} if single else {}


@dataclass(frozen=True)
class _Listing:
    """What a file says: the boxes of each image by its `file_name`."""

    images: Mapping[str, Written]
    classes: ClassNames
    findings: tuple[Finding, ...]


def _load(file: Path) -> Mapping[str, Any]:
    expected = "an object with lists of images, annotations and categories"
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise _wrong(file, expected, f"more than {_MAX_BYTES:,} bytes")
        content = json.loads(data)
    except OSError as error:
        raise read_error(file, error, expected) from error
    except (ValueError, RecursionError) as error:
        raise _wrong(file, expected, f"no JSON: {error}"[:200]) from error
    if not isinstance(content, dict):
        raise _wrong(file, expected, type(content).__name__)
    wrong = [
        f"{key}: {type(content.get(key)).__name__}"
        for key in ("images", "annotations", "categories")
        if not isinstance(content.get(key), list)
        or not all(isinstance(entry, dict) for entry in content[key])
    ]
    if wrong:
        raise _wrong(file, f"{expected}, each of objects", ", ".join(wrong))
    return content


@lru_cache(maxsize=2)
def _listing(file: Path, _size: int, _mtime: int) -> _Listing:
    """What a file says; large ones take seconds, and a run opens a split several times."""
    content = _load(file)
    images, annotations = content["images"], content["annotations"]
    errors = [
        *id_errors(file, "image", images, "file_name"),
        *id_errors(file, "category", content["categories"], "name"),
    ]
    raise_all(shortened(errors))
    findings: list[Finding] = []
    classes, numbers = _classes(content["categories"], annotations, findings, file)
    ids = {entry["id"] for entry in images}
    rows: dict[Any, list[Row]] = defaultdict(list)
    for place, annotation in enumerate(annotations):
        name = f"annotation {annotation.get('id', f'at {place}')}"
        image, box = annotation.get("image_id"), annotation.get("bbox")
        if not is_id(image) or image not in ids:
            text = f"{name} (image_id {image!r:.40})"
            findings.append(Finding("boxes of images that are not listed", "left out", None, text))
        elif not is_id(category := annotation.get("category_id")) or category not in numbers:
            listed = ", ".join(map(str, list(numbers)[:20]))
            errors.append(
                _wrong(f"{file}: {name}", f"a listed category: {listed}", f"{category!r:.40}")
            )
        elif not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            errors.append(_wrong(f"{file}: {name}", "bbox: x, y, width, height", f"{box!r:.100}"))
        else:
            x, y, width, height = map(float, box)
            corners = (x, y, x + width, y + height)
            rows[image].append((corners, numbers[category], bool(annotation.get("iscrowd"))))
    raise_all(shortened(errors))
    given = [entry["id"] for entry in annotations if is_id(entry.get("id"))]
    repeated = [f"id {one}" for one, times in Counter(given).items() if times > 1]
    findings += [Finding("annotation ids that occur twice", "not used", None, x) for x in repeated]
    total = sum(map(len, rows.values()))
    crowds = sum(crowd for boxes in rows.values() for _, _, crowd in boxes)
    if total and crowds == total:
        text = f"all {total} boxes; some tools mark every mask so"
        findings.append(Finding("files of crowd regions only", "nothing to train on", None, text))
    written = {e["file_name"]: Written.of(rows.get(e["id"], ()), _said_size(e)) for e in images}
    return _Listing(written, classes, tuple(findings))


def id_errors(
    file: Path, kind: str, entries: Sequence[Mapping[str, Any]], name: str
) -> list[SegalError]:
    """What is wrong with the ids and the names of images or of categories.

    Args:
        file: For messages.
        kind: What they are.
        entries: As the file has them.
        name: The key of a name.
    """
    errors = [
        _wrong(f"{file}: {kind} {place}", f"an id, and a text as {name}", f"{entry!r:.100}")
        for place, entry in enumerate(entries)
        if not is_id(entry.get("id")) or not isinstance(entry.get(name), str) or not entry[name]
    ]
    if errors:
        return errors
    for key in ("id", name):
        counts = Counter(entry[key] for entry in entries)
        twice = [str(value) for value, times in counts.items() if times > 1]
        if twice:
            got = f"{', '.join(twice[:5])} more than once"
            errors.append(_wrong(f"{file}: {kind}", f"a {key} of its own for each", got))
    return errors


def _classes(
    categories: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    findings: list[Finding],
    file: Path,
) -> tuple[ClassNames, dict[Any, int]]:
    """The classes in order of their ids, which may have gaps, and the class of each id."""
    used = {entry.get("category_id") for entry in annotations if is_id(entry.get("category_id"))}
    parents = {entry.get("supercategory") for entry in categories if _is_name(entry)}
    kept = []
    for entry in sorted(categories, key=lambda entry: (isinstance(entry["id"], str), entry["id"])):
        is_group = entry.get("supercategory") == "none" and entry["name"] in parents
        if is_group and entry["id"] not in used:  # Roboflow's name of the whole data set
            fate = "no classes, since they have no box"
            findings.append(Finding("categories that group others", fate, None, entry["name"]))
        else:
            kept.append(entry)
    if not kept:
        raise _wrong(file, "categories with ids and names", "none")
    names = tuple(entry["name"] for entry in kept)
    return ClassNames(names), {entry["id"]: i for i, entry in enumerate(kept)}


def _is_name(entry: Mapping[str, Any]) -> bool:
    return isinstance(entry.get("supercategory"), str)


def is_id(value: object) -> bool:
    """Whether a value can be an id: a whole number or a text."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53


def _said_size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = entry.get("height"), entry.get("width")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None


def _folder(root: Path, file: Path, split: str, names: Sequence[str]) -> Path:
    """The folder that holds most of the first images."""
    if file.name == ROBOFLOW:
        return file.parent
    base = root if root.is_dir() else root.parent
    places = (f"images/{split}", split, "images", "images/default", "")
    there = [base / place for place in places if (base / place).is_dir()]

    def held(folder: Path) -> int:
        return sum(is_there(folder / _path(folder, name)) for name in names[:_PROBED])

    return max(there, key=held)


def _path(images: Path, name: str) -> str:
    """Where an image is; names may have folders, also of the machine that wrote them."""
    path = PurePosixPath(name.replace("\\", "/"))
    is_elsewhere = path.is_absolute() or ".." in path.parts or not is_there(images / path)
    return path.name if is_elsewhere and is_there(images / path.name) else path.as_posix()


def _unlisted(images: Path, paths: set[str]) -> list[Finding]:
    """Images in the folders of listed ones that the file does not list."""
    folders = {PurePosixPath(path).parent for path in paths}
    there = {
        (folder / file.name).as_posix()
        for folder in folders
        if ".." not in folder.parts and not folder.is_absolute() and (images / folder).is_dir()
        for file in (images / folder).iterdir()
        if file.name.lower().endswith(SUFFIXES) and not file.name.startswith(".")
    }
    alone = in_order(list(there - paths))
    return [Finding("images that the file does not list", "left out", None, x) for x in alone]


def _wrong(place: object, expected: str, got: str) -> SegalError:
    return SegalError(
        f"{place}: not as COCO has it", expected=expected, got=got, remedy="mend the file"
    )
