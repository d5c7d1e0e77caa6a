"""Command lines by hypothesis, in this process: good words, wrong words, words in the wrong place;
none may end in a traceback.
"""

from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
from faults.cases import SETUP
from faults.files import complaints_about, run_here
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

from arg_parser import make_parser
from datasets import sources
from masks.scores import SCORES
from unlearn import METHODS
from utils import UserError

# Flags whose values name files; --save_dir is given apart, so that every line writes into the
# folder of its test.
OF_FILES = ("model_path", "mask_path", "checkpoint", "config", "data")
WHOLE = [
    "0",
    "1",
    "2",
    "3",
    "7",
    "64",
    "130",
    "1298",
    "1299",
    "-1",
    "-2",
    "100001",
    "2147483647",
    "2147483648",
    "9" * 40,
    "1e3",
    "0x10",
    "1_0",
]
REAL = [
    "0",
    "0.5",
    "1",
    "0.95",
    "-0.5",
    "1e-9",
    "1e308",
    "1e-320",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "0,5",
    "half",
]
ODD = [
    "",
    " ",
    "-",
    "--",
    "é",
    "\udcff",
    "a" * 300,
    "x" * 5000,
    "../..",
    "/",
    ".",
    "/dev/null",
    "/dev/zero",
    "/proc/self/mem",
    "1,2",
    "None",
]
ODD += [
    "$(touch executed)",
    "; touch executed",
    "`touch executed`",
    "@",
    "@/",
    "@none.npy",
    "@/dev/zero",
    "{}",
    "%s",
    "\n",
    "-1e",
    "true",
]
LISTS = [
    "1,5,9",
    "5",
    "5,5",
    "0",
    "-1",
    "1297",
    "1298",
    "1,,2",
    "1.5",
    "9" * 30,
    ",".join(map(str, range(300))),
]
# Other data sets would be looked for on the network; larger images or more workers are possible
# requests that take a machine down.
BOUNDED = {
    "dataset": ["digits", "fashion_mini", "npz", "folder", "digit"],
    "input_size": ["0", "1", "8", "32", "64", "-1", "100000", "2147483647", "x", "1e9"],
    "threads": ["0", "1", "2", "-1", "1025", "x"],
    "workers": ["0", "1", "2", "-1", "257", "2147483647", "", "x"],
}


def files_of(folder: Path) -> list[str]:
    """Good and wrong files for every flag that names one."""
    good = [
        "train/0model_SA_best.pth.tar",
        "train/0checkpoint.pth.tar",
        "bare.pt",
        "mask",
        "mask/with_0.5.pt",
        "mask/mask_result.json",
    ]
    good += [
        "run/GAcheckpoint.pth.tar",
        "run/GAresult.json",
        "list.npy",
        "list.json",
        "list.txt",
        "data.npz",
        "run.json",
        "run.toml",
        "images",
    ]
    return [str(folder / name) for name in (*good, "none.pt", "")]


def flag_values(folder: Path) -> st.SearchStrategy[list[str]]:
    """One flag of the parser with a value, right or wrong for it."""
    anything = st.sampled_from([*WHOLE, *REAL, *ODD, *LISTS, *files_of(folder)])
    choices = []
    for action in make_parser("")._actions:
        if action.dest in ("save_dir", "help", "list_methods", "dry_run"):
            continue
        flag = action.option_strings[0]
        if action.nargs == 0:
            choices.append(st.just([flag]))
        elif action.dest == "compare":
            choices.append(
                st.lists(st.sampled_from(files_of(folder)), min_size=2, max_size=2).map(
                    lambda two: ["--compare", *two]
                )
            )
        else:
            likely = _likely(action, folder)
            values = (
                likely if action.dest in BOUNDED else st.one_of(likely, likely, likely, anything)
            )
            choices.append(st.builds(_written, st.just(flag), values, st.booleans()))
    return st.one_of(choices)


def _written(flag: str, value: str, joined: bool) -> list[str]:
    return [f"{flag}={value}"] if joined else [flag, value]


def _likely(action: object, folder: Path) -> st.SearchStrategy[str]:
    if action.dest in BOUNDED:
        return st.sampled_from(BOUNDED[action.dest])
    if action.choices:
        return st.sampled_from([str(choice) for choice in action.choices])
    if action.dest == "unlearn":
        return st.sampled_from([*METHODS, "salun", "L1-Sparse", "iu", "neggrad+", "bad teaching"])
    if action.dest in OF_FILES:
        return st.sampled_from(files_of(folder))
    if action.dest == "indexes_to_replace":
        return st.sampled_from([*LISTS, *("@" + name for name in files_of(folder))])
    if action.dest == "forget":
        kinds = st.sampled_from(
            ["positions:", "indices:", "files:", "class:", "classes:", "random:"]
        )
        lists = st.sampled_from([*LISTS, *WHOLE, *("@" + name for name in files_of(folder))])
        return st.tuples(kinds, lists).map("".join)
    if action.dest == "layers":
        return st.sampled_from(["fc", "layer1,fc", "fc,fc", "layer", "conv1,"])
    return st.sampled_from([*WHOLE, *REAL])


def command_lines(folder: Path) -> st.SearchStrategy[tuple[str, list[str]]]:
    """(script, words): a start that would work, some flags of any kind, perhaps a stray word, and
    --dry_run.
    """
    original = ["--model_path", str(folder / "train" / "0model_SA_best.pth.tar")]
    few = ["--num_indexes_to_replace", "130"]
    starts = [
        ("main_train", [*SETUP, "--epochs", "1"]),
        ("generate_mask", [*SETUP, *original, *few]),
        ("main_forget", ["--dataset", "digits"]),
        *(("main_forget", [*SETUP, *original, *few, "--unlearn", name]) for name in METHODS),
        *(("generate_mask", [*SETUP, *original, *few, "--score", score]) for score in SCORES),
        (
            "main_random",
            [
                *SETUP,
                *original,
                *few,
                "--unlearn",
                "RL",
                "--mask_path",
                str(folder / "mask" / "with_0.5.pt"),
            ],
        ),
        ("main_random", [*SETUP, *original, "--unlearn", "RL", "--class_to_replace", "3"]),
        (
            "main_forget",
            [
                *SETUP,
                *original,
                *few,
                "--unlearn",
                "GA",
                "--save_dir",
                str(folder / "run"),
                "--resume",
            ],
        ),
    ]
    stray = st.lists(
        st.sampled_from([*ODD, "--mask", "--epoch=3", "--help", "--list_methods"]), max_size=1
    )
    often_none = st.one_of(st.just([]), st.just([]), stray)
    flags = st.lists(flag_values(folder), max_size=5).map(
        lambda parts: [word for part in parts for word in part]
    )
    whole = st.sampled_from(starts).flatmap(
        lambda start: st.tuples(
            st.just(start[0]), st.builds(_join, st.just(start[1]), flags, often_none)
        )
    )
    return whole.map(lambda line: (line[0], _aimed(line[1], folder)))


def _join(start: list[str], flags: list[str], stray: list[str]) -> list[str]:
    return [*start, *flags, *stray]


def _aimed(words: list[str], folder: Path) -> list[str]:
    there = [] if "--save_dir" in words else ["--save_dir", str(folder / "lines")]
    return [*words, *there, "--dry_run"]


def real_lines(folder: Path) -> st.SearchStrategy[tuple[str, list[str]]]:
    """The same for runs that train: one epoch on a few images, with flags whose worst values still
    end soon.
    """
    original = ["--model_path", str(folder / "train" / "0model_SA_best.pth.tar")]
    base = [
        *SETUP,
        *original,
        "--unlearn_epochs",
        "1",
        "--retain_fraction",
        "0.1",
        "--samples",
        "20",
        "--fisher_samples",
        "10",
    ]
    base += [
        "--max_iterations",
        "2",
        "--noise_steps",
        "2",
        "--noise_batches",
        "2",
        "--overwrite",
        "--save_dir",
        str(folder / "lines"),
    ]
    number = st.sampled_from(["0", "1e-9", "0.5", "0.95", "1", "3", "1e6", "1e30", "-0.5"])
    count = st.sampled_from(["0", "1", "2", "3", "64", "300"])
    options = {
        "alpha": number,
        "unlearn_lr": number,
        "weight_decay": number,
        "momentum": number,
        "clip_norm": number,
        "rate": number,
        "temperature": number,
        "gamma": number,
        "rho": number,
        "eps": number,
        "damping": number,
        "dampening": number,
        "retain_part": number,
        "retain_share": number,
        "retain_weight": number,
        "noise_limit": number,
        "noise_lr": number,
        "batch_size": st.sampled_from(["1", "2", "64", "300"]),
        "k": count,
        "msteps": count,
        "impair_epochs": count,
        "importance_batch": count,
        "print_freq": st.sampled_from(["1", "2"]),
        "warmup": count,
        "bn": st.sampled_from(["train", "freeze"]),
        "optimizer": st.sampled_from(["sgd", "adam", "adamw"]),
        "schedule": st.sampled_from(["constant", "cosine", "multistep"]),
        "mia_members": st.sampled_from(["balanced", "first"]),
        "mask_path": st.sampled_from(
            [str(folder / "mask" / f"with_{ratio}.pt") for ratio in ("0.1", "1.0")]
        ),
    }
    known = {action.dest: action.option_strings[0] for action in make_parser("")._actions}
    asked = st.sampled_from(
        [
            ["--num_indexes_to_replace", "130"],
            ["--num_indexes_to_replace", "1"],
            ["--class_to_replace", "3"],
            ["--num_indexes_to_replace", "1290"],
            ["--indexes_to_replace", "5,7"],
        ]
    )
    flags = st.fixed_dictionaries(
        {}, optional={known[name]: values for name, values in options.items() if name in known}
    )
    few = flags.map(lambda chosen: [f"{flag}={value}" for flag, value in list(chosen.items())[:6]])
    return st.builds(
        lambda name, asked, few: ("main_forget", [*base, "--unlearn", name, *asked, *few]),
        st.sampled_from(list(METHODS)),
        asked,
        few,
    )


def no_network(name: str, *unused: object) -> None:
    raise UserError(f"{name} is not looked for here")


def line_trials(
    folder: Path, seed: int, count: int, note: Callable[[dict], None], *, real: bool = False
) -> None:
    """Run ``count`` command lines; ``note`` is given what became of each. A real run may also end
    in 1, as a run that diverged does.
    """
    lines = real_lines(folder) if real else command_lines(folder)
    allowed = (0, 1, 2) if real else (0, 2)

    @seeded(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(lines)
    def trial(line: tuple[str, list[str]]) -> None:
        code, _, err = run_here(line)
        complaints = complaints_about(code, err, allowed)
        if Path("executed").exists():
            complaints.append("a shell followed it")
        note(
            {
                "case": " ".join([line[0], *line[1]]),
                "seed": seed,
                "code": code,
                "complaints": complaints,
                "ok": not complaints,
            }
        )

    kept, sources.torchvision_halves = sources.torchvision_halves, no_network
    try:
        trial()
    finally:
        sources.torchvision_halves = kept
