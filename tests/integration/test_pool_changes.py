"""Images are added to a run, moved and withdrawn from it, and it goes on."""

import shutil

import cv2
import numpy as np
import pytest

from segal.annotation.formats import FORMATS
from segal.annotation.handout import MANIFEST_FILE
from segal.annotation.manifest import read_manifest_text
from segal.errors import SegalError
from segal.jobs.labelled import Labelled
from segal.jobs.pool.adding import add_images, move_images
from segal.jobs.pool.asked import what_is_asked
from segal.jobs.pool.withdrawing import withdraw
from segal.jobs.rounds import loop as job
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run
from segal.runs.history import read_history
from segal.runs.ledger import Ledger
from segal.runs.returns import returns_of
from segal.runs.withdrawal import withdrawn_files
from segal.scanning.scan import Scan
from segal.scanning.scan import working_folder as scan_working_folder
from segal.system.files import file_digest
from segal.tasks import find_task
from tests.conftest import write_image
from tests.desk import Desk, painted
from tests.quick_run import quick_run

_CLASSES = ("road", "sky", "car")
_BUDGETS = ["3", "3"]


def put(root, split, name, seed):
    """An image of the data set, and its label."""
    write_image(root / "images" / split / name, 64, 96, seed)
    small = np.random.default_rng(seed).integers(0, 3, (4, 6), dtype=np.uint8)
    label = cv2.resize(small, (96, 64), interpolation=cv2.INTER_NEAREST)
    (root / "labels" / split).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / "labels" / split / name), label)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Six images to label, and two to judge by."""
    root = tmp_path_factory.mktemp("scenes")
    (root / "classes.txt").write_text("\n".join(_CLASSES) + "\n")
    for i in range(6):
        put(root, "train", f"im{i}.png", i)
    for i in range(2):
        put(root, "val", f"val{i}.png", 50 + i)
    return root


def run(root, out, /, **changes):
    quick = {"measure_picks": False, "budgets": _BUDGETS, "overlays": 2, **changes}
    data = {"root": str(root), "validation": "val", "test": ""}
    raw = quick_run(root, {"iterations": 1, "crop": "32"}, out=str(out), data=data, **quick)
    return run_rounds(*configure_run({"strategy": {"name": "entropy"}} | raw | quick))


@pytest.fixture(scope="module")
def begun(scenes, tmp_path_factory):
    """A run of one round."""
    return run(scenes, tmp_path_factory.mktemp("begun") / "run", budgets=["3"]).history.folder


@pytest.fixture
def copied(begun, scenes, tmp_path):
    """That run and its data set, elsewhere: (data set, run folder)."""
    shutil.copytree(scenes, tmp_path / "data")
    shutil.copytree(begun, tmp_path / "run")
    return tmp_path / "data", tmp_path / "run"


@pytest.fixture
def work(monkeypatch):
    """What is done: of each training its images, and `scan`."""
    done, train, scan = [], job.train, Scan.run

    def training(model, dataset, *further, labelled, **options):
        done.append({dataset.pool.paths[i] for i in labelled})
        return train(model, dataset, *further, labelled=labelled, **options)

    monkeypatch.setattr(job, "train", training)
    monkeypatch.setattr(Scan, "run", lambda *a, **k: done.append("scan") or scan(*a, **k))
    return done


def bought(folder):
    with Ledger.read(folder) as ledger:
        return ledger.purchases()


def refused(words, call, *arguments, **options):
    with pytest.raises(SegalError) as caught:
        call(*arguments, **options)
    flat = " ".join(str(caught.value).split())
    for word in words:
        assert word in flat, flat


# Added


def test_a_seed_set_that_was_chosen_stays_chosen(scenes, work, segal, tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(scenes, data)
    covering = {"seed_strategy": {"name": "coreset"}, "seed_set": "2img"}
    run(data, out, budgets=["3"], **covering)
    before = bought(out)
    put(data, "train", "im6.png", 6)
    assert len(add_images(out, [], images=data).changes) == 1
    work.clear()
    history = run(data, out, budgets=["3", "3"], **covering).history
    assert work.count("scan") == 1 and len(history.rounds) == 3
    assert bought(out)[: len(before)] == before
    with Ledger.read(out) as ledger:
        assert ledger.damage() == []
    # What was measured of a withdrawn image to choose the seed set goes, too.
    tables = out / "rounds" / "000" / "seed" / "candidates"
    assert tables.is_dir()
    stopped = scan_working_folder(out / "rounds" / "000" / "candidates")
    (stopped / "00000" / "32").mkdir(parents=True)
    (stopped / "00000" / "32" / "value-entropy.npy").write_bytes(b"of a pass that was stopped")
    assert segal("pool", "withdraw", out, before[0].image, "--reason", "asked to")[0] == 0
    assert not tables.exists()
    assert not stopped.exists()
    assert run(data, out, budgets=["3", "3"], **covering).history.folder == out
    with Ledger.read(out) as ledger:
        assert ledger.damage() == [] and ledger.purchases()[: len(before)] == before


def test_added_images_are_on_offer_from_the_next_selection_on(copied, work, segal):
    data, out = copied
    before, files = bought(out), {p: p.read_bytes() for p in out.glob("rounds/000/*.*")}
    for i in range(6, 9):
        put(data, "train", f"im{i}.png", i)
    refused(("segal pool add",), run, data, out, budgets=["3", "40%"])
    code, stdout, _ = segal("pool", "add", out, "--images", data, "--dry-run")
    assert (code, stdout.split()) == (0, ["im6.png", "im7.png", "im8.png"])
    refused(("segal pool add",), run, data, out, budgets=["3", "40%"])
    assert add_images(out, ["im6.png"], images=data).notes[0].startswith("2 more images are new")
    assert len(add_images(out, [], images=data).changes) == 2
    assert add_images(out, ["im6.png"], images=data).changes == []
    work.clear()
    history = run(data, out, budgets=["3", "40%", "3"]).history
    # The networks of before know nothing of the new images: they are not trained again.
    assert [w for w in work if w != "scan"] == [work[1], work[3]] and len(work) == 4
    assert bought(out)[: len(before)] == before
    assert {p: p.read_bytes() for p in files} == files
    second = [p for p in bought(out) if p.round == 1]
    assert {p.image for p in second} & {"im6.png", "im7.png", "im8.png"}
    # A share is of the pool as it was when it was spent: 9 images for the second budget.
    assert sum(p.pixels for p in second) == int(0.4 * 9 * 6) * 1024
    assert len(history.rounds) == 4
    work.clear()
    assert run(data, out, budgets=["3", "40%", "3"]).history.scores == history.scores
    assert work == []
    with Ledger.read(out) as ledger:
        assert ledger.damage() == [] and ledger.extent() == (9 * 64 * 96, 9)


def test_the_budgets_of_before_are_of_the_pool_of_before(scenes, tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(scenes, data)
    run(data, out, budgets=["7%"])  # two regions of 36, and half of one left
    for i in range(6, 9):
        put(data, "train", f"im{i}.png", i)
    add_images(out, [], images=data)
    run(data, out, budgets=["7%", "7%"])
    picked = [p.round for p in bought(out) if p.strategy != "seed"]
    assert [picked.count(0), picked.count(1)] == [int(0.07 * 36), int(0.07 * 36 % 1 + 0.07 * 54)]


def test_what_cannot_be_added_is_told_all_at_once(copied, scenes):
    data, out = copied
    images = data / "images" / "train"
    shutil.copy(images / "im0.png", images / "copy.png")
    (images / "im1.png").rename(images / "moved.png")
    (data / "labels/train/im1.png").rename(data / "labels/train/moved.png")
    shutil.copy(data / "labels/train/im0.png", data / "labels/train/copy.png")
    put(data, "train", "im2.png", 77)
    before = (out / "ledger.sqlite").read_bytes()
    refused(
        (
            "copy.png: its content is in the pool as im0.png", "leave one of them out",
            "moved.png: its content is in the pool as im1.png", "segal pool move",
            "im2.png: an image of", "rename the new file", "nothing.png: no such image",
        ),
        *(add_images, out, ["copy.png", "moved.png", "im2.png", "nothing.png"]), images=data,
    )  # fmt: skip
    assert (out / "ledger.sqlite").read_bytes() == before
    shutil.copy(data / "images/val/val0.png", images / "held.png")
    shutil.copy(data / "labels/val/val0.png", data / "labels/train/held.png")
    refused(("held.png",), add_images, out, ["held.png"], images=data)
    (data / "labels/train/held.png").unlink()
    refused(("held.png",), add_images, out, ["held.png"], images=data)


# Moved


def test_a_run_and_its_images_move_and_nothing_is_done_again(begun, copied, scenes, work, tmp_path):
    data, out = copied
    other = run(scenes, tmp_path / "straight").history.folder
    work.clear()
    (data / "images/train/deep").mkdir()
    (data / "labels/train/deep").mkdir()
    for kind in ("images", "labels"):
        for i, name in ((0, "zz.png"), (5, "deep/im5.png")):
            (data / kind / "train" / f"im{i}.png").rename(data / kind / "train" / name)
    refused(("renamed", "segal pool"), run, data, out)
    moved = move_images(out, images=data).changes
    named = {change.image: change.file for change in moved}
    assert named == {"im0.png": "zz.png", "im5.png": "deep/im5.png"}
    assert move_images(out, images=data).changes == []
    run(data, out)
    assert work == ["scan", work[1]]
    for name in ("rounds/001/selection.csv", "rounds/002/model.safetensors"):
        assert (out / name).read_bytes() == (other / name).read_bytes()
    assert bought(out) == bought(other)
    (data / "images/train/zz.png").unlink()
    (data / "labels/train/zz.png").unlink()
    refused(("im0.png", "segal pool withdraw"), move_images, out, images=data)
    # A moved image that is withdrawn is known by either name.
    assert withdraw(out, [("zz.png", None)]).changes[0].image == "im0.png"


# Withdrawn


def shown(folder, name):
    """Files of a run that name an image or hold an answer to it."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if name in p.name}


def files_of(folder):
    """All files of a folder but the ledger's own."""
    return {p for p in folder.rglob("*") if p.is_file() and "ledger" not in p.name}


def test_a_withdrawn_image_is_never_offered_and_stays_paid_for(copied, work, segal, tmp_path):
    data, out = copied
    image = next(p.image for p in bought(out) if p.strategy != "seed")
    seen = {p.image for p in bought(out) if p.strategy == "seed"}
    since = 0 if image in seen else 1
    before, cost = bought(out), read_history(out).rounds[-1].cost
    assert shown(out, image[:-4]) and (out / "rounds/000/candidates").exists()
    (out / "overlays").mkdir()
    for name in ("overlays/of-nobody.png", "rounds/001/.unfinished.safetensors"):
        (out / name).write_bytes(b"")
    there = files_of(out)
    code, stdout, stderr = segal("pool", "withdraw", out, image, "--dry-run")
    assert code == 0, stderr
    assert files_of(out) == there
    planned = [line.split(": ")[1] for line in stdout.splitlines() if "would be removed" in line]
    assert shown(out, image[:-4]) <= {p.removeprefix(f"{out}/") for p in planned}
    assert bought(out) == before and withdraw(out, [(image, None)], dry_run=True).changes
    (data / "images/train" / image).unlink()
    (data / "labels/train" / image).unlink()
    code, stdout, stderr = segal("pool", "withdraw", out, image, "--reason", "asked to")
    assert code == 0, stderr
    removed = [line.split(": ")[1] for line in stdout.splitlines() if line.startswith("removed")]
    assert removed == planned
    assert {*map(str, there - files_of(out))} == set(planned)
    assert {str(out / name) for name in ("summary.json", "overlays/of-nobody.png")} < set(planned)
    assert shown(out, image[:-4]) == set() and not (out / "rounds/000/candidates").exists()
    assert not (out / "rounds/001/model.safetensors").exists()
    work.clear()
    history = run(data, out, budgets=["3", "100%"]).history
    trained = [w for w in work if w != "scan"]
    assert len(trained) == 3 - since and all(image not in w for w in trained)
    assert work.count("scan") == 1
    assert bought(out)[: len(before)] == before
    assert history.rounds[1].cost == cost
    later = [p for p in bought(out) if p.round == 1]
    assert image not in {p.image for p in later} and len({p.image for p in bought(out)}) == 6
    assert segal("validate", out)[0] == 0
    code, stdout, _ = segal("pool", "show", out)
    assert "withdraw" in stdout and "asked to" in stdout
    # It never comes back, under no name.
    write_image(data / "images/train" / "again.png", 64, 96, int(image[2:-4]))
    put(data, "train", "again.png", int(image[2:-4]))
    refused(("withdrawn from",), add_images, out, ["again.png"], images=data)
    assert add_images(out, [], images=data).changes == []
    run(data, out, budgets=["3", "100%"])


def test_a_withdrawal_that_was_stopped_goes_on(copied, monkeypatch):
    data, out = copied
    image = next(p.image for p in bought(out) if p.strategy != "seed")
    monkeypatch.setattr("segal.jobs.pool.withdrawing.sweep", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        withdraw(out, [(image, None)])
    monkeypatch.undo()
    with Ledger.read(out) as ledger:
        assert withdrawn_files(ledger) and image in ledger.pool_log.gone
    again = withdraw(out, [(image, None)])
    assert again.changes == [] and again.files and "withdrawn already" in again.notes[0]
    assert shown(out, image[:-4]) == set()
    run(data, out)


def test_what_cannot_be_withdrawn_is_told_all_at_once(copied):
    _, out = copied
    one = next(p for p in bought(out) if p.strategy != "seed")
    x0, y0, x1, y1 = one.box
    before = (out / "ledger.sqlite").read_bytes()
    refused(
        ("val0.png: not in the pool", "im9.png: not in the pool", "the box leaves the image",
         "the box cuts a region that is bought"),
        *(withdraw, out, [("val0.png", None), ("im9.png", None), ("im0.png", (90, 0, 100, 8)),
                          (one.image, (x0, y0, x1 - 1, y1))]),
    )  # fmt: skip
    refused(("nothing to withdraw",), withdraw, out, [])
    refused(("of 2 images",), what_is_asked, ["a.png", "b.png"], "0,0,8,8", None)
    assert (out / "ledger.sqlite").read_bytes() == before


def test_a_withdrawn_region_is_left_out_and_the_rest_of_its_image_stays(copied, work):
    data, out = copied
    one = next(p for p in bought(out) if p.strategy != "seed")
    grid = [(x, y, x + 32, y + 32) for y in (0, 32) for x in (0, 32, 64)]
    taken = {p.box for p in bought(out) if p.image == one.image}
    free = next((b for b in grid if b not in taken), None)
    boxes = [one.box, *([free] if free and (0, 0, 96, 64) not in taken else [])]
    withdraw(out, [(one.image, box) for box in boxes])
    work.clear()
    run(data, out, budgets=["3", "100%"])
    assert len([w for w in work if w != "scan"]) == 2
    mine = [p for p in bought(out) if p.image == one.image]
    assert all(p.box != free for p in mine)
    with Ledger.read(out) as ledger:
        assert one not in ledger.held() and ledger.damage() == []
        left = 6 * 64 * 96 - (1024 if len(boxes) == 2 else 0)
        assert ledger.cost().pixels == left


def _select(segal, scenes, network, out, *further):
    code, _, stderr = segal(
        *("select", "--images", scenes / "images/train", "--checkpoint", network, "--out", out),
        *("--arch", "tests.tiny_network:build", "--region", "32", "--overlays", "2"),
        *("--strategy", "entropy", "--threads", "1", *further),
    )
    assert code == 0, stderr


def test_a_selection_knows_what_the_runs_before_it_have_withdrawn(copied, segal, tmp_path):
    data, out = copied
    network = tmp_path / "network.safetensors"
    shutil.copy(out / "rounds/000/model.safetensors", network)
    one = next(p for p in bought(out) if p.strategy != "seed")
    withdraw(out, [(one.image, None)])
    first, second = tmp_path / "first", tmp_path / "second"
    _select(segal, data, network, first, "--labelled", out, "--budget", "4")
    _select(segal, data, network, second, "--labelled", first, "--budget", "100%")
    everything = {p.image for folder in (first, second) for p in bought(folder)}
    assert len(everything) == 5 and one.image not in everything
    # What is withdrawn from the selection itself has no mask or picture there any more.
    mine = bought(second)[-1].image
    assert (second / "masks" / mine).is_file()
    withdraw(second, [(mine, None)])
    assert shown(second, mine[:-4]) == set()
    _select(segal, data, network, second, "--labelled", first, "--budget", "100%")
    assert segal("validate", second)[0] == 0
    given = Labelled.open([second, out])
    pool = find_task("segmentation").open_pool(data / "images/train")
    assert {pool.paths[i] for i in given.boxes(pool)} == everything - {mine}
    assert {pool.paths[i] for i in Labelled.open([second / "selection.csv"]).boxes(pool)} == (
        everything - {mine}
    )
    refused(("a selection, whose pool stays as it is", "--labelled"), add_images, second, [])


def test_a_mask_that_is_made_again_is_not_told_as_removed(copied, segal, tmp_path):
    data, run_folder = copied
    network, out = tmp_path / "network.safetensors", tmp_path / "selected"
    shutil.copy(run_folder / "rounds/000/model.safetensors", network)
    _select(segal, data, network, out, "--budget", "100%")
    one = bought(out)[0]
    x0, y0, x1, y1 = one.box
    mask = out / "masks" / one.image
    before, there = mask.read_bytes(), files_of(out)
    asked = (out, one.image, "--box", f"{x0},{y0},{x1 - x0},{y1 - y0}")
    _, planned, _ = segal("pool", "withdraw", *asked, "--dry-run")
    assert files_of(out) == there and mask.read_bytes() == before
    code, stdout, stderr = segal("pool", "withdraw", *asked)
    assert code == 0, stderr
    assert mask.read_bytes() != before
    gone = there - files_of(out)
    assert gone and f"and {len(gone)} files removed" in " ".join(stderr.split())
    told = [line.split(": ")[1] for line in stdout.splitlines() if line.startswith("removed")]
    assert told == sorted(map(str, gone))
    assert planned.replace("would be removed", "removed") == stdout
    # With the last region of an image its mask goes.
    _, planned, _ = segal("pool", "withdraw", out, one.image, "--dry-run")
    assert f"would be removed: {mask}" in planned
    assert f"removed: {mask}" in segal("pool", "withdraw", out, one.image)[1]
    assert not mask.exists()


def test_a_network_trained_elsewhere_is_said_to_depend_on_it(copied, segal, tmp_path):
    data, out = copied
    code, _, stderr = segal(
        *("train", "--data", data, "--labelled", out, "--iterations", "1", "--out", tmp_path / "m"),
        *("--threads", "1", "model.architecture=tests.tiny_network:build", "train.batch_size=2"),
        *("train.crop=32", "train.workers=0"),
    )
    assert code == 0, stderr
    assert "withdrawn" not in segal("validate", tmp_path / "m")[1]
    withdraw(out, [(bought(out)[-1].image, None)])
    code, stdout, _ = segal("validate", tmp_path / "m")
    assert code == 0 and "its network was trained on 1 image of which" in stdout


# People


def test_answers_to_what_is_withdrawn_are_removed_and_refused(segal, scenes, tmp_path, monkeypatch):
    desk = Desk()
    monkeypatch.setitem(FORMATS, "desk", desk)
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(scenes, data)
    run(data, out, annotate=True)

    def hand_out(number):
        assert segal("export", out, "--to", "desk", "--out", tmp_path / f"h{number}")[0] == 0
        text = (tmp_path / f"h{number}" / MANIFEST_FILE).read_text()
        return read_manifest_text(text, "").tasks

    def answers(tasks):
        return [painted(t, scenes / "labels/train", _CLASSES, seconds=10.0) for t in tasks]

    desk.drawn["seed"] = answers(hand_out(0))
    assert segal("import", out, "seed")[0] == 0
    run(data, out, annotate=True)
    tasks = hand_out(1)
    desk.drawn["early"], desk.drawn["late"] = answers(tasks[:1]), answers(tasks[1:])
    assert segal("import", out, "early")[0] == 0
    with Ledger.read(out) as ledger:
        file = out / returns_of(ledger)[-1].file
    gone = {tasks[0].image, tasks[1].image}
    code, _, stderr = segal("pool", "withdraw", out, *gone)
    assert code == 0 and not file.exists(), stderr
    code, _, stderr = segal("import", out, "late")
    assert (code, "which is withdrawn" in " ".join(stderr.split())) == (2, True)
    # An image that moved is found by late answers, too.
    left = [t for t in tasks if t.image not in gone]
    for task in left[:1]:
        for kind in ("images", "labels"):
            (data / kind / "train" / task.image).rename(data / kind / "train" / "elsewhere.png")
        assert len(move_images(out, images=data).changes) == 1
    assert segal("import", out, "late", "--skip-bad")[0] == 0
    code, stdout, _ = segal("status", out)
    assert code == 0 and "regions with annotators" not in stdout
    run(data, out, annotate=True)
    with Ledger.read(out) as ledger:
        assert len([p for p in ledger.phases() if p.name == "train"]) == 2
        assert sum(one.seconds for one in returns_of(ledger, withdrawn=True)) == 10.0 * (
            len(desk.drawn["seed"]) + 1 + len(left)
        )
    assert segal("validate", out)[0] == 0
    assert segal("backup", out, tmp_path / "copy")[0] == 0
    assert file_digest(out / "config.yaml") == file_digest(tmp_path / "copy" / "config.yaml")


# Mended


def spoil(folder, names, way):
    for number, name in enumerate(names):
        path = folder / name
        if (number + way) % 2:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("way", [0, 1])
def test_what_the_ledger_can_tell_is_made_again_byte_for_byte(copied, segal, tmp_path, way):
    data, out = copied
    texts = [
        *("config.yaml", "summary.json", "rounds/000/selection.csv", "rounds/000/notes.json"),
        *("rounds/000/picks.json", "rounds/000/metrics.json", "rounds/001/training.json"),
    ]
    before = {name: (out / name).read_bytes() for name in texts}
    spoil(out, texts, way)
    assert segal("validate", out)[0] == 2
    code, stdout, _ = segal("validate", out, "--repair")
    assert code == 0 and stdout.count("mended") == len(texts)
    assert {name: (out / name).read_bytes() for name in texts} == before
    network = out / "rounds/001/model.safetensors"
    whole = network.read_bytes()
    network.unlink()
    code, _, stderr = segal("validate", out, "--repair")
    assert code == 2 and f"segal run --config {out}/config.yaml" in " ".join(stderr.split())
    run(data, out, budgets=["3"])
    assert network.read_bytes() == whole


@pytest.mark.parametrize("way", [0, 1])
def test_files_of_a_seed_set_that_was_chosen_are_made_again(scenes, segal, tmp_path, way):
    out = tmp_path / "run"
    covering = {"seed_strategy": {"name": "coreset"}, "seed_set": "2img"}
    run(scenes, out, budgets=["3"], **covering)
    seed = out / "rounds/000/seed"
    names = sorted(
        p.relative_to(out).as_posix() for p in seed.iterdir() if p.suffix in {".csv", ".json"}
    )
    assert "rounds/000/seed/selection.csv" in names
    before = {name: (out / name).read_bytes() for name in names}
    spoil(out, names, way)
    code, stdout, stderr = segal("validate", out)
    assert code == 2 and all(name in "".join((stdout + stderr).split()) for name in names)
    code, stdout, stderr = segal("validate", out, "--repair")
    assert (code, stdout.count("mended")) == (0, len(names)), stdout + stderr
    assert {name: (out / name).read_bytes() for name in names} == before
    assert segal("validate", out)[0] == 0
    # What was measured for it is not in the ledger: the same command makes it again.
    tables = sorted(p for p in (seed / "candidates").rglob("*") if p.is_file())
    assert tables
    tables[0].unlink()
    assert segal("validate", out)[0] == 2
    code, stdout, stderr = segal("validate", out, "--repair")
    assert code == 2 and "lost: segal run --config" in " ".join((stdout + stderr).split())
    history = run(scenes, out, budgets=["3"], **covering).history
    assert history.folder == out and segal("validate", out)[0] == 0


def test_masks_and_handouts_are_made_again_and_answers_are_named(
    copied, segal, tmp_path, monkeypatch
):
    desk = Desk()
    monkeypatch.setitem(FORMATS, "desk", desk)
    data, out = copied
    network, selected = tmp_path / "network.safetensors", tmp_path / "selected"
    shutil.copy(out / "rounds/000/model.safetensors", network)
    mask = np.zeros((64, 96), np.uint8)
    mask[40:50, :70] = 255
    cv2.imwrite(str(tmp_path / "never.png"), mask)
    never = ("--exclude", tmp_path / "never.png", "--labelled", out)
    _select(segal, data, network, selected, *never, "--budget", "9")
    assert segal("export", selected, "--to", "desk", "--out", tmp_path / "h")[0] == 0
    tasks = read_manifest_text((tmp_path / "h" / MANIFEST_FILE).read_text(), "").tasks
    desk.drawn["all"] = [painted(t, data / "labels/train", _CLASSES) for t in tasks]
    assert segal("import", selected, "all")[0] == 0
    files = [
        p.relative_to(selected)
        for p in selected.rglob("*")
        if p.is_file() and ({"masks", "handouts"} & {*p.parts} or p.suffix in (".csv", ".yaml"))
    ]
    assert len(files) > 5
    before = {name: (selected / name).read_bytes() for name in files}
    spoil(selected, files, 0)
    assert segal("validate", selected)[0] == 2
    code, stdout, stderr = segal("validate", selected, "--repair")
    assert (code, stdout.count("mended")) == (0, len(files)), stderr
    assert {name: (selected / name).read_bytes() for name in files} == before
    # An answer is lost for the ledger; who has the tool's export has it again.
    with Ledger.read(selected) as ledger:
        answer = selected / returns_of(ledger)[3].file
    said = answer.read_bytes()
    answer.write_bytes(b"")
    code, _, stderr = segal("validate", selected, "--repair")
    assert code == 2 and f"segal import {selected} export.json" in " ".join(stderr.split())
    code, _, stderr = segal("import", selected, "all")
    assert code == 0 and "1 answers were lost, and are back" in " ".join(stderr.split())
    assert answer.read_bytes() == said and segal("validate", selected)[0] == 0
    (tmp_path / "never.png").write_bytes(cv2.imencode(".png", mask[::-1])[1].tobytes())
    spoil(selected, [name for name in files if name.parts[0] == "masks"][:1], 0)
    code, _, stderr = segal("validate", selected, "--repair")
    assert code == 2 and "excludes something else" in " ".join(stderr.split())
