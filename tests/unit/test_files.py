"""Writing: all of the new or all of the old, whatever happens."""

import errno
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from segal.errors import SegalError
from segal.system import files
from segal.system.files import remove, replacing, write_bytes, write_json
from segal.system.tensor_files import save_tensors


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_file_is_written_with_its_folders_and_nothing_is_left_beside_it(tmp_path):
    write_bytes(tmp_path / "a" / "b.bin", b"one")
    write_bytes(tmp_path / "a" / "b.bin", b"two")
    assert (tmp_path / "a" / "b.bin").read_bytes() == b"two"
    assert _names(tmp_path / "a") == ["b.bin"]


def test_json_keeps_names_readable(tmp_path):
    write_json(tmp_path / "a.json", {"städte": [1, 2.5]})
    assert "städte" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("old", ["nothing", "file", "folder"])
@pytest.mark.parametrize("new", ["file", "folder"])
def test_anything_replaces_anything(tmp_path, monkeypatch, old, new, exchange):
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    path = tmp_path / "x"
    if old == "file":
        path.write_text("old")
    if old == "folder":
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "old").write_text("old")
    with replacing(path) as temporary:
        if new == "file":
            temporary.write_text("new")
        else:
            temporary.mkdir()
            (temporary / "new").write_text("new")
    assert _names(tmp_path) == ["x"]
    assert path.read_text() == "new" if new == "file" else _names(path) == ["new"]


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt()])
def test_an_error_in_the_block_leaves_the_old(tmp_path, error):
    write_bytes(tmp_path / "x", b"old")
    with pytest.raises(type(error)), replacing(tmp_path / "x") as temporary:
        temporary.mkdir()
        (temporary / "half").write_text("half")
        raise error
    assert (tmp_path / "x").read_bytes() == b"old"
    assert _names(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "--out")]
)
def test_full_disk_and_read_only_folder_name_the_remedy(tmp_path, monkeypatch, number, remedy):
    write_bytes(tmp_path / "x", b"old")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SegalError, match=remedy):
        write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert _names(tmp_path) == ["x"]


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SegalError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "deeper" / "x", b"")


def test_an_input_that_cannot_be_read_is_not_called_a_write_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "out" / "x"):
        (tmp_path / "in" / "missing.png").read_bytes()


def test_removing_a_link_leaves_what_it_points_to(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "link")
    assert _names(tmp_path) == ["kept"]


def test_a_kill_leaves_the_old_folder_or_the_new_one_whole(tmp_path):
    """A child replaces a folder again and again and is killed at random moments."""
    folder, generator = tmp_path / "folder", random.Random(0)

    def write(version: int) -> None:
        with replacing(folder) as temporary:
            temporary.mkdir()
            for name in "abc":
                (temporary / name).write_text(str(version))

    write(0)
    for _ in range(12):
        child = os.fork()
        if not child:
            try:
                for version in range(10**9):
                    write(version)
            finally:
                os._exit(1)
        time.sleep(generator.uniform(0.001, 0.04))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert _names(folder) == ["a", "b", "c"]
        assert len({file.read_text() for file in folder.iterdir()}) == 1


def test_what_cannot_be_written_of_tensors_is_told_in_the_systems_words(tmp_path):
    with pytest.raises(OSError, match="No such file") as caught:
        save_tensors({"0": torch.zeros(3)}, tmp_path / "none" / "a.safetensors", {})
    assert caught.value.errno == errno.ENOENT
