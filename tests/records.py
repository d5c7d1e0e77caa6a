"""Records as the scripts write them, made up: results, audits, curves."""

import json

METRICS = ("UA", "RA", "TA", "MIA")
DEFAULTS = {"kind": "random", "count": 4500, "forget": "f" * 64, "dataset": "cifar10"}


def result(
    method="FT",
    label=None,
    values=(5.0, 99.0, 93.0, 12.0),
    *,
    seed=1,
    rte=(0.0, 60.0),
    lr=0.01,
    mask=None,
    **changes,
):
    """One result file's content, with every key that a run writes."""
    kind, count, forget, dataset = (changes.get(name, usual) for name, usual in DEFAULTS.items())
    chosen = {"kind": kind, "count": count, "sha256": forget, "forget_seed": 1}
    if kind == "class":
        chosen["class"] = changes["forgotten_class"]
    metrics = dict(zip(METRICS, values, strict=True)) | {"VA": 93.5}
    attack = dict.fromkeys(("correctness", "confidence", "entropy", "m_entropy", "prob"), values[3])
    return {
        "schema": 1,
        "script": "main_forget",
        "method": method,
        "label": label or method,
        "metrics": {**metrics, "SVC_MIA": attack},
        "RTE": {"total": sum(rte), "mask": rte[0], "unlearn": rte[1]},
        "hyperparameters": {"unlearn_lr": lr, "unlearn_epochs": 10},
        "recipe": {
            "batch_size": 256,
            "schedule": "constant",
            "milestones": [],
            "precision": "fp32",
        },
        "mask": {"path": "mask/with_0.5.pt", "density": mask} if mask else None,
        "attack": {"members": "balanced"},
        "details": {},
        "warnings": changes.get("warnings", []),
        "data": {
            "dataset": dataset,
            "arch": "resnet18",
            "split_seed": 1,
            "data_sha256": "d" * 64,
            "forget": chosen,
            "sizes": {"forget": count, "retain": 45000 - count, "val": 5000, "test": 10000},
        },
        "provenance": {
            "command": ["main_forget.py", "--unlearn", method],
            "git": "abc",
            "device": "cpu: test",
            "precision": "fp32",
            "seed": seed,
            "forget_seed": 1,
            "unlearned_sha256": f"{method}-{lr}-{mask}-{seed}",
        },
    }


def write(folder, *results):
    """Each result in a folder of its own, as runs with several seeds are laid out."""
    for result in results:
        own = folder / f"run{len(list(folder.iterdir()))}"
        own.mkdir()
        (own / f"{result['method']}result.json").write_text(json.dumps(result))
    return folder


def runs(method, label, values, **changes):
    return [
        result(method, label, numbers, seed=seed, **changes)
        for seed, numbers in enumerate(values, 1)
    ]


def audit(*results, **changes):
    """What evaluate.py writes about the models of ``results``: a row per label, numbers that tell
    rows and seeds apart.
    """
    labels = list(dict.fromkeys(result["label"] for result in results))
    models = [audited(result, labels.index(result["label"])) for result in results]
    rows = [
        audit_row(
            label,
            [index for index, result in enumerate(results) if result["label"] == label],
            models,
        )
        for label in labels
    ]
    data = {
        name: results[0]["data"][name]
        for name in ("dataset", "arch", "data_sha256", "forget", "sizes")
    }
    return {
        "schema": 1,
        "script": "evaluate",
        "suite": "full",
        "data": {**data, "scenario": "random"},
        "metrics": {
            "UA": {"unit": "percent", "good": "retrain", "text": "forget error"},
            "loss_auc": {
                "unit": "probability",
                "good": 0.5,
                "text": "area under the ROC curve of the loss",
            },
            "js_forget": {
                "unit": "nats",
                "good": "floor",
                "text": "Jensen-Shannon divergence to Retrain",
            },
        },
        "models": models,
        "rows": rows,
        "floors": {"UA": 0.75, "js_forget": 0.0125},
        "warnings": ["few images"],
        "provenance": {
            "command": ["evaluate.py", "--suite", "full"],
            "device": "cpu: audit",
            "torch": "2",
            "seed": 2,
        },
        **changes,
    }


def audited(result, row):
    """One model of an audit."""
    edges = [0.0, 0.5, 1.0, 2.0]
    histogram = {"edges": edges, "forget": [0.5, 0.25, 0.25], "held_out": [0.25, 0.25, 0.5]}
    roc = {"fpr": [0.0, 0.01, 0.1, 1.0], "tpr": [0.0, 0.02 + 0.01 * row, 0.2, 1.0]}
    return {
        "label": result["label"],
        "role": "retrain" if result["method"] == "retrain" else "models",
        "path": "x.pt",
        "weights_sha256": result["provenance"]["unlearned_sha256"],
        "seed": result["provenance"]["seed"],
        "hyperparameters": {},
        "row": row,
        "metrics": {"UA": 5.0 + row, "loss_auc": 0.5 + 0.01 * row, "js_forget": 0.02},
        "intervals": {"UA": [1.0, 9.0]},
        "per_class": {
            "forget": {"cat": 90.0 + row, "dog": 50.0},
            "test": {"cat": 80.0, "dog": None},
        },
        "curves": {
            "histograms": {"loss": histogram, "confidence": histogram},
            "roc": {"loss": roc, "rmia": roc},
            "relearn": {
                "steps": [0, 1, 2, 4],
                "accuracy": [90, 95, 97, 99],
                "sd": [1, 1, 1, 0],
                "never_seen": [80, 90, 95, 99],
            },
        },
    }


def audit_row(label, members, models):
    role = models[members[0]]["role"]
    mean = models[members[0]]["metrics"]
    return {
        "label": label,
        "role": role,
        "models": members,
        "mean": mean,
        "sd": dict.fromkeys(mean, 0.25),
        "ci": {"UA": [4.0, 6.0], "loss_auc": None},
        "gap": {"UA": -0.5, "loss_auc": 0.03},
        "inside_noise": {"UA": True, "loss_auc": False},
        "gap_of_means": 1.0,
        "mean_paired_gap": None,
        "warnings": ["destroyed"] if label == "GA" else [],
    }


def with_shadows(content):
    """An audit whose first row was also run on shadow models."""
    row = content["rows"][0]
    numbers = {
        "ulira_auc": 0.5625,
        "ulira_tpr_at_fpr_1": 0.03125,
        "ulira_sample_auc_median": 0.625,
        "ulira_sample_auc_median_floor": 0.59375,
    }
    row["mean"] = {**row["mean"], **numbers, "ulira_high_memorisation_auc": 0.75, "ulira_TA": 71.25}
    row["ci"] = {**row["ci"], "ulira_tpr_at_fpr_1": [0.015625, 0.0625]}
    row["chance"] = {"ulira_auc": [0.46875, 0.53125]}
    content["metrics"]["ulira_auc"] = {"unit": "share", "good": 0.5, "text": "area of U-LiRA"}
    return content


def write_curve(folder, name, epochs=3):
    """METHODcurve.jsonl beside a result."""
    same = {
        "accuracy": 90.0,
        "lr": 0.1,
        "seconds": 1.0,
        "val": 80.0,
        "forget": 95.0,
        "retain": None,
    }
    lines = [
        json.dumps({"epoch": epoch, "loss": 1 / epoch, **same}) for epoch in range(1, epochs + 1)
    ]
    (folder / f"{name}curve.jsonl").write_text("\n".join(lines) + "\n")


HOSTILE = "</script><script>alert(1)</script> $x$ & \"'\x07"


def everything(folder, label="GA"):
    """Results of three methods with their audit, a mask with layers and curves below ``folder``;
    returns the results.
    """
    results = [
        *runs("retrain", "Retrain", RETRAIN),
        *runs("RL", "SalUn", NEAR, mask=0.5),
        result(
            "GA" if label == "GA" else "own", label, (60.0, 80.0, 70.0, 2.0), warnings=["it fell"]
        ),
    ]
    for record in results:
        if record["mask"]:
            record["mask"] |= {"layers": LAYERS, "weights": WEIGHTS}
    write(folder, *results)
    (folder / "audit.json").write_text(json.dumps(audit(*results)))
    for file in folder.rglob("*result.json"):
        write_curve(file.parent, file.name.removesuffix("result.json"))
    return results


RETRAIN = [(5.0, 100.0, 94.0, 13.0), (6.0, 99.9, 94.5, 12.0), (4.0, 100.0, 93.5, 15.0)]


NEAR = [(5.5, 99.9, 94.1, 13.5), (5.2, 99.9, 94.3, 12.5)]


LAYERS = {"conv1.weight": 0.75, "fc.weight": 0.25, "fc.bias": 0.5}  # of a mask of density 0.5


WEIGHTS = {"conv1.weight": 490, "fc.weight": 490, "fc.bias": 20}
