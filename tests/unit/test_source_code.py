"""The source that an import path leads to, and what belongs to it."""

import sys

import pytest

from segal.system.source_code import source_digest

FILES = {
    "pack/__init__.py": "",
    "pack/net.py": "from . import blocks\nfrom .deep import layers\nimport helper, numpy, segal\n",
    "pack/blocks.py": "def block():\n    import late\n",
    "pack/deep/__init__.py": "",
    "pack/deep/layers.py": "from ..blocks import block\nfrom .... import beyond\n",
    "pack/aside.py": "",
    "helper.py": "import pack.net\n",
    "late.py": "",
    "unrelated.py": "",
    "segal/__init__.py": "",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Makes a folder of modules, importable while it is the current one."""

    def make(name):
        root = tmp_path / name
        for path, source in FILES.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(source)
        use(root)
        return root

    def use(root):
        for module in [m for m in sys.modules if m.partition(".")[0] in {"pack", "helper", "late"}]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setattr(sys, "path", [str(root), *sys.path[1:]])
        sys.path_importer_cache.clear()

    monkeypatch.setattr(sys, "path", ["", *sys.path])
    return make


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("pack/net.py", True),
        ("pack/blocks.py", True),
        ("pack/deep/layers.py", True),
        ("pack/deep/__init__.py", True),
        ("pack/__init__.py", True),
        ("helper.py", True),
        ("late.py", True),
        ("pack/aside.py", False),
        ("unrelated.py", False),
        ("segal/__init__.py", False),
    ],
)
def test_modules_that_are_imported_from_beside_count(folder, path, counts):
    root = folder("a")
    before = source_digest("pack.net:make")
    assert before is not None
    with (root / path).open("a") as file:
        file.write("# edited\n")
    assert (source_digest("pack.net:make") != before) == counts


def test_it_does_not_matter_where_they_lie(folder):
    folder("a")
    there = source_digest("pack.net:make")
    folder("b")
    assert source_digest("pack.net:make") == there


def test_of_installed_packages_their_own_package_counts(folder):
    root = folder("site-packages")
    before = source_digest("pack.net:make")
    (root / "helper.py").write_text("# edited")
    assert source_digest("pack.net:make") == before
    (root / "pack" / "blocks.py").write_text("# edited")
    assert source_digest("pack.net:make") != before


@pytest.mark.parametrize("path", ["builtins:print", "math:sqrt", "no_such_module:x", "__main__:f"])
def test_where_there_is_no_source(path, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert source_digest(path) is None


def test_what_is_no_python(folder):
    root = folder("a")
    (root / "pack" / "blocks.py").write_bytes(b"\xff\xfe(")
    assert source_digest("pack.net:make") is None
