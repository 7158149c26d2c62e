"""Image folders: listing, labels, every kind of file, sizes, damage, and the cache."""

import os
import struct
import time
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.features
import PIL.Image
import pytest
from filelock import FileLock

from campaign import Child
from pocketddpm import progress
from pocketddpm.commands.main import main
from pocketddpm.data import cores, files
from pocketddpm.data.decode import FORMATS, Fit, Reading, decode, formats, suffixes
from pocketddpm.data.files import ImageFiles
from pocketddpm.data.folder import list_images, load_folder
from pocketddpm.data.load import load_images, to_grey
from pocketddpm.errors import ConfigError, DataError

AVIF = PIL.features.check("avif")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POCKETDDPM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


def save(path: Path, mode: str = "L", size: tuple[int, int] = (4, 3)) -> Path:
    """Write a black picture; size is Pillow's (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new(mode, size).save(path)
    return path


def stored_in(cache: Path) -> list[Path]:
    """Return the decoded images in the cache, whole or half written."""
    return [path for path in cache.rglob("*images*") if path.is_file()]


def shade(path: Path, value: int) -> Path:
    """Write a 4x4 grey picture of one shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("L", (4, 4), value).save(path)
    return path


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """Return a PNG made by hand: Pillow writes no 16-bit colour, no absurd size and no nonsense."""
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + extra + body


# --- listing and labels ---


def test_files_come_in_natural_order_from_all_depths(pictures: Path) -> None:
    names = ["b/x.png", "a/10.PNG", "a/2.png", "a/2/1.png", "a10.png", "a9.png"]
    for name in [*names, "a/.hidden.png", ".thumbs/x.png"]:
        save(pictures / name)
    (pictures / "notes.txt").write_text("no image")
    found = [path.relative_to(pictures).as_posix() for path in list_images(pictures)]
    assert found == ["a/2/1.png", "a/2.png", "a/10.PNG", "a9.png", "a10.png", "b/x.png"]


def test_every_suffix_is_read(pictures: Path) -> None:
    wanted = (
        "apng avif bmp bw dds dib gif ico j2c j2k jfif jp2 jpc jpe jpeg jpf jpg jpx pbm pcx pfm "
        "pgm png pnm ppm qoi rgb rgba sgi tga tif tiff webp"
    )
    assert sorted(suffixes()) == [f".{s}" for s in wanted.split() if s != "avif" or AVIF]
    grey = {"pgm": 100, "pbm": 255, "bw": 100, "pfm": 51}
    modes = {"pbm": "1", "pfm": "F"}
    for suffix in suffixes():
        kind = next(name for name in formats() if suffix in FORMATS[name].split())
        image = PIL.Image.new("RGB", (8, 8), (200, 100, 50))
        if suffix[1:] in grey:
            mode = modes.get(suffix[1:], "L")
            image = PIL.Image.new(mode, (8, 8), 0.2 if mode == "F" else grey[suffix[1:]])
        if kind == "QOI":  # which Pillow 12 writes, and older ones only read
            continue
        sizes = {"sizes": [(8, 8)]} if kind == "ICO" else {}
        image.save(pictures / f"x{suffix.upper()}", kind, **sizes)
    found = load_folder(pictures)
    assert found.images.shape == (len(suffixes()) - 1, 3, 8, 8)
    order = [path.suffix[1:].lower() for path in list_images(pictures)]
    for suffix, image in zip(order, found.images, strict=True):
        expected = (grey[suffix],) * 3 if suffix in grey else (200, 100, 50)
        # GIF has a palette of 256 colours, JPEG and WebP lose a little.
        np.testing.assert_allclose(image[:, 4, 4], expected, atol=6, err_msg=suffix)


def test_labels_are_the_sub_folders(pictures: Path) -> None:
    for name, value in (("dog/a/1.png", 3), ("cat/1.png", 1), ("cat/2.png", 2), ("10/1.png", 9)):
        shade(pictures / name, value)
    (pictures / "empty").mkdir()
    found = load_folder(pictures)
    assert found.classes == ("10", "cat", "dog")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 1, 2]
    assert found.images[:, 0, 0, 0].tolist() == [9, 1, 2, 3]
    assert found.name == "pictures"


def test_class_names_are_in_natural_order(pictures: Path) -> None:
    for name in ("10", "9", "1"):
        shade(pictures / name / "x.png", int(name))
    found = load_folder(pictures)
    assert found.classes == ("1", "9", "10")
    assert found.images[:, 0, 0, 0].tolist() == [1, 9, 10]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["x.png", "y.png"], ""),
        (["a/x.png", "b/x.png", "y.png"], "1 images lie beside the 2 sub-folders"),
        (["a/x.png"], "a/"),
        (["a/x.png", "y.png"], "a/"),
    ],
)
def test_no_labels_unless_they_are_in_two_sub_folders(
    pictures: Path, names: list[str], said: str
) -> None:
    for name in names:
        save(pictures / name)
    found = load_folder(pictures)
    assert (found.labels, found.classes, len(found)) == (None, (), len(names))
    (note,) = [note for note in found.notes if "labels" in note] or [""]
    assert note.startswith("no labels") == bool(said) and said in note


def test_what_is_left_out_or_merged_is_said_in_one_line(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cat/1", "cat/2", "cat/more/3", "dog/1", "dog/2", "stray"):
        shade(pictures / f"{name}.png", 7)
    for name in ("notes.txt", "dog/x.heic", "dog/y.HEIC", "cat/raw", ".hidden.txt"):
        (pictures / name).write_text("no image")
    (pictures / "nothing").mkdir()
    found = load_images(str(pictures))
    assert found.classes == ("cat", "dog")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 0, 1, 1]
    (line,) = capsys.readouterr().err.splitlines()
    for value in ("2 .heic", "1 .txt", "1 no suffix", "1 images", "stray.png", "(nothing)"):
        assert value in line
    assert "1 images in folders below" in line
    assert ".hidden" not in line


def test_what_decoding_changes_is_said_each_time(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k, mode in enumerate(("L", "RGB", "RGBA", "LA")):
        save(pictures / f"{k}.png", mode)
    for _ in range(2):  # decoded, and from the cache
        load_images(str(pictures))
        (line,) = capsys.readouterr().err.splitlines()
        assert "2 of 4 images" in line and "3 channels" in line
        assert "2 images have transparency" in line and "white" in line
        load_images(str(pictures), quiet=True)
        assert capsys.readouterr().err == ""


def test_nothing_is_said_of_a_folder_that_is_taken_as_it_is(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("cat/1", 7), ("dog/1", 100), ("dog/2", 7)):
        shade(pictures / f"{name}.png", value)
    assert load_images(str(pictures)).notes == ()
    assert capsys.readouterr() == ("", "")


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path, pictures: Path) -> None:
    save(tmp_path / "elsewhere" / "x.png")
    save(pictures / "a" / "x.png")
    (pictures / "b").symlink_to(tmp_path / "elsewhere")
    (pictures / "a" / "up").symlink_to(pictures)
    assert [path.parent.name for path in list_images(pictures)] == ["a", "b"]


def test_nothing_to_read(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(DataError, match=r"pictures: .*bmp, .*gif, "):
        load_folder(pictures)
    with pytest.raises(DataError, match="absent"):
        load_folder(tmp_path / "absent")
    with pytest.raises(DataError, match=r"x\.png"):
        load_folder(save(tmp_path / "x.png"))


def test_a_dangling_link_is_named(pictures: Path) -> None:
    (pictures / "x.png").symlink_to(pictures / "gone.png")
    with pytest.raises(DataError, match=r"x\.png: .*No such file"):
        load_folder(pictures)


# --- modes ---


def test_grey_files_make_one_channel_and_any_colour_makes_three(pictures: Path) -> None:
    for mode in ("L", "1", "LA", "I;16"):
        save(pictures / f"{mode[0]}{len(mode)}.png", mode)
    assert load_folder(pictures).shape == (1, 3, 4)
    save(pictures / "colour.png", "RGB")
    assert load_folder(pictures).shape == (3, 3, 4)


SIXTEEN = np.array([[0, 128, 129, 257], [32767, 32768, 65406, 65535]], np.uint16)
# round(v / 257), by hand
EIGHT = np.array([[[0, 0, 1, 1], [127, 128, 254, 255]]])


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_sixteen_bits_are_rounded_to_eight(pictures: Path, name: str) -> None:
    PIL.Image.fromarray(SIXTEEN).save(pictures / name)
    np.testing.assert_array_equal(decode(pictures / name, 1), EIGHT)


def test_sixteen_bits_in_either_byte_order_and_in_32_bit_modes(pictures: Path) -> None:
    big = SIXTEEN.astype(">u2")
    PIL.Image.frombytes("I;16B", (4, 2), big.tobytes()).save(pictures / "big.tif")
    PIL.Image.fromarray(SIXTEEN.astype(np.int32)).save(pictures / "int.tif")
    PIL.Image.fromarray((SIXTEEN / 65535).astype(np.float32)).save(pictures / "float.tif")
    for name in ("big", "int", "float"):
        found = decode(pictures / f"{name}.tif", 1)
        np.testing.assert_array_equal(found, EIGHT, err_msg=name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 65536]], np.int32), r"0\.\.65535 .*I\b"),
        (np.array([[-1, 5]], np.int32), r"0\.\.65535 .*I\b"),
        (np.array([[0, 200]], np.float32), r"0\.\.1 .*F"),
        (np.array([[0, np.nan]], np.float32), r"not finite .*F"),
    ],
)
def test_values_of_unknown_scale_are_refused(
    pictures: Path, values: np.ndarray, message: str
) -> None:
    PIL.Image.fromarray(values).save(pictures / "x.tif")
    with pytest.raises(DataError, match=rf"x\.tif \(.*{message}"):
        load_folder(pictures)


def test_sixteen_bit_colour(pictures: Path) -> None:
    values = np.array([0, 257 * 7, 65535], ">u2")
    (pictures / "x.png").write_bytes(png(1, 1, 16, 2, b"\0" + values.tobytes()))
    assert decode(pictures / "x.png", 3).ravel().tolist() == [0, 7, 255]


GROUNDS = {None: (255, 255, 255), "black": (0, 0, 0), "#102030": (16, 32, 48)}


@pytest.mark.parametrize("background", GROUNDS)
def test_transparency_is_laid_over_the_background(pictures: Path, background: str | None) -> None:
    """Over white unless another is chosen; of a half, half is mixed in, as Porter and Duff say."""
    ground = np.array(GROUNDS[background])
    reading = Reading(background=background)
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 51], [200, 100, 50, 0]]], np.uint8)
    PIL.Image.fromarray(rgba).save(pictures / "rgba.png")
    mixed = [rgba[0, 0, :3], np.rint(0.2 * rgba[0, 0, :3] + 0.8 * ground), ground]
    found = decode(pictures / "rgba.png", 3, reading)
    np.testing.assert_allclose(found[:, 0].T, mixed, atol=1)
    la = np.array([[[200, 255], [200, 51], [200, 0]]], np.uint8)
    PIL.Image.fromarray(la).save(pictures / "la.png")
    grey = round(float(ground @ (0.299, 0.587, 0.114)))
    found = decode(pictures / "la.png", 1, reading)
    np.testing.assert_allclose(found[0, 0], [200, 40 + 0.8 * grey, grey], atol=1)


def test_palettes_with_and_without_transparency(pictures: Path) -> None:
    image = PIL.Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 50, 7, 8, 9])
    image.putdata([0, 1, 2])
    image.save(pictures / "plain.png")
    image.save(pictures / "one.png", transparency=1)
    image.save(pictures / "one.gif", transparency=1)
    image.save(pictures / "each.png", transparency=bytes((255, 51, 0)))
    expected = {
        "plain.png": [[10, 20, 30], [200, 100, 50], [7, 8, 9]],
        "one.png": [[10, 20, 30], [0, 0, 0], [7, 8, 9]],
        "one.gif": [[10, 20, 30], [0, 0, 0], [7, 8, 9]],
        "each.png": [[10, 20, 30], [40, 20, 10], [0, 0, 0]],
    }
    for name, colours in expected.items():
        found = decode(pictures / name, 3, Reading(background="black"))
        np.testing.assert_array_equal(found[:, 0].T, colours, err_msg=name)


def test_one_transparent_shade_or_colour_without_an_alpha_channel(pictures: Path) -> None:
    PIL.Image.fromarray(np.array([[9, 80]], np.uint8)).save(pictures / "l.png", transparency=80)
    assert decode(pictures / "l.png", 1).ravel().tolist() == [9, 255]
    rgb = PIL.Image.fromarray(np.array([[[9, 9, 9], [80, 1, 2]]], np.uint8))
    rgb.save(pictures / "rgb.png", transparency=(80, 1, 2))
    assert decode(pictures / "rgb.png", 3)[0].ravel().tolist() == [9, 255]
    # Neither makes a grey file coloured.
    (pictures / "rgb.png").unlink()
    assert load_folder(pictures).shape == (1, 1, 2)


def test_cmyk_becomes_rgb(pictures: Path) -> None:
    PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(pictures / "x.jpg", quality=95)
    found = load_folder(pictures).images
    np.testing.assert_allclose(found[0, :, 4, 4], [255, 0, 0], atol=3)


def test_the_first_frame_of_an_animation(pictures: Path) -> None:
    frames = [PIL.Image.new("L", (4, 4), value) for value in (10, 200)]
    frames[0].save(pictures / "x.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(pictures / "x.gif", 1), np.full((1, 4, 4), 10))


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_honoured(pictures: Path, name: str, orientation: int) -> None:
    # One bright corner in a landscape picture; where it must come to, by the EXIF standard.
    values = np.zeros((16, 32), np.uint8)
    values[:8, :8] = 240
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(values).save(pictures / name, exif=exif)
    found = load_folder(pictures).images[0, 0]
    assert found.shape == ((16, 32) if orientation <= 4 else (32, 16))
    bottom = orientation in (3, 4, 7, 8)
    right = orientation in (2, 3, 6, 7)
    corner = found[-4 if bottom else 3, -4 if right else 3]
    assert corner > 200
    assert (found > 120).sum() == 64


def test_nonsense_in_the_exif_block_is_no_damage(pictures: Path) -> None:
    PIL.Image.new("L", (4, 4), 9).save(pictures / "x.jpg", exif=b"Exif\0\0nonsense")
    np.testing.assert_allclose(load_folder(pictures).images, 9, atol=1)


def test_an_orientation_that_comes_after_the_pixels(pictures: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    late = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    content = png(2, 1, 8, 0, b"\0\x09\x50")
    (pictures / "x.png").write_bytes(content[:-12] + late + content[-12:])
    assert load_folder(pictures, Reading((2, 1))).images.ravel().tolist() == [9, 80]
    # Where the header's size counts, the contradiction is named.
    with pytest.raises(DataError, match=r"x\.png \(2x1.*1x2\)"):
        load_folder(pictures)


# --- sizes ---


def test_what_is_only_scaled_is_not_called_cropped(pictures: Path) -> None:
    save(pictures / "a.png", size=(4, 6))
    assert "6x4" not in "".join(load_folder(pictures, Reading((6, 4))).notes)  # as it is
    assert "cropped" not in load_folder(pictures, Reading((3, 2))).notes[0]
    assert "cropped" in load_folder(pictures, Reading((2, 2))).notes[0]


def test_differing_sizes_need_an_image_size(pictures: Path) -> None:
    save(pictures / "a.png", size=(4, 3))
    save(pictures / "b.png", size=(4, 3))
    save(pictures / "c.png", size=(5, 3))
    with pytest.raises(DataError, match=r"a\.png .*3x4.*c\.png .*3x5.*--image-size"):
        load_folder(pictures)
    found = load_folder(pictures, Reading((2, 2)))
    assert found.images.shape == (3, 1, 2, 2)
    assert found.source == "cropped and resized to 2x2"
    assert "2 sizes, 3x4 to 3x5" in found.notes[0] and "cropped" in found.notes[0]
    assert load_images(str(pictures), image_size=(2, 6)).shape == (1, 2, 6)


def test_nothing_is_squashed(pictures: Path) -> None:
    # The same disc in a landscape and in a portrait picture, between margins that are cropped.
    y, x = np.mgrid[:40, :40] - 19.5
    disc = ((x**2 + y**2 < 15**2) * 255).astype(np.uint8)
    wide, tall = np.full((40, 90), 77, np.uint8), np.full((70, 40), 77, np.uint8)
    wide[:, 25:65], tall[15:55] = disc, disc
    for name, values in (("disc", disc), ("tall", tall), ("wide", wide)):
        PIL.Image.fromarray(values).save(pictures / f"{name}.png")
    plain, *others = load_folder(pictures, Reading((10, 10))).images[:, 0].astype(int)
    # Pillow rounds once for each direction.
    np.testing.assert_allclose(plain, plain.T, atol=4)
    for other in others:
        # At the rim, the antialiasing sees a little of what was cropped.
        np.testing.assert_allclose(other[1:-1, 1:-1], plain[1:-1, 1:-1], atol=1)


def test_downscaling_is_antialiased(pictures: Path) -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    PIL.Image.fromarray(stripes).save(pictures / "x.png")
    np.testing.assert_allclose(
        load_folder(pictures, Reading((8, 8))).images[..., 1:-1], 127.5, atol=3
    )


def test_small_pictures_are_enlarged(pictures: Path) -> None:
    save(pictures / "x.png", size=(1, 1))
    assert load_folder(pictures, Reading((8, 5))).images.shape == (1, 1, 8, 5)


# --- damage ---


def test_all_broken_files_are_named_at_once(pictures: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    for i in range(3):
        PIL.Image.fromarray(noise).save(pictures / f"good{i}.png")
    whole = (pictures / "good0.png").read_bytes()
    (pictures / "cut1.png").write_bytes(whole[:400])
    (pictures / "zero2.png").write_bytes(b"")
    (pictures / "text3.jpg").write_text("not an image")
    (pictures / "cut4.png").write_bytes(whole[:500])
    with pytest.raises(DataError) as caught:
        load_folder(pictures)
    message = str(caught.value)
    assert message.startswith(f"{pictures}: 4 of 7 ")
    assert all(
        f"{name} (" in message for name in ("cut1.png", "zero2.png", "text3.jpg", "cut4.png")
    )
    assert "good" not in message
    assert "\n" not in message


def test_damage_that_only_decoding_shows(pictures: Path, cache: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    for i in range(9):
        PIL.Image.fromarray(noise).save(pictures / f"{i}.png")
        if i >= 2:
            (pictures / f"{i}.png").write_bytes((pictures / f"{i}.png").read_bytes()[:500])
    with pytest.raises(DataError, match=r" 7 of 9 .*: 2\.png .*6\.png .* 2 more"):
        load_folder(pictures)
    # No half-written cache is left.
    assert stored_in(cache) == []


@pytest.mark.parametrize("width", [8001, 9500, 20000])
def test_a_picture_of_too_many_pixels_is_refused_by_name(pictures: Path, width: int) -> None:
    # 64, 90 and 400 million pixels in a few bytes: Pillow is silent, warns and raises of itself.
    (pictures / "bomb.png").write_bytes(png(width, width, 8, 0, b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=r"bomb\.png \(.*64,000,000 pixels\)"):
            load_folder(pictures, Reading((8, 8)))


def test_pillows_warnings_do_not_leak(pictures: Path) -> None:
    # An animation of no frames is one of the oddities that Pillow warns of.
    content = png(1, 1, 8, 0, b"\0\x09", chunk(b"acTL", bytes(8)))
    (pictures / "x.png").write_bytes(content)
    with pytest.warns(UserWarning, match="Invalid APNG"):
        PIL.Image.open(pictures / "x.png").close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_folder(pictures).images.tolist() == [[[[9]]]]


def test_other_formats_are_not_run_whatever_their_name(pictures: Path) -> None:
    PIL.Image.new("L", (4, 4)).save(pictures / "x.eps")
    (pictures / "x.eps").rename(pictures / "x.png")
    with pytest.raises(DataError, match=r"x\.png \("):
        load_folder(pictures)


# --- the cache ---


def test_the_second_load_comes_from_the_cache(
    pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        shade(pictures / f"{i}.png", i)
    first = load_folder(pictures).images
    (stored,) = stored_in(cache)
    assert stored.name == "images.npy"
    monkeypatch.setattr(files, "decode", lambda *_, **__: pytest.fail("decoded again"))
    second = load_folder(pictures).images
    assert isinstance(second, np.memmap)
    assert not second.flags.writeable
    np.testing.assert_array_equal(second, first)
    assert second[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_every_change_is_decoded_anew(pictures: Path) -> None:
    shade(pictures / "a.png", 1)
    assert load_folder(pictures).images.max() == 1
    shade(pictures / "b.png", 2)
    assert load_folder(pictures).images.max() == 2
    old = (pictures / "b.png").stat()
    shade(pictures / "b.png", 3)
    # The same size of file: the time alone tells.
    assert (pictures / "b.png").stat().st_size == old.st_size
    os.utime(pictures / "b.png", ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    assert load_folder(pictures).images.max() == 3
    (pictures / "a.png").rename(pictures / "c.png")
    assert load_folder(pictures).images[:, 0, 0, 0].tolist() == [3, 1]
    assert load_folder(pictures, Reading((2, 2))).shape == (1, 2, 2)


def test_a_damaged_cache_is_replaced(pictures: Path, cache: Path) -> None:
    shade(pictures / "a.png", 9)
    load_folder(pictures)
    (stored,) = stored_in(cache)
    for damage in (b"", stored.read_bytes()[:-1], b"\x80\x04pickle"):
        stored.write_bytes(damage)
        np.testing.assert_array_equal(load_folder(pictures).images, np.full((1, 1, 4, 4), 9))


def test_without_a_cache_the_images_are_decoded_into_memory(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("POCKETDDPM_CACHE", str(tmp_path / "file"))
    shade(pictures / "a.png", 9)
    found = load_folder(pictures).images
    assert not isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, np.full((1, 1, 4, 4), 9))


def test_why_the_cache_is_not_used_is_said(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("POCKETDDPM_CACHE", str(tmp_path / "file"))
    shade(pictures / "a.png", 9)
    load_folder(pictures)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(pictures) in line and str(tmp_path / "file") in line and "Not a directory" in line


def test_the_cache_keeps_to_its_limit(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of 144 bytes and a cache of 300: what was not used for longest goes first."""
    monkeypatch.setenv("POCKETDDPM_CACHE_GB", "300e-9")

    def load(name: str) -> bytes:
        if not (tmp_path / name).exists():
            shade(tmp_path / name / "x.png", int(name))
        images = load_folder(tmp_path / name).images
        for k, path in enumerate(sorted(stored_in(cache), key=lambda p: p.stat().st_mtime)):
            os.utime(path, (k, k))  # the clock of a disk may be too coarse to tell them apart
        return images.tobytes()

    def kept() -> set[int]:
        return {int(np.load(path)[0, 0, 0, 0]) for path in stored_in(cache)}

    assert [load(name)[0] for name in ("1", "2")] == [1, 2]
    load("1")
    load("3")
    assert kept() == {1, 3}
    assert [load(name) for name in ("1", "2", "3")] == [bytes([k]) * 16 for k in (1, 2, 3)]
    assert kept() == {2, 3}
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("POCKETDDPM_CACHE_GB", "100e-9")
    assert load("4") == bytes([4]) * 16
    assert "POCKETDDPM_CACHE_GB=100e-9" in capsys.readouterr().err
    assert kept() == {2, 3}
    for wrong in ("much", "nan", "-1"):
        monkeypatch.setenv("POCKETDDPM_CACHE_GB", wrong)
        with pytest.raises(ConfigError, match=f"POCKETDDPM_CACHE_GB.*'{wrong}'"):
            load("5")


def test_what_a_crash_left_half_written_is_removed(pictures: Path, cache: Path) -> None:
    shade(pictures / "a.png", 9)
    load_folder(pictures)
    (stored,) = stored_in(cache)
    stored.rename(stored.parent / ".images-half")
    load_folder(pictures)
    assert stored_in(cache) == [stored]


def test_the_cache_can_be_looked_at_and_emptied(
    pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POCKETDDPM_CACHE_GB", "1.5")
    main(["cache"])
    assert capsys.readouterr().out == f"{cache / 'folders'}: 0 GB of at most 1.5 GB\n"
    shade(pictures / "a.png", 9)
    images = load_folder(pictures).images
    load_folder(pictures, Reading((300, 500)))
    main(["cache", "show"])
    first, *rest = capsys.readouterr().out.splitlines()
    assert "0.00015 GB" in first
    assert ["1x1x300x500" in rest[0], "1x1x4x4" in rest[1]] == [True, True]
    assert all(line.endswith(f"  {pictures}") for line in rest)
    (large,) = (path.parent for path in stored_in(cache) if path.stat().st_size > 1000)
    with FileLock(large / "lock"):  # as if another process decoded there
        main(["cache", "clear"])
    assert str(large) in capsys.readouterr().out
    assert stored_in(cache) == [large / "images.npy"]
    assert images.tolist() == [[[[9] * 4] * 4]]  # what is mapped stays
    main(["cache", "clear"])
    assert "0.00015 GB" in capsys.readouterr().out
    assert stored_in(cache) == []
    assert load_folder(pictures).images.tolist() == images.tolist()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_of_several_processes_one_decodes(pictures: Path, cache: Path, tmp_path: Path) -> None:
    """Three that start together read every file once between them."""
    for i in range(40):
        shade(pictures / f"{i}.png", i)

    def load() -> None:
        def counted(*asked: Any) -> Any:
            time.sleep(0.01)
            with (tmp_path / "decoded").open("a") as log:
                log.write("x")
            return decode(*asked)

        files.decode = counted
        cores.ALONE = 1000
        assert load_folder(pictures).images.sum() == 16 * sum(range(40))

    three = [Child(load, tmp_path / "errors").start() for _ in range(3)]
    assert [child.wait().status for child in three] == [0, 0, 0]
    assert len((tmp_path / "decoded").read_text()) == 40


def test_what_takes_long_is_decoded_by_several_processes(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images in the same order; what is broken is named as by one process."""
    for i in range(50):
        shade(pictures / f"{i}.png", i)
    alone = load_folder(pictures, Reading((3, 3))).images
    monkeypatch.setattr(cores, "ALONE", -1)
    monkeypatch.setattr(cores, "cores", lambda: 2)
    monkeypatch.setattr(files, "decode", lambda *_, **__: pytest.fail("decoded here"))
    names = [f"{i}.png" for i in range(50)]
    both = ImageFiles("x", names, [pictures / name for name in names], Reading((3, 3)))
    found = both.survey()
    assert found.shape == (50, 1, 3, 3)
    np.testing.assert_array_equal(both.array(found), alone)
    sources = [path.read_bytes() for path in both.sources]  # type: ignore[union-attr]
    np.testing.assert_array_equal(replace(both, sources=sources).array(found), alone)
    for i in (7, 41):
        (pictures / f"{i}.png").write_bytes(sources[i][:-30])
    with pytest.raises(DataError, match=r"2 of 50 .* 7\.png \(.*41\.png \("):
        both.array(found)


def test_a_process_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "ALONE", -1)
    monkeypatch.setattr(cores, "cores", lambda: 2)
    with pytest.raises(DataError, match=r"\b3\b"):
        list(cores.on_all_cores(os._exit, [3] * 40))


def test_a_full_disk_leaves_no_half_written_cache(
    pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    shade(pictures / "a.png", 9)
    np.testing.assert_array_equal(load_folder(pictures).images, np.full((1, 1, 4, 4), 9))
    assert stored_in(cache) == []


def test_progress_shows_only_for_many_files(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        shade(pictures / f"{i}.png", i)
    load_folder(pictures)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "PROGRESS_FROM", 2)
    load_folder(pictures, Reading((2, 2)))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "decoding images" in printed.err


# --- the catalogue's entry ---


def test_train_and_test_folders_are_splits(pictures: Path) -> None:
    for name, value in (("train/a/1", 1), ("train/b/1", 2), ("train/c/1", 3), ("test/b/1", 4)):
        shade(pictures / f"{name}.png", value)
    shade(pictures / "test/c/1.png", 5)
    train, test = load_images(str(pictures)), load_images(str(pictures), "test")
    assert train.classes == test.classes == ("a", "b", "c")
    assert train.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert test.images[:, 0, 0, 0].tolist() == [4, 5]
    # Numbered as in the training folder, though the test folder has no 'a'.
    assert test.labels is not None
    assert test.labels.tolist() == [1, 2]
    assert train.name == test.name == "pictures"
    shade(pictures / "test/d/1.png", 6)
    with pytest.raises(DataError, match="test/d"):
        load_images(str(pictures), "test")


@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
@pytest.mark.parametrize("test", ["val", "Testing", "valid", "validation", "TEST"])
def test_the_usual_names_of_splits_in_any_case(
    pictures: Path, train: str, test: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in ((f"{train}/a/1", 1), (f"{train}/b/1", 2), (f"{test}/b/1", 3)):
        shade(pictures / f"{name}.png", value)
    shade(pictures / "more" / "x.png", 9)
    images = load_images(str(pictures))
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{train}/" in line and f"{test}/" in line and ": more" in line
    assert (images.classes, images.name) == (("a", "b"), "pictures")
    assert images.images[:, 0, 0, 0].tolist() == [1, 2]
    tests = load_images(str(pictures), "test")
    assert tests.labels is not None
    # One class is enough where the training images say which classes there are.
    assert (tests.labels.tolist(), tests.images.max()) == ([1], 3)


def test_the_test_folder_comes_before_the_validation_folder(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("train/a", 1), ("validation/a", 2), ("test/a", 3)):
        shade(pictures / f"{name}.png", value)
    assert load_images(str(pictures), "test").images.max() == 3
    assert "not used: validation" in capsys.readouterr().err


def test_a_folder_for_training_alone_is_no_class(pictures: Path) -> None:
    for name in ("train/a/1", "train/b/1"):
        shade(pictures / f"{name}.png", 1)
    found = load_images(str(pictures))
    assert (found.classes, found.name) == (("a", "b"), "pictures")
    # Beside others it is one of them: trains, buses and cars.
    shade(pictures / "bus" / "1.png", 1)
    assert load_images(str(pictures)).classes == ("bus", "train")


def test_unlabelled_test_images_of_labelled_training_images(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train/a/1", "train/b/1", "test/1", "test/2"):
        shade(pictures / f"{name}.png", 1)
    found = load_images(str(pictures), "test")
    assert (len(found), found.labels) == (2, None)
    assert "no labels" in capsys.readouterr().err


def test_a_folder_without_splits_is_all_for_training(pictures: Path) -> None:
    shade(pictures / "train" / "x.png", 1)
    assert len(load_images(str(pictures))) == 1
    with pytest.raises(DataError, match=r"train/.* test/"):
        load_images(str(pictures), "test")


def test_padding_a_folder(pictures: Path) -> None:
    shade(pictures / "x.png", 9)
    found = load_images(str(pictures), image_size=(6, 6), fit="pad")
    assert found.source == "padded to 6x6"
    expected = np.zeros((1, 1, 6, 6))
    expected[:, :, 1:5, 1:5] = 9
    np.testing.assert_array_equal(found.images, expected)


def test_a_path_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        load_images(str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"x\.png"):
        load_images(str(shade(tmp_path / "x.png", 1)))


# --- what becomes of the files: every option ---


def coloured(path: Path, pixels: list[list[tuple[int, ...]]]) -> Path:
    """Write a picture of these pixels, RGB or RGBA."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.array(pixels, np.uint8)).save(path)
    return path


RED, CLEAR = (255, 0, 0), (9, 9, 9, 0)
# Of a red picture of 2x4 in 4x4: rows that are red, columns that are red; the rest is padding.
FITTED: dict[Fit, tuple[slice, slice]] = {
    "pad": (slice(1, 3), slice(0, 4)),
    "contain": (slice(1, 3), slice(0, 4)),
    "resize": (slice(0, 4), slice(0, 4)),
}


@pytest.mark.parametrize("background", [None, "white", "#000080"])
@pytest.mark.parametrize("fit", FITTED)
def test_every_way_to_a_size(pictures: Path, fit: Fit, background: str | None) -> None:
    coloured(pictures / "x.png", [[RED] * 4] * 2)
    found = load_images(str(pictures), image_size=(4, 4), fit=fit, background=background)
    ground = {None: (0, 0, 0), "white": (255,) * 3, "#000080": (0, 0, 128)}[background]
    expected = np.broadcast_to(np.array(ground)[:, None, None], (3, 4, 4)).copy()
    expected[(slice(None), *FITTED[fit])] = np.array(RED)[:, None, None]
    np.testing.assert_array_equal(found.images[0], expected)
    assert found.source.endswith(" to 4x4")


def test_a_crop_keeps_the_scale(pictures: Path) -> None:
    values = np.arange(48, dtype=np.uint8).reshape(6, 8)
    PIL.Image.fromarray(values).save(pictures / "x.png")
    found = load_images(str(pictures), image_size=(3, 4), fit="crop")
    np.testing.assert_array_equal(found.images[0, 0], values[1:4, 2:6])
    assert load_images("digits", image_size=(4, 4), fit="crop").source == "8x8 cropped to 4x4"


@pytest.mark.parametrize(("fit", "size"), [("pad", (4, 3)), ("crop", (3, 5)), ("crop", (4, 4))])
def test_a_size_that_its_fit_cannot_reach(pictures: Path, fit: Fit, size: tuple[int, int]) -> None:
    save(pictures / "fits.png", size=(size[1], size[0]))
    save(pictures / "x.png", size=(4, 3))  # 3x4
    if fit == "pad":
        save(pictures / "x.png", size=(4, 5))
    with pytest.raises(ConfigError, match=rf"x\.png: .*{size[0]}x{size[1]}.*--fit"):
        load_images(str(pictures), image_size=size, fit=fit)


def test_sprites_of_many_sizes_are_padded_to_one(pictures: Path) -> None:
    """Each is centred at its own scale, over the ground that its transparency is laid over."""
    coloured(pictures / "small.png", [[(*RED, 255), CLEAR]])
    coloured(pictures / "large.png", [[CLEAR] * 4] * 4)
    found = load_images(str(pictures), image_size=(4, 4), fit="pad")
    assert "transparency, which is laid over white" in " ".join(found.notes)
    large, small = found.images
    assert (large == 255).all()
    assert (small[1:] == 0).sum() == 2 and tuple(small[:, 1, 1]) == RED
    found = load_images(str(pictures), image_size=(4, 4), fit="pad", background="black")
    assert found.images.sum() == 255


def test_grey_is_made_of_colour(pictures: Path) -> None:
    """Of files and of arrays alike, by ITU-R 601-2 luma: 0.299 R + 0.587 G + 0.114 B."""
    coloured(pictures / "x.png", [[RED, (0, 255, 0), (0, 0, 255), (200, 100, 50)]])
    found = load_images(str(pictures), grey=True)
    np.testing.assert_allclose(found.images.ravel(), [76, 150, 29, 124], atol=1)
    assert any("1 images have colour" in note for note in found.notes)
    array = to_grey(load_images(str(pictures)))
    np.testing.assert_array_equal(array.images, found.images)
    assert to_grey(found) is found
    assert load_images(str(pictures)).shape == (3, 1, 4)


TWELVE = np.array([[100, 4000], [2050, 3025]], np.uint16)  # of 0..4095, in 16 bits


@pytest.mark.parametrize("kind", ["uint16", "float32", "int32"])
def test_values_are_stretched_over_the_whole_range(pictures: Path, kind: str) -> None:
    """Least and greatest become 0 and 255, and what lies between is rounded once."""
    values = {"uint16": TWELVE, "float32": TWELVE.astype(np.float32) - 500}.get(kind)
    values = TWELVE.astype(np.int32) * 1000 if values is None else values
    PIL.Image.fromarray(values).save(pictures / "x.tif")
    found = load_images(str(pictures), stretch=True)
    np.testing.assert_array_equal(found.images[0, 0], [[0, 255], [128, 191]])  # 127.5, 191.25
    assert found.reading is not None and found.reading.span is not None
    full = 1.0 if kind == "float32" else 65535.0
    np.testing.assert_allclose(found.reading.span, (values.min() / full, values.max() / full))
    again = load_images(str(pictures), stretch=True)  # from the cache
    assert isinstance(again.images, np.memmap) and again.reading == found.reading
    assert again.notes == found.notes


def test_images_that_come_out_near_black_are_said(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PIL.Image.fromarray(TWELVE).save(pictures / "x.png")
    assert load_images(str(pictures)).images.max() == 16
    assert "0..16" in (said := capsys.readouterr().err) and "--stretch yes" in said
    load_images(str(pictures), stretch=True)
    assert "--stretch yes" not in capsys.readouterr().err
    PIL.Image.fromarray(TWELVE * 0 + 7).save(pictures / "x.png")
    with pytest.raises(DataError, match=r"pictures.* 0\.0001"):
        load_images(str(pictures), stretch=True)
    with pytest.raises(ConfigError, match="digits"):
        load_images("digits", stretch=True)


@pytest.mark.parametrize(
    ("values", "said", "helps"),
    [
        (np.full((4, 4), 7, np.uint8), "are 7 of", False),
        (np.full((4, 4), 9, np.uint16), "are 0 of", False),
        (np.arange(16, dtype=np.uint16).reshape(4, 4), "are 0 of", True),
        (np.eye(4, dtype=np.uint8) * 40 + 5, "lie in 5..45 of", True),
        (
            np.where(np.arange(64**2) < 20, 255, 30).reshape(64, 64).astype(np.uint8),
            "lie in",
            False,
        ),
    ],
    ids=["blank", "blank of 16 bits", "blank in 8 bits", "dark", "a few bright pixels"],
)
def test_stretching_is_advised_only_where_it_helps(
    pictures: Path, values: np.ndarray, said: str, helps: bool
) -> None:
    """What was advised widens the range; what was not cannot be had, or changes next to nothing."""
    PIL.Image.fromarray(values).save(pictures / "x.png")
    found = load_images(str(pictures), image_size=(4, 4))
    (note,) = (note for note in found.notes if note.startswith("all values"))
    assert said in note
    assert ("--stretch yes" in note) == helps
    before = int(found.images.max()) - int(found.images.min())
    try:
        stretched = load_images(str(pictures), image_size=(4, 4), stretch=True)
    except DataError:
        assert values.min() == values.max()
        return
    assert not any("--stretch" in note for note in stretched.notes)
    after = int(stretched.images.max()) - int(stretched.images.min())
    assert after == 255 if helps else after <= 1.3 * before


def test_sprites_that_vanish_on_their_ground_are_said(pictures: Path) -> None:
    coloured(pictures / "a.png", [[(255, 255, 255, 255), CLEAR]])
    coloured(pictures / "b.png", [[(*RED, 255), CLEAR]])
    assert any(n.startswith("1 ") and "--background" in n for n in load_folder(pictures).notes)
    black = load_images(str(pictures), background="black")
    assert not any("--background" in note for note in black.notes)


def test_colour_files_without_colour_are_said(pictures: Path) -> None:
    coloured(pictures / "a.png", [[(0, 0, 0), (200, 200, 200)]])
    assert any("--grey yes" in note for note in load_folder(pictures).notes)
    assert not any("--grey yes" in note for note in load_images(str(pictures), grey=True).notes)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_that_only_the_first_picture_of_a_file_is_taken_is_said(
    pictures: Path, suffix: str
) -> None:
    frames = [PIL.Image.new("RGB", (4, 4), (value, 0, 0)) for value in (10, 200)]
    frames[0].save(pictures / f"x.{suffix}", save_all=True, append_images=frames[1:])
    found = load_folder(pictures)
    assert found.images[0, 0].max() < 30
    assert any(note.startswith("1 files hold several pictures") for note in found.notes)


def test_test_images_are_read_as_the_training_images_were(pictures: Path) -> None:
    """As many channels, the same ground and the same two values, whatever the test files hold."""
    for name, value in (("train/a/1", 1000), ("train/b/1", 3000), ("test/a/1", 2000)):
        (pictures / name).parent.mkdir(parents=True)
        pixels = np.full((2, 2), value, np.uint16)
        PIL.Image.fromarray(pixels).save(pictures / f"{name}.png")
    test = load_images(str(pictures), "test", stretch=True)
    np.testing.assert_array_equal(test.images, 128)  # 127.5
    coloured(pictures / "train/a/2.png", [[RED] * 2] * 2)
    assert load_images(str(pictures), "test").shape == (3, 2, 2)
    assert load_images(str(pictures), "test", grey=True).shape == (1, 2, 2)


def test_every_option_has_an_entry_of_its_own_in_the_cache(pictures: Path, cache: Path) -> None:
    coloured(pictures / "x.png", [[(*RED, 255), (0, 0, 255, 100), CLEAR, (9, 9, 9, 255)]] * 3)
    options: list[dict[str, Any]] = [
        {},
        {"grey": True},
        {"background": "black"},
        {"stretch": True, "background": "#222222"},
        *({"image_size": (5, 5), "fit": fit} for fit in ("pad", "resize", "contain")),
        {"image_size": (2, 2), "fit": "crop"},
    ]
    images = [load_images(str(pictures), **chosen).images.tobytes() for chosen in options]
    assert len(set(images)) == len(stored_in(cache)) == len(options)
    again = [load_images(str(pictures), **chosen).images for chosen in options]
    assert all(isinstance(each, np.memmap) for each in again)
    assert [each.tobytes() for each in again] == images


@pytest.mark.parametrize("colour", ["", "whit", "#12", "#ffffff80", "255,0,0"])
def test_a_colour_that_there_is_not(pictures: Path, colour: str) -> None:
    save(pictures / "x.png")
    for data in (str(pictures), "digits"):
        with pytest.raises(ConfigError, match=rf"--background {colour}:.*#rrggbb"):
            load_images(data, background=colour)


def test_content_is_no_format_that_a_few_bytes_tell(pictures: Path) -> None:
    """TGA, PCX and SGI are read by their suffix alone; other content never becomes one of them."""
    for kind, suffix in (("TGA", "tga"), ("PCX", "pcx"), ("SGI", "sgi")):
        PIL.Image.new("RGB", (8, 8), RED).save(pictures / f"x.{suffix}", kind)
        np.testing.assert_array_equal(decode(pictures / f"x.{suffix}", 3)[0], 255)
        (pictures / f"x.{suffix}").rename(pictures / "x.png")
        with pytest.raises(DataError, match=r"x\.png \(not an image\)"):
            load_folder(pictures)
