"""Read all scenes once and write shards, as a job on a cluster: `python -m jobs.prepare RECIPE [a.b=c ...]`."""

import sys

from pipeline.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
