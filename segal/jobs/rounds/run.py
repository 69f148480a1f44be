"""`segal run`: rounds of train, evaluate, scan, select and buy, in a run folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from segal.config import RunConfig
from segal.jobs.inputs import check_channels, named_inputs, refuse_out_within
from segal.jobs.keeping import check_keeping
from segal.jobs.large import check_large
from segal.jobs.losses import TrainedBy
from segal.jobs.network import (
    check_sizes,
    draw_scenes,
    initial_model,
    refuse_two_sources,
    resolved,
    with_folder,
)
from segal.jobs.own_code import code_notes, identity_of
from segal.jobs.picks import measured_with
from segal.jobs.rounds.loop import Rounds
from segal.jobs.rounds.run_data import RunData, check_budgets
from segal.jobs.rounds.seeding import seeding_of
from segal.jobs.strategies import check_network, notes_of_loss
from segal.jobs.threads import fix_threads
from segal.runs.following import open_shared
from segal.runs.history import COMMAND, CONFIG_FILE, History, read_history
from segal.runs.ledger import GROWS, Ledger
from segal.runs.texts import keep_text
from segal.strategies.base import Strategy, check_images
from segal.system.console import tell
from segal.system.files import write_bytes
from segal.system.machine import find_device, precision_note, use_threads
from segal.system.ranks import all_ranks
from segal.tasks import find_task
from segal.training.balance import check_class_weights
from segal.training.pieces import pieces_notes


@dataclass(frozen=True)
class RunOutcome:
    """What a run came to.

    Attributes:
        history: Its rounds.
        notes: What the user should be told about how it went.
    """

    history: History
    notes: Sequence[str]


def run_rounds(config: RunConfig, strategy: Strategy, *, start: Path | None = None) -> RunOutcome:
    """Runs the rounds and writes the run folder `config.out`.

    Args:
        config: The configuration.
        strategy: The strategy that `config.strategy` names.
        start: The folder of a run whose first round is the same, such as another arm's: what it has
            finished of the seed set and the first training and evaluation is taken over.

    Raises:
        SegalError: For anything that the user can mend.
    """
    config = with_folder(config)
    refuse_two_sources(config)
    refuse_out_within(config.out, config.data.root, "data set")
    device = find_device(config.machine.device)
    use_threads(config.machine.threads)
    of_loss = notes_of_loss(strategy, TrainedBy.settings(config.train))
    tell(*of_loss)
    draw_scenes(config.data)
    data = RunData.open(config)
    check_budgets(config, data)
    check_class_weights(config.train, data.pool_set.classes.names)
    check_images(strategy, data.pool_set.pool.paths)
    check_large(config, strategy, data.pool_set.pool)
    task = find_task(config.task)
    model = initial_model(config, task.outline_of(data.pool_set))
    check_channels(model.spec, *data.pools())
    check_network(strategy, model.eval())
    check_keeping(config, model, data.pool_set.pool)
    pool = data.pool_set.pool
    check_sizes(model, config.train.crop, pool, pool, *(x.pool for x in data.held_out.values()))
    ranks = all_ranks()
    notes = [*model.notes, *pieces_notes(config.train, model, ranks)]
    config = resolved(config, model.spec)
    seeding = seeding_of(config, device, data)
    if seeding is not None:
        notes = list(dict.fromkeys([*notes, *seeding.check()]))
    measured = measured_with(model) if config.measure_picks else ()
    del model
    identity = identity_of(config)
    notes = [*notes, *of_loss, *code_notes(identity)]
    opened = open_shared(
        *(config.out, COMMAND, identity),
        ranks=ranks,
        grows=GROWS,
        inputs=data.inputs(),
        seen=named_inputs({"the pool": data.pool_set}, {"the pool": ()}),
    )
    with opened as ledger:
        ledger.alone(lambda: _write_config(config, ledger))
        rounds = Rounds(config, strategy, ledger, device, data, start, measured)
        rounds.notes += [*notes, *fix_threads(ledger, config.machine.threads)]
        rounds.run()
    slow = precision_note(device, config.precision)
    notes = [note for pool in data.pools() for note in pool.notes(labelled=True)]
    notes += [slow] if slow else []
    return RunOutcome(read_history(config.out), [*notes, *rounds.notes])


def _write_config(config: RunConfig, ledger: Ledger) -> None:
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_bytes(config.out / CONFIG_FILE, text.encode())
    keep_text(ledger, CONFIG_FILE)
