import pytest
import torch

from unimp import UniMPForConditionalGeneration

from .tiny import DECODERS, tiny_model


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=list(DECODERS))
def decoder(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model() -> UniMPForConditionalGeneration:
    return tiny_model()
