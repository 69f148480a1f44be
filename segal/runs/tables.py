"""Tables of a ledger, and what brings those of older versions up to date."""

from segal.runs.run_folder import INPUTS_TABLE

_SHAPES = """CREATE TABLE shapes (
        image INTEGER PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
        height INTEGER NOT NULL CHECK (height > 0), width INTEGER NOT NULL CHECK (width > 0))"""
"""Of images that are read in another size than they are bought in, which `images` has."""
_CORRECTIONS = """CREATE TABLE corrections (
        phase INTEGER NOT NULL, rank INTEGER NOT NULL, found TEXT NOT NULL,
        since INTEGER NOT NULL,
        FOREIGN KEY (phase, rank) REFERENCES purchases (phase, rank))"""
"""Purchases whose label was another one when they were trained on first."""
_EXCLUDED = """CREATE TABLE excluded (
        image INTEGER PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
        pixels INTEGER NOT NULL CHECK (pixels > 0))"""
"""Of images, what is never annotated."""
_RETURNS = (
    """CREATE TABLE handouts (
        id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
        file TEXT NOT NULL, made TEXT NOT NULL)""",
    """CREATE TABLE returns (
        id INTEGER PRIMARY KEY, phase INTEGER NOT NULL, rank INTEGER NOT NULL,
        annotator TEXT NOT NULL, version INTEGER NOT NULL CHECK (version > 0),
        label TEXT NOT NULL, file TEXT NOT NULL UNIQUE, sha256 TEXT NOT NULL,
        seconds REAL CHECK (seconds >= 0), source TEXT NOT NULL, counts TEXT NOT NULL,
        booked TEXT NOT NULL,
        UNIQUE (phase, rank, annotator, version),
        FOREIGN KEY (phase, rank) REFERENCES purchases (phase, rank))""",
)
"""What was handed out to annotators, and what came back of it, old versions included."""
_SKIPS = """CREATE TABLE skips (
        phase INTEGER NOT NULL REFERENCES phases (id), strategy TEXT NOT NULL,
        image INTEGER NOT NULL REFERENCES images (id),
        x0 INTEGER NOT NULL, y0 INTEGER NOT NULL, x1 INTEGER NOT NULL, y1 INTEGER NOT NULL,
        pixels INTEGER NOT NULL CHECK (pixels > 0), score REAL NOT NULL,
        reason TEXT NOT NULL, booked TEXT NOT NULL, UNIQUE (image, x0, y0, x1, y1))"""
"""Picks that a review took back before anybody labelled them; they are never offered again."""
_POOL_CHANGES = """CREATE TABLE pool_changes (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('add', 'move', 'withdraw')),
        image TEXT NOT NULL, digest TEXT NOT NULL, step INTEGER NOT NULL CHECK (step >= 0),
        x0 INTEGER, y0 INTEGER, x1 INTEGER, y1 INTEGER,
        pixels INTEGER NOT NULL CHECK (pixels >= 0), file TEXT NOT NULL, reason TEXT NOT NULL,
        made TEXT NOT NULL)"""
"""What became of the pool since the run began; rows are added, and never changed."""
_TEXTS = """CREATE TABLE texts (
        path TEXT PRIMARY KEY, sha256 TEXT NOT NULL, data BLOB NOT NULL)"""
"""Small files that no table can tell, compressed, so that they are made again if they are lost."""
SCHEMA = (
    """CREATE TABLE images (
        id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE,
        height INTEGER NOT NULL CHECK (height > 0), width INTEGER NOT NULL CHECK (width > 0),
        digest TEXT NOT NULL, bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL)""",
    _SHAPES,
    """CREATE TABLE phases (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, round INTEGER NOT NULL,
        fingerprint TEXT NOT NULL, finished TEXT NOT NULL, seconds REAL NOT NULL,
        UNIQUE (name, round))""",
    """CREATE TABLE artefacts (
        phase INTEGER NOT NULL REFERENCES phases (id), path TEXT NOT NULL,
        bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (phase, path))""",
    """CREATE TABLE purchases (
        phase INTEGER NOT NULL REFERENCES phases (id), rank INTEGER NOT NULL CHECK (rank > 0),
        strategy TEXT NOT NULL, image INTEGER NOT NULL REFERENCES images (id),
        x0 INTEGER NOT NULL CHECK (x0 >= 0), y0 INTEGER NOT NULL CHECK (y0 >= 0),
        x1 INTEGER NOT NULL CHECK (x1 > x0), y1 INTEGER NOT NULL CHECK (y1 > y0),
        pixels INTEGER NOT NULL CHECK (pixels > 0), score REAL NOT NULL,
        clicks INTEGER CHECK (clicks >= 0), label TEXT,
        PRIMARY KEY (phase, rank), UNIQUE (image, x0, y0, x1, y1))""",
    _CORRECTIONS,
    _EXCLUDED,
    *_RETURNS,
    _SKIPS,
    _POOL_CHANGES,
    _TEXTS,
)
UPGRADES = {
    1: ("ALTER TABLE purchases ADD COLUMN clicks INTEGER CHECK (clicks >= 0)",),
    2: (_SHAPES,),
    3: (INPUTS_TABLE, "ALTER TABLE purchases ADD COLUMN label TEXT", _CORRECTIONS, _EXCLUDED),
    4: _RETURNS,
    5: (_SKIPS,),
    6: (_POOL_CHANGES, _TEXTS),
}
