"""The names that export and import know."""

from segal.annotation.formats import FORMATS
from segal.annotation.review import KIND
from segal.errors import SegalError, raise_all
from segal.registry import nearest

_CHOICES = {
    "mode": ("context", "crop"),
    "conflicts": ("error", "ignore"),
    "untouched": ("accept", "ignore"),
}


def check_choices(**given: str) -> None:
    """Raises a SegalError for names that are none, all at once.

    Args:
        **given: Options by name; `to` and `kind` are formats.
    """
    errors = []
    for option, value in given.items():
        known = [*_CHOICES.get(option, FORMATS), *([KIND] if option == "kind" else [])]
        if value in known or (option == "kind" and not value):
            continue
        alike = nearest(value, known)
        errors.append(
            SegalError(
                f"{'from' if option == 'kind' else option}: {value!r}",
                expected=f"one of {', '.join(known)}",
                got=value,
                remedy=f"did you mean {alike}?" if alike else "choose one of these",
            )
        )
    raise_all(errors)
