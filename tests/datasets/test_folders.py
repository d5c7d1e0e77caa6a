"""Folders of images as people bring them: what is read, skipped, converted, said, and refused."""

import os

import numpy as np
import pytest
from PIL import Image

from datasets import load_dataset
from datasets.folders import SPECIAL, sort_classes
from datasets.image_files import NOT_SQUARE, ORIENTATION
from utils import UserError

CLASSES = ("ant", "bee", "cat")
COUNTS = {"train": 3, "test": 2}


def picture(label, i=0, side=32):
    """uint8 (side, side, 3): a square whose place is the class over a shade of its own (test
    images: from ``i`` 10 on).
    """
    image = np.full((side, side, 3), 20 + i, np.uint8)
    row, column = divmod(label % 16, 4)
    s = side // 4
    image[row * s : (row + 1) * s, column * s : (column + 1) * s] = (220, 180, 90)
    return image


def write(root, classes=CLASSES, ending="png", save=None):
    for half, count in COUNTS.items():
        for label, name in enumerate(classes):
            place = root / half / name
            place.mkdir(parents=True)
            for i in range(count):
                path = place / f"img{i}.{ending}"
                image = picture(label, i + 10 * (half == "test"))
                save(image, path) if save else Image.fromarray(image).save(path)
    return root


def read(root, **options):
    return load_dataset("folder", root, **options)


def refused(root, **options):
    with pytest.raises(UserError) as refusal:
        read(root, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def note(image_set, words):
    """The one line that has these words."""
    found = [line for line in image_set.lines() if words in line]
    assert len(found) == 1, image_set.lines()
    return found[0]


@pytest.fixture
def plain(tmp_path):
    return read(write(tmp_path / "plain"))


def test_a_plain_folder_has_nothing_to_say_but_its_classes(plain):
    wanted = [picture(label, i) for label in range(3) for i in range(3)]
    assert np.array_equal(plain.x_train, wanted)
    assert plain.lines() == ["classes: 0 ant, 1 bee, 2 cat"]
    assert plain.files[:4] == (
        "train/ant/img0.png",
        "train/ant/img1.png",
        "train/ant/img2.png",
        "train/bee/img0.png",
    )


# -------------------------------------------------------------- the rows of images in the cases


def test_icons_are_laid_on_white(tmp_path):
    def icon(image, path):
        pixels = np.zeros((32, 32, 4), np.uint8)
        pixels[image.max(2) > 100] = (0, 0, 0, 255)
        Image.fromarray(pixels).save(path)

    icons = read(write(tmp_path, save=icon))
    for label in range(3):
        black = picture(label).max(2) > 100
        wanted = np.where(black, 0, 255)[..., None].repeat(3, -1)
        assert np.array_equal(icons.x_train[3 * label], wanted)
    assert note(icons, "transparency") == (
        "folder: images with transparency, laid on white: 15, the first train/ant/img0.png"
    )


@pytest.mark.parametrize(("factor", "full"), [(257, 65535), (16, 4095), (4, 1023), (1, 255)])
def test_pictures_of_16_bits_are_scaled_by_the_bits_that_hold_all_of_them(tmp_path, factor, full):
    def deep(image, path):
        Image.fromarray(image[..., 0].astype(np.uint16) * factor).save(path)

    grey = read(write(tmp_path, save=deep))
    wanted = picture(0)[..., 0].astype(float) * factor * 255 / full
    assert np.abs(grey.x_train[0] - wanted[..., None]).max() <= 0.5
    line = note(grey, "16 or 32 bits")
    assert f"0 to {full} become 0 to 255: 15, the first train/ant/img0.png" in line


def test_one_bright_image_sets_the_range_of_all(tmp_path):
    def deep(image, path):
        factor = 257 if path.parent.name == "cat" else 1
        Image.fromarray(image[..., 0].astype(np.uint16) * factor).save(path)

    found = read(write(tmp_path, save=deep))
    assert found.x_train[0].max() <= 1
    assert np.array_equal(found.x_train[6, ..., 0], picture(2)[..., 0])


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (lambda x: x / 255, 0, 1),
        (lambda x: x / 220 * 255, 0, 255),
        (lambda x: x * 10.0 - 1000, 20 * 10 - 1000, 220 * 10 - 1000),
    ],
)
def test_floats_are_scaled_by_one_range_for_both_halves(tmp_path, values, low, high):
    def floats(image, path):
        Image.fromarray(values(image[..., 0].astype(np.float32))).save(path)

    found = read(write(tmp_path, ending="tif", save=floats))
    wanted = (values(picture(1, 2)[..., 0].astype(float)) - low) * 255 / (high - low)
    assert np.abs(found.x_train[5] - wanted[..., None]).max() <= 0.51
    wanted = (values(picture(1, 11)[..., 0].astype(float)) - low) * 255 / (high - low)
    assert np.abs(found.x_test[3] - wanted[..., None]).max() <= 0.51
    assert "images of floats" in note(found, "become 0 to 255")


def test_phone_photos_are_upright(tmp_path, plain):
    def rotated(image, path):
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        Image.fromarray(np.rot90(image)).save(path, quality=95, exif=exif)

    upright = read(write(tmp_path / "jpg", ending="jpg", save=rotated))
    assert np.abs(upright.x_train.astype(int) - plain.x_train).mean() < 6
    assert "EXIF orientation: 15, the first train/ant/img0.jpg" in note(upright, "upright")


def test_every_ending_that_pillow_reads_is_taken_and_others_are_counted(tmp_path, plain):
    root = write(tmp_path / "mixed")
    kinds = [("JPG", "JPEG"), ("webp", "WEBP"), ("gif", "GIF"), ("jfif", "JPEG"), ("Bmp", "BMP")]
    for (ending, kind), path in zip(kinds, sorted((root / "train").glob("*/*")), strict=False):
        Image.open(path).save(path.with_suffix(f".{ending}"), format=kind)
        path.unlink()
    (root / "train" / "cat" / "labels.csv").write_text("1,2")
    (root / "train" / "cat" / "scan.dcm").write_bytes(b"0")
    (root / "train" / "readme.txt").write_text("hello")
    mixed = read(root)
    assert np.abs(mixed.x_train.astype(int) - plain.x_train).mean() < 6
    assert note(mixed, "left out: 2").endswith("the first train/cat/labels.csv")
    assert note(mixed, "beside the class folders").endswith("1, the first train/readme.txt")


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", ".git"])
def test_folders_of_other_programs_are_no_class(tmp_path, plain, name):
    root = write(tmp_path / "dropped")
    for half in COUNTS:
        (root / half / name).mkdir()
        Image.fromarray(picture(5)).save(root / half / name / "x.png")
    (root / "train" / "bee" / name).mkdir()
    Image.fromarray(picture(5)).save(root / "train" / "bee" / name / "x.png")
    (root / "train" / "bee" / "._img0.png").write_bytes(b"of a Mac")
    found = read(root)
    assert found.classes == CLASSES
    assert np.array_equal(found.x_train, plain.x_train)
    assert np.array_equal(found.y_test, plain.y_test)
    assert note(found, "skipped: 4").endswith(f"the first train/{name}")


def test_numbered_folders_sort_as_numbers(tmp_path):
    numbers = read(write(tmp_path, classes=[str(i) for i in range(12)]))
    assert numbers.classes == tuple(map(str, range(12)))
    assert np.array_equal(numbers.x_train[3 * 2], picture(2))
    assert np.array_equal(numbers.x_train[3 * 10], picture(10))
    assert note(numbers, "sort as numbers") == "folder: class folders sort as numbers: 0 to 11"


def test_the_order_of_class_names():
    assert sort_classes(["10", "9", "007", "7"]) == ["007", "7", "9", "10"]
    assert sort_classes(["10", "9", "x"]) == ["10", "9", "x"]
    assert sort_classes(["c10", "c9"]) == ["c10", "c9"]
    assert sort_classes(["²", "10", "9"]) == ["10", "9", "²"]


def test_a_class_that_test_lacks_is_said_first_and_shortly(tmp_path):
    names = [f"n{10000000 + i}" for i in range(60)]
    write(tmp_path, classes=names)
    for path in (tmp_path / "test" / names[7]).iterdir():
        path.unlink()
    found = read(tmp_path)
    assert found.notes[0] == "folder: test lacks 1 class: 'n10000007'; it tests 59 of 60"
    assert 7 not in found.y_test
    assert found.num_classes == 60


def test_a_class_that_train_lacks_is_refused_by_the_difference(tmp_path):
    names = [f"n{10000000 + i}" for i in range(60)]
    write(tmp_path, classes=names)
    (tmp_path / "test" / names[7]).rename(tmp_path / "test" / "m10000007")
    message = refused(tmp_path)
    assert len(message) < 250
    assert message.startswith(
        "--dataset folder: test has 1 class: 'm10000007', which train has not"
    )
    assert "lacks 1 class: 'n10000007'" in message


def test_exact_copies_are_counted(tmp_path):
    root = write(tmp_path)
    for half in ("train", "test"):
        whole = (root / "train" / "ant" / "img0.png").read_bytes()
        (root / half / "ant" / "img0 (copy).png").write_bytes(whole)
    line = note(read(root), "exact copies")
    assert "1 of 10 training images repeat another one" in line
    assert "1 of 7 test images are also in training, 0 repeat another test image" in line


# --------------------------------------------------------------------------- more of the same kinds


@pytest.mark.parametrize("fit", [None, *NOT_SQUARE])
def test_wide_pictures_are_counted_by_what_becomes_of_them(tmp_path, fit):
    def wide(image, path):
        page = np.zeros((32, 64, 3), np.uint8)
        page[:, 16:48] = image
        Image.fromarray(page).save(path)

    found = read(write(tmp_path, save=wide), fit=fit)
    if fit in (None, "crop"):
        assert np.array_equal(found.x_train[0], picture(0))
    line = note(found, "not square")
    assert line == f"folder: {NOT_SQUARE[fit or 'crop']}: 15, the first train/ant/img0.png"


def test_an_unknown_fit_is_refused(tmp_path):
    assert "crop, pad, squash" in refused(write(tmp_path), fit="stretch")


def test_images_of_a_single_colour_are_counted(tmp_path):
    root = write(tmp_path)
    Image.new("RGB", (32, 32), "white").save(root / "train" / "bee" / "img1.png")
    assert "1 of 9 and 0 of 6 (train, test)" in note(read(root), "single colour")


@pytest.mark.parametrize("workers", [0, 1])
def test_all_damaged_images_are_counted_and_the_first_is_named(tmp_path, workers):
    root = write(tmp_path)
    (root / "train" / "bee" / "img1.png").write_bytes(b"")
    (root / "train" / "cat" / "img2.png").write_text("<html>not found</html>")
    (root / "test" / "ant" / "img0.png").unlink()
    (root / "test" / "ant" / "img0.png").symlink_to(root / "nowhere")
    message = refused(root, workers=workers)
    first = root / "train" / "bee" / "img1.png"
    assert f"3 images cannot be read, the first {first}: it is empty" in message


def test_a_link_to_the_folder_above_is_not_followed_for_ever(tmp_path, plain):
    root = write(tmp_path / "links")
    (root / "train" / "bee" / "back").symlink_to(root / "train" / "bee")
    (root / "train" / "bee" / "up").symlink_to(root / "train")
    found = read(root)
    assert np.array_equal(found.x_train, plain.x_train)
    assert "skipped: 2, the first train/bee/back" in note(found, "links in a circle")


def test_a_linked_class_folder_is_read(tmp_path, plain):
    root = write(tmp_path / "linked")
    (root / "train" / "bee").rename(tmp_path / "elsewhere")
    (root / "train" / "bee").symlink_to(tmp_path / "elsewhere")
    assert np.array_equal(read(root).x_train, plain.x_train)


def test_images_in_nested_folders_are_of_their_class_in_torchvisions_order(tmp_path):
    from torchvision.datasets import ImageFolder

    root = write(tmp_path)
    for place in ("train/bee/b/c", "train/bee/a", "train/bee/a-b", "train/bee/img0"):
        (root / place).mkdir(parents=True)
        Image.fromarray(picture(1, 9)).save(root / place / "z.png")
    samples = ImageFolder(str(root / "train")).samples
    wanted = tuple(os.path.relpath(path, root) for path, _ in samples)
    found = read(root)
    assert found.files == wanted
    assert found.y_train.tolist() == [label for _, label in samples]


def test_names_in_any_script_are_classes(tmp_path):
    names = ("äpfel", "猫", "собака")
    found = read(write(tmp_path, classes=names))
    assert found.classes == tuple(sorted(names))
    assert note(found, "classes:") == "classes: 0 äpfel, 1 собака, 2 猫"


def test_of_many_classes_the_first_and_the_last_are_listed(tmp_path):
    found = read(write(tmp_path, classes=[f"c{i:02d}" for i in range(30)]))
    line = note(found, "classes:")
    assert line.startswith("classes: 0 c00, 1 c01,")
    assert line.endswith(", 10 c10, ..., 29 c29")


@pytest.mark.parametrize("half", ["train", "test"])
def test_an_empty_class_folder_is_refused_in_train_and_said_in_test(tmp_path, half):
    root = write(tmp_path)
    for path in (root / half / "bee").iterdir():
        path.rename(path.with_suffix(".txt"))
    if half == "train":
        assert "no image in 1 class: 'bee'" in refused(root)
    else:
        assert "test lacks 1 class: 'bee'" in note(read(root), "lacks")


def test_images_without_class_folders_are_refused_with_their_number(tmp_path):
    for half in COUNTS:
        (tmp_path / half).mkdir()
        Image.fromarray(picture(0)).save(tmp_path / half / "a.png")
    message = refused(tmp_path)
    assert "no class folders, but 1 images" in message
    assert f"{tmp_path / 'train'}/CLASS" in message


def test_a_single_class_is_refused(tmp_path):
    assert "at least 2" in refused(write(tmp_path, classes=["ant"]))


def test_a_folder_that_cannot_be_listed_is_refused_by_name(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may list all")
    root = write(tmp_path)
    (root / "train" / "bee").chmod(0)
    try:
        assert str(root / "train" / "bee") in refused(root)
    finally:
        (root / "train" / "bee").chmod(0o755)


def test_grey_of_16_bits_beside_colour_is_scaled_alone(tmp_path, plain):
    root = write(tmp_path / "mixed")
    path = root / "train" / "cat" / "img2.png"
    Image.fromarray(picture(2, 2)[..., 0].astype(np.uint16) * 257).save(path)
    found = read(root)
    assert np.array_equal(found.x_train[:8], plain.x_train[:8])
    assert np.array_equal(found.x_train[8], picture(2, 2)[..., :1].repeat(3, -1))
    assert "1, the first train/cat/img2.png" in note(found, "16 or 32 bits")


def test_a_pipe_is_left_out_and_counted(tmp_path):
    root = write(tmp_path)
    os.mkfifo(root / "train/ant/pipe.png")
    found = read(root)
    assert len(found.x_train) == 9
    assert f"folder: {SPECIAL}: 1, the first train/ant/pipe.png" in found.notes


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><title>404</title>", "a web page, as a failed download"),
        (b"", "it is empty"),
        (b"%PDF-1.7", "Pillow does not know it as an image"),
    ],
)
def test_what_stands_in_the_place_of_an_image_is_said(tmp_path, content, reason):
    root = write(tmp_path)
    (root / "train/ant/img0.png").write_bytes(content)
    assert reason in refused(root)


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "Test"), ("training", "validation"), ("ant", "bee")]
)
def test_other_names_of_halves_are_shown(tmp_path, train, test):
    write(tmp_path)
    (tmp_path / "train").rename(tmp_path / train)
    (tmp_path / "test").rename(tmp_path / test)
    names = ", ".join(map(repr, sorted((train, test))))
    assert f"are {names}: rename or move them" in refused(tmp_path)


def test_classes_one_folder_too_deep_are_named(tmp_path):
    write(tmp_path, classes=("all/ant", "all/bee"))
    assert "one class folder, 'all'" in (said := refused(tmp_path))
    assert "the folders in all are 'ant', 'bee'" in said


def test_one_summary_line_for_each_converted_mode(tmp_path):
    root = write(tmp_path)
    for i, mode in enumerate(("CMYK", "CMYK", "YCbCr", "1", "LAB")):
        Image.fromarray(picture(0, i)).convert(mode).save(root / f"train/bee/{i}.tif")
    said = [note for note in read(root).notes if "converted" in note]
    assert said == [
        f"folder: images of mode {mode}, converted to RGB as Pillow does: {count}, the first"
        f" train/bee/{first}.tif"
        for mode, count, first in (("CMYK", 2, 0), ("YCbCr", 1, 2), ("1", 1, 3), ("LAB", 1, 4))
    ]
