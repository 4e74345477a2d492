"""Found only when a tool is run by its path: this folder goes before the project's root then."""

import sys
from pathlib import Path

if __name__ == "reproduce":
    module = f"tools.{Path(sys.argv[0]).stem}"
    sys.exit(f"error: run it from the project's root as a module: python -m {module}")
