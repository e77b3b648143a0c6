"""How different two pictures look: LPIPS on AlexNet (Zhang et al., CVPR 2018), and SSIM (Wang et al., 2004)."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

# What AlexNet sees of a picture in -1..1: the mean and spread of ImageNet, as LPIPS has them.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# Of the five convolutions: output channels, kernel, stride, padding; the second and third follow a pooling.
LAYERS = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
POOLED_BEFORE = (1, 2)
LEAST_SIDE = 31  # pixels; below it the last layers see nothing
WEIGHTS_FILE = "alexnet_lpips.safetensors"
# Added to lengths before dividing by them, as in the published code.
EPSILON = 1e-10


class Lpips(nn.Module):
    """
    LPIPS, version 0.1, on AlexNet: of five layers the difference of the channels, brought to length 1 at every
    position, squared, weighted, averaged over the positions, and added up.

    Args:
        folder (`str` or `Path`): has `alexnet_lpips.safetensors` with the published weights. They are no part of this
            repository.

    Raises:
        `FileNotFoundError`: it has not.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        path = Path(folder, WEIGHTS_FILE)
        if not path.is_file():
            raise FileNotFoundError(f"`--lpips` {folder} has no {WEIGHTS_FILE}, the published weights of LPIPS.")
        sizes = (3, *(layer[0] for layer in LAYERS))
        self.convolutions = nn.ModuleList(nn.Conv2d(sizes[n], *layer) for n, layer in enumerate(LAYERS))
        weights = load_file(path)
        for number, convolution in enumerate(self.convolutions):
            convolution.weight.data.copy_(weights[f"AlexNet_0.Conv_{number}.kernel"])
            convolution.bias.data.copy_(weights[f"AlexNet_0.Conv_{number}.bias"])
            self.register_buffer(f"channel_weights_{number}", weights[f"NetLinLayer_{number}.Conv_0.kernel"].float())
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])
        self.requires_grad_(False).eval()

    def features(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """
        What AlexNet sees in pictures, each position of length 1, layer by layer.

        Args:
            pictures (`torch.Tensor` of shape `(pictures, 3, height, width)`): -1 to 1.

        Raises:
            `ValueError`: they are smaller than 31 pixels.
        """
        if min(pictures.shape[-2:]) < LEAST_SIDE:
            raise ValueError(f"`pictures` must have {LEAST_SIDE} pixels a side, got {tuple(pictures.shape[-2:])}.")
        states, seen = (pictures - self.shift) / self.scale, []
        for number, convolution in enumerate(self.convolutions):
            if number in POOLED_BEFORE:
                states = nn.functional.max_pool2d(states, 3, 2)
            states = convolution(states).relu()
            seen.append(states / (states.square().sum(1, keepdim=True).sqrt() + EPSILON))
        return seen

    def between(self, first: list[torch.Tensor], second: list[torch.Tensor]) -> torch.Tensor:
        """The distance of features to features, pair by pair: `[pictures]`."""
        layers = [
            nn.functional.conv2d((a - b).square(), getattr(self, f"channel_weights_{number}")).mean((1, 2, 3))
            for number, (a, b) in enumerate(zip(first, second, strict=True))
        ]
        return torch.stack(layers).sum(0)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """The distance of pictures to pictures, pair by pair: `[pictures]`; 0 where they are equal."""
        return self.between(self.features(first), self.features(second))


def ssim(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """
    Structural similarity, pair by pair, averaged over positions and channels: 1 where pictures are equal.

    Gaussian window of 11 pixels (sigma 1.5), valid positions only, as in the paper.

    Args:
        first, second (`torch.Tensor` of shape `(pictures, 3, height, width)`): -1 to 1.

    Returns:
        `torch.Tensor` of shape `(pictures,)`.
    """
    taps = torch.exp(-0.5 * (torch.arange(11.0) - 5).square() / 1.5**2)
    taps = taps / taps.sum()
    window = (taps[:, None] * taps).expand(3, 1, 11, 11)

    def smooth(values: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(values, window, groups=3)

    first, second = (first + 1) / 2, (second + 1) / 2
    mean_1, mean_2 = smooth(first), smooth(second)
    variance_1, variance_2 = smooth(first.square()) - mean_1.square(), smooth(second.square()) - mean_2.square()
    covariance = smooth(first * second) - mean_1 * mean_2
    small_1, small_2 = 0.01**2, 0.03**2
    similarity = (2 * mean_1 * mean_2 + small_1) * (2 * covariance + small_2)
    similarity = similarity / ((mean_1.square() + mean_2.square() + small_1) * (variance_1 + variance_2 + small_2))
    return similarity.mean((1, 2, 3))
