"""The SAR-RGB model: its loss by hand, parts of a batch equal to the whole, a U-Net that starts from it."""

import math

import pytest
import torch
import torch.nn.functional as F

from models import gap, sar_rgb, sar_rgb_steps, training
from models.unet import UNet


def small(**more) -> sar_rgb.SarRgb:
    torch.manual_seed(0)
    return sar_rgb.SarRgb(2, width=4, depth=2, dimensions=8, **more)


@pytest.mark.parametrize("kind", ["unet", "resnet18", "vit"])
def test_every_encoder_gives_rows_of_length_one_for_any_size(kind):
    net = small(sar=kind, rgb=kind).eval()
    sar, rgb, scale = net(torch.randn(3, 2, 67, 81), torch.randn(3, 3, 67, 81))
    assert sar.shape == rgb.shape == (3, 8)
    assert torch.allclose(sar.norm(dim=1), torch.ones(3)) and torch.allclose(rgb.norm(dim=1), torch.ones(3))
    assert scale.item() == pytest.approx(1 / 0.07, rel=1e-5)


def test_features_of_a_frozen_network_train_a_head_alone():
    net = small(rgb="features", rgb_bands=384)
    assert not list(net.rgb.parameters())
    assert net.embed_rgb(torch.randn(5, 384)).shape == (5, 8)


def test_temperature_stays_bounded_and_learns_from_inside():
    net = small()
    for start, expected in ((20.0, 100.0), (-5.0, 1.0)):
        net.log_scale.data.fill_(start)
        net.bound_scale()
        assert net.scale().item() == pytest.approx(expected, rel=1e-5)
    net.log_scale.data.fill_(2.0)
    net.scale().backward()
    assert net.log_scale.grad.item() == pytest.approx(math.exp(2), rel=1e-5)


@pytest.mark.parametrize("start, back", [(math.log(100) + 1e-3, -1), (-1e-3, 1)])
def test_beyond_its_bound_the_temperature_can_return(start, back):
    """As a step or its rounding leaves it: each of two steps pulls it to the inside."""
    net = small(sar="features", rgb="features", rgb_bands=2)
    learner = training.Learner(net, torch.device("cpu"), None, 0.01, 0.0, 0.0, 4, 1)
    net.log_scale.data.fill_(start)
    task = {"forward": net, "rank": 0, "alignment": 0.0, "uniformity": 0.0}
    sar = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    net.sar_head.weight.data.copy_(net.rgb_head.weight.data)
    rgb = sar if back > 0 else sar.flip(0)  # pairs found ask for a higher scale, pairs missed for a lower one
    for step in range(2):
        before = net.log_scale.item()
        sar_rgb_steps.optimise(learner, task, (sar, rgb), [2], step)
        assert (net.log_scale.item() - before) * back > 1e-3
    learner.net.log_scale.data.fill_(9.0)
    sar_rgb_steps.optimise(learner, task, (sar, rgb), [2], 2)
    for one in (net, learner.average.net):
        assert 1.0 <= one.scale().item() <= 100.0 * (1 + 1e-5)


def test_loss_by_hand_and_its_chance_level():
    sar = F.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    rgb = F.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(2)), dim=1)
    logits = 5 * sar @ rgb.T
    rows = -(logits.diag() - logits.logsumexp(1)).mean()
    columns = -(logits.diag() - logits.logsumexp(0)).mean()
    assert sar_rgb.info_nce(sar, rgb, 5.0).item() == pytest.approx(((rows + columns) / 2).item(), rel=1e-6)
    same = torch.ones(7, 4) / 2
    assert sar_rgb.info_nce(same, same, 10.0).item() == pytest.approx(math.log(7), rel=1e-6)
    perfect = torch.eye(5)
    assert sar_rgb.info_nce(perfect, perfect, 100.0).item() < 1e-6


def test_two_processes_mean_equals_the_whole_batch():
    sar, rgb = (F.normalize(torch.randn(8, 6), dim=1) for _ in range(2))
    parts = [
        sar_rgb.info_nce(sar[k : k + 4], rgb[k : k + 4], 7.0, offset=k, everything=(sar, rgb)) for k in (0, 4)
    ]
    assert (sum(parts) / 2).item() == pytest.approx(sar_rgb.info_nce(sar, rgb, 7.0).item(), rel=1e-6)


def test_alignment_and_uniformity_are_those_of_the_report():
    sar, rgb = (F.normalize(torch.randn(40, 6), dim=1) for _ in range(2))
    expected = 2 - 2 * (sar * rgb).sum(dim=1).mean().item()  # of rows of length 1
    assert sar_rgb.alignment(sar, rgb).item() == pytest.approx(expected, rel=1e-5)
    assert sar_rgb.uniformity(sar).item() == pytest.approx(gap.uniformity(sar.numpy()), abs=1e-4)


def test_a_unet_starts_from_the_sar_encoder():
    net, unet = small(), UNet(2, 4, 2)
    missing, unexpected = unet.load_state_dict(net.unet_encoder(), strict=False)
    assert not unexpected and not any(name.startswith("down.") for name in missing)
    x = torch.randn(1, 2, 32, 32)
    net.eval(), unet.eval()
    assert torch.equal(unet.down[0](x), net.sar.down[0](x))
    with pytest.raises(ValueError, match="no U-Net"):
        small(sar="resnet18").unet_encoder()


def test_it_learns_to_find_pairs():
    """Two views of one hidden picture: after a few steps each finds its own among 16."""
    torch.manual_seed(0)
    net = small()
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    hidden = F.interpolate(torch.randn(16, 1, 4, 4), 32, mode="bilinear")
    for _ in range(60):
        sar = torch.cat([hidden, -hidden], 1) + 0.3 * torch.randn(16, 2, 32, 32)
        rgb = hidden.square().repeat(1, 3, 1, 1) + hidden + 0.1 * torch.randn(16, 3, 32, 32)
        loss = sar_rgb.info_nce(*net(sar, rgb))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * math.log(16)


@pytest.mark.parametrize("words", [{"sar": "resnet50"}, {"dimensions": 0}, {"rgb_bands": 0}])
def test_what_it_does_not_know_is_refused(words):
    with pytest.raises(ValueError):
        sar_rgb.SarRgb(2, **words) if "dimensions" in words else small(**words)
