"""Records as the scripts write them, made up: results, audits, curves."""

import json

METRICS = ("UA", "RA", "TA", "MIA")
DEFAULTS = {"kind": "random", "count": 4500, "forget": "f" * 64, "dataset": "cifar10"}


def result(method="FT", label=None, values=(5.0, 99.0, 93.0, 12.0), *, seed=1, rte=(0.0, 60.0), lr=0.01, mask=None, **changes):
    """One result file's content, with every key that a run writes."""
    kind, count, forget, dataset = (changes.get(name, usual) for name, usual in DEFAULTS.items())
    chosen = {"kind": kind, "count": count, "sha256": forget, "forget_seed": 1}
    if kind == "class":
        chosen["class"] = changes["forgotten_class"]
    metrics = dict(zip(METRICS, values, strict=True)) | {"VA": 93.5}
    attack = dict.fromkeys(("correctness", "confidence", "entropy", "m_entropy", "prob"), values[3])
    return {
        "schema": 1, "script": "main_forget", "method": method, "label": label or method,
        "metrics": {**metrics, "SVC_MIA": attack},
        "RTE": {"total": sum(rte), "mask": rte[0], "unlearn": rte[1]},
        "hyperparameters": {"unlearn_lr": lr, "unlearn_epochs": 10},
        "recipe": {"batch_size": 256, "schedule": "constant", "milestones": [], "precision": "fp32"},
        "mask": {"path": "mask/with_0.5.pt", "density": mask} if mask else None,
        "attack": {"members": "balanced"}, "details": {}, "warnings": changes.get("warnings", []),
        "data": {
            "dataset": dataset, "arch": "resnet18", "split_seed": 1, "data_sha256": "d" * 64, "forget": chosen,
            "sizes": {"forget": count, "retain": 45000 - count, "val": 5000, "test": 10000},
        },
        "provenance": {"command": ["main_forget.py"], "git": "abc", "precision": "fp32", "seed": seed, "forget_seed": 1},
    }  # fmt: skip


def write(folder, *results):
    """Each result in a folder of its own, as runs with several seeds are laid out."""
    for result in results:
        own = folder / f"run{len(list(folder.iterdir()))}"
        own.mkdir()
        (own / f"{result['method']}result.json").write_text(json.dumps(result))
    return folder


def runs(method, label, values, **changes):
    return [result(method, label, numbers, seed=seed, **changes) for seed, numbers in enumerate(values, 1)]
