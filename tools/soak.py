"""A soak: random operations on runs, their labels and their files, against a model that knows all.

    python -m tools.soak --rounds 200 --seed 0 [--folder DIR]

Each round does one operation, as the command line does it, and then compares what the run folders
say with what a model of plain lists and arrays says that they must: what was bought and at what
price, every version of every answer by its pixels, what was withdrawn, what is trained on. The
model reads the files of segal, never its ledger, to learn what was picked; it reads the ledgers
with sqlite3 to compare. It stops at the first difference.
"""

import argparse
import contextlib
import csv
import hashlib
import io
import json
import multiprocessing
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import torch

from segal.cli import main as segal_main
from segal.config import RunConfig, read_config
from segal.config import validate as configured
from segal.jobs.labelled import Labelled
from segal.tasks import find_task

Box = tuple[int, int, int, int]
Region = tuple[str, Box]

CLASSES = ("road", "sky", "car")
HEIGHT, WIDTH, SIDE = 48, 64, 32
COMMANDS = ("export", "import", "select", "run")
PAIRS = 2  # regions that are bought at once


def command(arguments: list[str]) -> tuple[int, str]:
    """Runs the command line in this process.

    Returns:
        Its exit code, and what it wrote.
    """
    said = io.StringIO()
    with (
        patch.object(sys, "argv", ["segal", *map(str, arguments)]),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        try:
            segal_main()
        except SystemExit as stopped:
            code = stopped.code
            return (code if isinstance(code, int) else int(code is not None)), said.getvalue()
    return 0, said.getvalue()


def _child(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    code, said = command(arguments)
    if code:
        sys.stderr.write(said)
    sys.exit(code)


class Killer:
    """Runs commands in processes of their own, and kills some of them."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["segal.cli", "segal.jobs.rounds.run"])
        self.seconds: dict[str, float] = {}

    def run(self, arguments: list[str], after: float | None = None) -> int:
        """The exit code; -9 where it was killed.

        Args:
            arguments: Of the command line.
            after: Seconds until it is killed, if it has not ended by then.
        """
        process = self._context.Process(target=_child, args=(arguments,))
        started = time.perf_counter()
        process.start()
        process.join(after)
        if process.is_alive():
            process.kill()
        process.join()
        code = process.exitcode
        assert code is not None
        if code == 0:
            self.seconds[arguments[0]] = time.perf_counter() - started
        return code

    def kill(self, arguments: list[str], draw: random.Random) -> bool:
        """Starts a command and kills it at a random moment; whether that came before its end."""
        if arguments[0] not in self.seconds:  # nobody knows yet how long it takes
            code = self.run(arguments)
            assert code == 0, f"{arguments}: exit code {code}"
            return False
        code = self.run(arguments, draw.uniform(0, self.seconds[arguments[0]]))
        assert code in (0, -signal.SIGKILL), f"{arguments}: exit code {code}"
        return code != 0


def remaining(image: np.ndarray, box: Box) -> int:
    """Pixels of a box that are not painted, and paints them."""
    x0, y0, x1, y1 = box
    left = int((~image[y0:y1, x0:x1]).sum())
    image[y0:y1, x0:x1] = True
    return left


@dataclass
class Folder:
    """What the model knows of a run folder.

    Attributes:
        path: Of the folder.
        command: `run` or `select`.
        known: Images of its pool, by name: digest.
        picks: What was bought, in order, with its price.
        before: What was labelled before a selection.
        answers: Of each region all versions that were given back.
        gone: Names of images that are withdrawn.
        cut: Regions that are withdrawn of other images.
        gone_digests: Of images that are withdrawn, also before the folder was begun.
        handouts: Folders of what is with annotators.
        budgets: Of a run.
        arguments: Of the command that goes on with it.
    """

    path: Path
    command: str
    known: dict[str, str]
    picks: list[tuple[str, Box, int]] = field(default_factory=list)
    before: set[Region] = field(default_factory=set)
    answers: dict[Region, list[np.ndarray]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    cut: set[Region] = field(default_factory=set)
    gone_digests: set[str] = field(default_factory=set)
    handouts: list[Path] = field(default_factory=list)
    budgets: int = 0
    arguments: list[str] = field(default_factory=list)

    def held(self) -> list[Region]:
        """What is bought and not withdrawn."""
        regions = [(image, box) for image, box, _ in self.picks]
        return [r for r in regions if r[0] not in self.gone and r not in self.cut]

    def open(self) -> list[Region]:
        """What annotators have not given back."""
        return [region for region in self.held() if region not in self.answers]

    def painted(self) -> dict[str, np.ndarray]:
        """What cannot be bought, by image."""
        found = {name: np.zeros((HEIGHT, WIDTH), bool) for name in self.known}
        regions = [*self.before, *((i, b) for i, b, _ in self.picks), *self.cut]
        for image, (x0, y0, x1, y1) in regions:
            if image in found:
                found[image][y0:y1, x0:x1] = True
        for image in self.gone & found.keys():
            found[image][:] = True
        return found


class Soak:
    """The runs, the files of the images, and the model.

    Args:
        folder: Takes everything.
        seed: Of all random choices.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.done: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.compared: Counter[str] = Counter()
        self.killer = Killer()
        self.data = folder / "data"
        self.changed = True  # what the last selection went on from
        self.files: dict[str, Path] = {}  # by digest: where an image lies, relative to its folder
        self.made = 0
        (self.data / "labels/val").mkdir(parents=True)
        (self.data / "classes.txt").write_text("\n".join(CLASSES) + "\n")
        self._draw_image("val/held.png")
        cv2.imwrite(str(self.data / "labels/val/held.png"), self._label((HEIGHT, WIDTH)))
        self.files.clear()
        for _ in range(8):
            self._new_image()
        self.folders: list[Folder] = []
        self._begin_run()

    # What there is

    def _label(self, shape: tuple[int, int]) -> np.ndarray:
        return self.rng.integers(0, len(CLASSES), shape, dtype=np.uint8)

    def _draw_image(self, name: str) -> str:
        path = self.data / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), self.rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def _new_image(self) -> str:
        self.made += 1
        name = f"im{self.made:03d}.png"
        self.files[self._draw_image(f"train/{name}")] = Path(name)
        return name

    def _pool(self) -> dict[str, str]:
        """Images as a folder that is begun now finds them: name to digest."""
        return {path.as_posix(): digest for digest, path in self.files.items()}

    def new_place(self, kind: str) -> Path:
        """A path where nothing is yet."""
        self.made += 1
        return self.folder / f"{kind}-{self.made:04d}"

    # Operations

    def must(self, arguments: list[str], code: int = 0) -> str:
        """Runs a command, which must end so."""
        found, said = command(arguments)
        assert found == code, f"segal {' '.join(map(str, arguments))}: exit code {found}\n{said}"
        return said

    def _begin_run(self) -> None:
        run = Folder(self.new_place("run"), "run", self._pool())
        self.folders.append(run)
        self.must(self._run_arguments(run))
        (image, *box, pixels) = self._rows(run, "SELECT path, x0, y0, x1, y1, pixels")[0]
        run.picks.append((image, (box[0], box[1], box[2], box[3]), pixels))

    def _run_arguments(self, run: Folder) -> list[str]:
        budgets = ",".join([str(PAIRS)] * run.budgets)
        return [
            *("run", "--data", self.data, "--strategy", "random", "--region", SIDE),
            *("--seed-set", "1img", "--iterations", "1", "--out", run.path, "--annotate"),
            *("data.validation=val", "data.test=", "model.architecture=tests.tiny_network:build"),
            *("train.batch_size=2", "train.crop=32", "train.workers=0", "--threads", "1"),
            *("overlays=1", "measure_picks=false", f"budgets={budgets}"),
        ]

    def select(self, killed: bool = False) -> bool:
        """The next round of the run, or another selection that goes on from all before it."""
        if self.draw.random() < 0.7 or len(self.folders) > 8:
            return self.next_round(killed)
        return self.next_selection(killed)

    def next_round(self, killed: bool = False) -> bool:
        """The run trains on what has come back, and selects."""
        run = self.folders[0]
        left = sum(int((~mask).sum()) for mask in run.painted().values())
        if run.open() or left < PAIRS * SIDE * SIDE * 2:
            return False
        run.budgets += 1
        self._go(run, self._run_arguments(run), killed)
        selection = run.path / "rounds" / f"{run.budgets - 1:03d}" / "selection.csv"
        self._learn(run, selection)
        return True

    def next_selection(self, killed: bool = False) -> bool:
        """A selection that goes on from all folders before it."""
        path = self.new_place("selection")
        one = Folder(path, "select", self._pool())
        sources = [f for f in self.folders if f.held()]
        for source in sources:
            one.gone_digests |= source.gone_digests
        one.known = {n: d for n, d in one.known.items() if d not in one.gone_digests}
        names = {digest: name for name, digest in one.known.items()}
        for source in sources:
            digest_of = source.known
            one.before |= {
                (names[digest_of[i]], box)
                for i, box in [*source.held(), *source.before]
                if digest_of.get(i) in names
            }
            one.cut |= {
                (names[digest_of[i]], box) for i, box in source.cut if digest_of[i] in names
            }
        one.before -= one.cut
        left = sum(int((~mask).sum()) for mask in one.painted().values())
        if not sources or left < PAIRS * SIDE * SIDE * 2:
            return False
        one.arguments = [
            *("select", "--images", self.data / "images/train", "--strategy", "random"),
            *("--region", SIDE, "--budget", PAIRS, "--overlays", "1", "--out", path),
            *("--seed", self.made, "--threads", "1"),
            *(x for source in sources for x in ("--labelled", source.path)),
        ]
        self._go(one, one.arguments, killed)
        self.folders.append(one)
        self._learn(one, path / "selection.csv")
        return True

    def _go(self, one: Folder, arguments: list[str], killed: bool) -> None:
        """Gives a command, kills it perhaps, and gives it again; what is bought stays bought."""
        bought = None
        if killed:
            arguments = [str(argument) for argument in arguments]
            if self.killer.kill(arguments, self.draw):
                self.kills[arguments[0]] += 1
            if self._is_begun(one):
                bought = self._bought(one)
                self._sound(one)
        self.must(arguments)
        if bought is not None:
            assert self._bought(one)[: len(bought)] == bought

    def _learn(self, one: Folder, selection: Path) -> None:
        """What was picked, by its file; every pick must be one that may be made."""
        painted = one.painted()
        with selection.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert 0 < len(rows) <= PAIRS
        for row in rows:
            x, y, width, height = (int(row[k]) for k in ("x", "y", "width", "height"))
            box = (x, y, x + width, y + height)
            assert row["image"] in painted, f"{row['image']} is not in the pool"
            assert row["image"] not in one.gone, f"{row['image']} is withdrawn"
            price = remaining(painted[row["image"]], box)
            assert price == int(row["pixels"]) > 0
            one.picks.append((row["image"], box, price))

    def export(self, killed: bool = False) -> bool:
        """Hands out all that is open of a folder."""
        one = self._any(lambda folder: folder.open())
        if one is None:
            return False
        out = self.new_place("handout")
        images = self.data if one.command == "run" else self.data / "images/train"
        (self.folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
        arguments = [
            *("export", one.path, "--to", "folder", "--out", out, "--mode", "crop", "--pad", "3"),
            *("--images", images, "--classes", self.folder / "classes.txt"),
        ]
        self._go(one, arguments, killed)
        assert {region for region, _ in self._tasks(out)} == set(one.open())
        one.handouts.append(out)
        return True

    @staticmethod
    def _tasks(handout: Path) -> list[tuple[Region, dict]]:
        raw = json.loads((handout / "segal-handout.json").read_text())["tasks"]
        found = []
        for task in raw:
            x, y, width, height = task["region"]
            found.append(((task["image"], (x, y, x + width, y + height)), task))
        return found

    def bring_in(self, killed: bool = False, replace: bool = False) -> bool:
        """Some answers come back: of the latest handout, or late ones of an earlier one."""
        one = self._any(lambda folder: folder.handouts)
        if one is None:
            return False
        late = self.draw.random() < 0.5
        tasks = self._tasks(self.draw.choice(one.handouts) if late else one.handouts[-1])
        held = set(one.held())
        fit = [t for t in tasks if t[0] in held and (t[0] in one.answers) == replace]
        if not fit:
            return False
        part = self.draw.random() < 0.5
        chosen = self.draw.sample(fit, self.draw.randint(1, len(fit))) if part else fit
        gone = [task for task in tasks if task[0] not in held]
        unwanted = [] if replace or self.draw.random() < 0.5 else gone[:1]
        back = self.new_place("back")
        new: dict[Region, np.ndarray] = {}
        for (image, box), task in [*chosen, *unwanted]:
            left, top, columns, rows = task["frame"]
            x0, y0, x1, y1 = box
            label = self._label((y1 - y0, x1 - x0))
            whole = np.full((rows, columns), 255, np.uint8)
            whole[y0 - top : y1 - top, x0 - left : x1 - left] = label
            whole[0, 0] = whole[0, 0] if (left, top) == (x0, y0) else 0  # painted outside
            path = back / "labels" / task["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path.with_suffix(".png")), whole)
            new[image, box] = label
        arguments = ["import", str(one.path), str(back), "--from", "folder"]
        for region, _ in unwanted:  # what is withdrawn is refused
            assert "which is withdrawn" in self.must(arguments, 2)
            arguments.append("--skip-bad")
            self.done["withdrawn answers refused"] += 1
            del new[region]
        if replace:
            self.must(arguments, 2)
            arguments.append("--replace")
        self._go(one, arguments, killed)
        for region, label in new.items():
            one.answers.setdefault(region, []).append(label)
        if self.draw.random() < 0.3:
            assert f"{len(new)} were known" in " ".join(self.must(arguments).split())
        return True

    def replace(self) -> bool:
        """Answers are given again, and differ."""
        return self.bring_in(replace=True)

    def withdraw(self) -> bool:
        """An image, or a region that is bought, is withdrawn from every folder that has it."""
        run = self.folders[0]
        seed_set = run.picks[0][0]
        names = [name for name in run.known if name not in run.gone and name != seed_set]
        if len(names) < 4:
            return False
        if self.draw.random() < 0.5:
            digest, box = run.known[self.draw.choice(names)], None
        else:
            bought = [r for r in run.held() if r[0] != seed_set]
            if not bought:
                return False
            image, box = self.draw.choice(bought)
            digest = run.known[image]
        for one in self.folders:
            name = next(
                (n for n, d in one.known.items() if d == digest and n not in one.gone), None
            )
            if name is None:
                continue
            more = [] if box is None else ["--box", ",".join(map(str, self._flat(box)))]
            planned = self.must(["pool", "withdraw", one.path, name, *more, "--dry-run"])
            said = self.must(["pool", "withdraw", one.path, name, *more])
            files = {line for line in said.splitlines() if line.startswith("removed: ")}
            assert files == {
                line.removeprefix("would be ")
                for line in planned.splitlines()
                if line.startswith("would be removed: ")
            }
            if box is None:
                one.gone.add(name)
                one.gone_digests.add(digest)
            else:
                one.cut.add((name, box))
        if box is None and self.draw.random() < 0.5:
            file = self.files.pop(digest)
            (self.data / "images/train" / file).unlink()
        self._resume()
        return True

    @staticmethod
    def _flat(box: Box) -> Box:
        x0, y0, x1, y1 = box
        return x0, y0, x1 - x0, y1 - y0

    def add(self, most: int = 16) -> bool:
        """Images are put into the data set, and added to the run, if it has few."""
        run = self.folders[0]
        if len(run.known) - len(run.gone) > most:
            return False
        names = [self._new_image() for _ in range(3)]
        digests = {path.as_posix(): digest for digest, path in self.files.items()}
        self.must(["pool", "add", run.path, "--images", self.data])
        run.known |= {name: digests[name] for name in names}
        return True

    def move_images(self) -> bool:
        """Files of images are renamed, and the folders told of it."""
        there = [d for d in self.files if d in self.folders[0].known.values()]
        for digest in self.draw.sample(there, min(2, len(there))):
            self.made += 1
            new = Path(f"moved{self.made % 3}") / f"m{self.made}.png"
            old = self.files[digest]
            target = self.data / "images/train" / new
            target.parent.mkdir(exist_ok=True)
            (self.data / "images/train" / old).rename(target)
            self.files[digest] = new
        for one in self.folders:
            images = self.data if one.command == "run" else self.data / "images/train"
            lost = [d for n, d in one.known.items() if n not in one.gone and d not in self.files]
            self.must(["pool", "move", one.path, "--images", images], 2 if lost else 0)
        return True

    def kill(self) -> bool:
        """Another operation, which is killed at a random moment; the same command then goes on."""
        names = ["select", "bring_in"]
        self.draw.shuffle(names)
        return any(getattr(self, name)(killed=True) for name in [*names, "export"])

    def _resume(self) -> None:
        run = self.folders[0]
        self.must(self._run_arguments(run))

    def resume(self) -> bool:
        """The same commands again: nothing more is bought."""
        self._resume()
        one = self._any(lambda folder: folder.command == "select")
        if one is not None and one is self.folders[-1] and not self.changed:
            self.must(one.arguments)
        return True

    def validate(self) -> bool:
        """All folders are proved; of one a file is spoilt first, and made again."""
        one = self.draw.choice(self.folders)
        files = [one.path / "config.yaml"]
        files += sorted(one.path.glob("masks/**/*.png")) + sorted(one.path.glob("handouts/*.json"))
        files += sorted(one.path.glob("**/selection.csv"))
        path = self.draw.choice([file for file in files if file.is_file()])
        before = path.read_bytes()
        if self.draw.random() < 0.5:
            path.unlink()
        else:
            path.write_bytes(before[: len(before) // 2])
        said = self.must(["validate", one.path, "--repair"])
        assert "mended" in said and path.read_bytes() == before, f"{path}: {said}"
        for other in self.folders:
            self.must(["validate", other.path])
        return True

    def backup(self) -> bool:
        """A folder is copied, and its copy takes its place."""
        one = self.draw.choice(self.folders)
        copy = self.new_place("copy")
        self.must(["backup", one.path, copy])
        if one.command == "run" or not any(f.command == "select" for f in self.folders[1:]):
            shutil.rmtree(one.path)
            one.path = copy
        else:
            shutil.rmtree(copy)
        return True

    def move(self) -> bool:
        """A run folder, or the data set, is at another path from now on."""
        if self.draw.random() < 0.5:
            new = self.new_place("data")
            self.data.rename(new)
            self.data = new
        else:
            one = self.draw.choice(self.folders)
            new = self.new_place(one.command)
            one.path.rename(new)
            one.path = new
        return True

    def _any(self, fits) -> Folder | None:
        chosen = [folder for folder in self.folders if fits(folder)]
        return self.draw.choice(chosen) if chosen else None

    # Against the model

    def _is_begun(self, one: Folder) -> bool:
        """Whether the first transaction is there, which makes the tables."""
        path = one.path / "ledger.sqlite"
        if not path.is_file():
            return False
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            return bool(database.execute("SELECT name FROM sqlite_master").fetchall())
        finally:
            database.close()

    def _rows(self, one: Folder, columns: str, more: str = "") -> list:
        database = sqlite3.connect(f"file:{one.path / 'ledger.sqlite'}?mode=ro", uri=True)
        try:
            return database.execute(
                f"{columns} FROM purchases JOIN images ON image = images.id "
                f"JOIN phases ON phase = phases.id {more} ORDER BY phase, purchases.rank"
            ).fetchall()
        finally:
            database.close()

    def _bought(self, one: Folder) -> list[tuple[str, Box, int]]:
        rows = self._rows(
            one, "SELECT path, x0, y0, x1, y1, pixels", "WHERE name IN ('seed', 'buy', 'select')"
        )
        return [(path, (a, b, c, d), pixels) for path, a, b, c, d, pixels in rows]

    def _sound(self, one: Folder) -> None:
        """The database is whole, and keeps what the model has of it: also after a kill."""
        database = sqlite3.connect(f"file:{one.path / 'ledger.sqlite'}?mode=ro", uri=True)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        database.close()
        bought = self._bought(one)
        assert bought[: len(one.picks)] == one.picks, "what was bought is not what it was"
        self._answers(one, at_least=True)

    def _answers(self, one: Folder, at_least: bool = False) -> None:
        """Every version of every answer, by its pixels."""
        database = sqlite3.connect(f"file:{one.path / 'ledger.sqlite'}?mode=ro", uri=True)
        rows = database.execute(
            "SELECT path, x0, y0, x1, y1, version, file FROM returns "
            "JOIN purchases USING (phase, rank) JOIN images ON image = images.id "
            "ORDER BY returns.id"
        ).fetchall()
        database.close()
        found: dict[Region, list[str]] = {}
        for path, a, b, c, d, version, file in rows:
            found.setdefault((path, (a, b, c, d)), []).append(file)
            assert version == len(found[path, (a, b, c, d)])
        for region, versions in one.answers.items():
            files = found.pop(region, [])
            assert len(files) == len(versions) or (at_least and len(files) > len(versions))
            gone = region[0] in one.gone or region in one.cut
            for label, file in zip(versions, files, strict=not at_least):
                there = (one.path / file).is_file()
                assert there == (not gone), f"{file}: {'there' if there else 'lost'}"
                if there:
                    said = cv2.imread(str(one.path / file), cv2.IMREAD_UNCHANGED)
                    assert np.array_equal(said, label), f"{file}: another label"
                    self.compared["answers"] += 1
        assert at_least or not found, f"answers that nobody gave: {list(found)}"

    def check(self) -> None:
        """Compares all folders with the model."""
        for one in self.folders:
            self._sound(one)
            assert self._bought(one) == one.picks
            self._answers(one)
            self._labelled_before(one)
            self._pool_log(one)
            self.compared["purchases"] += len(one.picks)
            self.compared["folders"] += 1

    def _labelled_before(self, one: Folder) -> None:
        rows = self._rows(one, "SELECT path, x0, y0, x1, y1", "WHERE name = 'labelled'")
        there, wanted = ({n: np.zeros((HEIGHT, WIDTH), bool) for n in one.known} for _ in range(2))
        for masks, regions in (
            (there, [(path, tuple(box)) for path, *box in rows]),
            (wanted, list(one.before)),
        ):
            for image, (x0, y0, x1, y1) in regions:
                masks[image][y0:y1, x0:x1] = True
        assert all(np.array_equal(there[name], wanted[name]) for name in one.known)

    def _pool_log(self, one: Folder) -> None:
        database = sqlite3.connect(f"file:{one.path / 'ledger.sqlite'}?mode=ro", uri=True)
        rows = database.execute(
            "SELECT image, digest, x0, y0, x1, y1 FROM pool_changes WHERE kind = 'withdraw'"
        ).fetchall()
        images = {path for (path,) in database.execute("SELECT path FROM images")}
        database.close()
        assert {digest for _, digest, x0, *_ in rows if x0 is None} == one.gone_digests
        cut = {(image, tuple(box)) for image, _, *box in rows if box[0] is not None}
        assert cut == one.cut
        assert images == set(one.known), f"{images ^ set(one.known)}"

    def check_trained_on(self) -> None:
        """What a training of all folders would see, by pixels: the latest answers, nothing else."""
        raw = read_config(self.folders[0].path / "config.yaml", [], {})
        config, _ = configured(RunConfig, raw)
        assert config is not None
        data = config.data.model_copy(update={"root": self.data})
        for one in self.folders:
            if not one.held() or any(
                digest not in self.files for n, digest in one.known.items() if n not in one.gone
            ):
                continue
            given = Labelled.open([one.path])
            dataset = find_task("segmentation").open_split(data, "train", missing_labels=True)
            dataset = given.answered(dataset, "segmentation")
            wanted = {p: np.full((HEIGHT, WIDTH), 255, np.uint8) for p in dataset.pool.paths}
            held = set(one.held())
            for (image, box), versions in one.answers.items():
                if (image, box) in held:
                    x0, y0, x1, y1 = box
                    now = self.files[one.known[image]].as_posix()
                    wanted[now][y0:y1, x0:x1] = versions[-1]
            for i, path in enumerate(dataset.pool.paths):
                if dataset.has_label(i):
                    assert np.array_equal(dataset.read_label(i), wanted[path]), path
                    self.compared["labels"] += 1
                else:
                    assert (wanted[path] == 255).all(), path

    def kill_each(self, command: str, times: int, tell=lambda *_: None) -> None:
        """Kills one command again and again, at random moments; after each it goes on.

        Args:
            command: `export`, `import`, `select` or `run`.
            times: How many kills.
            tell: Called with the number of kills after each.
        """
        while self.kills[command] < times:
            before = self.kills[command]
            if command == "select":
                is_done = self.next_selection(killed=True)
            elif command == "run":
                is_done = self.next_round(killed=True)
            elif command == "import":
                is_done = self.bring_in(killed=True)
            else:
                is_done = self.export(killed=True)
            self.check()
            if not is_done or command == "export":
                self._feed(command)
            if self.kills[command] > before:
                tell(self.kills[command])

    def _feed(self, command: str) -> None:
        """Makes room for the next: new images, picks to hand out, answers that are owed."""
        del self.folders[1:]  # a selection goes on from all that are there
        run = self.folders[0]
        if run.open():
            self.export()
            while run.open() and command != "export":
                self.bring_in()
        elif not self.next_round():
            self.add(most=60)
        if command == "import":
            self.export()

    OPERATIONS = (
        *(("select", 16), ("export", 4), ("bring_in", 16), ("replace", 3), ("withdraw", 2)),
        *(("add", 2), ("move_images", 2), ("kill", 8), ("resume", 2), ("validate", 2)),
        *(("backup", 1), ("move", 1)),
    )

    def round(self) -> str:
        """One operation that can be done now, and the comparison."""
        names, weights = zip(*self.OPERATIONS, strict=True)
        while True:
            (name,) = self.draw.choices(names, weights)
            if getattr(self, name)():
                break
        self.done[name] += 1
        self.changed |= name not in ("export", "bring_in", "replace", "validate", "resume")
        if (
            name in ("select", "kill")
            and self.folders[-1].path.name == f"selection-{self.made:04d}"
        ):
            self.changed = False
        self.check()
        return name

    def soak(self, rounds: int, tell=lambda *_: None) -> None:
        """Many rounds; what is trained on is compared after every tenth."""
        for number in range(rounds):
            started = time.perf_counter()
            name = self.round()
            if number % 10 == 9 or number == rounds - 1:
                self.check_trained_on()
            tell(number, name, time.perf_counter() - started)


def main() -> None:
    """Soaks, and says what it came to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, help="of each command, in place of rounds")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        soak = Soak(folder, given.seed)

        def tell(number: int, name: str, seconds: float) -> None:
            print(f"{number + 1:4d} {name:12s} {seconds:6.1f} s", file=sys.stderr, flush=True)

        if given.kills is None:
            soak.soak(given.rounds, tell)
        for name in COMMANDS if given.kills is not None else ():
            soak.kill_each(name, given.kills, lambda n, of=name: print(of, n, file=sys.stderr))
        seconds = time.perf_counter() - started
    many = f"{given.rounds} rounds" if given.kills is None else f"{given.kills} kills of each"
    print(f"{many}, seed {given.seed}, {seconds:.0f} s: nothing was lost")
    print("operations: " + ", ".join(f"{n} {k}" for k, n in sorted(soak.done.items())))
    print("killed: " + ", ".join(f"{n} {k}" for k, n in sorted(soak.kills.items())))
    print("compared: " + ", ".join(f"{n:,} {k}" for k, n in sorted(soak.compared.items())))


if __name__ == "__main__":
    main()
