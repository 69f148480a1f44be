"""Pages of picks as tests read them, and reviews as a page would save them."""

import json
import re


def page_data(page):
    """What the script of a page works with."""
    text = page.read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def write_review(path, page, skipped, *, kept=(), order=None, **changed):
    """A review of what a page shows.

    Args:
        path: The file.
        page: The page.
        skipped: Reasons by place, from 0.
        kept: Places.
        order: Places in the order that is wanted.
        changed: Of the file.
    """
    file = page_data(page)["file"]
    picks = file["picks"]
    decisions = [{"pick": picks[i], "decision": "keep"} for i in kept]
    decisions += [
        {"pick": picks[i], "decision": "skip", "reason": reason} for i, reason in skipped.items()
    ]
    order = [picks[i] for i in (range(len(picks)) if order is None else order)]
    path.write_text(json.dumps({**file, "order": order, "decisions": decisions, **changed}))
    return path
