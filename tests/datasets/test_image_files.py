"""One image file: what each mode, orientation, transparency and side becomes, and each refusal.

The oracle is NumPy on a picture of four quarters of known values.
"""

import numpy as np
import pytest
from PIL import Image

from datasets import image_files
from datasets.image_files import (
    FRAMES,
    NO_EXIF,
    NOT_SQUARE,
    ORIENTATION,
    TRANSPARENT,
    TURNED,
    decode,
    extensions,
    formats,
    read_image,
)

SIDE = 16
AS_PILLOW = "converted to RGB as Pillow does"
GREY = np.kron(np.array([[0, 60], [120, 200]], np.uint8), np.ones((8, 8), np.uint8))
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)


def read(path, side=SIDE, fit="crop"):
    image = decode(path, side, fit)
    assert image.error is None
    return image


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        *[("1", ending) for ending in ("png", "tif", "bmp", "gif", "pbm")],
        *[("L", ending) for ending in ("png", "tif", "bmp", "gif", "pgm", "jp2")],
        *[("LA", ending) for ending in ("png", "tif", "tga")],
        *[("P", ending) for ending in ("png", "tif", "bmp", "gif")],
        *[("PA", "tif"), ("RGBX", "tif"), ("RGB", "PNG"), ("RGB", "ppm"), ("RGB", "sgi")],
        *[("RGB", "Tiff"), ("RGB", "tga"), ("RGB", "dds"), ("RGB", "qoi")],
        *[("RGBA", ending) for ending in ("png", "tif", "tga", "ico")],
        *[("CMYK", "tif"), ("CMYK", "jp2")],
    ],
)
def test_every_mode_of_8_bits_becomes_its_colours(tmp_path, mode, ending):
    bright = Image.fromarray(COLOUR).convert(mode)
    path = tmp_path / f"a.{ending}"
    bright.save(path, **({"sizes": [(SIDE, SIDE)]} if ending == "ico" else {}))
    wanted = np.asarray(bright.convert("RGB"))
    image = read(path)
    assert np.array_equal(image.pixels, wanted)
    with Image.open(path) as stored:
        converted = stored.mode in ("1", "CMYK")
    assert image.notes == ((f"images of mode {mode}, {AS_PILLOW}",) if converted else ())
    assert len(np.unique(wanted)) > 1  # no blank picture passes


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("RGB", "jpg"), ("L", "JPEG"), ("CMYK", "jpg"), ("YCbCr", "jfif"), ("RGB", "webp")]
    + [("YCbCr", "tif"), ("LAB", "tif")],
)
def test_lossy_and_other_colours_are_near(tmp_path, mode, ending):
    if mode == "LAB":
        # L of 255 and neutral a, b (0): white.
        page = np.zeros((SIDE, SIDE, 3), np.uint8)
        page[..., 0] = 255
        Image.frombytes("LAB", (SIDE, SIDE), page.tobytes()).save(tmp_path / "a.tif")
        image = decode(tmp_path / "a.tif", SIDE, "crop")  # older Pillow refuses the mode
        assert image.error or np.all(image.pixels >= 250)
        return
    path = tmp_path / f"a.{ending}"
    Image.fromarray(COLOUR).convert(mode).save(path, quality=95)
    wanted = GREY[..., None].repeat(3, -1) if mode == "L" else COLOUR
    if mode == "L":
        wanted = np.asarray(Image.fromarray(COLOUR).convert("L").convert("RGB"))
    quarters = read(path).pixels[4::8, 4::8].astype(int)
    assert np.abs(quarters - wanted[4::8, 4::8]).max() < 12


@pytest.mark.parametrize(
    ("dtype", "ending", "integers"),
    [
        (np.uint16, "png", True),
        (np.uint16, "tif", True),
        (">u2", "tif", True),
        (np.uint16, "pgm", True),
        (np.int32, "tif", True),
        (np.float32, "tif", False),
        (np.float32, "pfm", False),
    ],
)
def test_more_than_8_bits_keep_their_values_and_extremes(tmp_path, dtype, ending, integers):
    values = GREY.astype(np.int64) * 300
    if dtype == ">u2":
        image = Image.frombytes("I;16B", (SIDE, SIDE), values.astype(dtype).tobytes())
    else:
        image = Image.fromarray(values.astype(dtype))
    image.save(tmp_path / f"a.{ending}")
    found = read(tmp_path / f"a.{ending}")
    assert np.array_equal(found.pixels, values)
    assert (found.extremes, found.integers) == ((0, 60000), integers)


def test_a_single_file_of_more_than_8_bits_needs_the_range_of_its_data_set(tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 16).save(tmp_path / "a.png")
    with pytest.raises(OSError, match="range of its data set"):
        read_image(tmp_path / "a.png", SIDE)
    image = read_image(tmp_path / "a.png", SIDE, values=(0, 4095))
    assert np.abs(image.astype(int) - GREY[..., None]).max() <= 1


def half_clear(mode):
    """COLOUR, the left half opaque, the right half at alpha 51 (a fifth)."""
    alpha = np.full((SIDE, SIDE), 255, np.uint8)
    alpha[:, 8:] = 51
    rgba = Image.fromarray(np.dstack([COLOUR, alpha]))
    return rgba.convert(mode), np.asarray(rgba.convert(mode).convert("RGBA"))


@pytest.mark.parametrize(
    ("mode", "ending"), [("RGBA", "png"), ("RGBA", "tif"), ("LA", "png"), ("RGBA", "webp")]
)
def test_transparency_is_laid_on_white(tmp_path, mode, ending):
    image, rgba = half_clear(mode)
    image.save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    alpha = rgba[..., 3:] / 255
    wanted = rgba[..., :3] * alpha + 255 * (1 - alpha)
    found = read(tmp_path / f"a.{ending}")
    assert np.abs(found.pixels - wanted).max() <= 1
    assert found.notes == (TRANSPARENT,)


@pytest.mark.parametrize("ending", ["png", "gif"])
@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_entry_or_colour_is_laid_on_white(tmp_path, mode, ending):
    if mode != "P" and ending == "gif":
        pytest.skip("GIF has palettes only")
    image = Image.fromarray(GREY).convert(mode)
    clear = image.getpixel((0, 0))
    image.save(tmp_path / f"a.{ending}", transparency=clear)
    wanted = np.where(GREY == 0, 255, GREY)[..., None]
    found = read(tmp_path / f"a.{ending}")
    assert np.array_equal(found.pixels, wanted.repeat(3, -1))
    assert found.notes == (TRANSPARENT,)


# How a stored picture becomes upright, of EXIF's table of orientations.
UPRIGHT = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    8: np.rot90,
    0: lambda x: x,
    9: lambda x: x,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_picture_is_turned_upright_once(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"exif": exif} if ending == "png" else {"tiffinfo": {ORIENTATION: orientation}}
    Image.fromarray(COLOUR).save(tmp_path / f"a.{ending}", **options)
    found = read(tmp_path / f"a.{ending}")
    assert np.array_equal(found.pixels, UPRIGHT[orientation](COLOUR))
    if ending == "png":
        assert found.notes == ((TURNED,) if 2 <= orientation <= 8 else ())


def test_a_deep_picture_is_turned_too(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(GREY.astype(np.uint16) * 100).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read(tmp_path / "a.png").pixels, np.rot90(GREY.astype(int) * 100, -1))


def test_damaged_exif_data_are_said(tmp_path):
    damaged = b"Exif\x00\x00II*\x00\x08\x00\x00"
    Image.fromarray(COLOUR).save(tmp_path / "a.jpg", exif=damaged)
    image = read(tmp_path / "a.jpg")
    assert image.notes in ((NO_EXIF,), ())  # some Pillow takes them as none


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif", "mpo"])
def test_of_several_frames_the_first_is_read_and_it_is_said(tmp_path, ending):
    second = Image.fromarray(255 - COLOUR)
    first = Image.fromarray(COLOUR)
    first.save(tmp_path / f"a.{ending}", save_all=True, append_images=[second], quality=95)
    found = read(tmp_path / f"a.{ending}")
    assert found.notes == (FRAMES,)
    assert np.abs(found.pixels.astype(int) - COLOUR)[4::8, 4::8].max() < 25


def test_wide_pictures_are_cut_padded_or_squashed(tmp_path):
    """40 by 80 with a white column at each edge: cut away, kept between black bars, or squashed."""
    wide = np.full((40, 80, 3), 90, np.uint8)
    wide[:, :8] = wide[:, -8:] = 255
    Image.fromarray(wide).save(tmp_path / "a.png")
    cut, padded, squashed = (read(tmp_path / "a.png", 40, fit) for fit in NOT_SQUARE)
    assert np.all(cut.pixels == 90)
    assert not padded.pixels[:9].any()
    assert not padded.pixels[-9:].any()
    assert np.all(padded.pixels[12:28, :2] > 240)
    assert np.all(padded.pixels[12:28, 8:32] == 90)
    assert np.all(squashed.pixels[:, :2] > 240)
    assert np.all(squashed.pixels[:, 8:32] == 90)
    for fit, image in zip(NOT_SQUARE, (cut, padded, squashed), strict=True):
        assert image.notes == (NOT_SQUARE[fit],)


def test_a_padded_deep_picture_has_no_values_beside_it(tmp_path):
    Image.fromarray(np.full((8, 16), 500, np.uint16)).save(tmp_path / "a.png")
    values = read(tmp_path / "a.png", 16, "pad").pixels
    assert np.isnan(values[:4]).all()
    assert np.all(values[4:12] == 500)


@pytest.mark.parametrize("fit", NOT_SQUARE)
@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 3000)])
def test_tiny_and_very_wide_pictures_are_read(tmp_path, fit, size):
    Image.new("RGB", size, (9, 80, 200)).save(tmp_path / "a.png")
    pixels = read(tmp_path / "a.png", 8, fit).pixels
    assert pixels.shape == (8, 8, 3)
    assert (pixels == (9, 80, 200)).all(axis=-1).any()


def damaged(tmp_path, kind):
    path = tmp_path / "a.png"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not an image")
    elif kind == "a broken link":
        path.symlink_to(tmp_path / "nowhere.png")
    elif kind == "a folder":
        path.mkdir()
    elif kind == "postscript":  # Pillow would start another program
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    elif kind == "a bomb":  # a header that claims 40,000 x 40,000 pixels
        Image.new("1", (8, 8)).save(path, format="BMP")
        whole = path.read_bytes()
        path.write_bytes(whole[:18] + (40000).to_bytes(4, "little") * 2 + whole[26:])
    elif kind == "NaN":
        path = tmp_path / "a.tif"
        Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(path)
    elif kind == "white is 0":
        path = tmp_path / "a.tif"
        Image.fromarray(GREY.astype(np.uint16)).save(path, tiffinfo={262: 0})
    elif kind == "a transparent value of 16 bits":
        Image.fromarray(GREY.astype(np.uint16)).save(path, transparency=0)
    else:
        path = tmp_path / f"a.{kind}"
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "empty"),
        ("text", "does not know"),
        ("a broken link", "no such file"),
        ("a folder", "directory"),
        ("postscript", "does not know"),
        ("a bomb", "exceeds"),
        ("NaN", "not finite"),
        ("white is 0", "0 is white"),
        ("a transparent value of 16 bits", "transparent value"),
        *[(ending, "") for ending in ("jpg", "png", "bmp", "tif", "webp", "gif", "avif", "jp2")],
    ],
)
def test_what_cannot_be_read_has_a_reason_of_one_line(tmp_path, recwarn, kind, reason):
    if f".{kind}" not in extensions() and kind in ("webp", "avif", "jp2"):
        pytest.skip(f"this Pillow reads no {kind}")
    image = decode(damaged(tmp_path, kind), SIDE, "crop")
    assert image.pixels is None
    assert reason in image.error
    assert "\n" not in image.error
    assert not recwarn.list


def test_nothing_is_decoded_by_another_program():
    assert not {"EPS", "WMF"} & {*formats()}
    assert {".png", ".jpg", ".jfif", ".gif", ".bmp", ".tif", ".mpo"} <= extensions()
    assert ".eps" not in extensions()


def test_formats_known_by_their_first_bytes_are_tried_first():
    """The readers of the others read a whole header, of each JPEG anew."""
    image_files.extensions()  # registers Pillow's formats, in alphabetical order
    known = [Image.OPEN[name][1] is not None for name in image_files.formats()]
    assert image_files.formats()[0] == "JPEG"
    assert known == sorted(known, reverse=True)
    assert {"TGA", "WEBP", "TIFF"} <= set(image_files.formats())
