"""Let a model pass the gate, as a job on a cluster: `python -m jobs.promote RECIPE [a.b=c ...] --model URI`."""

import sys

from pipeline.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["promote", *sys.argv[1:]]))
