"""Whether images that are too large for one pass can be looked at as a job asks for it."""

from segal.config import RunConfig, SelectConfig
from segal.data.image_file import MAX_PIXELS, too_many_pixels
from segal.data.pool import ImagePool
from segal.errors import SegalError, raise_all
from segal.jobs.exclusions import takes_parts
from segal.jobs.prices import signals_of
from segal.signals import Signal, in_pieces
from segal.strategies import STRATEGIES
from segal.strategies.base import PassContext, Strategy
from segal.tasks import find_task


def check_large(config: SelectConfig | RunConfig, strategy: Strategy, pool: ImagePool) -> None:
    """Raises a SegalError, before work starts, for large images that a job has no way to look at.

    Args:
        config: Of the job.
        strategy: Its strategy.
        pool: The images.
    """
    large = [i for i in range(len(pool)) if pool.is_large(i)]
    if not find_task(config.task).in_tiles:
        for i in large:
            height, width = pool.shape(i)
            if height * width > MAX_PIXELS:
                raise too_many_pixels(pool.root / pool.paths[i], f"{height} x {width}")
        return
    errors = []
    name = config.strategy["name"]
    if pool.reading.large.no_data == "all" and not takes_parts(strategy):
        errors.append(
            SegalError(
                f"large.no_data: all, and {name} takes whole rectangles",
                expected="a strategy that can leave a part of a region out",
                got=str(name),
                remedy="choose another, such as entropy or uwe; or large.no_data=large",
            )
        )
    if large:
        signals = [*_first(strategy), *signals_of(getattr(config, "budget", "1"))]
        unfit = [signal.column for signal in signals if not in_pieces(signal)]
        if unfit:
            errors.append(_not_in_tiles(pool, large, str(name), unfit))
        if config.store is not None:
            errors.append(
                SegalError(
                    "store: not where images are looked at in tiles",
                    expected=f"images of at most {pool.reading.large.above:g} megapixels",
                    got=f"{pool.paths[large[0]]} and {len(large) - 1} more",
                    remedy="leave store out",
                )
            )
    raise_all(errors)


def _not_in_tiles(pool: ImagePool, large: list[int], name: str, unfit: list[str]) -> SegalError:
    fit = ", ".join(
        known
        for known in STRATEGIES
        if all(in_pieces(signal) for signal in _first(STRATEGIES.get(known)()))
    )
    above = pool.reading.large.above
    return SegalError(
        f"strategy {name}: not on images that are looked at in tiles",
        expected=f"a strategy whose signals are measured tile by tile: {fit}",
        got=f"{', '.join(unfit)}, which {name} measures of whole images; of more than {above:g} "
        f"megapixels are {len(large)} images, such as {pool.paths[large[0]]}",
        remedy="choose one of these; or cut the images, or raise large.above if they fit into "
        "memory",
    )


def _first(strategy: Strategy) -> list[Signal]:
    return list(next(iter(strategy.passes(PassContext())), []))
