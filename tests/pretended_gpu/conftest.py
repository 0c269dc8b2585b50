"""Without a compiler, or beside a CUDA of torch's own, there is no pretended GPU."""

import pytest
import torch

from tests.pretended_gpu.device import CannotBuildError, built


@pytest.fixture(scope="session", autouse=True)
def _device() -> None:
    if torch.version.cuda or torch.version.hip:
        pytest.skip("no pretended GPU: this torch is built for real ones")
    try:
        built()
    except CannotBuildError as error:
        pytest.skip(f"no pretended GPU: {error}")
