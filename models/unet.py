"""U-Net for snow masks: any number of input bands, any width, any input size. Needs torch only.

    net = UNet(bands=2, width=16)
    logits = net(torch.randn(1, 2, 101, 143))      # 1 1 101 143, float

Ronneberger 2015 (10.1007/978-3-319-24574-4_28) with padded convolutions and a norm after each of them; width
64 with one band has 31.04 M parameters.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

NORMS = ("batch", "group")


class UNet(nn.Module):
    """Map images (B, bands, H, W) to logits (B, classes, H, W); H and W of any size.

    width: channels at full resolution, doubled at each of `depth` halvings. norm: "batch", or "group" (8
    channels a group), whose result does not depend on the batch but does on the extent of the image given.
    """

    def __init__(self, bands: int, width: int = 16, depth: int = 4, norm: str = "batch", classes: int = 1):
        super().__init__()
        if bands < 1 or width < 1 or depth < 1 or classes < 1 or norm not in NORMS:
            raise ValueError(
                f"UNet(bands={bands}, width={width}, depth={depth}, norm={norm!r}, classes={classes}): "
                f"numbers must be positive and norm one of {NORMS}"
            )
        self.arguments = {"bands": bands, "width": width, "depth": depth, "norm": norm, "classes": classes}
        channels = [width << level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            double_conv(before, after, norm)
            for before, after in zip([bands, *channels], channels, strict=False)
        )
        self.up = nn.ModuleList(upsample(2 * c, c) for c in reversed(channels[:-1]))
        self.merge = nn.ModuleList(double_conv(2 * c, c, norm) for c in reversed(channels[:-1]))
        self.head = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        x = pad_to_multiple(x, 1 << (len(self.down) - 1))
        skips = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)  # B width*2^level H/2^level W/2^level
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))
        return self.head(x)[..., :height, :width]

    def receptive_radius(self) -> int:
        """Pixels a side that can change an output pixel, pooling cells too: 2 convs a level, up and down."""
        depth = len(self.up)
        return 2 * sum(2 << level for level in range(depth)) + (2 << depth) + (1 << depth) - 1


def upsample(before: int, after: int) -> nn.Sequential:
    """A 2 x 2 transposed convolution of stride 2, written so that its backward pass is one matrix product."""
    return nn.Sequential(nn.Conv2d(before, 4 * after, kernel_size=1), nn.PixelShuffle(2))


def double_conv(before: int, after: int, norm: str) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with a norm and a ReLU; the norm's shift makes a bias needless."""
    layers = []
    for inputs in (before, after):
        layers += [
            nn.Conv2d(inputs, after, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(after)
            if norm == "batch"
            else nn.GroupNorm(math.gcd(after, max(1, after // 8)), after),
            nn.ReLU(),  # not in place: torch's in-place bfloat16 kernel is 3 times slower on a CPU
        ]
    return nn.Sequential(*layers)


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Repeat the last row and column until both sides of (B, C, H, W) are multiples."""
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def count_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())
