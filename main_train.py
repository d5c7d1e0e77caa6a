"""Step 1: train the original model.

python main_train.py --arch resnet18 --dataset cifar10 --lr 0.1 --epochs 182
"""

import sys

from arg_parser import UNREAD, parse_args
from experiment import train, warn_unread
from utils import script


@script
def main(argv: list[str]) -> None:
    args = parse_args(argv, __doc__)
    warn_unread(args, UNREAD)
    train(args)


if __name__ == "__main__":
    sys.exit(main())
