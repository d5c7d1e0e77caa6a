"""A search's table in Markdown: the chosen values, the sensitivity to each, every trial."""

import statistics

from sweeping.objectives import WARNING

LEVELS = 5  # rows of a hyper-parameter in the sensitivity table


def objectives_of(trial: dict, between: str = ", under the entropy MIA ") -> str:
    """A trial's objective; with oracle_gap also its gap under the entropy attack, or a dash."""
    objective = f"{trial['objective']:.3f}"
    if "entropy_gap" not in trial:
        return objective
    other = trial["entropy_gap"]
    return f"{objective}{between}{'-' if other is None else f'{other:.3f}'}"


def as_markdown(search: dict) -> str:
    """The content of the search's JSON file as Markdown."""
    best, flags, trials = search["best"], list(search["ranges"]), search["trials"]
    chosen = " ".join(f"`--{flag}={best['values'][flag]:.6g}`" for flag in flags)
    parts = [
        f"**{search['search']}** by {search['objective']} ({search['sampler']}, {len(trials)} of"
        f" {search['budget']} trials): {chosen}, {search['objective']} {objectives_of(best)}."
    ]
    if search["noise"]:
        limit = best["objective"] + search["noise"]
        tied = sum(trial["objective"] <= limit for trial in trials)
        parts.append(
            f"Noise of the objective {search['noise']:.2f}: {tied} trials are not told apart from"
            " the best."
        )
    if search["objective"] == "oracle_gap":
        parts.append(f"Warning: {WARNING}.")
    head = "| flag | from | to | trials | best | median |\n|---|---:|---:|---:|---:|---:|"
    parts.append("\n".join([head, *sensitivity(search)]))
    entropy = ["entropy MIA"] if "entropy_gap" in best else []
    columns = [*flags, search["objective"], *entropy]
    rows = [f"| {' | '.join(columns)} | run |\n{'|---:' * len(columns)}|---|"]
    for trial in trials:
        values = " | ".join(f"{trial['values'][flag]:.4g}" for flag in flags)
        rows.append(f"| {values} | {objectives_of(trial, ' | ')} | {trial['run']} |")
    parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def sensitivity(search: dict) -> list[str]:
    """A row for each fifth of each hyper-parameter's values: best and median objective."""
    rows = []
    for flag in search["ranges"]:
        trials = sorted(search["trials"], key=lambda trial: trial["values"][flag])
        count = min(LEVELS, len(trials))
        for i in range(count):
            part = trials[i * len(trials) // count : (i + 1) * len(trials) // count]
            values = [trial["objective"] for trial in part]
            ends = f"{part[0]['values'][flag]:.4g} | {part[-1]['values'][flag]:.4g}"
            rows.append(
                f"| {flag} | {ends} | {len(part)} | {min(values):.3f} |"
                f" {statistics.median(values):.3f} |"
            )
    return rows
