import pytest
import torch

from models.losses import LOSSES, count_valid, segmentation_loss


def batch(seed=0, images=4, size=16):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, 1, size, size, generator=random)
    mask = torch.randint(0, 2, (images, size, size), generator=random).to(torch.uint8)
    mask[:, :4] = 255
    return logits, mask


@pytest.mark.parametrize("loss", LOSSES)
def test_no_data_never_changes_a_loss_or_its_gradient(loss):
    logits, mask = batch()
    values = []
    for fill in (0.0, 50.0, -50.0):
        given = logits.clone()
        given[:, :, :4] = fill
        given.requires_grad_(True)
        value = segmentation_loss(given, mask, *count_valid(mask), loss)
        value.backward()
        assert given.grad[:, :, :4].abs().max() == 0
        values.append((value.item(), given.grad[:, :, 4:].clone()))
    assert all(value == values[0][0] and torch.equal(grad, values[0][1]) for value, grad in values)


@pytest.mark.parametrize("loss", LOSSES)
def test_parts_of_a_batch_add_up_to_the_whole(loss):
    logits, mask = batch(1)
    mask[2] = 255  # an image without a label weighs nothing
    counts = count_valid(mask)
    whole = segmentation_loss(logits, mask, *counts, loss, 3.0)
    parts = sum(
        segmentation_loss(x, y, *counts, loss, 3.0)
        for x, y in zip(logits.split(1), mask.split(1), strict=True)
    )
    assert counts == (3 * 12 * 16, 3)
    assert parts.item() == pytest.approx(whole.item(), abs=1e-6)


def test_bce_equals_torch_and_dice_its_formula():
    logits, mask = batch(2)
    valid = mask != 255
    counts = count_valid(mask)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[:, 0][valid], (mask == 1).float()[valid]
    )
    assert segmentation_loss(logits, mask, *counts, "bce").item() == pytest.approx(expected.item(), abs=1e-6)
    dice = []
    for x, y in zip(logits[:, 0], mask, strict=True):
        p, t = torch.sigmoid(x[y != 255]), (y[y != 255] == 1).float()
        dice.append(1 - (2 * (p * t).sum() + 2) / (p.sum() + t.sum() + 2))
    assert segmentation_loss(logits, mask, *counts, "dice").item() == pytest.approx(
        torch.stack(dice).mean().item(), abs=1e-6
    )
    both = segmentation_loss(logits, mask, *counts, "bce-dice").item()
    assert both == pytest.approx(expected.item() + torch.stack(dice).mean().item(), abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_perfect_answer_costs_almost_nothing_and_nothing_valid_costs_nothing(loss):
    _, mask = batch(3)
    perfect = torch.where(mask == 1, 30.0, -30.0)[:, None]
    assert segmentation_loss(perfect, mask, *count_valid(mask), loss).item() < 1e-3
    empty = torch.full_like(mask, 255)
    assert segmentation_loss(perfect, empty, *count_valid(empty), loss).item() == 0


def test_low_precision_logits_are_summed_in_float32():
    logits, mask = batch(4, images=2, size=256)
    counts = count_valid(mask)
    exact = segmentation_loss(logits.bfloat16().float(), mask, *counts).item()
    assert segmentation_loss(logits.bfloat16(), mask, *counts).item() == pytest.approx(exact, rel=1e-6)


def test_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="bce-dice"):
        segmentation_loss(*batch(), 1, 1, "nonsense")
