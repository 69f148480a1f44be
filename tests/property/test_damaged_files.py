"""A file that is damaged is read, or refused with what to do; nothing else comes of it."""

import hashlib
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from segal.annotation.questions import QUESTIONS
from segal.candidates.selection import Selected, read_selection, write_selection
from segal.config import RunConfig, read_config, validate
from segal.data import images
from segal.data.pool import open_pool
from segal.errors import SegalError, raise_all
from segal.jobs.annotate.status import status_of
from segal.jobs.validate import validate_path
from segal.models import checkpoint
from segal.models.build import build_model, make_spec
from segal.runs.ledger import Ledger, Purchase
from segal.runs.returns import Return, book
from segal.runs.texts import text_of
from tests.quick_run import quick_run

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
NETWORK = "tests.tiny_network:build"
OPTIONS = checkpoint.CheckpointOptions(architecture=NETWORK, num_classes=3)


def damages(data, count):
    """A file doubled, cut short, with zeros, and with other bytes at its begin and anywhere."""
    rng = np.random.default_rng(1)
    places = np.flatnonzero(np.frombuffer(data, np.uint8))
    yield data + data
    for _ in range(count):
        start, stop = sorted(rng.integers(0, len(data) + 1, 2).tolist())
        yield data[:start]
        yield data[:start] + bytes(stop - start) + data[stop:]
        for among in (range(min(64, len(data))), places, places):
            other = bytearray(data)
            for place in rng.choice(among, rng.integers(1, 4)):
                other[place] = rng.choice([0, 127, 255, other[place] ^ 1 << rng.integers(8)])
            yield bytes(other)


def check(path, readers, count=15):
    """Each reader reads the file as it is, and reads or refuses what damage makes of it."""
    data, refused = path.read_bytes(), 0
    for read in readers:
        read(path)
    for other in damages(data, count):
        path.write_bytes(other)
        for read in readers:
            try:
                read(path)
            except SegalError as error:
                assert "remedy: " in str(error)
                refused += 1
    assert refused


@pytest.mark.parametrize("suffix", ["bmp", "jpg", "png", "tif", "webp"])
def test_images(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS).save(path)
    pool = open_pool(tmp_path)  # of before the damage
    readers = [
        lambda path: open_pool(path.parent).read(0),
        partial(images.read_image, reading=images.Reading(bands="all")),
        images.find_no_data,
        images.read_orientation,
    ]
    if suffix != "png":  # OpenCV takes seconds for a depth that is none, if nobody looked before
        readers += [lambda _: pool.read(0), lambda path: images.read_window(path, (0, 0, 16, 16))]
    check(path, readers)


def test_a_size_beyond_what_opencv_takes(tmp_path):
    path = tmp_path / "a.bmp"
    Image.fromarray(PIXELS).save(path)
    data = path.read_bytes()
    path.write_bytes(data[:25] + b"\x7f" + data[26:])  # of the height
    with pytest.raises(SegalError, match="damaged"):
        images.read_image(path)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_labels(tmp_path, mode):
    path = tmp_path / "a.png"
    label = Image.fromarray(PIXELS[..., 0] % 3)
    label.convert(mode).save(path)
    check(path, [images.read_label_colours] + [images.read_label] * (mode != "RGBA"))


def test_selections(tmp_path):
    path = tmp_path / "selection.csv"
    write_selection(path, [Selected(n, "ä.png", (8 * n, 0, 8 * n + 8, 8), 64, 0.5) for n in (1, 2)])
    check(path, [read_selection, partial(read_selection, images={"ä.png": (24, 24)})])


def test_configurations(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(quick_run(tmp_path, out=str(tmp_path))))
    check(path, [lambda path: raise_all(validate(RunConfig, read_config(path, [], {}))[1])])


@pytest.mark.parametrize("kind", ["own", "safetensors", "pth", "old"])
def test_checkpoints(tmp_path, kind):
    model = build_model(make_spec(NETWORK, None, ("a", "b", "c")))
    state = model.network.state_dict()
    path = tmp_path / ("model.pth" if kind in {"pth", "old"} else "model.safetensors")
    if kind == "own":
        checkpoint.save_checkpoint(model, path, training={"steps": 3})
    elif kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state": state}, path, _use_new_zipfile_serialization=kind == "pth")
    load = partial(checkpoint.load_checkpoint, options=OPTIONS)
    check(path, [load, checkpoint.read_spec, checkpoint.read_training], count=12)


def test_ledgers(tmp_path):
    label = np.ones((8, 8), np.uint8)
    question, box = QUESTIONS["segmentation"], (0, 0, 8, 8)
    (tmp_path / "pool").mkdir()
    Image.fromarray(PIXELS).save(tmp_path / "pool" / "a.png")
    digest = hashlib.sha256(question.encode(label)).hexdigest()
    with Ledger.open(tmp_path / "run", "select", {"region": "8"}) as ledger:
        ledger.record_images(open_pool(tmp_path / "pool"))
        files = [ledger.folder / name for name in ("selection.csv", "config.yaml")]
        write_selection(files[0], [Selected(1, "a.png", box, 64, 0.5)])
        files[1].write_text("seed: 0\n")
        bought = [Purchase(1, "uwe", "a.png", box, 0.5)]
        ledger.finish("select", 0, "f", files, purchases=bought)
        (ledger.folder / "0.png").write_bytes(question.encode(label))
        said = ("b", 1, question.digest(label), "0.png", digest, 1.0, "b.zip", {"outside": 0})
        book(ledger, [Return("a.png", box, 0, *said)])

    def look(path):
        with Ledger.read(path.parent) as ledger:
            ledger.known_images(), ledger.areas(0), ledger.cost(), ledger.corrections()
            return [text_of(ledger, name) for name in ledger.files()]

    readers = [
        look,
        lambda path: status_of(path.parent),
        lambda path: validate_path(path.parent, {}, 1),
        lambda path: Ledger.reopen(path.parent).close(),
    ]
    check(ledger.path, readers)
