"""One module a stage of dvc.yaml, always run as `python -m stages.NAME` from the project's root.

What stands here runs before any other import. It is no dependency in dvc.yaml: it changes how fast
a stage is, not what it computes.
"""

import atexit
import ctypes
import gc

# PyTorch and transformers are a million objects that live to the end. By default they are searched
# for garbage again and again while they are imported, and once more at exit.
gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)

# A step of training frees what it took, and the next one takes as much again. By default glibc
# gives it back to the system in between, page by page, and each page taken again is a page fault:
# 65,000 a step of DistilBERT (docs/speed.md). Other C libraries have no such setting.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # mallopt(3): at most 2 GB free at the end; no mmap
if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_MMAP_MAX, 0)
