"""The oldest versions that pyproject.toml admits, which `make test-oldest` installs."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("requirement", "due"),
    [
        ("torch>=2.7", "torch==2.7"),
        ("starlette >= 0.45", "starlette==0.45"),
        ("bitsandbytes>=0.50; platform_system != 'Darwin'", "bitsandbytes==0.50"),
        ("rich>=13.8,<16", "rich==13.8"),
    ],
)
def test_the_lower_bound_is_the_version(
    requirement: str, due: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import oldest_versions

    assert oldest_versions.oldest(requirement) == due


@pytest.mark.parametrize("requirement", ["torch", "torch==2.7", "torch<3"])
def test_a_requirement_without_a_lower_bound_is_refused(
    requirement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import oldest_versions

    with pytest.raises(ValueError, match=r"needs one lower bound, such as torch>=1\.0"):
        oldest_versions.oldest(requirement)
