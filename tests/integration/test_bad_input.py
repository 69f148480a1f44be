"""Every mistake gives one clear error, exit code 2 and no traceback, and nothing is lost."""

import errno
import json
import shutil
import sys
import types

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint
from tests.fake_runs import make_comparison

CLASSES = ("road", "building", "sky", "car", "tree")
OWN_NETWORK = """
from torch import nn


def make(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, num_classes, 1),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
    )
"""


@pytest.fixture
def refused(segal, image_folder, checkpoint, tmp_path):
    """Runs `select` with some options changed, which must be refused; gives the message."""

    def run(*extra, **options):
        given = {
            "images": image_folder,
            "checkpoint": checkpoint,
            "region": "32",
            "budget": "5",
            "out": tmp_path / "run",
            **options,
        }
        flags = [part for k, v in given.items() if v is not None for part in (f"--{k}", v)]
        code, stdout, stderr = segal("select", *flags, *extra)
        assert code == 2, (code, stderr)
        assert stdout == ""
        assert "Traceback" not in stderr
        assert "error: " in stderr
        for part in ("expected: ", "got: ", "remedy: "):
            assert part in stderr, stderr
        assert not (tmp_path / "run" / "selection.csv").exists()
        return stderr

    return run


def test_folders_without_images(refused, tmp_path):
    assert "nowhere" in refused(images=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(images=tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    assert "empty" in refused(images=tmp_path / "empty")


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "tiny"])
def test_a_bad_image_among_good_ones_is_named(refused, image_folder, kind):
    path = image_folder / "a" / f"{kind}.png"
    if kind == "truncated":
        data = (image_folder / "a" / "frame 0.png").read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif kind == "tiny":
        cv2.imwrite(str(path), np.zeros((15, 40, 3), np.uint8))
    else:
        path.write_bytes(b"" if kind == "empty" else b"hello, I am not an image")
    message = refused()
    assert f"{kind}.png" in message
    assert "--skip-unreadable" in message
    assert "frame 0" not in message


def test_a_truncated_jpeg_is_found_too(refused, image_folder):
    image = cv2.imread(str(image_folder / "a" / "frame 0.png"))
    data = cv2.imencode(".jpg", image)[1].tobytes()
    (image_folder / "a" / "half.jpg").write_bytes(data[: len(data) // 2])
    assert "half.jpg" in refused()


def test_no_image_can_be_read(refused, image_folder):
    for path in image_folder.rglob("*.png"):
        path.write_bytes(b"")
    assert "images" in refused("--skip-unreadable")


@pytest.mark.parametrize("region", ["0", "-5", "abc", "32x", "1.5"])
def test_regions(refused, region):
    message = refused(f"--region={region}", region=None)
    assert "region" in message
    assert repr(region) in message


@pytest.mark.parametrize("budget", ["0", "-3", "0%", "lots", "2.5"])
def test_budgets(refused, budget):
    message = refused(f"--budget={budget}", budget=None)
    assert "budget" in message
    assert repr(budget) in message


def test_a_budget_that_buys_nothing_is_found_before_the_scan(refused, monkeypatch, tmp_path):
    monkeypatch.setattr("segal.scanning.scan.Scan.run", lambda *_: pytest.fail("it was scanned"))
    message = refused(budget="0.001%")
    assert "does not buy a single region" in message


def test_unknown_names_get_the_nearest(refused):
    assert "did you mean 'entropy'?" in refused(strategy="entrpy")
    assert "did you mean 'region'?" in refused("regoin=64")
    assert "did you mean 'tau'?" in refused("strategy.tua=0.5")
    assert "did you mean 'batch_size'?" in refused("machine.batchsize=2")
    assert "strategy.tau: unknown key" in refused("--tau", 1, strategy="entropy")
    assert "did you mean 'bvsb'?" not in refused("strategy.uncertainty=zzz")


def test_all_mistakes_of_file_overrides_and_flags_at_once(refused, tmp_path):
    config = tmp_path / "bad.yaml"
    config.write_text("region: -4\nstrategy: {name: uwe, tau: high}\ncolour: red\n")
    message = refused(
        "--config", config, "machine.workers=many", "--overlays", -1, region=None, budget="none"
    )
    for key in ("region", "strategy.tau", "colour", "machine.workers", "overlays", "budget"):
        assert f"{key}: " in message, key


@pytest.mark.parametrize(
    "text", ["- a\n- b\n", "a: [1\n", "a: &x [1]\nb: *x\n", "\x00", "[" * 5000]
)
def test_files_that_are_no_configuration(refused, tmp_path, text):
    config = tmp_path / "bad.yaml"
    config.write_text(text)
    assert "bad.yaml" in refused("--config", config)


def test_what_is_missing_is_named(refused):
    assert "budget: missing" in refused(budget=None)
    assert "--checkpoint" in refused(checkpoint=None)


def make_checkpoint(path, change=None, **spec):
    network = build_model(make_spec(spec.pop("architecture", "DeepLabV3Plus"), "resnet18", CLASSES))
    save_checkpoint(network, path)
    if change is not None:
        state = load_file(path)
        change(state)
        save_file(state, path)
    return path


def test_checkpoints_of_something_else(refused, checkpoint, tmp_path):
    plain = tmp_path / "plain.safetensors"
    assert "no such file" in refused(checkpoint=tmp_path / "none.pth")
    plain.write_bytes(b"not weights")
    assert "plain" in refused(checkpoint=plain)
    assert "another encoder" in refused("--encoder", "resnet34")
    assert "another architecture" in refused("--arch", "Unet")
    state = load_file(checkpoint)
    save_file(state, plain)
    assert "--num-classes" in refused(checkpoint=plain)
    described = ("--arch", "DeepLabV3Plus", "--encoder", "resnet18", "--num-classes")
    assert "give --num-classes 5" in refused(*described, 7, checkpoint=plain)
    unet = ("--arch", "Unet", "--encoder", "resnet18", "--num-classes", 5)
    assert "missing" in refused(*unet, checkpoint=plain)
    save_file({**state, "surplus": torch.zeros(1)}, plain)
    assert "surplus" in refused(*described, 5, checkpoint=plain)
    save_file({k: v for k, v in state.items() if k != "segmentation_head.0.bias"}, plain)
    assert "segmentation_head.0.bias" in refused(*described, 5, checkpoint=plain)
    state["segmentation_head.0.bias"][1] = torch.nan
    save_file(state, plain)
    assert "not finite" in refused(*described, 5, checkpoint=plain)


def rewrite_metadata(checkpoint, path, **changes):
    with safe_open(checkpoint, framework="pt") as file:
        metadata = json.loads(file.metadata()["segal"])
    metadata["spec"].update(changes)
    save_file(load_file(checkpoint), path, {"segal": json.dumps(metadata)})
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": "tu-hf-hub:timm/resnet18.a1_in1k"},
        {"encoder": "resnet"},
        {"architecture": "Nothing"},
        {"input_scale": -1.0},
        {"input_scale": 1e9},
        {"input_scale": float("nan")},
        {"std": [0.0, 1.0, 1.0]},
        {"mean": [float("inf"), 0.0, 0.0]},
        {"class_names": ["one"]},
        {"class_names": 5},
        {"stride": "x"},
    ],
)
def test_metadata_of_a_checkpoint_are_not_trusted(refused, checkpoint, tmp_path, changes):
    path = rewrite_metadata(checkpoint, tmp_path / "wrong.safetensors", **changes)
    assert "wrong.safetensors" in refused(checkpoint=path)


@pytest.mark.parametrize(
    "stride", [0, 10**7, *(pytest.param(n, marks=pytest.mark.slow) for n in (-16, 7))]
)
def test_the_stride_of_a_checkpoint_is_not_its_own_to_say(
    segal, image_folder, checkpoint, tmp_path, stride
):
    path = rewrite_metadata(checkpoint, tmp_path / "c.safetensors", stride=stride)
    call = ("--region", 32, "--budget", 3, "--out", tmp_path / "run", "--overlays", 0)
    assert segal("select", "--images", image_folder, "--checkpoint", path, *call)[0] == 0


def test_code_that_metadata_name_is_not_imported(refused, checkpoint, tmp_path):
    path = rewrite_metadata(checkpoint, tmp_path / "evil.safetensors", architecture="os:system")
    assert "no --arch" in refused(checkpoint=path)


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("DeepLabV3Plus", "tu-nonexistent"),
        ("DeepLabV3Plus", "tu-hf-hub:timm/resnet18"),
        ("DPT", "resnet18"),
        ("json:loads", None),
        ("json:nothing", None),
        ("no_such_module:net", None),
    ],
)
def test_networks_that_cannot_be_built(refused, checkpoint, tmp_path, architecture, encoder):
    plain = tmp_path / "plain.safetensors"
    save_file(load_file(checkpoint), plain)
    chosen = [] if encoder is None else ["--encoder", encoder]
    refused("--arch", architecture, *chosen, "--num-classes", 5, checkpoint=plain)


def test_numbers_that_make_no_sense(refused):
    message = refused("--input-scale", 1e-9, "--std=-1,1,1", "strategy.tau=1e308")
    for key in ("model.input_scale", "model.std", "strategy.tau"):
        assert f"{key}" in message, key


def test_mistakes_of_the_other_commands(segal, image_folder, tmp_path):
    for call in (
        ("demo", "--threads", 0, "--out", tmp_path / "demo"),
        ("validate", image_folder, "--workers", -1),
        ("validate", image_folder, "--layout", "no"),
    ):
        code, _, stderr = segal(*call)
        assert code == 2
        assert "expected: " in stderr


def test_a_network_of_ones_own_by_its_import_path(segal, image_folder, tmp_path, monkeypatch):
    (tmp_path / "my_network.py").write_text(OWN_NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "own.safetensors"
    names = tuple(f"class {i}" for i in range(5))
    save_checkpoint(build_model(make_spec("my_network:make", class_names=names)), path)
    call = ("--images", image_folder, "--checkpoint", path, "--region", 32, "--budget", 3)
    code, _, stderr = segal("select", *call, "--out", tmp_path / "a")
    assert code == 2
    assert "--arch my_network:make" in stderr
    own = ("--arch", "my_network:make", "--overlays", 0, "--out", tmp_path / "b")
    code, _, stderr = segal("select", *call, *own)
    assert code == 0, stderr
    (tmp_path / "my_network.py").write_text(OWN_NETWORK.replace("ReLU", "Sigmoid"))
    code, _, stderr = segal("select", *call, *own)
    assert code == 2, "another network would give the picks of the old one"
    assert "holds another run" in stderr
    assert "model.code.my_network:make: " in stderr
    (tmp_path / "my_network.py").write_text(OWN_NETWORK)
    code, _, stderr = segal("select", *call, *own)
    assert (code, "nothing was done again" in stderr) == (0, True), stderr


def test_code_whose_source_cannot_be_read_is_told_of(
    segal, image_folder, checkpoint, tmp_path, monkeypatch
):
    compiled = types.ModuleType("my_compiled")
    compiled.largest = lambda logits: logits.amax(1)
    monkeypatch.setitem(sys.modules, "my_compiled", compiled)
    call = ("--images", image_folder, "--checkpoint", checkpoint, "--region", 32, "--budget", 3)
    own = ("strategy.uncertainty=my_compiled:largest", "--overlays", 0, "--out", tmp_path / "a")
    code, _, stderr = segal("select", *call, *own)
    assert code == 0, stderr
    assert "my_compiled:largest: its source cannot be read" in " ".join(stderr.split())


def test_a_tau_that_leaves_the_range_of_float32(refused):
    assert "smaller --tau" in refused("--tau", 100, "strategy.uncertainty=my_big:big")


@pytest.fixture(autouse=True)
def big_uncertainty(tmp_path, monkeypatch):
    (tmp_path / "my_big.py").write_text("def big(z):\n    return z.amax(1) * 0 + 1e5\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_budget_that_does_not_buy_the_first_pick(refused, image_folder):
    # Clipped regions are cheap, but random draws a whole one first.
    message = refused("budget_fit=prefix", strategy="random", budget="0.1%")
    assert "does not buy the first pick" in message


def test_a_plain_state_dict_is_taken_when_it_is_described(
    segal, image_folder, checkpoint, tmp_path
):
    torch.save({"state_dict": load_file(checkpoint)}, tmp_path / "plain.pth")
    code, _, stderr = segal(
        "select", "--images", image_folder, "--checkpoint", tmp_path / "plain.pth",
        "--arch", "DeepLabV3Plus", "--encoder", "resnet18", "--num-classes", 5,
        "--region", 32, "--budget", 3, "--overlays", 0, "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, stderr


def test_output_folders_of_something_else(refused, segal, image_folder, checkpoint, tmp_path):
    call = ("--images", image_folder, "--checkpoint", checkpoint, "--region", 32, "--overlays", 0)
    other = tmp_path / "other"
    assert segal("select", *call, "--budget", 5, "--out", other)[0] == 0
    before = (other / "selection.csv").read_bytes()
    message = refused("strategy.tau=0.5", out=other, budget=6, overlays=0)
    assert "holds another run" in message
    assert "budget" in message
    assert "strategy.tau" in message
    assert (other / "selection.csv").read_bytes() == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("work of years")
    assert "thesis.tex" in refused(out=foreign)
    assert (foreign / "thesis.tex").read_text() == "work of years"
    assert "within the folder of images" in refused(out=image_folder / "run")
    assert not (image_folder / "run").exists()


def test_a_larger_budget_goes_on_in_the_same_folder(segal, image_folder, checkpoint, tmp_path):
    seed_set, run = tmp_path / "seed", tmp_path / "run"
    call = ("--images", image_folder, "--region", 32, "--overlays", 0)
    random = ("--strategy", "random", "--budget", 4, "--out", seed_set)
    assert segal("select", *call, *random)[0] == 0
    call = ("select", *call, "--checkpoint", checkpoint, "--out", run)
    labelled = ("--labelled", seed_set / "selection.csv")
    code, _, stderr = segal(*call, *labelled, "--budget", "0.001%")
    assert code == 2
    assert "larger --budget" in stderr
    assert segal(*call, *labelled, "--budget", "5%")[0] == 0


def test_images_that_changed_since_the_run_began(segal, image_folder, checkpoint, tmp_path):
    call = (
        "select", "--images", image_folder, "--checkpoint", checkpoint, "--region", 32,
        "--budget", 5, "--overlays", 0, "--out", tmp_path / "run",
    )  # fmt: skip
    assert segal(*call)[0] == 0
    before = (tmp_path / "run" / "selection.csv").read_bytes()
    shutil.copy(image_folder / "a" / "frame 4.png", image_folder / "a" / "new.png")
    code, _, stderr = segal(*call)
    assert code == 2
    assert "remedy: " in stderr
    assert (tmp_path / "run" / "selection.csv").read_bytes() == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written(refused, monkeypatch, tmp_path, number):
    """The tests may run as root, whom no permission stops: the errors are made."""

    def fail(*_args, **_kwargs):
        raise OSError(number, "made by the test")

    monkeypatch.setattr("segal.candidates.table.TableWriter.append", fail)
    message = refused()
    assert "cannot be written" in message
    assert not list((tmp_path / "run").glob("candidates*"))
    assert not list((tmp_path / "run" / ".candidates.blocks").glob("*"))


@pytest.mark.parametrize(
    "line",
    [
        "1,../secret.png,0,0,32,32,1024,1",
        "1,/etc/passwd,0,0,32,32,1024,1",
        "1,a/none.png,0,0,32,32,1024,1",
        "1,a/frame 0.png,90,0,32,32,1024,1",
        "1,a/frame 0.png,zero,0,32,32,1024,1",
        "1,a/frame 0.png,0,0,0,32,1024,1",
    ],
)
def test_labelled_regions_that_cannot_be(refused, tmp_path, line):
    labelled = tmp_path / "labelled.csv"
    labelled.write_text(f"rank,image,x,y,width,height,pixels,score\n{line}\n")
    message = refused(labelled=labelled)
    assert "labelled.csv" in message
    assert "line 2" in message


def test_a_pool_that_is_labelled_to_the_last_pixel(segal, image_folder, checkpoint, tmp_path):
    call = ("--images", image_folder, "--region", 32, "--overlays", 0)
    assert (
        segal(
            "select", *call, "--budget", "100%", "--strategy", "random", "--out", tmp_path / "all"
        )[0]
        == 0
    )
    code, _, stderr = segal(
        "select", *call, "--checkpoint", checkpoint, "--budget", 5, "--out", tmp_path / "b",
        "--labelled", tmp_path / "all" / "selection.csv",
    )  # fmt: skip
    assert code == 2
    assert "nothing is left to select" in stderr


def test_debug_shows_where_it_came_from(segal, tmp_path):
    with pytest.raises(Exception, match="missing"):
        segal("--debug", "select", "--images", tmp_path)


@pytest.mark.parametrize("device", ["cuda:99", "quantum"])
def test_devices_that_are_not_there(refused, device):
    assert device in refused(device=device)


def test_a_comparison_is_validated_run_by_run(segal, tmp_path):
    folder = make_comparison(tmp_path / "c", {"random": {"strategy": "random"}, "uwe": {}})
    (folder / "compare.yaml").write_text("seeds: [0, 1]")
    code, stdout, _ = segal("validate", folder)
    assert code == 0
    assert "a comparison with 4 runs, all whole" in stdout
    for run in ("random/seed-0", "uwe/seed-1"):
        (folder / "runs" / run / "rounds" / "000" / "metrics.json").unlink()
    code, _, stderr = segal("validate", folder)
    assert code == 2
    assert "random/seed-0" in stderr
    assert "uwe/seed-1" in stderr
