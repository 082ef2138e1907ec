"""Weights of torch modules back out of their ONNX exports, under torch's names. Needs numpy, onnx.

    tensors = dinov2_tensors(onnx_file)                  # {name: array}, as on the hub
    tensors = mobile_sam_tensors(encoder, decoder)       # as in mobile_sam.pt

The exporter renamed and transposed some: named_tensors puts them back.
"""

from itertools import pairwise


def named_tensors(onnx_file: bytes) -> dict:
    """Weights of an exported torch module by their names there, as arrays.

    The exporter keeps the names of most, and calls those it transposed or folded onnx::Something_123. Those
    are named after the node that uses them: /layers.1/mlp/fc1/MatMul has layers.1.mlp.fc1.weight, transposed.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(onnx_file).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {name: array for name, array in arrays.items() if not name.startswith("onnx::")}
    for node in graph.node:
        if node.op_type == "Constant":
            arrays[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            continue
        *scopes, last = node.name.strip("/").split("/")
        module = ".".join(a for a, b in pairwise([*scopes, ""]) if not b.startswith(a + "."))
        for name in node.input:
            array = arrays.get(name)
            if array is None or name in found or array.size == 1:
                continue
            if not name.startswith("onnx::") and (node.op_type, array.ndim) != ("Add", 3):
                continue  # a constant, but of attention biases
            if not module:
                found[last] = array
            elif node.op_type == "MatMul":
                found[f"{module}.weight"] = array.T
            else:
                kind = "weight" if node.op_type == "Mul" or array.ndim == 4 else "bias"
                kind = node.op_type if node.op_type in ("Reshape", "Concat") else kind
                found[f"{module}.{kind}"] = array.reshape(-1) if array.shape[1:] == (1, 1) else array
    return found


def mobile_sam_tensors(encoder: bytes, decoder: bytes) -> dict:
    """Tensors under the names of MobileSAM's mobile_sam.pt, without its unused ImageNet head.

    BatchNorm was folded into the convolutions: it is put back as one that only adds the bias, so what lies
    between the two differs from the original's. TinyViT's attention biases were spread over all pairs of a
    window's pixels: the row of the first pixel is the table.
    """
    import numpy as np

    tensors = {}
    for name, array in named_tensors(encoder).items():
        name = f"image_encoder.{name}"
        if name.endswith(".attn.bias"):
            name, array = name.removesuffix("bias") + "attention_biases", array[:, 0]
        if name.endswith(".c.bias"):
            norm = name.removesuffix("c.bias") + "bn"
            tensors[f"{norm}.weight"] = np.ones_like(array)
            tensors[f"{norm}.running_mean"] = np.zeros_like(array)
            tensors[f"{norm}.running_var"] = np.full_like(array, 1 - 1e-5)  # 1 with the 1e-5 torch adds
            name = f"{norm}.bias"
        tensors[name] = array
    rest = named_tensors(decoder)
    tokens, no_mask = rest.pop("Expand_1"), rest.pop("Mul_9")
    tensors["mask_decoder.iou_token.weight"] = tokens[0, :1]
    tensors["mask_decoder.mask_tokens.weight"] = tokens[0, 1:]
    tensors["prompt_encoder.no_mask_embed.weight"] = no_mask.reshape(1, -1)
    for name, array in rest.items():
        if name.startswith("mask_downscaling."):
            name = f"prompt_encoder.{name}"
        elif name.startswith(("transformer.", "output_upscaling.")):
            name = f"mask_decoder.{name}"
        tensors[name.removeprefix("model.")] = array
    return tensors


def dinov2_tensors(onnx_file: bytes) -> dict:
    """Tensors of the backbone under the names on the hub, which from_pretrained of any transformers reads."""
    import numpy as np

    tensors = {
        name.removeprefix("backbone."): array
        for name, array in named_tensors(onnx_file).items()
        if name.startswith("backbone.")
    }
    first, patches = tensors.pop("embeddings.Concat"), tensors.pop("embeddings.Reshape")
    tensors["embeddings.position_embeddings"] = np.concatenate([first, patches], axis=1)
    tensors["embeddings.mask_token"] = np.zeros((1, 384), np.float32)  # of training alone, so not exported
    return tensors
