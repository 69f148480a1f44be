"""The ledger: one run a folder, whole stages, nothing bought twice."""

import errno
import hashlib
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from segal.data.changes import Changes
from segal.data.images import ImageInfo
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.runs import database
from segal.runs.ledger import Cost, Ledger, Purchase
from segal.runs.returns import Return, book, returns_of
from segal.runs.run_folder import RunFolder, canonical, differences, fingerprint
from segal.runs.texts import text_of
from segal.system.files import replacing, write_bytes

_CONFIGURATION = {"region": "8", "strategy": {"name": "uwe", "tau": 1.0}, "seed": 0}


def _open(
    folder: Path,
    grows: Collection[str] = (),
    inputs: Mapping[str, Mapping[str, str]] | None = None,
    **changes: object,
) -> Ledger:
    return Ledger.open(folder, "select", _CONFIGURATION | changes, grows=grows, inputs=inputs)


def _pool(*paths: str, height: int = 16, width: int = 24, digest: str = "d") -> ImagePool:
    count = len(paths)
    return ImagePool(
        root=Path("images"),
        paths=paths,
        infos=(ImageInfo(height, width, digest),) * count,
        stats=((100, 10**18 + 1),) * count,
    )


def _buy(rank: int, box: tuple[int, int, int, int], image: str = "a.png") -> Purchase:
    return Purchase(rank, "uwe", image, box, 0.1 * rank)


# A folder belongs to one run


def test_a_new_folder_keeps_what_it_was_opened_with(tmp_path):
    with _open(tmp_path / "deep" / "run"):
        pass
    with _open(tmp_path / "deep" / "run") as ledger:
        assert ledger.command == "select"
        assert ledger.configuration == _CONFIGURATION
        assert ledger.phases() == [] and ledger.purchases() == [] and ledger.bought() == {}
        assert ledger.cost().pixels == 0


def test_a_folder_in_which_nothing_is_done_takes_another_configuration(tmp_path):
    with Ledger.open(tmp_path, "select", {"skip": False}):
        pass
    with Ledger.open(tmp_path, "select", {"skip": True}) as ledger:
        assert ledger.configuration == {"skip": True}
        ledger.finish("scan", 0, "fingerprint")
    with pytest.raises(SegalError, match="another run"):
        Ledger.open(tmp_path, "select", {"skip": False})


def test_a_folder_of_another_command_or_with_files_in_it_is_never_taken_over(tmp_path):
    with Ledger.open(tmp_path, "train", {"a": 1}):
        pass
    with pytest.raises(SegalError, match="another run"):
        Ledger.open(tmp_path, "select", {"a": 1})
    (tmp_path / "unfinished.safetensors").write_bytes(b"half a training")
    with pytest.raises(SegalError, match="another run"):
        Ledger.open(tmp_path, "train", {"a": 2})


def test_another_configuration_is_refused_with_every_difference(tmp_path):
    with _open(tmp_path) as ledger:
        ledger.finish("scan", 0, "fingerprint")
    with pytest.raises(SegalError) as caught:
        _open(tmp_path, seed=1, strategy={"name": "uwe", "init": "labelled"}).close()
    text = str(caught.value)
    assert "seed: 0 in the folder, 1 now" in text
    assert "strategy.tau: 1.0 in the folder, not set now" in text
    assert 'strategy.init: not set in the folder, "labelled" now' in text
    assert "strategy.name" not in text and "region" not in text
    assert "--out" in text
    with pytest.raises(SegalError, match='command: "select" in the folder, "train" now'):
        Ledger.open(tmp_path, "train", _CONFIGURATION)
    with _open(tmp_path) as ledger:  # and nothing is lost
        assert ledger.configuration == _CONFIGURATION


def test_a_list_may_go_on_from_what_it_was_where_that_is_allowed(tmp_path):
    def reopen(budgets, grows=("budgets",), **changes):
        return _open(tmp_path, grows, budgets=budgets, **changes)

    with reopen(["5%", "10%"]) as ledger:
        ledger.finish("seed", 0, "f")
    with reopen(["5%", "10%", "5%"]) as ledger:
        assert ledger.configuration["budgets"] == ["5%", "10%", "5%"]
        assert ledger.finished("seed", 0, "f")
    with reopen(["5%", "10%", "5%"]):
        pass
    for budgets, changes in (
        (["5%", "10%"], {}),
        (["10%", "5%", "10%", "5%"], {}),
        (["5%", "10%", "5%", "1%"], {"seed": 1}),
        ("5%", {}),
    ):
        with pytest.raises(SegalError, match="holds another run") as caught:
            reopen(budgets, **changes)
        assert "budgets: " in caught.value.got
        assert ("seed: " in caught.value.got) == bool(changes)
        assert "budgets may go on here" in caught.value.remedy
    with pytest.raises(SegalError, match="holds another run"):
        reopen(["5%", "10%", "5%", "1%"], grows=())


def test_files_that_changed_are_named(tmp_path):
    def reopen(seed=0, **inputs):
        return _open(tmp_path, seed=seed, inputs=inputs)

    with reopen(images={"a": "1"}, labels={"a": "x"}):
        pass
    with reopen(images={"a": "1", "b": "2"}, labels={"a": "x", "b": "y"}) as ledger:
        ledger.finish("train", 0, "f")  # from now on they stay
    with reopen(images={"a": "1", "b": "2"}, labels={"a": "x", "b": "y"}, other={"c": "3"}):
        pass
    with pytest.raises(SegalError, match="not the files that it began with") as caught:
        reopen(images={"a": "1", "b": "2", "c": "3"}, labels={"a": "x", "b": "z"})
    assert "images: 1 added (c)" in caught.value.got
    assert "labels: 1 changed (b)" in caught.value.got
    with pytest.raises(SegalError, match="holds another run") as caught:
        reopen(seed=1, images={"b": "2"}, labels={"a": "x", "b": "y"})
    assert "seed: 0 in the folder, 1 now" in caught.value.got
    assert "images: 1 removed (a)" in caught.value.got
    assert "labels" not in caught.value.got


def test_fingerprint_does_not_depend_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"a": float("nan")})


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(SegalError, match=r"'thesis\.tex'"):
        _open(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(SegalError, match="cannot be written"):
        _open(tmp_path / "thesis.tex")


def test_a_second_process_is_refused_by_name_and_a_dead_one_is_not(tmp_path):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            ledger = _open(tmp_path)
            os.write(writer, b"x")
            time.sleep(60)
            ledger.close()
        finally:
            os._exit(1)
    os.read(reader, 1)
    try:
        with pytest.raises(SegalError, match=f"process {child} on {socket.gethostname()}"):
            _open(tmp_path)
        with Ledger.read(tmp_path) as ledger:  # looking is allowed
            assert ledger.command == "select"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with _open(tmp_path), pytest.raises(SegalError, match=f"process {os.getpid()} on"):
        _open(tmp_path)


def test_the_lock_is_freed_by_closing_and_by_a_refusal(tmp_path):
    with _open(tmp_path) as ledger:
        ledger.finish("scan", 0, "fingerprint")
    with pytest.raises(SegalError, match="another run"):
        _open(tmp_path, seed=5)
    with _open(tmp_path):
        pass


def _scramble(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 400)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _damage_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\x55" * (len(data) - 4096)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [_scramble, _cut, _empty, _damage_pages])
def test_a_damaged_database_is_an_error_that_names_it(tmp_path, damage: Callable[[Path], None]):
    with _open(tmp_path) as ledger:
        ledger.record_images(_pool("a.png"))
        write_bytes(tmp_path / "x", b"x")
        ledger.finish("scan", 0, "f", [tmp_path / "x"])
    damage(tmp_path / "ledger.sqlite")
    for opening in (lambda: _open(tmp_path), lambda: Ledger.read(tmp_path)):
        with pytest.raises(SegalError, match=r"ledger\.sqlite.*(damaged|not a ledger)"):
            opening()


def _bought(folder: Path) -> None:
    with _open(folder) as ledger:
        ledger.record_images(_pool("a.png"))
        write_bytes(folder / "x.json", b"{}")
        ledger.finish("select", 0, "f", [folder / "x.json"], purchases=[_buy(1, (0, 0, 8, 8))])
        book(ledger, [Return("a.png", (0, 0, 8, 8), 0, "", 1, "l", "y", "s", 1.0, "z", {})])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE images SET path = CAST(x'ff' AS TEXT)",
        "UPDATE images SET digest = x'64'",
        "UPDATE images SET height = 'ab'",
        "UPDATE images SET height = 16.5",
        "UPDATE phases SET seconds = 'ab'",
        "UPDATE artefacts SET path = 'x' || char(0) || 'json'",
        "UPDATE texts SET data = 'ab'",
        "UPDATE returns SET counts = '{'",
        "UPDATE returns SET counts = '[]'",
        "DELETE FROM meta WHERE key = 'command'",
        "UPDATE meta SET value = '{\"region\": ' WHERE key = 'configuration'",
        "UPDATE meta SET value = '3' WHERE key = 'configuration'",
        "UPDATE meta SET value = CAST(x'7bff' AS TEXT) WHERE key = 'configuration'",
        "ALTER TABLE purchases RENAME COLUMN pixels TO pixelz",
        "ALTER TABLE returns RENAME TO retur",
        "DROP TABLE texts",
    ],
)
def test_a_ledger_that_says_what_segal_never_wrote_is_damaged(tmp_path, statement):
    def read() -> None:
        with Ledger.read(tmp_path) as ledger:
            assert (ledger.command, ledger.configuration) == ("select", _CONFIGURATION)
            assert ledger.known_images() and ledger.purchases() and returns_of(ledger)

    _bought(tmp_path)
    read()
    connection = sqlite3.connect(tmp_path / "ledger.sqlite")
    connection.execute(statement)
    connection.commit()
    connection.close()
    with pytest.raises(SegalError, match=r"ledger\.sqlite: the ledger is damaged") as caught:
        read()
    assert "backup" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("there", "then"),
    [
        (b"CREATE TABLE phases", b"CREATE TABLE ph\xffses"),
        (b"strategy TEXT NOT NULL, image", b"str\xfftegy TEXT NOT NULL, image"),
        (b"SQLite format 3", b"SQLite format 4"),
        (b"\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\x01", b"\0\0\0\x09\0\0\0\0\0\0\0\0\0\0\0\x01"),
    ],
    ids=["table", "column", "magic", "version"],
)
def test_a_database_with_other_bytes_is_damaged(tmp_path, there, then):
    _bought(tmp_path)
    path = tmp_path / "ledger.sqlite"
    assert there in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(there, then, 1))
    for opening in (lambda: _open(tmp_path), lambda: Ledger.read(tmp_path)):
        with pytest.raises(SegalError, match="the ledger is damaged"):
            opening()


def test_a_copy_in_an_index_is_looked_at_too(tmp_path):
    _bought(tmp_path)
    path = tmp_path / "ledger.sqlite"
    data = path.read_bytes()
    assert data.count(b"x.json") == 4  # two tables, and what finds their rows
    for place in (found.start() for found in re.finditer(rb"x\.json", data)):
        path.write_bytes(data[:place] + b"x\0" + data[place + 2 :])
        with pytest.raises(SegalError, match="the ledger is damaged"):
            Ledger.read(tmp_path)


def test_a_wrong_statement_of_ones_own_is_no_damage(tmp_path):
    _bought(tmp_path)
    with Ledger.read(tmp_path) as ledger:
        with pytest.raises(sqlite3.OperationalError, match="no such column"):
            ledger.rows("SELECT colour FROM phases")
        with pytest.raises(sqlite3.ProgrammingError):
            ledger.rows("SELECT ?")


def test_a_lost_copy_of_a_text_is_none(tmp_path):
    _bought(tmp_path)
    with _open(tmp_path) as ledger:
        assert text_of(ledger, "x.json") == b"{}"
        with ledger.writing() as connection:
            connection.execute("UPDATE texts SET data = x'6162'")
        assert text_of(ledger, "x.json") is None


@pytest.mark.parametrize(
    ("pragma", "match"),
    [("user_version = 99", "newer segal"), ("application_id = 7", "another program")],
)
def test_a_newer_or_foreign_database_is_refused(tmp_path, pragma, match):
    with _open(tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / "ledger.sqlite")
    connection.execute(f"PRAGMA {pragma}")
    connection.close()
    with pytest.raises(SegalError, match=match):
        _open(tmp_path)
    with pytest.raises(SegalError, match=match):
        Ledger.read(tmp_path)


def test_a_full_disk_loses_nothing(tmp_path):
    with _open(tmp_path) as ledger:
        ledger.record_images(_pool("a.png"))
        ledger._database.execute("PRAGMA max_page_count = 1")  # SQLite's own way to be full
        names = [f"{i:05d}" * 10 + ".png" for i in range(2000)]
        with pytest.raises(SegalError, match="free some space"):
            ledger.record_images(_pool(*names))
        assert list(ledger.known_images()) == ["a.png"]
    with _open(tmp_path) as ledger:
        assert list(ledger.known_images()) == ["a.png"]


def test_a_read_only_folder_is_an_error_that_names_the_remedy(tmp_path, monkeypatch):
    def refuse(*arguments: object, **named: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SegalError, match=r"(?s)cannot be written.*Read-only.*--out"):
        _open(tmp_path)


def test_a_read_only_database_is_an_error_that_names_the_remedy(tmp_path):
    with _open(tmp_path):
        pass
    remedy = r"(?s)cannot be written.*--out"
    with Ledger.read(tmp_path) as ledger, pytest.raises(SegalError, match=remedy):
        ledger.record_images(_pool("a.png"))


def test_reading_where_there_is_no_run(tmp_path):
    with pytest.raises(SegalError, match="not a run folder"):
        Ledger.read(tmp_path)
    with pytest.raises(SegalError, match="no such folder"):
        Ledger.read(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_journal_is_a_log_locally_and_not_on_a_network(tmp_path, monkeypatch):
    with _open(tmp_path) as ledger:
        assert ledger.rows("PRAGMA journal_mode")[0][0] == "wal"
        assert ledger.rows("PRAGMA synchronous")[0][0] == 2
        assert ledger.rows("PRAGMA foreign_keys")[0][0] == 1
    monkeypatch.setattr(database, "on_network", lambda folder: True)
    with _open(tmp_path) as ledger:
        assert ledger.rows("PRAGMA journal_mode")[0][0] == "delete"


def _logs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("ledger.sqlite?*"))


def test_the_last_one_out_leaves_one_file_that_can_be_copied(tmp_path):
    run, copy = tmp_path / "run", tmp_path / "copy"
    with _open(run) as ledger:
        ledger.record_images(_pool("a.png"))
        assert _logs(run) == ["ledger.sqlite-shm", "ledger.sqlite-wal"]
    assert _logs(run) == []
    with Ledger.read(run), Ledger.read(run):
        pass
    assert _logs(run) == []
    with pytest.raises(ZeroDivisionError), _open(run) as ledger:
        ledger.finish("scan", 0, "f")
        raise ZeroDivisionError
    with pytest.raises(SegalError, match="holds another run"):
        _open(run, seed=1)
    assert _logs(run) == []
    writer = _open(run)
    writer.finish("select", 0, "g")
    reader = Ledger.read(run)
    writer.close()
    assert _logs(run) != []
    reader.close()
    assert _logs(run) == []
    copy.mkdir()
    (copy / "ledger.sqlite").write_bytes((run / "ledger.sqlite").read_bytes())
    with Ledger.read(copy) as ledger:
        assert [phase.name for phase in ledger.phases()] == ["scan", "select"]
    assert _logs(copy) == []


_WAITS = """
import signal, sys, time
from pathlib import Path
from segal.runs.run_folder import RunFolder
signal.signal(signal.SIGINT, signal.default_int_handler)  # where it is ignored from the start
with RunFolder.open(Path(sys.argv[1]), "select", {}):
    print("open", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_process_leaves_no_log_for_long(tmp_path, number):
    """Ctrl-C closes the ledger; after a kill, whoever reads it next does."""
    with subprocess.Popen(
        [sys.executable, "-c", _WAITS, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"open\n"
        assert _logs(tmp_path) != []
        process.send_signal(number)
        process.wait()
    if number == signal.SIGKILL:
        assert _logs(tmp_path) != []
        RunFolder.read(tmp_path).close()
    assert _logs(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_read_as_it_is(tmp_path, monkeypatch):
    with _open(tmp_path) as ledger:
        ledger.record_images(_pool("a.png"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    before = sorted(tmp_path.iterdir())
    with Ledger.read(tmp_path) as ledger:
        assert list(ledger.known_images()) == ["a.png"]
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("/", False), ("/home/ann", True), ("/home/local disk/x", False), ("/mnt/s3/x", True)],
)
def test_network_file_systems_are_told_by_the_innermost_mount(tmp_path, folder, expected):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\n"
        "/dev/sdb /home/local\\040disk xfs rw 0 0\ns3 /mnt/s3 fuse.s3fs rw 0 0\n"
    )
    assert database.on_network(Path(folder), mounts) is expected
    assert database.on_network(Path(folder), tmp_path / "missing") is False


# Images


def test_images_are_known_by_size_and_time(tmp_path):
    with _open(tmp_path) as ledger:
        assert ledger.known_images() == {}
        ledger.record_images(_pool("a.png", "ü/ b.png"))
        expected = (100, 10**18 + 1, ImageInfo(16, 24, "d"))
        assert ledger.known_images() == {"a.png": expected, "ü/ b.png": expected}
        ledger.record_images(_pool("c.png"))
        assert list(ledger.known_images()) == ["c.png"]


def _named(**digests: str) -> ImagePool:
    return ImagePool(
        root=Path("images"),
        paths=tuple(f"{name}.png" for name in digests),
        infos=tuple(ImageInfo(16, 24, digest) for digest in digests.values()),
        stats=((100, 10**18 + 1),) * len(digests),
    )


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"a": "1", "b": "2", "c": "3", "new": "9"}, "4 images: 1 added (new.png)"),
        ({"a": "1", "c": "3"}, "2 images: 1 removed (b.png)"),
        ({"a": "1", "z": "2", "c": "3"}, "3 images: 1 renamed (b.png is z.png now)"),
        ({"a": "1", "b": "other", "c": "3"}, "3 images: 1 changed (b.png)"),
        ({"a": "2", "b": "1", "c": "3"}, "3 images: 2 changed (a.png, b.png)"),
        (
            {"a": "x", "y": "3", "n": "9"},
            "1 added (n.png); 1 removed (b.png); 1 renamed (c.png is y.png now); 1 changed (a.png)",
        ),
    ],
)
def test_once_a_stage_is_done_the_images_stay_and_what_became_of_them_is_named(tmp_path, now, said):
    begun = _named(a="1", b="2", c="3")
    with _open(tmp_path) as ledger:
        ledger.record_images(_named(**now))  # nothing is done with them yet
        ledger.record_images(begun)
        ledger.finish("select", 0, "f", purchases=[_buy(1, (0, 0, 8, 8))])
        with pytest.raises(SegalError, match=re.escape(said)) as caught:
            ledger.record_images(_named(**now))
        assert f"--labelled {tmp_path}" in str(caught.value.remedy)
        assert {p: i.digest for p, (_, _, i) in ledger.known_images().items()} == {
            "a.png": "1", "b.png": "2", "c.png": "3"
        }  # fmt: skip
        ledger.record_images(begun)
        assert ledger.bought() == {"a.png": [(0, 0, 8, 8)]}


def test_of_many_changes_the_first_are_named():
    then = {f"{i:02d}.png": str(i) for i in range(30)}
    changes = Changes.of(then, {})
    assert str(changes) == "30 removed (00.png, 01.png, 02.png, 03.png, 04.png and 25 more)"
    assert not Changes.of(then, dict(reversed(then.items())))
    copies = Changes.of({"a": "x", "b": "x", "c": "x"}, {"c": "x", "d": "x"})
    assert (list(copies.renamed), list(copies.removed)) == ([("a", "d")], ["b"])


# Stages


def test_a_stage_is_finished_only_with_its_files_as_they_were(tmp_path):
    single, folder = tmp_path / "rounds" / "000" / "selection.csv", tmp_path / "rounds/000/masks"
    with _open(tmp_path) as ledger:
        write_bytes(single, b"selection")
        write_bytes(folder / "x" / "a.png", b"mask")
        assert not ledger.finished("select", 0, "f")
        ledger.finish("select", 0, "f", [single, folder], seconds=2.5)
        assert ledger.finished("select", 0, "f")
        assert not ledger.finished("select", 1, "f") and not ledger.finished("scan", 0, "f")
        (phase,) = ledger.phases()
        assert (phase.name, phase.round, phase.seconds) == ("select", 0, 2.5)
        for path, data in ((single, b"SELECTION"), (folder / "x" / "a.png", b"longer mask")):
            good = path.read_bytes()
            path.write_bytes(data)
            with pytest.warns(UserWarning, match=f"{path.name} is not as it was written: select"):
                assert not ledger.finished("select", 0, "f")
            path.unlink()
            with pytest.warns(UserWarning, match=f"{path.name} is missing"):
                assert not ledger.finished("select", 0, "f")
            path.write_bytes(good)
            assert ledger.finished("select", 0, "f")
        ledger.finish("select", 0, "f", [single])  # done again, with other files
        (folder / "x" / "a.png").unlink()
        assert ledger.finished("select", 0, "f")


def test_a_stage_and_its_files_are_told_by_name(tmp_path):
    with _open(tmp_path) as ledger:
        write_bytes(tmp_path / "model" / "b.bin", b"weights")
        write_bytes(tmp_path / "model" / "a.json", b"")
        write_bytes(tmp_path / "log", b"log")
        ledger.finish("train", 3, "f", [tmp_path / "model", tmp_path / "log"], seconds=1.5)
        ledger.finish("train", 4, "g")
        assert ledger.artefacts("train", 3) == [
            ("log", 3, hashlib.sha256(b"log").hexdigest()),
            ("model/a.json", 0, hashlib.sha256(b"").hexdigest()),
            ("model/b.bin", 7, hashlib.sha256(b"weights").hexdigest()),
        ]
        assert ledger.artefacts("train", 4) == [] == ledger.artefacts("train", 5)
        assert ledger.phase("train", 3) == ledger.phases()[0]
        assert ledger.phase("train", 4) == ledger.phases()[1]
        assert ledger.phase("train", 5) is None and ledger.phase("scan", 3) is None


def test_another_fingerprint_is_refused_with_both(tmp_path):
    with _open(tmp_path) as ledger:
        ledger.finish("scan", 0, "a" * 64)
        for act in (ledger.finished, ledger.finish):
            with pytest.raises(SegalError) as caught:
                act("scan", 0, "b" * 64)
            assert "a" * 12 in str(caught.value) and "b" * 12 in str(caught.value)
            assert "--out" in str(caught.value)
        assert ledger.finished("scan", 0, "a" * 64)


def test_a_missing_file_or_one_outside_is_not_recorded(tmp_path):
    with _open(tmp_path / "run") as ledger:
        with pytest.raises(SegalError, match="missing"):
            ledger.finish("scan", 0, "f", [tmp_path / "run" / "missing"])
        (tmp_path / "outside").write_text("")
        with pytest.raises(ValueError, match="outside"):
            ledger.finish("scan", 0, "f", [tmp_path / "outside"])
        assert ledger.phases() == []


# Purchases


def test_what_is_bought_is_read_back_to_the_last_bit(tmp_path):
    with _open(tmp_path) as ledger:
        ledger.record_images(_pool("a.png", "b.png"))
        box = tuple(np.array([0, 0, 8, 8], np.int32))
        first = ledger.finish(
            "select", 0, "f", purchases=[Purchase(1, "uwe", "b.png", box, np.float32(0.1))]
        )
        assert first == [Purchase(1, "uwe", "b.png", (0, 0, 8, 8), float(np.float32(0.1)), 64, 0)]
        ledger.finish("select", 1, "f", purchases=[_buy(2, (8, 0, 24, 8)), _buy(1, (0, 0, 8, 8))])
    with Ledger.read(tmp_path) as ledger:
        assert [(p.round, p.rank, p.score, p.pixels) for p in ledger.purchases()] == [
            (0, 1, float(np.float32(0.1)), 64),
            (1, 1, 0.1, 64),
            (1, 2, 0.2, 128),
        ]
        assert ledger.purchases("select", 0) == first
        assert ledger.bought() == {"b.png": [(0, 0, 8, 8)], "a.png": [(0, 0, 8, 8), (8, 0, 24, 8)]}
        assert ledger.bought("b.png") == {"b.png": [(0, 0, 8, 8)]}
        assert ledger.bought("c.png") == {}


def test_overlap_is_charged_once(tmp_path):
    with _open(tmp_path) as ledger:
        ledger.record_images(_pool("a.png", "b.png"))  # 384 pixels each
        ledger.finish("select", 0, "f", purchases=[_buy(1, (0, 0, 8, 8)), _buy(2, (4, 0, 12, 8))])
        ledger.finish("select", 1, "f", purchases=[_buy(1, (0, 0, 24, 16))])
        assert [p.pixels for p in ledger.purchases()] == [64, 32, 384 - 96]
        assert ledger.cost(0).pixels == 96 and ledger.cost(0).regions == 2
        assert ledger.cost(0).images == pytest.approx(96 / 384)
        assert (ledger.cost().regions, ledger.cost().pixels, ledger.cost().images) == (3, 384, 1.0)


@pytest.mark.parametrize(
    ("purchase", "match"),
    [
        (_buy(2, (0, 0, 8, 8)), "bought already"),
        (_buy(2, (2, 2, 4, 4)), "bought already"),
        (_buy(2, (16, 8, 25, 16)), "within 24 x 16"),
        (_buy(2, (-1, 8, 8, 16)), "within 24 x 16"),
        (_buy(2, (9, 9, 9, 12)), "within 24 x 16"),
        (_buy(2, (0, 0, 8, 8), "z.png"), "an image of the pool"),
    ],
)
def test_a_wrong_purchase_takes_its_whole_stage_back(tmp_path, purchase, match):
    with _open(tmp_path) as ledger:
        ledger.record_images(_pool("a.png"))
        with pytest.raises(SegalError, match=match):
            ledger.finish("select", 0, "f", purchases=[_buy(1, (0, 0, 8, 8)), purchase])
        assert ledger.phases() == [] and ledger.purchases() == []


def test_doing_a_stage_again_keeps_what_it_bought(tmp_path):
    purchases = [_buy(1, (0, 0, 8, 8)), _buy(2, (8, 0, 16, 8))]
    with _open(tmp_path) as ledger:
        ledger.record_images(_pool("a.png"))
        first = ledger.finish("select", 0, "f", purchases=purchases)
        assert ledger.finish("select", 0, "f", purchases=purchases) == first
        assert ledger.finish("select", 0, "f", purchases=first) == first
        assert ledger.finish("select", 0, "f") == first
        with pytest.raises(ValueError, match="something else"):
            ledger.finish("select", 0, "f", purchases=purchases[:1])
        assert ledger.purchases() == first


def test_clicks_are_booked_and_known_only_if_all_are(tmp_path):
    def buy(rank: int, clicks: int | None) -> Purchase:
        return Purchase(rank, "uwe", "a.png", (8 * rank - 8, 0, 8 * rank, 8), 0.1, clicks=clicks)

    with _open(tmp_path) as ledger:
        ledger.record_images(_pool("a.png"))
        assert ledger.cost().clicks == 0
        ledger.finish("select", 0, "f", purchases=[buy(1, np.int64(7)), buy(2, 0)])
        ledger.finish("select", 1, "f", purchases=[buy(3, None)])
        assert [p.clicks for p in ledger.purchases()] == [7, 0, None]
        assert (ledger.cost(0).clicks, ledger.cost().clicks) == (7, None)
        # Recorded again: what was not known is filled in, what was booked stays.
        ledger.finish("select", 1, "f", purchases=[buy(3, 5)])
        assert (ledger.cost(0).clicks, ledger.cost().clicks) == (7, 12)
        ledger.finish("select", 0, "f", purchases=[buy(1, 100), buy(2, None)])
        ledger.finish("select", 0, "f")
        assert [p.clicks for p in ledger.purchases()] == [7, 0, 5]
        with pytest.raises(sqlite3.IntegrityError, match="clicks"):
            wrong = Purchase(1, "uwe", "a.png", (0, 8, 8, 16), 0.1, clicks=-1)
            ledger.finish("select", 2, "f", purchases=[wrong])
        assert ledger.cost().clicks == 12 and ledger.phase("select", 2) is None


def test_a_corrected_label_undoes_what_is_said_and_keeps_the_rest(tmp_path):
    seed = replace(_buy(1, (0, 0, 8, 8)), label="x")
    late = [replace(_buy(rank, (8 * rank, 8, 8 * rank + 8, 16)), label="y") for rank in (1, 2)]
    with _open(tmp_path) as ledger:
        ledger.record_images(_pool("a.png"))
        write_bytes(tmp_path / "model", b"old")
        ledger.finish("seed", 0, "s", purchases=[seed])
        ledger.finish("train", 0, "t", [tmp_path / "model"])
        ledger.finish("buy", 0, "b", purchases=late)
        before = ledger.purchases()
        assert [p.label for p in before] == ["x", "y", "y"]
        assert ledger.corrections() == []
        ledger.correct([replace(before[2], label="z")], [], [], 1)  # nothing was trained on it
        assert [p.label for p in ledger.purchases()] == ["x", "y", "z"]
        assert ledger.corrections() == []
        ledger.correct([replace(before[0], label="X")], [("train", 0)], [("buy", 0)], 0)
        assert [p.label for p in ledger.purchases()] == ["X", "y", "z"]
        assert ledger.purchases() == [
            replace(p, label=label) for p, label in zip(before, "Xyz", strict=True)
        ]
        ((found, since, *region),) = ledger.corrections()
        assert (since, region) == (0, ["a.png", (0, 0, 8, 8)]) and found > "2024"
        assert ledger.phase("train", 0) is None and not ledger.finished("train", 0, "t2")
        assert ledger.artefacts("train", 0) == []
        # What is kept takes the next fingerprint, and no other after that.
        assert ledger.finished("buy", 0, "b2") and ledger.finished("buy", 0, "b2")
        with pytest.raises(SegalError, match="other inputs or settings"):
            ledger.finished("buy", 0, "b")
        assert ledger.finished("seed", 0, "s")


# A folder of version 1, as segal 0.1.0 made it

_VERSION_1 = f"""
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE images (
        id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE,
        height INTEGER NOT NULL CHECK (height > 0), width INTEGER NOT NULL CHECK (width > 0),
        digest TEXT NOT NULL, bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL);
    CREATE TABLE phases (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, round INTEGER NOT NULL,
        fingerprint TEXT NOT NULL, finished TEXT NOT NULL, seconds REAL NOT NULL,
        UNIQUE (name, round));
    CREATE TABLE artefacts (
        phase INTEGER NOT NULL REFERENCES phases (id), path TEXT NOT NULL,
        bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (phase, path));
    CREATE TABLE purchases (
        phase INTEGER NOT NULL REFERENCES phases (id), rank INTEGER NOT NULL CHECK (rank > 0),
        strategy TEXT NOT NULL, image INTEGER NOT NULL REFERENCES images (id),
        x0 INTEGER NOT NULL CHECK (x0 >= 0), y0 INTEGER NOT NULL CHECK (y0 >= 0),
        x1 INTEGER NOT NULL CHECK (x1 > x0), y1 INTEGER NOT NULL CHECK (y1 > y0),
        pixels INTEGER NOT NULL CHECK (pixels > 0), score REAL NOT NULL,
        PRIMARY KEY (phase, rank), UNIQUE (image, x0, y0, x1, y1));
    PRAGMA application_id = {0x5E6A1000};
    PRAGMA user_version = 1;
    INSERT INTO meta VALUES ('command', 'select'), ('created', '2025-01-01T00:00:00+00:00'),
        ('configuration', '{canonical(_CONFIGURATION)}');
    INSERT INTO images VALUES (1, 'a.png', 16, 24, 'd', 100, 1000000000000000001);
    INSERT INTO phases VALUES (1, 'select', 0, 'f', '2025-01-01T00:00:01+00:00', 2.5);
    INSERT INTO purchases VALUES (1, 1, 'uwe', 1, 0, 0, 8, 8, 64, 0.1);
"""
_BOUGHT_IN_VERSION_1 = [Purchase(1, "uwe", "a.png", (0, 0, 8, 8), 0.1, 64, 0, None)]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    connection = sqlite3.connect(tmp_path / "ledger.sqlite")
    connection.executescript(_VERSION_1)
    connection.close()
    return tmp_path


def _version(folder: Path) -> int:
    with Ledger.read(folder) as ledger:
        return ledger.version


def test_an_old_ledger_is_read_as_it_is(old):
    before = (old / "ledger.sqlite").read_bytes()
    with Ledger.read(old) as ledger:
        assert ledger.purchases() == _BOUGHT_IN_VERSION_1
        assert ledger.cost() == Cost(1, 64, pytest.approx(64 / 384), None)
        assert ledger.configuration == _CONFIGURATION and ledger.version == 1
    assert (old / "ledger.sqlite").read_bytes() == before


def test_an_old_ledger_is_upgraded_where_work_goes_on(old):
    with _open(old) as ledger:
        assert ledger.version == 7 and ledger.purchases() == _BOUGHT_IN_VERSION_1
        ledger.record_images(_pool("a.png"))
        more = Purchase(1, "uwe", "a.png", (8, 0, 16, 8), 0.2, clicks=9)
        ledger.finish("select", 1, "f", purchases=[more])
        assert [p.clicks for p in ledger.purchases()] == [None, 9]
        assert ledger.cost().clicks is None
        ledger.finish("select", 0, "f", purchases=[replace(_BOUGHT_IN_VERSION_1[0], clicks=3)])
        assert ledger.cost().clicks == 12
    with _open(old / "new") as new, _open(old) as upgraded:
        columns = "SELECT name, type, \"notnull\" FROM pragma_table_info('purchases')"
        assert upgraded.rows(columns) == new.rows(columns)
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        assert upgraded.rows(tables) == new.rows(tables)
        with pytest.raises(sqlite3.IntegrityError):  # the check came along
            upgraded._database.execute("UPDATE purchases SET clicks = -1")


def test_a_refused_or_killed_upgrade_leaves_the_old_ledger(old):
    with pytest.raises(SegalError, match="another run"):
        _open(old, seed=1)
    assert _version(old) == 1

    class Killed(Ledger):
        upgrades: ClassVar = {1: (*Ledger.upgrades[1], "SELECT kill()")}

    def die() -> None:
        connect = sqlite3.connect

        def deadly(*arguments: object, **named: object) -> sqlite3.Connection:
            connection = connect(*arguments, **named)
            connection.create_function("kill", 0, lambda: os.kill(os.getpid(), signal.SIGKILL))
            return connection

        sqlite3.connect = deadly
        Killed.open(old, "select", _CONFIGURATION)

    _killed(die, after=None)
    assert _version(old) == 1
    with _open(old) as ledger:
        assert ledger.version == 7 and ledger.purchases() == _BOUGHT_IN_VERSION_1


# A kill at any moment

_PER_ROUND = 3


def _boxes(round: int) -> list[Purchase]:
    return [_buy(i + 1, (round * 4, i * 4, round * 4 + 4, i * 4 + 4)) for i in range(_PER_ROUND)]


def _work(folder: Path) -> None:
    """Goes on with rounds where the ledger says it stopped."""
    with _open(folder) as ledger:
        ledger.record_images(_pool("a.png", height=12, width=4000))
        for round in range(1000):
            if ledger.finished("select", round, "f"):
                continue
            path = folder / f"rounds/{round:03d}"
            with replacing(path) as temporary:
                temporary.mkdir()
                (temporary / "selection.csv").write_text(f"round {round}\n" * 500)
            ledger.finish("select", round, "f", [path], purchases=_boxes(round))


def _check(folder: Path) -> int:
    """Every stage is there as a whole or not at all; returns their number."""
    if not (folder / "ledger.sqlite").exists():
        return 0
    with _open(folder) as ledger:
        rounds = [phase.round for phase in ledger.phases()]
        assert rounds == list(range(len(rounds)))
        assert [(p.round, p.rank) for p in ledger.purchases()] == [
            (round, rank + 1) for round in rounds for rank in range(_PER_ROUND)
        ]
        assert ledger.cost().pixels == 16 * _PER_ROUND * len(rounds)
        assert all(ledger.finished("select", round, "f") for round in rounds)
    return len(rounds)


def _killed(act: Callable[[], None], after: float | None) -> None:
    """Runs `act` in a child that is killed from outside, or kills itself."""
    child = os.fork()
    if not child:
        try:
            act()
        finally:
            os._exit(1)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)


def test_killed_at_random_moments_it_goes_on_from_whole_stages(tmp_path):
    generator, done = random.Random(1), 0
    for _ in range(15):
        _killed(lambda: _work(tmp_path), after=generator.uniform(0.005, 0.15))
        now = _check(tmp_path)
        assert now >= done
        done = now
    assert done > 5


def test_killed_before_any_of_its_statements_it_has_the_old_or_the_new(tmp_path):
    """From the first statement of making the ledger to the commit of the second round."""

    def work(folder: Path, statements: int) -> None:
        left = [statements]
        connect = sqlite3.connect

        def count(statement: str) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def traced(*arguments: object, **named: object) -> sqlite3.Connection:
            connection = connect(*arguments, **named)
            connection.set_trace_callback(count)
            return connection

        sqlite3.connect = traced
        _work(folder)

    seen = set()
    for statements in range(0, 115, 2):
        folder = tmp_path / str(statements)
        _killed(lambda f=folder, n=statements: work(f, n), after=None)
        seen.add(_check(folder))
        with _open(folder) as ledger:  # it can always be taken up again
            ledger.finish("after", 0, "f")
    assert {0, 1, 2} <= seen


def test_an_image_is_known_as_it_was_read_and_counted_as_it_is_bought(tmp_path):
    class Whole(ImagePool):
        def size(self, index):
            return (3, 1)

    pool = Whole(**vars(_pool("a.png", "b.png")))
    with _open(tmp_path) as ledger:
        for _ in range(2):
            ledger.record_images(pool)
            found = ledger.known_images()
            assert [found[path][2] for path in pool.paths] == list(pool.infos)
            assert ledger.extent() == (6, 2)
        bought = ledger.finish(
            "select", 0, "f", purchases=[Purchase(1, "random", "a.png", (0, 0, 1, 3), 0.0)]
        )
        assert bought[0].pixels == 3
        assert ledger.cost().images == 1
        with pytest.raises(SegalError, match="within 1 x 3"):
            ledger.finish(
                "select", 1, "f", purchases=[Purchase(1, "random", "b.png", (0, 0, 8, 8), 0.0)]
            )


def test_a_section_of_usual_values_is_said_to_be_there():
    (line,) = differences({"lr": 1}, {"lr": 1, "store": {}}, "in the folder", "now")
    assert line == "store: not set in the folder, set now"
