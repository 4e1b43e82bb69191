"""Train, as a job on a cluster: `python -m jobs.train RECIPE [a.b=c ...]`."""

import sys

from pipeline.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
