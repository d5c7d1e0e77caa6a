"""Audit saved models: every metric and attack, from logits that are computed once and kept beside
the models.

    python evaluate.py --models 'runs/c10/*checkpoint.pth.tar' \
        --retrain 'runs/retrain*/retraincheckpoint.pth.tar' \
        --original runs/c10/0model_SA_best.pth.tar --suite standard

Data set, architecture and who is forgotten come from the checkpoints; all must be about one forget
set. Two or more Retrain models (other --seed, same --forget_seed) give every metric its noise
floor, three its marks; of Retrains with unlike recipes --reference chooses one kind, and the others
are rows of their own. Suites: basic needs no other model; standard adds what Retrain gives (gaps,
distances, RMIA, LiRA, relearning); full adds the audits with many models: it trains shadow models
as the original was trained, runs every method on them (U-LiRA, memorisation), and goes on where it
was stopped.
"""

import sys

from arg_parser import audit_request
from runtime.cli import script
from stages.audit import SUITES, audit


@script
def main(argv: list[str]) -> None:
    audit(audit_request(argv, __doc__, SUITES))


if __name__ == "__main__":
    sys.exit(main())
