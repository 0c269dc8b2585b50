"""What `make dist` finds wrong with packages; the target itself builds, installs and uses them."""

import io
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRACKED = ["src/coinage/__init__.py", "src/coinage/py.typed", "tests/test_x.py", "README.md"]
METADATA = "Metadata-Version: 2.1\nName: coinage-ti\nVersion: 0.1.0\n"
SOURCES = ["LICENSE", "README.md", "pyproject.toml", *TRACKED[:2]]


def packages(
    folder: Path, packed: Sequence[str], installed: Sequence[str], metadata: str
) -> tuple[Path, Path]:
    """An sdist and a wheel with these files, each of one byte."""
    sdist, wheel = folder / "c-0.1.0.tar.gz", folder / "c.whl"
    with tarfile.open(sdist, "w:gz") as archive:
        for name in packed:
            member = tarfile.TarInfo(f"c-0.1.0/{name}")
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in installed:
            archive.writestr(name, "x")
        archive.writestr("c-0.1.0.dist-info/METADATA", metadata)
    return sdist, wheel


@pytest.mark.parametrize(
    ("packed", "installed", "metadata", "most", "due"),
    [
        (SOURCES, ["coinage/__init__.py", "coinage/py.typed"], METADATA, 9999, []),
        (SOURCES, ["coinage/__init__.py"], METADATA, 9999, ["the wheel lacks coinage/py.typed"]),
        (
            SOURCES,
            ["coinage/__init__.py", "coinage/py.typed", "tests/test_x.py"],
            METADATA,
            9999,
            ["the wheel should not have tests/test_x.py"],
        ),
        (
            SOURCES[1:],
            ["coinage/__init__.py", "coinage/py.typed"],
            METADATA,
            9999,
            ["the sdist lacks LICENSE"],
        ),
        (
            SOURCES,
            ["coinage/__init__.py", "coinage/py.typed"],
            METADATA.replace("0.1.0", "one"),
            9999,
            ["metadata: 'one' is invalid"],
        ),
        (SOURCES, ["coinage/__init__.py", "coinage/py.typed"], METADATA, 10, ["more than 10"] * 2),
    ],
)
def test_what_is_wrong_with_packages(
    packed: list[str],
    installed: list[str],
    metadata: str,
    most: int,
    due: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import dist_check

    monkeypatch.setattr(dist_check, "MOST_BYTES", most)
    found = dist_check.problems_of(*packages(tmp_path, packed, installed, metadata), TRACKED)
    assert len(found) == len(due)
    for part, problem in zip(due, found, strict=True):
        assert part in problem
