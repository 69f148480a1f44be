#!/bin/bash
# transformers: `do_reduce_labels` makes 0 the ignored value and moves the classes down by one. In
# the processors of BEiT, SegFormer and DPT a pixel that is 255 (void) already stays 255. In those of
# MaskFormer and Mask2Former, with the same option and ignore_index=255, it becomes 254: void
# turns into one more class, with a mask of its own to learn.
#
# Expected: void stays void in all of them. Exits 0 while it is as described here.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 pillow==12.0.0 numpy==2.3.4 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import importlib
import sys

import numpy as np
import transformers

print("transformers", transformers.__version__)
label = np.tile(np.array([[0, 1, 2, 255]], np.uint8), (32, 16))  # 0, two classes, void
image = np.zeros((32, 64, 3), np.uint8)


def processor(model, name):
    module = importlib.import_module(f"transformers.models.{model}.image_processing_pil_{model}")
    return getattr(module, name)


found = {}
for model, name in (("segformer", "SegformerImageProcessorPil"), ("dpt", "DPTImageProcessorPil")):
    made = processor(model, name)(do_resize=False, do_reduce_labels=True)
    out = made(images=image, segmentation_maps=label, return_tensors="np")
    found[name] = np.unique(np.asarray(out["labels"][0])).tolist()
for model, name in (
    ("maskformer", "MaskFormerImageProcessorPil"),
    ("mask2former", "Mask2FormerImageProcessorPil"),
):
    made = processor(model, name)(do_resize=False, do_reduce_labels=True, ignore_index=255)
    out = made(images=image, segmentation_maps=label, return_tensors="np")
    found[name] = [int(value) for value in np.asarray(out["class_labels"][0])]
for name, values in found.items():
    print(f"{name}: {values}")
as_described = {
    "SegformerImageProcessorPil": [0, 1, 255],
    "DPTImageProcessorPil": [0, 1, 255],
    "MaskFormerImageProcessorPil": [0, 1, 254],
    "Mask2FormerImageProcessorPil": [0, 1, 254],
}
sys.exit(found != as_described)
PYTHON
