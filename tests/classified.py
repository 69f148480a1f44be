"""Small data of whole images that have classes: pictures of 16 to 20 pixels, and features."""

import csv

import cv2
import numpy as np

CLASSES = ("cat", "dog", "hen")
COUNTS = {"train": 24, "val": 9, "test": 9}
DIMENSIONS = 6


def pictures(count, seed=0, side=16):
    """(count, side, side, 3) uint8 of noise about a colour of the class, and classes in turn."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    colours = 60 + 60 * np.eye(3)[labels] + rng.normal(0, 15, (count, 3))
    noise = rng.normal(0, 20, (count, side, side, 3))
    return np.clip(colours[:, None, None] + noise, 0, 255).astype(np.uint8), labels


def features(count, seed=0):
    """(count, DIMENSIONS) float32 about a centre of the class, and classes in turn."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    return (np.eye(DIMENSIONS)[labels] + rng.normal(0, 0.4, (count, DIMENSIONS))).astype(
        np.float32
    ), labels


def several(count, seed=0):
    """(count, 3) of 0, 1 and here and there -1: several labels an image."""
    rng = np.random.default_rng(seed)
    labels = (np.eye(3, dtype=np.int64)[np.arange(count) % 3] + (rng.random((count, 3)) < 0.3)) > 0
    known = rng.random((count, 3)) < 0.95
    return np.where(known, labels, -1)


def write_picture(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture[..., ::-1])


def make_folders(root, counts=COUNTS):
    """<split>/<class>/NAME.png"""
    for seed, (split, count) in enumerate(counts.items()):
        images, labels = pictures(count, seed)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            write_picture(root / split / CLASSES[label] / f"{i:02d}.png", image)
    return root


def make_tables(root, counts=COUNTS, multilabel=False):
    """images/, and a CSV a split."""
    for seed, (split, count) in enumerate(counts.items()):
        images, labels = pictures(count, seed)
        targets = several(count, seed)
        with (root / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path", *(CLASSES if multilabel else ["label"])])
            for i, image in enumerate(images):
                path = f"images/{split}-{i:02d}.png"
                write_picture(root / path, image)
                known = ["" if t < 0 else t for t in targets[i].tolist()]
                rows.writerow([path, *(known if multilabel else [CLASSES[labels[i]]])])
    return root


def make_archive(path, counts=COUNTS):
    """x_train, y_train, ..., classes"""
    arrays = {"classes": np.array(CLASSES)}
    for seed, (split, count) in enumerate(counts.items()):
        arrays[f"x_{split}"], arrays[f"y_{split}"] = pictures(count, seed)
    np.savez(path, **arrays)
    return path


def make_features(root, counts=COUNTS, multilabel=False):
    """<split>/features.npy and labels.npy"""
    for seed, (split, count) in enumerate(counts.items()):
        values, labels = features(count, seed)
        (root / split).mkdir(parents=True)
        np.save(root / split / "features.npy", values)
        np.save(root / split / "labels.npy", several(count, seed) if multilabel else labels)
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


PLACES = ("folders", "tables", "several", "archive.npz", "features", "several_features")


def make_all(root):
    """Data of every layout, by the names in `PLACES`."""
    make_folders(root / "folders")
    for name in ("tables", "several", "features", "several_features"):
        (root / name).mkdir()
        make = make_tables if name in {"tables", "several"} else make_features
        make(root / name, multilabel="several" in name)
    make_archive(root / "archive.npz")
    return root
