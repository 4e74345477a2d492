"""One module a stage of dvc.yaml, always run as `python -m stages.NAME` from the project's root."""

import atexit
import gc

# PyTorch and transformers are a million objects that live to the end. By default they are searched
# for garbage again and again while they are imported, and once more at exit. Here, because it runs
# before any other import. It is no dependency in dvc.yaml: it does not change what is computed.
gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)
