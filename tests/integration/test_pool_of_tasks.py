"""Images are added to runs of each task, moved and withdrawn, and the runs go on."""

import csv
import shutil
from dataclasses import dataclass

import pytest

from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run
from segal.runs.ledger import Ledger
from segal.tasks.detection.writing import LabelledImage, write_labels
from tests.boxed import CLASSES as OBJECTS
from tests.boxed import SIZE, draw, make_set
from tests.classified import CLASSES, make_folders, make_tables, pictures, write_picture

_COUNTS = {"train": 5, "val": 3}


@dataclass(frozen=True)
class Kind:
    """A task, and how an image comes into its data set or is renamed there.

    Attributes:
        task: Its name.
        network: Of the runs.
    """

    task: str
    network: str

    def path(self, number):
        """Of a new image, as the pool has it."""
        return {
            "classification": f"{CLASSES[number % 3]}/new{number}.png",
            "multilabel": f"images/new{number}.png",
            "detection": f"new{number}.png",
        }[self.task]

    def make(self, root):
        if self.task == "classification":
            return make_folders(root, _COUNTS)
        if self.task == "multilabel":
            root.mkdir()
            return make_tables(root, _COUNTS, multilabel=True)
        return make_set(root, "yolo", _COUNTS)

    def folder(self, root):
        """Of the images that are bought from."""
        return (
            root
            / {
                "classification": "train",
                "multilabel": "",
                "detection": "images/train",
            }[self.task]
        )

    def put(self, root, number):
        """A new image with its label; its name."""
        name = self.path(number)
        if self.task == "detection":
            image, objects = draw(100 + number)
            write_picture(self.folder(root) / name, image)
            one = LabelledImage(name, *SIZE, objects)
            write_labels(root / "more", "yolo", "train", [one], OBJECTS)
            shutil.copy(root / "more/labels/train" / f"new{number}.txt", root / "labels/train")
            shutil.rmtree(root / "more")
        else:
            write_picture(self.folder(root) / name, pictures(1, 100 + number)[0][0])
        if self.task == "multilabel":
            with (root / "train.csv").open("a", newline="") as file:
                csv.writer(file).writerow([name, 1, 0, 1])
        return name

    def rename(self, root, name):
        """Gives an image another name; it."""
        other = name.replace(".png", "-moved.png")
        (self.folder(root) / name).rename(self.folder(root) / other)
        if self.task == "detection":
            label = root / "labels/train" / name
            label.with_suffix(".txt").rename(label.with_name(other).with_suffix(".txt"))
        if self.task == "multilabel":
            table = root / "train.csv"
            table.write_text(table.read_text().replace(name, other))
        return other

    def run(self, root, out, *budgets):
        data = {"root": str(root), "validation": "val", "test": ""}
        raw = {
            "task": self.task, "data": data, "out": str(out), "seed_set": "2img",
            "model": {"architecture": self.network}, "budgets": list(budgets), "overlays": 0,
            "strategy": {"name": "entropy"}, "machine": {"threads": 1}, "measure_picks": False,
            "train": {"iterations": 1, "batch_size": 2, "workers": 0, "crop": "image"},
        }  # fmt: skip
        return run_rounds(*configure_run(raw)).history


KINDS = [
    Kind("classification", "tests.tiny_classifier:build"),
    Kind("multilabel", "tests.tiny_classifier:build"),
    Kind("detection", "tests.tiny_detectors:small_ssd"),
]


def bought(out):
    with Ledger.read(out) as ledger:
        assert ledger.damage() == []
        return ledger.purchases()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.task)
def test_images_come_move_and_go(segal, kind, tmp_path):
    data, out = kind.make(tmp_path / "data"), tmp_path / "run"
    kind.run(data, out, "1img")
    before = bought(out)
    assert len(before) == 3
    new = [kind.put(data, number) for number in range(2)]
    code, stdout, stderr = segal("pool", "add", out, "--images", data)
    assert (code, stdout.split()) == (0, sorted(new)), stderr
    history = kind.run(data, out, "1img", "100%")
    after = bought(out)
    assert after[:3] == before
    assert len({p.image for p in after}) == len(after) == 7 and {*new} <= {p.image for p in after}
    assert history.rounds[-1].cost.images == pytest.approx(7)
    # Moved: the ledger knows it by its old name, the disk by its new one.
    other = kind.rename(data, before[0].image)
    code, stdout, stderr = segal("pool", "move", out, "--images", data)
    assert code == 0 and other in stdout, stderr
    assert kind.run(data, out, "1img", "100%").scores == history.scores
    # Withdrawn: paid for, and trained on no more.
    gone = after[1].image
    code, _, stderr = segal("pool", "withdraw", out, gone, "--reason", "asked to")
    assert code == 0, stderr
    (kind.folder(data) / gone).unlink()
    if kind.task == "multilabel":
        table = data / "train.csv"
        lines = table.read_text().splitlines(keepends=True)
        table.write_text("".join(line for line in lines if gone not in line))
    again = kind.run(data, out, "1img", "100%")
    assert bought(out) == after
    assert [r.cost for r in again.rounds] == [r.cost for r in history.rounds]
    with Ledger.read(out) as ledger:
        assert gone not in {p.image for p in ledger.held()}
    code, stdout, _ = segal("pool", "show", out)
    assert code == 0
    for word in (*new, other, gone, "asked to"):
        assert word in stdout
    code, stdout, stderr = segal("validate", out)
    assert code == 0, stdout + stderr
