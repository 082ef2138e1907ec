"""Arrays that are costly to compute, kept on disk under a name made of everything they depend on."""

import hashlib
from pathlib import Path

import numpy as np

from data_prep.runs import atomic

DIGEST_BYTES = 32


def key(*parts) -> str:
    """A file name for what is computed from these parts: text, numbers and arrays (bytes, shape and type)."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.shape} {part.dtype}\0".encode())
            digest.update(np.ascontiguousarray(part))
        else:
            digest.update(f"{part!r}\0".encode())
    return digest.hexdigest()[:40]


def save(path: Path, array: np.ndarray) -> None:
    """Write an array as .npy with its SHA-256 behind it, atomically."""
    array = np.ascontiguousarray(array)
    with atomic(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array, allow_pickle=False)
        stream.write(hashlib.sha256(array).digest())


def load(path: Path) -> np.ndarray | None:
    """What `save` wrote; None where there is no such file or it is damaged."""
    try:
        with open(path, "rb") as stream:
            array = np.load(stream, allow_pickle=False)
            digest = stream.read()
    except (OSError, ValueError, EOFError):
        return None
    return array if digest == hashlib.sha256(np.ascontiguousarray(array)).digest() else None
