"""Step 3 with a mask: SalUn is random labels (RL) under a saliency mask.

    python main_random.py --unlearn RL --num_indexes_to_replace 4500 --model_path ORIGINAL --mask_path mask/with_0.5.pt --save_dir DIR

Without --mask_path the method runs unmasked.
"""

import sys

from arg_parser import UNREAD, parse_args
from experiment import unlearn, warn_unread
from utils import script


@script
def main(argv: list[str]) -> None:
    args = parse_args(argv, __doc__)
    warn_unread(args, UNREAD)
    unlearn(args, "main_random")


if __name__ == "__main__":
    sys.exit(main())
