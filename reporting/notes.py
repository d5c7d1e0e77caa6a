"""What a table says in words below its rows: warnings, mixed data, unlike attacks and recipes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.gaps import too_few, trained_unlike
from evaluation.membership import rule_of
from evaluation.verdicts import (
    AT_CHANCE,
    DESTROYED,
    Standing,
    judge,
    mean_standing,
    once_each,
    remedies,
    verdict_of,
)
from reporting.groups import counted, forget_sets, is_retrain
from stages.records import differences
from unlearn import METHODS

Groups = Mapping[str, Sequence[dict]]

REDRAW = (
    "A run's own command with --resume and the --mia_members that are wanted evaluates it anew."
)


def table_notes(groups: Groups, retrain: Sequence[dict]) -> list[str]:
    """The notes on a table of result records, but for those on the attack's rules."""
    runs = [run for group in groups.values() for run in group]
    notes = []
    if not retrain:
        notes.append(
            "No Retrain result: how close a method came is not known. Run main_forget.py --unlearn"
            " retrain on the same forget set."
        )
    if (message := too_few(len(retrain))) and len(runs) > len(retrain):
        notes.append(f"~: {message}.")
    if (sets := len(forget_sets(runs))) > 1:
        notes.append(f"The runs cover {sets} forget sets.")
        notes += _without_retrain(runs, retrain)
    began = {name: _originals(group) for name, group in groups.items()}
    if mixed := [name for name, originals in began.items() if len(originals) > 1]:
        most = max(map(len, began.values()))
        notes.append(f"Runs of one row began with up to {most} originals: {', '.join(mixed)}.")
    tests = {run["data"].get("test_sha256") for run in runs} - {None}
    if len(tests) > 1:
        notes.append(
            f"The runs saw {len(tests)} sets of test images: their TA and MIA are not of the same."
        )
    lines = _other_recipes(groups)
    for name, group in groups.items():
        lines |= _row_warnings(name, group, retrain)
    notes += sorted(lines)
    retrain_accuracies = [run["metrics"]["RA"] for run in retrain]
    for original in {run["metrics"]["RA"] for run in runs if run["method"] == "raw"}:
        if note := trained_unlike(original, retrain_accuracies):
            notes.append(note)
    return notes


def _without_retrain(runs: Sequence[dict], retrain: Sequence[dict]) -> list[str]:
    """That some of several forget sets have no Retrain, which others have."""
    known = forget_sets(retrain)
    others = [run for run in runs if run["data"]["forget"]["sha256"] not in known]
    if not others or not retrain:
        return []
    where = sorted({str(Path(run["file"]).parent) for run in others})
    return [
        f"No Retrain is of the forget set of {counted(len(others), 'run')}, in {', '.join(where)}:"
        " their gaps are to Retrains of other sets."
    ]


# ----------------------------------------------------------------------------------------- warnings


def standing_of(run: dict) -> Standing:
    """How the unlearned model does on the retain set; older results record its accuracy alone."""
    recorded = run.get("standing")
    return Standing(run["metrics"]["RA"]) if recorded is None else Standing(**recorded)


def original_standing(run: dict) -> Standing | None:
    """The same of the model that the run started from; None where it is not recorded."""
    recorded = run.get("original_standing")
    return None if recorded is None else Standing(**recorded)


def warnings_of(group: Sequence[dict], retrain: Sequence[dict]) -> list[list[str]]:
    """Each run's warnings. Beside Retrain the verdict on its model is taken again, since the run
    itself had only the original to compare with; results without chance keep their own.
    """
    target = mean_standing([standing_of(run) for run in retrain])
    return [_warnings_beside(run, target) for run in group]


def _warnings_beside(run: dict, target: Standing | None) -> list[str]:
    recorded = run.get("warnings", [])
    if target is None or is_retrain(run) or run["method"] == "raw":
        return recorded
    standing = standing_of(run)
    if standing.chance is None and target.chance is None:
        return recorded
    method = METHODS.get(run["method"])
    advice, _ = remedies(run["hyperparameters"], method and method.breaks)
    verdict = judge(standing, original_standing(run), target, advice=advice)
    return verdict + [line for line in recorded if verdict_of(line) != DESTROYED]


def _row_warnings(name: str, group: Sequence[dict], retrain: Sequence[dict]) -> set[str]:
    """Warnings under a row's name; one on the original concerns no row and stands alone."""
    of_original, of_runs = set(), []
    for lines in warnings_of(group, retrain):
        original = {line for line in lines if line.startswith(f"{AT_CHANCE}: the original")}
        of_original |= original
        of_runs.append([line for line in lines if line not in original])
    return of_original | {f"{name}: {line}" for line in once_each(of_runs)}


def _originals(group: Sequence[dict]) -> set[str]:
    """The hashes of the models that a row's runs started from, where they are recorded."""
    return {run["provenance"].get("original_sha256") for run in group} - {None}


def _other_recipes(groups: Groups) -> set[str]:
    """Retrains whose recipe differs from that of an original that a run of the table began with."""
    originals = []
    for runs in groups.values():
        for recipe in (run.get("original_recipe") for run in runs):
            if isinstance(recipe, dict) and recipe not in originals:
                originals.append(recipe)
    lines = set()
    for name, runs in groups.items():
        for run in runs:
            if run["method"] != "retrain":
                continue
            recipe = {**run["hyperparameters"], **(run.get("recipe") or {})}
            apart = filter(None, (differences(recipe, original) for original in originals))
            lines |= {f"{name}: trained unlike the original: {words}" for words in apart}
    return lines


# --------------------------------------------------------------------------- rules of the attack


def rule_notes(groups: Groups, chosen: str | None, members: str | None) -> list[str]:
    """Rows whose MIA is by another rule than Retrain's, and a rule asked for that none has."""
    rules = {name: rule_of(runs[0]) for name, runs in groups.items()}
    usual = rules[chosen] if chosen is not None else next(iter(rules.values()))
    notes = []
    if members is not None and usual.get("members") != members:
        notes.append(
            f"No Retrain's MIA is by members {members}: gaps are by {_in_words(usual)}. {REDRAW}"
        )
    others = [
        f"{name} ({counted(len(groups[name]), 'run')}) by {_in_words(rule)}"
        for name, rule in rules.items()
        if rule != usual
    ]
    if others:
        notes.append(
            f"The attack's rule here is {_in_words(usual)}; another rule made the MIA of"
            f" {'; '.join(others)}. {REDRAW}"
        )
    return notes


def audit_notes(audit: dict, retrain: Sequence[dict]) -> list[str]:
    """That an audit attacks by another rule than the table, or has gaps to other Retrain models."""
    if not retrain:
        return []
    which = f"The audit of {audit['provenance'].get('time', 'an unknown time')}"
    usual, rule = rule_of(retrain[0]), rule_of(audit)
    notes = []
    if rule != usual:
        notes.append(f"{which} attacks by {_in_words(rule)}; the table by {_in_words(usual)}.")
    in_table = {run["provenance"].get("unlearned_sha256") for run in retrain}
    audited = set()
    for row in audit["rows"]:
        if row["role"] == "retrain":
            audited |= {model["weights_sha256"] for model in row["models"]}
    if audited != in_table and None not in in_table:
        notes.append(
            f"{which} has gaps to {counted(len(audited), 'Retrain model')},"
            f" {len(in_table & audited)} of the table's {len(in_table)} among them."
        )
    return notes


def _in_words(rule: dict) -> str:
    if not rule:
        return "a rule that it does not say"
    seeded = f", seeded by {rule['seeded_by']}" if "seeded_by" in rule else ""
    return f"members {rule['members']}, {rule['draws']} draw{'s' * (rule['draws'] != 1)}{seeded}"
