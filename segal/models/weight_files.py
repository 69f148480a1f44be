"""Tensors out of files; nothing is ever unpickled but tensors and plain values."""

import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from segal.errors import SegalError

_MAX_DEPTH, _MAX_ENTRIES, _MAX_CLASSES = 12, 1_000_000, 1000
_MAX_MAPPINGS = 32  # classes of dictionaries in a file; each takes a turn more
_LEGACY_PICKLES = 4  # magic number, protocol, machine, and then what was saved
_ZIP_MAGIC = b"PK\x03\x04"
_NOT_WEIGHTS = {
    b"version https://git-lfs": "a pointer of Git LFS; `git lfs pull` fetches the file itself",
    b"<": "a web page, as a download that failed leaves it",
    b"\x89HDF": "an HDF5 file, as Keras writes it",
}


@dataclass(frozen=True)
class StoredTensors:
    """What a file holds, however it is nested.

    Attributes:
        tensors: By name: the keys of the dictionaries on the way to a tensor, joined by dots.
        homes: For each of them the name of the dictionary that it lies in; empty for the outermost.
        unread: What was passed over, by name: the classes of pickled objects that are neither
            plain tensors nor plain values.
    """

    tensors: dict[str, Tensor]
    homes: dict[str, str]
    unread: dict[str, str]


def read_tensors(path: Path) -> StoredTensors:
    """Reads the tensors of a `.safetensors` file, or of one that `torch.save` wrote.

    Raises:
        SegalError: If the file is missing or damaged, or holds no dictionary of tensors.
    """
    _check_file(path)
    if path.suffix == ".safetensors":
        try:
            tensors = load_file(path)
        except Exception as error:  # the reader raises many types for a damaged file
            raise _unreadable(path, _reason(path, error)) from error
        return StoredTensors(tensors, dict.fromkeys(tensors, ""), {})
    return _flatten(path, _load(path))


def read_metadata(path: Path) -> dict[str, str]:
    """What is said beside the tensors of a `.safetensors` file; nothing of any other.

    Raises:
        SegalError: If the file is missing or damaged.
    """
    if path.suffix != ".safetensors":
        return {}
    _check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:  # as above
        raise _unreadable(path, _reason(path, error)) from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise SegalError(
            f"{path}: no such file",
            expected="a checkpoint",
            got="a folder" if path.is_dir() else "nothing at that path",
            remedy="check the path",
        )


class _Unread(list[object]):
    """Stands for an object of some class: takes what its pickle gives it, and keeps nothing.

    A list, since torch appends to nothing else.
    """

    name = ""
    mapping = False

    def __new__(cls, *_: object, **__: object) -> Any:
        return OrderedDict() if cls.mapping else super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def append(self, _: object) -> None:
        pass

    def extend(self, _: object) -> None:
        pass


def _load(path: Path) -> object:
    """What `torch.save` wrote, with stand-ins for the objects of all classes that torch refuses.

    No name in the file decides what is imported or called: torch looks the names up among its own
    tensor types and these stand-ins alone.
    """
    try:
        zipped = _is_zip(path)
        stand_ins = _stand_ins(_zipped_globals(path) if zipped else _legacy_globals(path))
    except SegalError:
        raise
    except Exception as error:  # a pickle's damage shows in many ways
        raise _unreadable(path, _reason(path, error)) from error
    names = list(stand_ins)
    for _ in range(_MAX_MAPPINGS):
        try:
            with torch.serialization.safe_globals([(c, name) for name, c in stand_ins.items()]):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except Exception as error:  # as above
            # A dictionary of a class of its own: torch fills none but plain ones.
            found = re.search(r"Can only SETITEMS? .* but got <class '([^']+)'>", str(error))
            kind = stand_ins.get(found[1]) if found else None
            if kind is None or kind.mapping:
                others = f"; it also holds objects of {', '.join(names[:3])}" if names else ""
                raise _unreadable(path, _reason(path, error) + others) from error
            kind.mapping = True
    raise _unreadable(path, f"dictionaries of {_MAX_MAPPINGS} classes, {', '.join(names[:3])}, ...")


def _stand_ins(names: set[str]) -> dict[str, type[_Unread]]:
    if len(names) > _MAX_CLASSES:
        raise ValueError(f"{len(names)} pickled classes")
    made: dict[str, type[_Unread]] = {}
    for name in sorted(names):
        module, _, qualname = name.rpartition(".")
        members = {"__module__": module, "__qualname__": qualname, "name": name}
        made[name] = type(qualname, (_Unread,), members)
    return made


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == _ZIP_MAGIC


def _zipped_globals(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if any(name.endswith("/constants.pkl") for name in names):
            raise _unreadable(path, "a TorchScript archive, which holds code")
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if not pickles:
            what = "an exported program" if path.suffix == ".pt2" else "a zip archive"
            raise _unreadable(path, f"{what} that torch.save did not write")
        # torch.save compresses nothing; what others compressed could be of any size inside.
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise _unreadable(path, "an archive that was compressed after torch.save wrote it")
        found = set[str]()
        for name in pickles:
            with archive.open(name) as file:
                found |= set(_globals(file))
        return found


def _legacy_globals(path: Path) -> set[str]:
    with path.open("rb") as file:
        return {name for _ in range(_LEGACY_PICKLES) for name in _globals(file)}


def _globals(file: IO[bytes]) -> Iterator[str]:
    """Names of the classes and functions of a pickle, as torch calls them."""
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            # Of Python 2.
            module, name = NAME_MAPPING.get(
                (module, name), (IMPORT_MAPPING.get(module, module), name)
            )
            yield f"{module}.{name}"


def _flatten(path: Path, loaded: object) -> StoredTensors:
    stored = StoredTensors({}, {}, {})
    if isinstance(loaded, dict):
        _walk(path, loaded, stored)
    if stored.tensors:
        return stored
    kind = type(loaded).__name__
    if isinstance(loaded, _Unread):
        kind = f"a pickled object of the class {loaded.name}"
    elif stored.unread:
        kind = f"no tensor, but objects of pickled classes: {shown_unread(stored)}"
    raise SegalError(
        f"{path}: not a state_dict",
        expected="a dictionary of tensors",
        got=kind,
        remedy="save the network's state_dict(), not the network: "
        "torch.save(network.state_dict(), FILE)",
    )


def _walk(path: Path, loaded: dict[object, object], stored: StoredTensors) -> None:
    """Collects tensors in the file's order; what lies in two places is taken once."""
    seen, entries = {id(loaded)}, 0
    waiting = deque([("", loaded, 0)])
    while waiting:
        home, container, depth = waiting.popleft()
        for key, value in container.items():
            entries += 1
            if entries > _MAX_ENTRIES:
                raise _unreadable(path, f"more than {_MAX_ENTRIES} entries")
            name = f"{home}.{key}" if home else str(key)
            if isinstance(value, Tensor):
                if not _is_plain(value):
                    stored.unread[name] = "a tensor that is quantised, sparse, nested or empty"
                elif name not in stored.tensors:
                    stored.tensors[name], stored.homes[name] = value, home
            elif isinstance(value, _Unread):
                stored.unread[name] = value.name
            elif isinstance(value, dict | list | tuple) and id(value) not in seen:
                seen.add(id(value))
                inner = value if isinstance(value, dict) else dict(enumerate(value))
                if depth < _MAX_DEPTH:
                    waiting.append((name, inner, depth + 1))


def _is_plain(value: Tensor) -> bool:
    dense = value.layout is torch.strided and not value.is_nested
    return dense and not value.is_quantized and value.device.type == "cpu"


def shown_unread(stored: StoredTensors) -> str:
    """The first pickled objects that were passed over, with their classes."""
    shown = [f"{name} ({kind})" for name, kind in list(stored.unread.items())[:3]]
    return ", ".join(shown) + (", ..." if len(stored.unread) > 3 else "")


def _reason(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(32)
    for magic, what in _NOT_WEIGHTS.items():
        if start.startswith(magic):
            return what
    text = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or "damaged"
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}"


def _unreadable(path: Path, got: str) -> SegalError:
    return SegalError(
        f"{path}: cannot be read as weights",
        expected="a .safetensors file, or one that torch.save wrote of a state_dict",
        got=got,
        remedy="save the network's state_dict() with safetensors or torch.save",
    )
