"""Step 3 for any method, masked or not.

python main_forget.py --unlearn FT --forget random:4500 --model_path ORIGINAL --save_dir
DIR
"""

import sys

from arg_parser import unlearn_request
from runtime.cli import script
from stages.unlearn import unlearn


@script
def main(argv: list[str]) -> None:
    unlearn(unlearn_request(argv, __doc__, "main_forget"))


if __name__ == "__main__":
    sys.exit(main())
