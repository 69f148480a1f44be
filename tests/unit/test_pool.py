import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segal.data.find import find_images
from segal.data.images import ImageInfo, Reading, inspect_image
from segal.data.pool import ImagePool, open_pool
from segal.errors import SegalError


def write(path: Path, size: tuple[int, int] = (20, 30), value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (value, 1, 2)).save(path)
    return path


def message(call: object, *args: object, **options: object) -> str:
    with pytest.raises(SegalError) as caught:
        call(*args, **options)  # type: ignore[operator]
    return str(caught.value)


def test_images_are_found_in_byte_order(tmp_path: Path) -> None:
    names = ["b.jpg", "a/z.PNG", "a.png", "a/é.bmp", "a/zz/y.tif", "Z.webp", "a-b.tiff", "c.JPEG"]
    for name in names:
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    write(tmp_path / ".hidden.png")
    write(tmp_path / ".cache" / "x.png")
    found = find_images(tmp_path)
    assert found == sorted(names, key=str.encode)
    assert found.index("a-b.tiff") < found.index("a/z.PNG")  # not folder by folder
    assert open_pool(tmp_path).paths == tuple(found)


def test_pool_reads_and_subsets(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / f"{i}.png", (20 + i, 30), value=i)
    pool = open_pool(tmp_path, workers=2)
    assert len(pool) == 4
    assert [pool.size(i) for i in range(4)] == [(20 + i, 30) for i in range(4)]
    assert pool.infos[2] == inspect_image(tmp_path / "2.png")
    part = pool.subset([3, 1])
    assert part.paths == ("3.png", "1.png")
    assert part.read(0)[0, 0].tolist() == [3, 1, 2]
    assert part.size(1) == (21, 30)
    assert part.stats == (pool.stats[3], pool.stats[1])


def test_workers_and_file_order_change_nothing(tmp_path: Path) -> None:
    for i in np.random.default_rng(0).permutation(12):
        write(tmp_path / f"{i}.png", (16 + int(i), 20))
    assert open_pool(tmp_path, workers=0) == open_pool(tmp_path, workers=4)


def test_progress(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"{i}.png")
    seen: list[tuple[int, int]] = []
    open_pool(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_given_paths(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "d/c.png"):
        write(tmp_path / name)
    write(tmp_path.parent / "outside.png")
    assert open_pool(tmp_path, ["d/c.png", "./a.png", "a.png"]).paths == ("a.png", "d/c.png")
    for path in ("../outside.png", str(tmp_path / "a.png"), "d/../../outside.png"):
        assert "leads out of" in message(open_pool, tmp_path, [path])
    assert "No such file" in message(open_pool, tmp_path, ["missing.png"])
    assert "NUL" in message(open_pool, tmp_path, ["a\0.png"])


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "empty" / "below").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for call in (find_images, open_pool):
        assert "no such folder" in message(call, tmp_path / "missing")
        assert "a file" in message(call, tmp_path / "file")
        assert "no image" in message(call, tmp_path / "empty")
    assert "no image" in message(open_pool, tmp_path / "empty", skip_unreadable=True)


def test_unreadable_files_are_reported_together(tmp_path: Path) -> None:
    for i in range(25):
        (tmp_path / f"bad{i:02d}.jpg").write_bytes(b"" if i % 2 else b"no image")
    write(tmp_path / "good.png")
    text = message(open_pool, tmp_path, workers=2)
    assert "25 of 26 images" in text
    assert "bad00.jpg" in text
    assert "bad19.jpg" in text
    assert "bad20.jpg" not in text
    assert "and 5 more" in text
    assert "--skip-unreadable" in text
    pool = open_pool(tmp_path, skip_unreadable=True)
    assert pool.paths == ("good.png",)
    assert len(pool.skipped) == 25
    assert "bad24.jpg" in pool.skipped[24]
    (tmp_path / "good.png").unlink()
    text = message(open_pool, tmp_path, skip_unreadable=True)
    assert "25 of 25" in text


def test_known_images_are_not_read_again(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write(tmp_path / name)
    pool = open_pool(tmp_path)
    known = {
        path: (*stats, info)
        for path, stats, info in zip(pool.paths, pool.stats, pool.infos, strict=True)
    }
    status = (tmp_path / "a.png").stat()
    (tmp_path / "a.png").write_bytes(bytes(status.st_size))  # of the same size and time
    os.utime(tmp_path / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    write(tmp_path / "b.png", (33, 44))
    again = open_pool(tmp_path, known=known)
    assert again.infos[0] == pool.infos[0]
    assert again.size(1) == (33, 44)
    os.utime(tmp_path / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert "a.png" in message(open_pool, tmp_path, known=known)


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    pool = open_pool(tmp_path)
    write(tmp_path / "a.png", (21, 30))
    text = message(pool.read, 0)
    assert "changed" in text
    assert "20 x 30" in text


def test_same_stems_are_refused(tmp_path: Path) -> None:
    for name in ("d/x.jpg", "d/x.png", "e/x.jpg", "x.y.jpg", "x.z.jpg"):
        write(tmp_path / name)
    for call in (find_images, open_pool):
        text = message(call, tmp_path)
        assert "d/x.jpg" in text
        assert "d/x.png" in text
        assert "e/x.jpg" not in text
        assert "x.y.jpg" not in text


def test_a_mask_that_would_be_a_folder_is_refused(tmp_path: Path) -> None:
    for name in ("d/a.jpg", "d/a.png/x.jpg", "d/a.png/e/y.jpg", "b.jpg", "c/b.png/z.jpg"):
        write(tmp_path / name)
    (tmp_path / "b.png").mkdir()  # holds no image, so no mask either
    for call in (find_images, open_pool):
        text = message(call, tmp_path)
        assert "the mask of d/a.jpg would have the name of the folder d/a.png\n" in text
        assert "b.jpg" not in text
    assert "d/a.png" in message(open_pool, tmp_path, ["d/a.jpg", "d/a.png/x.jpg"])
    assert len(open_pool(tmp_path, ["d/a.jpg", "b.jpg"])) == 2


def test_links_inside_are_followed_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "z" / "a.png")
    write(root / ".store" / "b.png")
    (root / "again").symlink_to(root / "z")  # sorts before z
    (root / "stored").symlink_to(root / ".store")
    (root / "c.png").symlink_to(root / "z" / "a.png")
    assert find_images(root) == ["c.png", "stored/b.png", "z/a.png"]


def test_loops_end(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "b")
    (tmp_path / "c").symlink_to(tmp_path / "d")
    (tmp_path / "d").symlink_to(tmp_path / "c")
    assert find_images(tmp_path) == ["a/x.png"]
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    assert "self.png" in message(find_images, tmp_path)


def test_links_that_leave_the_root_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "a.png")
    write(tmp_path / "outside" / "b.png")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "file.png").symlink_to(tmp_path / "outside" / "b.png")
    (root / "gone.png").symlink_to(root / "nothing.png")
    (root / "readme").symlink_to(tmp_path / "nothing")  # is no image
    for call in (find_images, open_pool):
        text = message(call, root)
        assert all(name in text for name in ("folder", "file.png", "gone.png"))
        assert "leads out of" in text
        assert "readme" not in text
    pool = open_pool(root, skip_unreadable=True)
    assert pool.paths == ("a.png",)
    assert len(pool.skipped) == 3


def test_pipes_and_odd_names_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    shutil.copy(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff.png")
    text = message(open_pool, tmp_path)
    assert "pipe.png" in text
    assert "UTF-8" in text
    assert "xff" in text
    text.encode()
    assert len(open_pool(tmp_path, skip_unreadable=True).skipped) == 2


@pytest.mark.parametrize("value_range", [(5, 5), (10, 0)])
def test_an_empty_value_range_is_refused(tmp_path: Path, value_range: tuple[int, int]) -> None:
    write(tmp_path / "a.png")
    assert "value range" in message(open_pool, tmp_path, reading=Reading(value_range))


def test_the_value_range_reaches_the_pixels(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16), 1023, np.uint16)).save(tmp_path / "a.png")
    assert open_pool(tmp_path).read(0).max() == pytest.approx(1023 / 65535)
    assert open_pool(tmp_path, reading=Reading((0, 2046))).read(0).max() == pytest.approx(0.5)


NFC, NFD = "caf\u00e9.png", "cafe\u0301.png"


def test_other_kinds_of_images_are_counted_and_named(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    for name in ("b.jp2", "d/c.JP2", "e.heic", "f.txt", ".g.gif", "h.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    pool = open_pool(tmp_path)
    assert pool.other == ("b.jp2", "d/c.JP2", "e.heic", "h.nii.gz")
    (note,) = pool.notes()
    for words in ("2 .jp2", "1 .heic", "1 .nii.gz", "b.jp2, d/c.JP2, e.heic and 1 more"):
        assert words in note
    (tmp_path / "a.png").unlink()
    for call in (find_images, open_pool):
        assert "2 .jp2, 1 .heic" in message(call, tmp_path)
        assert "convert them" in message(call, tmp_path)


def test_names_that_look_alike_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path / NFC)
    text = message(open_pool, tmp_path, [NFD])
    assert "Unicode form" in text
    assert r"caf\xe9.png" in text
    assert r"cafe\u0301.png" in text
    assert open_pool(tmp_path).notes() == []
    write(tmp_path / NFD)
    (note,) = open_pool(tmp_path).notes()
    assert r"'cafe\u0301.png', 'caf\xe9.png'" in note


def test_images_that_are_turned_are_counted(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (30, 20)).save(tmp_path / f"{orientation}.png", exif=exif)
    exif[0x0112] = 6
    Image.new("RGB", (20, 20)).save(tmp_path / "square.png", exif=exif)
    pool = open_pool(tmp_path)
    assert pool.turned == 8
    assert pool.notes() == []
    (note,) = pool.notes(labelled=True)
    assert "4 images are turned or mirrored" in note  # 2, 3, 4 and the square one
    assert "2.png, 3.png, 4.png and 1 more" in note
    assert open_pool(tmp_path, known=known(pool)) == pool


def known(pool: ImagePool) -> dict[str, tuple[int, int, ImageInfo]]:
    found = zip(pool.paths, pool.stats, pool.infos, strict=True)
    return {path: (*stats, ImageInfo(i.height, i.width, i.digest)) for path, stats, i in found}


def test_a_missing_band_is_unreadable(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    Image.new("RGBA", (30, 20), (1, 2, 3, 4)).save(tmp_path / "b.png")
    reading = Reading(bands=(4, 1))
    assert "no band 4" in message(open_pool, tmp_path, reading=reading)
    pool = open_pool(tmp_path, reading=reading, skip_unreadable=True)
    assert pool.paths == ("b.png",)
    assert pool.read(0)[0, 0].tolist() == [4, 1]
