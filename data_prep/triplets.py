"""The manifest of SAR/RGB/mask triplets and their arrays; the original's folders of PNGs are read as well."""

import contextlib
import csv
import hashlib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_prep import degree_days, rasters, readers, scenes
from data_prep.channels import WEATHER, add_computed, assemble, need_weather, planes_by_file
from data_prep.runs import BadInput, progress, say, write_csv
from data_prep.snow_index import NO_DATA

COLUMNS = (
    "id",
    "site",
    "date",
    "s1_date",
    "s2_date",
    "gap_hours",
    "platform",
    "product",
    "backscatter",
    "relative_orbit",
    "orbit_state",
    "latitude",
    "longitude",
    "sar",
    "rgb",
    "mask",
    "mask_wet",
    "dem",
    "landcover",
    "ref",
    "row",
    "col",
    "height",
    "width",
    "valid_fraction",
    "snow_fraction",
    "split",
)
SAFE_REST = re.compile(r"[A-Za-z0-9._-]+")  # ids are longer than the names of sites they begin with
DATE = re.compile(r"\d{4}-\d{2}-\d{2}(T\d{6})?")
TARGETS = {"total": "mask", "wet": "mask_wet"}
FILES = ("sar", "rgb", "mask", "mask_wet", "dem", "landcover", "ref")

IMAGE_FORMAT = 1  # of cached images: raise it when read_image gives other values for the same files


@dataclass
class Triplets:
    """Rows of a manifest, with files as absolute paths, and what is common to them."""

    folder: Path
    rows: list[dict]
    original: bool = False  # folders without a manifest: neither date nor place
    bad: list[str] = field(default_factory=list)

    def of(self, split: str) -> "Triplets":
        return Triplets(self.folder, [row for row in self.rows if row["split"] == split], self.original)

    @property
    def pictures(self) -> bool:
        """Whether the radar is 8-bit PNGs, without units."""
        return any(row["sar"].suffix == ".png" for row in self.rows)

    def common(self, column: str) -> str:
        """The one value of a column that must not be mixed."""
        values = sorted({row[column] for row in self.rows})
        if len(values) > 1:
            raise BadInput(
                f"{self.folder}: mixes {column} {', '.join(values)}; train and judge on one of them."
            )
        return values[0] if values else ""


def read_manifest(folder: Path, weather: Path | None = None) -> Triplets:
    """Read triplets.csv, or the original's SAR/, RGB/, Masks/ folders, and check names, ids and files.

    weather: a weather.csv; row["weather"] is then the series of the row's site, and None without one.
    """
    folder = Path(folder)
    path = folder / "triplets.csv"
    if not path.is_file():
        if (folder / "SAR").is_dir():
            return read_original(folder)
        raise BadInput(
            f"{folder}: neither triplets.csv nor SAR/, Masks/ folders; "
            "make it with python -m data_prep.curate."
        )
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream, strict=True)
            rows = list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not a readable CSV file ({error}).") from None
    missing = (
        set(COLUMNS) - {"mask_wet", "dem", "landcover", "ref", "orbit_state"} - set(reader.fieldnames or ())
    )
    if missing:
        raise BadInput(
            f"{path}: column {', '.join(sorted(missing))} missing; was it written by data_prep.curate?"
        )
    seen = set()
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise BadInput(f"{path}: line {number} has another number of fields than the header.")
        for name in (row["id"], row["site"]):
            if not scenes.SAFE_NAME.fullmatch(name[:100]) or not SAFE_REST.fullmatch(name):
                raise BadInput(
                    f"{path}: line {number}: {name!r} is no safe name (letters, digits, '.', '_', '-')."
                )
        if row["id"] in seen:
            raise BadInput(f"{path}: id {row['id']} stands twice (line {number}); ids must be unique.")
        seen.add(row["id"])
        check_values(row, path, number)
        for column in FILES:
            if row.get(column):
                row[column] = inside(folder, row[column], path, number)
            else:
                row[column] = None
    series = degree_days.read_weather(weather) if weather else {}
    for row in rows:
        row["weather"] = series.get(row["site"])
    return Triplets(folder, rows)


def check_values(row: dict, manifest: Path, number: int) -> None:
    """Dates are dates (they become paths), figures are numbers."""
    for column in ("date", "s1_date", "s2_date"):
        if not DATE.fullmatch(row[column]):
            raise BadInput(
                f"{manifest}: line {number}: {column} {row[column]!r} is not YYYY-MM-DD or YYYY-MM-DDTHHMMSS."
            )
    for column in ("latitude", "longitude", "height", "width", "valid_fraction", "snow_fraction"):
        try:
            fine = math.isfinite(float(row[column]))
        except ValueError:
            fine = False
        if not fine:
            raise BadInput(f"{manifest}: line {number}: {column} {row[column]!r} is not a number.")


def inside(folder: Path, name: str, manifest: Path, number: int) -> Path:
    """`folder / name`, refused if the name leads out of the folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise BadInput(f"{manifest}: line {number}: path {name!r} leads out of the folder.")
    return folder / name


def read_original(folder: Path) -> Triplets:
    """Rows for SAR/<split>/x.png with Masks/<split>/x.png (and RGB/<split>/x.png) of equal names."""
    rows = []
    for split_folder in sorted(path for path in (folder / "SAR").iterdir() if path.is_dir()):
        split = {"validation": "val", "valid": "val"}.get(
            split_folder.name.lower(), split_folder.name.lower()
        )
        for path in sorted(split_folder.glob("*.png")):
            name = f"{split}_{path.stem}"
            if not scenes.SAFE_NAME.fullmatch(name):
                raise BadInput(
                    f"{path}: a file name may hold letters, digits, '.', '_' and '-' only; rename it."
                )
            files = {kind.lower(): folder / kind / split_folder.name / path.name for kind in ("RGB", "Masks")}
            rows.append(
                {
                    **dict.fromkeys(COLUMNS, ""),
                    "id": name,
                    "site": name,
                    "split": split,
                    "s1_date": "",
                    "sar": path,
                    "backscatter": "8-bit",
                    "mask": files["masks"],
                    "rgb": files["rgb"] if files["rgb"].exists() else None,
                    **dict.fromkeys(("mask_wet", "dem", "landcover", "ref", "weather")),
                }
            )
    if not rows:
        raise BadInput(f"{folder}: SAR/ holds no <split>/*.png.")
    return Triplets(folder, rows, original=True)


def origin(rows) -> str:
    """What a title must say of these rows' data: " (simulated data)", or nothing for real data."""
    return " (simulated data)" if any(str(r.get("product")).startswith("simulated") for r in rows) else ""


def write_manifest(path: Path, rows) -> None:
    write_csv(path, COLUMNS, rows)


# ---- one triplet -------------------------------------------------------------------------------------------


def read_image(row: dict, channels, window=None) -> np.ndarray:
    """float32 (C, H, W) of a triplet's input channels, in dB, degrees, metres; NaN = no data.

    window: only these (row, col, height, width) pixels.
    """
    need_weather(channels, row.get("weather"), row["id"])
    planes = {}
    for kind, names in planes_by_file(channels).items():
        path = row[kind]
        if path is None:
            raise BadInput(
                f"{row['id']}: has no {kind} file for band {', '.join(names)}; "
                "curate with one or choose --bands."
            )
        if path.suffix == ".png":
            if names != ["grey"]:
                raise BadInput(f"{path}: an 8-bit picture gives the band grey, not {', '.join(names)}.")
            image = rasters.read_png(path)
            image = (image if image.ndim == 2 else image.mean(axis=2)).astype(np.float32)
            planes["grey"] = cut(image, window)
        else:
            raster = rasters.open_header(path)
            if kind == "sar" and raster.units != "dB":
                raise BadInput(
                    f"{path}: tag units={raster.units!r}, triplets are in 'dB'; curate them again."
                )
            for name, values in zip(names, rasters.read(raster, names, window), strict=True):
                planes[name] = values
    shape = next(iter(planes.values())).shape if planes else (window or picture_size(row))[-2:]
    add_computed(planes, channels, shape, row["s1_date"], float(row["latitude"] or 0), row.get("weather"))
    sizes = {values.shape for values in planes.values()}
    if len(sizes) > 1:
        raise BadInput(f"{row['id']}: its files differ in size ({', '.join(map(str, sorted(sizes)))}).")
    return assemble(channels, planes)


def cut(image: np.ndarray, window) -> np.ndarray:
    if window is None:
        return image
    row, col, height, width = window
    return image[..., row : row + height, col : col + width]


def read_mask(row: dict, target: str = "total", window=None) -> np.ndarray:
    """uint8 (H, W): 0 snow-free, 1 snow, 255 no data; of a window (row, col, height, width) if given."""
    path = row[TARGETS[target]]
    if path is None or not path.exists():
        raise BadInput(
            f"{row['id']}: no {TARGETS[target]} file{f' at {path}' if path else ''} beside {row['sar']}."
        )
    if path.suffix == ".png":
        mask = rasters.read_png(path)
        mask = mask if mask.ndim == 2 else mask[..., 0]
        levels = np.unique(mask)
        if not set(levels.tolist()) <= {0, 255}:
            raise BadInput(
                f"{path}: levels {shown(levels)}, expected 0 (snow-free) and 255 (snow) in an 8-bit mask; "
                "threshold it, or use GeoTIFF triplets with 0, 1, 255 = no data."
            )
        return cut((mask == 255).astype(np.uint8), window)
    raster = rasters.open_header(path)
    mask = rasters.read(raster, raster.bands[:1], window, raw=True)[0]
    levels = np.unique(mask)
    if not set(levels.tolist()) <= {0, 1, NO_DATA}:
        raise BadInput(f"{path}: levels {shown(levels)}, expected 0 (snow-free), 1 (snow), 255 (no data).")
    return mask.astype(np.uint8)


def shown(levels: np.ndarray) -> str:
    text = ", ".join(f"{level:g}" for level in levels[:6])
    return text + (", ..." if len(levels) > 6 else "")


def image_key(row: dict, channels) -> str:
    """A name for what read_image gives: it changes with the channels, the files and the weather."""
    used = {kind: row[kind] for kind in planes_by_file(channels)}
    state = {
        kind: (str(path), path.stat().st_size, path.stat().st_mtime_ns) for kind, path in used.items() if path
    }
    about = (IMAGE_FORMAT, tuple(channels), row["s1_date"], row["latitude"], picture_size(row))
    digest = hashlib.sha256(repr((about, sorted(state.items()))).encode())
    if set(channels) & set(WEATHER):
        series = row["weather"]
        digest.update(repr(series["elevation_m"]).encode())
        for name in ("dates", *degree_days.VARIABLES):
            digest.update(np.ascontiguousarray(series[name]).tobytes())
    return digest.hexdigest()[:32]


def read_pair(
    row: dict, channels, target: str = "total", window=None, image: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of a triplet, checked against each other; pixels without input are 255 in the mask.

    window: only these (row, col, height, width) pixels, of which all may lack input. image: what read_image
    gave for the whole triplet, where it is at hand.
    """
    image = read_image(row, channels, window) if image is None else np.array(cut(image, window))
    mask = read_mask(row, target, window)
    if image.shape[1:] != mask.shape:
        raise BadInput(
            f"{row['id']}: SAR is {image.shape[1:]} pixels, mask {mask.shape}; they must be equal."
        )
    missing = np.isnan(image).any(axis=0)
    if missing.all() and window is None:
        raise BadInput(f"{row['sar']}: no valid pixel in band {', '.join(channels)}.")
    return image, np.where(missing, np.uint8(NO_DATA), mask)


def each_good(items, look, skip_bad: bool, label: str, bad: list[str], go_on=lambda: None):
    """Yield (item, look(item)), in order, several at once, of the items that look() can read.

    One it cannot read, a BadInput, ends the run, or with skip_bad is said and added to `bad`. go_on: called
    after each, may raise to stop.
    """

    def try_it(item):
        try:
            return look(item), None
        except BadInput as error:
            return None, str(error).rstrip(".")

    with contextlib.closing(readers.in_order(try_it, items)) as read:
        found = progress(read, len(items), label)
        for item, (value, problem) in zip(items, found, strict=True):
            go_on()
            if problem is None:
                yield item, value
            elif skip_bad:
                say(f"left out: {problem}")
                bad.append(problem)
            else:
                raise BadInput(f"{problem}; mend it, or leave such triplets out with --skip-bad.")


def mean_and_std(count: int, total: np.ndarray, square: np.ndarray) -> tuple[list[float], list[float]]:
    """Per channel, from sums and sums of squares (C) over `count` pixels; a constant channel has std 1."""
    mean = total / max(1, count)
    std = np.sqrt(np.maximum(square / max(1, count) - mean**2, 0))
    return mean.tolist(), np.where(std > 1e-6, std, 1.0).tolist()


def inspect(
    triplets: Triplets, channels, target: str, skip_bad: bool, label: str, go_on=lambda: None
) -> dict:
    """Read every triplet once: drop or refuse bad ones; count, sum, square-sum each channel; count classes.

    Returns mean and std per channel (list), labelled pixels of each class, images that have any, and leaves
    in `triplets` what is good. go_on: as each_good has it.
    """

    def look(row):
        image, mask = read_pair(row, channels, target)
        row["height"], row["width"] = mask.shape
        valid = image[:, mask != NO_DATA].astype(np.float64)
        classes = [int((mask == 0).sum()), int((mask == 1).sum())]
        return valid.shape[1], valid.sum(axis=1), (valid**2).sum(axis=1), classes

    good, images, count = [], 0, 0
    total, square, classes = np.zeros(len(channels)), np.zeros(len(channels)), np.zeros(2, np.int64)
    for row, found in each_good(triplets.rows, look, skip_bad, label, triplets.bad, go_on):
        good.append(row)
        images, count = images + (found[0] > 0), count + found[0]
        total, square, classes = total + found[1], square + found[2], classes + found[3]
    triplets.rows = good
    mean, std = mean_and_std(count, total, square)
    return {
        "mean": mean,
        "std": std,
        "pixels": count,
        "images": images,
        "snow_free": int(classes[0]),
        "snow": int(classes[1]),
    }


def picture_size(row: dict) -> tuple[int, int]:
    """Height and width of a triplet, from the manifest or else the file's header."""
    if row.get("height") and row.get("width"):
        return int(row["height"]), int(row["width"])
    if row["sar"].suffix == ".png":
        return rasters.read_png(row["sar"]).shape[:2]
    grid = rasters.open_header(row["sar"]).grid
    return grid.height, grid.width


def reference_of(row: dict) -> list[str]:
    """[rule, years] of the reference a triplet was made with; empty where none is there or it is not said."""
    tags = rasters.open_header(row["ref"]).tags if row.get("ref") else {}
    return [tags["rule"], tags["years"]] if "rule" in tags and "years" in tags else []


def speckle_of(row: dict) -> str:
    """The speckle filter a triplet was made with; "none" where its file does not say."""
    if row["sar"].suffix == ".png":
        return "none"
    return rasters.open_header(row["sar"]).tags.get("speckle", "none")
