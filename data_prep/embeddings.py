"""Arrays that are costly to compute, kept on disk under a name made of everything they depend on."""

import hashlib
import io
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
    """Write an array as .npy with the SHA-256 of all of it behind it, atomically."""
    buffer = io.BytesIO()  # np.save into a file tells of a full disk without saying that it is one
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    content = buffer.getbuffer()
    with atomic(path) as temporary, open(temporary, "wb") as stream:
        stream.write(content)
        stream.write(hashlib.sha256(content).digest())


def load(path: Path) -> np.ndarray | None:
    """What `save` wrote; None where there is no such file or it is damaged. The header is checked unread."""
    try:
        content = memoryview(path.read_bytes())
    except OSError:
        return None
    array, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(array).digest() != digest:
        return None
    return np.load(io.BytesIO(array), allow_pickle=False)
