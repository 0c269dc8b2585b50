"""Print the oldest versions that pyproject.toml admits, as constraints for pip.

`make test-oldest` installs these and runs the tests with them. What our dependencies need in turn is
left to pip.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
EXTRAS = ("optimizers", "ui", "wandb")  # what users install; developers' tools stay new


def oldest(requirement: str) -> str:
    """Return `name==version` for a requirement with a lower bound.

    Raises:
        ValueError: the requirement names no lower bound.
    """
    parsed = Requirement(requirement)
    lowest = [bound.version for bound in parsed.specifier if bound.operator == ">="]
    if len(lowest) != 1:
        raise ValueError(f"{requirement} needs one lower bound, such as {parsed.name}>=1.0")
    return f"{parsed.name}=={lowest[0]}"


def main() -> None:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(each for name in EXTRAS for each in optional[name])]
    sys.stdout.write("".join(f"{oldest(requirement)}\n" for requirement in requirements))


if __name__ == "__main__":
    main()
