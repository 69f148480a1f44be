"""Lists of images, and links that lead out of a folder."""

import pytest

from segal.data.image_list import images_at
from segal.data.pool import open_pool
from segal.errors import SegalError
from tests.conftest import write_image


def write_list(folder, *lines):
    file = folder / "list.txt"
    file.write_text("\n".join(map(str, lines)) + "\n")
    return file


def test_paths_are_relative_to_the_lists_folder(tmp_path):
    write_image(tmp_path / "a" / "0.png", 20, 24, 0)
    write_image(tmp_path / "1.png", 20, 24, 1)
    file = write_list(tmp_path, "# some", "a/0.png", "", tmp_path / "a" / ".." / "1.png")
    assert images_at(file) == (tmp_path, ("a/0.png", "1.png"))
    assert images_at(tmp_path) == (tmp_path, None)
    assert open_pool(*images_at(file)).paths == ("1.png", "a/0.png")


def test_of_images_elsewhere_it_is_the_folder_above_all(tmp_path):
    for path in ("one/deep/0.png", "two/0.png"):
        write_image(tmp_path / path, 20, 24, 0)
    (tmp_path / "lists").mkdir()
    file = write_list(tmp_path / "lists", "../one/deep/0.png", "../two/0.png")
    assert images_at(file) == (tmp_path, ("one/deep/0.png", "two/0.png"))
    only = write_list(tmp_path / "lists", tmp_path / "one" / "deep" / "0.png")
    assert images_at(only) == (tmp_path / "one" / "deep", ("0.png",))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], ["names no image"]),
        (["a.png", "./a.png"], ["names images twice"]),
        (["a.txt", "b.png", "b.png"], ["no images", "a.txt", "twice"]),
    ],
)
def test_all_mistakes_at_once(tmp_path, lines, expected):
    with pytest.raises(SegalError) as caught:
        images_at(write_list(tmp_path, *lines))
    for part in expected:
        assert part in str(caught.value)


def test_images_that_are_not_there_are_named(tmp_path):
    write_image(tmp_path / "0.png", 20, 24, 0)
    with pytest.raises(SegalError, match=r"1\.png: cannot be read"):
        open_pool(*images_at(write_list(tmp_path, "0.png", "1.png")))


@pytest.mark.parametrize("given", [None, ["inside/0.png", "link.png"]])
def test_links_lead_out_where_they_may(tmp_path, given):
    pool, elsewhere = tmp_path / "pool", tmp_path / "elsewhere"
    for number, path in enumerate((pool / "1.png", elsewhere / "0.png", elsewhere / "2.png")):
        write_image(path, 20, 24, number)
    (pool / "inside").symlink_to(elsewhere)
    (pool / "link.png").symlink_to(elsewhere / "2.png")
    (elsewhere / "back").symlink_to(pool)  # a circle
    with pytest.raises(SegalError, match=r"leads out of the folder[\s\S]*--follow-links"):
        open_pool(pool, given)
    found = open_pool(pool, given, follow_links=True).paths
    expected = ("1.png", "inside/0.png", "inside/2.png", "link.png")
    assert found == (expected if given is None else tuple(given))
