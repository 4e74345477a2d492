"""One module a stage of dvc.yaml, always run as `python -m stages.NAME` from the project's root."""

import atexit
import gc

# PyTorch and transformers are a million objects that live to the end. With Python's own settings they are searched for garbage
# again and again while they are imported, and once more at exit; benchmarks/startup.py measures what that costs a stage. Here,
# because this runs before any other import of a stage; no dependency in dvc.yaml, because it changes when memory is freed, not
# what is computed.
gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)
