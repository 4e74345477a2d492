"""One module a stage of dvc.yaml, always run as `python -m stages.NAME` from the project's root."""

import atexit
import contextlib
import ctypes
import gc

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

# PyTorch and transformers are a million objects that live to the end. By default they are searched
# for garbage again and again while they are imported, and once more at exit. Here, because it runs
# before any other import. It is no dependency in dvc.yaml: it does not change what is computed.
gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)

# What a training step frees, the next one needs again. glibc would give it back to the system,
# which clears every page anew (docs/speed.md).
with contextlib.suppress(AttributeError, OSError):  # another C library
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_MMAP_THRESHOLD, 2**30)
