"""METHODS: every ``--unlearn``, one small file a method; tests run all that is registered."""

import dataclasses

from datasets.splits import SCENARIOS
from unlearn.amnesiac import Amnesiac
from unlearn.amun import Amun
from unlearn.bad_teaching import BadTeaching
from unlearn.base import Method, Preset
from unlearn.boundary_expanding import BoundaryExpanding
from unlearn.boundary_shrink import BoundaryShrink
from unlearn.coun import CoUn
from unlearn.delete import Delete
from unlearn.finetune import FineTune
from unlearn.fisher import FisherForgetting
from unlearn.fisher_new import FisherScrubbing
from unlearn.gradient_ascent import GradientAscent
from unlearn.l1_sparse import L1Ascent, L1Sparse
from unlearn.l2ul import L2UL
from unlearn.last_blocks import FinetuneLastBlocks, RetrainLastBlocks
from unlearn.lotus import Lotus
from unlearn.munba import Munba
from unlearn.natmu import NatMU
from unlearn.negation import WeightNegation
from unlearn.neggrad_plus import NegGradPlus
from unlearn.negmerge import NegMerge
from unlearn.noisy_convolutions import NoisyConvolutions
from unlearn.proximal import ProximalRandomLabel
from unlearn.pruning import GradualAscent, GradualFineTune, PrunedAscent
from unlearn.random_label import RandomLabel
from unlearn.raw import Raw
from unlearn.regun import ReGUn
from unlearn.retrain import Retrain
from unlearn.scissorhands import Scissorhands
from unlearn.scrub import Scrub, ScrubRewind
from unlearn.sfron import SFRon
from unlearn.small_gradients import MaskedSmallGradients
from unlearn.ssd import LabelFreeDampening, SelectiveSynapticDampening
from unlearn.tools.two_phase import PLUG_IN, TwoPhase
from unlearn.transposition import ConvolutionTranspose
from unlearn.uam import Uam
from unlearn.unsir import Unsir
from unlearn.wfisher import InfluenceUnlearning

METHODS = {
    "raw": Raw,
    "retrain": Retrain,
    "FT": FineTune,
    "FT_prune": L1Sparse,
    "FT_l1": L1Sparse,
    "FT_prune_bi": GradualFineTune,
    "GA": GradientAscent,
    "GA_l1": L1Ascent,
    "GA_prune": PrunedAscent,
    "GA_prune_bi": GradualAscent,
    "RL": RandomLabel,
    "RL_proximal": ProximalRandomLabel,
    "boundary_shrink": BoundaryShrink,
    "boundary_expanding": BoundaryExpanding,
    "wfisher": InfluenceUnlearning,
    "neggrad_plus": NegGradPlus,
    "scrub": Scrub,
    "scrub_r": ScrubRewind,
    "bad_teaching": BadTeaching,
    "amnesiac": Amnesiac,
    "CF_k": FinetuneLastBlocks,
    "EU_k": RetrainLastBlocks,
    "unsir": Unsir,
    "fisher": FisherForgetting,
    "fisher_new": FisherScrubbing,
    "ssd": SelectiveSynapticDampening,
    "lfssd": LabelFreeDampening,
    "not": WeightNegation,
    "ct": ConvolutionTranspose,
    "msg": MaskedSmallGradients,
    "cfw": NoisyConvolutions,
    "sfron": SFRon,
    "delete": Delete,
    "amun": Amun,
    "regun": ReGUn,
    "munba": Munba,
    "coun": CoUn,
    "lotus": Lotus,
    "scissorhands": Scissorhands,
    "negmerge": NegMerge,
    "uam": Uam,
    "l2ul": L2UL,
    "natmu": NatMU,
}

HEAD = (
    "| name | label | what it does | made to forget | touches | cost in sample gradients"
    " | own flags | defaults (source) | paper |\n|---|---|---|---|---|---|---|---|---|"
)


def method_key(name: str) -> str | None:
    """The key of METHODS that a user means: itself or the label of its rows, without or with a
    mask, in any case.

    A key goes before a label, and of several methods with one label the first before the others.
    None for an unknown name.
    """
    return _keys().get(name.strip().lower())


def needs_mask(name: str) -> bool:
    """Whether a known name is that of a method's runs under a mask alone, as SalUn is RL's."""
    name = name.strip().lower()
    key = _keys()[name]
    return name not in (key.lower(), METHODS[key].label.lower())


def _keys() -> dict[str, str]:
    """{name in small letters: key}."""
    names = [(key, key) for key in METHODS]
    names += [(method.label, key) for key, method in METHODS.items()]
    names += [(method.masked_label, key) for key, method in METHODS.items() if method.masked_label]
    found: dict[str, str] = {}
    for name, key in names:
        found.setdefault(name.lower(), key)
    return found


def known_methods() -> list[str]:
    """Every key with the labels that are other names of it, such as ``wfisher (IU)``."""
    found = []
    for key, method in METHODS.items():
        labels = [label for label in (method.label, method.masked_label) if label]
        others = [label for label in labels if label.lower() != key.lower()]
        found.append(f"{key} ({', '.join(others)})" if others else key)
    return found


def method_listing() -> str:
    """What ``--list_methods`` prints and docs/methods.md shows: the table, and the plug-in."""
    names = [f"`{name}`" for name, method in METHODS.items() if issubclass(method, TwoPhase)]
    return f"{method_table()}\n\n{PLUG_IN} {', '.join(names)}."


def method_table() -> str:
    """Every method as Markdown, a row each."""
    return "\n".join([HEAD, *(_row(name, method) for name, method in METHODS.items())])


def _row(name: str, method: type[Method]) -> str:
    shared = {field.name for field in dataclasses.fields(TwoPhase)}
    fields = [field.name for field in dataclasses.fields(method)]
    own = [f"`{flag_of(field)}`" for field in fields if field not in shared]
    summary = " ".join(method.__doc__.split("\n\n")[0].split())
    meant = " or ".join(SCENARIOS[scenario] for scenario in method.scenarios)
    label = method.label + (f"; under a mask {method.masked_label}" if method.masked_label else "")
    does = [f"`{name}`", label, summary, meant, method.touches, method.cost]
    cells = [*does, ", ".join(own) or "-", _defaults(method), method.paper]
    return f"| {' | '.join(cells)} |"


def _defaults(method: type[Method]) -> str:
    """Rate, epochs, own values and what the method changes of the loop's, with their source."""
    common = {field.name: field.default for field in dataclasses.fields(TwoPhase)}
    del common["unlearn_lr"], common["unlearn_epochs"]
    shown = {}
    for name, value in values_of(method, Preset({}, "")).items():
        if name not in common or value != common[name]:
            shown[name] = value
    if (share := getattr(method, "forget_share", 1)) != 1:
        shown["forget_batch_size"] = f"{share:g} batch_size"
    if shown.get("unlearn_steps"):
        del shown["unlearn_epochs"]
    values = ", ".join(f"{name} {value}" for name, value in shown.items())
    return f"{values} ({method.source})" if shown else "-"


def flag_of(field: str) -> str:
    """The flag of a method's field; one keeps the reference's spelling."""
    return "--no-l1-epochs" if field == "no_l1_epochs" else f"--{field}"


def label_of(method: type[Method], score: str | None) -> str:
    """A run's row in the table: SalUn for RL under a saliency mask, RL+random-mask for RL under a
    random one.

    ``score`` is what the mask was ranked by, as its record says; "saliency" where none does, None
    without a mask.
    """
    if score is None:
        return method.label
    if score != "saliency":
        return f"{method.label}+{score}-mask"
    return method.masked_label or f"{method.label}+mask"


def label_today(name: str, recorded: str, masked: bool, score: str | None = None) -> str:
    """The label of a run that a file tells of, by its method's name: files outlast labels.
    ``recorded`` where no method has that name.

    The score of the mask is the one that ``recorded`` was made with, where ``score`` is None.
    """
    if name not in METHODS:
        return recorded
    suffix = recorded.rpartition("+")[2]
    of_label = suffix.removesuffix("-mask") if suffix.endswith("-mask") else "saliency"
    return label_of(METHODS[name], (score or of_label) if masked else None)


def presets_of(method: type[Method]) -> dict[str, Preset]:
    """The presets of a method by name; ``paper``, its own defaults, is the first.

    One that is built on another method has none of the other's: those are said to be how somebody
    ran that one.
    """
    return {"paper": Preset({}, method.source), **vars(method).get("presets", {})}


def values_of(method: type[Method], preset: Preset) -> dict[str, object]:
    """What a preset gives the flags of a method: its own values above the method's defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(method)}
    return {**defaults, **getattr(method, "recipe", {}), **preset.values}


def preset_table() -> str:
    """Every preset of a method with its values and their source, as Markdown."""
    rows = ["| method | preset | values | source |", "|---|---|---|---|"]
    for name, method in METHODS.items():
        for preset, (values, source, _) in presets_of(method).items():
            rows.append(preset_row(name, preset, values_of(method, Preset(values, source)), source))
    return "\n".join(rows)


def preset_row(name: str, preset: str, values: dict[str, object], source: str) -> str:
    """A preset's line of a Markdown table; ``name`` is the method's or the script's."""
    shown = ", ".join(f"{key} {value}" for key, value in values.items())
    return f"| `{name}` | `{preset}` | {shown or '-'} | {source} |"
