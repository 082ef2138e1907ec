"""Hooks that change nothing and hold little; attention, class activation and colours against known ones."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from models import activations
from models.activations import Capture


def normal(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def rotation(size: int, seed=0) -> np.ndarray:
    return np.linalg.qr(normal(size, size, seed=seed))[0]


def small_net() -> nn.Module:
    """Convolutions whose ReLU works in place, as torchvision's do."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 3, 1),
    ).eval()


def test_mask_pooled_to_the_grid_of_a_layer():
    mask = np.zeros((8, 8), np.uint8)
    mask[:4, :4], mask[:4, 4:6], mask[4:, :4], mask[4:7, 4:] = 1, 1, 255, 255
    share, counts = activations.pool_mask(mask, (2, 2))
    np.testing.assert_array_equal(counts, [[True, True], [False, False]])
    np.testing.assert_allclose(share, [[1, 0.5], [np.nan, np.nan]])
    finer, _ = activations.pool_mask(mask, (16, 16))
    np.testing.assert_array_equal(np.nan_to_num(finer[::2, ::2], nan=255), mask)


# ---- hooks -------------------------------------------------------------------------------------------------


def test_captured_layers_are_what_they_were_before_relu_worked_in_place():
    net, x = small_net(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        plain = net(x)
        with Capture(net, [str(i) for i in range(6)]) as capture:
            hooked = net(x)
        normalised = net[1](net[0](x))
    assert torch.equal(plain, hooked)
    assert torch.equal(capture.outputs["1"], normalised) and (capture.outputs["1"] < 0).any()
    assert torch.equal(capture.outputs["2"], normalised.relu())
    assert torch.equal(capture.outputs["5"], plain)


def test_hooks_go_when_the_block_ends_even_by_an_error():
    net = small_net()
    with Capture(net, ["0", "3"]):
        assert sum(len(m._forward_hooks) for m in net.modules()) == 2
    with pytest.raises(RuntimeError), Capture(net, ["0"]):
        net(torch.zeros(1, 5, 4, 4))
    assert not any(m._forward_hooks for m in net.modules())
    with pytest.raises(ValueError, match="no layer 'nine'"):
        Capture(net, ["nine"])


def test_hooks_hold_only_what_reduce_returns():
    net, x = small_net(), torch.randn(1, 3, 64, 64)
    with torch.no_grad(), Capture(net, ["0", "3"], lambda out: out[:, :, :1, :1]) as corner:
        net(x)
    assert all(v.untyped_storage().nbytes() == v.numel() * 4 for v in corner.outputs.values())
    with Capture(net, ["0"]) as kept:
        net(x.requires_grad_())
    assert not kept.outputs["0"].requires_grad  # else the whole graph stays with it


def test_no_layer_chosen_costs_nothing_and_changes_nothing():
    torch.manual_seed(0)
    net = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2, enable_nested_tensor=False
    )
    net, x = net.eval().requires_grad_(False), torch.randn(2, 60, 64)

    def bare():
        return net(x)

    def hooked():
        with Capture(net, []):
            return net(x)

    with Capture(net, []):
        assert not any(m._forward_hooks for m in net.modules())
    assert torch.equal(bare(), hooked())
    ratios = []
    for _ in range(5):  # of pairs side by side the fastest: another's load on the machine is no cost of ours
        best = {bare: np.inf, hooked: np.inf}
        for _ in range(12):
            for run in best:
                start = time.perf_counter()
                run()
                best[run] = min(best[run], time.perf_counter() - start)
        ratios.append(best[hooked] / best[bare])
        if ratios[-1] < 1.05:
            return
    raise AssertionError(f"a pass with no layer chosen took {ratios} x a bare one")


# ---- attention, colours, class activation ------------------------------------------------------------------


class Looks(nn.Module):
    """One token a patch and a class token; two layers whose attention is known."""

    def __init__(self, queries: list[np.ndarray]):
        super().__init__()
        self.layer = nn.ModuleList()
        for matrix in queries:
            block = nn.Module()
            block.q_proj, block.k_proj = (
                nn.Linear(matrix.shape[0], matrix.shape[0], bias=False) for _ in "qk"
            )
            block.q_proj.weight.data = torch.tensor(matrix, dtype=torch.float32)
            block.k_proj.weight.data = torch.eye(len(matrix))
            self.layer.append(block)

    def forward(self, tokens):
        for block in self.layer:
            block.k_proj(tokens), block.q_proj(tokens)
        return tokens


def test_rollout_of_known_attention():
    size = 7  # class token and 2 x 3 patches, each token a direction of its own
    queries = [50 * normal(size, size, seed=s) for s in (0, 1)]
    net, tokens = Looks(queries), torch.eye(size)[None]
    x = torch.zeros(1, 3, 28, 42)

    class Backbone(SimpleNamespace):
        def __call__(self, _):
            return self.net(tokens)

    backbone = Backbone(net=net, heads=1, patch=14, prefix=1)
    # q = W e_i, k = e_j: the logit of i looking at j is W[j, i] / sqrt(d)
    a, b = (torch.softmax(torch.tensor(q.T / np.sqrt(size), dtype=torch.float32), -1) for q in queries)
    expected = (0.5 * b + 0.5 * torch.eye(size)) @ (0.5 * a + 0.5 * torch.eye(size))
    rollout = activations.attention_rollout(backbone, x)
    torch.testing.assert_close(rollout, expected[:1, 1:].reshape(1, 2, 3), atol=1e-5, rtol=1e-4)
    first = activations.attention_rollout(backbone, x, layers=1)
    torch.testing.assert_close(first[0], (0.5 * a[0, 1:]).reshape(2, 3), atol=1e-5, rtol=1e-4)
    maps = activations.attention_maps(backbone, x, layer=0)
    torch.testing.assert_close(maps[0, 0], a[0, 1:].reshape(2, 3), atol=1e-5, rtol=1e-4)
    assert not any(m._forward_hooks for m in net.modules())
    with pytest.raises(ValueError, match="no attention"):
        activations.Attention(small_net(), 1, print)


def test_patch_colours_are_of_one_basis_or_two_as_said():
    axes = rotation(9)[:3] * np.array([[9.0], [3.0], [1.0]])
    scores = normal(3, 40)
    rgb = (axes.T @ scores).reshape(9, 5, 8)
    gap = 100 * rotation(9)[5][:, None, None]
    one, other, said = activations.patch_pca([rgb], [rgb + gap], "common")
    assert one[0].shape == (5, 8, 3) and said["basis"] == "common"
    assert np.abs(one[0][..., 0] - other[0][..., 0]).min() > 0.8  # the gap is the first component
    one, other, said = activations.patch_pca([rgb], [rgb + gap], "centred")
    np.testing.assert_allclose(one[0], other[0], atol=1e-5)
    assert said["explained"] == {"rgb": pytest.approx(1), "sar": pytest.approx(1)}
    correlation = np.corrcoef(one[0][..., 0].ravel(), scores[0])[0, 1]
    assert abs(correlation) > 0.9
    turned = np.tensordot(rotation(9, seed=3), rgb, 1)
    own = activations.patch_pca([rgb, rgb[:, :2]], [turned], "own")
    assert [m.shape for m in own[0]] == [(5, 8, 3), (2, 8, 3)]
    assert all(m.min() >= 0 and m.max() <= 1 for group in own[:2] for m in group)
    with pytest.raises(ValueError, match="basis"):
        activations.patch_pca([rgb], [rgb], "both")


def head_of(net) -> SimpleNamespace:
    class Backbone(SimpleNamespace):
        def __call__(self, x):
            return {"logits": self.net(x)}

    return Backbone(net=net.requires_grad_(False))


def test_class_activation_before_a_1x1_head_is_the_logit_less_its_bias():
    net, x = small_net(), torch.randn(3, 3, 12, 10)
    everywhere = torch.ones(3, 12, 10, dtype=torch.bool)
    found = activations.class_activation(head_of(net), x, "4", 1, everywhere)
    logit = net(x)[:, 1] - net[5].bias[1]
    torch.testing.assert_close(found, logit.relu(), atol=1e-5, rtol=1e-4)
    assert found.shape == (3, 12, 10) and not any(m._forward_hooks for m in net.modules())
    # an image's map does not depend on its neighbours in the batch
    alone = activations.class_activation(head_of(net), x[:1], "1", 2)
    torch.testing.assert_close(activations.class_activation(head_of(net), x, "1", 2)[:1], alone)
    with torch.inference_mode():  # a caller's, which keeps no gradients
        torch.testing.assert_close(activations.class_activation(head_of(net), x[:1].clone(), "1", 2), alone)
    with pytest.raises(ValueError, match="no layer"):
        activations.class_activation(head_of(net), x, "9", 1)


def test_size_of_layers_is_what_they_hold():
    net = small_net()
    found = activations.size_of(head_of(net), ["0", "5"], (20, 10))
    assert found == {"0": 8 * 20 * 10 * 4, "5": 3 * 20 * 10 * 4}
