"""A season of labelling CamVid as a team would live it, for docs/results/season.md.

    python -m tools.season_camvid CAMVID ENCODER_WEIGHTS OUT

Six rounds. Images arrive and leave between them, half of each selection comes back in time and the
rest a round later, a label is corrected, a selection goes through a spreadsheet, the whole folder
moves, and a simulated run with a longer list of budgets goes on where it ended. After each training
two accounts are compared to the pixel: what the ledgers say was bought, less what `owed.csv` lists;
and what the label files say, read here without segal. CAMVID has the layout `folder`. Every step is
a segal command; a step that is done is not done again, so the tool may be killed.
"""

import csv
import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segal.cli import app
from segal.runs.ledger import Ledger

IGNORED = 11  # the value of CamVid's labels that no class stands for
ROUNDS, BUDGET, REGION = 6, "3%", "128"
FIRST, ARRIVING, LEAVING = 120, 40, 6  # images at the start, and of each round but the first
STEPS = 60
Row = tuple[str, tuple[int, int, int, int]]


def main() -> None:
    camvid, weights, out = (Path(word).absolute() for word in sys.argv[1:4])
    out.mkdir(parents=True, exist_ok=True)
    season = Season(camvid, weights, out)
    for number in range(1, ROUNDS + 1):
        season.round(number)
    season.prolonged()
    (out / "season.json").write_text(json.dumps(season.lines, indent=1) + "\n")
    print(table(season.lines))


class Season:
    """A team's folder, and what has come back of what it asked for."""

    def __init__(self, camvid: Path, weights: Path, out: Path) -> None:
        self.camvid, self.weights, self.out = camvid, weights, out
        self.lines: list[dict[str, Any]] = []
        self.given: list[Path] = []  # what --labelled is given
        self.waiting: list[Row] = []
        self.root = out / "team"

    def round(self, number: int) -> None:
        """Images come and go, a selection, half of its labels, a training."""
        if number == 5:
            self.move()
        events = self.change_pool(number)
        selection = self.select(number)
        events += self.spreadsheet(number, selection)
        late, self.waiting = self.waiting, []
        rows = read_rows(selection / "selection.csv")
        self.deliver([*late, *rows[::2]])
        self.waiting = rows[1::2]
        events += self.correct(number)
        model = self.train(number)
        self.account(number, model, events)

    def change_pool(self, number: int) -> list[str]:
        """Frames of the drive arrive in order; some images are withdrawn."""
        images = sorted((self.camvid / "images" / "train").iterdir())
        upto = FIRST + ARRIVING * (number - 1)
        pool = self.root / "images" / "train"
        if not pool.is_dir():
            for kind, split in (("images", "train"), ("images", "test"), ("labels", "test")):
                (self.root / kind / split).mkdir(parents=True)
            (self.root / "labels" / "train").mkdir()
            shutil.copy(self.camvid / "classes.txt", self.root)
            for image in sorted((self.camvid / "images" / "test").iterdir())[::8]:
                shutil.copy(image, self.root / "images" / "test")
                label = self.camvid / "labels" / "test" / label_of(image.name)
                shutil.copy(label, self.root / "labels" / "test")
        gone = self.out / f"withdrawn-{number}.txt"
        before = (self.out / f"withdrawn-{earlier}.txt" for earlier in range(2, number + 1))
        withdrawn = {name for file in before for name in lines_of(file)}
        for image in images[:upto]:
            if image.name not in withdrawn and not (pool / image.name).exists():
                shutil.copy(image, pool)
        if number == 1:
            return [f"{FIRST} images"]
        if not gone.exists():
            labelled = {image for file in self.given for image, _ in read_rows(selection_of(file))}
            names = sorted(path.name for path in pool.iterdir())
            # One of those that leave has labels, the others have none.
            leaving = [name for name in names if name not in labelled][-LEAVING + 1 :]
            gone.write_text("\n".join([*leaving, sorted(labelled & set(names))[0]]) + "\n")
        for name in lines_of(gone):
            for file in (pool / name, self.root / "labels" / "train" / label_of(name)):
                file.unlink(missing_ok=True)
        return [f"{ARRIVING} images arrive, {LEAVING} leave"]

    def select(self, number: int) -> Path:
        """By chance at first, then by the last network."""
        folder = self.out / f"select-{number}"
        how = ["--strategy", "random"]
        if number > 1:
            last = self.out / f"model-{number - 1}" / "model.safetensors"
            how = ["--strategy", "uwe", "--checkpoint", str(last)]
        run_once(
            folder / "summary.json",
            *("select", "--images", self.root / "images" / "train", "--region", REGION),
            *("--budget", BUDGET, *how, *flags("--labelled", self.given), "--out", folder),
            *("skip_missing=true", "--overlays", 2, "--threads", 1, "--seed", number),
        )
        self.given.append(folder)
        return folder

    def spreadsheet(self, number: int, selection: Path) -> list[str]:
        """Of the third round, what is handed on was saved by a spreadsheet."""
        if number != 3:
            return []
        saved = self.out / "round 3 saved again.csv"
        with (selection / "selection.csv").open(newline="") as file:
            rows = [[cell.replace(".", ",") if i > 5 else cell for i, cell in enumerate(row)]
                    for row in csv.reader(file)]  # fmt: skip
        text = "sep=;\r\n" + "".join(";".join(row) + "\r\n" for row in rows)
        saved.write_bytes(text.encode("utf-16"))
        self.given[-1] = saved
        return ["its selection is handed on as a spreadsheet saved it"]

    def deliver(self, rows: Iterable[Row]) -> None:
        """Labels of regions come in: all else of a label file is void."""
        for image, (x0, y0, x1, y1) in rows:
            truth = read_label(self.camvid / "labels" / "train" / label_of(image))
            if not (self.root / "images" / "train" / image).exists():
                continue  # it was withdrawn in the meantime
            file = self.root / "labels" / "train" / label_of(image)
            label = read_label(file) if file.exists() else np.full_like(truth, 255)
            label[y0:y1, x0:x1] = truth[y0:y1, x0:x1]
            cv2.imwrite(str(file), label)

    def correct(self, number: int) -> list[str]:
        """In the fourth round somebody has looked again: a road was called a building."""
        if number != 4:
            return []
        file = min((self.root / "labels" / "train").iterdir())
        label = read_label(file)
        values, counts = np.unique(label[label < IGNORED], return_counts=True)
        label[label == values[counts.argmax()]] = (values[counts.argmax()] + 1) % IGNORED
        if not (self.out / "model-4" / "model.safetensors").exists():
            cv2.imwrite(str(file), label)
        return [f"a label is corrected ({file.name})"]

    def move(self) -> None:
        """Everything goes to another folder, as on another machine."""
        moved = self.out / "elsewhere"
        if not moved.is_dir():
            self.root.rename(moved)
        self.root = moved

    def train(self, number: int) -> Path:
        """On what has arrived."""
        folder = self.out / f"model-{number}"
        run_once(
            folder / "metrics.json",
            *("train", "--config", "configs/camvid_train.yaml", "--data", self.root),
            *("--encoder-weights", self.weights, *flags("--labelled", self.given)),
            *("--missing-labels", "skip", "skip_missing=true", "--iterations", STEPS),
            *("--threads", 1, "train.workers=0", "--seed", number, "--out", folder),
        )
        return folder

    def account(self, number: int, model: Path, events: Sequence[str]) -> None:
        """What was bought and has come, by the ledgers and by the label files."""
        # A selection's ledger also knows what was labelled before it.
        every = (row for i in range(1, number + 1) for row in purchases(self.out / f"select-{i}"))
        bought = list(dict.fromkeys(every))
        there = {path.name for path in (self.root / "images" / "train").iterdir()}
        kept = [row for row in bought if row[0] in there]
        owed = set(read_rows(model / "owed.csv")) if (model / "owed.csv").exists() else set()
        arrived = [row for row in kept if row not in owed]
        void = 0
        for image, (x0, y0, x1, y1) in arrived:
            truth = read_label(self.camvid / "labels" / "train" / label_of(image))
            void += int((truth[y0:y1, x0:x1] == IGNORED).sum())
        files = 0
        for path in sorted((self.root / "labels" / "train").iterdir()):
            files += int((read_label(path) < IGNORED).sum())
        metrics = json.loads((model / "metrics.json").read_text())
        self.lines.append(
            {
                "round": number,
                "events": "; ".join(events),
                "images": len(there),
                "bought": sum(map(area, bought)),
                "left with images": sum(map(area, bought)) - sum(map(area, kept)),
                "owed": sum(map(area, kept)) - sum(map(area, arrived)),
                "void": void,
                "by the ledgers": sum(map(area, arrived)) - void,
                "by the label files": files,
                "miou": metrics["test"]["miou"],
            }
        )

    def prolonged(self) -> None:
        """A simulated run with two budgets, and the same with a third behind them."""
        call = ("run", "--config", "configs/camvid_run_128.yaml", "--data", self.camvid)
        rest = (f"model.encoder_weights={self.weights}", f"train.iterations={STEPS}", "overlays=0")
        rest = (*rest, "train.workers=0", "machine.threads=1", "--out", self.out / "run")
        run(*call, "budgets=2%,2%", *rest)
        before = purchases(self.out / "run")
        run(*call, "budgets=2%,2%,2%", *rest)
        after = purchases(self.out / "run")
        assert after[: len(before)] == before, "what was bought stays bought"
        self.lines.append(
            {"round": "run", "events": "budgets 2%,2% and then 2%,2%,2% in the same folder"}
            | {"bought": sum(map(area, after)), "bought before": sum(map(area, before))}
        )


def area(row: Row) -> int:
    _, (x0, y0, x1, y1) = row
    return (x1 - x0) * (y1 - y0)


def purchases(folder: Path) -> list[Row]:
    """What a ledger says was bought."""
    with Ledger.read(folder) as ledger:
        return [(one.image, one.box) for one in ledger.purchases()]


def selection_of(given: Path) -> Path:
    return given / "selection.csv" if given.is_dir() else given.parent / "select-3/selection.csv"


def read_rows(file: Path) -> list[Row]:
    with file.open(newline="") as text:
        rows = [(r["image"], [int(r[k]) for k in ("x", "y", "width", "height")])
                for r in csv.DictReader(text)]  # fmt: skip
    return [(image, (x, y, x + w, y + h)) for image, (x, y, w, h) in rows]


def label_of(image: str) -> str:
    return f"{Path(image).stem}.png"


def read_label(file: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), np.uint8)


def lines_of(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


def flags(name: str, values: Iterable[object]) -> list[object]:
    return [word for value in values for word in (name, value)]


def run_once(last: Path, *arguments: object) -> None:
    """A command of segal, unless the last file that it writes is there."""
    if not last.exists():
        run(*arguments)


def run(*arguments: object) -> None:
    """A command of segal, in this process."""
    words = list(map(str, arguments))
    print("segal", shlex.join(words), flush=True)
    app(words, standalone_mode=False)


def table(lines: Sequence[dict[str, Any]]) -> str:
    """In Markdown."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    rows = [names, ["---"] * len(names), *([line.get(n, "") for n in names] for line in lines)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


if __name__ == "__main__":
    main()
