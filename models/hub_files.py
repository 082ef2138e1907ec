"""CLIP, DINOv2 and DeepLabV3 of transformers, from a folder or the hub. Needs torch, transformers.

    fields = load("dinov2", "weights/dinov2-small")      # what models/backbones.py's Backbone takes

No code of a folder or a hub's repository is run. What the cache holds is not fetched, and nothing is tried
over a network that does not answer.
"""

import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from torch import nn

from models.backbone_contract import (
    MODEL_TYPES,
    missing,
    of_transformers,
    offline,
    provenance,
    read_processor,
    reason,
)

HUB_NAME = r"\w[\w.-]*(/\w[\w.-]*)?"
ANSWER_S = 4  # a network that is there answers sooner


def load(family: str, weights: str, say: Callable[[str], None] | None = None) -> dict:
    """A folder or a hub name through transformers; every tensor the network has must be in the file.

    say: told before something is fetched. Returns the fields of a Backbone.
    """
    import huggingface_hub
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.logging.set_verbosity_error()
    folder = Path(weights)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{weights}: expected a folder of transformers, found no config.json in it")
        try:
            net = read_network(family, weights, local_files_only=True)
        except OSError as error:
            raise missing(family, f"{weights}: {reason(error)}") from error
        processor = read_processor(folder / "preprocessor_config.json")
        return of_transformers(net, family, folder.resolve().name, processor, provenance(folder, net))
    if folder.exists():
        raise missing(family, f"{weights} is a file, expected a folder of transformers")
    if not re.fullmatch(HUB_NAME, weights) or folder.suffix in (".pth", ".pt", ".bin", ".safetensors"):
        raise missing(family, f"{weights} does not exist")
    try:
        net = read_network(family, weights, local_files_only=True)
    except OSError:
        net = fetch_network(family, weights, say)
    held = huggingface_hub.try_to_load_from_cache(weights, "config.json")  # .../snapshots/COMMIT/config.json
    source = (
        f"{weights} (hub, {Path(held).parent.name[:12]})" if isinstance(held, str) else f"{weights} (hub)"
    )
    return of_transformers(net, family, weights, hub_processor(weights), source)


def fetch_network(family: str, weights: str, say: Callable[[str], None] | None) -> nn.Module:
    """From the hub, which is asked once whether it is there: its own client would try for half a minute."""
    found = f"there is no folder {weights}, and of the hub {weights}"
    if offline():
        raise missing(family, f"{found} is not in the cache and HF_HUB_OFFLINE is set")
    if not hub_answers():
        raise missing(family, f"{found} is not in the cache and the hub does not answer")
    if say:
        say(f"fetching {weights} from the hub")
    try:
        return read_network(family, weights, local_files_only=False)
    except OSError as error:
        raise missing(
            family, f"{found} could not be fetched ({type(error.__cause__ or error).__name__})"
        ) from error


def read_network(family: str, weights: str, local_files_only: bool) -> nn.Module:
    """The network of a folder or of a hub name. OSError where files are missing, else ValueError."""
    import pickle

    import transformers
    from safetensors import SafetensorError

    where = {"local_files_only": local_files_only, "trust_remote_code": False}
    classes = {
        "clip": transformers.CLIPVisionModel,
        "dinov2": transformers.Dinov2Model,
        "dinov2_with_registers": getattr(transformers, "Dinov2WithRegistersModel", None),
        "deeplabv3": transformers.AutoModelForSemanticSegmentation,
    }
    try:
        config = transformers.AutoConfig.from_pretrained(weights, **where)
    except OSError:
        raise
    except Exception as error:  # a config of others raises whatever its values lead to
        raise refusal(family, weights, error) from error
    if family in MODEL_TYPES and config.model_type not in MODEL_TYPES[family]:
        raise ValueError(f"{weights}: expected a model of type {family}, found {config.model_type}")
    if "/" in str(getattr(config, "_attn_implementation", None)):  # a kernel of the hub: code
        raise ValueError(f"{weights}: its config.json asks for code of its own, which is never run")
    if family == "clip" and hasattr(config, "vision_config"):
        config = config.vision_config
    kind = classes["dinov2_with_registers" if "registers" in config.model_type else family]
    try:
        net, report = kind.from_pretrained(weights, config=config, output_loading_info=True, **where)
    except OSError:
        raise
    except (RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{weights}: its weights cannot be read: {reason(error)}") from error
    except Exception as error:  # see above
        raise refusal(family, weights, error) from error
    # the mask token is for training: no image without a mask uses it
    absent = sorted(name for name in report["missing_keys"] if not name.endswith("mask_token"))
    if absent:
        raise ValueError(
            f"{weights}: expected all tensors of {type(net).__name__}, "
            f"found {len(absent)} missing, the first of them {absent[0]}"
        )
    return net


def refusal(family: str, weights: str, error: Exception) -> ValueError:
    if "trust_remote_code" in str(error):
        return ValueError(
            f"{weights}: its config.json asks for code of its own (auto_map), which is never run"
        )
    return ValueError(f"{weights}: not a {family} model: {reason(error)}")


def hub_processor(name: str) -> dict:
    """preprocessor_config.json of a hub name, {} where it has none."""
    from huggingface_hub import try_to_load_from_cache
    from transformers.utils import cached_file

    file = "preprocessor_config.json"
    found = try_to_load_from_cache(name, file)
    if found is None and not offline() and hub_answers():
        quiet = "_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors"
        found = cached_file(name, file, **dict.fromkeys(quiet, False))
    return read_processor(Path(found)) if isinstance(found, str) else {}


def hub_answers() -> bool:
    """Whether the hub, or the mirror HF_ENDPOINT names, says anything at all within ANSWER_S."""
    from huggingface_hub import constants

    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=ANSWER_S)
    except urllib.error.HTTPError:
        return True  # there is somebody; what they refuse the client will say
    except (OSError, ValueError):
        return False
    return True
