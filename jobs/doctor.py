"""Audit the data, as a job on a cluster: `python -m jobs.doctor RECIPE [a.b=c ...]`."""

import sys

from pipeline.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
