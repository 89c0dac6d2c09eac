"""The entry of the run-book; without an installed vdmrt, PYTHONPATH names a folder with a link to the checkout."""

import sys

from vdmrt.benchmarks.gpu_day.command import main

if __name__ == "__main__":
    sys.exit(main())
