"""Score a model on a split, as a job on a cluster: `python -m jobs.evaluate RECIPE [a.b=c ...] --model URI`."""

import sys

from pipeline.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
