"""What is labelled already: files and run folders, and images that are not what they were."""

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from segal.candidates.regions import Box
from segal.candidates.selection import Selected, read_selection, write_selection
from segal.data.images import ImageInfo
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.jobs.labelled import Labelled
from segal.runs.ledger import Ledger, Purchase
from tests.fake_runs import make_run

_BOXES = [(x, y, x + 32, y + 32) for y in (0, 32) for x in (0, 32, 64)]


def _pool(**digests: str) -> ImagePool:
    return ImagePool(
        root=Path("images"),
        paths=tuple(f"{name}.png" for name in digests),
        infos=tuple(ImageInfo(64, 96, digest) for digest in digests.values()),
        stats=((100, 1),) * len(digests),
    )


_POOL = _pool(a="1", b="2", c="3")


def _select(
    folder: Path, picks: Iterable[tuple[str, Box]], labelled: Iterable[tuple[str, Box]] = ()
) -> Path:
    """The run folder of a selection, as far as what is labelled is read of it."""
    picked = [Selected(i, image, box, 1024, 0.5) for i, (image, box) in enumerate(picks, 1)]
    with Ledger.open(folder, "select", {}) as ledger:
        ledger.record_images(_POOL)
        before = [Purchase(i, "labelled", im, box, 0.0) for i, (im, box) in enumerate(labelled, 1)]
        ledger.finish("labelled", 0, "x", purchases=before)
        write_selection(folder / "selection.csv", picked)
        bought = [Purchase(s.rank, "uwe", s.image, s.box, s.score) for s in picked]
        ledger.finish("select", 0, "x", [folder / "selection.csv"], purchases=bought)
    return folder


def _found(labelled: Labelled, pool: ImagePool = _POOL) -> set[tuple[str, Box]]:
    boxes = labelled.boxes(pool)
    assert all(len(set(found)) == len(found) for found in boxes.values())
    return {(pool.paths[i], box) for i, found in boxes.items() for box in found}


@pytest.fixture
def chain(tmp_path):
    """Two selections, the second of which was given the first as labelled."""
    first = [("a.png", _BOXES[0]), ("b.png", _BOXES[1])]
    second = [("c.png", _BOXES[2]), ("a.png", _BOXES[3])]
    return (
        (_select(tmp_path / "r1", first), first),
        (_select(tmp_path / "r2", second, first), second),
    )


def test_a_file_that_its_ledger_adds_nothing_to_is_taken_as_it_is(chain):
    (r1, first), _ = chain
    labelled = Labelled.open([r1 / "selection.csv"])
    assert _found(labelled) == set(first)
    assert labelled.notes == []
    assert labelled.boxes(_POOL) == labelled.first(_POOL)


def test_what_was_labelled_before_is_not_forgotten(chain):
    (r1, first), (r2, second) = chain
    both = Labelled.open([r1 / "selection.csv", r2 / "selection.csv"])
    assert _found(both) == {*first, *second}
    assert both.notes == []
    alone, folder = Labelled.open([r2 / "selection.csv"]), Labelled.open([r2])
    assert _found(alone) == _found(folder) == {*first, *second}
    assert len(alone.notes) == 1
    assert "2 more regions" in alone.notes[0]
    assert folder.notes == []
    for labelled in (both, alone, folder):  # what came before r2 was bought first
        assert labelled.first(_POOL) == {0: [_BOXES[0]], 1: [_BOXES[1]]}


def test_a_copy_in_another_folder_is_taken_alone(chain, tmp_path):
    _, (r2, second) = chain
    copy = tmp_path / "elsewhere" / "selection.csv"
    copy.parent.mkdir()
    shutil.copy(r2 / "selection.csv", copy)
    labelled = Labelled.open([copy])
    assert _found(labelled) == set(second)
    assert labelled.notes == []


def test_rows_that_were_deleted_in_place_are_bought_all_the_same(chain):
    (r1, first), _ = chain
    write_selection(r1 / "selection.csv", [Selected(1, *first[0], 1024, 0.5)])
    labelled = Labelled.open([r1 / "selection.csv"])
    assert _found(labelled) == set(first)
    assert "1 more region " in labelled.notes[0]


def test_results_depend_on_what_is_taken_and_not_on_how_it_was_given(chain, tmp_path):
    (r1, _), (r2, _) = chain
    files = [r1 / "selection.csv", r2 / "selection.csv"]
    plain = Labelled.open(files).identity()
    copies = [shutil.copy(f, tmp_path / f"{i}.csv") for i, f in enumerate(files)]
    assert Labelled.open(copies).identity() == plain
    assert len({*map(str, (plain, Labelled.open(files[1:]).identity(), plain[1:]))}) == 3
    assert Labelled.open([r2]).identity() == Labelled.open([r2]).identity()


def test_a_run_of_rounds_gives_all_that_it_bought_and_a_round_what_was_bought_by_then(tmp_path):
    run = make_run(tmp_path / "run")
    with Ledger.read(run) as ledger:
        images, bought = ledger.known_images(), ledger.purchases()
    pool = ImagePool(
        root=Path("images"),
        paths=tuple(images),
        infos=tuple(info for *_, info in images.values()),
        stats=((1, 1),) * len(images),
    )
    rounds = {p.round for p in bought}
    assert rounds == {0, 1}
    whole = Labelled.open([run])
    assert _found(whole, pool) == {(p.image, p.box) for p in bought}
    seed = {(p.image, p.box) for p in bought if p.strategy == "seed"}
    assert {(pool.paths[i], b) for i, bs in whole.first(pool).items() for b in bs} == seed
    first = Labelled.open([run / "rounds" / "000" / "selection.csv"])
    assert _found(first, pool) == {(p.image, p.box) for p in bought if p.round == 0}
    assert f"{len(seed)} more regions" in first.notes[0]


def test_a_renamed_image_is_known_by_its_content(chain):
    (r1, first), (r2, second) = chain
    pool = _pool(b="2", c="3", z="1")
    labelled = Labelled.open([r1, r2 / "selection.csv"])
    renamed = {("z.png" if im == "a.png" else im, box) for im, box in [*first, *second]}
    assert _found(labelled, pool) == renamed
    assert labelled.notes == [
        "Renamed since they were labelled, and known by their content: a.png is z.png now."
    ]


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        (_pool(a="other", b="2", c="3"), "another file$"),
        (_pool(a="2", b="1", c="3"), r"another file; the one that was labelled is b\.png now"),
        (_pool(a="other", b="2", z="1"), r"another file; the one that was labelled is z\.png now"),
    ],
)
@pytest.mark.parametrize("skip_missing", [False, True])
def test_another_picture_of_the_same_name_is_refused(chain, pool, said, skip_missing):
    (r1, _), _ = chain
    with pytest.raises(SegalError, match=rf"(?ms)images/a\.png: not the picture.*{said}"):
        Labelled.open([r1], skip_missing=skip_missing).boxes(pool)


def test_regions_of_images_that_left_are_refused_or_left_out_as_asked(chain):
    (r1, first), (r2, second) = chain
    pool = _pool(b="2", c="3")
    for given in ([r1, r2], [r1 / "selection.csv", r2 / "selection.csv"]):
        with pytest.raises(SegalError, match=r"(?s)a\.png: .*skip_missing=true") as caught:
            Labelled.open(given).boxes(pool)
        assert "did you mean" not in str(caught.value)
        labelled = Labelled.open(given, skip_missing=True)
        assert _found(labelled, pool) == {r for r in [*first, *second] if r[0] != "a.png"}
        assert labelled.notes == [
            "Left out 2 labelled regions of images that are not there: a.png."
        ]
        assert labelled.images(pool.root, pool.paths) == {"b.png", "c.png"}


def test_rows_of_a_plain_file_are_left_out_as_well(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("image;x;y;width;height\n.\\a.png;0;0;32;32\nb.png;32;0;32;32\n")
    labelled = Labelled.open([file], skip_missing=True)
    assert _found(labelled, _pool(b="2")) == {("b.png", _BOXES[1])}
    assert labelled.images(tmp_path, ["b.png"]) == {"b.png"}
    assert labelled.images(tmp_path, ["a.png", "b.png", "c.png"]) == {"a.png", "b.png"}
    with pytest.raises(SegalError, match=r"(?s)line 2.*an image of the pool"):
        Labelled.open([file]).boxes(_pool(b="2"))


def test_an_image_that_cannot_be_read_is_named_as_that(chain):
    (r1, _), _ = chain
    pool = replace(
        _pool(b="2"), skipped=("images/a.png: cannot be read as an image (got 3 bytes)",)
    )
    with pytest.raises(SegalError, match=r"skipped: images/a\.png: cannot be read"):
        Labelled.open([r1]).boxes(pool)


def test_folders_that_bought_nothing_are_refused(tmp_path):
    Ledger.open(tmp_path / "begun", "select", {}).close()
    Ledger.open(tmp_path / "train", "train", {}).close()
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("begun", "has not bought anything yet"),
        ("train", "run folder of segal train"),
        ("empty", "not a run folder"),
    ):
        with pytest.raises(SegalError, match=said):
            Labelled.open([tmp_path / name])
    file = tmp_path / "none.csv"
    write_selection(file, [])
    with pytest.raises(SegalError, match="no region at all"):
        Labelled.open([file]).images(tmp_path, ["a.png"])
    assert read_selection(file) == []
