"""The plot of masks: which share of each layer may change, every layer as high as it is large."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from reporting.drawing import BLUE, GREEN, GREY, ORANGE, Plot, drawable, new_figure
from reporting.groups import told_apart
from reporting.tables import Scenario

Mask = tuple[str, float, dict[str, float]]  # (rows that use it, density, density by layer)
LINES = "-", "--", ":", "-."
MOST_MASKS = 16  # of a plot: each has a colour and a kind of line of its own
HEIGHT = 5.0  # inches of the axis of layers
LETTERS = 8.5  # points from one name of a layer to the next


def mask_plot(scenario: Scenario) -> Plot | None:
    """Density by layer of each mask, weighted by the layers' numbers of weights where known."""
    found = masks_of(scenario.groups)
    masks = found[:MOST_MASKS]
    if not masks:
        return None
    cut = ""
    if len(found) > len(masks):
        cut = f" Drawn are {len(masks)} of {len(found)} masks, those of the first rows."
    sizes = layer_sizes(scenario.groups, masks)
    heights = (
        "A layer is as high as its share of all weights, from input to output, so that an area is a"
        " number of weights; layers too small for their name have none."
    )
    if sizes is None:
        heights = (
            "All layers are equally high: these results, of an earlier version, do not say how many"
            " weights a layer has, and the small ones look as heavy as the large."
        )
    return Plot(
        "masks",
        "Density of the masks by layer",
        f"The share of each layer's weights that may change. {heights} Lines from top to bottom:"
        " the share over all weights. Layers far above it are where a mask lets a method work."
        + cut,
        f"Share of weights that may change in each layer, for {len(masks)} masks",
        partial(mask_figure, masks, sizes),
    )


def masks_of(groups: Mapping[str, Sequence[dict]]) -> list[Mask]:
    """Each different mask that recorded its layers; densities in [0, 1]."""
    found: dict[frozenset, tuple[dict[str, None], float, dict]] = {}
    for name, runs in groups.items():
        for mask in (run.get("mask") or {} for run in runs):
            if layers := mask.get("layers"):
                first = {}, mask["density"], layers
                users, *_ = found.setdefault(frozenset(layers.items()), first)
                users[name] = None
    names = told_apart([", ".join(users) for users, _, _ in found.values()])
    return [(name, *mask) for name, (_, *mask) in zip(names, found.values(), strict=True)]


def layer_sizes(
    groups: Mapping[str, Sequence[dict]], masks: Sequence[Mask]
) -> dict[str, int] | None:
    """The number of weights of every layer of ``masks``; None where no result says of one."""
    known: dict[str, int] = {}
    for runs in groups.values():
        for run in runs:
            known |= (run.get("mask") or {}).get("weights") or {}
    layers = _layers(masks)
    return {layer: known[layer] for layer in layers} if known.keys() >= set(layers) else None


def _layers(masks: Sequence[Mask]) -> list[str]:
    return list(dict.fromkeys(layer for _, _, shares in masks for layer in shares))


def mask_figure(masks: Sequence[Mask], sizes: dict[str, int] | None) -> Any:
    """A line per mask and layer: across, the percentage of its weights that may change; down, the
    layers, as high as their share of all weights, or equally high without ``sizes``.
    """
    layers = _layers(masks)
    weights = sizes or dict.fromkeys(layers, 1)
    total = sum(weights.values())
    edges = [100 * part / total for part in accumulate(weights.values(), initial=0)]
    inches = HEIGHT if sizes else max(HEIGHT, LETTERS / 72 * len(layers))
    figure = new_figure(9, 0.7 + inches + 0.18 * len(masks))
    panel = figure.subplots()
    for index, (name, density, shares) in enumerate(masks):
        percent = [100 * shares.get(layer, math.nan) for layer in layers]
        colour, line = (BLUE, ORANGE, GREEN, GREY)[index % 4], LINES[index // 4 % len(LINES)]
        look = {"color": colour, "linestyle": line}
        if len(masks) == 1:
            panel.stairs(percent, edges, orientation="horizontal", fill=True, color=BLUE, alpha=0.3)
        label = drawable(name, 80)
        panel.vlines(percent, edges[:-1], edges[1:], linewidth=1.6, label=label, **look)
        panel.axvline(100 * density, linewidth=0.7, **look)
    _name_layers(panel, layers, edges, least=100 * LETTERS / 72 / inches)
    panel.set(xlabel="weights that may change (%)", xlim=(0, 102), ylim=(100, 0))
    figure.legend(loc="outside upper left")
    return figure


def _name_layers(panel: Any, layers: Sequence[str], edges: Sequence[float], least: float) -> None:
    """Names beside the layers that are at least ``least`` percent high."""
    names = {}
    for layer, top, bottom in zip(layers, edges[:-1], edges[1:], strict=True):
        if bottom - top >= 0.999 * least:
            names[(top + bottom) / 2] = drawable(layer, 50)
    panel.set_yticks(list(names), list(names.values()), fontsize=7)
