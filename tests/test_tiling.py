import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import tiling
from models.unet import UNet, count_parameters


def random_net(bands=2, width=4, depth=3, norm="batch"):
    """A net as lively as a trained one: logits of order 1, norms with statistics away from 0 and 1."""
    torch.manual_seed(0)
    net = UNet(bands, width, depth, norm)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        elif isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return net.eval()


def predict(net, image, tile, trim, blend=0):
    def probability(part):
        with torch.inference_mode():
            return net(torch.from_numpy(part)[None])[0, 0].numpy()

    height, width = image.shape[1:]
    whole, seen = np.full((height, width), np.nan, np.float32), np.zeros((height, width), int)
    for row, col, block in tiling.predict(
        lambda r, c, h, w: image[:, r : r + h, c : c + w],
        probability, height, width, (tile, tile), trim, blend, 1 << len(net.up),
    ):  # fmt: skip
        place = slice(row, row + block.shape[0]), slice(col, col + block.shape[1])
        whole[place] = block
        seen[place] += 1
    assert (seen == 1).all()  # every pixel once
    return whole


@pytest.mark.parametrize("size", [(301, 203), (97, 400), (160, 160), (130, 131), (33, 47)])
@pytest.mark.parametrize("blend", [0, 16])
def test_tiled_equals_whole_on_odd_sizes(size, blend):
    net = random_net()
    trim = net.receptive_radius() + -net.receptive_radius() % 8
    image = np.random.default_rng(0).normal(size=(2, *size)).astype(np.float32)
    with torch.inference_mode():
        whole = net(torch.from_numpy(image)[None])[0, 0].numpy()
    assert whole.std() > 0.1
    assert np.abs(predict(net, image, 2 * trim + 64, trim, blend) - whole).max() < 1e-4


def test_a_trim_that_is_too_small_would_be_seen():
    """The test above can fail: with half the trim, seams are there."""
    net = random_net()
    image = np.random.default_rng(0).normal(size=(2, 301, 203)).astype(np.float32)
    with torch.inference_mode():
        whole = net(torch.from_numpy(image)[None])[0, 0].numpy()
    assert np.abs(predict(net, image, 64, 8) - whole).max() > 1e-4


def test_receptive_radius_is_exact_enough():
    net = random_net(bands=1)
    radius, size = net.receptive_radius(), 4 * net.receptive_radius()
    image = torch.zeros(1, 1, size, size, requires_grad=True)
    for row in range(size // 2, size // 2 + 8):  # every place in a pooling cell
        (gradient,) = torch.autograd.grad(net(image)[0, 0, row, row], image)
        touched = gradient[0, 0].nonzero()
        assert (touched - row).abs().max() <= radius


@settings(max_examples=200, deadline=None)
@given(
    length=st.integers(1, 5000), tile=st.integers(20, 120), trim=st.integers(0, 8), blend=st.integers(0, 3)
)
def test_tiles_cover_and_weights_sum_to_one(length, tile, trim, blend):
    tile, trim, blend = tile * 16, trim * 16, blend * 16
    if tile <= 2 * trim + blend + 16:
        return
    spans = tiling.starts(length, tile, trim, blend, 16)
    assert spans[0][0] == 0 and spans[-1][1] == length
    total = np.zeros(length)
    for index, (start, stop) in enumerate(spans):
        assert start % 16 == 0 and stop - start <= tile
        weight = tiling.weights(spans, index, trim, blend)
        if index:
            assert not weight[:trim].any()
        if index + 1 < len(spans):
            assert not weight[len(weight) - trim :].any()
        total[start:stop] += weight
    assert np.allclose(total, 1)


def test_overhead_of_a_large_scene_is_bounded():
    assert tiling.overhead(25000, 17000, (1536, 1536), 112, 0, 16) <= 1.35


def test_unet_size_and_any_input():
    assert round(count_parameters(UNet(1, 64)) / 1e6, 2) == 31.04
    for size in ((1, 1), (17, 33), (64, 48)):
        assert UNet(3, 4, 2).eval()(torch.randn(1, 3, *size)).shape == (1, 1, *size)


def test_unet_refuses_nonsense():
    for wrong in ({"bands": 0}, {"bands": 1, "width": 0}, {"bands": 1, "norm": "layer"}):
        with pytest.raises(ValueError):
            UNet(**wrong)
