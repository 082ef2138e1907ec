"""Everything the climate analysis writes: tidy tables, LaTeX, results.json and the figures."""

import numpy as np
import pandas as pd

from data_prep import climate_figures, climate_latex, series
from data_prep.climate_words import between, figure_of, origin, snow_words, with_units, words
from data_prep.runs import atomic, write_csv, write_json

ORIGINAL = ("temperature_2m_max", "temperature_2m_min", "precipitation_sum", "snowfall_sum",
            "relative_humidity_2m_mean")  # fmt: skip
COLUMNS = {
    "associations": (
        "variable", "treatment", "row", "default", "n", "n_eff", "r", "r_low", "r_high", "r2", "slope",
        "slope_low", "slope_high", "unit", "intercept", "p", "p_corrected", "p_default", "errors", "groups",
        "dof", "p_effective_n", "detectable_r", "why_not",
    ),
    "seasonal": (
        "season", "method", "default", "years", "points", "n", "slope", "slope_low", "slope_high", "unit",
        "p", "p_corrected", "p_default", "tau", "detectable", "tied", "intercept", "why_not",
    ),
    "trends": (
        "series", "season", "method", "default", "years", "points", "n", "slope", "slope_low", "slope_high",
        "unit", "p", "p_corrected", "p_default", "tau", "detectable", "tied", "intercept", "why_not",
    ),
    "regression": (
        "name", "method", "default", "coefficient", "standard_error", "low", "high", "unit", "p",
        "p_corrected", "p_default", "dof", "standardised", "partial_r2", "vif",
    ),
    "vif": ("variable", "treatment", "vif", "why_not"),
}  # fmt: skip
COLUMNS["lags"] = COLUMNS["associations"]
COLUMNS["sources"] = (
    "source", "question", "variable", "season", "mean_snow", *COLUMNS["associations"][1:-1], "deviation",
    "a_deviation", "a_deviation_low", "a_deviation_high", "method", "years", "tau", "detectable", "why_not",
)  # fmt: skip
LINE = {"color": "#000000", "linewidth": 1.2}
DASHED = {"color": "#D55E00", "linewidth": 1.0, "linestyle": "--"}


# ---- tables ------------------------------------------------------------------------------------------------


def write(args, tables, rows, found, model, checks, tests, answers, sources, notes) -> dict[str, str]:
    """Write every table and figure of the analysis into args.out; {figure: why it is left out}."""
    out = args.out
    told = {name: with_units(name, table, tables, args.response_scale) for name, table in found.items()}
    for name, table in told.items():
        write_csv(out / f"{name}.csv", COLUMNS[name], table)
    write_csv(out / "tests.csv", ("table", "of", "how", "default", "p", "p_corrected", "p_default"), tests)
    kept = ("claim", "verdict", "estimate", "low", "high", "unit", "p", "smallest", "worth", "n", "in_words")
    write_csv(out / "verdicts.csv", kept, answers)
    write_csv(out / "dropped.csv", ("file", "line", "site", "date", "reason"), tables.dropped)
    write_csv(out / "gaps.csv", tuple(tables.gaps[0]), tables.gaps)
    write_frame(out / "joined.csv", rows)
    write_frame(out / "monthly.csv", monthly_table(rows, tables))
    climate_latex.write(out / "tables", told, tables, model)
    seasons = snow_seasons(args, rows, tables, notes)
    everything = {**told, "model": model, "tests": tests, "verdicts": answers, "notes": notes}
    everything |= {"units": tables.units, "gaps": tables.gaps, "snow_season": seasons}
    write_json(out / "results.json", everything)
    return draw(args, tables, rows, found, model, checks, seasons, sources)


def write_frame(path, frame: pd.DataFrame) -> None:
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False, date_format="%Y-%m-%d", lineterminator="\n")


def monthly_table(rows, tables) -> pd.DataFrame:
    """Monthly means of snow and weather a site, and their anomalies."""
    columns = ["snow", *tables.variables]
    months = series.monthly(rows, columns)
    return pd.concat([months, series.anomalies(months, columns).add_suffix("_anomaly")], axis=1)


def snow_seasons(args, rows, tables, notes) -> list[dict]:
    """snow_season.csv of fractions; counts of pixels do not say how much of the ground is snow."""
    if tables.response != "snow_fraction":
        notes.append("First and last snow need a snow fraction: left out for counts of pixels.")
        return []
    frame = series.snow_season(rows, args.snow_season_fraction, southern=args.southern)
    start = pd.to_datetime(
        {"year": frame["hydrological_year"] - 1 , "month": 4 if args.southern else 10, "day": 1}
    )  # fmt: skip
    for name in ("first", "last"):
        frame[f"{name}_day"] = (frame[f"{name}_snow"] - start).dt.days + 1
        frame[f"{name}_snow"] = frame[f"{name}_snow"].dt.strftime("%Y-%m-%d")
    table = frame.astype(object).where(frame.notna(), None).to_dict("records")
    write_csv(args.out / "snow_season.csv", list(frame), table)
    return table


# ---- figures -----------------------------------------------------------------------------------------------


def draw(args, tables, rows, found, model, checks, seasons, sources) -> dict[str, str]:
    """All figures; {name: why} of those that have nothing to show."""
    out, months = args.out, list(args.months)
    snow, end = snow_words(tables), origin(tables)
    shown = [name for name in ORIGINAL if name in tables.variables] or list(tables.variables)[:5]
    scatter_figures(args, tables, rows, found["associations"], shown, months)
    title = f"{snow.capitalize()} over time{end}"
    climate_figures.over_time(out / "snow_pixels_over_time", *lines_of(tables, rows, "snow"), snow, title)
    if "temperature_2m_max" in tables.variables:
        temperature_figures(args, tables, rows, found["trends"])
    seasonal_figures(args, tables, rows, found["seasonal"])
    climatology_figure(out, tables, rows, shown)
    left_out = {"trends": trend_figure(out, tables, found), "lags": draw_lags(out, tables, found, shown)}
    if checks is None:
        left_out["diagnostics"] = model["not_offered"][args.errors]
    else:
        limit = 1.96 / np.sqrt(len(checks["residuals"]))
        lines = [
            f"Durbin-Watson {figure_of(model['durbin_watson'])}, autocorrelation at one date "
            f"{figure_of(model['r1'], 2)}, Ljung-Box p {figure_of(model['ljung_box_p'], 2)}; "
            f"Jarque-Bera p {figure_of(model['jarque_bera_p'], 2)}",
            f"most influence: {', '.join(model['influential'][:4]) or 'none above 4/n'}",
        ]
        predictors = ", ".join(words(name) for name in model["predictors"])
        title = f"Residuals of {snow} ({args.response_scale}) on {predictors}{end}"
        climate_figures.diagnostics(
            out / "diagnostics", checks["fitted"], checks["residuals"], checks["autocorrelation"], limit,
            checks["cooks_distance"], checks["date"], lines, title,
        )  # fmt: skip
    if any(row["first_day"] is not None or row["snow_days"] is not None for row in seasons):
        what = f"snow on at least {args.snow_season_fraction:.0%} of the ground"
        climate_figures.snow_season(out / "snow_season", seasons, f"Snow season: {what}{end}")
    else:
        left_out["snow_season"] = "no year's first or last snow can be told from the dates there are"
        if tables.response != "snow_fraction":
            left_out["snow_season"] = "counts of pixels do not say how much of the ground is snow"
    if sources is not None:
        draw_sources(args, tables, sources)
    else:
        left_out["sources"] = "there are no two sources of snow cover to compare"
    return {name: why for name, why in left_out.items() if why}


def scatter_figures(args, tables, rows, table, shown, seasons) -> None:
    """The original's two scatter figures: with lines, raw above deseasonalised, and without."""
    snow, panels = snow_words(tables), []
    for treatment in ("raw", "deseasonalised"):
        values = rows if treatment == "raw" else series.anomalies(rows, ["snow", *shown])
        season = series.season_of(rows["date"], args.months)
        line_of = {r["variable"]: r for r in table if r["treatment"] == treatment and r["row"] == "row"}
        panels.append([panel(args, values, name, season, line_of[name], tables, treatment) for name in shown])
    what = f"A point is a {'site and date' if tables.named_sites else 'row: an unnamed place on a date'}"
    lines = "weather on snow (p: of snow on weather)" if args.original_axes else "snow on weather"
    lines += "" if tables.named_sites else "; verdicts go by means of dates, not by these rows"
    title = f"{snow.capitalize()} against weather. {what}; least-squares lines of {lines}{origin(tables)}"
    climate_figures.scatters(args.out / "snow_vs_climate_scatter_with_regression", panels, seasons, title)
    bare = [
        [{**one, "slope": None, "title": words(name)} for one, name in zip(panels[0], shown, strict=True)]
    ]
    title = f"{snow.capitalize()} and weather, as observed. {what}{origin(tables)}"
    climate_figures.scatters(args.out / "climate_vs_snow_pixels", bare, seasons, title)


def panel(args, values, name, season, row, tables, treatment) -> dict:
    """A scatter's points, the line through them and its figures; r and n are of the points that are drawn."""
    x, y = values[name].to_numpy(), values["snow"].to_numpy()
    label, snow = f"{words(name)} ({tables.units[name]})", snow_words(tables)
    if treatment == "deseasonalised":
        label, snow = f"{label},\nanomaly", f"{snow}, anomaly"
    if "why_not" in row:
        text, slope, intercept = f"{treatment}: {row['why_not']}", None, None
    else:
        p = "p < 0.001" if row["p"] < 0.001 else f"p {row['p']:.3f}"
        r = f"r {row['r']:.3f} [{row['r_low']:.2f}, {row['r_high']:.2f}]"
        if args.original_axes:
            slope, intercept = np.polyfit(y, x, 1)
            told, unit = figure_of(slope), f"{tables.units[name]} per {snow_words(tables).rstrip('s')}"
        else:
            slope, intercept = row["slope"], y.mean() - row["slope"] * x.mean()
            told = between(row, "slope", "slope_low", "slope_high", 2)
            unit = f"{snow_words(tables)} per {tables.units[name]}"
        n = f"n {row['n']}\n{r}\nn eff {figure_of(row['n_eff'])}, {p}"
        text = f"{treatment}, {n}\nslope {told}\n{unit}"
    if args.original_axes:
        x, y, label, snow = y, x, snow, label
    return {"x": x, "y": y, "season": season, "xlabel": label, "ylabel": snow, "title": text, "slope": slope,
            "intercept": intercept}  # fmt: skip


def lines_of(tables, rows, name: str) -> tuple[dict, dict]:
    """The series of each site, and of many their monthly mean; of unnamed places the mean of each date."""
    if not tables.named_sites:
        mean = series.per_date_means(rows)
        return {"mean of each date": (mean["date"], mean[name])}, {}
    own = {site: (part["date"], part[name]) for site, part in rows.groupby("site")}
    mean = series.monthly(rows, [name]).groupby(["year", "month"])[name].mean()
    dates = [np.datetime64(f"{year}-{month:02d}-15") for year, month in mean.index]
    return own, {"their monthly mean": (dates, mean.to_numpy(), LINE)} if len(own) > 3 else {}


def temperature_figures(args, tables, rows, table) -> None:
    """Maximum temperature over time, and its annual means with the lines of its trend."""
    name, end = "temperature_2m_max", origin(tables)
    label = f"{words(name)} ({tables.units[name]})"
    title = f"{words(name).capitalize()} over time, on dates of snow cover{end}"
    climate_figures.over_time(args.out / "max_temp_time", *lines_of(tables, rows, name), label, title)
    over = "annual means over days" if tables.daily else "annual means over rows"
    yearly = series.annual_means(series.of_days(tables.daily), name, True) if tables.daily else \
        series.annual_means(rows, name)  # fmt: skip
    lines, table = [], [row for row in table if row["series"] == name and row["season"] == over]
    for row in table:
        if "slope" in row:
            style = LINE if row["method"] == "least squares" else DASHED
            middle = yearly.mean() - row["slope"] / 10 * np.mean(yearly.index) if style is LINE else \
                yearly.median() - row["slope"] / 10 * np.median(yearly.index)  # fmt: skip
            text = f"{row['method']}: {row['slope']:+.2g} {tables.units[name]} a decade, p {row['p']:.2g}"
            lines.append((text, row["slope"] / 10, middle, style))
    one = {"season": "", "years": yearly.index.to_numpy(float), "values": yearly.to_numpy(), "lines": lines}
    one["note"] = why_no_trend(table)
    years = f"{len(yearly)} year{'s' * (len(yearly) != 1)}"
    title = f"Annual means of {words(name)}, {over.rpartition('means ')[2]}, {years}{end}"
    climate_figures.one_season(args.out / "max_temp_regression", one, 0, label, title)


def seasonal_figures(args, tables, rows, table) -> None:
    snow, end, panels = snow_words(tables), origin(tables), []
    named = series.season_of(rows["date"], args.months)
    for season in args.months:
        here = rows[named == season]
        years = here["date"].dt.year.to_numpy() + here["date"].dt.day_of_year.to_numpy() / 365.25
        lines, own = [], [row for row in table if row["season"] == season]
        for row in own:
            if "slope" not in row:
                continue
            text = f"{figure_of(row['slope'])} a decade, p {row['p']:.2g}"
            if row["default"]:
                middle = float(here["snow"].median() - row["slope"] / 10 * np.median(years))
                lines.append((f"seasonal Sen: {text}", row["slope"] / 10, middle, LINE))
            elif "day / 365.25" in row["method"]:
                lines.append(
                    (f"least squares over rows: {text}", row["slope"] / 10, row["intercept"], DASHED)
                )
        if len(here):
            panels.append({"season": season, "years": years, "values": here["snow"].to_numpy(),
                           "lines": lines, "note": why_no_trend(own)})  # fmt: skip
    if not panels:
        return
    title = f"{snow.capitalize()} by season{end}"
    climate_figures.seasonal(args.out / "seasonal_regression_plots", panels, snow, title)
    for number, one in enumerate(panels):
        path = args.out / f"{one['season'][0].upper()}{one['season'][1:]}_regression_plot"
        climate_figures.one_season(path, one, number, snow, f"{snow.capitalize()}, {one['season']}{end}")


def why_no_trend(rows) -> str:
    """Why the first of these rows that has no slope has none, for a figure or in place of one."""
    return next((f"no trend: {row['why_not']}" for row in rows if "why_not" in row), "")


def climatology_figure(out, tables, rows, shown) -> None:
    months, about, less = series.monthly(rows, ["snow", *shown]), {}, {}
    units = {"snow": snow_words(tables)} | {name: f"{words(name)} ({tables.units[name]})" for name in shown}
    for name in units:
        grouped = months.groupby("month")[name]
        mean = grouped.mean()
        about[name] = {"label": units[name], "month": mean.index, "mean": mean, "low": grouped.quantile(0.1),
                       "high": grouped.quantile(0.9)}  # fmt: skip
        anomaly = series.anomalies(months, [name])[name]
        by_month = anomaly.groupby([months["year"], months["month"]]).mean()
        dates = [np.datetime64(f"{year:04}-{month:02}-15") for year, month in by_month.index]
        less[name] = dates, by_month.to_numpy()
    count = rows["site"].nunique()
    places = f"{count} site{'s' * (count != 1)}" if tables.named_sites else "all places"
    title = f"Monthly means of {places} and their anomalies{origin(tables)}"
    climate_figures.climatology(out / "climatology", about, less, title)


def trend_figure(out, tables, found) -> str:
    """Trend of snow by season and by method, with what could have been detected; why there is no figure."""
    snow = snow_words(tables)
    default = [r for r in (*found["seasonal"], *found["trends"]) if r.get("default") and "slope" in r
               and r.get("series", "snow") == "snow"]  # fmt: skip
    others = [r for r in found["trends"] if r["series"] == "snow" and "slope" in r and not r["default"]]
    if not default:
        return next(r["why_not"] for r in found["trends"] if r["series"] == "snow" and "why_not" in r)
    ends = [(r["slope"], r["slope_low"], r["slope_high"]) for r in default]
    reach = [(0.0, -r["detectable"], r["detectable"]) for r in default]
    panels = [{
        "title": f"{default[0]['method']}", "xlabel": f"{snow} a decade, 95 % interval",
        "lines": [f"{r['season']} (p {r['p']:.2g}, {r['years']} years)" for r in default],
        "methods": {"trend": ends, "smaller than detectable (80 % power)": reach},
    }]  # fmt: skip
    if others:
        panels.append({
            "title": "all months by other methods", "xlabel": f"{snow} a decade, 95 % interval",
            "lines": [f"{r['method']}, {r['season']}" for r in others],
            "methods": {"trend": [(r["slope"], r["slope_low"], r["slope_high"]) for r in others]},
        })  # fmt: skip
    climate_figures.estimates(out / "trends", panels, f"Trend of {snow}{origin(tables)}")
    return ""


def draw_lags(out, tables, found, shown) -> str:
    """r of anomalies against the length of the window before the date; why there is no figure."""
    table = {}
    for row in (*found["associations"], *found["lags"]):
        base, _, days = row["variable"].rpartition("_")
        if row["variable"] in shown:
            base, days = row["variable"], "1d"
        lag = base in shown and days.endswith("d") and days[:-1].isdigit()
        if lag and row["treatment"] == "deseasonalised" and row["row"] == "row" and "r" in row:
            table.setdefault(words(base), []).append((int(days[:-1]), row["r"], row["r_low"], row["r_high"]))
    table = {name: sorted(ends) for name, ends in table.items() if len(ends) > 1}
    if not table:
        return "no daily weather before the dates goes with snow" if tables.daily else (
            "a single table holds no weather of the days before")  # fmt: skip
    climate_figures.lags(out / "lags", table, f"How long back the weather counts{origin(tables)}")
    return ""


def draw_sources(args, tables, sources) -> None:
    snow, table = snow_words(tables), sources["table"]
    names = list(sources["climatology"])
    asked = {row["variable"]: None for row in table if row["question"] == "association"}

    def ends(source, **wanted):
        row = next(
            r for r in table if r["source"] == source and all(r.get(k) == v for k, v in wanted.items())
        )
        return (
            (row["a_deviation"], row["a_deviation_low"], row["a_deviation_high"])
            if "a_deviation" in row
            else None
        )

    panels = [{
        "title": "association of anomalies",
        "xlabel": f"{snow} per SD of the weather's anomaly, 95 %",
        "lines": [words(name) for name in asked],
        "methods": {s: [ends(s, variable=name) for name in asked] for s in names},
    }]  # fmt: skip
    trends = [row for row in table if row["question"] == "season" and "slope" in row]
    if trends:
        seasons = list(dict.fromkeys(row["season"] for row in trends))
        slope = {(r["source"], r["season"]): (r["slope"], r["slope_low"], r["slope_high"]) for r in trends}
        panels.append({
            "title": "trend", "xlabel": f"{snow} a decade, 95 %", "lines": seasons,
            "methods": {s: [slope.get((s, season)) for season in seasons] for s in names},
        })  # fmt: skip
    title = (
        f"What the masks' origin does to the answer: {sources['n']} sites and dates in all{origin(tables)}"
    )
    climate_figures.by_source(args.out / "sources", sources["climatology"], panels, snow, title)
