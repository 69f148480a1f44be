"""Run lengths, against pycocotools, loops over bits and pixels, and bytes of other libraries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from segal.functional.rle import (
    decode_counts,
    decode_cropped,
    encode_counts,
    whole_bytes,
    whole_numbers,
)
from segal.functional.rle_brushes import decode_brush, decode_brushes, encode_brush, encode_brushes
from segal.functional.rle_coco import decode_coco, decode_cocos, encode_coco

SIZES = [(1, 1), (7, 5), (17, 13), (1, 90), (90, 1), (127, 255), (100, 700)]


def blocks(height, width, grain, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.random((-(-height // grain), -(-width // grain))) < 0.5
    return np.kron(coarse, np.ones((grain, grain), bool))[:height, :width].astype(bool)


MASKS = [
    pytest.param(mask, id=f"{height}x{width}-{grain}-{kind}")
    for height, width in SIZES
    for grain in (1, 16)
    for kind, mask in (
        ("blocks", blocks(height, width, grain)),
        ("inverse", ~blocks(height, width, grain)),
    )
]


def pasted(found, height, width):
    full = np.zeros((height, width), bool)
    (x, y), (rows, columns) = found.corner, found.mask.shape
    full[y : y + rows, x : x + columns] = found.mask
    return full


@pytest.mark.parametrize("mask", MASKS)
def test_counts_are_those_of_pycocotools(mask):
    reference = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    counts = encode_counts(mask.T)
    assert encode_coco(counts) == reference.decode()
    assert np.array_equal(decode_coco(reference), counts)
    height, width = mask.shape
    assert np.array_equal(decode_counts(counts, width, height).T, mask)


def test_counts_of_an_empty_run_within():
    assert decode_counts([0, 1, 0, 2, 3], 2, 3).tolist() == [[True, True, True], [False] * 3]


@pytest.mark.parametrize(
    "counts", [[], [5], [7], [-1, 7], [1.0, 5.0], [[6]], ["6"], [True] * 6, [2**70], None, [2**63]]
)
def test_counts_that_are_not_sound(counts):
    with pytest.raises(ValueError, match="runs"):
        decode_counts(counts, 2, 3)


@pytest.mark.parametrize("text", ["", "é", "~", "0" * 3 + "P", "P" * 7 + "0", b"\x00"])
def test_coco_text_that_is_none(text):
    with pytest.raises(ValueError, match="counts"):
        decode_coco(text)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2**29 - 1), min_size=1, max_size=30))
def test_coco_text_keeps_any_runs(counts):
    assert decode_coco(encode_coco(np.array(counts))).tolist() == counts


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 2**28), min_size=1, max_size=40), max_size=6))
def test_several_texts_are_those_of_each(each):
    counts, bounds = decode_cocos([encode_coco(np.array(one)) for one in each])
    assert counts.tolist() == [number for one in each for number in one]
    assert np.diff(bounds, prepend=0).tolist() == [len(one) for one in each]


def test_one_text_of_several_that_is_none():
    for text in ("", "0P", "~~", "PPPPPPPP0"):
        for texts in ([text, "11"], ["11", text], ["11" * 70, text]):
            with pytest.raises(ValueError, match="counts: expected"):
                decode_cocos(texts)


def test_cropped_masks_are_those_of_whole_images():
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (3, 5), (40, 1), (1, 40), (9, 70)]:
        masks = [rng.random((height, width)) < share for share in (0, 0.1, 1, 0.9, 0, 0)]
        masks += [blocks(height, width, 3), np.eye(height, width, dtype=bool)]
        counts = [encode_counts(mask) for mask in masks]
        bounds = np.cumsum([len(one) for one in counts]).tolist()
        found = list(decode_cropped(np.concatenate(counts), bounds, height, width))
        for mask, (cropped, (x, y)) in zip(masks, found, strict=True):
            rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
            if not rows.size:
                assert (cropped.shape, x, y) == ((0, 0), 0, 0)
                continue
            assert y == rows[0] and cropped.shape[0] == rows[-1] - rows[0] + 1
            whole = np.zeros_like(mask)
            whole[y : y + cropped.shape[0], x : x + cropped.shape[1]] = cropped
            assert (whole == mask).all()
            ends = mask[:-1, -1] & mask[1:, 0]
            if not ends.any():
                assert x == columns[0] and cropped.shape[1] == columns[-1] - columns[0] + 1


def test_numbers_as_text():
    rng = np.random.default_rng(0)
    numbers = [0, 9, 10, 99, 100, 255, *rng.integers(0, 256, 50).tolist()]
    for first in numbers:
        for blank in ("", " "):
            text = f",{blank}".join(map(str, [first, *numbers]))
            assert [list(x) for x in whole_bytes([text, "7"])] == [[first, *numbers], [7]]
            assert whole_numbers(text).tolist() == [first, *numbers]
    for text in (
        "",
        ",",
        "1,,2",
        "1,",
        ",1",
        "1 2",
        "1,  2",
        "256",
        "999",
        "1000",
        "-1",
        "1.0",
        "²",
    ):
        with pytest.raises(ValueError, match=r"number|digits|bytes"):
            whole_bytes(["1,2", text])
    with pytest.raises(ValueError, match="digits"):
        whole_bytes(["1;2"])
    assert whole_bytes([]) == []


def test_runs_that_no_image_has_are_not_written():
    with pytest.raises(ValueError, match="expected runs below 536870912, got 536870912"):
        encode_coco(np.array([3, 2**29]))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30) | st.binary(max_size=30))
def test_coco_text_of_anything_is_runs_or_refused(text):
    try:
        counts = decode_coco(text)
    except ValueError:
        return
    assert counts.dtype == np.int64


class Bits:
    """Packs a stream bit by bit, of any sizes."""

    def __init__(self, values, depth=8, sizes=(3, 4, 8, 16)):
        self.text = f"{values:032b}{depth - 1:05b}" + "".join(f"{s - 1:04b}" for s in sizes)
        self.depth, self.sizes = depth, sizes

    def run(self, kind, length, value):
        self._item("1", kind, length, [value])
        return self

    def literal(self, kind, values):
        self._item("0", kind, len(values), values)
        return self

    def _item(self, first, kind, length, values):
        self.text += f"{first}{kind:02b}" + f"{length - 1:0{self.sizes[kind]}b}"
        self.text += "".join(f"{value:0{self.depth}b}" for value in values)

    def bytes(self):
        text = self.text + "0" * (-len(self.text) % 8)
        return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


# Made by label-studio-sdk 2.1.2, mask2rle of masks of 0 and 255.
OF_THE_SDK = {
    (1, 1): "00000004391bfc7fe0",
    (2, 3): "00000018391bfc7ff38047ff3800",
    (3, 7): "00000054391bfc7ff38047ff38047ff38047ff38047ff38047ff38047ff38000",
    (
        300,
        400,
    ): "00075300391bffffff00ffffe01ffffc0386a1807ffffffffffffffffffff869dfffffff00e70fe000",
}


@pytest.mark.parametrize(("size", "packed"), OF_THE_SDK.items())
def test_bytes_are_those_of_the_sdk(size, packed):
    places = np.arange(size[0] * size[1]).reshape(size)
    mask = places % 3 == 0 if size[0] < 300 else places % 100_000 > 50_000
    assert encode_brush(mask, (0, 0), *size).hex() == packed


@pytest.mark.parametrize("mask", MASKS)
def test_a_brush_comes_back(mask):
    height, width = mask.shape
    places = [((0, 0), mask.shape), ((4, 2), (height + 5, width + 9))]
    places += [((0, 2), (height + 5, width)), ((3, 0), (height, width + 3))]
    for corner, size in places:
        packed = encode_brush(mask, corner, *size)
        full = np.zeros(size, bool)
        full[corner[1] : corner[1] + height, corner[0] : corner[0] + width] = mask
        assert packed == encode_brush(full, (0, 0), *size)
        found = decode_brush(packed, *size)
        assert np.array_equal(pasted(found, *size), full)
        assert (found.painted, found.partial) == (mask.sum(), 0)
        if mask.any():
            assert found.mask.any(0)[[0, -1]].all() or found.mask.shape[1] == size[1]
            assert found.mask.any(1)[[0, -1]].all()


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.uint8, (3, 5), elements=st.sampled_from([0, 1, 127, 128, 254, 255])),
    st.tuples(*[st.integers(3, 16)] * 4),
    st.integers(8, 32),
    st.data(),
)
def test_streams_of_any_sizes_are_read(alpha, sizes, depth, data):
    values = np.repeat(alpha.reshape(-1), 4).tolist()
    stream, at = Bits(len(values), depth, sizes), 0
    while at < len(values):
        same = next((i for i in range(at, len(values)) if values[i] != values[at]), len(values))
        kind = data.draw(st.integers(0, 3))
        if data.draw(st.booleans()):
            length = min(same - at, 1 << sizes[kind])
            stream.run(kind, length, values[at])
        else:
            length = min(data.draw(st.integers(1, 9)), len(values) - at, 1 << sizes[kind])
            stream.literal(kind, values[at : at + length])
        at += length
    found = decode_brush(stream.bytes(), 3, 5)
    assert np.array_equal(pasted(found, 3, 5), alpha >= 128)
    assert found.painted == (alpha > 0).sum()
    assert found.partial == ((alpha > 0) & (alpha < 255)).sum()


@pytest.mark.parametrize("size", [(1, 1), (17, 13), (300, 400)])
def test_several_brushes_are_packed_as_each(size):
    height, width = size
    placed = [(blocks(*size, grain, seed), (0, 0)) for grain in (1, 50) for seed in range(3)]
    placed += [(np.zeros(size, bool), (0, 0)), (np.ones(size, bool), (0, 0))]
    placed += [(np.ones((1, 1), bool), (width - 1, height - 1)), (np.zeros((0, 0), bool), (0, 0))]
    packed = [encode_brush(mask, corner, *size) for mask, corner in placed]
    assert encode_brushes(placed, *size) == packed
    assert encode_brushes(placed[::-1], *size) == packed[::-1]
    assert encode_brushes([], *size) == []


def test_several_brushes_are_those_of_each():
    masks = [blocks(17, 13, 3, seed) for seed in range(4)]
    packed = [encode_brush(mask, (0, 0), 17, 13) for mask in masks]
    packed.insert(1, Bits(884, 9, (4, 5, 9, 11)).run(3, 880, 0).literal(0, [0, 0, 0, 200]).bytes())
    packed.insert(3, Bits(884).literal(3, [0, 0, 0, 255]).run(3, 880, 0).bytes())
    for one, found in zip(packed, decode_brushes(packed, 17, 13), strict=True):
        alone = decode_brush(one, 17, 13)
        assert np.array_equal(found.mask, alone.mask)
        assert (found.corner, found.painted) == (alone.corner, alone.painted)
    assert [decode_brush(packed[i], 17, 13).corner for i in (1, 3)] == [(12, 16), (0, 0)]
    assert list(decode_brushes([], 17, 13)) == []
    for place in range(6):
        damaged = [*packed[:place], packed[place][:-2], *packed[place + 1 :]]
        with pytest.raises(ValueError, match="rle"):
            list(decode_brushes(damaged, 17, 13))


def test_only_the_fourth_channel_counts():
    pixels = [[9, 9, 9, 0], [0, 0, 0, 200], [0, 0, 0, 60]]
    stream = Bits(12)
    for pixel in pixels:
        stream.literal(0, pixel)
    found = decode_brush(stream.bytes(), 1, 3)
    assert (found.corner, found.mask.tolist()) == ((1, 0), [[True]])
    assert (found.painted, found.partial) == (2, 2)


def test_long_runs_are_read_and_written():
    mask = np.ones((300, 400), bool)
    packed = encode_brush(mask, (0, 0), 300, 400)
    expected = Bits(480_000)
    for _ in range(7):
        expected.run(3, 1 << 16, 255)
    expected.run(3, 480_000 - 7 * (1 << 16), 255)
    assert packed == expected.bytes()


def test_damaged_brushes_are_refused():
    packed = encode_brush(blocks(17, 13, 3), (0, 0), 17, 13)
    whole = decode_brush(packed, 17, 13)
    for size in ((13, 18), (17, 14), (16, 13)):
        with pytest.raises(ValueError, match="rle"):
            decode_brush(packed, *size)
    for end in range(len(packed) - 1):
        with pytest.raises(ValueError, match="rle"):
            decode_brush(packed[:end], 17, 13)
    with pytest.raises(ValueError, match="rle"):
        decode_brush(packed + b"\0\0", 17, 13)
    with pytest.raises(ValueError, match="rle"):
        decode_brush(Bits(4).run(3, 5, 255).bytes(), 1, 1)
    assert whole.painted


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_are_a_brush_or_refused(tail, with_header):
    head = Bits(60).bytes() if with_header else b""
    try:
        found = decode_brush(head + tail, 3, 5)
    except ValueError:
        return
    assert found.mask.size <= 15 and found.partial <= found.painted <= 15


def test_a_mask_that_leaves_its_image_is_refused():
    for corner, size in (((1, 0), (2, 2)), ((0, -1), (4, 4)), ((0, 0), (1, 5))):
        with pytest.raises(ValueError, match="mask"):
            encode_brush(np.ones((2, 2), bool), corner, *size)
