"""Without a compiler there is no pretended GPU."""

import pytest

from tests.pretended_gpu.device import CannotBuildError, built


@pytest.fixture(scope="session", autouse=True)
def _device() -> None:
    try:
        built()
    except CannotBuildError as error:
        pytest.skip(f"no pretended GPU: {error}")
