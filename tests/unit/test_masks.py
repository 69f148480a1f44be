"""Selections on disk and masks; tables by others are not trusted."""

import csv
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segal.candidates import selection as masks
from segal.candidates.selection import (
    COLUMNS,
    Selected,
    read_selection,
    write_masks,
    write_selection,
)
from segal.errors import SegalError

_HEADER = ",".join(COLUMNS)
_SIZES = {"a/street one.jpg": (100, 200), "b.png": (100, 200)}
_GOOD = "1,b.png,0,0,64,64,4096,0.5"


def _file(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "selection.csv"
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="")
    return path


# Writing and reading back

_names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
).filter(lambda name: not name.startswith("/") and {"..", "."}.isdisjoint(name.split("/")))
_picks = st.builds(
    Selected,
    rank=st.integers(1, 10**6),
    image=_names,
    box=st.tuples(st.integers(0, 99), st.integers(0, 99), *[st.integers(100, 9999)] * 2),
    pixels=st.just(1),
    score=st.floats(allow_nan=False, allow_infinity=False),
)


@settings(deadline=None)
@given(st.lists(_picks, max_size=5, unique_by=lambda pick: (pick.image, pick.box)))
def test_what_is_written_is_read_back(tmp_path_factory, picks):
    path = tmp_path_factory.mktemp("x") / "selection.csv"
    write_selection(path, picks)
    back = read_selection(path)
    assert back == picks
    assert [str(p.score) for p in back] == [str(p.score) for p in picks]  # -0.0 too
    with path.open(newline="", encoding="utf-8") as file:  # another reader sees the same
        assert [row["image"] for row in csv.DictReader(file)] == [p.image for p in picks]


def test_the_bytes_are_these(tmp_path):
    path = tmp_path / "selection.csv"
    picks = [
        Selected(1, "a/b,c.png", (8, 16, 40, 24), 200, np.float64(0.1)),
        Selected(2, "ü.png", (0, 0, 5, 7), 35, np.float32(1e-7)),
        Selected(3, 'say "x".png', (0, 0, 1, 1), 1, 3),
    ]
    write_selection(path, picks)
    assert path.read_bytes().decode() == (
        "rank,image,x,y,width,height,pixels,score\n"
        '1,"a/b,c.png",8,16,32,8,200,0.1\n'
        "2,ü.png,0,0,5,7,35,1.0000000116860974e-07\n"
        '3,"say ""x"".png",0,0,1,1,1,3.0\n'
    )


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_not_written(tmp_path, score):
    with pytest.raises(ValueError, match="rank 4"):
        write_selection(tmp_path / "x.csv", [Selected(4, "a", (0, 0, 1, 1), 1, score)])
    assert list(tmp_path.iterdir()) == []


def test_other_columns_in_another_order_and_windows_lines_are_read(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(
        b"\xef\xbb\xbfscore,note,image,rank,x,y,width,height,pixels\r\n"
        b"0.5,hello,b.png,1,0,0,64,64,4096\r\n\r\n"
    )
    assert read_selection(path, _SIZES) == [Selected(1, "b.png", (0, 0, 64, 64), 4096, 0.5)]


# What spreadsheets make of them

_WRITTEN = [
    Selected(1, "a/street one.jpg", (32, 0, 64, 40), 1280, 0.75),
    Selected(2, "b.png", (0, 0, 64, 64), 4000, -0.5),
]
_ROWS = [list(COLUMNS), ["1", "a/street one.jpg", "32", "0", "32", "40", "1280", "0.75"]]
_ROWS.append(["2", "b.png", "0", "0", "64", "64", "4000", "-0.5"])


def _joined(rows=_ROWS, separator=",", end="\n"):
    return "".join(separator.join(row) + end for row in rows)


def _changed(change):
    return _joined([_ROWS[0], *([change(name, v) for name, v in zip(COLUMNS, row, strict=True)]
                               for row in _ROWS[1:])])  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + _joined(end="\r\n").encode(),
        _joined(separator=";").encode(),
        _joined(separator=";").replace(".75", ",75").replace("-0.5", "-0,5").encode(),
        _joined(separator="\t").encode("utf-16"),
        _joined(separator="\t", end="\r\n").encode(),
        _joined(separator="|", end="\r").encode(),
        b"sep=,\r\n" + _joined(end="\r\n").encode(),
        b'\xef\xbb\xbf"SEP=;"\r\n' + _joined(separator=";", end="\r\n").encode(),
        b",,,\n\n" + _joined().encode() + b"\n,,,,,,,\n ,,\n",
        _joined(
            [[n.title() + " " for n in COLUMNS] + ["note, by me"], *([*r, ""] for r in _ROWS[1:])]
        )
        .replace("note, by me", '"note, by me"')
        .encode(),
        _joined([[f'"{cell}"' for cell in row] for row in _ROWS]).encode(),
        _changed(lambda name, v: v if name in ("image", "score") else v + ".0").encode(),
        _changed(lambda name, v: ".\\" + v.replace("/", "\\") if name == "image" else v).encode(),
        _changed(lambda name, v: f" {v} " if name not in ("image",) else "./" + v).encode(),
    ],
    ids=[
        *("mark", "semicolons", "decimal comma", "UTF-16", "tabs", "bars", "sep=,", "sep=;"),
        *("blank rows", "capitals", "quotes", "1.0", "backslashes", "blanks"),
    ],
)
def test_what_a_spreadsheet_saved_is_the_same_selection(tmp_path, data):
    path = tmp_path / "selection.csv"
    path.write_bytes(data)
    assert read_selection(path, _SIZES) == _WRITTEN


def test_a_list_of_regions_alone_is_enough(tmp_path):
    path = _file(tmp_path, "image;x;y;width;height;score", "b.png;0;0;8;4;", "b.png;8;0;8;4;0,5")
    assert read_selection(path, _SIZES) == [
        Selected(1, "b.png", (0, 0, 8, 4), 32, 0.0),
        Selected(2, "b.png", (8, 0, 16, 4), 32, 0.5),
    ]


def test_lines_are_counted_from_the_top_of_the_file(tmp_path):
    path = _file(tmp_path, "sep=;", "", _joined(_ROWS[:1], ";").strip(), "1;b.png;0;0;64;64;1;x")
    with pytest.raises(SegalError, match="line 4: "):
        read_selection(path, _SIZES)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_in_the_other_unicode_form_is_the_same_image(tmp_path, forms):
    pool, table = (unicodedata.normalize(form, "b/stra\u00dfe m\u00fcnchen.png") for form in forms)
    path = _file(tmp_path, _HEADER, f"1,{table},0,0,1,1,1,0")
    assert read_selection(path, {pool: (9, 9)})[0].image == pool
    both = {unicodedata.normalize(form, pool): (9, 9) for form in forms}
    assert {read_selection(path, both)[0].image} == {table}


@pytest.mark.parametrize(
    ("name", "pool", "hint"),
    [
        ("frame_000123.png", ["frame_000124.png", "frame_000122.png"], None),
        ("im0.png", ["im5.png"], None),
        ("day/0001.png", ["night/0001.png", "dusk/0001.png"], None),
        ("day/0001.png", ["night/0001.png"], "night/0001.png"),
        ("city_0001.jpg", ["city_0001.jpeg", "city_0002.jpg"], "city_0001.jpeg"),
        ("Berlin_0001.png", ["berlin_0001.png", "bern_0001.png"], "berlin_0001.png"),
    ],
)
def test_only_a_name_that_is_nearly_the_same_is_offered(tmp_path, name, pool, hint):
    path = _file(tmp_path, _HEADER, f"1,{name},0,0,1,1,1,0")
    with pytest.raises(SegalError, match="image: an image of the pool") as caught:
        read_selection(path, dict.fromkeys(pool, (9, 9)))
    said = str(caught.value)
    assert f"did you mean {hint!r}?" in said if hint else "did you mean" not in said


# Tables that are wrong


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("1,b.png,0,0,64", "at least 6 fields.*got: 5 fields, separated by commas"),
        ("x,b.png,0,0,64,64,4096,0.5", "rank: a whole number"),
        ("0,b.png,0,0,64,64,4096,0.5", "rank: a whole number"),
        ("1,b.png,-1,0,64,64,4096,0.5", "x: a whole number"),
        ("1,b.png,1.5,0,64,64,4096,0.5", "x: a whole number"),
        ("1,b.png,1.000,0,64,64,4096,0.5", "x: a whole number"),  # may be a thousand
        ('1,b.png,"1,000",0,64,64,4096,0.5', "x: a whole number"),
        ('1,b.png,0,0,64,64,4096,"0,5"', "score: a finite number"),
        ("1,b.png,1_0,0,64,64,4096,0.5", "x: a whole number"),
        ("1,b.png,٣,0,64,64,4096,0.5", "x: a whole number"),
        ("1,b.png,0,9999999999999999999999,64,64,4096,0.5", "y: a whole number"),
        ("1,b.png,0,0,0,64,1,0.5", "width: a whole number from 1"),
        ("1,b.png,0,0,64,,4096,0.5", "height: a whole number from 1"),
        ("1,b.png,137,0,64,64,4096,0.5", "within the 200 x 100"),
        ("1,b.png,0,37,64,64,4096,0.5", "within the 200 x 100"),
        ("1,b.png,0,0,64,64,4097,0.5", "at most 4096"),
        ("1,b.png,0,0,64,64,0,0.5", "pixels: a whole number from 1"),
        ("1,b.png,0,0,64,64,4096,high", "score: a finite number"),
        ("1,b.png,0,0,64,64,4096,nan", "score: a finite number"),
        ("1,b.png,0,0,64,64,4096,1e999", "score: a finite number"),
        ("1,a/street on.jpg,0,0,64,64,4096,0.5", r"did you mean 'a/street one\.jpg'"),
        ("1,other/b.png,0,0,64,64,4096,0.5", r"did you mean 'b\.png'"),
        ("1,qqqqqq,0,0,64,64,4096,0.5", "an image of the pool"),
        ("1,/etc/passwd,0,0,64,64,4096,0.5", "without '..'"),
        ("1,a/../../b.png,0,0,64,64,4096,0.5", "without '..'"),
        ("1,,0,0,64,64,4096,0.5", "a path relative"),
        ("1,.,0,0,64,64,4096,0.5", "a path relative"),
        ("1,b\0.png,0,0,64,64,4096,0.5", r"'b\\x00\.png'"),
        (_GOOD, "the one of line 2 again"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(tmp_path, line, match):
    with pytest.raises(SegalError, match=rf"(?s)selection\.csv, line 3: .*{match}"):
        read_selection(_file(tmp_path, _HEADER, _GOOD, line), _SIZES)


def test_a_name_of_many_lines_does_not_shift_the_count(tmp_path):
    path = _file(tmp_path, _HEADER, '1,"a\nb\nc.png",0,0,1,1,1,0', "x,b.png,0,0,1,1,1,0")
    with pytest.raises(SegalError, match="line 5: "):
        read_selection(path)


def test_all_mistakes_are_told_at_once_but_not_without_end(tmp_path):
    with pytest.raises(SegalError) as caught:
        read_selection(_file(tmp_path, _HEADER, *["x"] * 3, _GOOD, *["y"] * 30), _SIZES)
    text = str(caught.value)
    assert [f"line {n}:" in text for n in (2, 3, 4, 5, 6)] == [True, True, True, False, True]
    assert text.count("fields") == 2 * 20
    assert "not read further than line 23" in text


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ("", "an empty file"),
        ("image,x,y", "no width, no height, in a line separated by commas: 'image,x,y'"),
        ("picture;x;y", "no image, no width, no height, in a line separated by semicolons"),
        (_HEADER + ",x", "x twice"),
        (_GOOD, "no image"),
    ],
)
def test_a_wrong_header_is_shown_beside_the_right_one(tmp_path, header, match):
    with pytest.raises(SegalError, match=rf"(?s)line 1.*{_HEADER}.*{match}"):
        read_selection(_file(tmp_path, *([header] if header else [])))


def test_a_file_that_is_no_text_or_no_table_or_missing_or_huge(tmp_path, monkeypatch):
    path = tmp_path / "selection.csv"
    path.write_bytes(_HEADER.encode() + b"\n\n\xff\xfe\n")
    with pytest.raises(SegalError, match=r"(?s)line 3.*UTF-8"):
        read_selection(path)
    with pytest.raises(SegalError, match=r"(?s)line 2.*',' expected after"):
        read_selection(_file(tmp_path, _HEADER, '1,"a" b,0,0,1,1,1,0 "quote'))
    with pytest.raises(SegalError, match=r"(?s)line 2.*field larger"):
        read_selection(_file(tmp_path, _HEADER, "9" * 200_000))
    with pytest.raises(SegalError, match="cannot be read"):
        read_selection(tmp_path / "missing.csv")
    monkeypatch.setattr(masks, "MAX_FILE_BYTES", 10)
    with pytest.raises(SegalError, match="too large"):
        read_selection(_file(tmp_path, _HEADER))


# Masks


def test_masks_are_255_where_picked_and_0_where_bought_or_left(tmp_path):
    picks = [
        Selected(1, "b.png", (10, 20, 74, 84), 1, 0.0),
        Selected(2, "a/street one.jpg", (0, 0, 200, 100), 1, 0.0),
        Selected(3, "b.png", (150, 90, 200, 100), 1, 0.0),
    ]
    paths = write_masks(tmp_path / "masks", picks, _SIZES, {"b.png": [(0, 0, 20, 100)]})
    assert paths == [tmp_path / "masks" / "a" / "street one.png", tmp_path / "masks" / "b.png"]
    expected = np.zeros((100, 200), np.uint8)
    expected[20:84, 20:74] = 255
    expected[90:100, 150:200] = 255
    with Image.open(paths[1]) as mask:
        assert mask.mode == "L"
        assert np.array_equal(np.asarray(mask), expected)
    assert (np.asarray(Image.open(paths[0])) == 255).all()


def test_masks_replace_those_of_before_and_have_the_same_bytes(tmp_path):
    picks = [Selected(1, "b.png", (10, 20, 74, 84), 1, 0.0)]
    (path,) = write_masks(tmp_path / "masks", picks, _SIZES)
    first = path.read_bytes()
    (path.parent / "old.png").write_bytes(b"")
    write_masks(tmp_path / "masks", iter(picks), _SIZES)
    assert [p.name for p in path.parent.iterdir()] == ["b.png"]
    assert path.read_bytes() == first
    write_masks(tmp_path / "masks", [], _SIZES)
    assert list((tmp_path / "masks").iterdir()) == []


@pytest.mark.parametrize("names", [["../x.png"], ["/x.png"], ["a\0b"], ["x.png", "x.jpg"]])
def test_masks_stay_in_their_folder_and_apart(tmp_path, names):
    picks = [Selected(1, name, (0, 0, 1, 1), 1, 0.0) for name in names]
    with pytest.raises(ValueError, match=r"relative|share"):
        write_masks(tmp_path / "masks", picks, dict.fromkeys(names, (4, 4)))
    assert list(tmp_path.iterdir()) == []
