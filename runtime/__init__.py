"""What every stage needs and no method knows.

The working folder is looked for before torch is imported: without one MKL ends the process then,
with a line about its own library.
"""

import os
import sys
from pathlib import Path

GONE = "the working folder is gone; change to one that exists"
try:
    os.getcwd()
except OSError:
    print(f"{Path(sys.argv[0]).name}: error: {GONE}", file=sys.stderr)
    sys.exit(2)
