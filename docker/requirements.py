"""Print what pyproject.toml requires, a line each: ``python docker/requirements.py [EXTRA...]``."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
wanted = [*project["dependencies"], *(each for name in sys.argv[1:] for each in project["optional-dependencies"][name])]
sys.stdout.write("\n".join(wanted) + "\n")
