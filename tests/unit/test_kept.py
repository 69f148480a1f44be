"""Running from what frozen layers left of images gives what running from images gives."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from segal.candidates.kept import Kept
from segal.candidates.regions import RegionSize
from segal.candidates.table import CandidateTable
from segal.data.feature_store import FeatureStore, check_store
from segal.data.kept import KeptPool
from segal.data.pool import open_pool
from segal.errors import SegalError
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run
from segal.models.build import build_model, make_spec
from segal.models.dropout import add_dropout
from segal.models.frozen import FrozenLayers
from segal.scanning.scan import Scan, ScanSettings
from segal.scenes.synthetic import make_scenes
from segal.strategies import STRATEGIES
from segal.strategies.base import PassContext
from segal.tasks.segmentation.model import SegmentationModel
from segal.tasks.segmentation.task import Segmentation
from segal.training.loop import train
from tests.conftest import CLASSES, write_image
from tests.quick_run import quick_run
from tests.unit.test_layers import BOXES, Dataset, divided, plain

CUTS = ("last", "last_two", "between", "decoder")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Four images of two sizes, none of which a region divides."""
    folder = tmp_path_factory.mktemp("images")
    for number, size in enumerate([(40, 56), (40, 56), (36, 50), (40, 56)]):
        write_image(folder / f"{number}.png", *size, number)
    return open_pool(folder)


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "store", 10**9)


def seasoned(model):
    """BatchNorm that has seen images, so that its statistics count."""
    with torch.no_grad():
        model.network.train()
        for _ in range(3):
            model.network(torch.randn(4, 3, 32, 32))
    return model.eval()


def kept_pool(model, pool, store, layers):
    return KeptPool(pool, FrozenLayers.of(model, layers), store)


@pytest.mark.parametrize("layers", CUTS)
def test_logits_and_features_are_the_same_bytes(pool, store, layers):
    model = seasoned(divided())
    kept = kept_pool(model, pool, store, layers)
    for index in (0, 2, 0):
        images = model.normalise(pool.batch([index]))
        with torch.no_grad():
            expected = model(images, ("features",))
            found = model(kept.batch([index]), ("features",))
        assert torch.equal(found.logits, expected.logits)
        assert torch.equal(found.features, expected.features)
        assert found.upsampling == expected.upsampling


@pytest.mark.parametrize(
    ("architecture", "encoder", "layers"),
    [
        ("DeepLabV3Plus", "mobilenet_v2", "decoder"),
        ("FPN", "mobilenet_v2", "last"),
        ("torchvision:lraspp_mobilenet_v3_large", None, "decoder"),
    ],
)
def test_networks_of_libraries(pool, store, architecture, encoder, layers):
    torch.manual_seed(0)
    model = build_model(make_spec(architecture, encoder, CLASSES, input_scale=0.8)).eval()
    kept = kept_pool(model, pool, store, layers)
    with torch.no_grad():
        expected = model(model.normalise(pool.batch([0]))).logits
        assert torch.equal(model(kept.batch([0])).logits, expected)
        both = model(kept.batch([0, 1])).logits
    assert torch.allclose(both[:1], expected, atol=1e-5)
    # What the decoder does not read is not kept.
    numbers = sum(one.numel() for one in kept.batch([0]).maps)
    shapes = {tuple(one.shape[1:]) for one in kept.batch([0]).maps}
    assert numbers > 0
    assert (3, 32, 48) not in shapes


@pytest.mark.parametrize(
    ("layers", "strategy"),
    [
        ("decoder", "uwe"),
        ("last", "uwe"),
        ("last", "badge"),
        ("last", "gradnorm"),
        ("last", "mc_dropout"),
        ("decoder", "bald"),
        ("last", "learning_loss"),
        ("last", "drop_query"),
        ("decoder", "pixbal"),
        ("last", "clasp"),
        ("decoder", "max_herding"),
    ],
)
def test_every_signal_of_a_scan(pool, store, tmp_path, layers, strategy):
    """Those that look at images or at frozen layers are measured from images, the rest from it."""
    model = seasoned(divided())
    if strategy == "learning_loss":
        model.add_loss_prediction(seed=0)
    if strategy == "mc_dropout":
        model.network.encoder["coarse"][3].p = model.network.dropout.p = 0.0
        add_dropout(model.network.head, 0.3)
        model = SegmentationModel(model.network, model.spec).eval()
    signals = next(iter(STRATEGIES.get(strategy)().passes(PassContext())))
    found = []
    for name, seen in (("pixels", pool), ("kept", kept_pool(model, pool, store, layers))):
        scan = Scan(
            pool=seen,
            task=Segmentation(),
            regions=[RegionSize.parse("16")],
            settings=ScanSettings(torch.device("cpu")),
            signals=signals,
            model=model,
            labelled={0: [(0, 0, 16, 16)]},
        )
        scan.run(tmp_path / name)
        found.append(CandidateTable.open(tmp_path / name / "16"))
    for column in signals:
        first, second = ({**table.values, **table.embeddings}[column.column] for table in found)
        assert np.array_equal(first, second), column.column


def test_what_lies_before_runs_once_for_all(pool, store, monkeypatch):
    """Also for a network of the same weights that is built anew, as another process would."""
    ran = []
    own = FrozenLayers.__call__
    monkeypatch.setattr(FrozenLayers, "_check", lambda _: None)
    monkeypatch.setattr(FrozenLayers, "__call__", lambda s, x: ran.append(len(x)) or own(s, x))
    state = seasoned(divided()).network.state_dict()
    for _ in range(2):
        model = divided().eval()
        model.network.load_state_dict(state)
        kept = kept_pool(model, pool, store, "decoder")
        for index in (0, 1, 2, 3, 0):
            kept.batch([index])
    assert len(ran) == check_store(store.folder).files == len(pool)


@pytest.mark.parametrize("change", ["weights", "mean", "running statistics", "head"])
def test_only_what_lies_before_decides_what_is_found(change):
    first, second = divided(), divided()
    if change == "mean":
        spec = replace(second.spec, mean=(0.4, 0.5, 0.5))
        second = SegmentationModel(second.network, spec)
    with torch.no_grad():
        if change == "weights":
            second.network.encoder["fine"][0].weight[0, 0, 0, 0] += 1e-3
        if change == "running statistics":
            second.network.encoder["fine"][1].running_var[0] = 1.1
        if change == "head":
            second.network.head.weight.add_(1)
    digests = [FrozenLayers.of(one.eval(), "decoder").digest for one in (first, second)]
    assert (digests[0] == digests[1]) == (change == "head")


@pytest.mark.parametrize(("layers", "augment"), [("last", "none"), ("decoder", "usual")])
def test_training_is_the_same(store, layers, augment):
    """From the store and from images, mirrored ones included: the same samples and steps."""
    whole = {"augment": augment, "scale": (1.0, 1.0), "colour_jitter": 0.0, "flip": 0.5}
    settings = plain(layers=layers, iterations=6, **whole)
    found = []
    for keeping in (False, True):
        model, dataset = divided(), Dataset()
        if keeping:
            dataset.pool = _in_store(model, dataset, store, layers)
        train(model, dataset, settings, seed=4, labelled=BOXES)
        found.append(model.network.state_dict())
    for key, value in found[0].items():
        assert torch.allclose(value, found[1][key], atol=1e-5), key
    assert check_store(store.folder).files == (4 if augment == "usual" else 2)


def _in_store(model, dataset, store, layers):
    part = FrozenLayers.of(model, layers)
    memory = dataset.pool

    class OfMemory(KeptPool):
        def __init__(self):
            names = {"paths": memory.paths, "infos": memory.infos, "root": "memory"}
            self.__dict__.update(names, images=memory, part=part, store=store)

        def _digest(self, index, *, flipped):
            return f"{index}{int(flipped)}" * 32

    return OfMemory()


def test_what_several_modules_read_is_not_kept():
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.head = nn.Conv2d(4, 3, 1)

        def forward(self, images):
            first = self.first(images)
            return self.head(first + self.second(first))

    spec = replace(divided().spec, stride=1)
    model = SegmentationModel(Skipping(), spec).eval()
    with pytest.raises(SegalError, match="cannot be kept"):
        FrozenLayers.of(model, "second")


def _run(scenes, out, store, **train):
    whole = {"crop": "image", "scale": [1, 1], "colour_jitter": 0, "layers": "last"}
    raw = quick_run(scenes, {**whole, "flip": 0.5, **train}, budgets=["20%"], out=str(out))
    if store is not None:
        raw["store"] = {"folder": str(store)}
    run_rounds(*configure_run(raw))
    return json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    make_scenes(folder, splits={"train": 4, "val": 2}, size=(32, 64), seed=0)
    return folder


@pytest.mark.slow
def test_a_run_from_a_store(scenes, tmp_path, segal, monkeypatch):
    _run(scenes, tmp_path / "plain", None)
    _run(scenes, tmp_path / "stored", tmp_path / "store")
    for name in ("rounds/000/selection.csv", "rounds/001/metrics.json"):
        first, second = (tmp_path / run / name for run in ("plain", "stored"))
        assert first.read_text() == second.read_text(), name
    monkeypatch.setattr(FrozenLayers, "_check", lambda _: None)
    monkeypatch.setattr(FrozenLayers, "__call__", lambda *_: pytest.fail("it ran again"))
    _run(scenes, tmp_path / "again", tmp_path / "store")
    code, out, _ = segal("validate", tmp_path / "store")
    assert code == 0
    assert "a store of" in out
    file = next((tmp_path / "store").glob("*/*.safetensors"))
    file.write_bytes(file.read_bytes()[:50])
    code, _, err = segal("validate", tmp_path / "store")
    assert code == 2
    assert "not as they were written" in err


def test_what_a_store_cannot_serve_is_named_before_work_starts(scenes, tmp_path):
    with pytest.raises(SegalError) as caught:
        _run(scenes, tmp_path / "run", tmp_path / "store", crop="32", scale=[0.5, 2])
    assert {error.problem.partition(":")[0] for error in caught.value.errors} == {
        "train.crop",
        "train.scale",
    }
    with pytest.raises(SegalError, match="no store where all layers are trained"):
        _run(scenes, tmp_path / "run", tmp_path / "store", layers="all")
    assert not (tmp_path / "run").exists()


def test_layers_that_are_not_there_are_named_by_the_key_of_a_selection(
    segal, image_folder, checkpoint, tmp_path
):
    code, _, err = segal(
        "select", "--images", image_folder, "--checkpoint", checkpoint, "--region", "32",
        "--budget", "2", "--strategy", "entropy", f"store.folder={tmp_path / 'store'}",
        "store.layers=nosuch", "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 2
    assert "error: store.layers: " in err
    assert "nosuch" in err


def test_maps_go_together_and_apart():
    maps = torch.arange(12.0).reshape(3, 2, 2, 1), torch.arange(6.0).reshape(3, 2)
    kept = Kept("last", maps, (7, 9))
    assert kept.shape == (3, 6, 7, 9)
    again = Kept.stack([kept[0:1], kept[1:3]])
    assert all(map(torch.equal, again.maps, maps))


@pytest.mark.slow
def test_a_selection_from_a_store(segal, image_folder, checkpoint, tmp_path):
    """Layers that differ between checkpoints are said by the store; `plan` says its bytes."""
    shared = ["--images", image_folder, "--checkpoint", checkpoint, "--region", "32"]
    shared += ["--budget", "9", "--strategy", "uwe", "overlays=0"]
    stored = [f"store.folder={tmp_path / 'store'}", "store.gigabytes=0.001"]
    code, out, _ = segal("plan", *shared, *stored)
    assert code == 0
    assert "MB in the store" in out
    assert not list((tmp_path / "store").glob("*/*"))
    for name, more in (("plain", []), ("stored", [*stored, "store.gigabytes=1"])):
        code, _, err = segal("select", *shared, *more, "--out", tmp_path / name)
        assert code == 0, err
    picks = [(tmp_path / name / "selection.csv").read_text() for name in ("plain", "stored")]
    assert picks[0] == picks[1]
    assert check_store(tmp_path / "store").files == 7
