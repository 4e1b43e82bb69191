"""Scan scenes and write the manifest, as a job on a cluster: `python -m jobs.index RECIPE [a.b=c ...]`."""

import sys

from pipeline.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["index", *sys.argv[1:]]))
