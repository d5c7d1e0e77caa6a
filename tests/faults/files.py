"""Files that lie: hostile pickles, claims of terabytes, and bytes that were changed at random; each
put where a script reads it.
"""

import contextlib
import io
import json
import os
import pickle
import random
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from faults.cases import FEW, SCRIPTS, SETUP, Child

from runtime.files import load

Place = tuple[str, list[str]]  # a script and its flags


# ----------------------------------------------------------------------------- where files are read


def make_files(world: Path) -> Path:
    """One good file of each kind that a script reads, in ``world``/files."""
    folder = world / "files"
    if (folder / "ready").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world / "original", folder / "train")
    shutil.copytree(world / "mask", folder / "mask")
    original = folder / "train" / "0model_SA_best.pth.tar"
    torch.save(load(original, "original")["state_dict"], folder / "bare.pt")
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 255, (60, 8, 8, 3), np.uint8),
        "y_train": np.arange(60) % 3,
        "x_test": rng.integers(0, 255, (20, 8, 8, 3), np.uint8),
        "y_test": np.arange(20) % 3,
    }
    np.savez(folder / "data.npz", **arrays)
    np.savez_compressed(folder / "packed.npz", **arrays)
    np.save(folder / "list.npy", np.arange(0, 90, 3))
    (folder / "list.json").write_text(json.dumps(list(range(0, 90, 3))))
    (folder / "list.txt").write_text("\n".join(map(str, range(0, 90, 3))))
    settings = {
        "unlearn": "FT",
        "unlearn_epochs": 2,
        "unlearn_lr": 0.01,
        "num_indexes_to_replace": 130,
        "bn": "freeze",
    }
    (folder / "run.json").write_text(json.dumps(settings))
    (folder / "run.toml").write_text(
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    )
    for half, count in (("train", 4), ("test", 2)):
        for name in "ab":
            (folder / "images" / half / name).mkdir(parents=True)
            for number in range(count):
                from PIL import Image

                Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(
                    folder / "images" / half / name / f"{number}.png"
                )
    words = [
        *SETUP,
        *FEW,
        "--model_path",
        str(original),
        "--unlearn",
        "GA",
        "--unlearn_epochs",
        "2",
        "--save_dir",
        str(folder / "run"),
    ]
    child = Child("main_forget", words, world / "files.log")
    assert child.wait() == 0, child.output()
    (folder / "ready").touch()
    return folder


def places(folder: Path) -> dict[str, tuple[str, Place]]:
    """{name: (file inside ``folder``, the command that reads it)}."""
    original, few = (
        ["--model_path", str(folder / "train" / "0model_SA_best.pth.tar")],
        [*SETUP, *FEW],
    )
    out, dry = ["--save_dir", str(folder / "out")], ["--dry_run"]
    ft = ["--unlearn", "FT"]
    of_run = [
        *few,
        *original,
        "--unlearn",
        "GA",
        "--unlearn_epochs",
        "2",
        "--save_dir",
        str(folder / "run"),
        "--resume",
    ]
    of_train = [
        *SETUP,
        "--epochs",
        "3",
        "--lr",
        "0.1",
        "--save_dir",
        str(folder / "train"),
        "--resume",
    ]
    masked = [*few, *original, *ft, *out, *dry, "--mask_path", str(folder / "mask" / "with_0.5.pt")]
    listed = [*SETUP, *original, *ft, *out, *dry, "--indexes_to_replace"]
    npz = [
        "--arch",
        "resnet20s",
        "--device",
        "cpu",
        *out,
        *dry,
        "--epochs",
        "1",
        "--dataset",
        "npz",
        "--data",
    ]
    images = [*npz[:-3], "--dataset", "folder", "--workers", "0", "--data", str(folder / "images")]
    configured = [*SETUP, *original, *out, *dry, "--config"]
    compare = [
        "--compare",
        str(folder / "mask" / "with_0.5.pt"),
        str(folder / "mask" / "with_0.3.pt"),
    ]
    return {
        "checkpoint": (
            "train/0model_SA_best.pth.tar",
            ("main_forget", [*few, *original, *ft, *out, *dry]),
        ),
        "checkpoint for masks": (
            "train/0model_SA_best.pth.tar",
            ("generate_mask", [*few, *original, *out, *dry]),
        ),
        "bare weights": (
            "bare.pt",
            ("main_forget", [*few, "--model_path", str(folder / "bare.pt"), *ft, *out, *dry]),
        ),
        "mask": ("mask/with_0.5.pt", ("main_random", masked)),
        "mask record": ("mask/mask_result.json", ("main_forget", masked)),
        "compared mask": ("mask/with_0.3.pt", ("generate_mask", compare)),
        "resumed training": ("train/0checkpoint.pth.tar", ("main_train", of_train)),
        "best model so far": ("train/0model_SA_best.pth.tar", ("main_train", of_train)),
        "training record": ("train/train_result.json", ("main_train", of_train)),
        "resumed unlearning": ("run/GAcheckpoint.pth.tar", ("main_forget", of_run)),
        "result": ("run/GAresult.json", ("main_forget", of_run)),
        "index npy": ("list.npy", ("main_forget", [*listed, f"@{folder / 'list.npy'}"])),
        "index json": ("list.json", ("main_forget", [*listed, f"@{folder / 'list.json'}"])),
        "index txt": ("list.txt", ("main_forget", [*listed, f"@{folder / 'list.txt'}"])),
        "npz": ("data.npz", ("main_train", [*npz, str(folder / "data.npz")])),
        "packed npz": ("packed.npz", ("main_train", [*npz, str(folder / "packed.npz")])),
        "image": ("images/train/a/0.png", ("main_train", images)),
        "config json": ("run.json", ("main_forget", [*configured, str(folder / "run.json")])),
        "config toml": ("run.toml", ("main_forget", [*configured, str(folder / "run.toml")])),
    }


def run_here(place: Place) -> tuple[int | str, str, str]:
    """A command in this process: its exit code (or the exception that escaped), standard output and
    standard error.
    """
    out, err = io.StringIO(), io.StringIO()
    script, words = place
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = SCRIPTS[script].main(words)
        except SystemExit as stop:  # --help
            code = stop.code or 0
        except Exception as error:
            code = f"{type(error).__name__}: {error}"
    return code, out.getvalue(), err.getvalue()


def complaints_about(code: int | str, err: str, allowed: tuple[int, ...]) -> list[str]:
    """What is wrong with how a command ended: another code, a traceback, or not exactly one line of
    error.
    """
    errors = [line for line in err.splitlines() if ": error: " in line or ": failed: " in line]
    if code not in allowed or "Traceback" in err or len(errors) != (code != 0):
        return [f"{code}: {err[-600:]}"]
    return []


# ------------------------------------------------------------------------------------ changed bytes


def damage(content: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, lost, added, zeroed or moved."""
    changed, kind = bytearray(content), rng.randrange(8)
    at = rng.randrange(len(content))
    if kind <= 2:
        for _ in range(rng.choice([1, 1, 2, 8])):
            changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == 3:
        changed = changed[:at]
    elif kind == 4:
        changed[at : at + rng.choice([1, 16, 512])] = bytes(
            rng.randrange(256) for _ in range(rng.choice([1, 16, 512]))
        )
    elif kind == 5:
        changed[at : at + 64] = bytes(min(64, len(content) - at))
    elif kind == 6:
        changed += changed[:at]
    else:
        del changed[at : at + rng.choice([1, 7, 300])]
    return bytes(changed)


def corruption_trial(folder: Path, name: str, seed: int) -> dict:
    """Damage one file and read it. ``accepted``: it was read as whole; a torch file must then still
    hold the very same values.
    """
    rng = random.Random(f"{name}/{seed}")
    inside, place = places(folder)[name]
    file = folder / inside
    good = file.read_bytes()
    saved = {path: path.read_bytes() for path in file.parent.iterdir() if path.is_file()}
    bad = damage(good, rng)
    file.write_bytes(bad)
    try:
        code, _, err = run_here(place)
        complaints = complaints_about(code, err, (0, 2))
        if (
            code == 0
            and bad != good
            and file.suffix in (".pt", ".tar")
            and not same_values(bad, good)
        ):
            complaints.append("other values were accepted")
    finally:
        for path, content in saved.items():
            path.write_bytes(content)
    return {
        "case": name,
        "seed": seed,
        "code": code,
        "accepted": code == 0,
        "complaints": complaints,
        "ok": not complaints,
    }


def same_values(bad: bytes, good: bytes) -> bool:
    """Whether two torch files hold the same, bit for bit."""

    def flat(content: bytes) -> list:
        parts, left = [], [torch.load(io.BytesIO(content), weights_only=True)]
        while left:
            item = left.pop()
            if isinstance(item, dict):
                left += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple):
                left += item
            else:
                parts.append(
                    item.numpy().tobytes() if isinstance(item, torch.Tensor) else repr(item)
                )
        return parts

    return flat(bad) == flat(good)


def shrinking_trial(folder: Path, name: str, seed: int, log: Path) -> dict:
    """Cut a file off while a command reads it, at a moment of its second of reading
    and checking.
    """
    rng = random.Random(f"shrink/{name}/{seed}")
    inside, (script, words) = places(folder)[name]
    file = folder / inside
    saved = {path: path.read_bytes() for path in file.parent.iterdir() if path.is_file()}
    try:
        child = Child(script, words, log)
        time.sleep(rng.uniform(0, 1))
        os.truncate(file, rng.randrange(max(1, len(saved[file]))))
        code = child.wait()
        complaints = complaints_about(code, child.output(), (0, 2))
    finally:
        for path, content in saved.items():
            path.write_bytes(content)
    return {
        "case": name,
        "seed": seed,
        "code": code,
        "complaints": complaints,
        "ok": not complaints,
    }


# ------------------------------------------------------------------------------------ hostile files


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Callable, *args: object):
        self.function, self.args = function, args

    def __reduce__(self) -> tuple:
        return self.function, self.args


def payloads(trap: Path) -> dict[str, object]:
    """What would make the file ``trap`` if a pickle of it were followed."""
    import functools
    import subprocess

    return {
        "os.system": Call(os.system, f"touch {trap}"),
        "subprocess": Call(subprocess.call, ["touch", str(trap)]),
        "exec": Call(exec, f"open({str(trap)!r}, 'w')"),
        "eval": Call(eval, f"open({str(trap)!r}, 'w')"),
        "open": Call(open, str(trap), "w"),
        "Path.touch": Call(Path.touch, trap),
        "partial": Call(functools.partial(os.system, f"touch {trap}")),
        "numpy": Call(np.save, str(trap), 1),
        "in a list": [1, {"x": Call(os.system, f"touch {trap}")}],
        "torch.load": Call(torch.load, str(trap)),
        "torch.save": Call(torch.save, 1, str(trap)),
    }


def hostile_files(trap: Path) -> dict[str, Callable[[Path], None]]:
    """{name: writes the file}: every payload as a torch file of both formats and as a plain pickle,
    and inside numpy's formats.
    """
    found = {}
    for name, payload in payloads(trap).items():
        found[f"torch {name}"] = lambda file, payload=payload: torch.save(
            {"state_dict": payload}, file
        )
        found[f"old torch {name}"] = lambda file, payload=payload: torch.save(
            {"state_dict": payload}, file, _use_new_zipfile_serialization=False
        )
        found[f"pickle {name}"] = lambda file, payload=payload: file.write_bytes(
            pickle.dumps(payload)
        )
    boxed = np.array([Call(os.system, f"touch {trap}")], dtype=object)
    found["npy of objects"] = lambda file: _write_through(
        file, lambda handle: np.save(handle, boxed, allow_pickle=True)
    )
    arrays = dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), boxed)
    found["npz of objects"] = lambda file: _write_through(
        file, lambda handle: np.savez(handle, **arrays)
    )
    found["script"] = lambda file: file.write_text(f"import os\nos.system('touch {trap}')\n")
    found["shell in json"] = lambda file: file.write_text(
        json.dumps({"save_dir": f"$(touch {trap})", "arch": f"`touch {trap}`"})
    )
    found["shell in toml"] = lambda file: file.write_text(
        f'data = "; touch {trap}"\nmodel_path = "| touch {trap}"\n'
    )
    return found


def _write_through(file: Path, write: Callable) -> None:
    with open(file, "wb") as handle:
        write(handle)


def greedy_files() -> dict[str, Callable[[Path], None]]:
    """Small files that claim a terabyte, each in its own way."""
    many = 10**12
    laughs = ["ha"]
    for _ in range(60):
        laughs = [laughs, laughs]
    encoded = "ab"
    for _ in range(40):
        encoded = Call(
            __import__("_codecs").encode,
            (
                encoded
                if isinstance(encoded, Call)
                else Call(__import__("_codecs").encode, "ab", "latin1")
            ),
            "hex",
        )
    return {
        "stride 0": lambda file: torch.save({"fc.weight": torch.zeros(1).expand(many)}, file),
        "shared list": lambda file: torch.save(
            {"state_dict": {"fc.weight": torch.zeros(1)}, "arguments": laughs}, file
        ),
        "bytearray": lambda file: torch.save({"x": Call(bytearray, 60 * 2**30)}, file),
        "codecs": lambda file: torch.save({"x": encoded}, file),
        "typed tensor": lambda file: torch.save({"x": Call(torch.FloatTensor, 10**10)}, file),
        "old storage": lambda file: _patched(file, {"x": torch.zeros(1000)}, old=True),
        "packed zeros": lambda file: _packed(file),
        "npy": lambda file: _write_through(file, lambda handle: _header(handle, many)),
        "npz": lambda file: _npz(file, many),
        "npz, packed": lambda file: _npz(file, 2 * 10**9, zipfile.ZIP_DEFLATED),
        "deep json": lambda file: file.write_text("[" * 200_000),
        "long number": lambda file: file.write_text("9" * 100_000),
    }


def _header(handle: io.IOBase, count: int) -> None:
    np.lib.format.write_array_header_1_0(
        handle, {"descr": "<i8", "fortran_order": False, "shape": (count,)}
    )
    handle.write(bytes(800))


def _npz(file: Path, count: int, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            part = io.BytesIO()
            _header(part, count)
            archive.writestr(f"{name}.npy", part.getvalue())


def _packed(file: Path) -> None:
    """A torch file whose tensor is 60 MB of zeros, deflated."""
    whole = io.BytesIO()
    torch.save({"fc.weight": torch.zeros(10)}, whole)
    with (
        zipfile.ZipFile(whole) as source,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(
                name, bytes(60 * 2**20) if name.endswith("data/0") else source.read(name)
            )


def _patched(file: Path, content: dict, old: bool) -> None:
    """A storage of a thousand numbers that says a million millions."""
    torch.save(content, file, _use_new_zipfile_serialization=not old)
    file.write_bytes(file.read_bytes().replace(b"M\xe8\x03", b"J\xff\xff\xff\x7f"))


def hostile_trial(
    folder: Path, name: str, kind: str, write: Callable[[Path], None], trap: Path, log: Path
) -> dict:
    """Put a hostile file in the place of a good one, in a child whose memory is measured: refused,
    nothing executed.
    """
    inside, (script, words) = places(folder)[name]
    file = folder / inside
    saved = {path: path.read_bytes() for path in file.parent.iterdir() if path.is_file()}
    trap.unlink(missing_ok=True)
    try:
        write(file)
        child = Child(script, words, log)
        code = child.wait()
    finally:
        for path, content in saved.items():
            path.write_bytes(content)
    # A record of results is not read where it is no record: the run then writes its own.
    allowed = (0, 2) if name in ("result", "training record") else (2,)
    complaints = complaints_about(code, child.output(), allowed)
    if trap.exists():
        complaints.append("it was executed")
    megabytes = child.usage.ru_maxrss // 1024
    return {
        "case": name,
        "kind": kind,
        "seed": 0,
        "code": code,
        "megabytes": megabytes,
        "complaints": complaints,
        "ok": not complaints,
    }
