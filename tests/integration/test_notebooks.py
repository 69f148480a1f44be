"""The notebooks run from top to bottom, and show what they showed when they were committed."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = ["01_tuning_tau", "02_image_vs_region_budgets", "03_what_the_model_does_not_know"]
MOST_BYTES = 1_500_000
SECONDS = 1200
"""For a cell, on a machine that is busy with much else."""
STEADY = "steady"
"""Tag of cells that say the same on every machine; what a network says may differ by rounding."""


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What a cell put out, without what it said."""
    return [
        output.name if output.output_type == "stream" else sorted(output.data)
        for output in cell.outputs
    ]


def text(cell):
    return "".join(o.text for o in cell.outputs if o.output_type == "stream")


def has_picture(cell):
    return any("image/jpeg" in output.get("data", {}) for output in cell.outputs)


def state(folder):
    return {p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir()}


def test_these_are_the_notebooks():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_as_it_was_run(name):
    notebook = read(name)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("plt.show()" in cell.source for cell in cells) >= 4
    for cell in cells:
        assert has_picture(cell) == ("plt.show()" in cell.source), cell.source
        assert bool(text(cell)) == ("print(" in cell.source), cell.source
        assert set(cell.metadata) <= {"tags"}  # no times of this or that machine
    raw = (FOLDER / f"{name}.ipynb").read_text()
    assert len(raw) < MOST_BYTES
    assert "stderr" not in raw
    assert "Warning" not in raw
    words = "".join(cell.source + text(cell) for cell in cells)
    assert not re.search(r"/(home|root|tmp|work|usr|var|Users)/|[A-Z]:\\\\", words)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("SEGAL_NOTEBOOKS", raising=False)
    beside, committed, notebook = state(FOLDER), read(name), read(name)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    for now, then in zip(code_cells(notebook), code_cells(committed), strict=True):
        assert kinds(now) == kinds(then), now.source
        if STEADY in then.metadata.get("tags", []):
            assert text(now) == text(then)
    assert state(FOLDER) == beside
    assert not list(tmp_path.iterdir())
