"""Predict scenes to GeoTIFFs as a job on a cluster: `python -m jobs.predict --model URI --images GLOB --out DIR`."""

import sys

from pipeline.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
