"""The doctor: an audit of the data before training. `examine` looks, and writes one page for people, JSON for programs.

look.py       all access to files: headers, samples of pixels and labels, timed reads
label_shift.py    do labels lie where the image changes?
copies.py     is the same content in two scenes?
spread.py     distributions: percentiles, classes told by one band, scenes that stand apart
checks_*.py   findings about files, labels, pixels, splits, storage
page.py       the page, with pictures by drawing.py
"""

from __future__ import annotations

from pipeline.data.doctor.examine import examine as examine
from pipeline.data.doctor.findings import Audit as Audit
from pipeline.data.doctor.findings import Finding as Finding
