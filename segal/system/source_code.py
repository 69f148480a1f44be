"""What code of the user's own says: a digest of the source that an import path leads to."""

import ast
import hashlib
import importlib.util
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_INSTALLED = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib")}
_FOLDERS = {"site-packages", "dist-packages"}
_OURS = __name__.partition(".")[0]


def source_digest(path: str) -> str | None:
    """SHA-256 of a module's source and of that of the modules beside it that it imports.

    Beside it are those below the folder from which its top-level package or module is imported, or,
    where that is a folder of installed packages, those of the same package. Imports are followed
    wherever in a file they stand. It does not matter where the folder lies. Nothing but the parents
    of the module is imported.

    Args:
        path: `package.module:name`, or `package.module`.

    Returns:
        64 hexadecimal digits; None where there is no source to read, as of compiled modules and of
        what is defined in a notebook.

    Example:
        >>> source_digest("json.decoder:JSONDecoder") == source_digest("json.decoder")
        True
        >>> source_digest("builtins:print")
    """
    module = path.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
        origin = Path(spec.origin) if spec and spec.origin and spec.has_location else None
    except (ImportError, ValueError, AttributeError):
        return None
    if origin is None or origin.suffix != ".py" or not origin.is_file():
        return None
    up = len(module.split(".")) - (origin.name != "__init__.py")
    sources = _Sources(origin.resolve().parents[up], module)
    try:
        return sources.digest()
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None


class _Sources:
    """Modules below a folder, as far as one of them leads."""

    def __init__(self, root: Path, module: str) -> None:
        self._root, self._module = root, module
        installed = root in _INSTALLED or root.name in _FOLDERS
        self._only = module.partition(".")[0] if installed else None

    def digest(self) -> str:
        found: dict[str, str] = {}
        ahead = [self._module]
        while ahead:
            module = ahead.pop()
            file = self._file(module)
            if module in found or file is None:
                continue
            source = file.read_bytes()
            found[module] = hashlib.sha256(source).hexdigest()
            package = module if file.name == "__init__.py" else module.rpartition(".")[0]
            ahead += _imports(ast.parse(source), package)
            ahead += [package] if package else []
        return hashlib.sha256(json.dumps(sorted(found.items())).encode()).hexdigest()

    def _file(self, module: str) -> Path | None:
        """Of a module that counts; None for any other."""
        top = module.partition(".")[0]
        if top == _OURS or (self._only is not None and top != self._only):
            return None
        place = self._root.joinpath(*module.split("."))
        files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
        return next((file for file in files if file.is_file()), None)


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Names of modules that a file may import, and of their parents."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            said = "." * node.level + (node.module or "")
            try:
                base = importlib.util.resolve_name(said, package)
            except ImportError:  # beyond the top-level package
                continue
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[: i + 1]) for i in range(len(parts)))
