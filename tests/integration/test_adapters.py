"""The adapters of docs/networks.md, as they stand there, where their packages are installed."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import segal as package
from segal.jobs.select import run_selection
from segal.jobs.strategies import configure_selection
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint
from tests.form_networks import Network

TEXT = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()


def adapter(heading, number=0):
    """What a block of code under a heading defines."""
    section = TEXT.split(f"### {heading}\n")[1].split("\n### ")[0].split("\n## ")[0]
    names = {}
    exec(re.findall(r"```python\n(.*?)```", section, re.DOTALL)[number], names)
    return names


def picks(result):
    return [(pick.image, pick.box) for pick in result.picks]


def options(image_folder, out):
    return {"images": image_folder, "out": out, "region": 32, "budget": "10%", "overlays": 0}


def test_onnx_runtime(image_folder, tmp_path, monkeypatch):
    """The same picks as of the network that the file was exported from."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    network = Network(5).eval()
    monkeypatch.chdir(tmp_path)
    free = torch.export.Dim.DYNAMIC
    torch.onnx.export(
        network,
        (torch.rand(2, 3, 64, 96),),
        "network.onnx",
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: free, 2: free, 3: free},),
    )
    predict = adapter("ONNX Runtime")["predict"]
    given = {"strategy": "entropy", "stride": 4}
    ours = package.select(**options(image_folder, tmp_path / "onnx"), predict=predict, **given)
    theirs = package.select(**options(image_folder, tmp_path / "own"), predict=network, **given)
    assert picks(ours) == picks(theirs)
    scores = ([pick.score for pick in result.picks] for result in (ours, theirs))
    np.testing.assert_allclose(*scores, rtol=1e-4)


def test_ultralytics(image_folder, tmp_path, monkeypatch):
    """As a function, and as a network of one's own: the same picks."""
    ultralytics = pytest.importorskip("ultralytics")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    ultralytics.YOLO("yolo26n-sem.yaml").save("best.pt")
    names = adapter("Ultralytics")
    given = {"strategy": "entropy", "stride": 32}
    by_function = package.select(
        **options(image_folder, tmp_path / "function"), predict=names["predict"], **given
    )
    build = adapter("Ultralytics", 1)["yolo"]
    Path("mynetworks.py").write_text(
        "def yolo(num_classes):\n"
        "    from ultralytics.nn.tasks import SemanticSegmentationModel\n"
        '    return SemanticSegmentationModel("yolo26n-sem.yaml", nc=num_classes, verbose=False)\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    unit = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    classes = tuple(f"class {i}" for i in range(19))
    model = build_model(make_spec("mynetworks:yolo", class_names=classes, **unit))
    assert type(model.network) is type(build(19))
    model.network.load_state_dict(names["network"].state_dict())
    save_checkpoint(model, tmp_path / "own.safetensors")
    by_file = package.select(
        **options(image_folder, tmp_path / "file"),
        checkpoint=tmp_path / "own.safetensors",
        arch="mynetworks:yolo",
        strategy="entropy",
    )
    assert picks(by_file) == picks(by_function)
    config, strategy = configure_selection(
        {
            **options(image_folder, tmp_path / "badge"),
            "checkpoint": tmp_path / "own.safetensors",
            "model": {"architecture": "mynetworks:yolo"},
            "strategy": {"name": "badge"},
        }
    )
    assert run_selection(config, strategy).picks, "it has a last layer"
    sys.modules.pop("mynetworks")


def test_mmsegmentation(image_folder, tmp_path, monkeypatch):
    """A network of its own configuration: the logits are those of its head."""
    mmseg = pytest.importorskip("mmseg.apis")
    monkeypatch.chdir(tmp_path)
    Path("config.py").write_text(
        "norm = dict(type='BN')\n"
        "model = dict(type='EncoderDecoder', backbone=dict(type='ResNetV1c', depth=18,"
        " num_stages=4, out_indices=(0, 1, 2, 3), norm_cfg=norm),"
        " decode_head=dict(type='FCNHead', in_channels=512, channels=16, num_classes=5,"
        " norm_cfg=norm, align_corners=False), test_cfg=dict(mode='whole'))\n"
        "test_pipeline = []\n"
        "test_dataloader = dict(dataset=dict(pipeline=[]))\n"
    )
    torch.save(mmseg.init_model("config.py", device="cpu").state_dict(), "checkpoint.pth")
    predict = adapter("MMSegmentation")["predict"]
    result = package.select(
        **options(image_folder, tmp_path / "out"), predict=predict, strategy="entropy", stride=32
    )
    assert result.picks
