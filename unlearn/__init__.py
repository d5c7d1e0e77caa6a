"""METHODS: every ``--unlearn``. One small file a method; what is registered here is tested by the registry."""

from unlearn.finetune import FineTune
from unlearn.gradient_ascent import GradientAscent
from unlearn.l1_sparse import L1Sparse
from unlearn.random_label import RandomLabel
from unlearn.raw import Raw
from unlearn.retrain import Retrain
from unlearn.wfisher import InfluenceUnlearning

METHODS = {
    "raw": Raw,
    "retrain": Retrain,
    "FT": FineTune,
    "FT_prune": L1Sparse,
    "FT_l1": L1Sparse,
    "GA": GradientAscent,
    "RL": RandomLabel,
    "wfisher": InfluenceUnlearning,
}
