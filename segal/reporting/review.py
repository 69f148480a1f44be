"""The page on which picks are reviewed: one HTML file that asks for nothing from elsewhere.

What names of images and classes say is text, never markup: it goes into the page as JSON, and from
there into text nodes. The page's policy lets its own script and style run, by their digests, and
nothing else; pictures are data within the page.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from segal import __version__

_TEMPLATE, _SCRIPT, _STYLE = "review.html.j2", "review.js", "review.css"


def review_page(
    title: str,
    lead: str,
    data: Mapping[str, Any],
    pictures: Sequence[str],
    reasons: Mapping[str, str],
) -> bytes:
    """The page.

    Args:
        title: Of it.
        lead: What it shows, in a line.
        data: What its script works with, of what JSON can hold.
        pictures: JPEG files as base64; `data` names them by number.
        reasons: Why picks may be skipped, and what that means.

    Returns:
        It, in UTF-8.
    """
    files = resources.files("segal.reporting")
    template, script, style = (
        files.joinpath(name).read_text("utf-8") for name in (_TEMPLATE, _SCRIPT, _STYLE)
    )
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(template).render(
        title=title,
        lead=lead,
        policy=f"default-src 'none'; img-src data:; script-src {_digest(script)}; "
        f"style-src {_digest(style)}; base-uri 'none'; form-action 'none'",
        script=Markup(script),  # the package's own
        style=Markup(style),
        data=Markup(embedded(data)),
        pictures=pictures,
        reasons=reasons,
        version=__version__,
    )
    return text.encode("utf-8", "replace")


def embedded(value: object) -> str:
    r"""A value as JSON that can stand in a page whatever its texts say.

    Examples:
        >>> embedded({"name": "</script>"})
        '{"name":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def _digest(text: str) -> str:
    """A source of a policy: what has this content, and nothing else."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
