"""Images that have classes as wholes: every command, every strategy, and what is refused."""

import csv
import json
import multiprocessing
import shutil

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from segal.config import DataConfig, TrainConfig
from segal.errors import SegalError
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run, configure_selection
from segal.jobs.train import run_training
from segal.runs.ledger import Ledger
from segal.scenes.synthetic import make_scenes
from segal.strategies import STRATEGIES
from segal.tasks import find_task
from tests import killed_run
from tests.classified import (
    CLASSES,
    COUNTS,
    PLACES,
    features,
    make_all,
    make_features,
    make_folders,
    make_tables,
    pictures,
    several,
    write_picture,
)

TINY = "tests.tiny_classifier:build"
QUICK = (
    "train.iterations=4", "train.batch_size=6", "train.workers=0", "train.validate_every=0",
    "train.lr=0.05", "train.crop=image", "machine.threads=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data of every layout; only read."""
    return make_all(tmp_path_factory.mktemp("classified"))


@pytest.fixture(scope="module")
def trained(made, tmp_path_factory):
    """A network of every layout's data, trained a little, and what `train` was given."""
    found = {}
    for name in PLACES:
        out = tmp_path_factory.mktemp("trained") / name
        model = {} if "features" in name else {"model": {"architecture": TINY}}
        raw = {
            "task": "multilabel" if "several" in name else "classification",
            "data": {"root": made / name, "test": "test"},
            "train": {"iterations": 4, "batch_size": 6, "workers": 0, "crop": "image"},
            "out": out, "machine": {"threads": 1}, **model,
        }  # fmt: skip
        found[name] = run_training(TrainConfig.model_validate(raw)).model
    return found


def arguments(made, trained, name):
    """Task, network and pool of a layout."""
    task = "multilabel" if "several" in name else "classification"
    pool = {
        "folders": made / "folders" / "train",
        "tables": made / "tables" / "train.csv",
        "several": made / "several" / "train.csv",
        "archive.npz": f"{made / 'archive.npz'}:x_train",
        "features": made / "features" / "train" / "features.npy",
        "several_features": made / "several_features" / "train" / "features.npy",
    }[name]
    arch = [] if "features" in name else ["--arch", TINY]
    return ["--task", task, "--images", pool, "--checkpoint", trained[name], *arch]


def rows(out):
    with (out / "selection.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# Commands


def test_label_files_by_pixel_are_not_taken_for_folders_of_classes(segal, tmp_path):
    make_scenes(tmp_path, splits={"train": 1}, size=(32, 64), seed=0)
    code, stdout, stderr = segal("validate", tmp_path)
    assert code == 0 and "data set of segmentation" in stdout, stderr


@pytest.mark.parametrize("name", PLACES)
def test_validate_tells_what_is_there(segal, made, name):
    code, stdout, stderr = segal("validate", made / name)
    assert code == 0, stderr
    task = "multilabel" if "several" in name else "classification"
    assert f"data set of {task}" in stdout
    assert f"train: {COUNTS['train']} images" in stdout
    assert "pixel" not in stdout
    assert ("labels  " if "several" in name else "8 images   33.33 %") in stdout


@pytest.mark.parametrize("name", PLACES)
def test_what_is_selected_can_be_trained_on_and_selected_from_again(
    segal, made, trained, tmp_path, name
):
    given = arguments(made, trained, name)
    out = tmp_path / "picked"
    call = ("select", *given, "--budget", 4, "--strategy", "uwe", "--overlays", 4, "--out", out)
    code, _, stderr = segal(*call)
    assert code == 0, stderr
    height = len(CLASSES) if "several" in name else 1
    picked = rows(out)
    assert len(picked) == 4
    assert {(p["x"], p["y"], p["width"], p["height"], p["pixels"]) for p in picked} == {
        ("0", "0", "1", str(height), str(height))
    }
    summary = json.loads((out / "summary.json").read_text())
    assert summary["cost"]["share_of_pool"] == pytest.approx(4 / COUNTS["train"])
    assert summary["cost"]["image_equivalents"] == pytest.approx(4)
    assert ("of the labels" if height > 1 else "of the images") in stderr
    assert not (out / "masks").exists()
    # The same command again does nothing, and the images are not inspected anew.
    code, _, stderr = segal(*call)
    assert code == 0 and "holds this selection already" in stderr
    more = ("--labelled", out, "--strategy", "badge", "--budget", "10%", "--out", tmp_path / "b")
    code, _, stderr = segal("select", *given, *more)
    assert code == 0, stderr
    assert not {p["image"] for p in rows(tmp_path / "b")} & {p["image"] for p in picked}
    task, arch = given[:2], given[6:]
    code, _, stderr = segal(
        "train", *task, *arch, "--data", made / name, "--labelled", out, "--test", "test",
        "--out", tmp_path / "again", *QUICK,
    )  # fmt: skip
    assert code == 0, stderr
    assert ("mAP on test" if height > 1 else "accuracy on test") in stderr
    for kind, extra in (("plan", ("--budget", 4)), ("validate", ())):
        code, _, stderr = segal(kind, *(given if extra else [out]), *extra)
        assert code == 0, stderr


def test_a_pool_needs_no_network_for_random_picks(segal, made, tmp_path):
    for number, pool in enumerate(("folders/train", "several/train.csv", "archive.npz:x_train")):
        task = "multilabel" if "several" in pool else "classification"
        given = ("--task", task, "--images", made / pool, "--strategy", "random")
        code, _, stderr = segal("select", *given, "--budget", 4, "--out", tmp_path / f"{number}")
        assert code == 0, stderr
        assert len(rows(tmp_path / f"{number}")) == 4


@pytest.mark.parametrize("name", ["folders", "several", "features"])
def test_explain(segal, made, trained, tmp_path, name):
    reference = ("--reference", f"{made / name}:val", "--count", 2)
    for score in ("error_change", "influence"):
        code, _, stderr = segal(
            "explain", *arguments(made, trained, name), *reference, "--score", score,
            "--out", tmp_path / score,
        )  # fmt: skip
        assert code == 0, stderr
        assert any((tmp_path / score).iterdir())


def quick_run(made, name="features", **changes):
    raw = {
        "task": "multilabel" if "several" in name else "classification",
        "data": {"root": str(made / name), "validation": "val", "test": "test"},
        "train": {
            "iterations": 4, "batch_size": 6, "workers": 0, "validate_every": 0, "crop": "image",
            "lr": 0.05,
        },
        "seed_set": "6img", "budgets": ["3img", "10%"], "strategy": {"name": "uwe"},
        "overlays": 3, "machine": {"threads": 1},
    }  # fmt: skip
    if "features" not in name:
        raw["model"] = {"architecture": TINY}
    return raw | changes


@pytest.mark.parametrize("name", ["folders", "several", "several_features"])
def test_a_run_is_counted_in_elements_and_reported(segal, made, tmp_path, name):
    out = tmp_path / "run"
    config, strategy = configure_run({**quick_run(made, name), "out": out})
    history = run_rounds(config, strategy).history
    height = len(CLASSES) if "several" in name else 1
    assert (history.pool_images, history.pool_pixels) == (24, 24 * height)
    assert [round.share for round in history.rounds] == pytest.approx([6 / 24, 9 / 24, 11 / 24])
    assert [round.cost.images for round in history.rounds] == pytest.approx([6, 9, 11])
    with Ledger.read(out) as ledger:
        side = 1 if "features" in name else 16
        found = ledger.known_images().values()
        assert {(info.height, info.width) for _, _, info in found} == {(side, side)}
    for axis in ("clicks",) if name == "several" else ():  # a page takes seconds
        code, _, stderr = segal("report", out, "--axis", axis, "--out", tmp_path / f"{axis}.html")
        assert code == 0, stderr
    assert segal("validate", out)[0] == 0
    code, _, stderr = segal(
        "tune", "--scan", out / "rounds" / "000", "--budget", 4, "--taus", "0,1",
        "--out", tmp_path / "tune",
    )  # fmt: skip
    assert code == 0, stderr


def test_compare(segal, made, tmp_path):
    raw = {
        "run": {k: v for k, v in quick_run(made).items() if k not in {"machine", "strategy"}},
        "arms": [
            {"name": name, "set": {"strategy": {"name": name}}} for name in ("random", "entropy")
        ],
        "seeds": [0, 1], "permutations": 100, "machine": {"threads": 1},
        "out": str(tmp_path / "comparison"),
    }  # fmt: skip
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(raw))
    code, _, stderr = segal("compare", "--config", tmp_path / "compare.yaml")
    assert code == 0, stderr
    assert "share of the pool's images" in stderr
    # The share of picks that each round's network had wrong, from its weights in float64.
    values = np.load(made / "features" / "train" / "features.npy").astype(np.float64)
    labels = np.load(made / "features" / "train" / "labels.npy")
    out, rates = tmp_path / "comparison", {}
    for arm in ("random", "entropy"):
        for number in (0, 1):
            wrong = []
            for seed in (0, 1):
                folder = out / "runs" / arm / f"seed-{seed}" / "rounds" / f"{number:03d}"
                weights = load_file(folder / "model.safetensors")
                picked = [int(p["image"].removeprefix("features/")) for p in rows(folder)]
                said = (values @ weights["fc.weight"].T + weights["fc.bias"]).argmax(1)
                wrong.append((said != labels)[picked].mean())
            rates[arm, str(number)] = np.mean(wrong)
    (table,) = (out / "tables").glob("*-picks.csv")
    with table.open(newline="") as file:
        found = {(r["arm"], r["after round"]): float(r["mistakes"]) for r in csv.DictReader(file)}
    assert found == pytest.approx(rates)
    assert "mistake-selection rate" in (out / "report.html").read_text()


# The same bytes


@pytest.mark.parametrize("name", ["folders", "several_features"])
def test_batches_and_workers_do_not_change_what_is_picked(segal, made, trained, tmp_path, name):
    found = set()
    for batch, workers in ((1, 0), (7, 3)):
        out = tmp_path / f"{batch}"
        code, _, stderr = segal(
            "select", *arguments(made, trained, name), "--strategy", "badge", "--budget", 6,
            "--batch-size", batch, "--workers", workers, "--out", out, "--overlays", 0,
        )  # fmt: skip
        assert code == 0, stderr
        found.add(tuple((p["image"], f"{float(p['score']):.4g}") for p in rows(out)))
        again = tmp_path / f"{batch}-again"
        shutil.copytree(out, again)
        shutil.rmtree(out)
        segal(
            "select", *arguments(made, trained, name), "--strategy", "badge", "--budget", 6,
            "--batch-size", batch, "--workers", workers, "--out", out, "--overlays", 0,
        )  # fmt: skip
        assert (out / "selection.csv").read_bytes() == (again / "selection.csv").read_bytes()
    assert len(found) == 1


@pytest.mark.parametrize(("point", "count"), [("before", 4), ("after", 6)])
def test_a_run_that_was_killed_goes_on_to_the_same_picks(made, tmp_path, point, count):
    raw = quick_run(made, overlays=0)
    run_rounds(*configure_run({**raw, "out": tmp_path / "whole"}))
    killed = {**raw, "out": str(tmp_path / "killed")}
    process = multiprocessing.get_context("fork").Process(
        target=killed_run.run, args=(killed, point, count)
    )
    process.start()
    process.join()
    assert process.exitcode == -9
    run_rounds(*configure_run(killed))
    for number in (0, 1):
        one, other = (
            tmp_path / name / "rounds" / f"{number:03d}" / "selection.csv"
            for name in ("whole", "killed")
        )
        assert one.read_bytes() == other.read_bytes()


# Every strategy


FURTHER = {
    "learning_loss": {"train": {"learning_loss": True}},
    "mc_dropout": {"model": {"insert_dropout": 0.3}},
    "bald": {"model": {"insert_dropout": 0.3}},
    "ralif": {"strategy": {"tau": 0.5}},
}
OF_PICTURES = {name for name in STRATEGIES if "vaal" in name}
OF_BOXES = {"localization_stability", "cald", "enms_divproto", "mial"}


@pytest.mark.parametrize("name", [n for n in STRATEGIES if n not in OF_PICTURES | OF_BOXES])
def test_every_strategy_selects_from_features(made, tmp_path, name):
    raw = quick_run(made, budgets=["3img"], overlays=0)
    further = FURTHER.get(name, {})
    raw["strategy"] = {"name": name, **further.get("strategy", {})}
    raw["train"] |= further.get("train", {})
    raw["model"] = further.get("model", {})
    history = run_rounds(*configure_run({**raw, "out": tmp_path})).history
    assert len(history.rounds) == 2
    picked = [p.image for p in history.rounds[0].bought]
    assert len(set(picked)) == 3 and not set(picked) & {p.image for p in history.seed_set}


@pytest.mark.parametrize(
    "name", ["entropy", "coreset", "badge", "isal", "error_change_first_order"]
)
def test_strategies_select_images_of_several_labels(made, tmp_path, name):
    raw = quick_run(made, "several_features", budgets=["3img"], strategy={"name": name})
    history = run_rounds(*configure_run({**raw, "overlays": 0, "out": tmp_path})).history
    assert {p.pixels for p in history.rounds[0].bought} == {len(CLASSES)}


# What is refused, with what was expected, what was got and the remedy


def refused(segal, *call):
    """The message of a call that must be refused."""
    code, _, stderr = segal(*call)
    assert code == 2, stderr
    assert "Traceback" not in stderr
    assert all(f"\n  {part}: " in stderr for part in ("expected", "got", "remedy")), stderr
    return stderr


def test_a_class_without_an_image(segal, tmp_path):
    make_folders(tmp_path / "data")
    (tmp_path / "data" / "train" / "owl").mkdir()
    assert "owl" in refused(segal, "validate", tmp_path / "data")


def test_labels_as_names_as_numbers_with_gaps_and_behind_a_header(segal, tmp_path):
    def write(lines):
        (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
        return segal("validate", tmp_path, "--task", "classification")

    images, _ = pictures(6)
    for i, image in enumerate(images):
        write_picture(tmp_path / f"{i}.png", image)
    names = [f"{i}.png,{CLASSES[i % 3]}" for i in range(6)]
    for lines in (names, ["path,label", *names], ["Picture;Kind", *names]):
        sep = ";" if ";" in lines[0] else ","
        code, stdout, stderr = write([line.replace(",", sep) for line in lines])
        assert code == 0 and "cat" in stdout, stderr
    gaps = [f"{i}.png,{3 * (i % 3)}" for i in range(6)]
    (tmp_path / "train.csv").write_text("\n".join(gaps) + "\n")
    call = ("validate", tmp_path, "--task", "classification")
    assert "numbers with gaps" in refused(segal, *call)
    (tmp_path / "classes.txt").write_text("0 cat\n3 dog\n6 hen\n")
    code, stdout, stderr = segal(*call)
    assert code == 0 and "hen" in stdout, stderr


def test_an_image_twice_in_a_table_or_in_two_splits_by_its_content(segal, tmp_path):
    (tmp_path / "one").mkdir()
    make_tables(tmp_path / "one")
    table = tmp_path / "one" / "train.csv"
    table.write_text(table.read_text() + "images/train-00.png,dog\n")
    assert "more than once" in refused(segal, "validate", tmp_path / "one")
    (tmp_path / "two").mkdir()
    make_folders(tmp_path / "two")
    shutil.copy(
        tmp_path / "two" / "test" / "cat" / "00.png", tmp_path / "two" / "train" / "cat" / "99.png"
    )
    call = ("run", "--task", "classification", "--data", tmp_path / "two", "data.test=test")
    message = refused(
        segal, *call, "--seed-set", "6img", f"model.architecture={TINY}", "--out", tmp_path / "run"
    )
    assert "same pictures" in message and "99.png" in message
    assert "same pictures" in refused(segal, "validate", tmp_path / "two")


def test_one_unreadable_image_among_many(segal, made, trained, tmp_path):
    shutil.copytree(made / "folders", tmp_path / "data")
    broken = tmp_path / "data" / "train" / "dog" / "01.png"
    broken.write_bytes(broken.read_bytes()[:60])
    given = arguments(tmp_path.joinpath("data").parent, trained, "folders")
    given[3] = tmp_path / "data" / "train"
    call = ("select", *given, "--strategy", "entropy", "--budget", 3, "--out", tmp_path / "out")
    assert "01.png" in refused(segal, *call)
    code, _, stderr = segal(*call, "--skip-unreadable")
    assert code == 0 and "Skipped 1 unreadable" in stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x_train": pictures(24)[0].astype(np.float32)}, "another dtype"),
        ({"x_train": pictures(24)[0].reshape(24, -1)}, "neither pictures nor features"),
        ({"y_train": np.zeros((24, 2, 2), int)}, "another shape"),
        ({"y_train": np.linspace(0, 1, 24)}, "no labels"),
        ({"y_train": np.zeros(7, int)}, "differ in length"),
    ],
)
def test_arrays_of_another_shape_dtype_or_length(segal, made, tmp_path, change, said):
    arrays = dict(np.load(made / "archive.npz")) | change
    np.savez(tmp_path / "a.npz", **arrays)
    call = ("validate", tmp_path / "a.npz", "--task", "classification")
    assert said in refused(segal, *call)


def test_features_and_labels_of_different_lengths(segal, made, tmp_path):
    shutil.copytree(made / "features", tmp_path / "data")
    np.save(tmp_path / "data" / "train" / "labels.npy", np.zeros(5, int))
    assert "differ in length" in refused(segal, "validate", tmp_path / "data")
    values, _ = features(24)
    values[3, 2] = np.nan
    np.save(tmp_path / "data" / "train" / "features.npy", values)
    np.save(tmp_path / "data" / "train" / "labels.npy", several(24))
    call = ("validate", tmp_path / "data", "--task", "classification")
    assert "one label an image" in refused(segal, *call)


def test_a_network_of_another_number_of_outputs(segal, made, trained, tmp_path):
    (tmp_path / "data").mkdir()
    make_features(tmp_path / "data")
    (tmp_path / "data" / "classes.txt").write_text("cat\ndog\nhen\nowl\n")
    given = arguments(made, trained, "features")
    message = refused(
        segal, "select", *given, "--strategy", "error_change", "--budget", 3, "--out",
        tmp_path / "out", "--reference", f"{tmp_path / 'data'}:val",
    )  # fmt: skip
    assert "owl" in message or "4" in message


def test_what_is_of_another_task(segal, made, trained, checkpoint, tmp_path):
    out = ("--out", tmp_path / "out")
    select = ("select", "--strategy", "entropy", "--budget", 3, *out)
    folders = ("--images", made / "folders" / "train")
    linear = ("--images", made / "features" / "train" / "features.npy")
    linear += ("--checkpoint", trained["features"])
    cases = [
        (*select, *folders, "--checkpoint", checkpoint, "--task", "classification"),
        (*select, *linear),
        (*select, *linear, "--task", "multilabel"),
        (*select, *linear, "--task", "classification", "--region", "512"),
    ]
    train = ("train", *out, *QUICK)
    of_classes = (*train, "--task", "classification", "--data", made / "folders")
    cases += [
        (*of_classes, "--arch", "DeepLabV3Plus"),
        (*of_classes, "--arch", "torchvision:deeplabv3_resnet50"),
        (*of_classes, "--arch", TINY, "data.ignore_index=3", "data.label_suffix=_mask"),
        (*of_classes, "--arch", TINY, "data.layout=voc"),
        (*train, "--data", made / "folders", "--arch", "torchvision:resnet18"),
        (*train, "--data", made / "folders"),
        (*train, "--data", made / "folders", "data.layout=folders"),
        (*train, "--task", "multilabel", "--data", made / "folders", "--arch", TINY),
        (*train, "--task", "classification", "--data", made / "several", "--arch", TINY),
        (*train, "--task", "multilabel", "--data", made / "tables", "--arch", TINY),
        (*train, "--task", "detection", "--data", made / "folders"),
    ]
    for call in cases:
        refused(segal, *call)


def test_a_configuration_of_several_labels_refuses_what_has_no_meaning(made):
    raw = {"images": "x", "budget": "3", "out": "y", "task": "multilabel", "region": "64"}
    with pytest.raises(SegalError, match="region: 64"):
        configure_selection({**raw, "strategy": {"name": "entropy"}})


@pytest.mark.parametrize(
    "named", ["torchvision:resnet18", "timm:resnet18", "linear", TINY, None], ids=str
)
def test_an_encoder_beside_a_network_that_has_none_is_refused(segal, tmp_path, named):
    given = (f"model.architecture={named}",) if named else ()
    # Before anything else: there is no such data set.
    data = ("--task", "classification", "--data", tmp_path / "none", "--out", tmp_path / "out")
    for command in (
        ("train", *data, *given),
        ("run", *data, "--strategy", "random", "data.test=test", "seed_set=3", *given),
    ):
        message = refused(segal, *command, "model.encoder=resnet50")
        assert "no encoder" in message and "resnet50" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["features", "several_features"])
def test_a_checkpoint_that_has_no_encoder_refuses_one(segal, made, trained, tmp_path, name):
    given = arguments(made, trained, name)
    out = ("--budget", 3, "--strategy", "entropy", "--out", tmp_path / "out")
    for command in (("select", *given, *out), ("plan", *given, *out[:4])):
        assert "no encoder" in refused(segal, *command, "--encoder", "resnet50")
    reference = f"{made / name}:val"
    explain = ("explain", *given, "--reference", reference, "--out", tmp_path / "maps")
    assert "no encoder" in refused(segal, *explain, "--encoder", "resnet50")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "unit", "price"), [("features", "images", 1), ("several_features", "labels", 3)]
)
def test_messages_count_in_the_words_of_the_task(segal, made, trained, tmp_path, name, unit, price):
    given, out = arguments(made, trained, name), tmp_path / "out"
    select = ("select", *given, "--strategy", "entropy", "--out", out)
    least = f"expected: at least {price} {unit}, the cheapest region's price\n  got: 0 {unit}"
    for command in (select, ("plan", *select[1:-2])):
        message = refused(segal, *command, "--budget", "1%")
        assert least in message and "pixel" not in message
    config = quick_run(made, name, budgets=["1%"], out=str(tmp_path / "run"))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    message = refused(segal, "run", "--config", tmp_path / "run.yaml")
    assert f"at least {price} {unit}, the cheapest region's price" in message
    assert "pixel" not in message
    # What a reference set costs, and what a scan is tuned by.
    reference = ("--reference", f"{made / name}:val")
    again = ("select", *given, "--strategy", "error_change", "--budget", 3, *reference)
    code, _, stderr = segal(*again, "--out", out)
    assert code == 0 and "pixel" not in stderr
    assert f"of the pool's {unit}, which the budget does not include" in " ".join(stderr.split())
    uwe = tmp_path / "uwe"
    assert segal("select", *given, "--strategy", "uwe", "--budget", 3, "--out", uwe)[0] == 0
    tune = ("tune", "--scan", uwe, "--taus", "0,1", "--out", tmp_path / "tune")
    assert f"got: 0 {unit}" in refused(segal, *tune, "--budget", "1%")
    whole = refused(segal, *tune, "--budget", "100%")
    assert f"{24 * price} {unit} in all" in whole and "pixel" not in whole
    # A box that is not within an image.
    table = tmp_path / "labelled.csv"
    table.write_text(f"image,x,y,width,height\n{rows(uwe)[0]['image']},0,0,5,1\n")
    other = ("--budget", 3, "--labelled", table, "--out", tmp_path / "other")
    message = refused(segal, *select[:-2], *other)
    assert f"(width x height) {unit} of" in message


@pytest.mark.parametrize("name", PLACES)
def test_pools_and_metrics_call_elements_the_same(made, name):
    task = find_task("multilabel" if "several" in name else "classification")
    source = DataConfig(root=made / name)
    assert task.open_split(source, "train").pool.unit == task.metric.elements


def test_notes_on_labels_speak_of_images(segal, tmp_path):
    make_folders(tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "val" / CLASSES[0])
    code, stdout, stderr = segal("validate", tmp_path / "data")
    assert code == 0, stderr
    assert f"val: 1 of 3 classes have no image: {CLASSES[0]}" in stdout
