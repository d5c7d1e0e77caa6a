"""Data sets in the layouts they are distributed in, on small files of each layout."""

import inspect
import json
import pickle
import shutil
import struct
import zipfile

import numpy as np
import pytest
import torchvision.datasets as tv
from PIL import Image
from test_sources import any_checksum, offline, write_cifar  # noqa: F401 (fixtures)

from arg_parser import prepare_request, train_request
from datasets import DATASETS, from_torchvision, load_dataset, prepare, sources
from datasets.layouts import class_names
from utils import UserError

RNG = np.random.default_rng(0)
WNIDS = "n02124075", "n01443537", "n02129165"  # not in alphabetical order
WORDS = "n01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\nn09\tpit\n"


def picture(path, label, ending="JPEG", side=64):
    """An image whose red says its class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (side, side, 3), np.uint8)
    pixels[..., 0] = 60 * label
    Image.fromarray(pixels).save(path, quality=95)


def label_of(image):
    return round(float(image[..., 0].mean()) / 60)


def assert_labelled(image_set):
    """Each image shows the class whose label it has."""
    order = [sorted(WNIDS).index(wnid) for wnid in WNIDS]
    for half in ("train", "test"):
        images, labels = getattr(image_set, f"x_{half}"), getattr(image_set, f"y_{half}")
        assert [order[label_of(image)] for image in images] == labels.tolist()


def refused(name, data, **options):
    with pytest.raises(UserError) as refusal:
        load_dataset(name, data, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# ----------------------------------------------------------------------------------- Tiny-ImageNet


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    lines = []
    for label, wnid in enumerate(WNIDS):
        for i in range(4):
            picture(root / f"train/{wnid}/images/{wnid}_{i}.JPEG", label)
        (root / f"train/{wnid}/{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t62\t62\n")
    for i, label in enumerate((2, 0, 1, 0, 2, 1)):
        picture(root / f"val/images/val_{i}.JPEG", label)
        lines.append(f"val_{i}.JPEG\t{WNIDS[label]}\t0\t32\t44\t62\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))
    picture(root / "test/images/test_0.JPEG", 0)
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    (root / "words.txt").write_text(WORDS)
    return root


def zipped(root):
    archive = root.with_name(f"{root.name}.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(root.rglob("*")):
            file.write(path, path.relative_to(root.parent))
    shutil.rmtree(root)
    return archive


def test_tiny_imagenet_is_read_as_it_is_unpacked(tiny):
    images = load_dataset("tiny_imagenet", tiny)
    assert images.x_train.shape == (12, 64, 64, 3)
    assert images.y_train.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert images.y_test.tolist() == [0, 0, 1, 1, 2, 2]
    assert_labelled(images)
    assert images.classes == ("goldfish", "Egyptian cat", "n02129165")
    assert images.files[0] == "train/n01443537/images/n01443537_0.JPEG"
    train = tv.ImageFolder(str(tiny / "train"))
    assert [tiny / name for name in images.files] == [tiny.__class__(p) for p, _ in train.samples]
    assert images.y_train.tolist() == train.targets
    assert any("12 of 100000 and 6 of 10000 images" in note for note in images.notes)


@pytest.mark.parametrize("given", ["zip", "folder above", "the folder that is not there"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_zip_gives_what_the_folder_gives(tiny, given, workers):
    plain = load_dataset("TinyImagenet", tiny, cache="none")
    archive = zipped(tiny)
    data = {"zip": archive, "folder above": tiny.parent}.get(given, tiny)
    packed = load_dataset("tiny_imagenet", data, workers=workers)
    assert (packed.sha256(), packed.test_sha256()) == (plain.sha256(), plain.test_sha256())
    assert (packed.classes, packed.files) == (plain.classes, plain.files)


def test_a_val_that_was_sorted_into_classes_is_read(tiny):
    before = load_dataset("tiny_imagenet", tiny)
    for i, label in enumerate((2, 0, 1, 0, 2, 1)):
        folder = tiny / "val" / WNIDS[label] / "images"
        folder.mkdir(parents=True, exist_ok=True)
        (tiny / f"val/images/val_{i}.JPEG").rename(folder / f"val_{i}.JPEG")
    (tiny / "val/images").rmdir()
    after = load_dataset("tiny_imagenet", tiny)
    assert after.test_sha256() == before.test_sha256()


def test_what_val_lacks_is_counted(tiny):
    annotations = tiny / "val/val_annotations.txt"
    lines = annotations.read_text().splitlines(keepends=True)
    annotations.write_text("".join([*lines[1:], "val_99.JPEG\tn01443537\t0\t0\t1\t1\n"]))
    notes = " ".join(load_dataset("tiny_imagenet", tiny).notes)
    assert "without annotation, left out: 1, the first val/images/val_0.JPEG" in notes
    assert "annotations without val image: 1, the first val_99.JPEG" in notes


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("train", "holds no tiny-imagenet-200"),
        ("val", "lacks val/images with val/val_annotations.txt"),
        ("val/val_annotations.txt", "lacks val/images"),
    ],
)
def test_what_is_missing_is_named_with_where_it_comes_from(tiny, lost, said):
    path = tiny / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if lost == "val/val_annotations.txt":  # "images" is no class of train
        assert "'images', which train has not" in refused("tiny_imagenet", tiny)
        return
    message = refused("tiny_imagenet", tiny)
    assert said in message
    assert "http://cs231n.stanford.edu/tiny-imagenet-200.zip" in message


# ---------------------------------------------------------------------------------------- ImageNet


@pytest.fixture
def imagenet(tmp_path):
    for label, wnid in enumerate(WNIDS):
        for i in range(3):
            picture(tmp_path / f"train/{wnid}/{wnid}_{i}.JPEG", label, side=40)
        picture(tmp_path / f"val/{wnid}/ILSVRC2012_val_0000000{label}.JPEG", label, side=40)
    return tmp_path


def test_imagenets_trees_are_read_without_a_class_map(imagenet):
    images = load_dataset("imagenet", imagenet)
    assert images.x_train.shape == (9, 256, 256, 3)
    assert images.image_size == 224
    assert "training sees parts of them resized to 224" in images.notes[-1]
    assert images.classes == tuple(sorted(WNIDS))
    assert_labelled(images)
    assert images.mean == (0.485, 0.456, 0.406)


def test_augmentation_chooses_how_large_images_are_held(imagenet, tmp_path):
    crops = load_dataset("imagenet", imagenet, input_size=64)
    plain = load_dataset("imagenet", imagenet, input_size=64, augment="crop")
    assert (crops.x_train.shape[1], crops.image_size, crops.crop) == (73, 64, 0)
    assert (plain.x_train.shape[1], plain.image_size, plain.crop) == (64, 64, 8)
    folder = load_dataset("folder", imagenet, augment="resized_crop")
    assert (folder.x_train.shape[1], folder.image_size) == (37, 32)
    assert "npz is arrays" in refused("npz", tmp_path, augment="resized_crop")
    assert "allowed crop, resized_crop" in refused("folder", imagenet, augment="mixup")
    with pytest.raises(UserError, match="digits is arrays"):
        train_request(["--dataset", "digits", "--augment", "resized_crop"])


def test_a_class_map_names_the_classes_and_changes_no_label(imagenet):
    before = load_dataset("imagenet", imagenet, input_size=16)
    lines = ["n01443537 goldfish, Carassius auratus", "n02124075 crane", "n02129165 crane, heron"]
    (imagenet / "LOC_synset_mapping.txt").write_text("\n".join(lines))
    after = load_dataset("imagenet", imagenet, input_size=16)
    assert after.classes == ("goldfish", "crane (n02124075)", "crane (n02129165)")
    assert (after.sha256(), after.test_sha256()) == (before.sha256(), before.test_sha256())


@pytest.mark.parametrize("kaggle", [False, True])
def test_a_flat_val_is_labelled_by_kaggles_solution(imagenet, tmp_path_factory, kaggle):
    before = load_dataset("imagenet", imagenet, input_size=16)
    rows = ["ImageId,PredictionString"]
    for path in sorted(imagenet.glob("val/*/*.JPEG")):
        rows.append(f"{path.stem},{path.parent.name} 1 2 3 4 {path.parent.name} 5 6 7 8 ")
        path.rename(imagenet / "val" / path.name)
    for folder in (each for each in (imagenet / "val").iterdir() if each.is_dir()):
        folder.rmdir()
    message = refused("imagenet", imagenet, input_size=16)
    assert "LOC_val_solution.csv" in message
    (imagenet / "LOC_val_solution.csv").write_text("\n".join(rows))
    data = imagenet
    if kaggle:
        data = tmp_path_factory.mktemp("kaggle")
        (data / "ILSVRC/Data/CLS-LOC").mkdir(parents=True)
        for half in ("train", "val"):
            (imagenet / half).rename(data / "ILSVRC/Data/CLS-LOC" / half)
        (imagenet / "LOC_val_solution.csv").rename(data / "LOC_val_solution.csv")
    after = load_dataset("imagenet", data, input_size=16)
    assert (after.sha256(), after.test_sha256()) == (before.sha256(), before.test_sha256())


def test_imagenet_that_is_not_there_is_refused_with_where_it_comes_from(tmp_path):
    message = refused("imagenet", tmp_path)
    assert "train/WNID/*.JPEG" in message
    assert "https://image-net.org" in message


def test_names_that_several_classes_have_get_their_number():
    names = {"n1": "crane", "n2": "crane, bird", "n3": "cat, house cat"}
    assert class_names(["n1", "n2", "n3", "n4"], names) == ["crane (n1)", "crane (n2)", "cat", "n4"]


# ------------------------------------------------------------------------------------------ folder


def test_a_test_folder_without_labels_is_not_preferred_to_val(tiny):
    """Tiny-ImageNet, its val sorted into classes, its test as it is distributed."""
    for i, label in enumerate((2, 0, 1, 0, 2, 1)):
        (tiny / "val" / WNIDS[label]).mkdir(exist_ok=True)
        (tiny / f"val/images/val_{i}.JPEG").rename(tiny / "val" / WNIDS[label] / f"{i}.JPEG")
    (tiny / "val/images").rmdir()
    images = load_dataset("folder", tiny)
    assert images.y_test.tolist() == [0, 0, 1, 1, 2, 2]
    assert any("no labels: val is the test set" in note for note in images.notes)
    assert load_dataset("folder", tiny, input_size=8).num_classes == 3


# ---------------------------------------------------------------------------- CIFAR-20, torchvision

# Of the classes in alphabetical order, as CIFAR-100's files pair fine and coarse labels.
COARSE = (
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7),
    *(6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10),
    *(16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16),
    *(12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
)


def test_cifar20_has_the_super_classes(tmp_path, any_checksum):  # noqa: F811
    folder = tmp_path / "cifar-100-python"
    fine = sorted(name for names in sources.SUPER_CLASSES.values() for name in names.split())
    images = RNG.integers(0, 256, (120, 32, 32, 3), np.uint8)
    for half, part in (("train", slice(100)), ("test", slice(100, 120))):
        labels = [i % 100 for i in range(120)][part]
        coarse = [COARSE[label] for label in labels]
        write_cifar(folder, half, images[part], fine_labels=labels, coarse_labels=coarse)
    meta = {"fine_label_names": fine, "coarse_label_names": sorted(sources.SUPER_CLASSES)}
    (folder / "meta").write_bytes(pickle.dumps(meta))
    found = load_dataset("cifar20", tmp_path)
    assert found.y_train.tolist() == list(COARSE)
    assert found.y_test.tolist() == list(COARSE[:20])
    assert found.classes == tuple(sorted(sources.SUPER_CLASSES))
    assert np.array_equal(found.x_train, images[:100])


def write_food101(data):
    """food-101/images/CLASS/ID.jpg, and lists of them in meta/."""
    lists = {"train": {}, "test": {}}
    for label, name in enumerate(("apple_pie", "sushi")):
        for i in range(4):
            half = "train" if i < 3 else "test"
            picture(data / f"food-101/images/{name}/{label}{i}.jpg", label, side=30)
            lists[half].setdefault(name, []).append(f"{name}/{label}{i}")
    (data / "food-101/meta").mkdir()
    for half, names in lists.items():
        (data / f"food-101/meta/{half}.json").write_text(json.dumps(names))
    return [0] * 3 + [1] * 3, [0, 1]


def write_dtd(data):
    """dtd/dtd/images/CLASS/*, and labels/HALF1.txt."""
    lists = {"train": [], "val": [], "test": []}
    for label, name in enumerate(("banded", "woven")):
        for i, half in enumerate(("train", "train", "val", "test")):
            picture(data / f"dtd/dtd/images/{name}/{name}_{i}.jpg", label, side=30)
            lists[half].append(f"{name}/{name}_{i}.jpg")
    (data / "dtd/dtd/labels").mkdir()
    for half, names in lists.items():
        (data / f"dtd/dtd/labels/{half}1.txt").write_text("\n".join(names))
    return [0, 0, 1, 1], [0, 1]


@pytest.mark.parametrize(("name", "write"), [("Food101", write_food101), ("DTD", write_dtd)])
def test_torchvisions_image_files_are_read_through_the_cache(tmp_path, name, write):
    y_train, y_test = write(tmp_path)
    images = load_dataset(f"torchvision:{name.lower()}", tmp_path, input_size=16)
    assert (images.y_train.tolist(), images.y_test.tolist()) == (y_train, y_test)
    assert [label_of(image) for image in images.x_train] == y_train
    assert list((tmp_path / ".unlearning_cache").glob(f"torchvision_{name}_16_crop_*"))
    assert images.files[0].endswith(".jpg")
    assert load_dataset(f"torchvision:{name}", tmp_path).image_size == 224


def test_torchvisions_arrays_are_read_as_they_lie(tmp_path):
    images, labels = RNG.integers(0, 256, (30, 28, 28), np.uint8), np.arange(30) % 10
    folder = tmp_path / "KMNIST/raw"
    folder.mkdir(parents=True)
    for stem, part in (("train", slice(20)), ("t10k", slice(20, 30))):
        head = struct.pack(">4i", 2051, len(labels[part]), 28, 28)
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(head + images[part].tobytes())
        head = struct.pack(">2i", 2049, len(labels[part]))
        content = head + labels[part].astype(np.uint8).tobytes()
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(content)
    found = load_dataset("torchvision:KMNIST", tmp_path)
    assert np.array_equal(found.x_train[..., 1], images[:20])
    assert found.y_test.tolist() == labels[20:].tolist()
    assert not found.flip


@pytest.mark.parametrize("name", from_torchvision.KNOWN)
def test_torchvision_takes_the_arguments_and_says_what_is_missing(tmp_path, name, request):
    accepted = inspect.signature(getattr(tv, name)).parameters
    for options in from_torchvision.KNOWN[name].halves:
        assert options.keys() <= accepted.keys()
    message = refused(f"torchvision:{name}", tmp_path)
    assert f"put what torchvision.datasets.{name} reads there" in message


# -------------------------------------------------------------------------------- flags and prepare


@pytest.mark.parametrize(
    ("words", "data", "workers"),
    [
        (["--dataset", "TinyImagenet"], "./tiny-imagenet-200", 4),
        (["--dataset", "tiny_imagenet", "--data_dir", "x"], "x", 4),
        (["--dataset", "tiny_imagenet", "--data_dir", "x", "--data", "y"], "y", 4),
        (["--dataset", "cifar10", "--num_workers", "2"], "../data", 2),
        (["--num_workers", "2", "--workers", "3"], "../data", 3),
        (["--dataset", "cifar10", "--data_dir", "x"], "../data", 4),
    ],
)
def test_the_references_flags_stand_for_ours(words, data, workers, capsys):
    request = train_request(words)
    assert (request.data, request.workers) == (data, workers)
    unread = words == ["--dataset", "cifar10", "--data_dir", "x"]
    assert ("read by nothing: --data_dir" in capsys.readouterr().err) == unread
    assert request.dataset in DATASETS
    assert ("data" in request.typed) == ("x" in words and not unread)


def test_prepare_says_what_is_there_and_builds_the_cache(tiny, capsys):
    words = ["tiny_imagenet", "--data", str(tiny), "--workers", "1"]
    assert prepare.main(words) == 0
    said = capsys.readouterr().out
    assert "from http://cs231n.stanford.edu" in said
    assert "12 of 100000 and 6 of 10000 images" in said
    assert "train: 12 images of 64 pixels in 3 classes, 4 to 4 each" in said
    assert "decoding 18 images into" in said
    assert f"checked: data hash {load_dataset('tiny_imagenet', tiny).sha256()[:12]}" in said
    assert prepare.main(words) == 0
    assert "decoding" not in capsys.readouterr().out


def test_prepare_ends_with_2_where_something_is_missing(tmp_path, capsys):
    assert prepare.main(["imagenet", "--data", str(tmp_path)]) == 2
    assert "https://image-net.org" in capsys.readouterr().err


def test_prepare_reads_the_references_folder_of_tiny_imagenet():
    assert prepare_request(["TinyImagenet"], "").data == "./tiny-imagenet-200"
    assert prepare_request(["cifar10"], "").data == "../data"
    assert prepare_request(["folder", "--input_size", "8"], "").typed >= {"input_size"}


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_comes_from_somewhere(name):
    assert prepare.origin(name)
