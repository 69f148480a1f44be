#!/usr/bin/env bash
# albumentations: Compose(seed=...) and Compose.set_random_seed(seed) give every transform in it the
# same seed, not one derived from it. All draw the same numbers, so that what they decide hangs
# together after each seeding, as when samples are seeded one by one to be the same in any worker: a
# crop from the upper half is flipped always and one from the lower half never; a flipped image is
# always the darker one. Exits 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
    albumentations==2.0.8 numpy==2.4.6 opencv-python-headless==4.13.0.92
cd "$folder"
NO_ALBUMENTATIONS_UPDATE=1 venv/bin/python - <<'PY'
import sys

import albumentations as A
import numpy as np

rows, columns = np.mgrid[:27, :24].astype(np.float32)
image = np.stack([rows, columns, rows], -1) / 100 + 0.2


def flipped(steps, outcome, apart=False):
    """Share of flipped images, by outcome of the other step, over 2000 seeds."""
    compose, found = A.Compose(steps), {}
    for seed in np.random.default_rng(0).integers(2**32, size=2000).tolist():
        compose.set_random_seed(seed)
        if apart:
            for step in compose.transforms:
                step.set_random_seed(seed := seed + 1)
        out = compose(image=image)["image"]
        found.setdefault(outcome(out), []).append(bool(out[0, 0, 1] > out[0, -1, 1]))
    return {key: round(float(np.mean(found[key])), 2) for key in sorted(found)}


def first_row(out):
    return round(100 * (float(out[0, 0, 0]) - 0.2))


def darker(out):
    return bool(out.mean() < image.mean())


crop = [A.RandomCrop(24, 24), A.HorizontalFlip(p=0.5)]
colours = [A.HorizontalFlip(p=0.5), A.ColorJitter((0.8, 1.2), (1, 1), (1, 1), (0, 0), p=1)]
by_row, by_brightness = flipped(crop, first_row), flipped(colours, darker)
by_row_apart = flipped(crop, first_row, apart=True)
print("albumentations", A.__version__)
print("flipped, by first row of the crop:           ", by_row)
print("flipped, by whether the image became darker: ", by_brightness)
print("flipped, by first row, steps seeded apart:   ", by_row_apart)
as_seen = by_row == {0: 1.0, 1: 1.0, 2: 0.0, 3: 0.0} and by_brightness == {False: 0.0, True: 1.0}
sys.exit(not (as_seen and all(0.4 < share < 0.6 for share in by_row_apart.values())))
PY
