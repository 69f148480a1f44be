"""Where a handout may lie: never in the place of what people have done there."""

from collections.abc import Iterator
from pathlib import Path

from segal.annotation.handout import MANIFEST_FILE, Handout
from segal.annotation.manifest import read_manifest_text
from segal.errors import SegalError
from segal.system.files import file_digest

_SHOWN = 5


def digests_of(folder: Path) -> dict[str, str]:
    """sha256 of each file of a handout that is written, by its path in the folder."""
    return {name: file_digest(folder / name) for name in _names(folder)}


def check_place(out: Path, handout: Handout) -> None:
    """Refuses a place where a handout would take away what is there.

    It may take that of an earlier one of the same run, format and mode, in which every file that
    is there is as it was written.

    Args:
        out: The place.
        handout: What would be written.

    Raises:
        SegalError: If something else is there, or files of people.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    earlier = _earlier(out)
    expected = "a folder that is not there yet, that is empty, or an earlier handout"
    if earlier is None:
        raise SegalError(
            f"{out}: something else is there",
            expected=expected,
            got="a file" if out.is_file() else "a folder that segal export did not make",
            remedy="choose another folder with --out",
        )
    if _said(earlier, handout) != _said(handout, handout):
        raise SegalError(
            f"{out}: another handout is there",
            expected=f"{expected}, of {_said(handout, handout)}",
            got=f"one of {_said(earlier, handout)}",
            remedy="choose another folder with --out",
        )
    if new := _new(out, earlier):
        got = ", ".join(new[:_SHOWN]) + f" and {len(new) - _SHOWN} more" * (len(new) > _SHOWN)
        got += ": new, or changed since" if earlier.files else ": it is not known what was written"
        raise SegalError(
            f"{out}: an earlier handout is there, and somebody's work may be in it",
            expected=f"{expected}, whose files are as they were written",
            got=got,
            remedy="bring in first what was done there, with segal import, and choose another "
            "folder with --out",
        )


def _earlier(out: Path) -> Handout | None:
    """The handout that is there; None where it is something else."""
    try:
        return read_manifest_text((out / MANIFEST_FILE).read_text(), str(out))
    except (OSError, UnicodeDecodeError, SegalError):
        return None


def _said(one: Handout, own: Handout) -> str:
    return f"{'this' if one.run == own.run else 'another'} run to {one.kind}, mode {one.mode}"


def _new(out: Path, earlier: Handout) -> list[str]:
    """Files that export did not write, or not like that; those that are gone are no loss."""
    return [
        name
        for name in _names(out)
        if (out / name).is_symlink()
        or not (out / name).is_file()
        or name not in earlier.files
        or file_digest(out / name) != earlier.files[name]
    ]


def _names(folder: Path) -> Iterator[str]:
    """All that is in a handout but folders and its manifest, in order."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            name = path.relative_to(folder).as_posix()
            if name != MANIFEST_FILE:
                yield name
