"""A CLIP-style model: radar and RGB of one place to nearby points of a sphere. Needs torch, unet.py beside.

    net = SarRgb(sar_bands=2)
    sar, rgb = net.embed_sar(x), net.embed_rgb(y)          # (B, D) each, rows of length 1
    loss = info_nce(sar, rgb, net.scale())                 # row i of both is one place
    unet.load_state_dict(net.unet_encoder(), strict=False)

Radford 2021 (arXiv:2103.00020). An encoder is "unet", the contracting half of models/unet.py, whose weights a
U-Net can start from; "resnet18" or "vit", torchvision's, from scratch; or "features", for vectors that a
frozen network gave beforehand, of which only a head is trained (LiT, Zhai 2022, arXiv:2111.07991).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from models.unet import UNet

ENCODERS = ("unet", "resnet18", "vit", "features")
SCALES = (1.0, 100.0)  # 1 / temperature stays inside, as in CLIP, whose start is 1 / 0.07
TEMPERATURE = 0.07
VIT_SIDE = 128  # pixels; other sizes are resized to it


class UNetEncoder(nn.Module):
    """Images (B, bands, H, W) to the mean of the U-Net's deepest features, (B, width * 2^depth)."""

    def __init__(self, bands: int, width: int, depth: int, norm: str):
        super().__init__()
        self.down = UNet(bands, width, depth, norm).down
        self.outputs = width << depth

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for level, block in enumerate(self.down):
            x = block(
                F.max_pool2d(x, 2, ceil_mode=True) if level else x
            )  # B width*2^level H/2^level W/2^level
        return x.mean(dim=(2, 3))


def resnet18(bands: int) -> tuple[nn.Module, int]:
    """torchvision's ResNet-18 from scratch for any bands, without its classes."""
    from torchvision.models import resnet18

    net = resnet18()
    net.conv1 = nn.Conv2d(bands, 64, kernel_size=7, stride=2, padding=3, bias=False)
    net.fc = nn.Identity()
    return net, 512


class SmallViT(nn.Module):
    """torchvision's VisionTransformer, 6 layers of 192 with patches of 16, from scratch for any bands."""

    def __init__(self, bands: int):
        super().__init__()
        from torchvision.models import VisionTransformer

        self.net = VisionTransformer(VIT_SIDE, 16, num_layers=6, num_heads=3, hidden_dim=192, mlp_dim=768)
        self.net.conv_proj = nn.Conv2d(bands, 192, kernel_size=16, stride=16)
        self.net.heads = nn.Identity()
        self.outputs = 192

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-2:] != (VIT_SIDE, VIT_SIDE):
            x = F.interpolate(x, (VIT_SIDE, VIT_SIDE), mode="bilinear", antialias=True)
        return self.net(x)


def build_encoder(kind: str, bands: int, width: int, depth: int, norm: str) -> tuple[nn.Module, int]:
    """An encoder and the length of what it gives; of "features", bands is that length."""
    if kind == "features":
        return nn.Identity(), bands
    if kind == "resnet18":
        return resnet18(bands)
    net = SmallViT(bands) if kind == "vit" else UNetEncoder(bands, width, depth, norm)
    return net, net.outputs


class SarRgb(nn.Module):
    """Two encoders, a projection head each, and a learned temperature.

    sar_bands, rgb_bands: channels of the images, or length of the vectors of a "features" encoder. width,
    depth, norm: of "unet" encoders. Raises ValueError for what it does not know.
    """

    def __init__(
        self,
        sar_bands: int,
        rgb_bands: int = 3,
        sar: str = "unet",
        rgb: str = "unet",
        dimensions: int = 128,
        width: int = 16,
        depth: int = 4,
        norm: str = "batch",
    ):
        super().__init__()
        if sar not in ENCODERS or rgb not in ENCODERS:
            raise ValueError(f"encoders are {', '.join(ENCODERS)}, not {sar!r} and {rgb!r}")
        if min(sar_bands, rgb_bands, dimensions) < 1:
            raise ValueError(f"bands {sar_bands}, {rgb_bands} and dimensions {dimensions} must be positive")
        self.arguments = {
            "sar_bands": sar_bands, "rgb_bands": rgb_bands, "sar": sar, "rgb": rgb, "dimensions": dimensions,
            "width": width, "depth": depth, "norm": norm,
        }  # fmt: skip
        self.sar, sar_outputs = build_encoder(sar, sar_bands, width, depth, norm)
        self.rgb, rgb_outputs = build_encoder(rgb, rgb_bands, width, depth, norm)
        self.sar_head, self.rgb_head = head(sar_outputs, dimensions), head(rgb_outputs, dimensions)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / TEMPERATURE)))

    def embed_sar(self, x: torch.Tensor) -> torch.Tensor:
        """(B, bands, H, W), or (B, F) of features, to (B, dimensions) float32 of length 1."""
        return F.normalize(self.sar_head(self.sar(x)).float(), dim=1)

    def embed_rgb(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.rgb_head(self.rgb(x)).float(), dim=1)

    def forward(
        self, sar: torch.Tensor, rgb: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embeddings of both and the scale, in one call, as DDP wants it."""
        return self.embed_sar(sar), self.embed_rgb(rgb), self.scale()

    def scale(self) -> torch.Tensor:
        """1 / temperature."""
        return self.log_scale.exp()

    @torch.no_grad()
    def bound_scale(self) -> None:
        """Bring 1 / temperature back inside SCALES after a step; in scale() that would stop its gradient."""
        self.log_scale.clamp_(*map(math.log, SCALES))

    def unet_encoder(self) -> dict:
        """The SAR encoder's tensors under a U-Net's names; ValueError if it is no "unet"."""
        if self.arguments["sar"] != "unet":
            raise ValueError(f"the SAR encoder is {self.arguments['sar']!r}: no U-Net can start from it")
        return {f"down.{name}": value for name, value in self.sar.down.state_dict().items()}


def head(inputs: int, dimensions: int) -> nn.Linear:
    """One matrix, as CLIP and LiT have it."""
    return nn.Linear(inputs, dimensions, bias=False)


def load(path, map_location="cpu") -> tuple[SarRgb, dict]:
    """The net of a checkpoint of train_sar_rgb.py, averaged weights, in eval mode, and all the file holds.

    Needs training.py beside. Raises training.CheckpointError for a file that is none.
    """
    from models import training

    state = training.load_checkpoint(path, map_location, model="sar-rgb")
    try:
        net = SarRgb(**state["arguments"])
        net.load_state_dict(state.get("average") or state["weights"])
    except (TypeError, ValueError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        raise training.CheckpointError(f"{path}: weights and arguments do not fit ({why})") from None
    net.bound_scale()
    return net.to(map_location).eval(), state


# ---- losses ------------------------------------------------------------------------------------------------


def info_nce(
    sar: torch.Tensor, rgb: torch.Tensor, scale: torch.Tensor | float, offset: int = 0, everything=None
):
    """Mean cross-entropy of finding each row's pair, both ways (Oord 2018, arXiv:1807.03748; CLIP).

    sar, rgb: (B, D) of length 1. Under several processes: everything, (sar, rgb) of all of them, (N, D), and
    offset, the place of this one's first row there; the mean over processes is then the whole batch's loss.
    """
    all_sar, all_rgb = everything or (sar, rgb)
    target = torch.arange(len(sar), device=sar.device) + offset
    to_rgb = F.cross_entropy(scale * sar @ all_rgb.T, target)
    to_sar = F.cross_entropy(scale * rgb @ all_sar.T, target)
    return (to_rgb + to_sar) / 2


def alignment(sar: torch.Tensor, rgb: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of pairs (Wang & Isola 2020, arXiv:2005.10242)."""
    return (sar - rgb).square().sum(dim=1).mean()


def uniformity(x: torch.Tensor) -> torch.Tensor:
    """log mean exp(-2 |x - y|^2) over pairs of rows (Wang & Isola 2020); 0 for one point, down to -4."""
    return torch.pdist(x).square().mul(-2).exp().mean().log()
