"""Picks go out as files and come back as files of every format, through the command line."""

import cv2
import numpy as np
import pytest

from segal.annotation.answers import Answer, Layer
from segal.annotation.handout import MANIFEST_FILE
from segal.annotation.manifest import read_manifest_text
from segal.functional.labels import region_digest
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint
from segal.runs.ledger import Ledger
from segal.runs.returns import latest, returns_of
from tests.conftest import write_image
from tests.made_returns import written

_NETWORK = "tests.tiny_network:build"
_CLASSES = ("road", "sky", "car")
_KINDS = ("cityscapes", "coco", "fiftyone", "folder", "labelme", "panoptic", "voc")


_WAYS = (("--mode", "crop", "--pad", "5"), ("--mode", "crop"), ("--mode", "context"))


@pytest.mark.slow
def test_every_format_gives_the_same_labels_back(segal, tmp_path):
    """The first return is booked; that of any other format is known already, pixel for pixel."""
    truth = {}
    for number in range(3):
        write_image(tmp_path / "images" / f"im{number}.png", 60, 70, seed=number)
        small = np.random.default_rng(number).integers(0, 3, (12, 10), dtype=np.uint8)
        truth[f"im{number}.png"] = cv2.resize(small, (70, 60), interpolation=cv2.INTER_NEAREST)
    network, run = tmp_path / "model.safetensors", tmp_path / "run"
    save_checkpoint(build_model(make_spec(_NETWORK, "resnet18", _CLASSES)).eval(), network)
    code, _, stderr = segal(
        *("select", "--images", tmp_path / "images", "--checkpoint", network, "--arch", _NETWORK),
        *("--region", "32", "--budget", "7", "--overlays", "0", "--out", run),
    )
    assert code == 0, stderr

    def drawn(task):
        x0, y0, x1, y1 = task.region
        a, b, _, _ = task.region_in_frame
        part = truth[task.image][y0:y1, x0:x1]
        layers = [Layer(name, part == i, (a, b)) for i, name in enumerate(_CLASSES)]
        return Answer(task.key, "test", layers=layers)

    for kind in _KINDS:
        for way in _WAYS:  # all go out before any comes back
            out = tmp_path / f"{kind}-{way[-1]}"
            code, _, stderr = segal("export", run, "--to", kind, "--out", out, "--again", *way)
            assert code == 0, stderr
        for way in _WAYS:
            out, back = tmp_path / f"{kind}-{way[-1]}", tmp_path / f"{kind}-{way[-1]}-back"
            handed = read_manifest_text((out / MANIFEST_FILE).read_text(), "")
            back.mkdir()
            written(back, kind, drawn, handed)
            code, _, stderr = segal("import", run, back)
            assert code == 0, stderr
            is_first = (kind, way) == (_KINDS[0], _WAYS[0])
            told = "7 regions came back" if is_first else "7 were known"
            assert told in " ".join(stderr.split()), (kind, way, stderr)
    with Ledger.reopen(run) as ledger:
        booked = latest(returns_of(ledger))
    assert len(booked) == 7
    for one in booked:
        x0, y0, x1, y1 = one.box
        part = np.ascontiguousarray(truth[one.image][y0:y1, x0:x1])
        assert one.label == region_digest(part, (0, 0, x1 - x0, y1 - y0))
