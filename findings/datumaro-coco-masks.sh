#!/bin/bash
# datumaro: COCO masks of instances (run lengths with iscrowd 0) are read exactly, and come out of
# the COCO exporter as polygons by default, which are other pixels: a quarter of them in a mask of
# blocks of 3 x 3 pixels. Masks with iscrowd 1 stay run lengths and exact, and so do all with
# segmentation_mode="mask". So a file that went through datumaro is not the one that came in.
#
# Expected: run lengths come out as run lengths. Exits 0 while it is as described here.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datumaro==1.13.12 pycocotools==2.0.11 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset
from PIL import Image
from pycocotools import mask as coco

print("datumaro", version("datumaro"), "pycocotools", version("pycocotools"))
generator = np.random.default_rng(3)
mask = np.kron(generator.integers(0, 2, (11, 16)), np.ones((3, 3), int))[:33, :47].astype(np.uint8)


def counts(of):
    """Uncompressed run lengths, column by column, from zeros on."""
    flat = of.flatten(order="F")
    starts = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *starts, len(flat)]).tolist()
    return runs if flat[0] == 0 else [0, *runs]


def there_and_back(iscrowd, **options):
    """The kind of what comes back, and how many pixels are others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in" / "annotations").mkdir(parents=True)
        (folder / "in" / "images" / "default").mkdir(parents=True)
        Image.fromarray(np.zeros((33, 47, 3), np.uint8)).save(
            folder / "in" / "images" / "default" / "a.png"
        )
        one = {
            "id": 1, "image_id": 1, "category_id": 1, "iscrowd": iscrowd,
            "area": int(mask.sum()), "bbox": [0, 0, 47, 33],
            "segmentation": {"size": [33, 47], "counts": counts(mask)},
        }
        (folder / "in" / "annotations" / "instances_default.json").write_text(json.dumps({
            "images": [{"id": 1, "file_name": "a.png", "width": 47, "height": 33}],
            "categories": [{"id": 1, "name": "thing"}], "annotations": [one],
        }))
        data = Dataset.import_from(str(folder / "in"), "coco_instances")
        (item,) = data
        (read,) = (one for one in item.annotations if one.type == AnnotationType.mask)
        assert np.array_equal(np.asarray(read.image, np.uint8), mask)  # it was read right
        data.export(str(folder / "out"), "coco_instances", save_media=True, **options)
        (path,) = (folder / "out" / "annotations").glob("*.json")
        back = np.zeros_like(mask)
        for other in json.loads(path.read_text())["annotations"]:
            shape = other["segmentation"]
            kind = "polygons" if isinstance(shape, list) else "run lengths"
            runs = (
                coco.merge(coco.frPyObjects(shape, 33, 47))
                if isinstance(shape, list)
                else coco.frPyObjects(shape, 33, 47)
            )
            back |= coco.decode(runs)
        return kind, int((back != mask).sum())


found = {
    "iscrowd 0": there_and_back(0),
    "iscrowd 1": there_and_back(1),
    "iscrowd 0, segmentation_mode='mask'": there_and_back(0, segmentation_mode="mask"),
}
for name, (kind, wrong) in found.items():
    print(f"{name}: {kind}, {wrong} of {mask.size} pixels are others")
kinds = {name: kind for name, (kind, _) in found.items()}
wrong = [pixels for _, pixels in found.values()]
as_described = {
    "iscrowd 0": "polygons",
    "iscrowd 1": "run lengths",
    "iscrowd 0, segmentation_mode='mask'": "run lengths",
}
sys.exit(kinds != as_described or not wrong[0] > 100 or wrong[1:] != [0, 0])
PYTHON
