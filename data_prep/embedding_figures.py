"""Figures of two clouds of embeddings: the plane they are shown in, and how well pairs find each other."""

import textwrap
from pathlib import Path

import numpy as np

from data_prep import gap_tables, pictures
from data_prep.activation_figures import CLASS_COLOURS, COLOURS, MARKERS, PAGE, save

SEASONS = {"Dec-Feb": (12, 1, 2), "Mar-May": (3, 4, 5), "Jun-Aug": (6, 7, 8), "Sep-Nov": (9, 10, 11)}
SEASON_COLOURS = dict(zip(SEASONS, ("#0072B2", "#009E73", "#E69F00", "#CC79A7"), strict=True))
UNKNOWN = "#BBBBBB"
NAMED_SITES = 8  # more are coloured by number, without names
SITE_MAP, SNOW_MAP = "viridis", "cividis"
VIEWS = ("modality", "site", "season", "snow fraction")


def season(date: str) -> str:
    """The quarter of a date YYYY-MM-DD, "" for none; by months, so that it means the same south."""
    month = int(date[5:7]) if date[5:7].isdigit() else 0
    return next((name for name, months in SEASONS.items() if month in months), "")


def colours(rows: list[dict], view: str) -> tuple[list, dict, str]:
    """(colour of each pair, {name: colour} of a legend, a note) of a view that does not tell modalities."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if view == "season":
        found = [season(row["date"]) for row in rows]
        key = {name: colour for name, colour in SEASON_COLOURS.items() if name in found}
        key |= {"no date": UNKNOWN} if "" in found else {}
        return [SEASON_COLOURS.get(name, UNKNOWN) for name in found], key, ""
    if view == "snow fraction":
        ramp = colormaps[SNOW_MAP]
        known = [row["snow_fraction"] for row in rows]
        found = [UNKNOWN if snow is None else to_hex(ramp(min(max(float(snow), 0.0), 1.0))) for snow in known]
        return found, {"unknown": UNKNOWN} if None in known else {}, ""
    sites = sorted({row["site"] for row in rows})
    if len(sites) <= NAMED_SITES:
        key = dict(zip(sites, CLASS_COLOURS, strict=False))
        return [key[row["site"]] for row in rows], key, ""
    ramp = colormaps[SITE_MAP]
    shade = {site: to_hex(ramp(k / (len(sites) - 1))) for k, site in enumerate(sites)}
    return [shade[row["site"]] for row in rows], {}, f"{len(sites)} sites,\na shade each"


def projection(path: Path, rows: list[dict], planes: dict[str, np.ndarray], title: str, note: str) -> None:
    """PCA above t-SNE, coloured by modality, site, season and snow fraction; pairs joined by lines.

    planes: title of a row -> (2 n, 2), RGB rows then SAR rows of the n pairs `rows`.
    """
    title, note = textwrap.fill(title, 118), textwrap.fill(note, 172, break_on_hyphens=False)
    fig = pictures.figure(PAGE, 1.95 * len(planes) + 0.75 + 0.1 * note.count("\n"))
    fig.suptitle(title, fontsize=7.5)
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    grid = fig.subplots(len(planes), len(VIEWS), squeeze=False)
    for axes_row, (name, plane) in zip(grid, planes.items(), strict=True):
        for axes, view in zip(axes_row, VIEWS, strict=True):
            scatter(axes, rows, plane, view)
        axes_row[0].set_ylabel(name, fontsize=6.5)
    for axes, view in zip(grid[0], VIEWS, strict=True):
        axes.set_title(view, fontsize=7, pad=3)
    for axes, view in zip(grid[-1], VIEWS, strict=True):
        legend(fig, axes, rows, view)
    fig.supxlabel(note, fontsize=5.5, x=0.01, ha="left", color="#333333", linespacing=1.1)
    save(fig, path)


def scatter(axes, rows: list[dict], plane: np.ndarray, view: str) -> None:
    """One panel: RGB as circles, SAR as squares, whatever the colours say."""
    from matplotlib.collections import LineCollection

    count, size = len(rows), 14 if len(rows) < 50 else 6 if len(rows) < 400 else 2.5
    rgb, sar = plane[:count], plane[count:]
    faint = 0.6 if count < 50 else 0.35 if count < 400 else 0.1
    lines = LineCollection(np.stack([rgb, sar], axis=1), colors="#555555", linewidths=0.35, alpha=faint)
    axes.add_collection(lines)
    shades = None if view == "modality" else colours(rows, view)[0]
    order = np.random.default_rng(0).permutation(count)  # no site on top of the others
    for modality, part in (("RGB", rgb), ("SAR", sar)):
        shade = COLOURS[modality] if shades is None else [shades[k] for k in order]
        axes.scatter(*part[order].T, s=size, c=shade, marker=MARKERS[modality], linewidths=0.2,
                     edgecolors="white" if count < 400 else "none", zorder=2)  # fmt: skip
    axes.set(xticks=[], yticks=[])
    axes.margins(0.04)


def legend(fig, axes, rows: list[dict], view: str) -> None:
    """Below the column: names of its colours, or the bar of snow."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D

    style = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.02), "frameon": False, "fontsize": 5.5,
             "handletextpad": 0.2, "columnspacing": 0.8, "labelspacing": 0.2}  # fmt: skip
    if view == "modality":
        marks = [(name, MARKERS[name], COLOURS[name]) for name in ("RGB", "SAR")]
        handles = [Line2D([], [], ls="", marker=m, color=c, ms=3.5, label=n) for n, m, c in marks]
        handles.append(Line2D([], [], color="#555555", lw=0.6, label="a pair"))
        axes.legend(handles=handles, ncol=3, **style)
        return
    if view == "snow fraction":
        bar = ScalarMappable(Normalize(0, 1), SNOW_MAP)
        bar = fig.colorbar(bar, cax=axes.inset_axes([0.05, -0.1, 0.9, 0.05]), orientation="horizontal")
        bar.ax.tick_params(labelsize=5, length=2, pad=1)
        bar.outline.set_linewidth(0.4)
        unknown = sum(row["snow_fraction"] is None for row in rows)
        grey = f", grey: unknown ({unknown})" if unknown else ""
        bar.set_label(f"share of valid pixels{grey}", fontsize=5.5, labelpad=1)
        return
    _, key, text = colours(rows, view)
    dots = [Line2D([], [], ls="", marker="o", color=c, ms=3, label=short(n)) for n, c in key.items()]
    if dots:
        axes.legend(handles=dots, ncol=2 if len(dots) > 1 else 1, **style)
    else:
        axes.text(0.5, -0.04, text, ha="center", va="top", fontsize=5.5, transform=axes.transAxes)


def short(name: str, most: int = 14) -> str:
    """A name of at most `most` letters: its middle left out, as names of one series begin alike."""
    return name if len(name) <= most else f"{name[: most // 3]}\u2026{name[most // 3 + 1 - most :]}"


# ---- how well pairs find each other ------------------------------------------------------------------------

STYLES = {
    "model": {"color": "#0072B2", "marker": "o"},
    "random": {"color": "#E69F00", "marker": "s"},
    "moved": {"color": "#009E73", "marker": "^"},
    "shuffled": {"color": "#777777", "marker": "v"},
}
LOW_CHANCE = 0.05  # of R@1, under which its axis is logarithmic
WAYS = {"sar_to_rgb": "SAR finds RGB", "rgb_to_sar": "RGB finds SAR"}


def retrieval(path: Path, found: dict, treatments, at, limits, title: str, note: str) -> None:
    """R@k both ways by treatment with 95 % intervals, and what is left of the distance of pairs.

    limits: of the left share, under which a gap is called a translation, and one in part.
    """
    parts = gap_tables.comparisons(found)
    fig = pictures.figure(PAGE, 4.6)
    fig.suptitle("\n".join(textwrap.fill(text, 130) for text in (title, note)), fontsize=6.8)
    grid = fig.subplots(2, len(treatments) + 1, gridspec_kw={"width_ratios": [1] * len(treatments) + [1.15]})
    chance = parts["model"]["raw"]["sar_to_rgb"]["chance_r_at_1"]
    for axes_row, (way, label) in zip(grid, WAYS.items(), strict=True):
        for axes, treatment in zip(axes_row, treatments, strict=False):
            for number, (name, figures) in enumerate(parts.items()):
                shift = 1 + 0.06 * (number - (len(parts) - 1) / 2)
                draw(axes, np.array(at) * shift, figures[treatment][way], [f"r_at_{k}" for k in at], name)
            axes.plot(at, [min(1, k * chance) for k in at], ls=":", color="black", lw=1, label="chance")
            axes.set(xscale="log", ylim=(-min(chance, 0.1) / 3, 1.15 if chance < LOW_CHANCE else 1.05))
            ticks = [0, 0.25, 0.5, 0.75, 1]
            if chance < LOW_CHANCE:
                axes.set_yscale("symlog", linthresh=chance, linscale=0.5)
                ticks = [0, *(t for t in (0.001, 0.01, 0.1, 1) if t > chance)]
            axes.set_yticks(ticks, [f"{t:g}" for t in ticks], fontsize=6)
            axes.minorticks_off()
            axes.set_xticks(at, [str(k) for k in at], fontsize=6)
            axes.grid(axis="y", color="#E5E5E5", lw=0.5)
        axes_row[0].set_ylabel(f"{label}\nR@k", fontsize=7)
    for axes, treatment in zip(grid[0], treatments, strict=False):
        axes.set_title("as embedded" if treatment == "raw" else f"after {treatment}", fontsize=7)
    for axes in grid[1, :-1]:
        axes.set_xlabel("k", fontsize=7)
    measures = (("unexplained", "distance of pairs over\nthat of strangers, squared"),
                ("probe", "accuracy of a linear probe\nfor modality (0.5: cannot tell)"))  # fmt: skip
    for axes, (key, label) in zip(grid[:, -1], measures, strict=True):
        for number, (name, figures) in enumerate(parts.items()):
            rows = [figures[treatment] for treatment in treatments]
            if key in rows[0]:
                place = np.arange(len(rows)) + 0.09 * (number - (len(parts) - 1) / 2)
                values = {f"{k}{end}": row.get(f"{key}{end}")
                          for k, row in enumerate(rows) for end in ("", "_low", "_high")}  # fmt: skip
                draw(axes, place, values, [str(k) for k in range(len(rows))], name)
        axes.set_xticks(range(len(treatments)), ["none", "shift", "shift +\nrotation"], fontsize=6)
        axes.set_ylabel(label, fontsize=6.5)
        axes.grid(axis="y", color="#E5E5E5", lw=0.5)
        axes.tick_params(axis="y", labelsize=6)
    grid[0, -1].set_yscale("log")  # random weights lie a hundred times as far apart as trained ones
    pictures.plain_log(grid[0, -1].yaxis)
    for value in limits:
        grid[0, -1].axhline(value, color="black", ls="--", lw=0.6)
    grid[1, -1].set_ylim(0, 1.05)
    grid[1, -1].axhline(0.5, color="black", ls=":", lw=1)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncol=3, frameon=False, fontsize=6.5)
    save(fig, path)


def draw(axes, x, figures: dict, names: list[str], which: str) -> None:
    """Marks with their 95 % intervals, of figures[name], figures[name + "_low"], ... joined by a line."""
    style = STYLES[which]
    values = [np.nan if figures.get(name) is None else figures[name] for name in names]
    axes.plot(x, values, **style, ms=3.2, lw=0.8, label=gap_tables.COMPARISONS[which])
    for place, name in zip(x, names, strict=True):
        low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
        if low is not None:
            axes.plot([place, place], [low, high], color=style["color"], lw=0.8, alpha=0.8)
