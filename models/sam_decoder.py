"""SAM's mask decoder in an order that suits many prompts of one image: the same masks, some 4 times faster.

    small, scores = small_masks(net.mask_decoder, image, position, sparse)     # MaskDecoder.predict_masks
    logits = to_image(small, (height, width))                                  # Sam.postprocess_masks

segment_anything (Kirillov 2023, arXiv:2304.02643) repeats the image for each prompt and projects its 4096
places in each attention. Here the projections of the places are multiplied into the prompt's few tokens
instead, and prompts share the image until the first layer tells them apart. Needs torch, segment_anything.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.utils.transforms import ResizeLongestSide
from torch import nn

SIDE = 1024  # pixels of the square frame the encoder sees


def small_masks(decoder, image: torch.Tensor, position: torch.Tensor, sparse: torch.Tensor):
    """MaskDecoder.predict_masks: (P, 4, 256, 256) and (P, 4).

    image: (P or 1, 256, 64, 64) with the dense prompt added, position: (1, 256, 64, 64), sparse: (P, N, 256).
    """
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    asked = torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)  # P T 256
    places = position.flatten(2).transpose(1, 2).contiguous()  # 1 4096 256
    pixels = image.flatten(2).transpose(1, 2).contiguous()  # P or 1, 4096 256
    found = asked
    for layer in decoder.transformer.layers:
        if layer.skip_first_layer_pe:
            found = layer.norm1(layer.self_attn(found, found, found))
        else:
            placed = found + asked
            found = layer.norm1(found + layer.self_attn(placed, placed, found))
        there = pixels + places
        found = layer.norm2(found + ask_pixels(layer.cross_attn_token_to_image, found + asked, there, pixels))
        found = layer.norm3(found + layer.mlp(found))
        told = ask_tokens(layer.cross_attn_image_to_token, there, found + asked, found)
        pixels = layer.norm4(pixels + told)
    final, norm = decoder.transformer.final_attn_token_to_image, decoder.transformer.norm_final_attn
    found = norm(found + ask_pixels(final, found + asked, pixels + places, pixels))
    scores = decoder.iou_prediction_head(found[:, 0])
    nets = decoder.output_hypernetworks_mlps
    weights = torch.stack([net(found[:, 1 + k]) for k, net in enumerate(nets)], dim=1)  # P 4 32
    masks = weights @ enlarge(decoder.output_upscaling, pixels).transpose(1, 2)  # P 4 65536
    masks = masks.unflatten(2, (64, 64, 2, 2, 2, 2)).permute(0, 1, 2, 4, 6, 3, 5, 7)
    return masks.reshape(len(masks), -1, 256, 256), scores


def ask_pixels(attention, asked: torch.Tensor, there: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """segment_anything's Attention(q=asked, k=there, v=pixels): (P, T, 256).

    q.(W k) = (q W).k, and the bias of k is the same for all pixels, so that softmax drops it.
    """
    heads = attention.num_heads
    query = attention.q_proj(asked).unflatten(2, (heads, -1))  # P T heads depth
    by_key = attention.k_proj.weight.unflatten(0, (heads, -1)) / query.shape[-1] ** 0.5  # heads depth 256
    looked = torch.einsum("pthd,hdc->pthc", query, by_key).flatten(1, 2)
    weights = (looked @ there.transpose(1, 2)).softmax(-1)  # P T*heads 4096
    seen = (weights @ pixels).unflatten(1, (-1, heads))  # P T heads 256
    by_value = attention.v_proj.weight.unflatten(0, (heads, -1))
    value = torch.einsum("pthc,hdc->pthd", seen, by_value).flatten(2) + attention.v_proj.bias
    return attention.out_proj(value)


def ask_tokens(attention, there: torch.Tensor, asked: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """segment_anything's Attention(q=there, k=asked, v=found): (P, 4096, 256)."""
    heads = attention.num_heads
    key = attention.k_proj(asked).unflatten(2, (heads, -1))
    key = key / key.shape[-1] ** 0.5  # P T heads depth
    value = attention.v_proj(found).unflatten(2, (heads, -1))
    by_query, bias = (x.unflatten(0, (heads, -1)) for x in (attention.q_proj.weight, attention.q_proj.bias))
    looked = torch.einsum("pthd,hdc->phtc", key, by_query).flatten(1, 2)  # P heads*T 256
    weights = (looked @ there.transpose(1, 2)).unflatten(1, (heads, -1))  # P heads T 4096
    weights = (weights + torch.einsum("pthd,hd->pht", key, bias)[..., None]).softmax(2)
    given = torch.einsum("pthd,chd->phtc", value, attention.out_proj.weight.unflatten(1, (heads, -1)))
    return weights.flatten(1, 2).transpose(1, 2) @ given.flatten(1, 2) + attention.out_proj.bias


def enlarge(upscaling: nn.Sequential, pixels: torch.Tensor) -> torch.Tensor:
    """MaskDecoder.output_upscaling on (P, 4096, 256): (P, 65536, 32), 4 x 4 of a place side by side."""
    for layer in upscaling:
        if isinstance(layer, nn.ConvTranspose2d):  # 2 x 2 of stride 2: one product a place
            weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)
            pixels = F.linear(pixels, weight, layer.bias.repeat(4)).unflatten(2, (4, -1)).flatten(1, 2)
        elif isinstance(layer, LayerNorm2d):
            pixels = F.layer_norm(pixels, layer.weight.shape, layer.weight, layer.bias, layer.eps)
        else:
            pixels = layer(pixels)
    return pixels


def to_image(small: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The decoder's (P, C, 256, 256) at the image's pixels: Sam.postprocess_masks, some 10 times faster.

    It enlarges to 1024, cuts the frame's empty part off and resizes to the image, both bilinearly and so one
    matrix a side: rows @ small @ columns.
    """
    height, width = ResizeLongestSide.get_preprocess_shape(*size, SIDE)
    rows = resize_matrix(small.shape[-2], height, size[0]).to(small)
    columns = resize_matrix(small.shape[-1], width, size[1]).to(small)
    return rows @ small @ columns.T


@lru_cache(maxsize=16)
def resize_matrix(small: int, used: int, pixels: int) -> torch.Tensor:
    """(pixels, small): one side's `small` enlarged to the frame, its first `used` resized to `pixels`."""
    unit = torch.eye(small)[:, None]  # small 1 small
    large = F.interpolate(unit, SIDE, mode="linear")[..., :used]
    return F.interpolate(large, pixels, mode="linear")[:, 0].T
