"""Pictures of a report: figures and chips as data URIs of the size shown, and the map of its sites."""

import base64
import binascii
import io
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep import pictures, predictions, triplets
from data_prep.runs import BadInput

WIDTH = 1500  # pixels of a figure: shown at most 960 wide, sharp on finer screens too
TALLEST = 4200
CHIP = 320  # longer side of a chip
MOST_PIXELS = 80_000_000  # of a picture that is opened; more is a mistake or an attack
LAYERS = ("radar", "RGB", "reference", "mask", "probability", "errors")


class NoPicture(Exception):
    """A picture that cannot be shown; the message is why."""


def data_uri(image: Image.Image, quality: int | None) -> str:
    """A WebP of an RGB picture; quality None: lossless."""
    stream = io.BytesIO()
    how = {"lossless": True} if quality is None else {"quality": quality}
    image.save(stream, "webp", method=4, **how)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def open_picture(source) -> Image.Image:
    """An RGB picture of a file or stream, whole and of a sane size."""
    try:
        with Image.open(source, formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > MOST_PIXELS:
                raise NoPicture(f"has {image.width} x {image.height} pixels, more than are opened")
            if image.mode in ("RGBA", "LA", "P"):
                image = image.convert("RGBA")
                flat = Image.new("RGB", image.size, "white")
                flat.paste(image, mask=image.getchannel("A"))
                return flat
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise NoPicture(f"is not a readable picture ({' '.join(str(error).split())[-120:]})") from None


def figure(source, width: int = WIDTH) -> dict:
    """{"src", "width", "height"} of a figure's file or stream, made smaller; NoPicture says why not."""
    image = open_picture(source)
    image.thumbnail((width, TALLEST), Image.Resampling.LANCZOS)
    return {"src": data_uri(image, 82), "width": image.width, "height": image.height}


def drawn(fig) -> dict:
    """The same of a matplotlib figure, which is closed."""
    import matplotlib.pyplot as plt

    stream = io.BytesIO()
    fig.savefig(stream, dpi=200, format="png")
    plt.close(fig)
    return figure(stream)


def small(array: np.ndarray, quality: int | None) -> dict:
    """The same of uint8 (H, W, 3) as it is; quality None: lossless."""
    image = Image.fromarray(array)
    return {"src": data_uri(image, quality), "width": image.width, "height": image.height}


def small_uri(uri) -> str | None:
    """A picture's data URI made anew at 72 pixels, so that it is one; None for anything else."""
    if not isinstance(uri, str) or not uri.startswith("data:image/") or len(uri) > 1_000_000:
        return None
    try:
        data = base64.b64decode(uri.partition(";base64,")[2], validate=True)
        image = open_picture(io.BytesIO(data))
    except (binascii.Error, NoPicture):
        return None
    image.thumbnail((72, 72), Image.Resampling.BILINEAR)
    return data_uri(image, 60)


# ---- chips -------------------------------------------------------------------------------------------------


def probability_colours(probability: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): cividis, grey where there is none (NaN)."""
    from matplotlib import colormaps

    image = (colormaps["cividis"](np.nan_to_num(probability))[..., :3] * 255).astype(np.uint8)
    image[np.isnan(probability)] = pictures.NO_DATA_COLOUR
    return image


def layer_uri(image: np.ndarray | None, name: str) -> str | None:
    """A chip's layer, uint8 (H, W) or (H, W, 3): masks keep their colours exactly."""
    if image is None:
        return None
    picture = Image.fromarray(image).convert("RGB")
    exact = name in ("reference", "mask", "errors")
    scale = CHIP / max(picture.size)
    if scale < 1:
        size = [max(1, round(side * scale)) for side in picture.size]
        picture = picture.resize(size, Image.Resampling.NEAREST if exact else Image.Resampling.BOX)
    return data_uri(picture, None if exact else 70)


def chip(row: dict, out: Path, target: str = "total") -> dict[str, str | None]:
    """{layer of LAYERS: data URI} of a triplet and of what infer_unet wrote of it; NoPicture says why not."""
    try:
        reference = triplets.read_mask(row, target)
        mask, probability = predictions.read_written(out, row)
        if not reference.shape == mask.shape:
            raise NoPicture(f"mask {mask.shape} and reference {reference.shape} differ in size")
        found = predictions.panel(row, "", reference, mask, probability)
    except (BadInput, OSError, ValueError) as error:
        raise NoPicture(str(error)) from None
    layers = {
        "radar": found["radar"], "RGB": found["rgb"], "reference": pictures.mask_colours(reference),
        "mask": pictures.mask_colours(mask), "errors": found["errors"],
        "probability": None if probability is None else probability_colours(probability),
    }  # fmt: skip
    return {name: layer_uri(layers[name], name) for name in LAYERS}


# ---- the map -----------------------------------------------------------------------------------------------

SPLITS = {"train": ("#0072B2", "circle"), "val": ("#E69F00", "square"), "test": ("#D55E00", "triangle"),
          "several": ("#CC79A7", "diamond"), "": ("#444444", "circle")}  # fmt: skip
MOST_POINTS, MOST_NAMES = 2000, 24


def site_map(places: list[dict]) -> dict:
    """Geometry of a map of sites, in degrees on a plane true at its middle latitude, for a template to draw.

    places: dicts of site, latitude, longitude, split. Returns size, points (x, y, colour, shape, label,
    title), meridians and parallels (place, text), bar (length, text), key (split, colour, shape),
    shown, total.
    """
    step = -(-len(places) // MOST_POINTS)
    shown = places[::step] if places else []
    longitudes, latitudes = ([place[name] for place in shown] for name in ("longitude", "latitude"))
    middle = np.cos(np.radians((min(latitudes) + max(latitudes)) / 2))
    squeeze = max(0.05, middle)
    span = max((max(longitudes) - min(longitudes)) * squeeze, max(latitudes) - min(latitudes), 0.02)
    wide, tall = (max(longitudes) - min(longitudes)) * squeeze, max(latitudes) - min(latitudes)
    wide, tall = max(wide, span * 0.5), max(tall, span * 0.35)
    scale = min(560 / wide, 400 / tall)  # pixels a degree of latitude
    left, top, width, height = 70, 24, wide * scale + 60, tall * scale + 60
    centre = (min(longitudes) + max(longitudes)) / 2, (min(latitudes) + max(latitudes)) / 2

    def x(longitude):
        return round(left + width / 2 + (longitude - centre[0]) * squeeze * scale, 1)

    def y(latitude):
        return round(top + height / 2 - (latitude - centre[1]) * scale, 1)

    points = []
    for place in shown:
        colour, shape = SPLITS.get(place["split"], SPLITS[""])
        points.append({
            "x": x(place["longitude"]), "y": y(place["latitude"]), "colour": colour, "shape": shape,
            "label": "",
            "title": f"{place['site']}: {place['latitude']:.4f}, {place['longitude']:.4f}",
        })  # fmt: skip
    if len(shown) <= MOST_NAMES:
        name_points(points, [place["site"][:24] for place in shown], left, left + width)
    east, north = width / 2 / (squeeze * scale), height / 2 / scale
    meridians = [(x(v), degrees(v, "E", "W")) for v in nice(centre[0] - east, centre[0] + east)]
    parallels = [(y(v), degrees(v, "N", "S")) for v in nice(centre[1] - north, centre[1] + north)]
    kilometre = scale / 111.2  # pixels; a degree of latitude is 111.2 km
    length = max(10.0 ** k * m for k in range(-2, 5) for m in (1, 2, 5)
                 if 10.0**k * m * kilometre <= width / 3 or (k, m) == (-2, 1))  # fmt: skip
    used = {place["split"] if place["split"] in SPLITS else "" for place in shown}
    return {
        "left": left, "top": top, "width": round(width, 1), "height": round(height, 1), "points": points,
        "meridians": meridians, "parallels": parallels, "shown": len(shown), "total": len(places),
        "bar": (round(length * kilometre, 1), f"{length:g} km"),
        "key": [(name or "no split", *SPLITS[name]) for name in SPLITS if name in used],
    }  # fmt: skip


def name_points(points: list[dict], names: list[str], left: float, right: float) -> None:
    """Give points a label with its place (dx, dy), where one fits beside the others and within the frame."""
    taken = [(p["x"] - 6, p["y"] - 6, p["x"] + 6, p["y"] + 6) for p in points]
    for point, name in zip(points, names, strict=True):
        wide = 7.2 * len(name)
        sides, heights = (9, -9 - wide, -wide / 2), (-5, 13, 25, -17)
        for dx, dy in ((dx, dy) for dy in heights for dx in sides):
            x, y = point["x"] + dx, point["y"] + dy
            box = (x, y - 10, x + wide, y + 2)
            clear = all(box[2] < b[0] or b[2] < box[0] or box[3] < b[1] or b[3] < box[1] for b in taken)
            if clear and left < x and box[2] < right:
                taken.append(box)
                point |= {"label": name, "dx": dx, "dy": dy}
                break


def nice(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` round numbers between two."""
    raw = (high - low) / most
    unit = 10.0 ** np.floor(np.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw)
    return [round(k * step, 6) for k in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def degrees(value: float, plus: str, minus: str) -> str:
    return f"{abs(value):g}° {plus if value > 0 else minus if value < 0 else ''}".rstrip()
