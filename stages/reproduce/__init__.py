"""Found only when a stage is run by its path: this folder goes before the project's root then."""

import sys
from pathlib import Path

if __name__ == "reproduce":
    module = f"stages.{Path(sys.argv[0]).stem}"
    sys.exit(f"error: run it from the project's root as a module: python -m {module}")
