"""Step 1: train the original model.

python main_train.py --arch resnet18 --dataset cifar10 --lr 0.1 --epochs 182
"""

import sys

from arg_parser import train_request
from runtime.cli import script
from stages.train import train


@script
def main(argv: list[str]) -> None:
    train(train_request(argv, __doc__))


if __name__ == "__main__":
    sys.exit(main())
