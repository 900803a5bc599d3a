"""`python -m tests.<name>` finds the package in bin/ as pytest does (pyproject.toml)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bin"))
