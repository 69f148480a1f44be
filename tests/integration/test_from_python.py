"""`segal.select`: the same work as from the command line, by a file or by any function."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import segal as package
from segal.errors import SegalError
from segal.models.checkpoint import save_checkpoint
from segal.models.wrapped import FEATURES

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIFFERENTIATE = ["badge", "gradnorm", "ralif", "isal", "grad_similarity"]


def boxes(result):
    return [(pick.image, pick.box) for pick in result.picks]


def options(image_folder, tmp_path, **changes):
    given = {"images": image_folder, "out": tmp_path / "out", "region": 32, "budget": "10%"}
    return {**given, "overlays": 1, "strategy": "entropy", **changes}


def bright(batch):
    """Classes by brightness, at a quarter of the size."""
    brightness = torch.nn.functional.avg_pool2d(batch.mean(1, keepdim=True), 4)
    return 9 * torch.cat([0.3 - brightness, brightness - 0.5, 0 * brightness], 1)


def test_all_doors_give_the_same_picks(segal, image_folder, checkpoint, model, tmp_path):
    code, _, err = segal(
        "select",
        "--images",
        image_folder,
        "--checkpoint",
        checkpoint,
        "--region",
        "32",
        "--budget",
        "10%",
        "--strategy",
        "entropy",
        "--out",
        tmp_path / "cli",
    )
    assert code == 0, err
    given = options(image_folder, tmp_path)
    by_file = package.select(**{**given, "out": tmp_path / "file"}, checkpoint=checkpoint)
    calls = []

    def predict(batch):
        calls.append((batch.shape, batch.dtype, torch.is_grad_enabled()))
        return model.network(batch)

    by_function = package.select(**given, predict=predict, mean=MEAN, std=STD, stride=16)
    named = {
        "logits": lambda x: {"logits": model.network(x)},
        "array": lambda x: model.network(x).numpy(),
    }
    for name, function in named.items():
        again = package.select(
            **{**given, "out": tmp_path / name},
            predict=function,
            mean=MEAN,
            std=STD,
            stride=16,
            batch_size=2,
        )
        assert boxes(again) == boxes(by_function), name
    assert boxes(by_file) == boxes(by_function)
    cli = (tmp_path / "cli" / "selection.csv").read_bytes()
    assert cli == by_file.selection.read_bytes() == by_function.selection.read_bytes()
    assert all(shape[2] % 16 == shape[3] % 16 == 0 for shape, _, _ in calls)
    assert {(dtype, grad) for _, dtype, grad in calls} == {(torch.float32, False)}
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 1


def test_features_of_a_function(image_folder, model, tmp_path):
    """uwe on features that are given, against the network's own."""

    def predict(batch):
        evidence = model(batch, (FEATURES,))
        size = evidence.upsampling.size
        spread = torch.nn.functional.interpolate(
            evidence.features, size, mode="bilinear", align_corners=True
        )
        return evidence.logits, spread

    given = options(image_folder, tmp_path, strategy={"name": "uwe", "tau": 0.5}, stride=16)
    by_function = package.select(**given, predict=predict, mean=MEAN, std=STD)
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path)
    del given["stride"]
    by_file = package.select(**{**given, "out": tmp_path / "file"}, checkpoint=path)
    assert boxes(by_function) == boxes(by_file)
    ours, theirs = ([pick.score for pick in r.picks] for r in (by_function, by_file))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_what_is_done_is_not_done_again_and_another_function_is_refused(image_folder, tmp_path):
    calls = []

    def counted(batch):
        calls.append(1)
        return bright(batch)

    given = options(image_folder, tmp_path)
    first = package.select(**given, predict=counted)
    done = len(calls)
    again = package.select(**given, predict=counted)
    assert len(calls) == done + 1, "one look, to know it by"
    assert boxes(again) == boxes(first)
    for changed in (
        {"predict": lambda batch: bright(batch) + 1e-3},
        {"predict": bright, "name": "another"},
        {"predict": bright, "stride": 8},
    ):
        with pytest.raises(SegalError, match="another"):
            package.select(**{**given, **changed})


def test_one_output_is_two_classes(image_folder, tmp_path):
    def one(batch):
        z = bright(batch)
        return z[:, 1:2] - z[:, :1]

    given = options(image_folder, tmp_path)
    by_one = package.select(**given, predict=one, class_names=("dark", "bright"))
    by_two = package.select(
        **{**given, "out": tmp_path / "two"}, predict=lambda batch: bright(batch)[:, :2]
    )
    assert boxes(by_one) == boxes(by_two)


@pytest.mark.parametrize("strategy", DIFFERENTIATE)
def test_strategies_that_differentiate_are_refused_by_name(image_folder, tmp_path, strategy):
    def with_features(batch):
        return bright(batch), batch

    with pytest.raises(SegalError) as caught:
        package.select(
            **options(image_folder, tmp_path, strategy=strategy),
            predict=with_features,
            **_sets(tmp_path, strategy),
        )
    assert caught.value.problem.startswith(f"{strategy}: predict gives logits and features")
    assert "uwe" in caught.value.remedy
    assert not (tmp_path / "out").exists()


def _sets(tmp_path, strategy):
    if strategy in {"badge", "gradnorm"}:
        return {}
    known = {"root": tmp_path, "split": "val"}
    return {"reference": known, "labelled": [tmp_path / "selection.csv"], "training": known}


def test_features_that_are_not_given_are_asked_for(image_folder, tmp_path):
    with pytest.raises(SegalError, match="uwe: predict gives logits alone") as caught:
        package.select(**options(image_folder, tmp_path, strategy="uwe"), predict=bright)
    assert "entropy" in caught.value.remedy
    assert "uwe" not in caught.value.remedy.split("would work")[0]


def fails(batch):
    raise KeyError("pixel_values")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predict": fails}, "KeyError: 'pixel_values'"),
        ({"predict": lambda x: bright(x).argmax(1)}, "no logits in what it returns"),
        ({"predict": lambda x: bright(x)[0]}, "no logits in what it returns"),
        ({"predict": lambda x: (bright(x), x, x)}, "no logits in what it returns"),
        ({"predict": lambda x: bright(x).softmax(1)}, "its outputs are probabilities"),
        ({"predict": lambda x: bright(x)[:, :1].sigmoid()}, "values from 0 to 1 from a sigmoid"),
        ({"predict": bright, "checkpoint": "model.pth"}, "the network is given twice"),
        ({"predict": bright, "encoder": "resnet18"}, "model.encoder: not with predict"),
        ({"predict": bright, "class_names": ("a", "b")}, "3 names"),
        ({"predict": bright, "budgets": 3}, "did you mean 'budget'"),
        ({"predict": bright, "machine": {"batch_sise": 2}}, "did you mean 'batch_size'"),
        ({}, "checkpoint: missing"),
    ],
)
def test_mistakes_are_said(image_folder, tmp_path, change, message):
    with pytest.raises(SegalError) as caught:
        package.select(**options(image_folder, tmp_path), **change)
    assert message in str(caught.value)


def test_a_size_that_a_function_does_not_take_is_said_before_work_starts(image_folder, tmp_path):
    sizes = []

    def square(batch):
        sizes.append(tuple(batch.shape[-2:]))
        if len(sizes) > 1:  # it takes the first image's
            raise ValueError("not of the size that it was exported for")
        return bright(batch)

    with pytest.raises(SegalError, match="predict: does not run at"):
        package.select(**options(image_folder, tmp_path), predict=square)
    assert not (tmp_path / "out" / "candidates").exists()


def test_where_a_function_runs_is_as_given(image_folder, tmp_path):
    given = options(image_folder, tmp_path, machine={"device": "cuda:77"})
    with pytest.raises(SegalError, match="'cuda:77' is not there"):
        package.select(**given, predict=bright)


def test_random_needs_no_network(image_folder, tmp_path):
    result = package.select(**options(image_folder, tmp_path, strategy="random"))
    assert result.picks


def test_importing_the_package_loads_no_torch():
    code = "import sys, segal; assert 'torch' not in sys.modules; segal.functional.k_center_greedy"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'selekt'"):
        _ = package.selekt
