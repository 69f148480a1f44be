"""Writes the report of one or several runs of rounds, or of a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segal.errors import SegalError
from segal.reporting.arms import Arm, check_axis, gather
from segal.reporting.details import read_small_json
from segal.reporting.embedding import METHODS, Method
from segal.reporting.page import draw_report
from segal.reporting.protocol import check_protocol
from segal.reporting.results import given_tables
from segal.reporting.tables import Table
from segal.runs.history import AXES, Axis, History, read_history
from segal.runs.run_folder import LEDGER_FILE
from segal.system.console import bar
from segal.system.files import replacing, write_bytes

RUNS_FOLDER, COMPARISON_FILE, SUMMARY_FILE = "runs", "comparison.json", "summary.json"
_MARK = ".segal-report"
"""A file in the folder beside a page, by which a later report knows that it may replace it."""


def write_report(
    folders: Sequence[Path], out: Path, *, axis: Axis = "share", embedding: str = "pca"
) -> Path:
    """Writes a page, and beside it a folder `<name of the page>_files` of PNG and CSV files.

    Args:
        folders: Run folders of one protocol, or a comparison's folder alone.
        out: The HTML file.
        axis: What the cost is counted in: `share`, `regions`, `pixels`, `images` or `clicks`.
        embedding: `pca`, or `tsne`.

    Returns:
        The page.

    Raises:
        SegalError: If a folder is no run, a run has no evaluated round, the protocols differ, the
            cost is not known on the axis, or the page cannot be written.
    """
    _check_choice("axis", axis, AXES)
    method = _method(embedding)
    beside = out.with_name(f"{out.stem}_files")
    _check_out(out, beside)
    with bar("Reading runs") as advance:
        source = _find(folders)
        histories = []
        for folder in source.folders:
            histories.append(read_history(folder))
            advance(len(histories), len(source.folders))
    check_protocol(histories)
    arms = gather(source.by_arm(histories))
    check_axis(arms, axis)
    with bar("Drawing the report") as advance:
        report = draw_report(
            arms,
            axis=axis,
            method=method,
            tables=source.tables,
            statement=source.statement,
            notes=source.notes,
            title=_title(folders, arms),
            files_folder=beside.name,
            progress=advance,
        )
    with replacing(beside) as temporary:
        temporary.mkdir()
        (temporary / _MARK).write_bytes(b"")
        for name, data in report.files.items():
            (temporary / name).write_bytes(data)
    write_bytes(out, report.html.encode("utf-8", "replace"))
    return out


@dataclass(frozen=True)
class _Source:
    """What a report is made of.

    Attributes:
        folders: Of the runs.
        arms: The arm of each; empty where their settings tell.
        tables: Of a comparison.
        statement: What a comparison says first; empty where there is none.
        notes: On runs that are left out.
    """

    folders: Sequence[Path]
    arms: Sequence[str] = ()
    tables: Sequence[Table] = ()
    statement: str = ""
    notes: Sequence[str] = ()

    def by_arm(
        self, histories: Sequence[History]
    ) -> Mapping[str, Sequence[History]] | Sequence[History]:
        """Runs by the name of their arm, where they have one."""
        if not self.arms:
            return histories
        named: dict[str, list[History]] = {}
        for arm, history in zip(self.arms, histories, strict=True):
            named.setdefault(arm, []).append(history)
        return named


def _find(folders: Sequence[Path]) -> _Source:
    comparisons = [folder for folder in folders if _is_comparison(folder)]
    if not comparisons:
        return _Source(list(dict.fromkeys(folder.resolve() for folder in folders)))
    if len(folders) > 1:
        raise SegalError(
            f"{comparisons[0]}: a comparison, among other folders",
            expected="run folders, or one comparison folder alone",
            got=", ".join(map(str, folders[:5])),
            remedy="report on the comparison by itself",
        )
    folder = comparisons[0]
    runs = sorted(path.parent for path in (folder / RUNS_FOLDER).glob(f"*/*/{LEDGER_FILE}"))
    # A run that is still at work would cut its arm's curve to the rounds that it has.
    finished = [run for run in runs if (run / SUMMARY_FILE).is_file()]
    if not finished:
        raise SegalError(
            f"{folder}: no run of this comparison is finished",
            expected="at least one finished run",
            got=f"{len(runs)} that are not",
            remedy="go on with segal compare",
        )
    notes = [f"{_name(run)}: not finished, and left out." for run in runs if run not in finished]
    found = read_small_json(folder / COMPARISON_FILE)
    analysis = found if isinstance(found, dict) else {}
    planned, missing = _planned(analysis)
    if planned:
        begun = {_name(run) for run in runs}
        notes += [f"{name}: not begun, and left out." for name in sorted(planned - begun)]
        notes += [
            f"{_name(run)}: no longer a run of the comparison, and left out."
            for run in finished
            if _name(run) not in planned
        ]
        finished = [run for run in finished if _name(run) in planned]
        newer = [run for run in finished if _name(run) in missing]
        if newer:
            notes.append(
                f"The tables under Comparison are older than {'; '.join(map(_name, newer))}: give "
                "segal compare again."
            )
    return _Source(
        finished,
        [run.parent.name for run in finished],
        given_tables(analysis.get("tables")),
        str(analysis.get("statement", "")),
        notes,
    )


def _name(run: Path) -> str:
    return f"{run.parent.name}, {run.name}"


def _planned(analysis: Mapping[str, object]) -> tuple[set[str], set[str]]:
    """Names of a comparison's runs when it was analysed, and of those that were not there yet."""
    planned, missing = analysis.get("runs"), analysis.get("missing")
    if not (isinstance(planned, dict) and isinstance(missing, list)):
        return set(), set()
    names = {
        f"{arm}, seed-{seed}"
        for arm, seeds in planned.items()
        for seed in (seeds if isinstance(seeds, list) else [])
    }
    return names, {str(title).replace(", seed ", ", seed-") for title in missing}


def _is_comparison(folder: Path) -> bool:
    return (folder / RUNS_FOLDER).is_dir() and not (folder / LEDGER_FILE).exists()


def _title(folders: Sequence[Path], arms: Sequence[Arm]) -> str:
    if len(folders) == 1:
        return f"Results of {folders[0].resolve().name}"
    return f"Results of {sum(len(arm.runs) for arm in arms)} runs"


def _method(embedding: str) -> Method:
    _check_choice("embedding", embedding, METHODS)
    return "tsne" if embedding == "tsne" else "pca"


def _check_choice(name: str, given: str, choices: Sequence[str]) -> None:
    if given not in choices:
        raise SegalError(
            f"{name}: no such choice",
            expected=", ".join(choices),
            got=repr(given),
            remedy=f"give for example --{name} {choices[0]}",
        )


def _check_out(out: Path, beside: Path) -> None:
    if out.suffix.lower() not in {".html", ".htm"} or out.is_dir():
        raise SegalError(
            f"{out}: not a page to write",
            expected="a file that ends in .html",
            got="a folder" if out.is_dir() else repr(out.name),
            remedy="give for example --out report.html",
        )
    if beside.exists() and not (beside / _MARK).is_file():
        raise SegalError(
            f"{beside}: there is something else already",
            expected="nothing, or the files of an earlier report",
            got="a folder that segal report did not make" if beside.is_dir() else "a file",
            remedy="choose another --out, or move it away",
        )
