#!/bin/sh
# OpenCV reads a tiled 8-bit TIFF whose orientation tag mirrors its rows (2, 3, 6, 7) with the tiles
# turned one by one and left where they were: a picture of the right size, in pieces. Strips of the
# same pixels, and 16 bits, come out right. The tag is followed whatever the flags say:
# IMREAD_UNCHANGED and IMREAD_IGNORE_ORIENTATION turn a TIFF too, though no PNG, JPEG or WebP.
# Exits 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q opencv-python-headless==4.14.0.94 tifffile==2026.3.3 \
    imagecodecs==2026.3.6 numpy==2.4.6 pillow==13.0.0
"$folder/venv/bin/python" - <<'PY'
import io
import sys

import cv2
import numpy as np
import tifffile
from PIL import Image

TURNS = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1], 8: lambda a: a.swapaxes(0, 1)[::-1],
}
FLAGS = {"UNCHANGED": cv2.IMREAD_UNCHANGED,
         "COLOR|IGNORE_ORIENTATION": cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
         | cv2.IMREAD_IGNORE_ORIENTATION}
print("OpenCV", cv2.__version__)


def reading(dtype, tile, orientation, flags):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (32, 48, 3)).astype(dtype)
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb", tile=tile, compression="zlib",
                     extratags=[(274, "H", 1, orientation, True)])
    read = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), flags)[..., ::-1]
    for name, k in (("turned", orientation), ("as stored", 1)):
        if read.shape == TURNS[k](pixels).shape and np.array_equal(read, TURNS[k](pixels)):
            return name
    if dtype == "uint8":  # Pillow reads the same file as it should be shown
        shown = np.asarray(Image.open(io.BytesIO(file.getvalue())))
        assert np.array_equal(shown, TURNS[orientation](pixels))
    return "jumbled"


seen = {}
for dtype in ("uint8", "uint16"):
    for tile in (None, (16, 16)):
        for name, flags in FLAGS.items():
            row = [reading(dtype, tile, o, flags) for o in range(2, 9)]
            seen[dtype, tile is not None, name] = row
            print(dtype, "tiles " if tile else "strips", name, row)
turned = ["turned"] * 7
jumbled = ["jumbled", "jumbled", "turned", "turned", "jumbled", "jumbled", "turned"]
expected = {key: jumbled if key[:2] == ("uint8", True) else turned for key in seen}
sys.exit(seen != expected)
PY
