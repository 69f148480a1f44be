"""What segal writes and reads, against label-studio-sdk, cvat-sdk and datumaro themselves.

    python -m venv FOLDER && FOLDER/bin/pip install label-studio-sdk==2.1.2 cvat-sdk==2.80.0
    python -m venv OTHER && OTHER/bin/pip install datumaro==1.13.12
    python tools/check_annotation_libraries.py {FOLDER,OTHER}/lib/python3.11/site-packages

Datumaro has readers and writers of CVAT's XML and of COCO. They are not among the requirements of
the tests: they ask for other versions of what segal needs. Theirs are found behind segal's own
packages. Prints what was checked; exits with 1 if they differ.
"""

import json
import sys
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from segal.annotation.answers import Answer, DrawnBox, Layer
from segal.annotation.formats import FORMATS
from segal.annotation.formats.base import WriteOptions
from segal.annotation.formats.cvat_xml import pictures
from segal.annotation.handout import AnnotationTask, Handout
from segal.errors import SegalError
from segal.functional.rle import encode_counts
from segal.functional.rle_brushes import decode_brush, encode_brush

SIZES = [(1, 1), (7, 5), (17, 13), (127, 255), (333, 217), (300, 400)]
CLASSES = ("road, wet", "a<&\">'", "é/x")
OPTIONS = WriteOptions("/data/local-files/?d={file}", ((1, 2, 3),) * 3)


def masks(seed: int = 0) -> list[np.ndarray]:
    rng, made = np.random.default_rng(seed), []
    for height, width in SIZES:
        for grain in (1, 3, 40):
            coarse = rng.random((-(-height // grain), -(-width // grain))) < 0.5
            mask = np.kron(coarse, np.ones((grain, grain), bool))[:height, :width].astype(bool)
            made += [mask, ~mask]
    return made


def pasted(mask: np.ndarray, corner: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    full = np.zeros(shape, bool)
    (x, y), (height, width) = corner, mask.shape
    full[y : y + height, x : x + width] = mask
    return full


def check_brushes() -> str:
    from label_studio_sdk.converter.brush import decode_rle, encode_rle, mask2rle  # noqa: PLC0415

    for mask in masks():
        packed = encode_brush(mask, (0, 0), *mask.shape)
        assert list(packed) == mask2rle(mask.astype(np.uint8) * 255)
        alpha = decode_rle(list(packed)).reshape(*mask.shape, 4)[..., 3]
        assert np.array_equal(alpha, mask * np.uint8(255))
    rng = np.random.default_rng(1)
    for mask in masks(2):
        pixels = rng.integers(0, 256, (*mask.shape, 4)).astype(np.uint8)
        pixels[mask] = 0
        found = decode_brush(bytes(encode_rle(pixels.reshape(-1))), *mask.shape)
        alpha = pixels[..., 3]
        assert np.array_equal(pasted(found.mask, found.corner, mask.shape), alpha >= 128)
        assert found.painted == (alpha > 0).sum()
    return f"label-studio-sdk {version('label-studio-sdk')}: brushes, same bytes and pixels"


def handout(question: str) -> tuple[Handout, Answer]:
    task = AnnotationTask(
        "k" * 16, 1, "d/a.png", "", (33, 47), (5, 3, 40, 30), (0, 0, 47, 33), "d/a.png"
    )
    layers = [Layer(name, np.eye(9, dtype=bool), (6 + i, 5)) for i, name in enumerate(CLASSES)]
    drawn = Answer(
        task.key,
        "",
        layers=layers if question == "segmentation" else (),
        boxes=[DrawnBox(CLASSES[1], (6, 5, 20, 9))] if question == "detection" else (),
        choices=CLASSES[:1] if question in {"classification", "multilabel"} else (),
    )
    return Handout("run", "x", "context", question, CLASSES, "model", (task,)), drawn


def check_tasks() -> str:
    from label_studio_sdk.label_interface import LabelInterface  # noqa: PLC0415

    for question in FORMATS["label-studio"].questions:
        given, drawn = handout(question)
        with TemporaryDirectory() as folder:
            config, tasks = FORMATS["label-studio"].write(
                Path(folder), given, lambda _, drawn=drawn: drawn, OPTIONS
            )
            interface = LabelInterface(config.read_text("utf-8"))
            (task,) = json.loads(tasks.read_text("utf-8"))
        interface.validate()
        wrong = interface.validate_prediction(task["predictions"][0], return_errors=True)
        assert not wrong, wrong
        task["predictions"][0]["result"][-1]["from_name"] = "other"
        assert interface.validate_prediction(task["predictions"][0], return_errors=True)
    return "label-studio-sdk: configuration and predictions of every question are valid"


def check_runs() -> str:
    from cvat_sdk.masks import decode_mask, encode_mask  # noqa: PLC0415

    for mask in masks():
        height, width = mask.shape
        encoded = encode_mask(mask, [0, 0, width, height])
        assert encoded[:-4] == encode_counts(mask).tolist()
    given, drawn = handout("segmentation")
    with TemporaryDirectory() as folder:
        paths = FORMATS["cvat"].write(Path(folder), given, lambda _: drawn, OPTIONS)
        (picture,) = pictures(paths[-1])
    found = [shape.given for shape in picture.shapes if shape.tag == "mask"]
    for layer, shape in zip(drawn.layers, found, strict=True):
        left, top, width, height = (int(shape[x]) for x in ("left", "top", "width", "height"))
        corners = [left, top, left + width - 1, top + height - 1]
        points = [*map(int, shape["rle"].split(",")), *corners]
        mask = decode_mask(points, image_width=47, image_height=33)
        assert np.array_equal(mask, pasted(layer.mask, layer.corner, (33, 47)))
    return f"cvat-sdk {version('cvat-sdk')}: masks, same runs and pixels"


def check_datumaro(kind: str, theirs: str, **how: str) -> str:
    """What datumaro reads of what segal wrote, and segal of what datumaro then writes of it."""
    from datumaro.components.annotation import AnnotationType  # noqa: PLC0415
    from datumaro.components.dataset import Dataset  # noqa: PLC0415

    given, drawn = handout("segmentation")
    rng, size = np.random.default_rng(3), (33, 47)
    label = np.kron(rng.integers(0, 4, (11, 16)), np.ones((3, 3), int))[: size[0], : size[1]]
    x0, y0, x1, y1 = given.tasks[0].region
    label[:y0] = label[y1:] = label[:, :x0] = label[:, x1:] = len(CLASSES)
    layers = [Layer(name, label == index) for index, name in enumerate(CLASSES)]
    drawn = replace(drawn, layers=layers)
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "written").mkdir()
        paths = FORMATS[kind].write(folder / "written", given, lambda _: drawn, OPTIONS)
        images = folder / "written" / "images"
        for path in paths:  # datumaro takes other JSON and text beside its own for data sets
            if path.suffix != ".xml" and path.name != "instances_default.json":
                path.unlink()
        (images if kind == "cvat" else images / "default").joinpath("d").mkdir(parents=True)
        place = (images if kind == "cvat" else images / "default") / "d" / "a.png"
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(place)
        found = Dataset.import_from(str(folder / "written"), theirs)
        names = [one.name for one in found.categories()[AnnotationType.label].items]
        (item,) = found
        for index, class_name in enumerate(CLASSES):
            (mask,) = (
                one.image
                for one in item.annotations
                if one.type == AnnotationType.mask and names[one.label] == class_name
            )
            assert np.array_equal(mask.astype(bool), label == index)
        found.export(str(folder / "out"), theirs, save_media=True, **how)
        back = next((folder / "out").glob("*.xml"), folder / "out")
        (answer,) = FORMATS[kind].read(back, replace(given, model=None))
        assert not isinstance(answer, SegalError), answer
        read = np.full(size, 3)
        for layer in answer.layers:
            read[pasted(layer.mask, layer.corner, size)] = CLASSES.index(layer.name)
        assert np.array_equal(read, label)
    return f"datumaro {version('datumaro')}: {kind}, same pixels there and back"


def check_datumaro_cvat() -> str:
    return check_datumaro("cvat", "cvat")


def check_datumaro_coco() -> str:
    # Else it makes polygons of the masks of instances, which change a quarter of these pixels.
    return check_datumaro("coco", "coco_instances", segmentation_mode="mask")


CHECKS = {
    "label_studio_sdk": (check_brushes, check_tasks),
    "cvat_sdk": (check_runs,),
    "datumaro": (check_datumaro_cvat, check_datumaro_coco),
}


def main() -> None:
    sys.path += sys.argv[1:]
    for library, checks in CHECKS.items():
        if find_spec(library) is None:
            print(f"{library} is not installed there: not checked")
            continue
        for check in checks:
            print(check())


if __name__ == "__main__":
    main()
