#!/bin/bash
# supervision: an object whose mask has a hole, in COCO's format. from_coco() reads its run lengths
# exactly; as_coco() then writes a polygon with the hole filled, beside the area without it, though
# it says of itself that masks with holes become run lengths. That is so only of masks that did not
# come from a file (or with use_iscrowd=False): those are written exactly, but as a crowd, which
# pycocotools leaves out of its evaluation. There is no way to an exact mask that counts.
#
# Expected: the mask that was read, with iscrowd 0. Exits 0 while it is as described here.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q supervision==0.31.2 pycocotools==2.0.11 \
    opencv-python-headless==4.14.0.94 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import contextlib
import io
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import supervision as sv
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print("supervision", version("supervision"), "pycocotools", version("pycocotools"))
ring = np.zeros((48, 64), np.uint8)
ring[8:40, 16:48] = 1
ring[16:32, 24:40] = 0
runs = coco.encode(np.asfortranarray(ring))
runs["counts"] = runs["counts"].decode()


def written(**options):
    """What is read, whether the file says crowd, and how many pixels of it are others."""
    read = sv.DetectionDataset.from_coco(folder, folder / "in.json", force_masks=True, **options)
    (detections,) = read.annotations.values()
    assert np.array_equal(detections.mask[0], ring)  # it was read right
    read.as_coco(annotations_path=str(folder / "out.json"))
    (one,) = json.loads((folder / "out.json").read_text())["annotations"]
    with contextlib.redirect_stdout(io.StringIO()):
        there = COCO(folder / "out.json")
    return one, int((there.annToMask(one) != ring).sum()), there


def left_out(there):
    """Whether pycocotools leaves the object out, beside the same mask as its detection."""
    (one,) = there.dataset["annotations"]
    with contextlib.redirect_stdout(io.StringIO()):
        found = there.loadRes([
            {"image_id": one["image_id"], "category_id": one["category_id"], "score": 1.0,
             "segmentation": runs}
        ])  # fmt: skip
        judged = COCOeval(there, found, "segm")
        judged.evaluate()
    return bool(judged.evalImgs[0]["gtIgnore"][0])


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    cv2.imwrite(str(folder / "a.png"), np.zeros((48, 64, 3), np.uint8))
    one = {
        "id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": int(ring.sum()),
        "bbox": [16, 8, 32, 32], "segmentation": runs,
    }  # fmt: skip
    (folder / "in.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": "thing"}], "annotations": [one],
    }))  # fmt: skip
    answers = []
    for options in ({}, {"use_iscrowd": False}):
        out, others, there = written(**options)
        kind = "polygons" if isinstance(out["segmentation"], list) else "run lengths"
        answers.append((kind, out["iscrowd"], others > 200, left_out(there)))
        print(f"{options or 'usual'}: {kind}, iscrowd {out['iscrowd']}, area {out['area']:g} "
              f"of {ring.sum()}, {others} pixels are others, left out: {answers[-1][3]}")
described = [("polygons", 0, True, False), ("run lengths", 1, False, True)]
sys.exit(answers != described)
PYTHON
