"""Runs a comparison, arms times seeds, shared by any number of processes; then analyses it."""

import json
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from segal import __version__
from segal.comparison import Question, Table, analyse, gather, statement, write_tables
from segal.config import CompareConfig
from segal.errors import SegalError
from segal.jobs.comparing.arms import Arm, check_networks, check_pools
from segal.jobs.comparing.corrected import corrected_runs
from segal.jobs.comparing.report import write_report
from segal.jobs.network import draw_scenes
from segal.jobs.planning import Plan, PlannedRun
from segal.jobs.rounds.loop import SUMMARY_FILE
from segal.jobs.rounds.run import run_rounds
from segal.reporting.protocol import alike_notes, check_protocol, flat
from segal.runs.database import lock
from segal.runs.history import History, read_history
from segal.runs.ledger import GROWS, Ledger
from segal.runs.run_folder import LEDGER_FILE, fingerprint, goes_on
from segal.system.console import bar, say, tell
from segal.system.files import read_error, remove, write_bytes, write_error, write_json

CONFIG_FILE, COMPARISON_FILE = "compare.yaml", "comparison.json"
TABLES_FOLDER, REPORT_FILE = "tables", "report.html"
_ARM_FILE, _SCENES_FILE, _LOGS_FOLDER = "arm.json", ".scenes.json", "logs"
_POLL_SECONDS = 2.0
_OF_THE_FULL_ARM = (
    "; where the others' budgets went on, the fully supervised arm has as many steps more, and is "
    "trained anew under another name"
)


@dataclass(frozen=True)
class ComparisonOutcome:
    """What a comparison came to.

    Attributes:
        file: `comparison.json`.
        tables: What it says.
        missing: Titles of the runs that are not there yet.
    """

    file: Path
    tables: Sequence[Table]
    missing: Sequence[str]


def run_comparison(plan: Plan, *, processes: int = 1, partial: bool = False) -> ComparisonOutcome:
    """Does the runs that are not done yet, and analyses all of them.

    Processes that are given the same comparison, on one machine or on several with a common file
    system, share the runs: each takes the next that nobody holds, and the last writes the analysis.

    Args:
        plan: The comparison.
        processes: How many take part; all but this one are started here.
        partial: Do no run, and analyse those that are finished.

    Raises:
        SegalError: If the folder holds another comparison or an arm under other settings, if runs
            failed (those that did not are analysed first), or if none of the baseline is finished.
    """
    out = plan.config.out
    failed: dict[str, str] = {}
    tell(*alike_notes({arm.name: arm.identity for arm in plan.arms}))
    if partial:
        _check_begun(plan)
    else:
        with _alone(out):
            _check_begun(plan)
            _record(plan)
            _draw_scenes(plan)
            _reopen_corrected(plan)
            waiting = [arm for arm in plan.arms if not _has_begun(arm)]
            check_networks(waiting)
            check_pools(waiting)
        with _helpers(plan, processes):
            failed = _share_work(plan.runs, _threads(plan.config, processes))
    missing = [run.title for run in plan.runs if run.arm and not _is_done(run)]
    try:
        with _alone(out):
            outcome = _write_analysis(plan, missing)
    except SegalError as error:
        if failed:  # of which it may well be the consequence
            raise _failure(plan, failed, f"cannot be compared: {error.problem}") from error
        raise
    if failed:
        raise _failure(plan, failed, f"are reported in {outcome.file}")
    return outcome


def is_finished(run: Path, budgets: Sequence[str] = ()) -> bool:
    """Whether a run of rounds has come to its end.

    Args:
        run: Its folder.
        budgets: All that it is to buy by; those that it was begun with may be fewer.

    Raises:
        SegalError: If a file of it is damaged.
    """
    if not ((run / SUMMARY_FILE).is_file() and (run / LEDGER_FILE).is_file()):
        return False
    with Ledger.read(run) as ledger:
        configuration = ledger.configuration
    ended = _read_json(run / SUMMARY_FILE)["fingerprint"] == fingerprint(configuration)
    return ended and configuration["budgets"] == list(budgets)


def _is_done(run: PlannedRun) -> bool:
    return is_finished(run.config.out, run.config.budgets)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other process writes in the comparison's own folder, and keeps it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    while True:
        try:
            descriptor = lock(folder)
            break
        except SegalError as error:
            if not _is_held(error):
                raise
            time.sleep(_POLL_SECONDS / 10)
    try:
        yield
    finally:
        os.close(descriptor)


def _is_held(error: SegalError) -> bool:
    """Whether an error says that another process is at work in a folder."""
    return isinstance(error.__cause__, BlockingIOError)


def _check_begun(plan: Plan) -> None:
    """Refuses a folder of something else, and arms that have begun under other settings."""
    out = plan.config.out
    if not (out / CONFIG_FILE).exists():
        there = out.iterdir() if out.is_dir() else ()
        others = sorted(p.name for p in there if not p.name.startswith("."))
        if others:
            raise SegalError(
                f"{out}: not a folder of segal compare, and not empty",
                expected="a folder that is not there yet, that is empty, or a comparison's",
                got=f"a folder that holds {', '.join(map(repr, others[:3]))}",
                remedy="choose another folder with --out",
            )
    for arm in _all_arms(plan):
        _check_arm(arm)


def _all_arms(plan: Plan) -> list[Arm]:
    return [*plan.arms, *plan.starts]


def _has_begun(arm: Arm) -> bool:
    return any(arm.config.out.glob(f"*/{LEDGER_FILE}"))


def _check_arm(arm: Arm) -> None:
    file = arm.config.out / _ARM_FILE
    if not (_has_begun(arm) and file.exists()):
        return
    begun = _read_json(file)
    if goes_on(begun, arm.identity, GROWS):
        return
    there, here = flat(begun), flat(arm.identity)
    differing = [
        f"\n    {key}: {there.get(key, 'not set')} in the folder, {here.get(key, 'not set')} now"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differing:
        raise SegalError(
            f"{arm.config.out}: holds runs of other settings",
            expected=f"those of arm {arm.name!r}, fingerprint {fingerprint(here)[:12]}",
            got=f"fingerprint {fingerprint(there)[:12]}, which differs in" + "".join(differing),
            remedy="give the arm another name, or the comparison another --out"
            + (_OF_THE_FULL_ARM if arm.full and "train.iterations" in there else ""),
        )


def _record(plan: Plan) -> None:
    """Writes what the arms are, once their runs begin, and the configuration."""
    for arm in _all_arms(plan):
        file = arm.config.out / _ARM_FILE
        if not file.exists() or _read_json(file) != arm.identity:
            write_json(file, arm.identity)
    text = yaml.safe_dump(plan.config.model_dump(mode="json"), sort_keys=False)
    write_bytes(plan.config.out / CONFIG_FILE, text.encode())


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return values
    except OSError as error:
        raise read_error(file, error, "a file of the comparison") from error
    except ValueError as error:
        raise SegalError(
            f"{file}: damaged",
            expected="the file that segal compare wrote",
            got=str(error),
            remedy="remove it, and run the same command again",
        ) from error


def _draw_scenes(plan: Plan) -> None:
    """Draws made-up scenes, where the data set is such, once and for all runs."""
    data, drawn = plan.arms[0].config.data, plan.config.out / _SCENES_FILE
    wanted = data.model_dump(mode="json", include={"root", "scenes"})
    if data.scenes is not None and not (drawn.exists() and _read_json(drawn) == wanted):
        draw_scenes(data)
        write_json(drawn, wanted)


def _reopen_corrected(plan: Plan) -> None:
    """Lets go on what was finished with labels that were corrected since."""
    for folder in corrected_runs([run for run in plan.runs if _is_done(run)]):
        remove(folder / SUMMARY_FILE)  # which says that a run came to its end


# Sharing the work


def _threads(config: CompareConfig, processes: int) -> int | None:
    """Threads of each process: one where several share a machine, unless it is said otherwise."""
    given = config.machine.threads
    return 1 if given is None and processes > 1 and "OMP_NUM_THREADS" not in os.environ else given


@contextmanager
def _helpers(plan: Plan, processes: int) -> Iterator[None]:
    """Starts further processes of the same comparison, and waits for them at the end."""
    started: list[tuple[subprocess.Popen[bytes], Path]] = []
    try:
        for number in range(1, processes):
            started.append(_start_helper(plan, number, _threads(plan.config, processes)))
        yield
        for process, log in started:
            if process.wait() != 0:
                tell(f"A helping process stopped with {process.returncode}: see {log}")
    finally:
        for process, _ in started:
            process.terminate()  # nothing happens to those that have ended


def _start_helper(
    plan: Plan, number: int, threads: int | None
) -> tuple[subprocess.Popen[bytes], Path]:
    out = plan.config.out
    command = [sys.executable, "-m", "segal", "compare", "--config", str(out / CONFIG_FILE)]
    command += [] if threads is None else ["--threads", str(threads)]
    log = out / _LOGS_FOLDER / f"{socket.gethostname()}-{os.getpid()}-{number}.txt"
    try:
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as stream:
            return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT), log
    except OSError as error:
        raise write_error(log, error) from error


def _share_work(runs: Sequence[PlannedRun], threads: int | None) -> dict[str, str]:
    """Does runs that are not finished and that nobody holds, until all are done or have failed.

    Returns:
        What went wrong, by the run's title.
    """
    waiting = [run for run in runs if not _is_done(run)]
    failed: dict[Path, tuple[str, str]] = {}
    is_waiting = False
    while waiting:
        run = next((r for r in waiting if _is_free(r, failed.keys())), None)
        if run is None:
            if not is_waiting:
                say(f"Waiting for {len(waiting)} runs that other processes hold or that need those")
            is_waiting = True
            time.sleep(_POLL_SECONDS)
        else:
            if run.start in failed:
                outcome, why = "failed", f"its {failed[run.start][0]} failed"
            else:
                say(f"{run.title}: {len(waiting)} of {len(runs)} runs are left")
                outcome, why = _attempt(run, threads)
            if outcome == "failed":
                failed[run.config.out] = (run.title, why)
            if outcome != "held":
                waiting.remove(run)
            is_waiting = False
        waiting = [r for r in waiting if not _is_done(r)]
    return dict(failed.values())


def _is_free(run: PlannedRun, failed: Iterable[Path]) -> bool:
    """Whether a run could be begun now."""
    if run.start is not None and run.start not in failed and not is_finished(run.start):
        return False
    if not run.config.out.is_dir():
        return True
    try:
        os.close(lock(run.config.out))
    except SegalError as error:
        return not _is_held(error)  # what else is wrong the run itself will say
    return True


def _attempt(run: PlannedRun, threads: int | None) -> tuple[Literal["done", "held", "failed"], str]:
    machine = run.config.machine.model_copy(update={"threads": threads})
    data = run.config.data.model_copy(update={"scenes": None})  # drawn already, for all processes
    config = run.config.model_copy(update={"machine": machine, "data": data})
    try:
        run_rounds(config, run.strategy, start=run.start)
    except SegalError as error:
        if _is_held(error):
            return "held", ""
        return "failed", str(error)
    except Exception as error:  # the others are not to be lost with it
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {error}"
    return "done", ""


def _failure(plan: Plan, failed: Mapping[str, str], others: str) -> SegalError:
    return SegalError(
        f"{plan.config.out}: {len(failed)} runs failed; the others {others}",
        expected="every arm at every seed",
        got="".join(f"\n    {title}: {why}" for title, why in failed.items()),
        remedy="mend what is wrong, and give the same command again: finished runs are kept",
    )


# The analysis


def _write_analysis(plan: Plan, missing: Sequence[str]) -> ComparisonOutcome:
    """Writes the tables and the report of the runs that are finished, unless they are there."""
    config, file = plan.config, plan.config.out / COMPARISON_FILE
    report = config.out / REPORT_FILE
    histories = {
        arm.name: {
            seed: read_history(arm.config.out / f"seed-{seed}")
            for seed in arm.seeds
            if is_finished(arm.config.out / f"seed-{seed}", arm.config.budgets)
        }
        for arm in plan.arms
    }
    inputs = _inputs(config, histories)
    if file.exists() and report.exists():
        there = _read_json(file)
        if there.get("inputs") == inputs:
            return ComparisonOutcome(file, [Table.from_dict(t) for t in there["tables"]], missing)
    check_protocol([history for runs in histories.values() for history in runs.values()])
    full = [arm.name for arm in plan.arms if arm.full]
    with bar("Comparing") as advance:
        tables = analyse(gather(histories, full), _question(config), advance)
    remove(report)  # it is written last, and says that the rest is there
    write_tables(tables, config.out / TABLES_FOLDER)
    values = {
        "inputs": inputs,
        "statement": statement(tables),
        "runs": {arm.name: list(arm.seeds) for arm in plan.arms},
        "missing": list(missing),
        "tables": [table.as_dict() for table in tables],
    }
    write_json(file, values)
    write_report([config.out], report, axis=config.axis)
    return ComparisonOutcome(file, tables, missing)


def _question(config: CompareConfig) -> Question:
    primary = config.primary
    return Question(
        baseline=config.baseline,
        primary=(primary.arm, primary.against) if primary is not None else None,
        target=config.target,
        axis=config.axis,
        permutations=config.permutations,
        label_permutation=config.label_permutation,
    )


def _inputs(config: CompareConfig, histories: Mapping[str, Mapping[int, History]]) -> str:
    """What the analysis depends on."""
    settings = config.identity()
    runs = [
        [name, seed, history.fingerprint, [r.metrics[history.report_split] for r in history.rounds]]
        for name, by_seed in histories.items()
        for seed, history in by_seed.items()
    ]
    return fingerprint([__version__, settings, runs])
