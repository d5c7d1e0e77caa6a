"""The parts of the GPU battery's table that need no run: which unit begins, the archive in pieces,
packed JPEG images.
"""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from arg_parser import unlearn_request
from benchmarks.gpu import archive, cifar, jobs, planning, table, units
from benchmarks.gpu.planning import Unit
from runtime.files import hash_arrays, load, save
from utils import UserError

DECIDED = {"epochs": 182, "schedule": "multistep", "compile": False}


def unit(name, epochs=1.0, needs=(), resumable=False):
    return Unit(name, name.split("_")[0], "main_forget.py", (), epochs, name, needs, resumable)


# --------------------------------------------------------------------------------------------- plan


def test_the_published_training_is_kept_up_to_three_seconds_an_epoch():
    assert planning.decide(3.0, 182) == {"epochs": 182, "schedule": "multistep"}
    assert planning.decide(3.01, 182) == {"epochs": 60, "schedule": "cosine"}
    assert planning.decide(9.0, 2)["epochs"] == 2
    assert planning.decide(1.0, 182, 40) == {"epochs": 40, "schedule": "cosine"}


def test_several_units_at_once_are_used_where_they_gain_a_fifth():
    used, slow = planning.at_once(2.0, {2: 3.0, 3: 4.0})
    assert (used, slow) == (
        3,
        {1: 1.0, 2: 1.5, 3: 2.0},
    )  # three in twice the time gain 1.5, two 1.33
    assert planning.at_once(2.0, {2: 3.5, 3: 5.1})[0] == 1  # 1.14 and 1.18
    assert planning.at_once(2.0, {2: 3.3, 3: 6.0})[0] == 2  # 1.21 and 1


def test_work_is_the_mean_of_its_own_kind_or_epochs_and_what_is_beside_them():
    assert (
        planning.expected_work(unit("a", 10), None, {})
        == planning.BESIDE_EPOCHS + 10 * planning.EPOCH_SECONDS
    )
    assert planning.expected_work(unit("a", 10), 0.5, {}) == planning.BESIDE_EPOCHS + 5
    assert planning.expected_work(unit("a_3", 10), 0.5, {"a": [7, 9], "b": [1]}) == 8


def test_a_unit_begins_only_where_nothing_is_cut_off():
    ready, works, slow = (
        [unit("long", resumable=True), unit("short")],
        {"long": 300.0, "short": 50.0},
        {1: 1.0, 2: 1.5},
    )
    assert planning.choose(ready, works, [], 300, slow).name == "long"
    assert (
        planning.choose(ready, works, [], 299, slow).name == "short"
    )  # a later one that fits goes first
    assert planning.choose(ready, works, [200.0], 450, slow).name == "long"
    assert planning.choose(ready, works, [200.0], 310, slow).name == "short"
    assert (
        planning.choose(ready, works, [210.0], 310, slow) is None
    )  # 210 beside another one takes 315
    assert planning.choose(ready, works, [1.0, 1.0], 900, slow) is None  # no place
    assert planning.choose(ready[:1], works, [], 61, slow).name == "long"  # a part of it
    assert planning.choose(ready[:1], works, [], 59, slow) is None
    assert (
        planning.choose(ready[:1], works, [1.0], 90, slow) is None
    )  # a part, but not beside another


def test_a_plan_heeds_needs_places_and_the_end():
    order = [
        unit("a"),
        unit("b", needs=("a",)),
        unit("c", needs=("a",)),
        unit("d", needs=("b", "c")),
        unit("e", needs=("z",)),
    ]
    works = {"a": 100.0, "b": 40.0, "c": 60.0, "d": 10.0, "e": 1.0}
    found = planning.simulate(order, set(), lambda each: works[each.name], 1000, 1, {1: 1.0})
    assert found == {"a": (0, 100), "b": (100, 140), "c": (140, 200), "d": (200, 210)}
    found = planning.simulate(
        order, set(), lambda each: works[each.name], 1000, 2, {1: 1.0, 2: 1.5}
    )
    # b and c take 1.5 times as long until b ends at 160; c has 20 left then.
    assert found == {"a": (0, 100), "b": (100, 160), "c": (100, 180), "d": (180, 190)}
    assert planning.simulate(order, {"a"}, lambda each: works[each.name], 70, 1, {1: 1.0}) == {
        "b": (0, 40)
    }
    part = planning.simulate(
        [unit("t", resumable=True)], set(), lambda each: 500.0, 100, 1, {1: 1.0}
    )
    assert part == {"t": (0, 500)}


def test_the_units_come_in_their_order_with_the_published_flags(tmp_path):
    found = units.units_of(units.Recipe(), tmp_path, "c10.npz", DECIDED)
    names = [each.name for each in found]
    assert names[:9] == [
        "original",
        "retrain_2",
        "retrain_3",
        "masks",
        "FT_2",
        "SalUn_2",
        "RL_2",
        "l1_sparse_2",
        "GA_2",
    ]
    assert (
        names.index("retrain_4")
        < names.index("IU_2")
        < names.index("SCRUB_2")
        < names.index("NegGrad_2")
        < names.index("FT_3")
    )
    assert len(set(names)) == len(names)
    words = {each.name: " ".join(each.flags) for each in found}
    assert (
        "--lr 0.1 --batch_size 256 --train_seed 1 --epochs 182 --schedule multistep"
        in words["original"]
    )
    assert all("--resume" in each.flags for each in found)
    assert all("--num_indexes_to_replace 4500 --forget_seed 2" in words[name] for name in names[1:])
    assert all(
        "with_0.5.pt" in words[name] and "masks" in needs
        for name, needs in ((u.name, u.needs) for u in found if "SalUn" in u.name)
    )
    assert not any("--compile" in each.flags for each in found)
    compiled = units.units_of(units.Recipe(), tmp_path, "c10.npz", DECIDED | {"compile": True})
    assert [each.name for each in compiled if "--compile" in each.flags] == [
        "original",
        "retrain_2",
        "retrain_3",
        "retrain_4",
        "retrain_5",
        "retrain_6",
    ]


def test_a_plan_starts_nothing_and_needs_no_gpu(tmp_path, capsys):
    assert table.main(["--out", str(tmp_path), "--plan", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "not measured yet" in lines[0]
    # 120 s of checks before; the original's 182 epochs at the default 2 s, and 30 s beside them.
    assert lines[2].split()[:4] == ["original", "to", "come", "6.6"]
    assert lines[2].endswith("2.0 to 8.6")
    assert lines[-1].startswith("RESULT stage=table plan=20 done=0 fits=")
    assert not list(tmp_path.iterdir())


def test_a_plan_counts_what_is_left_of_a_training(tmp_path, capsys):
    curve = tmp_path / "table" / "original" / "0curve.jsonl"
    curve.parent.mkdir(parents=True)
    curve.write_text('{"epoch": 1}\n' * 91)
    assert table.main(["--out", str(tmp_path), "--plan", "--only", "original"]) == 0
    line = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("original")
    )
    assert line.split()[:4] == ["original", "epoch", "91", "3.5"]  # 91 epochs of 2 s and 30 s


def test_every_unit_is_a_command_that_its_script_takes(tmp_path):
    for recipe in (units.Recipe(), units.TWIN):
        for each in units.units_of(recipe, tmp_path, "c10.npz", DECIDED):
            args = unlearn_request(list(each.flags))
            assert args.resume
            assert args.save_dir.name == each.name
            assert args.data == "c10.npz"
            assert each.script in ("main_train.py", "generate_mask.py") or (
                args.seed,
                args.forget_seed,
            ) == (int(each.name[-1]), 2)
            assert args.wants_mask is False  # the mask is named


def test_more_at_once_than_the_memory_holds_are_left_out(tmp_path, monkeypatch):
    stage = table.Table(table.parse(["--twin", "--out", str(tmp_path)]), needs_device=False)
    stage.twin, stage.checks["epoch"] = (
        False,
        {"ok": True, "found": {"epoch_seconds": 2.0, **DECIDED}},
    )

    def trial(count):
        if count == 3:
            raise RuntimeError("3 trainings at once: out of memory")
        return 3.0

    monkeypatch.setattr(stage, "trial", trial)
    found = stage.try_together()
    assert (found["used"], found["units"], found["slower"]) == (2, [1, 2], [1.0, 1.5])
    assert "out of memory" in found["failure"]


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--data", "x.npz"], "--twin runs the same checks"),
        ([], "--data is missing"),
        (["--data", "x.npz", "--only", "FT"], "--only FT: there are"),
        (["--twin", "--at_once", "0"], "at least 1"),
    ],
)
def test_what_is_refused(argv, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert table.run("table", table.main, [*argv, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


# ------------------------------------------------------------------------------------------ archive


@pytest.fixture
def tree():
    torch.manual_seed(0)
    weights = {
        "conv": torch.randn(16, 3, 3, 3),
        "bn": torch.rand(16) * 1e-7,
        "count": torch.tensor(7),
        "rng": torch.arange(9, dtype=torch.uint8),
    }
    return {
        "state_dict": weights,
        "arguments": {"typed": ["a"], "steps": (1, 2)},
        "mask": torch.rand(5, 7) > 0.5,
    }


def test_weights_come_back_rounded_once_and_all_else_as_it_was(tree, tmp_path):
    save(tree, tmp_path / "from" / "model.pth.tar")
    archive.pack(tmp_path / "from", tmp_path / "pieces", [[tmp_path / "from" / "model.pth.tar"]])
    assert archive.unpack(tmp_path / "pieces", tmp_path / "to") == [
        tmp_path / "to" / "model.pth.tar"
    ]
    found = load(tmp_path / "to" / "model.pth.tar", "")
    wanted = tree["state_dict"]["conv"].half().float()
    assert not torch.equal(wanted, tree["state_dict"]["conv"])
    assert torch.equal(found["state_dict"]["conv"], wanted)
    assert all(
        torch.equal(found["state_dict"][name], tree["state_dict"][name])
        for name in ("bn", "count", "rng")
    )
    assert all(
        found["state_dict"][name].dtype == value.dtype for name, value in tree["state_dict"].items()
    )
    assert torch.equal(found["mask"], tree["mask"])
    assert found["mask"].dtype == torch.bool
    assert found["arguments"] == tree["arguments"]
    # What was rounded before it travelled is the same model on the other side.
    assert hash_arrays(archive.rounded(tree)["state_dict"]) == hash_arrays(found["state_dict"])


def test_a_weight_that_fp16_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="too large for fp16"):
        archive.rounded({"w": torch.full((2, 2), 1e5)})


def packed(folder, sizes, **limits):
    rng = np.random.default_rng(0)
    files = [folder / f"f{number}.npz" for number in range(len(sizes))]
    folder.mkdir(exist_ok=True)
    for file, size in zip(files, sizes, strict=True):
        file.write_bytes(rng.bytes(size))
    small = folder / "small.json"
    small.write_text("{}")
    left_out = archive.pack(
        folder, folder.parent / "pieces", [[file] for file in files], small=[small], **limits
    )
    return files, [file.name for file in left_out]


def test_pieces_keep_to_their_sizes_and_the_least_wanted_stays_behind(tmp_path):
    files, left_out = packed(tmp_path / "from", [3000, 5000, 3000, 500], piece=2000, most=9000)
    assert left_out == ["f2.npz"]
    pieces = sorted((tmp_path / "pieces").iterdir())
    assert all(piece.stat().st_size <= 2000 for piece in pieces if piece.name != "index.json")
    assert sum(piece.stat().st_size for piece in pieces) < 9000 + 2000
    archive.unpack(tmp_path / "pieces", tmp_path / "to")
    for file in (files[0], files[1], files[3], tmp_path / "from" / "small.json"):
        assert (tmp_path / "to" / file.name).read_bytes() == file.read_bytes()
    assert not (tmp_path / "to" / "f2.npz").exists()


def test_a_piece_that_did_not_change_stays_and_an_old_one_goes(tmp_path):
    packed(tmp_path / "from", [5000, 3000], piece=2000, most=50_000)
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "pieces").iterdir()}
    (tmp_path / "from" / "small.json").write_text('{"more": 1}')
    files = sorted((tmp_path / "from").glob("*.npz"))
    archive.pack(
        tmp_path / "from",
        tmp_path / "pieces",
        [[file] for file in files],
        small=[tmp_path / "from" / "small.json"],
        piece=2000,
    )
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "pieces").iterdir()}
    same = {name for name in after if before.get(name) == after[name]}
    assert {name[:7] for name in same} >= {"piece-0", "piece-1", "piece-2"}
    assert len(after) == len(before)


@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "index"])
def test_a_damaged_archive_is_refused_and_nothing_written(harm, tmp_path):
    packed(tmp_path / "from", [5000], piece=2000, most=50_000)
    piece, index = (
        sorted((tmp_path / "pieces").glob("piece-1*"))[0],
        tmp_path / "pieces" / "index.json",
    )
    content = bytearray(piece.read_bytes())
    if harm == "flip":
        content[100] ^= 1
        piece.write_bytes(content)
    elif harm == "cut":
        piece.write_bytes(content[:-1])
    elif harm == "gone":
        piece.unlink()
    else:
        index.write_text("{}")
    with pytest.raises(UserError, match="copy all of its files again"):
        archive.unpack(tmp_path / "pieces", tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_an_entry_outside_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out.json").write_text("{}")
    (tmp_path / "in").mkdir()
    archive.pack(
        tmp_path / "in" / ".." / "in",
        tmp_path / "pieces",
        [],
        small=[tmp_path / "in" / ".." / "in" / ".." / "out.json"],
    )
    with pytest.raises(UserError, match="none of ours"):
        archive.unpack(tmp_path / "pieces", tmp_path / "to" / "deep")


# ------------------------------------------------------------------------------- packed JPEG images


def jpeg(colour, side=16):
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "JPEG", quality=95)
    return file.getvalue()


def packed_arrays():
    halves = {"train": [(200, 30, 40), (10, 220, 90), (0, 0, 0)], "test": [(255, 255, 255)]}
    arrays = {"classes": np.array(["a", "b"])}
    for half, colours in halves.items():
        images = [jpeg(colour) for colour in colours]
        arrays[f"jpeg_{half}"] = np.frombuffer(b"".join(images), np.uint8)
        arrays[f"end_{half}"] = np.cumsum([len(image) for image in images])
        arrays[f"y_{half}"] = np.arange(len(images)) % 2
    return arrays, halves


def test_a_packed_file_becomes_plain_arrays_once(tmp_path):
    arrays, halves = packed_arrays()
    np.savez(tmp_path / "packed.npz", **arrays)
    plain = cifar.unpacked(tmp_path / "packed.npz", tmp_path / "cache")
    with np.load(plain) as found:
        for half, colours in halves.items():
            assert found[f"x_{half}"].shape == (len(colours), 16, 16, 3)
            assert found[f"x_{half}"].dtype == np.uint8
            for image, colour in zip(found[f"x_{half}"], colours, strict=True):
                assert (
                    np.abs(image.astype(int) - colour).max() <= 3
                )  # what JPEG loses of a single colour
            np.testing.assert_array_equal(found[f"y_{half}"], arrays[f"y_{half}"])
        assert found["classes"].tolist() == ["a", "b"]
    written = plain.stat().st_mtime_ns
    assert cifar.unpacked(tmp_path / "packed.npz", tmp_path / "cache").stat().st_mtime_ns == written
    assert cifar.unpacked(plain, tmp_path / "cache") == plain
    assert cifar.main([str(tmp_path / "packed.npz"), str(tmp_path / "cache")]) == 0


@pytest.mark.parametrize("harm", ["image", "ends", "array", "no npz"])
def test_a_damaged_packed_file_is_refused(harm, tmp_path):
    arrays, _ = packed_arrays()
    if harm == "image":
        stream = arrays["jpeg_train"].copy()
        stream[: len(stream) // 3] = 0
        arrays["jpeg_train"] = stream
    elif harm == "ends":
        arrays["end_train"] = arrays["end_train"][:-1]
    elif harm == "array":
        del arrays["y_test"]
    np.savez(tmp_path / "packed.npz", **arrays)
    if harm == "no npz":
        (tmp_path / "packed.npz").write_bytes(b"x")
    with pytest.raises(UserError, match="--data"):
        cifar.unpacked(tmp_path / "packed.npz", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


# --------------------------------------------------------------------------------------------- logs


def test_epochs_are_timed_from_a_log_with_progress_bars(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now[0])
    log = jobs.StampedLog(tmp_path / "log.txt")
    for number, seconds in enumerate((9.0, 2.0, 2.5, 7.0), start=1):
        now[0] += seconds
        log.write(
            f"\repoch {number}/4:  50%|###\r          \repoch {number}/4  loss 0.1  train 5\n"
        )
    log.write("RESULT method=original")
    log.close()
    assert jobs.epoch_seconds(tmp_path / "log.txt") == 2.5
    assert jobs.last_line(tmp_path / "log.txt") == "RESULT method=original"
    (tmp_path / "short.txt").write_text("   1.00 epoch 1/4  loss\n   2.00 killed\n")
    with pytest.raises(ValueError, match="no two epochs: killed"):
        jobs.epoch_seconds(tmp_path / "short.txt")
