"""The layout of YOLO: a text file of boxes for each image, as Ultralytics and Roboflow write it.

A line is a class number and four shares of the image's sides: the box's middle x and y, width and
height. A line of a polygon, three or more pairs of shares, is taken for the box around it. An image
without a file shows no object, as Ultralytics has it.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from segal.data.class_list import read_lines
from segal.data.find import SUFFIXES, check_path, find_images, real_path
from segal.errors import SegalError
from segal.system.files import is_there, read_error
from segal.tasks.classes import ClassNames
from segal.tasks.classification.labels import CLASSES_FILE, ClassList
from segal.tasks.detection.layout import (
    SPLIT_FOLDERS,
    Finding,
    Labels,
    Row,
    Source,
    Written,
    in_order,
    number_of,
)

LAYOUT = """\
data.yaml                           names, and the folder (or list) of images of each split
images/<split>/NAME.jpg             (or <split>/images/; without splits, split by segal)
labels/<split>/NAME.txt             (or <split>/labels/) CLASS X Y WIDTH HEIGHT, shares of the image
or classes.txt in place of data.yaml"""

_MAX_YAML, _MAX_LIST = 2**20, 2**26
_LARGEST = 2.0
"""Of a share: the box of an object that is cut off may leave its image, one in pixels is larger."""
_FORM = "CLASS X Y WIDTH HEIGHT a line, shares of the image's width and height"
_YAML_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_CLASS_FILES = (CLASSES_FILE, "obj.names")


def found(root: Path) -> bool:
    """Whether a folder or a file looks like this layout."""
    if root.is_file():
        return root.suffix in {".yaml", ".yml"}
    if _yaml_file(root) is not None:
        return True
    labels = [root / "labels", *(root / split / "labels" for split in SPLIT_FOLDERS)]
    return any(
        folder.with_name("images").is_dir() and next(folder.rglob("*.txt"), None) is not None
        for folder in labels
    )


def splits(root: Path) -> list[str]:
    """The splits that there are, sorted; none where the images are not split."""
    return sorted(_split_places(*_config(root)))


def _split_places(folder: Path, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Where the images of each split are, as `data.yaml` says or folders show."""
    named = {name: config[name] for name in SPLIT_FOLDERS if config and config.get(name)}
    return named or {
        name: place
        for name in SPLIT_FOLDERS
        for place in (f"{name}/images", f"images/{name}")
        if (folder / place).is_dir()
    }


def source(root: Path, split: str | None) -> Source:
    """A split, or all images where they are not split.

    Raises:
        SegalError: If the list of classes or of images is wrong, or a folder leads out of the root.
    """
    folder, config = _config(root)
    classes = _classes(root, folder, config)
    images, paths = _images(root, folder, config, split)

    def read(chosen: Sequence[str]) -> Labels:
        return _read(folder, images, chosen, classes.names)

    findings = _without_image(folder, images, paths)
    return Source(images, paths, classes, read, findings, unlabelled_are_negative=True)


def _yaml_file(root: Path) -> Path | None:
    if root.is_file():
        return root
    return next((root / name for name in _YAML_FILES if (root / name).is_file()), None)


def _config(root: Path) -> tuple[Path, Mapping[str, Any] | None]:
    """The folder of a data set, and what its `data.yaml` says; None where there is none."""
    file = _yaml_file(root)
    if file is None:
        return root, None
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_YAML + 1)
        if len(data) > _MAX_YAML:
            raise _wrong_yaml(
                file, "a mapping of less than 1 MiB", f"more than {_MAX_YAML:,} bytes"
            )
        config = yaml.safe_load(data)
    except OSError as error:
        raise read_error(file, error, "a list of classes and splits") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _wrong_yaml(file, "YAML", str(error).splitlines()[0][:200]) from error
    if not isinstance(config, dict) or "names" not in config:
        raise _wrong_yaml(file, "a mapping with `names`, `train` and `val`", "none with `names`")
    return file.parent, config


def _classes(root: Path, folder: Path, config: Mapping[str, Any] | None) -> ClassNames:
    if config is None:
        for name in (*_CLASS_FILES, f"labels/{CLASSES_FILE}"):
            listed = ClassList.read(folder / name)
            if listed is not None:
                return ClassNames(listed.names)
        raise SegalError(
            f"{root}: no list of classes",
            expected="data.yaml with `names`, or classes.txt",
            got="label files, which have numbers only",
            remedy=f"write {CLASSES_FILE}: a class a line, in the order of the numbers",
        )
    names, place = config["names"], f"{_yaml_file(root)}: names"
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            expected = f"numbers from 0 to {len(names) - 1}"
            raise _wrong_yaml(place, expected, ", ".join(map(str, names))[:100])
        names = [names[key] for key in sorted(names, key=int)]
    if not isinstance(names, list) or not all(isinstance(n, str | int | float) for n in names):
        raise _wrong_yaml(place, "a list of names", type(names).__name__)
    if isinstance(config.get("nc"), int) and config["nc"] != len(names):
        raise _wrong_yaml(place, f"{config['nc']} as nc says", f"{len(names)} names")
    return ClassNames(ClassList.of(place, [str(name) for name in names]).names)


def _images(
    root: Path, folder: Path, config: Mapping[str, Any] | None, split: str | None
) -> tuple[Path, Sequence[str]]:
    """The folder that paths are relative to, and the paths of a split's images below it."""
    if split is None:
        return folder / "images", find_images(folder / "images")
    given = _split_places(folder, config)[split]
    entries = given if isinstance(given, list) else [given]
    if not all(isinstance(entry, str) for entry in entries):
        raise _wrong_yaml(f"{root}: {split}", "a folder, or a list of them", repr(given)[:100])
    base = (config or {}).get("path")
    places = [_inside(root, folder, base if isinstance(base, str) else "", e) for e in entries]
    if len(places) == 1 and (folder / places[0]).is_dir():
        return folder / places[0], find_images(folder / places[0])
    paths: list[str] = []
    for place in places:
        if (folder / place).is_dir():
            paths += [(place / path).as_posix() for path in find_images(folder / place)]
        else:
            lines = read_lines(folder / place, "the path of an image a line", _MAX_LIST)
            paths += [_inside(root, folder, "", line).as_posix() for line in lines]
    if len(set(paths)) < len(paths) or not paths:
        got = "one of them twice" if paths else "none"
        raise _wrong_yaml(f"{root}: {split}", "images, each of them once", got)
    return folder, in_order(paths)


def _inside(root: Path, folder: Path, base: str, entry: str) -> PurePosixPath:
    """A place below the folder, also where it is written from elsewhere.

    Roboflow writes `../train/images` for what lies beside `data.yaml`, and others the path that the
    data set had on their machine: the longest end of a path that is there is meant.
    """
    parts = PurePosixPath(base.replace("\\", "/"), entry.replace("\\", "/")).parts
    clean = [part for part in parts if part not in {"/", ".", ".."} and not part.endswith(":")]
    for start in range(len(clean)):
        place = PurePosixPath(*clean[start:])
        if is_there(folder / place):
            check_path(folder, place.as_posix(), real_path(folder))
            return place
    raise SegalError(
        f"{root}: {entry[:200]!r} is not there",
        expected=f"a folder or a list of images below {folder}",
        got="nothing of this name",
        remedy="write the path relative to data.yaml",
    )


def label_of(folder: Path, image: Path) -> Path:
    """The label file of an image: `labels` in place of the last folder `images`, or beside it."""
    return _beside(folder, image, "images", "labels").with_suffix(".txt")


def _beside(folder: Path, file: Path, here: str, there: str) -> Path:
    """A file with one folder's name in place of another's, the last one below the data set's."""
    parts = list(file.relative_to(folder).parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == here:
            parts[i] = there
            break
    return folder.joinpath(*parts)


def _read(folder: Path, images: Path, paths: Sequence[str], names: Sequence[str]) -> Labels:
    labels, real_root = Labels(), real_path(folder)
    for path in paths:
        file = label_of(folder, images / path)
        if not is_there(file):
            continue
        try:
            check_path(folder, file.relative_to(folder).as_posix(), real_root)
            lines = read_lines(file, _FORM, _MAX_LIST)
        except SegalError as error:
            labels.errors.append(error)
            continue
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                row, is_polygon = _row(f"{file}: line {number}", line, names)
            except SegalError as error:
                labels.errors.append(error)
                continue
            rows.append(row)
            if is_polygon:
                fate, text = "taken for the boxes around them", f"{path} line {number}"
                labels.findings.append(Finding("polygons in place of boxes", fate, path, text))
        labels.written[path] = Written.of(rows, relative=True)
    return labels


def _row(place: str, line: str, names: Sequence[str]) -> tuple[Row, bool]:
    """The box of a line, and whether it is written as a polygon."""
    fields = line.split()
    values = np.array([number_of(field) for field in fields], np.float64)
    is_polygon = len(fields) >= 7 and len(fields) % 2 == 1
    if len(fields) != 5 and not is_polygon:
        raise _wrong_line(place, line, _FORM)
    if not np.isfinite(values).all():
        raise _wrong_line(place, line, "numbers")
    if np.abs(values[1:]).max() > _LARGEST:
        raise _wrong_line(place, line, "shares of the image's sides, from 0 to 1, not pixels")
    if not re.fullmatch(r"\d{1,9}(\.0*)?", fields[0]) or int(values[0]) >= len(names):
        raise _wrong_line(place, line, f"a class from 0 to {len(names) - 1}, as names are listed")
    if is_polygon:
        x, y = values[1::2], values[2::2]
        return ((x.min(), y.min(), x.max(), y.max()), int(values[0]), False), True
    x, y, width, height = values[1:].tolist()
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return (box, int(values[0]), False), False


def _without_image(folder: Path, images: Path, paths: Sequence[str]) -> tuple[Finding, ...]:
    """Label files of images that are not there, in the folders of those that are."""
    expected = {label_of(folder, images / path) for path in paths}
    there = {
        file
        for place in {file.parent for file in expected}
        for file in place.glob("*.txt")
        if file.name not in _CLASS_FILES
    }

    def has_image(label: Path) -> bool:
        image = _beside(folder, label, "labels", "images")
        return any(is_there(image.with_suffix(suffix)) for suffix in SUFFIXES)

    alone = sorted(file.name for file in there - expected if not has_image(file))
    return tuple(Finding("labels without an image", "left out", None, name) for name in alone)


def _wrong_yaml(place: object, expected: str, got: str) -> SegalError:
    return SegalError(
        f"{place}: not as a YOLO data set has it",
        expected=expected,
        got=got,
        remedy="mend the file",
    )


def _wrong_line(place: str, line: str, expected: str) -> SegalError:
    return SegalError(
        f"{place}: no box", expected=expected, got=line[:100], remedy="mend or remove the line"
    )
