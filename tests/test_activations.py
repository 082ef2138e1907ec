"""Numbers of layers against closed forms and scikit-learn; hooks that change nothing and hold little."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from models import activations
from models.activations import Capture, Moments, linear_cka


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


# ---- CKA ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("shape", [(200, 12), (30, 70)])
def test_cka_is_one_for_the_same_thing_turned_shifted_and_scaled(unbiased, shape):
    x = normal(*shape)
    turned = 3 * x @ rotation(shape[1]) + normal(1, shape[1], seed=1)
    assert linear_cka(x, x, unbiased) == pytest.approx(1, abs=1e-9)
    assert linear_cka(x, turned, unbiased) == pytest.approx(1, abs=1e-9)
    assert linear_cka(x, x + normal(*shape, seed=2), unbiased) < 0.95


def test_cka_closed_forms():
    # one column each: CKA is the squared correlation
    a, b = normal(50, 1), normal(50, 1, seed=1) + normal(50, 1)
    assert linear_cka(a, b) == pytest.approx(np.corrcoef(a[:, 0], b[:, 0])[0, 1] ** 2, abs=1e-12)
    # orthogonal columns of equal length: the share of y's variance that x spans, over sqrt of both ranks
    basis = np.linalg.qr(np.c_[np.ones(40), normal(40, 9)])[0][:, 1:]
    assert linear_cka(basis[:, :4], basis[:, 2:9]) == pytest.approx(2 / np.sqrt(4 * 7), abs=1e-12)
    assert linear_cka(basis[:, :4], basis[:, 4:9]) == pytest.approx(0, abs=1e-12)
    assert np.isnan(linear_cka(np.ones((5, 2)), normal(5, 2)))


def test_biased_cka_of_unrelated_data_grows_with_columns_and_the_unbiased_does_not():
    biased, unbiased = [], []
    for seed in range(40):
        x, y = normal(60, 50, seed=seed), normal(60, 50, seed=1000 + seed)
        biased.append(linear_cka(x, y))
        unbiased.append(linear_cka(x, y, unbiased=True))
    assert np.mean(biased) > 0.4
    assert abs(np.mean(unbiased)) < 4 * np.std(unbiased) / np.sqrt(len(unbiased)) < 0.05


def test_unbiased_cka_is_songs_estimator_of_kernels():
    def hsic(k, el):  # Song 2012, eq. 5
        n, one = len(k), np.ones(len(k))
        k, el = k - np.diag(np.diag(k)), el - np.diag(np.diag(el))
        whole = (one @ k @ one) * (one @ el @ one) / ((n - 1) * (n - 2))
        return (np.trace(k @ el) + whole - 2 / (n - 2) * one @ k @ el @ one) / (n * (n - 3))

    x = normal(25, 6) + 5
    y = x[:, :4] @ normal(4, 7, seed=1) + normal(25, 7, seed=2)
    k, el = x @ x.T, y @ y.T
    expected = hsic(k, el) / np.sqrt(hsic(k, k) * hsic(el, el))
    assert linear_cka(x, y, unbiased=True) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("unbiased", [False, True])
def test_moments_in_any_batches_and_order_equal_the_whole(unbiased):
    x, y = 1e4 + normal(300, 10), normal(300, 7, seed=1)
    y[:, :5] += x[:, :5] - 1e4
    order = np.random.default_rng(2).permutation(300)
    stream = Moments()
    for rows in np.split(order, [1, 2, 50, 50, 211]):
        stream.add(x[rows].astype(np.float32), y[rows])
    x = x.astype(np.float32)
    assert stream.rows == 300
    assert stream.cka(unbiased) == pytest.approx(linear_cka(x, y, unbiased), rel=1e-10)
    assert stream.effective_rank("x") == pytest.approx(activations.effective_rank(x), rel=1e-10)
    assert stream.effective_rank("y") == pytest.approx(activations.effective_rank(y), rel=1e-10)


def test_moments_hold_the_same_memory_for_any_number_of_rows():
    def held(stream):
        return sum(v.nbytes for v in vars(stream).values() if isinstance(v, np.ndarray))

    stream = Moments()
    stream.add(normal(4, 5), normal(4, 6))
    before = held(stream)
    for seed in range(20):
        stream.add(normal(400, 5, seed=seed), normal(400, 6))
    assert held(stream) == before


def test_rows_that_cannot_be_paired_or_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 2\) and \(4, 2\)"):
        linear_cka(normal(5, 2), normal(4, 2))
    with pytest.raises(ValueError, match="NaN"):
        linear_cka(np.full((5, 2), np.nan), normal(5, 2))
    with pytest.raises(ValueError, match="at least 4 rows, found 3"):
        linear_cka(normal(3, 2), normal(3, 2), unbiased=True)


# ---- rank, sparsity ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_counts_equal_directions(rank):
    basis = np.linalg.qr(np.c_[np.ones(64), normal(64, 8)])[0][:, 1 : rank + 1]
    x = basis @ rotation(20)[:rank] + 7
    stream = Moments()
    stream.add(x)
    assert activations.effective_rank(x) == pytest.approx(rank, rel=1e-6)
    assert stream.effective_rank() == pytest.approx(rank, rel=1e-5)


def test_effective_rank_of_unequal_directions_and_of_nothing():
    basis = np.linalg.qr(np.c_[np.ones(64), normal(64, 8)])[0][:, 1:3]
    share = np.array([0.75, 0.25])  # singular values 3 and 1
    expected = np.exp(-(share * np.log(share)).sum())
    assert activations.effective_rank(basis * [3, 1]) == pytest.approx(expected, rel=1e-6)
    assert np.isnan(activations.effective_rank(np.ones((9, 4))))


def test_sparsity_of_one_channel_of_all_and_of_a_stream():
    one, all_equal = np.eye(6), np.full((3, 16), -2.0)
    assert activations.sparsity(one) == {"zero": pytest.approx(5 / 6), "hoyer": pytest.approx(1)}
    assert activations.sparsity(all_equal) == {"zero": 0, "hoyer": pytest.approx(0, abs=1e-12)}
    assert activations.sparsity(np.zeros((4, 5))) == {"zero": 1, "hoyer": None}
    x = np.maximum(normal(90, 12), 0)
    stream = activations.Sparsity()
    for rows in np.split(x, [5, 40]):
        stream.add(rows)
    assert stream.result() == {k: pytest.approx(v) for k, v in activations.sparsity(x).items()}


# ---- AUC ---------------------------------------------------------------------------------------------------


def test_auc_of_channels_is_scikit_learns_with_ties_and_sign():
    positive = np.random.default_rng(0).random(400) < 0.2
    x = normal(400, 5).astype(np.float32) + positive[:, None] * np.array([0, 1, -1, 3, 0.5], np.float32)
    x[:, 4] = np.round(x[:, 4])  # many ties
    x = np.c_[x, np.ones(400), np.where(positive, -1, 1)].astype(np.float32)
    found = activations.channel_auc(x, positive)
    np.testing.assert_allclose(found, [roc_auc_score(positive, c) for c in x.T], atol=1e-12)
    assert found[2] < 0.4 and found[5] == 0.5 and found[6] == 0
    assert [i for i, _ in activations.best_channels(found, 2)] == [6, 3]
    assert np.isnan(activations.channel_auc(x, np.ones(400, bool))).all()


def test_sample_is_exact_while_it_holds_all_and_knows_no_order_of_images():
    images = [(normal(50, 3, seed=s), np.random.default_rng(s).random(50) < 0.3) for s in range(12)]
    x, positive = (np.concatenate(parts) for parts in zip(*images, strict=True))
    small, shuffled, whole = (activations.Sample(n, seed=1) for n in (40, 40, 10_000))
    for key, image in enumerate(images):
        small.add(*image, key)
        whole.add(*image, key)
    for key in np.random.default_rng(0).permutation(12):
        shuffled.add(*images[key], int(key))
    np.testing.assert_array_equal(whole.auc(), activations.channel_auc(x, positive))
    rows, labels = small.rows()
    assert len(rows) == 80 and labels.sum() == 40 and small.seen == [(~positive).sum(), positive.sum()]
    np.testing.assert_array_equal(rows, shuffled.rows()[0])
    assert abs(small.auc() - whole.auc()).max() < 0.25 and (small.auc() != whole.auc()).any()
    assert activations.Sample().auc().shape == (0,)


def test_mask_pooled_to_the_grid_of_a_layer():
    mask = np.zeros((8, 8), np.uint8)
    mask[:4, :4], mask[:4, 4:6], mask[4:, :4], mask[4:7, 4:] = 1, 1, 255, 255
    share, counts = activations.pool_mask(mask, (2, 2))
    np.testing.assert_array_equal(counts, [[True, True], [False, False]])
    np.testing.assert_allclose(share, [[1, 0.5], [np.nan, np.nan]])
    finer, _ = activations.pool_mask(mask, (16, 16))
    np.testing.assert_array_equal(np.nan_to_num(finer[::2, ::2], nan=255), mask)
    rows = activations.as_rows(torch.arange(24.0).reshape(1, 3, 2, 4), np.arange(8).reshape(1, 2, 4) == 5)
    np.testing.assert_array_equal(rows, [[5, 13, 21]])


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
