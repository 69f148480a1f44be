"""Lists of classes: the forms that people write, and what is refused."""

import numpy as np
import pytest

from segal.data.class_list import read_classes
from segal.data.layout import LabelOptions, distinct_colours
from segal.errors import SegalError


@pytest.fixture
def read(tmp_path):
    def reader(text, **options):
        path = tmp_path / "classes.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_classes(path, LabelOptions(**options))

    return reader


def values(classes):
    """The value of each class in label files."""
    return [int(np.flatnonzero(classes.lookup == i)[0]) for i in range(len(classes))]


@pytest.mark.parametrize(
    "text",
    [
        "sky\ntraffic light\n2 wheeler",  # some lines have a value
        "sky\ntraffic light 250 170 30",
        "road 128 64 128\nvoid",
    ],
)
def test_mixed_forms_are_refused(read, text):
    with pytest.raises(SegalError, match="and some do not"):
        read(text)


@pytest.mark.parametrize("line", ["1 a" + "," * 4000 + "x", "1" * 5000 + " a"])
def test_lines_that_are_too_long_are_refused(read, line):
    with pytest.raises(SegalError, match="a line is too long"):
        read(f"{line}\n2 b")


@pytest.mark.parametrize(
    ("text", "names", "of"),
    [
        ("traffic light\ntraffic sign\nterrain", ["traffic light", "traffic sign", "terrain"], 0),
        ("lane 1\nlane 2\nlane 3", ["lane 1", "lane 2", "lane 3"], 0),
        ("room 101\nhall 900", ["room 101", "hall 900"], 0),
        ("0 2 wheeler\n1 traffic light", ["2 wheeler", "traffic light"], [0, 1]),
        ("background 0\ntraffic light 255", ["background", "traffic light"], [0, 255]),
        ("0\tbackground\r\n128\tedge of it\r\n", ["background", "edge of it"], [0, 128]),
        ("0, sky\n7, car;", ["sky", "car"], [0, 7]),
        (b"\xef\xbb\xbfsky\n\n# comment\ncar", ["sky", "car"], 0),
        ("building, edifice\nsky", ["building, edifice", "sky"], 0),
    ],
)
def test_names_of_several_words_are_told_from_values(read, text, names, of):
    classes = read(text)
    assert list(classes.names) == names
    assert classes.colours is None
    assert values(classes) == (of or list(range(len(names))))


@pytest.mark.parametrize(
    "text",
    [
        "road 128 64 128\ntraffic light 250 170 30",
        "128 64 128 road\n250 170 30 traffic light",
        "road #804080\ntraffic light #FAAA1E",
        "# label:color_rgb:parts:actions\nroad:128,64,128::\ntraffic light:250,170,30::",
        "road, 128, 64, 128\ntraffic light, 250, 170, 30",
        "road\t(128, 64, 128)\ntraffic light\t(250, 170, 30)",
    ],
)
def test_colours_stand_for_classes_without_values(read, text):
    classes = read(text)
    assert classes.names == ("road", "traffic light")
    assert classes.colours.tolist() == classes.palette.tolist() == [[128, 64, 128], [250, 170, 30]]
    pixels = np.array([[[128, 64, 128], [250, 170, 30], [0, 0, 0]]], np.uint8)
    assert classes.decode(pixels).tolist() == [[0, 1, 255]]
    assert classes.illegal(classes.decode(pixels)) == {255: 1}


def test_void_colours_are_dropped(read):
    classes = read("void 0 0 0\nroad 128 64 128\nUnlabelled 1 1 1\ncar 0 0 142")
    assert classes.names == ("road", "car")
    pixels = np.array([[[0, 0, 0], [128, 64, 128], [1, 1, 1], [0, 0, 142]]], np.uint8)
    decoded = classes.decode(pixels)
    assert not classes.illegal(decoded)
    assert classes.map(decoded).tolist() == [[255, 0, 255, 1]]
    assert read("a 0 0 0\nb 1 1 1\nc 2 2 2", ignore_index=1).names == ("a", "c")
    with pytest.raises(SegalError, match="no value 0 to leave out"):
        read("a 0 0 0\nb 1 1 1", reduce_zero_label=True)


def test_every_colour_is_decoded_as_a_dictionary_would(read):
    rng = np.random.default_rng(0)
    colours = np.unique(rng.integers(0, 256, (60, 3)), axis=0)
    classes = read("\n".join(f"c{i} {r} {g} {b}" for i, (r, g, b) in enumerate(colours)))
    pixels = np.concatenate([colours, rng.integers(0, 256, (200, 3))]).astype(np.uint8)
    listed = {tuple(c): i for i, c in enumerate(colours.tolist())}
    expected = [listed.get(tuple(p), 255) for p in pixels.tolist()]
    assert classes.decode(pixels[None])[0].tolist() == expected


def test_a_listed_255_is_a_class_unless_it_is_void(read):
    classes = read("0 background\n255 foreground")
    assert classes.names == ("background", "foreground")
    assert values(classes) == [0, 255]
    assert np.flatnonzero(classes.legal).tolist() == [0, 255]
    assert "255 is the class 'foreground'" in classes.notes[0]
    for name in ("void", "Ignore", "unlabelled", "don't care"):
        assert read(f"0 a\n1 b\n255 {name}").names == ("a", "b")
    classes = read("0 a\n1 b\n255 border", ignore_index=255)
    assert classes.names == ("a", "b")
    assert not classes.void_is_assumed
    assert read("a\nb").void_is_assumed


def test_zero_may_stand_for_no_class(read):
    classes = read("wall\nsky", reduce_zero_label=True)
    assert values(classes) == [1, 2]
    assert np.flatnonzero(classes.legal).tolist() == [0, 1, 2, 255]
    assert read("0 other\n1 wall\n2 sky", reduce_zero_label=True).names == ("wall", "sky")


def test_more_classes_than_8_bits_hold_are_refused(read):
    names = [f"c{i}x" for i in range(256)]
    assert len(read("\n".join(names[:255]))) == 255
    for text in (
        "\n".join(names),
        "\n".join(f"{i} {name}" for i, name in enumerate(names)),
        "\n".join(f"{name} {i} 0 0" for i, name in enumerate(names)),
        "\n".join(f"x{i}y" for i in range(5000)),
    ):
        with pytest.raises(SegalError, match="at most 255"):
            read(text)
    with pytest.raises(SegalError, match="at most 255"):
        read("\n".join(names[:255]), reduce_zero_label=True)
    valued = [f"{i} {name}" for i, name in enumerate(names[:255])]
    assert len(read("\n".join([*valued, "255 void"]))) == 255


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a 1 2 3\nb 1 2 3", "occurs twice"),
        ("a 1 2 3\na 4 5 6", "'a' occurs twice"),
        ("a 1 2 300\nb 1 2 3", "too large"),
        ("a 3\nb 3", "3 occurs twice"),
        ("0 a\n0 b\n1 a", "0 occurs twice"),
        ("void 0 0 0", "no class is left"),
        ("\n# nothing\n", "no class is left"),
    ],
)
def test_wrong_lists(read, text, found):
    with pytest.raises(SegalError, match=found):
        read(text)


def test_a_list_that_is_no_list_is_refused(read):
    with pytest.raises(SegalError, match="too large"):
        read(b"x" * (2**20 + 1))


def test_colours_for_drawing_beside_values(read):
    classes = read("0 sky 1 2 3\n1 traffic light #28323C\n4 car")
    assert classes.colours is None
    assert classes.palette.tolist() == [[1, 2, 3], [40, 50, 60], distinct_colours(3)[2].tolist()]
