"""Every command of the documents is run, and every configuration loads."""

import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
import yaml

from segal.data.datasets import open_dataset
from segal.jobs import demo
from segal.models.build import build_model, make_spec
from segal.scenes.synthetic import make_scenes
from tests.boxed import make_set
from tests.classified import make_archive, make_features, make_folders

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def task_of(path):
    """What the networks of a configuration are asked."""
    raw = yaml.safe_load(path.read_text())
    return raw.get("run", raw).get("task", "segmentation")


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands():
    """Lines of the README's shell blocks."""
    return [line for block in blocks(README, "bash") for line in block.strip().splitlines()]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Made scenes, as Cityscapes is laid out; only read."""
    root = tmp_path_factory.mktemp("made") / "scenes"
    make_scenes(root, splits={"train": 6, "val": 2, "test": 2}, size=(64, 128), seed=0)
    return root


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Files of encoders' weights: random ones, in the names that the encoder has."""
    folder = tmp_path_factory.mktemp("encoders")

    def make(name="resnet18"):
        path = folder / f"{name}.pth"
        if not path.exists():
            network = build_model(make_spec("DeepLabV3Plus", name, ("a", "b"))).network
            torch.save(dict(network.encoder.state_dict()), path)
        return path

    return make


@pytest.fixture(scope="module")
def boxed(tmp_path_factory):
    """Data of images with boxes, by layout; only read."""
    root = tmp_path_factory.mktemp("boxed")
    return {layout: make_set(root / layout, layout) for layout in ("coco", "voc")}


@pytest.fixture
def places(tmp_path, scenes, encoder, classified, boxed):
    """What the README's words in capitals stand for."""
    return {
        "DIR": scenes / "leftImg8bit" / "train",
        "RUN": tmp_path / "run",
        "FIRST": tmp_path / "first",
        "DATASET": scenes,
        "MODEL": tmp_path / "model",
        "ROUNDS": tmp_path / "rounds",
        "COMPARISON": tmp_path / "comparison",
        "TUNE": tmp_path / "tune",
        "HANDOUT": tmp_path / "handout",
        "MAPS": tmp_path / "maps",
        "SCENES": tmp_path / "drawn",
        "FILE": encoder(),
        "CLASSES": classified["folders"],
        "CLASSIFIER": tmp_path / "classifier",
        "IMAGES": tmp_path / "images",
        "RETRAINED": tmp_path / "retrained",
        "BOXES": boxed["voc"],
        "DETECTOR": tmp_path / "detector",
        "OBJECTS": tmp_path / "objects",
    }


def test_the_readme_has_two_commands_for_a_fresh_machine():
    assert "pip install -e . && segal demo" in commands()
    assert "pip install -e '.[dev]' && pytest" in commands()
    run = (ROOT / ".ci" / "run").read_text()
    assert "grep -m 1 -F 'pytest' README.md" in run
    assert next(c for c in README.splitlines() if "pytest" in c) == (
        "pip install -e '.[dev]' && pytest"
    )


SCENES = ["data.scenes.train=4", "data.scenes.val=2", "data.scenes.height=64"]
TRAINING = ["train.iterations=2", "train.batch_size=2", "train.crop=64"]
BUYING = ["seed_set=1img", "region=32", "budgets=1img"]
EXTRA = {
    # A budget that is larger than this small pool takes all of it.
    "select": ["--overlays", 1],
    "train": TRAINING,
    "explain": ["--count", 1],
    "run": ["data.root=SCENES", *SCENES, *TRAINING, *BUYING, "overlays=1"],
    "compare": [
        "seeds=0", "permutations=100", "run.data.root=SCENES",
        *(f"run.{key}" for key in [*SCENES, *TRAINING, *BUYING, "overlays=0"]),
    ],
    "report": [],
    "export": [],
    "status": [],
    "tune": ["--taus", "0,1"],
}  # fmt: skip
"""What makes the README's commands quick; nothing that they name themselves."""

WHOLE = ["model.options.stem=cifar", "train.crop=image"]
"""Likewise of those that train on whole images."""


SMALLER = {"width": 64, "min_size": 64, "max_size": 96}
NARROW = [f"model.options.{key}={value}" for key, value in SMALLER.items()]
"""Likewise of detectors."""


@pytest.fixture
def no_page(monkeypatch):
    """Comparisons draw no page, which takes longer than they do."""

    def stop():
        monkeypatch.setattr("segal.jobs.comparing.compare.write_report", lambda *_, **__: None)

    return stop


def test_the_commands_of_the_readme(segal, places, checkpoint, no_page):
    no_page()  # there is a command for it
    ran = []
    for line in commands():
        if not line.startswith("segal "):
            continue
        words = shlex.split(line)[1:]
        quicker = WHOLE if "classification" in words else NARROW if "detection" in words else []
        place = {**places, "FILE": checkpoint} if "--checkpoint" in words else places
        words = [
            re.sub(r"[A-Z]{3,}", lambda m, place=place: str(place[m[0]]), str(word))
            for word in [
                *words,
                *EXTRA[words[0]],
                *(quicker if words[0] == "train" else []),
            ]
        ]
        words = [re.sub(r"^configs/", f"{ROOT}/configs/", word) for word in words]
        if words[0] == "tune":
            # The first command took all of the pool; another run has something left.
            left = ("--images", places["DIR"], "--checkpoint", checkpoint, "--region", 32)
            scan = places["RUN"].with_name("scan")
            assert segal("select", *left, "--budget", "10%", "--out", scan)[0] == 0
            words[words.index("--scan") + 1] = str(scan)
        code, _, stderr = segal(*words)
        assert code == 0, (line, stderr)
        ran.append(words[0])
    rounds = ["run", "compare", "report", "tune"]
    whole = ["train", "select", "train", "train", "select"]
    assert ran == ["select", "select", "train", "explain", *whole, "export", "status", *rounds]
    assert (places["COMPARISON"] / "report.html").exists()
    assert segal("validate", places["DATASET"])[0] == 0
    assert segal("strategies")[0] == 0


def test_the_files_that_the_readme_names_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_python_of_the_readme():
    for block in blocks(README, "python"):
        space = {}
        exec(block, space)
        assert len(space["picks"]) == 100


def test_the_strategy_of_the_guide_works_by_its_import_path(
    segal, image_folder, checkpoint, tmp_path, monkeypatch
):
    guide = (ROOT / "docs" / "adding_a_strategy.md").read_text()
    (tmp_path / "my_strategies.py").write_text(blocks(guide, "python")[0])
    (tmp_path / "my_uncertainty.py").write_text("def spread(z):\n    return z.amax(1).exp()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    call = ("--images", image_folder, "--checkpoint", checkpoint, "--region", 32)
    call = (*call, "--budget", 4, "--overlays", 0)
    code, _, stderr = segal(
        "select", *call, "--strategy", "my_strategies:LargestMargin", "--out", tmp_path / "a"
    )
    assert code == 0, stderr
    scores = [
        float(line.rsplit(",", 1)[1])
        for line in (tmp_path / "a" / "selection.csv").read_text().splitlines()[1:]
    ]
    assert scores == sorted(scores)
    code, _, stderr = segal(
        "select", *call, "strategy.uncertainty=my_uncertainty:spread", "--out", tmp_path / "b"
    )
    assert code == 0, stderr
    with (tmp_path / "my_strategies.py").open("a") as file:
        file.write("# edited\n")
    code, _, stderr = segal(
        "select", *call, "--strategy", "my_strategies:LargestMargin", "--out", tmp_path / "a"
    )
    assert code == 2, "an edited strategy would give the picks of the old one"
    assert "strategy.code.my_strategies:LargestMargin: " in stderr


@pytest.fixture(scope="module")
def street(scenes, tmp_path_factory):
    """The made scenes as CamVid is laid out: 11 classes, and a twelfth that is ignored."""
    root = tmp_path_factory.mktemp("street")
    for split in ("train", "val", "test"):
        dataset = open_dataset(scenes, split)
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index, path in enumerate(dataset.pool.paths):
            shutil.copy(dataset.pool.root / path, root / "images" / split / f"{index}.png")
            label = np.minimum(dataset.read_label(index), 11)
            cv2.imwrite(str(root / "labels" / split / f"{index}.png"), label)
    (root / "classes.txt").write_text("\n".join(f"{i} class{i}" for i in range(12)))
    return root


def command_of(path):
    """The command that a configuration opens with."""
    first = path.read_text().splitlines()[0]
    command = re.match(r"# segal (select|train|run|compare) --config configs/(\S+) ", first)
    assert command, first
    assert command[2] == path.name
    return command[1]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_configuration_opens_with_its_command_and_is_valid(segal, path):
    command = command_of(path)
    assert yaml.safe_load(path.read_text())
    code, stdout, stderr = segal("validate", path)
    assert code == 0, stderr
    assert f"a configuration of segal {command}" in stdout


def quick(prefix, data, encoder):
    """Overrides that make a training quick; the keys are those of `prefix`."""
    return [
        f"{prefix}data.root={data}", f"{prefix}model.encoder_weights={encoder}",
        f"{prefix}train.iterations=2", f"{prefix}train.batch_size=2", f"{prefix}train.crop=32",
        f"{prefix}train.workers=0",
    ]  # fmt: skip


SMALL = {
    "vaal": {"steps": 2},
    "ta_vaal": {"steps": 2},
    "isal": {"hessian_pixels": 200, "samples": 2, "repeats": 1},
    "ralif": {"hessian_pixels": 200, "tau": 0.5},
    "mc_dropout": {"samples": 2},
    "bald": {"samples": 2},
}
"""What makes a strategy quick."""


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    """Data of images that have classes, by layout; only read."""
    root = tmp_path_factory.mktemp("classified")
    (root / "features").mkdir()
    return {
        "npz": make_archive(root / "images.npz"),
        "folders": make_folders(root / "folders"),
        "features": make_features(root / "features"),
    }


def small_classification(raw, data, tmp_path, *, whole):
    """A configuration of images that have classes, with few of them, and short.

    Its network is a tiny one unless it is to be kept `whole`.
    """
    run = raw.get("run", raw)
    given, network = run["data"], run.get("model", {})
    given["root"] = str(data[given["layout"]])
    given |= {"validation": "val"} if "validation_share" in given else {}
    if "encoder_weights" in network:
        weights = tmp_path / "weights.pth"
        vit = timm.create_model("test_vit", num_classes=5, img_size=64)
        torch.save(vit.state_dict(), weights)
        network |= {
            "architecture": "timm:test_vit", "input_side": 64, "encoder_weights": str(weights)
        }  # fmt: skip
    elif "architecture" in network and not whole:
        run["model"] = {"architecture": "tests.tiny_classifier:build"}
    run["train"] |= {"iterations": 2, "batch_size": 4, "workers": 0}
    run |= {"seed_set": "6img", "budgets": ["3img"], "overlays": 0}
    if "arms" not in raw:
        raw["strategy"] |= SMALL.get(raw["strategy"]["name"], {})
        return raw
    kinds = {kind(arm): arm for arm in reversed(raw["arms"])}
    arms = [arm for arm in raw["arms"] if kinds[kind(arm)] is arm]
    for arm in arms:
        strategy = arm["set"]["strategy"]
        strategy |= SMALL.get(strategy["name"], {})
    named = raw["primary"]["arm"] in {arm["name"] for arm in arms}
    primary = raw["primary"] if named else None
    return {**raw, "arms": arms, "seeds": [0], "permutations": 100, "primary": primary}


def kind(arm):
    """The keys that an arm sets, dotted; arms of one kind differ in values alone."""

    def keys(value, name):
        if not isinstance(value, dict):
            return [name]
        return [key for k, v in value.items() for key in keys(v, f"{name}.{k}")]

    return tuple(sorted(keys({k: v for k, v in arm.items() if k not in {"name", "seeds"}}, "")))


LIKE_ANOTHER = (
    "cifar10_ralif.yaml", "cifar10_ralif_2000.yaml", "cifar10_small_compare.yaml",
    "cityscapes_uwe_256.yaml", "cityscapes_uwe_512.yaml",
)  # fmt: skip
"""Configurations that have the keys of another one, with other values."""


def each(paths):
    """Parameters of a test of every configuration; what is like another one is slow."""
    return [
        pytest.param(p, marks=pytest.mark.slow if p.name in LIKE_ANOTHER else (), id=p.name)
        for p in paths
    ]


@pytest.mark.parametrize("path", each(p for p in CONFIGS if task_of(p) == "classification"))
def test_every_configuration_of_classification_runs(segal, classified, tmp_path, path, no_page):
    if path.name != "cifar10_frozen_compare.yaml":  # of the most arms
        no_page()
    raw = yaml.safe_load(path.read_text())
    whole = path.name == "cifar10_uwe.yaml"  # its network is that of the others
    small = tmp_path / path.name
    small.write_text(yaml.safe_dump(small_classification(raw, classified, tmp_path, whole=whole)))
    code, _, stderr = segal(command_of(path), "--config", small, "--out", tmp_path / "out")
    assert code == 0, stderr


OF_DETECTORS = [
    pytest.param(p, marks=() if p.name == "coco_isal.yaml" else pytest.mark.slow, id=p.name)
    for p in CONFIGS
    if task_of(p) == "detection"
]


OF_BOTH = {"random", "uwe", "enms_divproto"}
"""Arms that are run of comparisons whose other arms are run of another one."""


@pytest.mark.parametrize("path", OF_DETECTORS)
def test_every_configuration_of_detection_runs(segal, boxed, tmp_path, path):
    raw = yaml.safe_load(path.read_text())
    run = raw.get("run", raw)
    given, network = run["data"], run["model"]
    given |= {"root": str(boxed[given["layout"]]), "train": "train"}
    named = (("validation", "val"), ("test", "test"))
    given |= {key: split for key, split in named if key in given}
    network.pop("encoder_weights")
    if network["architecture"] == "torchvision:mial_ssd300_vgg16":
        network["architecture"] = "tests.tiny_detectors:small_mial_ssd"
    else:
        network |= {"encoder": "resnet18", "options": network["options"] | SMALLER}
    run["train"] |= {"iterations": 10 if "mial" in path.name else 2, "batch_size": 2, "workers": 0}
    run |= {"seed_set": "3img", "budgets": ["2img"], "overlays": 0}
    if "arms" in raw:
        if path.name not in {"bccd_retinanet_compare.yaml", "bccd_mial_compare.yaml"}:
            raw["arms"] = [arm for arm in raw["arms"] if arm["name"] in OF_BOTH]
        for arm in raw["arms"]:
            strategy = arm["set"]["strategy"]
            strategy |= SMALL.get(strategy["name"], {})
        raw |= {"seeds": [0], "permutations": 100}
    else:
        raw["strategy"] |= SMALL.get(raw["strategy"]["name"], {})
    small = tmp_path / path.name
    small.write_text(yaml.safe_dump(raw))
    code, _, stderr = segal(command_of(path), "--config", small, "--out", tmp_path / "out")
    assert code == 0, stderr


OF_ALL_ARMS = (
    "camvid_compare.yaml",
    "camvid_gradients.yaml",
    "camvid_evidence.yaml",
    "camvid_evidence_lite0.yaml",
    "camvid_evidence_reference.yaml",
    "camvid_evidence_seeds.yaml",
    "camvid_evidence_tuned.yaml",
)
OF_EVIDENCE = {
    "random", "uwe-image", "error_change", "seeds-coreset", "lite0-uwe", "tuned-uwe-image",
}  # fmt: skip
"""Arms of the evidence study that run here, of one frozen setting; the others are of strategies
that run elsewhere."""


def run_on_made_data(segal, path, scenes, street, checkpoint, encoder, tmp_path, all_arms=False):
    """The command of a configuration, with every key that it has, on what is small.

    Of a comparison's arms, the first of each kind.
    """
    command, raw = command_of(path), yaml.safe_load(path.read_text())
    of_run = raw.get("run", raw)
    data = street if of_run.get("data", {}).get("layout") == "folder" else scenes
    if command == "select":
        images = scenes / "leftImg8bit" / "train"
        extra = [f"images={images}", f"checkpoint={checkpoint}", "region=16", "overlays=1"]
    else:
        prefix = "run." if command == "compare" else ""
        extra = quick(prefix, data, encoder(of_run["model"]["encoder"]))
        if "store" in of_run:
            extra += [f"{prefix}store.folder={tmp_path / 'store'}", f"{prefix}train.crop=image"]
            extra += [f"{prefix}train.gradient_norm=1"]
    if command == "run":
        # Cityscapes' counts of regions, on a few small scenes.
        image = raw["region"] == "image"
        count, region = (1, "image") if image else (4, 32)
        extra += [
            f"seed_set={count}", f"region={region}", f"seed_region={region}",
            f"budgets={count}", "overlays=1",
        ]  # fmt: skip
    elif command == "compare":
        kinds = {kind(arm): arm for arm in reversed(raw["arms"])}
        arms = [arm for arm in raw["arms"] if all_arms or kinds[kind(arm)] is arm]
        if "evidence" in path.name:
            arms = [arm for arm in raw["arms"] if arm["name"] in OF_EVIDENCE]
            raw |= {"baseline": arms[0]["name"], "primary": None}
        arms = [{**arm, "seeds": [0]} for arm in arms]
        for arm in arms:
            strategy = arm.get("set", {}).get("strategy", {})
            strategy |= SMALL.get(strategy.get("name"), {})
        small = {**raw, "arms": arms, "seeds": [0], "permutations": 100}
        small["run"] |= {"seed_set": "20%", "budgets": ["20%"], "region": "32"}
        path = tmp_path / path.name
        path.write_text(yaml.safe_dump(small))
        extra.append("run.overlays=0")  # drawing them takes longer than all else
    code, _, stderr = segal(command, "--config", path, *extra, "--out", tmp_path / "out")
    assert code == 0, stderr


@pytest.mark.parametrize(
    "path",
    each(
        p
        for p in CONFIGS
        if f"configs/{p.name}" not in README
        and task_of(p) == "segmentation"
        and p.name not in OF_ALL_ARMS
    ),
)
def test_every_configuration_runs_on_made_data(
    segal, scenes, street, checkpoint, encoder, tmp_path, path
):
    """Those that the README's commands name run with them, and some below with all arms."""
    run_on_made_data(segal, path, scenes, street, checkpoint, encoder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_ALL_ARMS)
def test_every_arm_of_a_comparison_runs(segal, scenes, street, checkpoint, encoder, tmp_path, name):
    path = ROOT / "configs" / name
    run_on_made_data(segal, path, scenes, street, checkpoint, encoder, tmp_path, all_arms=True)


@pytest.mark.slow
def test_the_demo_of_the_readme(segal, tmp_path, monkeypatch):
    """With a sixth of its steps: they change what networks know, not what happens."""
    monkeypatch.chdir(tmp_path)
    size = demo.DemoSize(frames=48, first_iterations=40, iterations=30)
    monkeypatch.setattr(demo, "DemoSize", lambda: size)
    assert "segal demo" in commands()[0]
    code, stdout, stderr = segal("demo")
    assert code == 0, stderr
    assert "the seed set and uwe" in stdout
    assert len(list((tmp_path / "demo" / "3-uwe" / "overlays").glob("*.png"))) > 5
