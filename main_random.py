"""Step 3 with a mask: SalUn is random labels (RL) under a saliency mask.

    python main_random.py --unlearn RL --forget random:4500 --model_path ORIGINAL
    --mask_path mask/with_0.5.pt --save_dir DIR

Without --mask_path the method runs unmasked.
"""

import sys

from arg_parser import unlearn_request
from runtime.cli import script
from stages.unlearn import unlearn


@script
def main(argv: list[str]) -> None:
    unlearn(unlearn_request(argv, __doc__, "main_random"))


if __name__ == "__main__":
    sys.exit(main())
