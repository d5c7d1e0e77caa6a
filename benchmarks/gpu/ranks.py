"""What torchrun starts for correct.py: a script of the project in each process, and a record of
what each one ended with.

    torchrun --nproc_per_node 2 benchmarks/gpu/ranks.py FOLDER main_train --dataset digits ...

FOLDER/rankN.json has the hash of the weights after the last epoch, the device, and what the
processes talked through. A run of one process makes no group: afterwards it makes one of its own
and sends an update through it.
"""

import copy
import importlib
import sys
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.gpu.runs import relative
from engine import BATCH_NORM, Trainer, Updater, train_epoch
from models import build_model
from recipe import make_optimizer
from runtime import distributed
from runtime.files import hash_arrays, save_json
from unlearn.base import cross_entropy_steps


def run(script: str, argv: list[str]) -> tuple[int, dict]:
    """A script's exit code, and what is known of its model after the last epoch."""
    found: dict = {}
    fit = Trainer.fit

    def fit_and_look(trainer: Trainer, *args: object, **kwargs: object) -> None:
        fit(trainer, *args, **kwargs)
        model = trainer.model
        found.update(
            weights=hash_arrays(model.state_dict()),
            device=str(next(model.parameters()).device),
            talks_through=str(dist.get_backend_config()) if dist.is_initialized() else "no group",
            sync_batch_norms=sum(
                isinstance(module, nn.SyncBatchNorm) for module in model.modules()
            ),
            batch_norms=sum(isinstance(module, BATCH_NORM) for module in model.modules()),
        )

    with mock.patch.object(Trainer, "fit", fit_and_look):
        return importlib.import_module(script).main(argv), found


def three_steps(model: nn.Module, device: torch.device) -> dict[str, torch.Tensor]:
    """The weights after three updates by the one loop, on seeded batches."""
    draw = torch.Generator().manual_seed(1)
    batches = [
        (
            torch.rand(16, 3, 16, 16, generator=draw).to(device),
            torch.randint(0, 10, (16,), generator=draw).to(device),
        )
        for _ in range(3)
    ]
    train_epoch(
        cross_entropy_steps(model, batches),
        Updater(model, make_optimizer(model.parameters(), 0.01, 0.9, 5e-4)),
    )
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def group_of_one(device: torch.device) -> dict:
    """The collectives that a run of several processes uses, in a group of one: each sum is what was
    put in.

    ``distributed.world_size`` says two meanwhile, since a run of one process asks nobody.
    SyncBatchNorm's own function is called by hand for the same reason.
    """
    torch.manual_seed(0)
    plain = build_model("resnet20s", 10, (0.5,) * 3, (0.5,) * 3, image_size=16).to(device)
    grouped = copy.deepcopy(plain)
    wanted = three_steps(plain, device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(distributed.backend(device))
    try:
        with mock.patch.object(distributed, "world_size", return_value=2):
            value = torch.arange(3.0, device=device)
            distributed.all_reduce([value])
            distributed.broadcast([value])
            distributed.all_reduce_min(value)
            largest = distributed.all_reduce_max(3)
            stepped = three_steps(grouped, device)
        said = distributed.on_main(lambda: 3), distributed.main_first(lambda: 4)
        return {
            "talks_through": str(dist.get_backend_config()),
            "values_come_back": value.tolist() == [0, 1, 2] and largest == 3,
            "outcomes_come_back": said == (3, 4),
            "three_steps_apart": relative(stepped, wanted),
            "sync_batch_norm": sync_batch_norm(device),
        }
    finally:
        dist.destroy_process_group()


def sync_batch_norm(device: torch.device) -> float | str:
    """How far SyncBatchNorm's output and running statistics are from BatchNorm's; it has no code
    for the CPU.
    """
    if device.type != "cuda":
        return "not on the CPU"
    from torch.nn.modules._functions import SyncBatchNorm

    images = torch.rand(8, 6, 5, 5, device=device).to(memory_format=torch.channels_last)
    ours, theirs = nn.BatchNorm2d(6).to(device), nn.BatchNorm2d(6).to(device)
    args = (
        ours.weight,
        ours.bias,
        ours.running_mean,
        ours.running_var,
        ours.eps,
        ours.momentum,
        dist.group.WORLD,
        1,
    )
    output = SyncBatchNorm.apply(images, *args)
    wanted = F.batch_norm(
        images,
        theirs.running_mean,
        theirs.running_var,
        theirs.weight,
        theirs.bias,
        True,
        theirs.momentum,
        theirs.eps,
    )
    output.square().sum().backward()
    wanted.square().sum().backward()
    pairs = {
        "output": (output, wanted),
        "variance": (ours.running_var, theirs.running_var),
        "bias": (ours.bias.grad + 1, theirs.bias.grad + 1),
    }
    return max(relative({"": a}, {"": b}) for a, b in pairs.values())


def main(argv: list[str]) -> int:
    folder, script, *words = argv
    code, found = run(script, words)
    if not code and distributed.world_size() == 1 and found:
        found["group"] = group_of_one(torch.device(found["device"]))
    write_own(found, Path(folder) / f"rank{distributed.rank()}.json")
    distributed.exit_process(code)


def write_own(found: dict, file: Path) -> None:
    """Every process writes its file; the project's savers let the first one alone write, but where
    the processes have parted.
    """
    with mock.patch.object(distributed, "on_main", lambda action: action()):
        save_json(found, file)


if __name__ == "__main__":
    main(sys.argv[1:])
