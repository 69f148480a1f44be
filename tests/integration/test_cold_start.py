"""Before there is a trained network: seed sets, and selections by an encoder alone."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from segal.candidates.selection import read_selection
from segal.config import RunConfig
from segal.errors import SegalError
from segal.jobs.planning import plan_comparison
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import by_features, configure_run
from segal.runs.history import read_history
from segal.runs.ledger import Ledger
from segal.scenes.synthetic import make_scenes
from tests.quick_run import quick_run

ENCODER = "test_resnet"
NAMES = "coreset, max_herding, prob_cover, random, typiclust"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root, splits={"train": 8, "val": 2}, size=(64, 128), seed=0)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Those of the tiny encoder, as timm's file has them."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    save_file(timm.create_model(ENCODER, pretrained=False).state_dict(), path)
    return path


@pytest.fixture
def raw(scenes, weights, tmp_path):
    model = {"architecture": "linear", "encoder": ENCODER, "encoder_weights": str(weights)}
    train = {"layers": "decoder"}
    return quick_run(
        scenes, train, out=str(tmp_path / "run"), model=model, budgets=[], seed_set="3img",
        measure_picks=False, seed_strategy={"name": "coreset"},
    )  # fmt: skip


def run(raw, **changes):
    return run_rounds(*configure_run({**raw, **changes})).history


def images_of(scenes):
    root = scenes / "leftImg8bit" / "train"
    return {p.relative_to(root).as_posix(): p for p in sorted(root.glob("**/*.png"))}


def features(path, weights):
    """(D, H, W) float64: what timm's encoder makes of an image, without segal."""
    encoder = timm.create_model(ENCODER, features_only=True)
    stored = load_file(weights)
    encoder.load_state_dict({k: stored[k] for k in encoder.state_dict()})
    encoder = encoder.double().eval()
    config = timm.get_pretrained_cfg(ENCODER)
    pixels = cv2.imread(str(path))[:, :, ::-1] / 255.0
    x = torch.from_numpy((pixels - np.array(config.mean)) / np.array(config.std))
    x = x.permute(2, 0, 1)[None]
    strides = encoder.feature_info.reduction()
    with torch.no_grad():
        maps = [one for one, stride in zip(encoder(x), strides, strict=True) if stride >= 4]
    maps = [
        F.avg_pool2d(one, 8 // stride) if stride < 8 else one
        for one, stride in zip(maps, [s for s in strides if s >= 4], strict=True)
    ]
    size = maps[0].shape[-2:]
    joined = torch.cat([F.interpolate(m, size, mode="bilinear") for m in maps], 1)
    return F.interpolate(joined, x.shape[-2:], mode="bilinear")[0].numpy()


def k_center(points, count):
    """Greedy, from the point of the largest norm."""
    picks = [int(np.linalg.norm(points, axis=1).argmax())]
    while len(picks) < count:
        distance = np.linalg.norm(points[:, None] - points[picks], axis=2).min(1)
        picks.append(int(distance.argmax()))
    return picks


def test_a_seed_set_covers_what_the_encoder_sees(raw, scenes, weights):
    history = run(raw)
    paths = images_of(scenes)
    points = np.array([features(path, weights).mean((1, 2)) for path in paths.values()])
    expected = [list(paths)[row] for row in k_center(points, 3)]
    assert [p.image for p in history.seed_set] == expected
    assert {p.box for p in history.seed_set} == {(0, 0, 128, 64)}
    assert all(p.clicks and p.label for p in history.seed_set)
    with Ledger.read(history.folder) as ledger:
        names = [p.name for p in ledger.phases()]
        assert names == ["seed-scan-0", "seed-select", "seed", "train", "evaluate"]
        assert not ledger.damage()
    before = {p: p.stat().st_mtime_ns for p in history.folder.glob("rounds/**/*.*")}
    assert run(raw).seed_set == history.seed_set
    assert {p: p.stat().st_mtime_ns for p in history.folder.glob("rounds/**/*.*")} == before


@pytest.mark.slow
def test_regions_and_a_store_and_another_architecture(raw, scenes, weights, tmp_path):
    """The seed set's own regions; the encoder alone, where there is a decoder without weights."""
    paths = images_of(scenes)
    maps = [features(path, weights) for path in paths.values()]
    places = [(x, y) for y in (0, 32) for x in range(0, 128, 32)]
    points = [m[:, y : y + 32, x : x + 32].mean((1, 2)) for m in maps for x, y in places]
    rows = k_center(np.array(points), 6)
    expected = [(list(paths)[row // 8], places[row % 8]) for row in rows]
    model = raw["model"] | {"architecture": "FPN", "encoder": f"tu-{ENCODER}"}
    train = raw["train"] | {"augment": "none", "crop": "image"}
    history = run(
        raw, seed_set="6", seed_region="32", model=model, train=train,
        store={"folder": str(tmp_path / "store")},
    )  # fmt: skip
    assert [(p.image, p.box[:2]) for p in history.seed_set] == expected
    kept = {path.parent for path in (tmp_path / "store").glob("*/*.safetensors")}
    assert len(kept) == 2  # what the encoder alone gives, and what FPN's decoder takes


def test_the_same_seed_gives_the_same_bytes(raw):
    chosen = {"name": "typiclust", "smallest": 1, "clusters": 3}
    one, other = (run(raw, seed_strategy=chosen, out=raw["out"] + name) for name in "ab")
    assert one.seed_set == other.seed_set
    networks = [h.folder / "rounds" / "000" / "model.safetensors" for h in (one, other)]
    assert networks[0].read_bytes() == networks[1].read_bytes()


@pytest.mark.slow
def test_a_run_that_was_stopped_buys_the_same_seed_set(raw, monkeypatch):
    whole = run(raw, out=raw["out"] + "-whole")
    finish = Ledger.finish

    def stop(self, name, *arguments, **options):
        if name == "seed":
            raise KeyboardInterrupt
        return finish(self, name, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            run(raw)
    assert run(raw).seed_set == whole.seed_set


def test_chance_is_the_run_of_before_there_was_a_choice(raw):
    plain = {key: value for key, value in raw.items() if key != "seed_strategy"}
    named = configure_run({**plain, "seed_strategy": "random"})[0]
    assert named.identity() == configure_run(plain)[0].identity()
    assert "seed_strategy" not in named.identity()
    strata = {"name": "random", "stratify": "folder"}
    assert (
        configure_run({**plain, "seed_strategy": strata})[0].identity()["seed_strategy"] == strata
    )
    # Strata need no features, so no weights either.
    model = {"architecture": "tests.tiny_network:build"}
    history = run(plain, seed_strategy=strata, model=model, train=raw["train"] | {"layers": "all"})
    folders = [p.image.split("/")[0] for p in history.seed_set]
    assert len(set(folders)) == min(3, len({p.split("/")[0] for p in images_of_history(history)}))


def images_of_history(history):
    with Ledger.read(history.folder) as ledger:
        return list(ledger.known_images())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed_strategy": "uwe"}, ("seed_strategy: uwe goes by what a trained", NAMES, "entropy")),
        ({"seed_strategy": {"name": "random", "foreground": 0.5}}, (NAMES,)),
        ({"seed_strategy": {"name": "coreset", "sellector": 1}}, ("seed_strategy.sellector",)),
        ({"seed_strategy": {"name": "cor"}}, ("unknown strategy", "coreset")),
        ({"seed_strategy": {"name": "typiclust", "preset": "x"}}, ("seed_strategy.preset",)),
        ({"seed_strategy": {"name": "coreset", "spread": {}}}, ("seed_strategy.spread",)),
        ({"model": {"architecture": "linear", "encoder": ENCODER}}, ("drawn at random",)),
        ({"model": {"architecture": "FPN", "encoder": "resnet18"}}, ("model.encoder_weights",)),
    ],
    ids=str,
)  # fmt: skip
def test_what_no_seed_set_is_chosen_by(raw, changes, expected):
    with pytest.raises(SegalError) as caught:
        run(raw, **changes)
    assert all(text in str(caught.value) for text in expected), caught.value
    assert not list((RunConfig.model_validate(raw).out).glob("rounds"))


def test_the_decoder_of_another_library_has_no_weights_yet(raw, weights):
    model = {"architecture": "torchvision:lraspp_mobilenet_v3_large"}
    with pytest.raises(SegalError, match=r"weights"):
        run(raw, model=model | {"encoder_weights": str(weights)}, train={"layers": "all"})


def test_only_strategies_of_features_are_named():
    assert ", ".join(by_features()) == NAMES


def test_arms_share_the_first_round_of_their_seed_strategy(raw):
    shared = {k: v for k, v in raw.items() if k not in {"out", "machine", "seed_strategy"}}
    covered = {"seed_strategy": "coreset"}
    arms = [{"name": "random"}, {"name": "a", "set": covered},
            {"name": "b", "set": covered | {"strategy": "uwe"}},
            {"name": "c", "set": {"seed_strategy": {"name": "coreset", "init": "max_norm"}}},
            {"name": "all", "full": True}]  # fmt: skip
    compared = {"run": shared | {"strategy": "random"}, "arms": arms, "seeds": [0], "out": "o"}
    plan = plan_comparison(compared)
    starts = {run.arm: run.start for run in plan.runs if run.arm}
    assert starts["a"] == starts["b"] != starts["random"] != starts["c"] != starts["a"]
    assert starts["all"] is None
    assert starts["random"] == Path("o/start/seed-0")  # where it was before there was a choice
    assert [run.arm for run in plan.runs].count(None) == 3


@pytest.mark.slow
def test_a_comparison_of_seed_sets(segal, raw, tmp_path):
    """Each way to choose them has a first round of its own, that its arms share."""
    shared = {k: v for k, v in raw.items() if k not in {"out", "machine", "seed_strategy"}}
    shared |= {"budgets": ["4"], "seed_set": "2img"}
    arms = [
        {"name": "random"},
        {"name": "covered", "set": {"seed_strategy": "coreset"}},
        {"name": "covered-uwe", "set": {"seed_strategy": {"name": "coreset"}, "strategy": "uwe"}},
    ]
    compared = {
        "run": shared | {"strategy": "random"}, "arms": arms, "seeds": [0, 1],
        "out": str(tmp_path / "out"), "permutations": 100,
    }  # fmt: skip
    starts = plan_comparison(compared).starts
    assert [len(start.seeds) for start in starts] == [2, 2]
    config = tmp_path / "compare.json"
    config.write_text(json.dumps(compared))
    code, _, stderr = segal("compare", "--config", config)
    assert code == 0, stderr
    for seed in (0, 1):
        runs = {a["name"]: read_history(tmp_path / "out" / "runs" / a["name"] / f"seed-{seed}")
                for a in arms}  # fmt: skip
        first = {name: [p.image for p in history.seed_set] for name, history in runs.items()}
        assert first["covered"] == first["covered-uwe"]
        assert runs["covered"].scores[0] == runs["covered-uwe"].scores[0]
        of_start = read_history(tmp_path / "out" / starts[1].name / f"seed-{seed}")
        assert of_start.seed_set == runs["covered"].seed_set
    runs = sorted((tmp_path / "out" / "runs").glob("*/seed-*"))
    code, _, stderr = segal("report", *runs, "--out", tmp_path / "r.html")
    assert code == 0, stderr
    assert "from coreset" in (tmp_path / "r.html").read_text()


# Selections without a trained network


def select(segal, scenes, out, *arguments):
    pool = scenes / "leftImg8bit" / "train"
    return segal("select", "--images", pool, "--out", out, "--region", "32", *arguments)


def test_a_selection_by_an_encoder_alone(segal, scenes, weights, tmp_path):
    paths = images_of(scenes)
    maps = [features(path, weights) for path in paths.values()]
    places = [(x, y) for y in (0, 32) for x in range(0, 128, 32)]
    points = [m[:, y : y + 32, x : x + 32].mean((1, 2)) for m in maps for x, y in places]
    expected = [(list(paths)[r // 8], places[r % 8]) for r in k_center(np.array(points), 5)]
    cold = ("--encoder", ENCODER, "--encoder-weights", weights, "--budget", "5")
    code, stdout, stderr = select(segal, scenes, tmp_path / "out", *cold, "--strategy", "coreset")
    assert code == 0, stderr
    assert "linear with tu-test_resnet: normalised with mean" in stderr
    picks = read_selection(Path(stdout.strip()))
    assert [(p.image, p.box[:2]) for p in picks] == expected
    assert list((tmp_path / "out" / "overlays").glob("*.png"))
    assert segal("validate", tmp_path / "out")[0] == 0
    for other in ("max_herding", "prob_cover", "typiclust", "random"):
        code, _, stderr = select(segal, scenes, tmp_path / other, *cold, "--strategy", other)
        assert code == 0, stderr
    # What it bought is not on offer again, with the weights as another file of the same bytes.
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.read_bytes())
    cold = ("--encoder", ENCODER, "--encoder-weights", copy, "--budget", "3")
    cold += ("--strategy", "coreset", "--labelled", tmp_path / "out")
    code, stdout, stderr = select(segal, scenes, tmp_path / "next", *cold)
    assert code == 0, stderr
    further = {(p.image, p.box) for p in read_selection(Path(stdout.strip()))}
    assert not further & {(p.image, p.box) for p in picks}
    code, stdout, stderr = segal("plan", "--images", scenes / "leftImg8bit" / "train", *cold[:-2])
    assert code == 0, stderr
    assert "the budget buys 3" in stdout


def test_whole_images_by_an_encoder_alone(segal, scenes, weights, tmp_path):
    code, stdout, stderr = segal(
        *("select", "--images", scenes / "leftImg8bit" / "train", "--out", tmp_path / "out"),
        *("--task", "classification", "--encoder", ENCODER, "--encoder-weights", weights),
        *("--strategy", "max_herding", "--budget", "3"),
    )
    assert code == 0, stderr
    assert f"timm:{ENCODER}: normalised with mean" in stderr
    assert len(read_selection(Path(stdout.strip()))) == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--strategy", "uwe"), ("strategy: uwe goes by what a trained", NAMES)),
        (("--strategy", "drop_query"), (NAMES,)),
        (("--strategy", "coreset", "--encoder", "resnet18"),
         ("weights of another network", "conv1.weight", "check --encoder")),
        (("--strategy", "coreset", "--encoder", "test_resnett"), ("unknown encoder",)),
        (("--strategy", "coreset", "--arch", "Unet"), ("model.architecture: Unet",)),
        (("--strategy", "coreset", "--task", "detection"), ("not for detection",)),
    ],
    ids=str,
)  # fmt: skip
def test_what_an_encoder_alone_cannot_do(segal, scenes, weights, tmp_path, arguments, expected):
    cold = ("--encoder", ENCODER, "--encoder-weights", weights, "--budget", "5")
    code, _, stderr = select(segal, scenes, tmp_path / "out", *cold, *arguments)
    assert code == 2
    assert all(text in stderr for text in expected), stderr
    assert not (tmp_path / "out").exists()


def test_an_encoder_is_named_with_its_weights_or_not_at_all(segal, scenes, weights, tmp_path):
    code, _, stderr = select(
        *(segal, scenes, tmp_path / "out", "--budget", "5", "--strategy", "coreset"),
        *("--encoder-weights", weights),
    )
    assert (code, "model.encoder: missing" in stderr) == (2, True)
    code, _, stderr = select(
        *(segal, scenes, tmp_path / "out", "--budget", "5", "--strategy", "coreset"),
        *("--encoder", ENCODER),
    )
    assert (code, "--encoder-weights FILE, as coreset needs no more" in stderr) == (2, True)
    code, _, stderr = select(
        *(segal, scenes, tmp_path / "out", "--budget", "5", "--strategy", "coreset"),
        *("--encoder", ENCODER, "--encoder-weights", weights, "--checkpoint", weights),
    )
    assert (code, "given twice" in stderr) == (2, True)
