"""A checkpoint without what only --resume needs, such as the optimizer, to be kept.

Those of finished runs are so already, but for files of before 2026-11-27.

python benchmarks/keep_model.py runs/c10/0model_SA_best.pth.tar original.pth.tar
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import of_finished
from runtime.files import save
from stages.checkpoints import read_checkpoint


def main(source: str, target: str) -> None:
    save(of_finished(read_checkpoint(Path(source), "checkpoint")), Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
