"""A run's images as its network saw them when picks were made, for pictures of these."""

from pathlib import Path

from segal.config import RunConfig, SelectConfig, read_config
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.jobs.annotate.source import RunSource
from segal.jobs.annotate.spares import excluded_of_run
from segal.jobs.picks import boxes_of, shown_value
from segal.jobs.strategies import configure_run, configure_selection
from segal.models.checkpoint import CheckpointOptions, load_checkpoint
from segal.models.wrapped import Model
from segal.runs.history import CONFIG_FILE, MODEL_FILE, round_folder
from segal.runs.ledger import Ledger
from segal.runs.stages import Phase
from segal.tasks.drawing import Drawn

_SEED = "seed"


def drawn_of(
    ledger: Ledger, source: RunSource, phase: Phase, pool: ImagePool, network: Path | None = None
) -> tuple[Drawn, list[str]]:
    """What pictures of picks are drawn from.

    Args:
        ledger: Of the run.
        source: The run.
        phase: The stage that bought the picks.
        pool: The run's images.
        network: The file of the network; None for that which the run knows.

    Returns:
        It, without a network where there is none any more; and notes.

    Raises:
        SegalError: If a network is named, and cannot be loaded.
    """
    raw, config = read_config(source.folder / CONFIG_FILE, [], {}), source.config
    strategy = (configure_run if isinstance(config, RunConfig) else configure_selection)(raw)[1]
    path, options = _network(source, phase)
    notes: list[str] = []
    model: Model | None = None
    if network is not None:
        model = load_checkpoint(network, options).eval()
    elif path is not None:
        try:
            model = load_checkpoint(path, options).eval()
        except SegalError as error:
            notes = [f"Pictures without what the network saw: {error.problem}."]
    if phase.name == _SEED:
        before = []
    elif isinstance(config, SelectConfig):
        before = ledger.purchases("labelled", 0)
    else:
        earlier = [p for p in ledger.purchases("buy") if (p.round or 0) < phase.round]
        before = [*ledger.purchases(_SEED, 0), *earlier]
    drawn = Drawn(
        pool,
        model,
        shown_value(strategy),
        boxes_of(before),
        config.precision,
        excluded=excluded_of_run(source, pool),
    )
    return drawn, notes


def _network(source: RunSource, phase: Phase) -> tuple[Path | None, CheckpointOptions]:
    config = source.config
    if isinstance(config, SelectConfig):
        options = CheckpointOptions(**config.model.of_checkpoint(), task=config.task)
        return config.checkpoint, options
    options = CheckpointOptions(architecture=config.model.architecture, task=config.task)
    path = round_folder(source.folder, phase.round) / MODEL_FILE
    return (None if phase.name == _SEED else path), options
