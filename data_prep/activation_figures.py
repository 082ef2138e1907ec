"""Figures of what a network sees in an RGB picture and in the radar of the same place, as PNG and PDF."""

import itertools
import textwrap
from pathlib import Path

import numpy as np

from data_prep import pictures

PAGE = 7.16  # inches: two columns of an IEEE page
MODALITIES = ("RGB", "SAR")
COLOURS = {"RGB": "#0072B2", "SAR": "#D55E00", "both": "#000000", "other": "#999999"}
MARKERS = {"RGB": "o", "SAR": "s", "both": "D", "other": "v"}
TOP = 99  # percentile where a scale ends: a patch can take nearly a whole rollout (Darcet 2023, 2309.16588)
HEAT = "viridis"  # read alike by all kinds of colour vision, and in grey
CLASS_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")


def save(fig, path: Path) -> None:
    """path.png at 300 dpi and path.pdf."""
    fig.draw_without_rendering()  # lays out once for both
    fig.set_layout_engine("none")
    pdf = Path(path).with_suffix(".pdf")
    with pictures.atomic(pdf) as temporary:
        fig.savefig(temporary, format="pdf", dpi=300, metadata={"CreationDate": None})
    pictures.save(fig, Path(path).with_suffix(".png"), dpi=300)


def limits(*maps: np.ndarray, low: float = 1, high: float = TOP) -> tuple[float, float]:
    """Percentiles of all maps together, apart by a hair at least."""
    values = np.concatenate([np.ravel(one) for one in maps])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    bottom, top = (float(value) for value in np.percentile(values, [low, high]))
    return bottom, top if top > bottom else bottom + 1e-6 * max(1.0, abs(bottom))


def bare(axes) -> None:
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)


# ---- one figure a model: RGB beside SAR --------------------------------------------------------------------


def comparison(
    path: Path, title: str, examples: list[dict], views: list[dict], depths: list[dict], note: str
) -> None:
    """RGB above SAR: first maps of whole triplets, then chosen channels of some layers for the first triplet.

    examples: {pictures: uint8 (RGB, SAR) of (H, W, 3), mask: uint8 (H, W) of 0, 1, 255, caption}. views, each
    a column beside picture and mask: {title, kind, maps: a pair (RGB, SAR) an example, [unit], [names]}; kind
    "colour": maps (h, w, 3) of 0..1; "heat": numbers (h, w) under one scale with its unit; "classes": class
    numbers (h, w), whose names are given. depths: {title, channels: [{title, maps: (RGB, SAR) of (h, w)}]}.
    """
    row_in, block_in, blocks = 0.97, 1.45, -(-len(depths) // 2)
    title = textwrap.fill(title, 118, break_on_hyphens=False)
    note = textwrap.fill(note, 172, break_on_hyphens=False)
    lines = note.count("\n") + 1 + 1.4 * (title.count("\n") + 1)
    parts = [2 * row_in * len(examples) + 0.7, *([block_in * blocks] if blocks else [])]
    fig = pictures.figure(PAGE, sum(parts) + 0.1 + 0.095 * lines)
    fig.suptitle(title, fontsize=7.5)
    outer = fig.subfigures(len(parts), 1, height_ratios=parts, squeeze=False)[:, 0]
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    whole_triplets(outer[0], examples, views)
    if blocks:
        channel_blocks(outer[1], depths, blocks)
    fig.supxlabel(note, fontsize=5.5, x=0.01, ha="left", color="#333333", linespacing=1.1)
    save(fig, path)


def whole_triplets(fig, examples: list[dict], views: list[dict]) -> None:
    """Two rows a triplet: picture, mask, and a map of each view; keys and scales below."""
    grid = fig.subplots(2 * len(examples), 2 + len(views), squeeze=False)
    for axes in grid.flat:
        bare(axes)
    for axes, head in zip(grid[0], ("picture", "snow mask", *(v["title"] for v in views)), strict=True):
        axes.set_title(head, fontsize=6, pad=3, linespacing=1.05)
    for number, example in enumerate(examples):
        upper, lower = grid[2 * number : 2 * number + 2, 1]
        upper.imshow(pictures.mask_colours(example["mask"]), interpolation="nearest")
        lower.set(aspect="equal", xlim=(0, 1), ylim=(0, 1))
        lower.text(0.0, 1.0, example["caption"], fontsize=5.5, va="top")
        column = grid[2 * number : 2 * number + 2, 0]
        for axes, picture, modality in zip(column, example["pictures"], MODALITIES, strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set_ylabel(modality, fontsize=7.5, color=COLOURS[modality], fontweight="bold")
    patches(grid[-1, 1], {name: np.array(rgb) / 255 for name, rgb in pictures.MASK_KEY.items()})
    for column, view in zip(grid.T[2:], views, strict=True):
        maps = [one for pair in view["maps"] for one in pair]
        if view["kind"] == "classes":
            maps, key = class_colours(maps, view["names"])
            patches(column[-1], key)
        if view["kind"] == "heat":
            low, high = limits(*maps)
            for axes, one in zip(column, maps, strict=True):
                shown = axes.imshow(one, cmap=HEAT, vmin=low, vmax=high, interpolation="nearest")
            bar = fig.colorbar(
                shown, cax=column[-1].inset_axes([0, -0.13, 1, 0.06]), orientation="horizontal", extend="both"
            )
            bar.ax.tick_params(labelsize=5, length=2, pad=1)
            bar.ax.locator_params(nbins=4)
            bar.set_label(f"{view['unit']},\n1st to {TOP}th %", fontsize=5, labelpad=1)
            bar.outline.set_linewidth(0.4)
        else:
            for axes, one in zip(column, maps, strict=True):
                axes.imshow(one, interpolation="nearest")


def patches(axes, colours: dict) -> None:
    """A key of colours below a panel."""
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    axes.legend(
        handles=handles, fontsize=5, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.03),
        handlelength=1, handleheight=0.8, labelspacing=0.2, borderpad=0, borderaxespad=0,
    )  # fmt: skip


def channel_blocks(fig, depths: list[dict], blocks: int) -> None:
    """Blocks of feature maps, two beside each other: RGB above SAR, a column a channel."""
    boxes = fig.subfigures(blocks, 2, squeeze=False).flat
    for box, depth in zip(boxes, depths, strict=False):
        box.suptitle(depth["title"], fontsize=6.5, x=0.02, ha="left")
        grid = box.subplots(2, len(depth["channels"]), squeeze=False)
        for column, channel in zip(grid.T, depth["channels"], strict=True):
            low, high = limits(*channel["maps"])
            for axes, one in zip(column, channel["maps"], strict=True):
                axes.imshow(one, cmap=HEAT, vmin=low, vmax=high, interpolation="nearest")
                bare(axes)
            column[0].set_title(channel["title"], fontsize=5, pad=2, linespacing=1.05)
        for axes, modality in zip(grid[:, 0], MODALITIES, strict=True):
            axes.set_ylabel(modality, fontsize=6, color=COLOURS[modality], fontweight="bold")


def class_colours(labels: list[np.ndarray], names: list[str], most: int = 6) -> tuple[list, dict]:
    """Pictures float (H, W, 3) of maps of class numbers, and the key of the classes that fill most pixels."""
    from matplotlib.colors import to_rgb

    counts = np.bincount(np.concatenate([np.ravel(one) for one in labels]), minlength=len(names))
    shown = [int(k) for k in np.argsort(-counts, kind="stable")[:most] if counts[k]]
    table = np.full((len(counts), 3), 0.75)
    key = {}
    for place, number in enumerate(shown):
        background = names[number].strip("_") == "background"
        table[number] = (0.9, 0.9, 0.9) if background else to_rgb(CLASS_COLOURS[place])
        key[names[number]] = tuple(table[number])
    if np.count_nonzero(counts) > len(shown):
        key["other classes"] = (0.75, 0.75, 0.75)
    return [table[one] for one in labels], key


# ---- figures by depth --------------------------------------------------------------------------------------


def by_layer(rows: list[dict], model: str) -> list[dict]:
    """A dict a layer of a model, in order of depth: layer, and its rows under "given" and "random"."""
    table: dict[str, dict] = {}
    for row in rows:
        if row["model"] == model:
            table.setdefault(row["layer"], {"layer": row["layer"]})[row["weights"]] = row
    return list(table.values())


def heading(title: str, rows: list[dict]) -> str:
    """A model's title; positions and channels, which bound the rank; images and sites of the AUC."""
    own = [row for row in rows if row["layer"] != "input"] or rows
    spans = [
        (min(row[name] for row in own), max(row[name] for row in own))
        for name in ("positions", "channels", "auc_images", "auc_sites")
    ]
    shown = [f"{low:,}" if low == high else f"{low:,} to {high:,}" for low, high in spans]
    rank = f"Rank: of {shown[0]} positions and {shown[1]} channels"
    return f"{title}\n{rank}. AUC: {shown[2]} images with both classes, {shown[3]} sites."


def last_layers(rows: list[dict]):
    """Lines for the screen: of each model and kind of weights the input and the last layer."""
    heads = ("unbiased CKA", "of another image", "held-out AUC, RGB", "held-out AUC, SAR", "images, sites")
    yield f"{'':40s}" + "".join(f"{head:>23s}" for head in heads)
    last = {(row["model"], row["weights"], row["layer"] == "input"): row for row in rows}
    for row in last.values():
        found = (row["cka_unbiased"], row["cka_other_unbiased"])
        values = ["null" if value is None else f"{value:.3f}" for value in found]
        for name in ("held_out_auc_rgb", "held_out_auc_sar"):
            ends = (row[name], row[f"{name}_low"], row[f"{name}_high"])
            values.append("null" if None in ends else "{:.3f} [{:.3f}, {:.3f}]".format(*ends))
        values.append(f"{row['auc_images']}, {row['auc_sites']}")
        label = f"{row['model']}, {row['weights']}, {row['layer']}"
        yield f"{label:40s}" + "".join(f"{value:>23s}" for value in values)
    yield (
        "AUC: within images with both classes, of the channel best on the other half of sites; 95 % over "
        "sites; null: too few sites in a half hold such images"
    )


def layers(path: Path, rows: list[dict], models: dict[str, str], title: str) -> None:
    """By depth, a row of panels a model: likeness of RGB and SAR, effective rank, sparsity, AUC of a channel.

    rows: of layers.csv: model, weights ("given" or "random"), layer, cka_unbiased, cka_other_unbiased;
    effective_rank, hoyer, held_out_auc with _rgb and _sar, this also with _low and _high. models: the title
    of each.
    """
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    tables = {}
    for model, name in models.items():
        own = [row for row in rows if row["model"] == model]
        tables[heading(name, own)] = by_layer(rows, model)
    fig = pictures.figure(PAGE, 1.95 * len(tables) + 0.75)
    fig.suptitle(title, fontsize=7.5)
    boxes = fig.subfigures(len(tables), 1, squeeze=False)[:, 0]
    names = {"given": "trained weights", "random": "random weights"}
    handles = {}
    for box, (head, rows) in zip(boxes, tables.items(), strict=True):
        box.suptitle(head, fontsize=6, x=0.01, ha="left")
        axes_row = box.subplots(1, 4)
        prefix, ticks = short_names([row["layer"] for row in rows])
        for weights in ("random", "given"):
            label = names[weights]
            line(axes_row[0], rows, weights, "cka_unbiased", "both", f"RGB with SAR, {label}")
            other = f"RGB with another triplet's SAR, {label}"
            line(axes_row[0], rows, weights, "cka_other_unbiased", "other", other)
            for modality in MODALITIES:
                for axes, name in zip(axes_row[1:], ("effective_rank", "hoyer", "held_out_auc"), strict=True):
                    line(axes, rows, weights, f"{name}_{modality.lower()}", modality, f"{modality}, {label}")
        axes_row[0].set(ylabel="linear CKA, unbiased", ylim=(min(-0.02, axes_row[0].get_ylim()[0]), 1.02))
        axes_row[1].set(ylabel="effective rank", yscale="log")
        axes_row[2].set(ylabel="sparsity (Hoyer)", ylim=(-0.02, 1.02))
        axes_row[1].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes_row[1].yaxis.set_minor_formatter(NullFormatter())
        axes_row[3].set(ylabel="AUC within images of the\nchannel best on other sites")
        if axes_row[3].lines:
            axes_row[3].set_ylim(min(0.45, max(0, axes_row[3].get_ylim()[0])), 1.02)
        else:
            said = "not known: too few\nsites have images\nwith both classes"
            axes_row[3].text(0.5, 0.7, said, fontsize=6, ha="center", transform=axes_row[3].transAxes)
        axes_row[3].axhline(0.5, color="#999999", linewidth=0.6, linestyle=":")
        for axes in axes_row:
            axes.set_xticks(range(len(rows)), ticks, rotation=90, fontsize=5)
            axes.set_xlabel(prefix, fontsize=5.5, labelpad=1)
            axes.set_xlim(-0.5, len(rows) - 0.5)
            axes.tick_params(axis="y", labelsize=5.5)
            axes.yaxis.label.set_size(6.5)
            axes.grid(color="#e5e5e5", linewidth=0.5)
            axes.set_axisbelow(True)
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
    from matplotlib.patches import Patch

    handles["95 % over sites"] = Patch(color="#999999", alpha=0.3, linewidth=0)
    fig.legend(handles.values(), handles, loc="outside lower center", ncol=4, frameon=False, fontsize=5.5)
    save(fig, path)


def line(axes, rows: list[dict], weights: str, key: str, modality: str, label: str) -> None:
    """A number against depth; weights that were trained are drawn full, random ones dashed and hollow."""
    values = np.array([pictures.as_number(row.get(weights, {}).get(key)) for row in rows], float)
    known = np.flatnonzero(np.isfinite(values))
    if not known.size:
        return
    trained, colour = weights == "given", COLOURS[modality]
    axes.plot(
        known, values[known], "-" if trained else "--", color=colour, linewidth=1.1 if trained else 0.7,
        marker=MARKERS[modality], markersize=2.8 if trained else 2.2, markeredgewidth=0.6,
        markerfacecolor=colour if trained else "white", label=label,
    )  # fmt: skip
    ends = [
        np.array([pictures.as_number(rows[k].get(weights, {}).get(f"{key}_{end}")) for k in known], float)
        for end in ("low", "high")
    ]
    if np.isfinite(ends).any():
        axes.fill_between(known, *ends, color=colour, alpha=0.2 if trained else 0.1, linewidth=0)


def short_names(names: list[str]) -> tuple[str, list[str]]:
    """What the names of layers have in common, and the rest of each; "input" stays as it is."""
    parts = [name.split(".")[:-1] for name in names if name != "input"]
    common = list(itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False)))
    prefix = "".join(f"{level[0]}." for level in common)
    return f"{prefix}*" if prefix else "", [n if n == "input" else n[len(prefix) :] for n in names]
