"""Figures people look at: contact sheets, overlays, curves, histograms, in Okabe and Ito's safe palette."""

from pathlib import Path

import numpy as np

from data_prep.runs import atomic

SNOW_COLOUR, BARE_COLOUR, NO_DATA_COLOUR = (86, 180, 233), (120, 94, 60), (190, 190, 190)
MISSED_SNOW, FALSE_SNOW = (240, 228, 66), (213, 94, 0)
KINDS = {"sar": "radar", "rgb": "RGB"}
MASK_KEY = {"snow": SNOW_COLOUR, "snow-free": BARE_COLOUR, "no data": NO_DATA_COLOUR}


def figure(width_inches: float, height_inches: float):
    """A matplotlib figure without a window."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    # Names from files may hold a $, which is no mathematics here.
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    plt.rcParams["text.parse_math"] = False
    return plt.figure(figsize=(width_inches, height_inches), layout="constrained")


def plain_log(axis) -> None:
    """Label a logarithmic axis with plain numbers: matplotlib's are mathematics, which figure() turns off."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):  # whose rule says which ticks have a label
        def __call__(self, x, pos=None):
            shown = super().__call__(x, pos)
            return np.format_float_positional(x, 3, fractional=False, trim="-") if shown else ""

    axis.set_major_formatter(Plain())
    axis.set_minor_formatter(Plain())


def save(fig, path: Path, dpi: int = 150) -> None:
    import matplotlib.pyplot as plt

    with atomic(path) as temporary:
        fig.savefig(temporary, dpi=dpi, format=Path(path).suffix[1:])
    plt.close(fig)


def mask_colours(mask: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) of a mask 0, 1, 255."""
    image = np.full((*mask.shape, 3), NO_DATA_COLOUR, np.uint8)
    image[mask == 0], image[mask == 1] = BARE_COLOUR, SNOW_COLOUR
    return image


def error_colours(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): the mask's colours where both agree, others where snow is missed or falsely marked."""
    image = mask_colours(np.where(predicted == 255, 255, truth))
    image[(truth == 1) & (predicted == 0)] = MISSED_SNOW
    image[(truth == 0) & (predicted == 1)] = FALSE_SNOW
    return image


def key(fig, colours: dict[str, tuple]) -> None:
    from matplotlib.patches import Patch

    fig.legend(
        fontsize=7,
        handles=[Patch(color=np.array(rgb) / 255, label=label) for label, rgb in colours.items()],
        loc="outside lower center",
        ncol=len(colours),
        frameon=False,
    )


def contact_sheet(path: Path, panels: list[dict], title: str, columns: int = 3) -> None:
    """Rows of triplets: SAR, RGB, mask side by side under a caption; panels hold sar, rgb, mask, caption."""
    count = max(1, len(panels))
    rows = -(-count // columns)
    fig = figure(3.6 * columns, 1.62 * rows + 0.7)
    fig.suptitle(title)
    boxes = fig.add_gridspec(rows, columns)
    for number, panel in enumerate(panels):
        inner = boxes[number // columns, number % columns].subgridspec(1, 3, wspace=0.03)
        for place, kind in enumerate(("sar", "rgb", "mask")):
            axes = fig.add_subplot(inner[place])
            axes.set(xticks=[], yticks=[])
            image = panel.get(kind)
            if image is None:
                axes.text(
                    0.5,
                    0.5,
                    f"no {KINDS.get(kind, kind)}",
                    ha="center",
                    va="center",
                    transform=axes.transAxes,
                )
            else:
                axes.imshow(
                    mask_colours(image) if kind == "mask" else image,
                    cmap="gray",
                    vmin=0,
                    vmax=255,
                    interpolation="nearest",
                )
            if place == 0:
                axes.set_title(panel["caption"], loc="left", fontsize=6.5, pad=3)
    if not panels:
        fig.text(0.5, 0.5, "none", ha="center")
    key(fig, MASK_KEY)
    save(fig, path)


def overlays(path: Path, panels: list[dict], title: str, bar_label: str = "") -> None:
    """One row a triplet: radar, RGB, reference mask, probability, errors; panels hold these and a caption.

    bar_label: what the colours of the probability are, where the title of its column does not say it all.
    """
    kinds = ("radar", "rgb", "reference mask", "probability", "errors")
    count = max(1, len(panels))
    fig = figure(8.6, 1.75 * count + 0.9)
    fig.suptitle(title)
    grid = fig.subplots(count, len(kinds), squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    for axes, kind in zip(grid[0], kinds, strict=True):
        axes.set_title("RGB" if kind == "rgb" else kind)
    bar = None
    for row, panel in zip(grid, panels, strict=False):
        row[0].set_xlabel(panel["caption"], loc="left", fontsize=6.5)
        for axes, kind in zip(row, kinds, strict=True):
            image = panel.get(kind)
            if image is None:
                axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)
            elif kind == "probability":
                bar = axes.imshow(image, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
            else:
                image = mask_colours(image) if kind == "reference mask" else image
                axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    if bar is not None:
        bar = fig.colorbar(bar, ax=grid[:, 3], location="right", fraction=0.08, pad=0.03, aspect=30)
        bar.set_label(bar_label, fontsize=6.5)
    key(fig, {**MASK_KEY, "error: snow missed": MISSED_SNOW, "error: marked, no snow": FALSE_SNOW})
    save(fig, path)


def training_curves(path: Path, epochs: list[dict], title: str) -> None:
    """Loss, validation scores and learning rate over epochs, from the records of log.jsonl."""
    fig = figure(7.2, 2.4)
    fig.suptitle(title)
    x = [record["epoch"] + 1 for record in epochs]
    loss, score, rate = fig.subplots(1, 3)
    loss.plot(x, [record["train_loss"] for record in epochs], label="training", color="#0072B2", marker=".")
    loss.plot(
        x,
        [as_number(record["val_loss"]) for record in epochs],
        label="validation",
        color="#D55E00",
        marker=".",
    )
    loss.set(xlabel="epoch", ylabel="loss (per pixel and image)")
    for name, colour in (("iou", "#009E73"), ("f1", "#CC79A7"), ("auprc", "#E69F00")):
        values = [as_number(record["val"].get(name)) for record in epochs]
        if np.isfinite(values).any():
            score.plot(x, values, label=f"validation {name}", color=colour, marker=".")
    if not score.lines:
        score.text(
            0.5,
            0.5,
            "validation has\none class only:\nno score",
            ha="center",
            va="center",
            transform=score.transAxes,
        )
    score.set(xlabel="epoch", ylabel="score (snow)", ylim=(0, 1.02))
    rate.plot(x, [record["learning_rate"] for record in epochs], color="#444444", marker=".")
    rate.set(xlabel="epoch", ylabel="learning rate", yscale="log")
    plain_log(rate.yaxis)
    for axes in (loss, score, rate):
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in (loss, score):
        if axes.lines:
            axes.legend(frameon=False, fontsize=7)
    save(fig, path)


def as_number(value) -> float:
    return float("nan") if value is None else value


def probability_histogram(
    path: Path,
    snow: np.ndarray,
    snow_free: np.ndarray,
    threshold: float | None,
    title: str,
    calibration: list[dict],
) -> None:
    """Histogram of predicted probability by reference class, and the reliability diagram beside it."""
    fig = figure(7.2, 2.8)
    fig.suptitle(title)
    left, right = fig.subplots(1, 2)
    bins = 50
    edges = np.linspace(0, 1, bins + 1)
    for counts, label, colour in ((snow, "snow", "#56B4E9"), (snow_free, "snow-free", "#785E3C")):
        grouped = np.asarray(counts, float).reshape(bins, -1).sum(axis=1)
        left.stairs(
            np.where(grouped > 0, grouped, np.nan),
            edges,
            label=f"{label} (n = {int(grouped.sum()):,})",
            color=colour,
            fill=True,
            alpha=0.6,
            baseline=0.5,
        )
    if threshold is not None:
        label = f"threshold {threshold:.3f}"
        left.axvline(threshold, color="black", linestyle="--", linewidth=1, label=label)
    left.set(xlabel="predicted probability of snow", ylabel="pixels", yscale="log", xlim=(0, 1))
    plain_log(left.yaxis)
    left.legend(framealpha=0.9, edgecolor="none", fontsize=7)
    right.plot([0, 1], [0, 1], color="#999999", linestyle=":", label="calibrated")
    used = [row for row in calibration if row["pixels"]]
    right.plot(
        [row["probability"] for row in used],
        [row["snow_share"] for row in used],
        marker="o",
        color="#0072B2",
        markersize=3,
        label="model",
    )
    right.set(xlabel="mean predicted probability", ylabel="share that is snow", xlim=(0, 1), ylim=(0, 1))
    if not (np.sum(snow) and np.sum(snow_free)):
        right.text(0.5, 0.5, "one class only:\nnothing to calibrate by", ha="center", backgroundcolor="white")
    right.legend(frameon=False, fontsize=7)
    save(fig, path)


def class_balance(path: Path, table: dict[str, dict], title: str) -> None:
    """Pixels of each class in each split, as stacked bars."""
    fig = figure(4.2, 2.6)
    axes = fig.subplots()
    names = list(table)
    bottom = np.zeros(len(names))
    for column, colour in (("snow", SNOW_COLOUR), ("snow_free", BARE_COLOUR)):
        values = np.array([table[name][column] for name in names], float)
        axes.bar(names, values, bottom=bottom, color=np.array(colour) / 255, label=column.replace("_", "-"))
        bottom += values
    for place, name in enumerate(names):
        axes.annotate(
            f"{table[name]['triplets']} tiles, {table[name]['sites']} sites",
            (place, bottom[place]),
            ha="center",
            va="bottom",
            fontsize=7,
        )
    axes.set(ylabel="pixels with a label", title=title, ylim=(0, max(1.0, bottom.max()) * 1.18))
    axes.legend(frameon=False, fontsize=7)
    save(fig, path)


def scene_preview(
    path: Path, radar: np.ndarray, probability: np.ndarray, mask: np.ndarray, title: str
) -> None:
    """A scene at screen size: radar, probability, mask."""
    fig = figure(8.6, 3.3)
    fig.suptitle(title)
    for axes, image, name in zip(
        fig.subplots(1, 3), (radar, probability, mask), ("radar", "probability of snow", "mask"), strict=True
    ):
        axes.set(xticks=[], yticks=[], title=name)
        if name == "mask":
            axes.imshow(mask_colours(image), interpolation="nearest")
        elif name == "radar":
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        else:
            fig.colorbar(
                axes.imshow(image, cmap="cividis", vmin=0, vmax=1, interpolation="nearest"),
                ax=axes,
                shrink=0.8,
            )
    key(fig, MASK_KEY)
    save(fig, path)


METHOD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
METHOD_MARKERS = "osD^vPX"


def method_styles(names) -> dict[str, dict]:
    """Colour, marker, filling and line of each method: no two of 42 alike; oracles black or grey, dashed.

    An oracle has seen the truth and says so in its name. Colours used a second time have hollow marks.
    """
    oracles = [name for name in names if "oracle" in name]
    styles = {}
    for number, name in enumerate(name for name in names if name not in oracles):
        colour = METHOD_COLOURS[number % 6]
        styles[name] = {
            "color": colour,
            "marker": METHOD_MARKERS[number % 7],
            "markerfacecolor": "white" if number // 6 % 2 else colour,
            "linestyle": "-",
        }
    for number, name in enumerate(oracles):
        look = {"color": ("#000000", "#888888")[number % 2], "marker": "*hp8dH"[number // 2 % 6]}
        styles[name] = {**look, "markerfacecolor": "white", "linestyle": "--"}
    return styles


def intervals(
    path: Path, tables: dict[str, list[dict]], title: str, scores=("iou", "balanced_accuracy")
) -> None:
    """A dot and its 95 % interval for each method and class of each stratum, one panel a score.

    tables: method -> rows of models.metrics.Tally.table.
    """
    first = next(iter(tables.values()))
    known = {(row["stratum"], row["class"]): row for table in tables.values() for row in table}
    lines = [key for row in first if (key := (row["stratum"], row["class"])) in known]
    height = 0.16 * len(lines) * (1 + 0.55 * len(tables)) + 1.1
    fig = figure(7.2, height)
    fig.suptitle(title, fontsize=8)
    panels = fig.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    names = {"iou": "IoU of snow", "balanced_accuracy": "balanced accuracy"}
    styles = method_styles(list(tables))
    for axes, score in zip(panels, scores, strict=True):
        for number, (method, table) in enumerate(tables.items()):
            rows = {(row["stratum"], row["class"]): row for row in table}
            mark = dict(styles[method])
            line = {"color": mark["color"], "linestyle": mark.pop("linestyle"), "linewidth": 1}
            offset = (number - (len(tables) - 1) / 2) * 0.7 / max(1, len(tables))
            places = [k + offset for k, key in enumerate(lines) if rows.get(key, {}).get(score) is not None]
            used = [rows[key] for key in lines if rows.get(key, {}).get(score) is not None]
            for place, row in zip(places, used, strict=True):
                if row[f"{score}_low"] is not None:
                    axes.plot([row[f"{score}_low"], row[f"{score}_high"]], [place] * 2, **line)
            values = [row[score] for row in used]
            axes.plot(values, places, **mark, markersize=3.5, linestyle="none", label=method)
        axes.set(xlabel=names.get(score, score.replace("_", " ")), xlim=(-0.02, 1.02))
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        for k in range(1, len(lines)):
            if lines[k][0] != lines[k - 1][0]:
                axes.axhline(k - 0.5, color="#999999", linewidth=0.6)
    labels = ["all pixels" if s == "all" else f"{s.replace('_', ' ')}: {name}" for s, name in lines]
    sites = [f"  ({known[key]['sites_with_snow']} of {known[key]['sites']} sites)" for key in lines]
    panels[0].set_yticks(range(len(lines)), [a + b for a, b in zip(labels, sites, strict=True)], fontsize=7)
    panels[0].set_ylim(len(lines) - 0.5, -0.5)
    panels[0].set_title(
        "in brackets: sites that have such snow, of the sites counted", fontsize=6, loc="left"
    )
    handles, names = panels[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncol=min(4, len(names)), frameon=False, fontsize=7)
    save(fig, path)
