"""Seeded random weights of the backbones' architectures. Needs torch, torchvision, transformers.

    fields = random_network("dinov2", seed=0)            # what models/backbones.py's Backbone takes
    net = renewed(net, seed=1)                           # the same architecture, other weights

The floor that numbers of trained weights are held against.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.backbone_contract import HUB, of_transformers
from models.torchvision_files import torchvision_fields, torchvision_network

SMALL = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}  # DINOv2 ViT-S/14


def random_network(family: str, seed: int) -> dict:
    """ViT-B/32, ViT-S/14 or DeepLabV3 on MobileNetV3; the caller's random state stays as it was."""
    said = f"random weights (seed {seed})"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "deeplabv3":
            name = "deeplabv3_mobilenet_v3_large"
            fields = torchvision_fields(torchvision_network(name, 21, False), name, said)
            start_convolutions(fields["net"])
            return fields
        from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

        clip = family == "clip"
        net = CLIPVisionModel(CLIPVisionConfig()) if clip else Dinov2Model(Dinov2Config(**SMALL))
    return of_transformers(net, family, HUB[family].split("/")[1], {}, said)


def renewed(net: nn.Module, seed: int, name: str = "", classes: int = 0) -> nn.Module:
    """A network of the same architecture; name and classes: of one of torchvision's, which has no config."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hasattr(net, "config"):
            new = type(net)(net.config)
        else:
            new = torchvision_network(name, classes, net.aux_classifier is not None)
        start_convolutions(new)
    return new


def start_convolutions(net: nn.Module) -> None:
    """He's start (2015, 1502.01852) of all convolutions, and batch norms that have seen images.

    By transformers' own start MobileNetV2 fades to 1e-21, and with running statistics of 0 and 1 ResNet-101
    grows to 1e5 and an effective rank of 175, not 1605: no floors. The images are eight octaves of noise,
    so that coarse layers see variance as in a photograph.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    settle_norms(net, lambda: net(octaves()))


def octaves(bands: int = 3, count: int = 4) -> torch.Tensor:
    """Images (count, bands, 128, 128) of eight octaves of noise, mean 0 and variance about 1 at most."""
    return sum(
        F.interpolate(torch.randn(count, bands, 2**k, 2**k), size=(128, 128), mode="bilinear")
        for k in range(8)
    ) / 8**0.5  # fmt: skip


def settle_norms(net: nn.Module, look) -> None:
    """Give every batch norm of a net the statistics of look(), one pass; the net is in eval mode then."""
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [norm.momentum for norm in norms]
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        look()
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
        norm.eval()
