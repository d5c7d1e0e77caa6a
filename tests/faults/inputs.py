"""Inputs that moved, and inputs that changed at the same path: a result is of the inputs that it
names, or the mismatch is named.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from faults.cases import audit_numbers, numbers_of, outcome, run
from faults.files import complaints_about
from faults.study import (
    LEAN,
    audit_of,
    audit_words,
    copy_study,
    data_words,
    few,
    half_done,
    in_folder,
    make_study,
    steps,
)

from runtime.files import hash_arrays, load, load_json

KINDS = ("digits relative", "npz relative", "digits absolute", "npz absolute")

# -------------------------------------------------------------------------------------------- moved

ACTIONS = (
    "evaluate basic",
    "report",
    "resume main_train",
    "evaluate standard",
    "resume RL",
    "forget anew",
    "finished",
    "evaluate few",
    "no data",
    "evaluate full",
)


def moved_trial(world: Path, action: str, seed: int) -> dict:
    """Move or copy a whole study, then go on with it from some working folder: everything ends as
    in its first place.
    """
    rng = random.Random(f"moved/{action}/{seed}")
    kind, how = rng.choice(KINDS), rng.choice(["copied", "moved", "linked"])
    kind = "npz " + kind.split()[1] if action == "no data" else kind
    suite = {"evaluate few": "basic", "report": "basic", "no data": "basic"}.get(
        action, action.split()[1] if "evaluate" in action else ""
    )
    # What has absolute paths is renamed below, so that none of them is there any more.
    study = make_study(
        world if "relative" in kind else world / "origin", kind, *filter(None, [suite])
    )
    place = world / "moved"
    shutil.rmtree(place, ignore_errors=True)
    first, second = place / "first", place / "second" / "deep"
    copy_study(study, first, pool=action == "evaluate full", caches=rng.random() < 0.5)
    if action.startswith("resume"):
        rewind(first, kind, action.split()[1], rng, world / "moved.log")
    second.parent.mkdir(parents=True)
    if how == "linked":
        shutil.move(first, place / "elsewhere")
        second.symlink_to(place / "elsewhere")
    else:
        (shutil.move if how == "moved" else shutil.copytree)(first, second)
    here = rng.choice(["inside", "outside", "below"])
    working = {"inside": second, "outside": place, "below": second / "runs" / "FT"}[here]
    at = (
        Path(os.path.relpath(second.absolute(), working.resolve() if how == "linked" else working))
        if rng.random() < 0.5
        else second
    )
    away = study.rename(study.with_name(f"{study.name} away")) if "absolute" in kind else study
    try:
        complaints = act(action, away, kind, second, at, world / "moved.log", working)
    finally:
        away.rename(study)
    found = {
        "case": action,
        "seed": seed,
        "kind": kind,
        "how": how,
        "working_folder": here,
        "relative": not at.is_absolute(),
    }
    return {**found, "complaints": complaints, "ok": not complaints}


def rewind(folder: Path, kind: str, name: str, rng: random.Random, log: Path) -> None:
    """Let a run of a study be half done: killed at a file of its own."""
    name = "original" if name == "main_train" else name
    shutil.rmtree(folder / "runs" / name)
    script, words = steps(kind, Path())[name]
    half_done(script, words, log, rng.choice([2, 3] if name == "original" else [2, 4, 5]), folder)


def act(
    action: str, study: Path, kind: str, folder: Path, at: Path, log: Path, working: Path
) -> list[str]:
    """Do one thing with a moved study, which is at ``at`` as seen from the working folder;
    complaints.
    """
    given = ["--data", str(at / "data" / "images.npz")] if kind.startswith("npz") else []

    def called(script: str, words: list[str], *more: str) -> str:
        code, said = run(script, [*words, *more], log, in_folder(working))
        complaints.extend([] if code == 0 else [f"{script} gave {code}: {said[-500:]}"])
        return said

    complaints: list[str] = []
    if action.startswith("evaluate"):
        suite = action.split()[1]
        words = audit_words(at, "basic" if suite == "few" else suite)
        if suite == "few":  # fewer models than the study has, and a folder of their own
            words = [words[0], words[2], *words[3:-1], str(at / "runs" / "audit_few")]
        said = called("evaluate", words, *given)
        if not complaints:
            complaints += other_audit(study, folder, suite)
        if any(words in said for words in ("train shadow", "masks of shadow", "on shadow")):
            complaints.append(f"shadow models were made again: {said[-500:]}")
    elif action == "report":
        before = run("report", [str(study / "runs"), "--format", "json"], log)
        after = run("report", [str(at / "runs"), "--format", "json"], log, in_folder(working))
        complaints += (
            [] if before[0] == 0 and before == after else [f"another table: {after[1][-500:]}"]
        )
    elif action == "no data":
        shutil.rmtree(folder / "data")
        complaints += complaints_about(
            *run("evaluate", audit_words(at, "basic"), log, in_folder(working)), (2,)
        )
    else:
        names = {"forget anew": ["RL", "FT"], "finished": ["original", "mask", "RL"]}.get(
            action
        ) or [action.split()[1]]
        for name in ["original" if name == "main_train" else name for name in names]:
            script, words = steps(kind, at)[name]
            fresh = action == "forget anew"
            words = [*words[:-1], str(at / "runs" / "anew" / name)] if fresh else words
            said = called(script, [*words, *given], *([] if fresh else ["--resume"]))
            if action == "finished" and "finished already" not in said:
                complaints.append(f"{name} was made again: {said[-300:]}")
            if not complaints:
                mine = folder / "runs" / ("anew" if fresh else "") / name
                complaints += (
                    []
                    if same(script, words, study / "runs" / name, mine)
                    else [f"{name}: another outcome"]
                )
    return complaints


def same(script: str, words: list[str], one: Path, other: Path) -> bool:
    """Whether two run folders hold the same weights and results."""
    results = [
        [numbers_of(file) for file in folder.glob("*result.json")] for folder in (one, other)
    ]
    return results[0] == results[1] and outcome(script, words, one) == outcome(script, words, other)


def other_audit(study: Path, folder: Path, suite: str) -> list[str]:
    """What differs between the audits of a study in its first and in its new place."""
    whole = audit_of(study, "basic" if suite == "few" else suite)
    mine = audit_numbers(folder / "runs" / f"audit_{suite}" / "audit.json")
    if suite == "few":
        wanted = {model["label"]: model["metrics"] for model in whole["models"]}
        return [
            f"another {each['label']}"
            for each in mine["models"]
            if each["metrics"] != wanted[each["label"]]
        ]
    return [f"another {name} in the audit" for name in whole if whole[name] != mine.get(name)]


# ------------------------------------------------------------------------------------------ changed

LISTED = "list.txt"


def change_images(folder: Path, half: str, rng: random.Random) -> None:
    """Other images of the same number in data/images.npz: a pixel, a label, or the order of two
    images.
    """
    file = folder / "data" / "images.npz"
    with np.load(file) as content:
        arrays = {name: content[name].copy() for name in content.files}
    images, labels = arrays[f"x_{half}"], arrays[f"y_{half}"]
    at, other = rng.sample(range(len(labels)), 2)
    what = rng.choice(["pixel", "label", "order"])
    if what == "pixel":
        images[at].flat[rng.randrange(images[at].size)] ^= 1
    elif what == "label":
        labels[at] = (labels[at] + 1) % 10
    else:
        images[[at, other]] = images[[other, at]]
        images[at].flat[0] ^= 1  # two equal images would change nothing
    stamp = file.stat()
    np.savez(file, **arrays)
    if rng.random() < 0.5:
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as cp -p and rsync -t leave it


def images_of(folder: Path) -> dict[str, str]:
    """The hashes that a result of today's images records."""
    with np.load(folder / "data" / "images.npz") as content:
        loaded = {name: content[name] for name in content.files}
    from datasets import load_dataset

    today = load_dataset("npz", str(folder / "data" / "images.npz"))
    assert len(loaded["x_train"]) == len(today.x_train)
    return {"data_sha256": today.sha256(), "test_sha256": today.test_sha256()}


class Changed:
    """One trial of changed inputs: a study of its own to spoil, commands in it, and what is wrong
    so far.
    """

    kind = "npz relative"

    def __init__(self, world: Path, rng: random.Random, suites: tuple[str, ...]):
        self.rng, self.log, self.complaints = rng, world / "changed.log", []
        study = make_study(world, self.kind, *suites)
        self.folder = copy_study(
            study, world / "changed" / "study", pool="full" in suites, caches=True
        )

    def step(self, name: str, *more: str, fresh: bool = False) -> tuple[str, list[str]]:
        """A command of the study, in a folder of its own where it is to be fresh."""
        script, words = steps(self.kind, Path())[name]
        return script, [*words[:-1], f"runs/fresh/{name}" if fresh else words[-1], *more]

    def run(self, script: str, words: list[str]) -> tuple[int, str]:
        return run(script, words, self.log, in_folder(self.folder))

    def good(self, script: str, words: list[str]) -> str:
        code, said = self.run(script, words)
        self.wrong(code, f"{script} gave {code}: {said[-500:]}")
        return said

    def refused(self, script: str, words: list[str]) -> None:
        """It must be named in one line."""
        self.complaints += complaints_about(*self.run(script, words), (2,))

    def wrong(self, is_wrong: object, message: str) -> None:
        self.complaints += [message] if is_wrong else []

    def result(self, where: str) -> dict:
        (file,) = (self.folder / "runs" / where).glob("*result.json")
        return load_json(file, "result")

    def honest(
        self,
        script: str,
        words: list[str],
        where: str,
        recorded: Callable[[dict], object],
        today: object,
    ) -> None:
        """Refused in one line, or the result is of what there is today by what it records."""
        code, said = self.run(script, words)
        if code == 2:
            self.complaints += complaints_about(code, said, (2,))
            return
        self.wrong(code, f"{script} gave {code}: {said[-500:]}")
        if not code:
            self.wrong(
                recorded(self.result(where)) != today, "the result is not of what there is today"
            )

    def rewind(self, name: str, stop: int) -> None:
        shutil.rmtree(self.folder / "runs" / name)
        half_done(*self.step(name), self.log, stop, self.folder)

    def other_masks(self, *words: str) -> None:
        """The masks' folder holds others, made for the same original."""
        script, before = steps(self.kind, Path())["mask"]
        self.good(script, [*before, *words, "--overwrite"])

    def other_original(self) -> None:
        script, before = steps(self.kind, Path())["original"]
        self.good(script, [*before, "--train_seed", "5", "--overwrite"])

    def original_sha256(self) -> str:
        return hash_arrays(
            load(self.folder / "runs" / "original" / "0model_SA_best.pth.tar", "original")[
                "state_dict"
            ]
        )


def next_step(trial: Changed) -> None:
    change_images(trial.folder, "train", trial.rng)
    trial.refused(*trial.step(trial.rng.choice(["mask", "RL", "FT", "retrain2"]), fresh=True))


def resumed(trial: Changed) -> None:
    name, stop = trial.rng.choice([("original", 3), ("RL", 2), ("FT", 4), ("retrain2", 2)])
    trial.rewind(name, stop)
    change_images(trial.folder, "train", trial.rng)
    trial.refused(*trial.step(name, "--resume"))


def finished(trial: Changed) -> None:
    change_images(trial.folder, "train", trial.rng)
    trial.refused(
        *trial.step(trial.rng.choice(["original", "mask", "RL", "FT", "retrain2"]), "--resume")
    )


def audited(trial: Changed) -> None:
    change_images(trial.folder, "train", trial.rng)
    trial.refused("evaluate", audit_words(Path(), trial.rng.choice(["basic", "standard", "full"])))


def alone(trial: Changed) -> None:
    """Retrain without an original takes what there is; a training begun anew as well."""
    change_images(trial.folder, "train", trial.rng)
    words = [
        *data_words(trial.kind, Path()),
        *LEAN,
        *few(trial.kind),
        "--unlearn",
        "retrain",
        "--unlearn_epochs",
        "1",
    ]
    trial.honest(
        "main_forget",
        [*words, "--save_dir", "runs/alone"],
        "alone",
        images_in,
        images_of(trial.folder),
    )
    trial.honest(
        *trial.step("original", "--overwrite"), "original", images_in, images_of(trial.folder)
    )


def images_in(result: dict) -> dict:
    return {name: result["data"].get(name) for name in ("data_sha256", "test_sha256")}


def pool_of_others(trial: Changed) -> None:
    """All runs anew on other images, beside the pool of the first ones: the audit is as if there
    had been no pool.
    """
    change_images(trial.folder, "train", trial.rng)
    for name in steps(trial.kind, Path()):
        trial.good(*trial.step(name, "--overwrite"))
    same_without_memory(trial, "full")


def same_without_memory(trial: Changed, suite: str) -> None:
    """An audit beside all that is kept equals one without a pool and without kept logits."""
    trial.good("evaluate", audit_words(Path(), suite))
    with_memory = audit_of(trial.folder, suite)
    for kept in [*trial.folder.rglob("logits"), *trial.folder.rglob("shadows")]:
        shutil.rmtree(kept, ignore_errors=True)
    trial.good("evaluate", audit_words(Path(), suite))
    trial.wrong(
        audit_of(trial.folder, suite) != with_memory, f"the {suite} audit is of what was kept"
    )


def test_images_audited(trial: Changed) -> None:
    change_images(trial.folder, "test", trial.rng)
    same_without_memory(trial, trial.rng.choice(["basic", "standard"]))


def test_images_of_pool(trial: Changed) -> None:
    change_images(trial.folder, "test", trial.rng)
    same_without_memory(trial, "full")


def test_images_finished(trial: Changed) -> None:
    name = trial.rng.choice(["original", "RL", "FT"])
    change_images(trial.folder, "test", trial.rng)
    trial.honest(*trial.step(name, "--resume"), name, images_in, images_of(trial.folder))


def test_images_reported(trial: Changed) -> None:
    change_images(trial.folder, "test", trial.rng)
    trial.good(*trial.step("FT", "--overwrite"))
    code, said = trial.run("report", ["runs"])
    trial.wrong(
        code == 0 and "test images" not in said,
        "a table of two sets of test images does not say so",
    )


def mask_of_other_density(trial: Changed) -> None:
    masks = trial.folder / "runs" / "mask"
    shutil.copy(masks / "with_0.3.pt", masks / "with_0.5.pt")
    trial.refused(*trial.step("RL", *trial.rng.choice([["--overwrite"], ["--resume"]])))


def mask_of_other_set(trial: Changed) -> None:
    trial.other_masks("--forget_seed", "9")
    trial.refused(*trial.step("RL", *trial.rng.choice([["--overwrite"], ["--resume"]])))


def mask_of_other_score(trial: Changed) -> None:
    trial.other_masks("--score", "random")
    trial.refused(*trial.step("RL", "--resume"))
    trial.good(*trial.step("RL", fresh=True))
    made, used = trial.result("mask")["masks"]["with_0.5.pt"]["sha256"], trial.result("fresh/RL")
    honest = (
        used["provenance"]["mask_sha256"] == made
        and used["mask"]["score"] == "random"
        and used["label"] != "SalUn"
    )
    trial.wrong(not honest, "the result says another mask than it used")


def mask_record_of_others(trial: Changed) -> None:
    record = trial.folder / "runs" / "mask" / "mask_result.json"
    words = ["--score", "random"] if trial.rng.random() < 0.5 else ["--forget_seed", "9"]
    script, before = trial.step("mask", *words, fresh=True)
    trial.good(script, before)
    shutil.copy(trial.folder / "runs" / "fresh" / "mask" / "mask_result.json", record)
    trial.refused(*trial.step("RL", "--overwrite"))


def mask_changed_before_audit(trial: Changed) -> None:
    """A checkpoint says itself what its mask was: the pool stays SalUn's, and is not made again."""
    before = audit_of(trial.folder, "full")
    trial.other_masks("--score", "random")
    said = trial.good("evaluate", audit_words(Path(), "full"))
    trial.wrong("on shadow" in said or "of shadow" in said, "shadow models were made again")
    trial.wrong(audit_of(trial.folder, "full") != before, "another audit")


def original_of_masks(trial: Changed) -> None:
    trial.other_original()
    trial.refused(
        *trial.rng.choice([trial.step("RL", "--overwrite"), trial.step("mask", "--resume")])
    )


def original_resumed(trial: Changed) -> None:
    trial.rewind("FT", 2)
    trial.other_original()
    trial.refused(*trial.step("FT", "--resume"))


def original_finished(trial: Changed) -> None:
    trial.other_original()
    trial.refused(*trial.step("FT", "--resume"))


def original_anew(trial: Changed) -> None:
    trial.other_original()
    name = "FT"
    trial.honest(
        *trial.step(name, fresh=True),
        f"fresh/{name}",
        lambda result: result["provenance"]["original_sha256"],
        trial.original_sha256(),
    )


def original_audited(trial: Changed) -> None:
    trial.other_original()
    code, said = trial.run("evaluate", audit_words(Path(), "basic"))
    if code:
        trial.complaints += complaints_about(code, said, (2,))
        return
    (original,) = (
        model for model in audit_of(trial.folder, "basic")["models"] if model["role"] == "original"
    )
    trial.wrong(
        original["weights_sha256"] != trial.original_sha256(), "the audit is of another original"
    )
    trial.wrong(
        "from another original than --original" not in said, "the other original is not named"
    )


def write_list(trial: Changed, first: int) -> list[str]:
    (trial.folder / LISTED).write_text("\n".join(map(str, range(first, first + 40))))
    return ["--indexes_to_replace", f"@{LISTED}"]


def listed(trial: Changed, name: str, *more: str, fresh: bool = False) -> tuple[str, list[str]]:
    """A step of the study that forgets what the list holds."""
    script, words = trial.step(name, fresh=fresh)
    at = words.index("--num_indexes_to_replace")
    return script, [*words[:at], *words[at + 2 :], "--indexes_to_replace", f"@{LISTED}", *more]


def list_changed(trial: Changed) -> None:
    """Masks and a run of one list; then another list at its path."""
    write_list(trial, 0)
    for name in ("mask", "RL"):
        trial.good(*listed(trial, name, "--overwrite"))
    write_list(trial, trial.rng.choice([1, 40]))
    trial.refused(*listed(trial, trial.rng.choice(["mask", "RL"]), "--resume"))
    trial.refused(*listed(trial, "RL", "--overwrite"))


def list_anew(trial: Changed) -> None:
    write_list(trial, 0)
    trial.good(*listed(trial, "FT", "--overwrite"))
    before = trial.result("FT")["data"]["forget"]["sha256"]
    write_list(trial, 7)
    trial.good(*listed(trial, "FT", fresh=True))
    train = (
        load(trial.folder / "runs" / "original" / "0model_SA_best.pth.tar", "original")["split"][
            "train"
        ]
        .sort()
        .values
    )
    wanted = hash_arrays({"forget": train[7:47]})
    found = trial.result("fresh/FT")["data"]["forget"]["sha256"]
    trial.wrong(found != wanted or found == before, "the result is of another list")


def left_out_changed(trial: Changed) -> None:
    (trial.folder / LISTED).write_text("0 1 2 3 4")
    out = ["--leave_out", f"@{LISTED}"]
    trial.good(*trial.step("original", *out, "--overwrite"))
    (trial.folder / LISTED).write_text(trial.rng.choice(["0 1 2 3 5", "0 1 2"]))
    trial.refused(*trial.step("original", *out, "--resume"))
    trial.refused(*trial.step("FT", fresh=True))


def sweep_of_others(trial: Changed) -> None:
    """A sweep begun on one set of images and started again on another."""
    write_sweep(trial)
    change_images(trial.folder, trial.rng.choice(["train", "test"]), trial.rng)
    trial.refused("sweep", ["plan.json"])


def sweep_of_another_list(trial: Changed) -> None:
    write_list(trial, 0)
    write_sweep(trial, indexes_to_replace=f"@{LISTED}")
    write_list(trial, 7)
    trial.refused("sweep", ["plan.json"])


def sweep_of_another_original(trial: Changed) -> None:
    write_sweep(trial)
    trial.other_original()
    trial.refused("sweep", ["plan.json"])


def write_sweep(trial: Changed, **changes: object) -> None:
    """A plan of two unlearned models of the study's original, and its first start."""
    base = {
        "dataset": "npz",
        "data": "data/images.npz",
        **{word[2:]: value for word, value in zip(LEAN[::2], LEAN[1::2], strict=True)},
    }
    base["batch_size"] = 128
    of_set = changes or {"num_indexes_to_replace": 40}
    flags = {"unlearn_epochs": 1, "model_path": "runs/original/0model_SA_best.pth.tar", **of_set}
    stages = {
        name: {"script": "main_forget", "flags": {"unlearn": name, **flags}}
        for name in ("FT", "GA")
    }
    plan = {"folder": "runs/plan", "base": base, "stages": stages}
    (trial.folder / "plan.json").write_text(json.dumps(plan))
    trial.good("sweep", ["plan.json"])


CHANGES = {
    function.__name__: function
    for function in (
        test_images_finished,
        sweep_of_another_list,
        test_images_audited,
        next_step,
        original_audited,
        resumed,
        finished,
        alone,
        test_images_reported,
        mask_of_other_density,
        mask_of_other_set,
        mask_of_other_score,
        mask_record_of_others,
        original_of_masks,
        original_resumed,
        original_finished,
        original_anew,
        list_changed,
        list_anew,
        left_out_changed,
        sweep_of_others,
        sweep_of_another_original,
        audited,
        mask_changed_before_audit,
        test_images_of_pool,
        pool_of_others,
    )
}
SUITES = {
    "audited": ("basic", "standard", "full"),
    "test_images_audited": ("basic",),
    "original_audited": ("basic",),
    "mask_changed_before_audit": ("full",),
    "test_images_of_pool": ("full",),
    "pool_of_others": ("full",),
}


def changed_trial(world: Path, case: str, seed: int) -> dict:
    """Change an input at its path between two steps or two starts; nothing is silently of both."""
    trial = Changed(world, random.Random(f"changed/{case}/{seed}"), SUITES.get(case, ()))
    CHANGES[case](trial)
    return {"case": case, "seed": seed, "complaints": trial.complaints, "ok": not trial.complaints}
