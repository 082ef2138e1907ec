"""Figures of a manuscript on networks, from a run's tables, and the list of all its figures."""

from data_prep import manuscript_climate, manuscript_places, pictures
from data_prep.activation_figures import COLOURS, MARKERS
from data_prep.climate_figures import COLUMN, PAGE
from data_prep.manuscript_draw import (
    FLOOR,
    FLOOR_WORDS,
    MOST_LINES,
    SMALL,
    Nothing,
    bars,
    begin,
    cut,
    looks,
    rows_down,
    triple,
)
from data_prep.manuscript_latex import caption_of, whole
from data_prep.manuscript_steps import (
    RESAMPLED,
    first,
    judged,
    layer_number,
    method_name,
    stratum_name,
    treatment_name,
    where,
)
from data_prep.report_run import number, rows_of

BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 1}
SCORES = {"iou": "IoU of snow", "balanced_accuracy": "balanced accuracy"}


def scores(run: dict) -> dict:
    """IoU and balanced accuracy of all methods, the two sets of pixels apart."""
    step, rows = judged(run)
    sam = first(run, "sam", table="scores")
    groups = [(step, rows)] if rows else []
    rows = [row for row in rows_of(sam, "scores") if number(row, "iou") is not None]
    groups += [(sam, rows[:MOST_LINES])] if rows else []
    if not groups:
        raise Nothing("no finished step of score_masks.py, infer_unet.py or run_sam.py has a score")
    labels, told, heads, at = [], [], [], 0
    for letter, (step, rows) in zip("ab", groups, strict=False):
        labels += ["", *(cut(method_name(row.get("method"))) for row in rows)]
        heads.append((at, f"({letter}) {where(step, {**rows[0], 'sites_with_snow': ''})}"))
        told.append((range(at + 1, at + 1 + len(rows)), rows))
        at += 1 + len(rows)
    fig = begin(PAGE, 0.75 + 0.165 * len(labels), *(step for step, _ in groups))
    panels = fig.subplots(1, 2, sharey=True)
    for axes, (name, words) in zip(panels, SCORES.items(), strict=True):
        for ys, rows in told:
            for oracle in (False, True):
                mine = [
                    (y, row) for y, row in zip(ys, rows, strict=True) if ("oracle" in row["method"]) == oracle
                ]
                look = (
                    {"color": "#000000", "marker": "D", "markerfacecolor": "white"} if oracle else looks(1)[0]
                )
                if mine:
                    bars(axes, *zip(*mine, strict=True), triple(name), look, "")
            floor = number(rows[0], "prevalence") if name == "iou" else 0.5
            if floor is not None:
                axes.plot([floor] * 2, [ys[0] - 0.5, ys[-1] + 0.5], **FLOOR)
        rows_down(axes, labels, [at for at, _ in heads[1:]])
        axes.set(xlabel=words, xlim=(-0.02, 1.02))
    for at, words in heads:
        panels[0].text(0, at, cut(words, 66), fontsize=SMALL, va="center", bbox=BEHIND)
    handles = [panels[0].plot([], [], color="#0072B2", marker="o", markersize=4, linewidth=1.1)[0],
               panels[0].plot([], [], color="#000000", marker="D", markerfacecolor="white", markersize=4)[0],
               panels[0].plot([], [], **FLOOR)[0]]  # fmt: skip
    words = ["score, 95 % interval", "prompt from the reference: upper bound", FLOOR_WORDS]
    keep = [0, *([1] if any("oracle" in row["method"] for _, rows in told for row in rows) else []), 2]
    fig.legend([handles[k] for k in keep], [words[k] for k in keep], loc="outside lower center", ncol=3)
    texts = [f"({a}) {where(step, rows[0])}" for a, (step, rows) in zip("ab", groups, strict=False)]
    words = f"Scores of snow masks: {'; '.join(texts)}. Bars: {RESAMPLED} Dotted: {FLOOR_WORDS}."
    if len(groups) == 2:
        words += " (a) and (b) are on different pixels and not to be compared with each other."
    return {"figure": fig, "caption": caption_of(words, *(s for s, _ in groups)), "wide": True}


def strata(run: dict) -> dict:
    """IoU and balanced accuracy by stratum, all methods of the judged step."""
    step, main = judged(run)
    found, methods = {}, {}
    for row in rows_of(step, "strata"):
        found.setdefault((row.get("stratum"), row.get("class")), {})[row.get("method")] = row
        methods.setdefault(row.get("method"))
    found = {
        key: by
        for key, by in list(found.items())[:MOST_LINES]
        if any(number(r, "iou") is not None for r in by.values())
    }
    methods = list(methods)[:4]
    if len(found) < 2:
        raise Nothing("no strata.csv of a judged step tells strata apart")
    lines = [next(iter(by.values())) for by in found.values()]
    labels = [f"{cut(stratum_name(row), 40)} ({row.get('sites_with_snow') or '?'})" for row in lines]
    breaks = [k for k in range(1, len(lines)) if lines[k].get("stratum") != lines[k - 1].get("stratum")]
    fig = begin(PAGE, 0.8 + len(lines) * (0.11 + 0.055 * len(methods)), step)
    for axes, (name, words) in zip(fig.subplots(1, 2, sharey=True), SCORES.items(), strict=True):
        for k, (method, look) in enumerate(zip(methods, looks(len(methods)), strict=True)):
            shift = (k - (len(methods) - 1) / 2) * 0.6 / len(methods)
            rows = [by.get(method, {}) for by in found.values()]
            bars(axes, [y + shift for y in range(len(lines))], rows, triple(name), look, method_name(method))
        for y, row in enumerate(lines):
            floor = number(row, "prevalence") if name == "iou" else 0.5
            if floor is not None:
                axes.plot([floor] * 2, [y - 0.45, y + 0.45], **FLOOR, label=FLOOR_WORDS if y == 0 else "")
        rows_down(axes, labels, breaks)
        axes.set(xlabel=words, xlim=(-0.02, 1.02))
    handles, names = axes.get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncol=min(4, len(names)))
    words = f"Scores by stratum, {where(step, main[0])}; in brackets sites that have such snow. Bars: "
    words += f"{RESAMPLED} "
    words += f"Dotted: {FLOOR_WORDS}."
    return {"figure": fig, "caption": caption_of(words, step), "wide": True}


def gap(run: dict) -> dict:
    """Retrieval both ways and what is left of the distance of pairs, by correction, beside the floors."""
    step = first(run, "embed", table="modality_gap")
    found = {}
    for row in rows_of(step, "modality_gap"):
        found.setdefault(row.get("comparison"), []).append(row)
    if not found:
        raise Nothing("no finished step of embed_tsne.py")
    labels, rows, breaks = [], [], []
    for name, mine in list(found.items())[:6]:
        breaks.append(len(rows))
        for k, row in enumerate(mine[:6]):
            words = cut(name.removeprefix("RGB against SAR, ").replace("the same RGB, ", "itself, "), 36)
            labels.append(
                f"{words}: {treatment_name(row.get('treatment'))}"
                if k == 0
                else treatment_name(row.get("treatment"))
            )
            rows.append(row)
    fig = begin(PAGE, 0.8 + 0.17 * len(rows), step)
    left, right = fig.subplots(1, 2, sharey=True)
    ways = {"sar_to_rgb_r_at_1": "SAR to RGB", "rgb_to_sar_r_at_1": "RGB to SAR"}
    for k, (name, words) in enumerate(ways.items()):
        bars(left, [y + 0.3 * k - 0.15 for y in range(len(rows))], rows, triple(name), looks(2)[k], words)
    chance = number(rows[0], "sar_to_rgb_chance_r_at_1")
    if chance is not None:
        left.axvline(chance, **FLOOR, label="chance")
    bars(right, range(len(rows)), rows, triple("unexplained"), looks(3)[2], "left of the distance")
    right.axvline(1, **FLOOR)
    for axes, words in (
        (left, "pairs found first (R@1)"),
        (right, "distance of pairs / of strangers, squared"),
    ):
        rows_down(axes, labels, breaks[1:])
        axes.set_xlabel(words)
    left.set_xlim(-0.02, 1.02)
    told = [v for row in rows for name in triple("unexplained") if (v := number(row, name)) is not None]
    if told and min(told) > 0 and max(told) > 5:
        right.set_xscale("log")
        pictures.plain_log(right.xaxis)
    else:
        right.set_xlim(left=min(0, right.get_xlim()[0]))
    handles, names = left.get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncol=3)
    pairs, sites = (whole(step["result"].get(key)) for key in ("pairs_measured", "sites_measured"))
    gallery = whole(step["result"].get("gallery"))
    words = f"Modality gap on {pairs} pairs of {sites} sites, by what corrects it: retrieval in a gallery "
    words += f"of {gallery} "
    words += "(left), and squared distance of pairs over that of strangers (right; 1: pairs are no nearer). "
    words += "Bars: 95 % intervals over sites."
    return {"figure": fig, "caption": caption_of(words, step), "wide": True}


def layers(run: dict) -> dict:
    """AUC of the best channel on held-out sites, by layer, of RGB and SAR, given weights beside random."""
    step = first(run, "probe", table="layers")
    models = {}
    for row in rows_of(step, "layers"):
        if layer_number(row) is not None:
            models.setdefault(row.get("model"), {}).setdefault(row.get("weights"), []).append(row)
    models = dict(list(models.items())[:3])
    told = [
        r
        for by in models.values()
        for rs in by.values()
        for r in rs
        if number(r, "held_out_auc_sar") is not None
    ]
    if not told:
        raise Nothing("no finished step of probe_activations.py has an AUC on held-out sites")
    fig = begin(COLUMN, 0.55 + 1.75 * len(models), step)
    for axes, (model, by) in zip(
        fig.subplots(len(models), 1, squeeze=False)[:, 0], models.items(), strict=True
    ):
        for modality in ("rgb", "sar"):
            colour, mark = COLOURS[modality.upper()], MARKERS[modality.upper()]
            for weights, rows in by.items():
                rows = sorted(rows, key=layer_number)
                rows = [row for row in rows if number(row, f"held_out_auc_{modality}") is not None]
                given = weights == "given"
                x = [layer_number(row) for row in rows]
                y, low, high = (
                    [number(row, name) for row in rows] for name in triple(f"held_out_auc_{modality}")
                )
                axes.plot(x, y, color=colour, marker=mark, markersize=3, linewidth=1,
                    linestyle="-" if given else "--",
                          markerfacecolor=colour if given else "white", markeredgewidth=0.8,
                          label=f"{modality.upper()}, {weights} weights")  # fmt: skip
                if given and None not in (*low, *high):
                    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.axhline(0.5, **FLOOR)
        axes.set(
            ylabel="AUC of snow, held out",
            ylim=(None, 1.02),
            title=cut(str(model)) if len(models) > 1 else "",
        )
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("depth of the layer (0: the input)")
    handles, names = axes.get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncol=2)
    about = step["result"]
    words = "The channel that tells snow best, chosen on other sites, by layer of "
    words += f"{', '.join(map(str, models))}; "
    words += f"{whole(about.get('triplets'))} triplets of {whole(about.get('sites'))} sites. Bands: 95 % "
    words += "intervals over "
    words += "sites, of the given weights. Dotted: chance."
    return {"figure": fig, "caption": caption_of(words, step), "wide": False}


FIGURES = {
    "fig_sites": manuscript_places.sites, "fig_scores": scores, "fig_strata": strata,
    "fig_chips": manuscript_places.chips, "fig_layers": layers, "fig_gap": gap,
    "fig_associations": manuscript_climate.associations, "fig_trends": manuscript_climate.trends,
}  # fmt: skip
