"""A checkpoint without what only --resume needs, such as the optimizer, to be kept.

python benchmarks/keep_model.py runs/c10/0model_SA_best.pth.tar original.pth.tar
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runtime.files import load, save

OF_RESUME = {"optimizer", "scheduler", "forget_optimizer", "rng", "device_rng", "meter", "method"}


def main(source: str, target: str) -> None:
    content = load(Path(source), "checkpoint")
    save({name: value for name, value in content.items() if name not in OF_RESUME}, Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
