"""Device and stream: equal batches, equal trained weights, whole and resumed; what auto chooses."""

import dataclasses
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import CPU, check_resume, make_data, make_image_set, make_model, run

from datasets import device_images
from datasets.device_images import DeviceImages, StreamedImages, choose_store
from unlearn import METHODS
from utils import UserError

IMAGES = make_image_set(train=96, side=8, crop=2)


def mapped(image_set, folder):
    """The same data set with its pixels in memory maps."""
    maps = {}
    for name in ("x_train", "x_test"):
        np.save(folder / f"{name}.npy", getattr(image_set, name))
        maps[name] = np.load(folder / f"{name}.npy", mmap_mode="c")
    return dataclasses.replace(image_set, **maps)


def batches(loader, views=False):
    passes = loader.two_views() if views else loader
    return [[part.clone() for part in batch] for batch in passes]


def equal(one, other):
    assert len(one) == len(other) > 0
    for x, y in zip(one, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(x, y, strict=True))
        assert all(a.stride() == b.stride() for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("kind", ["memory", "map"])
@pytest.mark.parametrize("options", [{}, {"augment": False}, {"tail": "drop"}, {"accumulate": 2}])
def test_every_loader_gives_the_same_batches_from_either_store(tmp_path, kind, options):
    images = mapped(IMAGES, tmp_path) if kind == "map" else IMAGES
    device = make_data(IMAGES, batch_size=20, **options)
    stream = make_data(images, batch_size=20, store="stream", **options)
    assert type(stream.retain.images) is StreamedImages
    for epoch in range(2):
        for data in (device, stream):
            data.set_epoch(epoch)
        for of in (
            lambda data: data.retain,
            lambda data: data.forget,
            lambda data: data.retain.joined(data.forget),
            lambda data: data.retain.subset(30, "part").eval_view(),
        ):
            equal(batches(of(device)), batches(of(stream)))
        equal(batches(device.retain, views=True), batches(stream.retain, views=True))
    for data in (device, stream):
        data.set_epoch(1, 2)
    equal(batches(device.retain), batches(stream.retain))
    for name, loader in device.evaluation.items():
        equal(batches(loader), batches(stream.evaluation[name]))


@pytest.mark.parametrize("pad", [0, 1, 3])
@pytest.mark.parametrize("kind", [DeviceImages, StreamedImages])
def test_a_batch_is_windows_of_padded_images(kind, pad):
    images = kind(IMAGES.x_train, CPU, pad)
    rng = np.random.default_rng(pad)
    indices = torch.from_numpy(rng.integers(0, 96, 50))
    rows, columns = torch.from_numpy(rng.integers(0, 2 * pad + 1, (2, 50)))
    padded = F.pad(torch.from_numpy(IMAGES.x_train), (0, 0, pad, pad, pad, pad))
    windows = images.batch(indices, rows, columns)
    for window, i, r, c in zip(windows, indices, rows, columns, strict=True):
        wanted = padded[i, r : r + 8, c : c + 8].permute(2, 0, 1)
        assert torch.equal(window, wanted)


def test_two_loaders_of_one_stream_may_take_turns_and_stop_early():
    data, whole = make_data(IMAGES, store="stream"), make_data(IMAGES)
    pairs = zip(data.retain, data.forget, strict=False)
    wanted = zip(whole.retain, whole.forget, strict=False)
    equal([[*a, *b] for a, b in pairs], [[*a, *b] for a, b in wanted])
    next(iter(data.retain))
    next(iter(whole.retain))
    equal(batches(data.retain), batches(whole.retain))


def test_one_batch_is_read_ahead_and_no_more(monkeypatch):
    """While the first batch is worked on, the second one is gathered; the third is not begun."""
    images = StreamedImages(IMAGES.x_train, CPU, 0)
    gathered, gather = [], torch.index_select

    def counted(*given, **out):
        gathered.append(threading.current_thread().name)
        return gather(*given, **out)

    monkeypatch.setattr(torch, "index_select", counted)
    passes = images.fetched(torch.arange(40), [(0, 10), (10, 20), (20, 30), (30, 40)])
    next(passes)
    images.thread.submit(int).result()  # what was begun is done
    assert len(gathered) == 2
    assert all("stream" in name for name in gathered)


def test_a_stream_is_read_in_inference_mode_too():
    device, stream = (make_data(IMAGES, store=store) for store in ("device", "stream"))
    with torch.inference_mode():
        equal(batches(device.evaluation["test"]), batches(stream.evaluation["test"]))
    equal(batches(device.evaluation["test"]), batches(stream.evaluation["test"]))


def trained(store, name, **options):
    model = make_model()
    data = make_data(make_image_set(), store=store)
    method = METHODS[name](**options)
    run(method, model, data)
    return model.state_dict()


@pytest.mark.parametrize("name", ["FT", "RL", "scrub"])
def test_weights_are_equal_bit_for_bit_whichever_store(name):
    options = {"unlearn_epochs": 2}
    one, other = trained("device", name, **options), trained("stream", name, **options)
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_streamed_run_that_was_killed_ends_as_a_whole_one():
    check_resume(lambda: METHODS["FT"](unlearn_epochs=3), store="stream")


def test_nothing_is_copied_or_padded_on_the_cpu(tmp_path):
    image_set = mapped(IMAGES, tmp_path)
    data = make_data(image_set)
    pixels = data.retain.images.pixels
    assert pixels.data_ptr() == image_set.x_train.ctypes.data
    assert data.evaluation["val"].images is data.retain.images


def choice(monkeypatch, asked, arrays, free, device=CPU):
    monkeypatch.setattr(device_images, "free_memory", lambda device: free)
    return choose_store(asked, arrays, device)


CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("asked", "kind", "device", "free", "store"),
    [
        ("auto", "memory", CPU, 0, "device"),  # they are there already
        ("auto", "map", CPU, 2, "device"),
        ("auto", "map", CPU, 1.9, "stream"),
        ("auto", "map", CUDA, 2, "device"),
        ("auto", "memory", CUDA, 1.9, "stream"),
        ("device", "map", CPU, 0.5, "device"),  # pages are read in place
        ("device", "memory", CUDA, 1, "device"),
        ("stream", "memory", CPU, 100, "stream"),
    ],
)
def test_auto_goes_by_what_is_free(tmp_path, monkeypatch, asked, kind, device, free, store):
    images = mapped(IMAGES, tmp_path) if kind == "map" else IMAGES
    arrays = images.x_train, images.x_test
    size = sum(array.nbytes for array in arrays)
    chosen, line = choice(monkeypatch, asked, arrays, int(free * size), device)
    assert chosen == store
    assert line.startswith(f"--store {store}: ")
    assert f"free on {device}" in line


def test_a_device_that_is_too_small_is_refused(monkeypatch):
    arrays = IMAGES.x_train, IMAGES.x_test
    with pytest.raises(UserError, match=r"--store device: the images need .* use --store stream"):
        choice(monkeypatch, "device", arrays, 100, CUDA)
