"""Of which kind each entry of a checkpoint's input contract must be, so that a crafted file is refused."""

import math


def is_text(value) -> bool:
    return isinstance(value, str)


def is_texts(value) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def is_numbers(value) -> bool:
    return isinstance(value, list) and all(
        isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in value
    )


def is_spread(value) -> bool:
    return is_numbers(value) and min(value, default=1) > 0


def is_encoder(value) -> bool:
    """{"name": kind}, of a frozen one with all that frozen.about says of it."""
    if not isinstance(value, dict) or not is_text(value.get("name")) or not is_text(value.get("compose", "")):
        return False
    texts, size = [value.get(name) for name in ("sha256", "network", "provenance")], value.get("size")
    frozen = all(map(is_text, texts)) and isinstance(value.get("random"), bool) and isinstance(size, int)
    return frozen or "sha256" not in value


KINDS = {
    "bands": lambda value: is_texts(value) and value != [], "units": is_text, "backscatter": is_text,
    "mean": is_numbers, "std": is_spread, "tile": lambda value: type(value) is int and value > 0,
    "rgb_mean": lambda value: is_numbers(value) and len(value) == 3,
    "rgb_std": lambda value: is_spread(value) and len(value) == 3,
    "sar_encoder": is_encoder, "rgb_encoder": is_encoder, "speckle": is_text, "origin": is_text,
    "reference": lambda value: isinstance(value, list), "seen": is_texts,
}  # fmt: skip


def wrong_entry(contract: dict) -> str | None:
    """The first entry of a contract that is not of its kind; what lacks is not looked at."""
    return next((name for name, fits in KINDS.items() if name in contract and not fits(contract[name])), None)
