"""Step 2: saliency masks of a forget set, one file per share of the weights that may change.

    python generate_mask.py --save_dir mask --model_path ORIGINAL --forget random:4500

With --score, masks of another kind to compare SalUn's with; with --compare, how far two mask files
agree:

    python generate_mask.py --compare mask/with_0.5.pt other/with_0.5.pt
"""

import sys

from arg_parser import mask_request
from runtime.cli import script
from stages.mask import make_masks


@script
def main(argv: list[str]) -> None:
    make_masks(mask_request(argv, __doc__))


if __name__ == "__main__":
    sys.exit(main())
