"""Figures of a manuscript that show ground: the map of sites, and chips from best to worst."""

import math

from data_prep import pictures, predictions, reporting, runs, triplets
from data_prep.climate_figures import COLUMN, PAGE
from data_prep.manuscript_draw import SMALL, Nothing, begin
from data_prep.manuscript_latex import caption_of, whole
from data_prep.manuscript_steps import places, triplets_of
from data_prep.report_blocks import in_run
from data_prep.report_run import number, of_kind, rows_of
from data_prep.report_verdicts import target_of

SPLITS = {"train": ("#0072B2", "o", "training"), "val": ("#E69F00", "s", "validation"),
          "test": ("#D55E00", "^", "test"), "": ("#444444", "o", "no split")}  # fmt: skip
COUNT = 4
KINDS = {"radar": "radar (VV)", "rgb": "RGB", "reference mask": "reference", "errors": "mask and errors",
         "probability": "probability of snow"}  # fmt: skip
ERRORS = {"snow missed": pictures.MISSED_SNOW, "marked, no snow": pictures.FALSE_SNOW}


def sites(run: dict) -> dict:
    """Sites in degrees, on a plane true at their middle latitude, by split."""
    step, found = places(run)
    if not found:
        raise Nothing("no triplets.csv with latitudes and longitudes")
    latitudes, longitudes = [p["latitude"] for p in found], [p["longitude"] for p in found]
    squeeze = max(0.05, math.cos(math.radians((min(latitudes) + max(latitudes)) / 2)))
    tall = max(max(latitudes) - min(latitudes), 0.05)
    wide = max((max(longitudes) - min(longitudes)) * squeeze, 0.05)
    fig = begin(COLUMN, 0.8 + min(3.6, max(1.4, 2.9 * tall / wide)), step)
    axes = fig.subplots()
    for name, (colour, mark, words) in SPLITS.items():
        mine = [p for p in found if (p["split"] if p["split"] in SPLITS else "") == name]
        if mine:
            axes.scatter([p["longitude"] for p in mine], [p["latitude"] for p in mine], s=16, c=colour,
                marker=mark,
                         linewidths=0, label=f"{words} ({len(mine)})")  # fmt: skip
    axes.set(xlabel="longitude (°, WGS84)", ylabel="latitude (°)")
    axes.margins(0.12)
    axes.set_aspect(1 / squeeze, adjustable="datalim")
    axes.grid(color="#e5e5e5", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.locator_params(nbins=5)
    axes.ticklabel_format(useOffset=False)
    scale_bar(axes, squeeze, wide)
    handles, names = axes.get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncol=3, handletextpad=0.2, columnspacing=1.2)
    words = f"The {len(found)} sites of {whole(sum(p['n'] for p in found))} triplets, by split."
    return {"figure": fig, "caption": caption_of(words, step), "wide": False}


def scale_bar(axes, squeeze: float, wide: float) -> None:
    """A round length of at most a third of the map, above its upper left corner, where no site lies."""
    kilometres = wide * 111.2 / 3  # of a degree of latitude
    unit = 10.0 ** math.floor(math.log10(kilometres))
    length = max(unit * m for m in (1, 2, 5) if unit * m <= kilometres)
    x, along = axes.get_xlim()[0], axes.get_xaxis_transform()  # degrees along, share of the axes up
    end = x + length / (111.2 * squeeze)
    axes.plot([x, end], [1.03] * 2, color="#000000", linewidth=2, solid_capstyle="butt", transform=along,
              clip_on=False)  # fmt: skip
    words = {"xycoords": along, "textcoords": "offset points", "va": "center", "fontsize": SMALL}
    axes.annotate(f"{length:g} km", (end, 1.03), (4, 0), annotation_clip=False, **words)


def chips(run: dict) -> dict:
    """COUNT chips, evenly over their rank, of the first scoring of infer_unet.py whose chips can be read."""
    why = "no finished step of infer_unet.py scores triplets"
    for step in of_kind(run, "score"):
        try:
            panels, which, judged = read(run, step)
        except (runs.BadInput, OSError, ValueError) as error:
            why = f"{step['name']}: {in_run(str(error), run)}"
            continue
        if panels:
            return draw(step, panels, f"{target_of(step, run)} snow", which, judged)
        why = f"{step['name']}: none of its triplets has snow and a score"
    raise Nothing(why)


def read(run: dict, step: dict) -> tuple[list[dict], str, int]:
    """Panels as predictions.panel makes them; which chips they were chosen from, and how many these are."""
    source = triplets_of(run, step)
    if source is None:
        raise ValueError("its triplets lie outside the run folder")
    about = {row["id"]: row for row in triplets.read_manifest(source["folder"]).rows}
    keys = ("pixels", "accuracy", "iou", "prevalence")
    rows = [{"id": row.get("id"), **{k: number(row, k) for k in keys}} for row in rows_of(step, "per_image")]
    rows = [row for row in rows if row["id"] in about and row["pixels"] and row["iou"] is not None]
    mixed = [
        row for row in rows if 0.05 <= (row["prevalence"] or 0) <= 0.95
    ] or rows  # one colour shows little
    panels = []
    for row, _ in reporting.best_to_worst([r for r in mixed if r["accuracy"] is not None], COUNT):
        triplet = about[row["id"]]
        mask, probability = predictions.read_written(step["folder"], triplet)
        reference = triplets.read_mask(triplet, target_of(step, run))
        if reference.shape != mask.shape:
            raise ValueError(
                f"mask {mask.shape} and reference {reference.shape} of {row['id']} differ in size"
            )
        words = f"{triplet['site'][:20]}\n{triplet['date'] or 'no date'}\nIoU {row['iou']:.2f}, acc. "
        words += f"{row['accuracy']:.2f}"
        panels.append(predictions.panel(triplet, words, reference, mask, probability))
    return panels, "with 5 to 95 % snow" if len(mixed) < len(rows) else "with a score", len(mixed)


def draw(step: dict, panels: list[dict], target: str, which: str, judged: int) -> dict:
    fig = begin(PAGE, 0.65 + 1.3 * len(panels), step)
    grid = fig.subplots(len(panels), len(KINDS), squeeze=False)
    fig.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0.01, hspace=0.01)
    for axes, words in zip(grid[0], KINDS.values(), strict=True):
        axes.set_title(words, fontsize=8)
    bar = None
    for row, panel in zip(grid, panels, strict=True):
        row[0].set_ylabel(panel["caption"], fontsize=SMALL)
        for axes, kind in zip(row, KINDS, strict=True):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            image = panel.get(kind)
            if image is None:
                axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)
            elif kind == "probability":
                bar = axes.imshow(image, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
                axes.set_facecolor([value / 255 for value in pictures.NO_DATA_COLOUR])
            else:
                image = pictures.mask_colours(image) if kind == "reference mask" else image
                axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    if bar is not None:
        fig.colorbar(
            bar, ax=grid[:, -1], location="right", fraction=0.06, pad=0.02, aspect=30
        ).ax.tick_params(labelsize=SMALL)
    pictures.key(fig, {**pictures.MASK_KEY, **ERRORS})
    split = step["result"].get("split")
    words = f"{len(panels)} of {judged:,} chips of split {split} {which}, evenly over their rank by "
    words += (
        f"accuracy, best first: radar, RGB, reference ({target}), the mask with its errors, and the "
        "probability of snow."
    )
    return {"figure": fig, "caption": caption_of(words, step), "wide": True}
