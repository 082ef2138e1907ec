"""Figures of the climate analysis at paper width, each as PNG and PDF, from plain arrays and dicts."""

import textwrap
from pathlib import Path

import numpy as np

from data_prep import pictures
from data_prep.climate_words import as_label

COLUMN, PAGE = 3.5, 7.16  # inches: one and two columns of an IEEE page
SEASON_COLOURS = ("#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#D55E00")
SEASON_MARKERS = "os^Dvx"
LINE, GREY, BAND = "#000000", "#888888", "#BBBBBB"
SHOWN_POINTS = 4000  # of a scatter; more only blackens it. Lines and figures always use all
GAP_DAYS = 45  # a line is not drawn across a longer gap


def save(fig, path: Path) -> None:
    """path.png at 300 dpi and path.pdf."""
    pdf = Path(path).with_suffix(".pdf")
    with pictures.atomic(pdf) as temporary:
        fig.savefig(temporary, format="pdf", metadata={"CreationDate": None})
    pictures.save(fig, Path(path).with_suffix(".png"), dpi=300)


def titled(fig, text: str, size: float = 8) -> None:
    """A title over the whole figure, broken so that it fits its width."""
    letters = int(fig.get_figwidth() * 72 / (0.56 * size))
    fig.suptitle(textwrap.fill(text, letters), fontsize=size)


def by_date(axes, size: float = 6) -> None:
    """Dates along x, short enough to stand side by side."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    places = AutoDateLocator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(places)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(places, show_offset=False))
    axes.tick_params(axis="x", labelsize=size)


def by_year(axes, years) -> None:
    """Whole years along x; a single one fills the axis."""
    years = np.asarray(years, float)
    axes.ticklabel_format(axis="x", useOffset=False)
    if len(years) and np.ptp(years) < 1:
        first, last = np.floor(years.min()), np.ceil(years.max())
        axes.set_xlim((first, last) if first < last else (first - 0.5, last + 0.5))
        axes.set_xticks(np.unique([first, last]))
        return
    axes.xaxis.get_major_locator().set_params(integer=True)


def some(count: int) -> np.ndarray:
    """Indices of at most SHOWN_POINTS points, the same each time."""
    if count <= SHOWN_POINTS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, SHOWN_POINTS, replace=False))


def tidy(axes, grid: str = "both") -> None:
    """A faint grid behind the data, and 100k for 100000."""
    from matplotlib.ticker import EngFormatter

    axes.grid(axis=grid, color="#e5e5e5", linewidth=0.5)
    axes.set_axisbelow(True)
    for line_of, ends in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if max(map(abs, ends)) >= 5000 and line_of.get_scale() == "linear" and not line_of.have_units():
            line_of.set_major_formatter(EngFormatter(sep=""))


def dots(axes, x, y, seasons, names) -> None:
    """A scatter coloured by season."""
    x, y, seasons = (np.asarray(values) for values in (x, y, seasons))
    shown = some(len(x))
    other = shown[~np.isin(seasons[shown], names)]
    if len(other):
        axes.scatter(x[other], y[other], s=2, c=BAND, linewidths=0, label="other months")
    for number, name in enumerate(names):
        here = shown[seasons[shown] == name]
        colour, marker = SEASON_COLOURS[number % 6], SEASON_MARKERS[number % 6]
        size = 5 if len(x) < 1500 else 2
        axes.scatter(x[here], y[here], s=size, c=colour, marker=marker, linewidths=0.3, alpha=0.6, label=name)
    tidy(axes)


def line(axes, slope: float, intercept: float, x, **style) -> None:
    ends = np.array([np.min(x), np.max(x)], float)
    axes.plot(ends, intercept + slope * ends, **{"color": LINE, "linewidth": 1.2, **style})


def legend(fig, axes, columns: int = 6) -> None:
    handles, names = axes.get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncol=columns, frameon=False, fontsize=7)


def scatters(path: Path, rows: list[list[dict]], seasons: list[str], title: str) -> None:
    """A panel for each variable, one row of panels a treatment (raw above, deseasonalised below).

    rows: lists of panels {x, y, season, xlabel, ylabel, title, [slope, intercept]}. Axes end where the points
    do, not where a line does. A label that all panels of a row share stands at its first alone.
    """
    columns = len(rows[0])
    fig = pictures.figure(max(COLUMN, min(PAGE, 1.75 * columns)), 2.0 * len(rows) + 0.6)
    titled(fig, title)
    for axes_row, panels in zip(fig.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        shared = len({panel["ylabel"] for panel in panels}) == 1
        for number, (axes, panel) in enumerate(zip(axes_row, panels, strict=True)):
            dots(axes, panel["x"], panel["y"], panel["season"], seasons)
            ends = axes.get_ylim()
            if panel.get("slope") is not None:
                line(axes, panel["slope"], panel["intercept"], panel["x"])
            axes.set_ylim(ends)
            axes.set_title(panel["title"], fontsize=5.2)
            axes.set_xlabel(panel["xlabel"], fontsize=6)
            axes.set_ylabel("" if shared and number else panel["ylabel"], fontsize=6)
            axes.tick_params(labelsize=5.5, labelleft=number == 0 or not shared)
    legend(fig, fig.axes[0])
    save(fig, path)


def with_gaps(dates, values) -> tuple[np.ndarray, np.ndarray]:
    """Dates and values with a NaN put into each gap longer than GAP_DAYS, so that no line crosses it."""
    dates, values = np.asarray(dates, "datetime64[D]"), np.asarray(values, float)
    long = np.flatnonzero(np.diff(dates).astype(int) > GAP_DAYS) + 1
    return np.insert(dates, long, dates[long] - 1), np.insert(values, long, np.nan)


def over_time(path: Path, series: dict[str, tuple], lines: dict[str, tuple], ylabel: str, title: str) -> None:
    save(draw_over_time(series, lines, ylabel, title), path)


def draw_over_time(series: dict[str, tuple], lines: dict[str, tuple], ylabel: str, title: str):
    """Values against time, a line a site (broken at gaps); `lines`: label -> (dates, values, style)."""
    fig = pictures.figure(PAGE, 2.4)
    axes = fig.subplots()
    thin = len(series) > 3
    for number, (name, (dates, values)) in enumerate(series.items()):
        style = {"color": BAND if thin else SEASON_COLOURS[number], "linewidth": 0.4 if thin else 0.8}
        style |= {} if thin else {"marker": ".", "markersize": 3}
        label = as_label(name) or "snow"
        if thin:
            label = "_" if number else f"{len(series)} sites"
        axes.plot(*with_gaps(dates, values), label=label, **style)
    for label, (dates, values, style) in lines.items():
        axes.plot(*with_gaps(dates, values), label=label, **style)
    axes.set_ylabel(ylabel)
    axes.set_title(f"{title}; lines are broken where nothing was seen for over {GAP_DAYS} days", fontsize=7)
    tidy(axes)
    by_date(axes, 7)
    axes.legend(fontsize=6, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def seasonal(path: Path, panels: list[dict], ylabel: str, title: str) -> None:
    """Snow against time, a panel a season, with its trend lines.

    panels: {season, years (decimal), values, lines: [(label, slope a year, intercept, style)], note: why
    there is no line}.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    fig = pictures.figure(PAGE, 2.0 * rows + 0.6)
    titled(fig, title)
    grid = fig.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for number, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
        seasonal_panel(axes, panel, number)
    for axes in grid[:, 0]:
        axes.set_ylabel(ylabel)
    save(fig, path)


def seasonal_panel(axes, panel: dict, number: int) -> None:
    colour, marker = SEASON_COLOURS[number % 6], SEASON_MARKERS[number % 6]
    shown = some(len(panel["years"]))
    axes.scatter(np.asarray(panel["years"])[shown], np.asarray(panel["values"])[shown], s=5, c=colour,
                 marker=marker, linewidths=0.3, alpha=0.5)  # fmt: skip
    for label, slope, intercept, style in panel["lines"]:
        line(axes, slope, intercept, panel["years"], label=label, **style)
    if not panel["lines"] and panel.get("note"):
        axes.plot([], [], linestyle="none", label=panel["note"])
    axes.set_title(panel["season"], fontsize=7)
    tidy(axes)
    by_year(axes, panel["years"])
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=5.5, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.11))


def one_season(path: Path, panel: dict, number: int, ylabel: str, title: str) -> None:
    """The panel of one season as a figure of column width."""
    fig = pictures.figure(COLUMN, 2.4)
    axes = fig.subplots()
    seasonal_panel(axes, {**panel, "season": ""}, number)
    axes.set_ylabel(ylabel)
    titled(fig, title, 6.5)
    save(fig, path)


def climatology(path: Path, months: dict[str, dict], anomalies: dict[str, tuple], title: str) -> None:
    """Mean by calendar month with its 10-90 % range (left), and monthly anomalies over time (right).

    months: variable -> {label, month, mean, low, high}; anomalies: variable -> (dates, values).
    """
    fig = pictures.figure(PAGE, 1.3 * len(months) + 0.5)
    titled(fig, title)
    grid = fig.subplots(len(months), 2, squeeze=False, width_ratios=(1, 2), sharex="col")
    for (name, about), (left, right) in zip(months.items(), grid, strict=True):
        left.fill_between(about["month"], about["low"], about["high"], color=BAND, alpha=0.6, linewidth=0)
        left.plot(about["month"], about["mean"], "o-", color="#0072B2", markersize=2.5, linewidth=1)
        left.set_ylabel(about["label"], fontsize=6)
        dates, values = np.asarray(anomalies[name][0], "datetime64[D]"), np.asarray(anomalies[name][1])
        right.bar(dates, values, 27, color=np.where(values >= 0, "#D55E00", "#0072B2"))
        right.axhline(0, color=LINE, linewidth=0.6)
        for axes in (left, right):
            axes.tick_params(labelsize=6)
            tidy(axes)
        by_date(right)
        scale = np.abs(about["mean"]).max()
        if np.abs(values).max(initial=0) <= 1e-9 * scale:  # what rounding leaves of nothing
            months_seen = dates.astype("datetime64[M]").astype(int) % 12
            once = len(set(months_seen)) == len(dates)
            why = "each month was seen in one year only" if once else "it is the same each year"
            right.set(ylim=(-1, 1), yticks=[0])
            right.text(0.5, 0.6, f"none: {why}", fontsize=6, ha="center", transform=right.transAxes)
    grid[0, 0].set_title("mean of each month; band: 10-90 %", fontsize=6.5)
    grid[0, 1].set_title("difference from the month's mean (orange above, blue below)", fontsize=6.5)
    grid[-1, 0].set(xlabel="month", xticks=(1, 4, 7, 10))
    grid[-1, 1].set_xlabel("date")
    save(fig, path)


def estimates(path: Path, panels: list[dict], title: str) -> None:
    """Dots with intervals, a panel a group of lines on one axis.

    panels: {title, xlabel, lines: [label], methods: {name: [(estimate, low, high) or None, ...]}}.
    """
    heights = [0.16 * len(p["lines"]) * (1 + 0.35 * len(p["methods"])) + 0.75 for p in panels]
    fig = pictures.figure(PAGE, sum(heights) + 0.5)
    titled(fig, title)
    grid = fig.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, panel in zip(grid, panels, strict=True):
        forest(axes, panel)
    legend(fig, grid[0], 5)
    save(fig, path)


def forest(axes, panel: dict) -> None:
    """Dots with intervals: a line of `panel` an estimate, its methods side by side."""
    count = len(panel["methods"])
    for number, (name, found) in enumerate(panel["methods"].items()):
        colour, marker = pictures.METHOD_COLOURS[number % 7], pictures.METHOD_MARKERS[number % 7]
        offset = (number - (count - 1) / 2) * 0.7 / max(1, count)
        known = [(k + offset, one) for k, one in enumerate(found) if one is not None]
        for place, (_, low, high) in known:
            if low is not None:
                axes.plot([low, high], [place, place], color=colour, linewidth=1)
        places, middles = [place for place, _ in known], [one[0] for _, one in known]
        axes.plot(
            middles, places, marker, color=colour, markersize=3.5, linestyle="none", label=as_label(name)
        )
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(panel["lines"])), panel["lines"], fontsize=6.5)
    axes.set_ylim(len(panel["lines"]) - 0.5, -0.5)
    axes.set_xlabel(panel["xlabel"], fontsize=7)
    axes.set_title(panel["title"], fontsize=7, loc="left")
    tidy(axes, "x")


def lags(path: Path, table: dict[str, list[tuple]], title: str) -> None:
    """Correlation of anomalies with what came before; table: variable -> [(days, r, low, high)]."""
    fig = pictures.figure(PAGE, 2.6)
    axes = fig.subplots()
    for number, (name, found) in enumerate(table.items()):
        days = np.array([one[0] for one in found], float) * (1 + 0.02 * (number - len(table) / 2))
        middle = np.array([one[1] for one in found], float)
        ends = np.array([(one[2], one[3]) for one in found], float).T
        colour, marker = pictures.METHOD_COLOURS[number % 7], pictures.METHOD_MARKERS[number % 7]
        axes.errorbar(days, middle, np.abs(ends - middle), color=colour, fmt=f"{marker}-", markersize=3.5,
                      linewidth=0.9, elinewidth=0.7, label=name)  # fmt: skip
    axes.axhline(0, color=GREY, linewidth=0.8)
    ticks = sorted({int(one[0]) for found in table.values() for one in found})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(day) for day in ticks])
    axes.minorticks_off()
    axes.set(xlabel="days that end with the date of the snow cover", ylabel="r with snow (anomalies), 95 %")
    axes.set_title(title, fontsize=7)
    tidy(axes)
    axes.legend(fontsize=6.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save(fig, path)


def diagnostics(path: Path, fitted, residuals, acf, acf_limit: float, cooks, dates, checks: list[str],
                title: str) -> None:  # fmt: skip
    """Residuals of a regression: against fitted values, normal quantiles, autocorrelation, influence."""
    from scipy import stats

    fig = pictures.figure(PAGE, 4.9)
    titled(fig, title)
    (a, b), (c, d) = fig.subplots(2, 2)
    shown = some(len(fitted))
    a.scatter(np.asarray(fitted)[shown], np.asarray(residuals)[shown], s=4, c="#0072B2", alpha=0.5)
    a.axhline(0, color=GREY, linewidth=0.8)
    a.set(xlabel="fitted anomaly of snow", ylabel="residual")
    quantiles, ordered = stats.probplot(residuals, fit=False)
    b.plot(quantiles[shown], ordered[shown], ".", color="#0072B2", markersize=3)
    deviation = np.std(residuals)
    b.plot(quantiles, deviation * quantiles, color=LINE, linewidth=0.8)
    b.set(xlabel="normal quantile", ylabel="residual")
    places = np.arange(1, len(acf) + 1)
    c.bar(places, acf, 0.6, color="#0072B2")
    c.axhspan(-acf_limit, acf_limit, color=BAND, alpha=0.5, linewidth=0)
    c.axhline(0, color=GREY, linewidth=0.8)
    c.set(xlabel="lag, dates of a site in order", ylabel="autocorrelation of residuals")
    c.set_title("grey: 95 % of white noise", fontsize=6.5)
    d.plot(
        np.asarray(dates, "datetime64[D]")[shown],
        np.asarray(cooks)[shown],
        ".",
        color="#0072B2",
        markersize=3,
    )
    d.set(xlabel="date", ylabel="Cook's distance")
    for axes in (a, b, c, d):
        tidy(axes)
    by_date(d, 7)
    fig.supxlabel("\n".join(checks), fontsize=6.5)
    save(fig, path)


def snow_season(path: Path, frame: list[dict], title: str) -> None:
    """First and last snow and length of season, by hydrological year: a line a site, or quartiles of many.

    frame: rows {site, hydrological_year, first_day, last_day, season_days}, days counted from its first day.
    """
    fig = pictures.figure(PAGE, 2.3)
    titled(fig, title)
    sites = sorted({row["site"] for row in frame})
    labels = {"first_day": "first snow", "last_day": "last snow", "season_days": "length of season"}
    for axes, (column, label) in zip(fig.subplots(1, 3), labels.items(), strict=True):
        years = sorted({row["hydrological_year"] for row in frame})
        known = {
            y: [r[column] for r in frame if r["hydrological_year"] == y and r[column] is not None]
            for y in years
        }
        if len(sites) <= 3:
            for number, site in enumerate(sites):
                own = [r for r in frame if r["site"] == site and r[column] is not None]
                years_of, days = [r["hydrological_year"] for r in own], [r[column] for r in own]
                style = {"color": SEASON_COLOURS[number], "linewidth": 0.8, "markersize": 3}
                axes.plot(years_of, days, "o-", label=as_label(site) or "snow", **style)
        else:
            have = [y for y in years if known[y]]
            quartiles = np.array([np.percentile(known[y], (25, 50, 75)) for y in have]).reshape(-1, 3).T
            if len(have) == 1:  # a band needs two years
                axes.vlines(have, quartiles[0], quartiles[2], color=BAND, linewidth=4)
            axes.fill_between(have, quartiles[0], quartiles[2], color=BAND, alpha=0.6, linewidth=0)
            axes.plot(have, quartiles[1], "o-", color="#0072B2", markersize=3, linewidth=1)
            axes.set_title(
                f"median and quartiles of up to {max(map(len, known.values()), default=0)} sites", fontsize=6
            )
        start = "" if column == "season_days" else "\nfrom the year's start"
        axes.set_ylabel(f"{label}, days{start}", fontsize=7)
        axes.set_xlabel("hydrological year")
        tidy(axes)
        by_year(axes, years)
    if len(sites) <= 3:
        legend(fig, fig.axes[0], 3)
    save(fig, path)


def by_source(
    path: Path, climatologies: dict[str, tuple], panels: list[dict], ylabel: str, title: str
) -> None:
    """What the origin of the masks does to the answer: months on the left, slopes on the right.

    climatologies: source -> (months, mean snow); panels as in `estimates`, methods being the sources.
    """
    fig = pictures.figure(PAGE, 0.9 + 1.5 * len(panels))
    titled(fig, title)
    left, right = fig.subfigures(1, 2, width_ratios=(1, 1.6))
    axes = left.subplots()
    for number, (name, (months, means)) in enumerate(climatologies.items()):
        style = {"color": pictures.METHOD_COLOURS[number % 7], "marker": pictures.METHOD_MARKERS[number % 7]}
        axes.plot(months, means, markersize=3, linewidth=1, label=as_label(name), **style)
    axes.set(xlabel="month", ylabel=ylabel, xticks=(1, 4, 7, 10))
    axes.set_title("mean of each month", fontsize=7, loc="left")
    tidy(axes)
    axes.legend(fontsize=6.5, frameon=False)
    for place, panel in zip(right.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        forest(place, panel)
    save(fig, path)
