"""embeddings.parquet: two rows a triplet, its RGB and its SAR vector, written and read in batches.

    with write(path, dimensions, about) as add: add(rows, rgb, sar)      # rows of a manifest, (B, d) each
    table = read(path)      # {"rows": [{id, site, ...}], "rgb": (n, d), "sar": (n, d), "about": {...}}

Columns: id, site, date, modality (rgb or sar), split, ground (the piece of land, shared by dates),
snow_fraction (null: unknown), vector. What made them stands in the schema's metadata under "snowsar" (JSON).
"""

import contextlib
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import runs
from data_prep.runs import BadInput
from data_prep.sar_rgb_pairs import ground

TEXTS = ("id", "site", "date", "modality", "split", "ground")
OPTIONAL = ("date", "split", "ground", "snow_fraction")  # of a file of somebody else's
MODALITIES = ("rgb", "sar")
READ = 8192  # rows at once
KEY = b"snowsar"


def snow_of(row: dict) -> float | None:
    """Snow fraction of a manifest's row; None without a mask, where the manifest's 0 means nothing."""
    if row.get("mask") is None or row["snow_fraction"] in ("", None):
        return None
    value = float(row["snow_fraction"])
    return value if math.isfinite(value) else None


@contextlib.contextmanager
def write(path: Path, dimensions: int, about: dict):
    """Yield add(rows, rgb, sar), which appends a batch; the file takes its name after the last one."""
    fields = [pa.field(name, pa.string()) for name in TEXTS]
    fields += [
        pa.field("snow_fraction", pa.float64()),
        pa.field("vector", pa.list_(pa.float32(), dimensions)),
    ]
    schema = pa.schema(fields, metadata={KEY: json.dumps(runs.plain(about)).encode()})
    with (
        runs.atomic(path) as temporary,
        runs.disk_errors(path, pa.ArrowException),
        pq.ParquetWriter(temporary, schema) as writer,
    ):

        def add(rows: list[dict], rgb: np.ndarray, sar: np.ndarray) -> None:
            columns = {name: [row[name] for row in rows for _ in MODALITIES] for name in ("id", "site")}
            columns["date"] = [(row.get("date") or "")[:10] for row in rows for _ in MODALITIES]
            columns["modality"] = list(MODALITIES) * len(rows)
            columns["split"] = [row["split"] for row in rows for _ in MODALITIES]
            columns["ground"] = ["/".join(ground(row)) for row in rows for _ in MODALITIES]
            columns["snow_fraction"] = [snow_of(row) for row in rows for _ in MODALITIES]
            both = np.stack([rgb, sar], axis=1).astype(np.float32).ravel()  # rgb, sar, rgb, sar
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(both), dimensions)
            arrays = [pa.array(columns[field.name], field.type) for field in fields[:-1]]
            writer.write_table(pa.Table.from_arrays([*arrays, vectors], schema=schema))

        yield add


def read(path: Path) -> dict:
    """Rows in the order of their ids' first mention, both clouds float32 (n, d), and what made them.

    BadInput, one sentence, for columns that lack, a missing modality, ids without a pair or given twice,
    vectors of unequal length, NaN.
    """
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        for name in ("id", "site", "modality", "vector"):
            if name not in names:
                raise BadInput(f"{path}: column {name} is missing; there are {', '.join(names[:12])}.")
        known = [name for name in (*TEXTS, "snow_fraction") if name in names]
        columns = {name: values_of(path, name, file.read([name]).column(0)) for name in known}
        metadata = (file.schema_arrow.metadata or {}).get(KEY, b"{}")
        places, rows = pairs_of(path, columns)
        rgb, sar = vectors_of(path, file, places, len(rows))
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise BadInput(f"{path}: no such file or folder.") from None
        first = (str(error).splitlines() or [""])[0]
        raise BadInput(f"{path}: not a readable Parquet file ({first}).") from None
    try:
        about = json.loads(metadata)
        about = about if isinstance(about, dict) else {}
    except ValueError:
        about = {}
    return {"rows": rows, "rgb": rgb, "sar": sar, "about": about}


def values_of(path: Path, name: str, column) -> list:
    """A column as texts (dates as ISO), snow_fraction as numbers, None for null and what is not finite."""
    wanted = pa.float64() if name == "snow_fraction" else pa.string()
    try:
        values = column.cast(wanted).to_pylist()
    except pa.ArrowException as error:
        kind, why = ("numbers" if name == "snow_fraction" else "text"), (str(error).splitlines() or [""])[0]
        raise BadInput(
            f"{path}: column {name} holds {column.type}, which cannot be read as {kind} ({why})."
        ) from None
    if name == "date":
        return [value and value[:10] for value in values]
    if name == "snow_fraction":
        return [value if value is not None and math.isfinite(value) else None for value in values]
    return values


def pairs_of(path: Path, columns: dict) -> tuple[np.ndarray, list[dict]]:
    """Of each row of the file its place in the clouds, 2 * pair + (0 RGB, 1 SAR), and a dict a pair."""
    found = set(columns["modality"])
    for modality in MODALITIES:
        if modality not in found:
            other = ", ".join(sorted(map(str, found))[:4]) or "none"
            raise BadInput(f"{path}: no embeddings of modality {modality!r}, only {other}; both are needed.")
    numbers, rows, places = {}, [], np.full(len(columns["id"]), -1)
    for at, (name, modality) in enumerate(zip(columns["id"], columns["modality"], strict=True)):
        if modality not in MODALITIES:
            continue
        if name is None or columns["site"][at] is None:
            raise BadInput(f"{path}: row {at} has no id or no site.")
        if name not in numbers:
            numbers[name] = len(rows)
            row = {key: columns[key][at] if key in columns else None for key in ("site", *OPTIONAL)}
            row |= {key: row[key] or "" for key in ("date", "split")}
            rows.append({"id": name, **row, "ground": row["ground"] or name})
        places[at] = 2 * numbers[name] + MODALITIES.index(modality)
    counts = np.bincount(places[places >= 0], minlength=2 * len(rows))
    for word, wrong in (("twice", counts > 1), ("not at all", counts < 1)):
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise BadInput(
                f"{path}: id {rows[first // 2]['id']} has modality {MODALITIES[first % 2]!r} {word} "
                f"({wrong.sum()} such); once of each modality is expected."
            )
    return places, rows


def vectors_of(path: Path, file, places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Both clouds, each vector put where `places` says; batch after batch."""
    clouds, start = None, 0
    for batch in file.iter_batches(READ, columns=["vector"]):
        column = batch.column(0)
        here = places[start : start + len(column)]
        start += len(column)
        if not (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)):
            raise BadInput(f"{path}: column vector holds {column.type}, expected lists of numbers.")
        values = column.flatten().to_numpy(zero_copy_only=False)
        width = len(values) // max(1, len(column))
        if column.null_count or width * len(column) != len(values) or not width or values.dtype.kind != "f":
            raise BadInput(f"{path}: vectors are missing, of unequal length or not of numbers.")
        if clouds is None:
            clouds = np.empty((2 * count, width), np.float32)
        if pa.types.is_list(column.type) and set(np.diff(column.offsets.to_numpy())) != {width}:
            raise BadInput(f"{path}: vectors are of unequal length.")
        if width != clouds.shape[1]:
            raise BadInput(
                f"{path}: vectors of {clouds.shape[1]} and of {width} numbers; one length is expected."
            )
        values = values.reshape(len(column), width)
        bad = int((~np.isfinite(values).all(axis=1)).sum())
        if bad:
            raise BadInput(f"{path}: {bad} embeddings or more hold NaN or infinity; embed them again.")
        clouds[here[here >= 0]] = values[here >= 0]
    return clouds[0::2], clouds[1::2]
