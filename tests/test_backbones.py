"""CLIP, DINOv2 and DeepLabV3: loading and refusing, the input, layers; tiny nets of their real classes.

The slow tests take trained weights: packaged ones of DINOv2, and DeepLabV3 of ../shared/data/weights.
"""

import hashlib
import io
import json
import shutil
import socket
import time

import numpy as np
import pytest
import torch
from conftest import SHARED
from safetensors.torch import load_file, save_file

from models import activations, backbones, hub_files, representations, torchvision_files

TINY = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
FAMILIES = ("clip", "dinov2", "deeplabv3")


def save_tiny(family: str, folder):
    """A folder of transformers with a tiny random network of a family."""
    import transformers as t

    torch.manual_seed(1)
    if family == "clip":
        net = t.CLIPVisionModel(t.CLIPVisionConfig(**TINY, image_size=32, patch_size=8))
    elif family == "dinov2":
        net = t.Dinov2Model(t.Dinov2Config(**TINY, image_size=70, patch_size=14))
    else:
        labels = dict(enumerate(("background", "snow", "cat")))
        config = t.MobileNetV2Config(depth_multiplier=0.25, image_size=65, output_stride=16, id2label=labels)
        net = t.MobileNetV2ForSemanticSegmentation(config)
    net.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("tiny")
    return {family: save_tiny(family, base / family) for family in FAMILIES}


@pytest.fixture(scope="module")
def tiny(tiny_folders):
    return {family: backbones.load(family, folder) for family, folder in tiny_folders.items()}


@pytest.fixture(scope="module")
def deeplab():
    folder = SHARED / "weights" / "deeplabv3_mnv2_voc"
    if not folder.is_dir():
        pytest.skip(
            "DeepLabV3 weights are not there: ../shared/data/weights, relative to the repository, is absent"
        )
    return backbones.load("deeplabv3", folder)


@pytest.fixture(scope="module")
def dinov2(weights_dir):
    return backbones.load("dinov2", weights_dir / "dinov2-small")


def noise(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def refused(*arguments, **more) -> str:
    """The one sentence of the ValueError that load raises."""
    with pytest.raises(ValueError) as caught:
        backbones.load(*arguments, **more)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) < 500
    return sentence


# ---- the input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_input_is_normalised_and_of_the_longer_sides_size(tiny, family):
    backbone = tiny[family]
    grey = np.full((2, 30, 60, 3), 128, np.uint8)
    x = backbones.prepare(backbone, grey)
    assert x.shape[-1] == backbone.size and x.shape[-2] % backbone.patch == 0
    assert abs(x.shape[-2] - backbone.size / 2) <= backbone.patch / 2 + 1
    for channel in range(3):
        value = (128 / 255 - backbone.mean[channel]) / backbone.std[channel]
        torch.testing.assert_close(x[:, channel], torch.full_like(x[:, channel], value))
    with torch.no_grad():
        out = backbone(x)
    assert {"clip": "tokens", "dinov2": "tokens", "deeplabv3": "logits"}[family] in out


def test_image_of_the_size_is_not_resampled_and_no_value_overshoots(tiny):
    backbone = tiny["clip"]
    image = noise(1, 32, 32, 3)
    x = backbones.prepare(backbone, image)
    back = x * torch.tensor(backbone.std).view(3, 1, 1) + torch.tensor(backbone.mean).view(3, 1, 1)
    np.testing.assert_allclose(back.permute(0, 2, 3, 1) * 255, image, atol=1e-3)
    edge = np.repeat(np.where(np.arange(64) < 32, 0, 255).astype(np.uint8), 64 * 3).reshape(1, 64, 64, 3)
    x = backbones.prepare(backbone, edge) * torch.tensor(backbone.std).view(3, 1, 1)
    x = x + torch.tensor(backbone.mean).view(3, 1, 1)
    assert x.min() > -1e-6 and x.max() < 1 + 1e-6


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 8, 8, 3), np.float32), noise(8, 8, 3), noise(1, 3, 8, 8), noise(0, 8, 8, 3)]
)
def test_what_is_no_picture_is_refused_loudly(tiny, wrong):
    with pytest.raises(TypeError, match="expected"):
        backbones.prepare(tiny["clip"], wrong)


def test_processor_file_states_the_input(tiny_folders, tmp_path):
    folder = save_tiny("deeplabv3", tmp_path / "net")
    said = {"crop_size": {"height": 48, "width": 48}, "size": {"shortest_edge": 64}, "image_mean": [0.1] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps({**said, "image_std": [0.2] * 3}))
    read = backbones.load("deeplabv3", folder)
    assert (read.size, read.mean, read.std, read.reverse) == (48, (0.1,) * 3, (0.2,) * 3, False)
    # as MobileViT's DeepLabV3: BGR of 0..1
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_flip_channel_order": True}))
    read = backbones.load("deeplabv3", folder)
    image = noise(1, 65, 65, 3)
    x = backbones.prepare(read, image)
    np.testing.assert_allclose(x[0].permute(1, 2, 0), image[0, ..., ::-1] / 255, atol=1e-6)
    (folder / "preprocessor_config.json").write_text("{")
    assert "preprocessor_config.json: not readable as JSON" in refused("deeplabv3", folder)


def test_size_is_a_multiple_of_the_patch(tiny_folders):
    assert backbones.load("dinov2", tiny_folders["dinov2"], size=42).size == 42
    assert "multiple of the patch of 14 pixels" in refused("dinov2", tiny_folders["dinov2"], size=40)


# ---- files of others ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["config", "attention", "backbone"])
def test_no_code_of_a_folder_runs_and_nobody_is_asked(where, tmp_path, monkeypatch, capfd):
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    auto = {"AutoConfig": "evil.C", "AutoModelForSemanticSegmentation": "evil.M"}
    config = {
        "config": {"model_type": "strange", "auto_map": auto},
        "attention": {"model_type": "segformer", "_attn_implementation": "evil/kernel"},
        "backbone": {"model_type": "upernet", "backbone_config": {"model_type": "strange", "auto_map": auto}},
    }[where]
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    sentence = refused("deeplabv3", tmp_path)
    assert ("code of its own" in sentence) == (where != "backbone") and "trust_remote_code" not in sentence
    assert not ran.exists() and "custom code" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("tensors", [
    {"classifier.4.bias": 3}, {"classifier.4.bias": torch.tensor(3.0)}, {"classifier.4.bias": torch.ones(0)},
    {"classifier.4.bias": torch.ones(1).expand(10**12)}, {"classifier.4.bias": torch.ones(2), 5: "text"},
    {"classifier.4.bias": torch.ones(2)}, [1], 3,
])  # fmt: skip
def test_a_file_of_anything_is_one_sentence(tensors, tmp_path):
    torch.save(tensors, tmp_path / "net.pth")
    assert refused("deeplabv3", tmp_path / "net.pth").startswith(str(tmp_path / "net.pth"))


@pytest.mark.parametrize("said", [
    "[1]", '{"size": "large"}', '{"size": {"shortest_edge": "x"}}', '{"size": {}}', '{"crop_size": -3}',
    '{"crop_size": 1e400}', '{"size": [64]}x', '{"size": 1000000}', '{"image_mean": [1, 2]}',
    '{"size": true}', '{"image_mean": 0.5}', '{"image_std": [0, 1, 1]}', '{"image_std": ["a", 1, 1]}',
    '{"image_mean": [NaN, 1, 1]}',
])  # fmt: skip
def test_a_processor_of_anything_is_one_sentence(tiny_folders, said, tmp_path):
    shutil.copytree(tiny_folders["dinov2"], tmp_path / "net")
    (tmp_path / "net" / "preprocessor_config.json").write_text(said)
    sentence = refused("dinov2", tmp_path / "net")
    assert "preprocessor_config.json: " in sentence and ("expected" in sentence or "JSON" in sentence)


@pytest.mark.parametrize("change", [
    {"hidden_size": "big"}, {"hidden_size": -4}, {"num_hidden_layers": None}, {"patch_size": 0},
    {"image_size": "x"}, {"num_attention_heads": 0}, {"model_type": 7}, {"hidden_act": "nothing"},
])  # fmt: skip
def test_a_config_of_anything_is_one_sentence(tiny_folders, change, tmp_path):
    shutil.copytree(tiny_folders["dinov2"], tmp_path / "net")
    file = tmp_path / "net" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert str(tmp_path / "net") in refused("dinov2", tmp_path / "net")


def test_no_advice_to_run_a_files_code_is_passed_on(tiny_folders, tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("code of a weights file ran",))

    shutil.copytree(tiny_folders["dinov2"], tmp_path / "net")
    (tmp_path / "net" / "model.safetensors").unlink()
    torch.save({"layernorm.weight": Evil()}, tmp_path / "net" / "pytorch_model.bin")
    torch.save({"classifier.4.bias": Evil()}, tmp_path / "net.pth")
    for sentence in refused("dinov2", tmp_path / "net"), refused("deeplabv3", tmp_path / "net.pth"):
        assert "weights_only" not in sentence and "UnpicklingError" in sentence


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    said, began = [], time.time()
    assert "the hub does not answer" in refused("clip", "nobody/nothing", say=said.append)
    assert time.time() - began < 2 and not said
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes the call and says nothing
        monkeypatch.setattr(
            huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}"
        )
        monkeypatch.setattr(hub_files, "ANSWER_S", 0.2)
        assert "the hub does not answer" in refused("clip", "nobody/nothing", say=said.append)
    assert time.time() - began < 4 and not said


# ---- weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_weight_is_one_sentence_with_all_three_ways(family, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for weights in (None, "nobody/nothing", str(tmp_path / "absent" / "folder")):
        sentence = refused(family, weights)
        for word in (backbones.HUB[family], "--weights PATH", "python -m data_prep.weights", f"for {family}"):
            assert word in sentence


def test_weights_of_another_family_or_incomplete_or_broken_are_refused(tiny_folders, tmp_path):
    assert "expected a model of type clip, found dinov2" in refused("clip", tiny_folders["dinov2"])
    assert "not a deeplabv3 model" in refused("deeplabv3", tiny_folders["dinov2"])
    assert "found no config.json" in refused("clip", tmp_path)
    assert "expected one of clip, dinov2, deeplabv3" in refused("vgg")

    folder = save_tiny("dinov2", tmp_path / "cut")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    less = {name: value for name, value in tensors.items() if "layer.1.mlp" not in name}
    save_file(less, file, {"format": "pt"})
    sentence = refused("dinov2", folder)
    assert f"found {len(tensors) - len(less)} missing" in sentence and "layer.1.mlp" in sentence
    tensors["layernorm.weight"] = torch.ones(7)
    save_file(tensors, file, {"format": "pt"})
    assert str(folder) in refused("dinov2", folder)
    file.write_bytes(file.read_bytes()[:100])
    assert str(folder) in refused("dinov2", folder)
    file.unlink()
    assert "model.safetensors" in refused("dinov2", folder)
    (folder / "config.json").write_text("{")
    assert "config.json" in refused("dinov2", folder)


def test_provenance_comes_from_the_file_then_the_config_then_the_name(tiny_folders, tmp_path):
    folder = save_tiny("dinov2", tmp_path / "net")
    said = backbones.load("dinov2", folder).provenance
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert said == f"DINOv2 ViT of 3 x 32/14, net, sha256 {found[:12]}"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "provenance": "of the config"}))
    assert backbones.load("dinov2", folder).provenance == "of the config"
    file = folder / "model.safetensors"
    save_file(load_file(file), file, {"format": "pt", "provenance": "of the file"})
    assert backbones.load("dinov2", folder).provenance == "of the file"


def test_a_whole_clip_gives_its_eye(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    vision = {**TINY, "image_size": 32, "patch_size": 8}
    whole = CLIPModel(CLIPConfig(text_config={**TINY, "vocab_size": 50}, vision_config=vision)).eval()
    whole.save_pretrained(tmp_path)
    eye = backbones.load("clip", tmp_path)
    x = backbones.prepare(eye, noise(2, 32, 32, 3))
    with torch.no_grad():
        expected = whole.vision_model(x).last_hidden_state
        torch.testing.assert_close(eye(x)["tokens"], expected)


def test_torchvisions_file_tells_its_network_and_labels(tmp_path):
    torch.manual_seed(0)
    net = torchvision_files.torchvision_network("deeplabv3_mobilenet_v3_large", 21, True).eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    read = backbones.load("deeplabv3", tmp_path / "net.pth", size=64)
    assert read.name == "deeplabv3_mobilenet_v3_large" and read.labels[15] == "person"
    assert read.provenance.startswith("DeepLabV3 on MobileNetV3, net.pth, sha256 ") and not read.random
    x = backbones.prepare(read, noise(2, 50, 64, 3))
    with torch.no_grad():
        assert torch.equal(read(x)["logits"], net(x)["out"])
    kinds = backbones.layers(read)
    assert set(dict(kinds).values()) == {"map", "vector"} and "aux_classifier.4" in dict(kinds)
    squeezed = {name for name, kind in kinds if kind == "vector"}
    assert squeezed and all(
        any(part in name for part in ("avgpool", "fc", "activation", "scale", "convs.4")) for name in squeezed
    )
    assert backbones.blocks(read)[0] == "backbone.0" and len(backbones.blocks(read)) == 17
    floor = backbones.floor(read)
    assert floor.random and backbones.layers(floor) == kinds
    # batch norms of the floor have seen images: without, its last block is at 40 and half of it zero
    x = backbones.prepare(floor, noise(2, 8, 8, 3).repeat(8, 1).repeat(8, 2))
    with torch.no_grad(), activations.Capture(floor.net, ["backbone.16"]) as capture:
        floor(x)
    assert 0.1 < capture.outputs["backbone.16"].std() < 8

    class Evil:
        def __reduce__(self):
            return (print, ("code of a weights file ran",))

    torch.save({"classifier.4.bias": Evil()}, tmp_path / "evil.pth")
    assert "not a file of tensors" in refused("deeplabv3", tmp_path / "evil.pth")
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    assert "none named classifier.4.bias" in refused("deeplabv3", tmp_path / "other.pth")
    cut = {name: value for name, value in net.state_dict().items() if "backbone.4" not in name}
    torch.save(cut, tmp_path / "cut.pth")
    assert "does not fit torchvision's deeplabv3_mobilenet_v3_large" in refused(
        "deeplabv3", tmp_path / "cut.pth"
    )
    assert "does not exist" in refused("deeplabv3", tmp_path / "absent.pth")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_random_floor_has_the_same_layers_and_seeded_weights_of_its_own(tiny, family):
    backbone = tiny[family]
    state = torch.random.get_rng_state()
    floor, again, other = (backbones.floor(backbone, seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    assert floor.random and floor.provenance == "random weights (seed 3)" and not backbone.random
    assert backbones.layers(floor) == backbones.layers(backbone)
    x = backbones.prepare(backbone, noise(2, 70, 70, 3))
    with torch.no_grad():
        outs = [next(iter(b(x).values())) for b in (floor, again, other, backbone)]
    assert torch.equal(outs[0], outs[1])
    assert not torch.allclose(outs[0], outs[2]) and not torch.allclose(outs[0], outs[3])
    # no floor if the image no longer matters in the last layer
    assert (outs[0][0] - outs[0][1]).std() > 1e-2 * outs[0].std()


# ---- layers ------------------------------------------------------------------------------------------------


def dump_all(backbone, x, folder) -> dict[str, tuple[int, ...]]:
    """Every layer captured and written by name; outputs must stay equal to the bit, sizes as said before."""
    names = [name for name, _ in backbones.layers(backbone)]
    with torch.no_grad():
        plain = next(iter(backbone(x).values()))
        with activations.Capture(backbone.net, names) as capture:
            hooked = next(iter(backbone(x).values()))
    assert torch.equal(plain, hooked)
    assert list(capture.outputs) and set(capture.outputs) == set(names)
    save_file(
        {name: value.contiguous() for name, value in capture.outputs.items()}, folder / "all.safetensors"
    )
    read = load_file(folder / "all.safetensors")
    assert all(torch.isfinite(value).all() for value in read.values())
    sizes = activations.size_of(backbone, names, x.shape)
    constant = {name for name, kind in backbones.layers(backbone) if kind == "constant"}
    for name, value in read.items():
        images = 1 if name in constant else len(x)
        assert value.numel() * value.element_size() == sizes[name] * images, name
    return {name: tuple(value.shape) for name, value in read.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_can_be_dumped_and_outputs_do_not_change(tiny, family, tmp_path):
    backbone = tiny[family]
    x = backbones.prepare(backbone, noise(3, 40, 40, 3))
    shapes = dump_all(backbone, x, tmp_path)
    leaves = {
        n
        for n, m in backbone.net.named_modules()
        if n and not any(m.children()) and len(list(m.parameters()))
    }
    never = {"embeddings.position_embedding"}  # an embedding of CLIP where positions are interpolated
    assert leaves - set(shapes) <= never
    for name, kind in backbones.layers(backbone):
        dimensions = {"map": (4,), "tokens": (3,), "patches": (3,), "vector": (2, 4)}
        assert kind == "constant" or len(shapes[name]) in dimensions[kind], (name, kind, shapes[name])
        assert kind != "vector" or set(shapes[name][2:]) <= {1}
    blocks = backbones.blocks(backbone)
    assert len(blocks) == {"clip": 3, "dinov2": 3, "deeplabv3": 16}[family]


KINDS = {  # of what Shapes gives
    "map": "map", "coarse": "map", "last": "other", "windows": "other", "attention": "other",
    "turned": "other", "rows": "other", "pooled": "vector", "mean": "vector", "fixed": "other",
    "positions": "constant", "tables": "constant", "number": "other", "heads": "other",
}  # fmt: skip


class Shapes(torch.nn.Module):
    """Modules that give a picture in the ways networks do, of the kinds that KINDS says."""

    def __init__(self):
        super().__init__()
        self.parts = torch.nn.ModuleDict({name: torch.nn.Identity() for name in KINDS})
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        pooled = torch.nn.functional.avg_pool2d
        small = pooled(x, 8).repeat(1, 4, 1, 1)  # B 12 h/8 w/8
        _, channels, h, w = small.shape
        flat = small.flatten(2)
        gives = {
            "map": x, "coarse": pooled(x, 32, ceil_mode=True), "last": small.permute(0, 2, 3, 1),
            "windows": small.unflatten(2, (-1, 4)).unflatten(4, (-1, 4)).permute(0, 2, 4, 1, 3, 5)
            .reshape(-1, channels, 4, 4),
            "attention": (flat.mT @ flat)[:, None], "turned": flat.unflatten(1, (4, 3)), "rows": flat.mT,
            "pooled": small.mean((2, 3), keepdim=True), "mean": small.mean((2, 3)),
            "fixed": torch.nn.functional.adaptive_avg_pool2d(x, (6, 6)), "positions": torch.ones(1, h * w, 4),
            "tables": torch.ones(4, 5, 5), "number": x.mean(),
            "heads": x.repeat(4, 1, 1, 1),
        }  # fmt: skip
        for name, value in gives.items():
            self.parts[name](value)
        return {"out": x}


def test_only_what_scales_with_the_image_is_a_map(tiny):
    fields = {**vars(tiny["deeplabv3"]), "net": Shapes()}
    found = dict(backbones.layers(backbones.Backbone(**fields)))
    assert {name: found[f"parts.{name}"] for name in KINDS} == KINDS


def test_channels_last_of_a_convnext_are_no_map():
    import transformers as t

    inside = t.ConvNextConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], out_features=["stage1", "stage2"]
    )
    config = t.UperNetConfig(backbone_config=inside, hidden_size=8, use_auxiliary_head=False, num_labels=3)
    net = t.UperNetForSemanticSegmentation(config).eval()
    one = (0.5,) * 3
    kinds = dict(
        backbones.layers(backbones.Backbone(net, "deeplabv3", "x", one, one, 64, 1, 0, 0, ("a",), ""))
    )
    inside = {name: kind for name, kind in kinds.items() if ".layers.0" in name}
    assert {kind for name, kind in inside.items() if "pwconv" in name} == {"other"}
    assert {kind for name, kind in inside.items() if name.endswith(("dwconv", "layers.0"))} == {"map"}


def test_layers_are_matched_by_name_or_pattern_in_order(tiny):
    known = backbones.layers(tiny["dinov2"])
    found = backbones.match(known, ["layernorm", "encoder.layer.?", "encoder.layer.1"])
    assert found == ["encoder.layer.0", "encoder.layer.1", "encoder.layer.2", "layernorm"]
    with pytest.raises(ValueError, match=r"no layer fits 'decoder\.\*'; --list-layers prints"):
        backbones.match(known, ["layernorm", "decoder.*"])


@pytest.mark.parametrize("family", ["clip", "dinov2"])
def test_tokens_lie_on_the_grid_where_their_pixels_are(tiny, family):
    backbone = tiny[family]
    patch = backbone.patch
    images = noise(2, 2 * patch, 3 * patch, 3)
    images[1] = images[0]
    images[1, patch:, 2 * patch :] = 255 - images[1, patch:, 2 * patch :]  # the last patch of 2 x 3
    backbone = backbones.Backbone(**{**vars(backbone), "size": 3 * patch})
    x = backbones.prepare(backbone, images)
    assert backbones.grid(backbone, x) == (2, 3)
    embedded = "embeddings" if family == "dinov2" else "pre_layrnorm"
    with torch.no_grad(), activations.Capture(backbone.net, [embedded]) as capture:
        tokens = backbone(x)["tokens"]
    maps = backbones.as_map(backbone, capture.outputs[embedded], x)
    assert maps.shape == (2, 32, 2, 3)
    changed = (maps[0] != maps[1]).any(0)
    assert changed[1, 2] and changed.sum() == 1
    assert backbones.as_map(backbone, tokens, x).shape == (2, 32, 2, 3)
    assert backbones.as_map(backbone, tokens[:, 0], x) is None
    assert backbones.as_map(backbone, tokens[:1], x) is None


@pytest.mark.parametrize("family", ["clip", "dinov2"])
def test_attention_is_the_networks_own_and_its_outputs_do_not_change(tiny, tiny_folders, family):
    backbone = tiny[family]
    x = backbones.prepare(backbone, noise(2, 40, 40, 3))
    found = {}
    with torch.no_grad():
        plain = backbone(x)["tokens"]
        with activations.Attention(backbone.net, backbone.heads, found.__setitem__):
            hooked = backbone(x)["tokens"]
        eager = type(backbone.net).from_pretrained(tiny_folders[family], attn_implementation="eager").eval()
        more = {"interpolate_pos_encoding": True} if family == "clip" else {}
        own = eager(x, output_attentions=True, **more).attentions
    assert torch.equal(plain, hooked)
    assert len(found) == len(own) == 3
    for mine, theirs in zip(found.values(), own, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    rows = [torch.eye(own[0].shape[-1]) / 2 + attention.mean(1) / 2 for attention in own]
    rollout = (rows[2] @ rows[1] @ rows[0])[:, 0, 1:].unflatten(-1, backbones.grid(backbone, x))
    torch.testing.assert_close(activations.attention_rollout(backbone, x), rollout, atol=1e-5, rtol=1e-4)
    maps = activations.attention_maps(backbone, x)
    torch.testing.assert_close(maps.flatten(2), own[-1][:, :, 0, 1:], atol=1e-5, rtol=1e-4)


def test_only_a_network_with_a_head_segments(tiny):
    x = backbones.prepare(tiny["deeplabv3"], noise(1, 65, 65, 3))
    with torch.no_grad():
        assert backbones.segment(tiny["deeplabv3"], x, (33, 47)).shape == (1, 3, 33, 47)
    with pytest.raises(ValueError, match="no segmentation head"):
        backbones.segment(tiny["dinov2"], x)
    with pytest.raises(ValueError, match="no attention"):
        activations.attention_rollout(tiny["deeplabv3"], x)


# ---- trained weights ---------------------------------------------------------------------------------------


def find(backbone, image: np.ndarray) -> dict[str, np.ndarray]:
    """Label -> bool (H, W) of what a network sees in a photograph."""
    with torch.no_grad():
        x = backbones.prepare(backbone, image[None])
        classes = backbones.segment(backbone, x, image.shape[:2]).argmax(1)[0].numpy()
    return {backbone.labels[i]: classes == i for i in np.unique(classes)}


def test_deeplab_finds_the_person_and_the_cat(deeplab):
    data = pytest.importorskip("skimage.data", reason="scikit-image of requirements-dev.txt is not installed")
    assert not deeplab.random and (deeplab.mean, deeplab.size) == ((0.5,) * 3, 513)
    found = find(deeplab, data.astronaut())
    assert found["person"].mean() > 0.3 and found["person"][100:180, 190:260].mean() > 0.95  # her face
    assert sum(found[name].mean() for name in found if name not in ("person", "background")) < 0.05
    found = find(deeplab, data.chelsea())
    assert found["cat"].mean() > 0.6 and found["cat"][100:200, 150:300].all()  # its face
    assert set(found) == {"cat", "background"}
    # and the class activation of the last block lies on the cat
    x = backbones.prepare(deeplab, data.chelsea()[None])
    cat = deeplab.labels.index("cat")
    heat = activations.class_activation(deeplab, x, "mobilenet_v2.layer.15", cat)[0]
    mask = (
        torch.nn.functional.interpolate(torch.tensor(found["cat"])[None, None].float(), heat.shape)[0, 0]
        > 0.5
    )
    assert heat[mask].mean() > 5 * heat[~mask].mean()


def test_the_random_floor_finds_nothing(deeplab):
    data = pytest.importorskip("skimage.data", reason="scikit-image of requirements-dev.txt is not installed")
    floor = backbones.floor(deeplab)
    found = find(floor, data.astronaut())
    face = found.get("person", np.zeros((512, 512), bool))[100:180, 190:260]
    assert face.mean() < 0.5 and floor.random


@pytest.mark.slow
def test_every_layer_of_trained_networks_can_be_dumped(deeplab, dinov2, tmp_path):
    for backbone in (deeplab, dinov2):
        shapes = dump_all(backbone, backbones.prepare(backbone, noise(1, 96, 96, 3)), tmp_path)
        assert len(shapes) > 180


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "deeplabv3_resnet101", "clip"])
def test_every_layer_of_the_architectures_without_packaged_weights_can_be_dumped(name, tmp_path):
    if name == "clip":
        backbone = backbones.load("clip", "random")
    else:
        torch.manual_seed(0)
        net = torchvision_files.torchvision_network(name, 21, True)
        torch.save(net.state_dict(), tmp_path / "net.pth")
        backbone = backbones.load("deeplabv3", tmp_path / "net.pth", size=65)
        assert backbone.name == name
        assert backbones.blocks(backbone) == [f"backbone.layer{i}" for i in (1, 2, 3, 4)]
    shapes = dump_all(backbone, backbones.prepare(backbone, noise(1, 96, 96, 3)), tmp_path)
    assert len(shapes) >= 150


def crops(image: np.ndarray, count: int, side: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    corners = [random.integers(0, [s - side + 1 for s in image.shape[:2]]) for _ in range(count)]
    return np.stack([image[r : r + side, c : c + side] for r, c in corners])


@pytest.mark.slow
def test_dinov2_sets_crops_of_one_image_nearer_than_of_others(dinov2):
    """Crops of 240 pixels: much smaller ones show other things, and a random net sees colours too."""
    data = pytest.importorskip("skimage.data", reason="scikit-image of requirements-dev.txt is not installed")
    images = [data.astronaut(), data.chelsea(), data.coffee()]
    label = np.repeat(np.arange(3), 6)
    x = np.concatenate([crops(image, 6, 240, seed) for seed, image in enumerate(images)])
    same = label[:, None] == label
    pairs = np.triu_indices(len(label), 1)
    auc = {}
    for name, backbone in (("trained", dinov2), ("random", backbones.floor(dinov2))):
        with torch.no_grad():
            vectors = backbone(backbones.prepare(backbone, x))["tokens"][:, 0]
        unit = torch.nn.functional.normalize(vectors, dim=1).numpy()
        similar = unit @ unit.T
        auc[name] = representations.channel_auc(similar[pairs][:, None], same[pairs])[0]
        if name == "trained":
            assert similar[pairs][same[pairs]].mean() > similar[pairs][~same[pairs]].mean() + 0.15
            np.fill_diagonal(similar, -1)
            assert (label[similar.argmax(1)] == label).all()
    assert auc["trained"] > 0.93 and auc["trained"] > auc["random"] + 0.1


@pytest.mark.slow
def test_dinov2_patch_colours_part_the_cat_from_what_is_behind_it(dinov2, deeplab):
    data = pytest.importorskip("skimage.data", reason="scikit-image of requirements-dev.txt is not installed")
    image = data.chelsea()
    x = backbones.prepare(dinov2, image[None])
    with torch.no_grad():
        maps = backbones.as_map(dinov2, dinov2(x)["tokens"], x)[0].numpy()
    colours = activations.patch_pca([maps], [maps[..., ::-1]])[0][0]
    share, counts = activations.pool_mask(find(deeplab, image)["cat"].astype(np.uint8), colours.shape[:2])
    auc = representations.channel_auc(colours[counts], share[counts] > 0.5)
    assert abs(auc - 0.5).max() > 0.35
