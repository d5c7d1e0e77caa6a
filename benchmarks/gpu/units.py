"""The models of the table, each as one call of one of the project's scripts, in the order in which
they are made.
"""

import dataclasses
import os
from pathlib import Path

from benchmarks.gpu.planning import Unit

FORGET_SEED = 2


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The size of the table. ``short`` and ``short_influence`` are flags that make a method's run
    small.
    """

    arch: str = "resnet18"
    epochs: int = 182
    forget: int = 4500
    short: tuple[str, ...] = ()
    short_influence: tuple[str, ...] = ()


TWIN = Recipe(
    "resnet20s", 2, 40, ("--unlearn_epochs", "1"), ("--samples", "20", "--max_iterations", "2")
)


def units_of(recipe: Recipe, work: Path, data: str, decided: dict) -> list[Unit]:
    """Every model of the table in the order in which they are made.

    Args:
        work: the folder of the units' folders.
        data: the npz file, as it is written into the records.
        decided: epochs, schedule and whether trainings are compiled.
    """
    shown = Path(os.path.relpath(work)) if work.is_relative_to(Path.cwd()) else work
    compiled = ("--compile",) * bool(decided["compile"])
    epochs, retained = decided["epochs"], 0.9
    common = (
        "--data",
        data,
        "--num_indexes_to_replace",
        str(recipe.forget),
        "--forget_seed",
        str(FORGET_SEED),
    )
    common += ("--model_path", str(shown / "original" / "rounded.pth.tar"), "--resume")

    def method(
        kind: str,
        key: str,
        price: float,
        seed: int,
        *flags: str,
        needs: tuple[str, ...] = ("original",),
    ) -> Unit:
        name = f"{kind}_{seed}"
        words = (
            "--unlearn",
            key,
            *common,
            "--seed",
            str(seed),
            "--save_dir",
            str(shown / name),
            *flags,
        )
        return Unit(name, kind, "main_forget.py", words, price, key, needs)

    def retrain(seed: int) -> Unit:
        unit = method("retrain", "retrain", epochs * retained, seed, *compiled)
        return dataclasses.replace(unit, resumable=True)

    def salun(kind: str, seed: int, *flags: str) -> Unit:
        mask = ("--mask_path", str(shown / "masks" / "with_0.5.pt"))
        unit = method(
            kind, "RL", 10, seed, *flags, *mask, *recipe.short, needs=("original", "masks")
        )
        return dataclasses.replace(unit, script="main_random.py")

    def first_methods(seed: int) -> list[Unit]:
        return [
            method("FT", "FT", 10 * retained, seed, *recipe.short),
            salun("SalUn", seed),
            dataclasses.replace(
                method("RL", "RL", 10, seed, *recipe.short), script="main_random.py"
            ),
            method("l1_sparse", "FT_prune", 10 * retained, seed, *recipe.short),
            method("GA", "GA", 0.5, seed, *recipe.short),
        ]

    def later_methods(seed: int) -> list[Unit]:
        return [
            method("IU", "wfisher", 6, seed, *recipe.short_influence),
            method("SCRUB", "scrub", 6, seed, *recipe.short),
            method("NegGrad", "neggrad_plus", 20 * retained, seed, *recipe.short),
            salun("SalUn_readme", seed, "--preset", "salun_readme"),
        ]

    def long_budget(seed: int) -> Unit:
        return method(
            "FT_long", "FT", 50 * retained, seed, "--preset", "long_budget", *recipe.short
        )

    train = training_flags(recipe, data, decided, shown / "original")
    original = Unit(
        "original",
        "original",
        "main_train.py",
        (*train, "--resume"),
        epochs,
        "train_",
        (),
        resumable=True,
        audited=False,
    )
    masks = ("--save_dir", str(shown / "masks"), *common)
    return [
        original,
        retrain(2),
        retrain(3),
        Unit("masks", "masks", "generate_mask.py", masks, 0.1, "mask_", audited=False),
        *first_methods(2),
        dataclasses.replace(method("raw", "raw", 0, 2), audited=False),
        retrain(4),
        *later_methods(2),
        retrain(5),
        retrain(6),
        *first_methods(3),
        *later_methods(3),
        *first_methods(4),
        *later_methods(4),
        *(long_budget(seed) for seed in (2, 3, 4)),
    ]


def training_flags(recipe: Recipe, data: str, decided: dict, folder: Path) -> tuple[str, ...]:
    """main_train.py's: the published recipe with the epochs and the schedule that were
    decided on.
    """
    flags = (
        "--arch",
        recipe.arch,
        "--dataset",
        "npz",
        "--data",
        data,
        "--lr",
        "0.1",
        "--batch_size",
        "256",
        "--train_seed",
        "1",
    )
    flags += (
        "--epochs",
        str(decided["epochs"]),
        "--schedule",
        str(decided["schedule"]),
        "--save_dir",
        str(folder),
    )
    return flags + ("--compile",) * bool(decided["compile"])
