import pytest
import torch

from unimp import UniMPForConditionalGeneration

from .tiny import DECODERS, tiny_model


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny tensors: a second thread only waits, for seconds a step where others use the same cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=list(DECODERS))
def decoder(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model() -> UniMPForConditionalGeneration:
    return tiny_model()
