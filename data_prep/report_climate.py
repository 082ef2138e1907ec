"""The climate section of a report: verdicts, series to browse, trends, regressions, diagnostics."""

import re

from data_prep.report_blocks import (
    figure,
    general,
    heading,
    missing,
    p_value,
    short,
    some,
    stamps,
    table,
    text,
    unfinished,
)
from data_prep.report_maps import thin
from data_prep.report_run import counted, number, of_kind, part, rows_of

MOST_SITES = 40  # of the series that can be browsed
FIGURES = {
    "seasonal_regression_plots.png": "Snow over the years, by season, with the trend where there is one",
    "trends.png": "Trend of snow by season, and by other methods, with what could have been seen",
    "climatology.png": "The mean year of snow and weather, and the anomalies from it",
    "lags.png": "Association of snow with weather of the days before it, by length of the window",
    "snow_vs_climate_scatter_with_regression.png": "Snow against weather: raw, and with the season taken out",
    "diagnostics.png": "Diagnostics of the regression: residuals, their autocorrelation, influence of dates",
    "snow_season.png": "First and last snow and length of the snow season, by site and hydrological year",
    "sources.png": "The same questions asked of each source of snow cover (network, optical masks, truth)",
}


def section(run: dict) -> dict:
    blocks, steps = [], of_kind(run, "climate")
    if not steps:
        blocks.append(missing("No step of climate_analysis.py: no associations, trends or regression."))
    for step in some(steps, blocks):
        blocks.append(heading(step))
        if not step["finished"]:
            blocks.append(unfinished(step))
        blocks += [verdicts(step), series(step, run), *associations(step), trends(step), regression(step)]
        blocks.append(diagnostics(step))
        why = part(step["result"], "left_out")
        for name, caption in FIGURES.items():
            reason = why.get(name.removesuffix(".png"))
            blocks.append(text(f"No figure of this: {caption[:1].lower()}{caption[1:]}; {str(reason)[:300]}.")
                          if reason else figure(step, name, caption + "."))  # fmt: skip
        notes = step["result"].get("notes")
        if isinstance(notes, list) and notes:
            blocks.append(text("Notes of the job: " + " ".join(str(note)[:300] for note in notes[:12])))
    return {"id": "climate", "title": "Climate", "blocks": blocks}


def none(step: dict, name: str, what: str) -> dict:
    return missing(f"{step['name']}/{name}.csv is not there or holds no row: {what}.")


def limits(row: dict, name: str, low: str, high: str) -> str:
    return general(number(row, name), number(row, low), number(row, high))


def variable(name: str | None) -> str:
    """Open-Meteo's name in words: temperature_2m_mean_30d is "temperature 2m mean, 30 days"."""
    words = str(name or "")
    head, _, days = words.rpartition("_")
    if head and days.endswith("d") and days[:-1].isdigit():
        words = f"{head}, {days[:-1]} days"
    return words.replace("_", " ")


def verdicts(step: dict) -> dict:
    rows = rows_of(step, "verdicts")
    if not rows:
        return none(step, "verdicts", "no claim was judged")
    cells = [
        [
            row.get("claim"),
            row.get("verdict"),
            limits(row, "estimate", "low", "high"),
            row.get("unit"),
            p_value(number(row, "p")),
            short(number(row, "smallest")),
            row.get("n"),
        ]
        for row in rows
    ]
    columns = ["claim", "verdict", "estimate [95 %]", "unit", "p, corrected", "smallest that would show", "n"]
    note = "p is corrected for all claims together; the smallest effect would show with 80 % power."
    return table(
        "Verdicts on what was claimed of snow and climate", columns, cells, step, note, "verdicts.csv"
    )


# ---- series ------------------------------------------------------------------------------------------------


def series(step: dict, run: dict) -> dict:
    """Snow by source over one weather variable, for each site and for the monthly mean of all."""
    joined = rows_of(step, "joined")
    if not joined:
        return none(step, "joined", "no series to show")
    whole = step["tables"]["joined"]
    if not {"site", "date"} <= set(whole["columns"]):
        return missing(f"{step['name']}/joined.csv has no column site or date: no series to show.")
    names = [name for name in whole["columns"] if name not in ("site", "date", "snow")]
    weather = next((name for name in names if name == "temperature_2m_mean_30d"), names[0] if names else "")
    units = part(part({"u": step["result"].get("units")}, "u"))
    covers = [other for other in of_kind(run, "cover", "map") if other["name"] in step["upstream"]]
    sites = list(dict.fromkeys(row["site"] for row in joined))
    kept = sites[:: -(-len(sites) // MOST_SITES)]
    data = {"sites": {}, "weather": variable(weather), "unit": units.get(weather) or unit_of(weather)}
    least = "" if whole["total"] == len(joined) else "at least "
    everywhere = monthly(step, weather)
    if everywhere and len(sites) > 1:
        data["sites"][f"mean of {least}{len(sites)} sites, by month (mean of observed days)"] = everywhere
    by_site = {}
    for row in joined:
        by_site.setdefault(row["site"], []).append(row)
    sources = {}
    for row in rows_of(covers[0], "snow_cover") if covers else []:
        sources.setdefault(row.get("site"), {}).setdefault(row.get("source") or "snow", []).append(row)
    for site in kept:
        mine = thin(by_site[site])
        snow = {
            name: [[row.get("date"), number(row, "snow_fraction")] for row in thin(found)]
            for name, found in list(sources.get(site, {}).items())[:5]
        }
        snow = snow or {"snow": [[row["date"], number(row, "snow")] for row in mine]}
        data["sites"][site] = {"snow": snow, "weather": [[row["date"], number(row, weather)] for row in mine]}
    response = step["result"].get("response") or "snow_fraction"
    data["response"] = "share of valid pixels that are snow" if response == "snow_fraction" else "snow pixels"
    some_of = f"{len(kept)} of {least}" if least or len(kept) < len(sites) else ""
    which = f"choose one of {some_of}{counted(len(sites), 'site')}"
    total = f"{len(joined):,} or more" if whole["total"] is None else f"{whole['total']:,}"
    caption = (
        f"Snow cover ({data['response']}) and {data['weather']} ({data['unit'] or 'unit not stated'}) over "
        f"time; {which}. Analysed: n = {total} dates and places; {step['data']}."
    )
    fallback = figure(step, "snow_pixels_over_time.png", "Snow over time, as the job drew it.")
    return {"kind": "series", "caption": caption, "data": data, "stamps": stamps(step), "fallback": fallback}


def unit_of(name: str) -> str:
    for word, unit in (
        ("temperature", "°C"),
        ("precipitation", "mm"),
        ("rain", "mm"),
        ("snowfall", "cm"),
        ("humidity", "%"),
        ("degree_days", "°C d"),
    ):
        if word in name:
            return unit
    return ""


def monthly(step: dict, weather: str) -> dict | None:
    """Means of all sites' observed days in each month, of the same variable as the sites' series."""
    months = {}
    for row in rows_of(step, "joined"):
        if re.match(r"\d{4}-(0[1-9]|1[0-2])-", row["date"]):
            months.setdefault(f"{row['date'][:7]}-15", []).append(row)

    def mean(name):
        values = {
            m: [v for row in rows if (v := number(row, name)) is not None] for m, rows in months.items()
        }
        return thin([[m, sum(v) / len(v) if v else None] for m, v in sorted(values.items())])

    return {"snow": {"mean of sites": mean("snow")}, "weather": mean(weather)} if months else None


# ---- statistics --------------------------------------------------------------------------------------------


def associations(step: dict) -> list[dict]:
    """Each variable raw and deseasonalised side by side."""
    rows = rows_of(step, "associations")
    if not rows:
        return [none(step, "associations", "no associations")]
    found = {}
    for row in rows:
        if row.get("row", "row") == "row":
            found.setdefault(row.get("variable"), {})[row.get("treatment")] = row
    cells = []
    for name, by_treatment in found.items():
        cell = [variable(name)]
        for treatment in ("raw", "deseasonalised"):
            row = by_treatment.get(treatment, {})
            cell += [
                limits(row, "r", "r_low", "r_high"),
                limits(row, "slope", "slope_low", "slope_high"),
                p_value(number(row, "p_corrected")),
            ]
        cells.append([*cell, *((by_treatment.get("raw") or row).get(key) for key in ("unit", "n"))])
    columns = [
        "weather",
        "r, raw [95 %]",
        "slope, raw [95 %]",
        "p, raw",
        "r, deseason\u00adalised [95 %]",
        "slope, deseason\u00adalised [95 %]",
        "p, deseason\u00adalised",
        "unit of slopes",
        "n",
    ]
    note = (
        "Raw series share the season: what they have in common says little. Deseasonalised ones are what is "
        "left when each month's mean is taken off. p is corrected for all tests."
    )
    return [table("Snow and weather, raw and deseasonalised", columns, cells, step, note, "associations.csv")]


def trends(step: dict) -> dict:
    rows = [(variable(row.get("series")), row) for row in rows_of(step, "trends")]
    rows += [("snow", row) for row in rows_of(step, "seasonal")]
    rows.sort(key=lambda pair: pair[1].get("default") != "True")
    if not rows:
        return none(step, "trends", "no trends")
    cells = [
        [
            name,
            row.get("season"),
            row.get("method"),
            limits(row, "slope", "slope_low", "slope_high"),
            row.get("unit"),
            p_value(number(row, "p_corrected")),
            row.get("years"),
            row.get("why_not") or "",
        ]
        for name, row in rows
        if row.get("default") == "True" or number(row, "slope") is not None
    ]
    columns = [
        "series",
        "season",
        "method",
        "slope [95 %]",
        "unit",
        "p, corrected",
        "years",
        "why there is none",
    ]
    note = "First the method the verdicts go by; then others that give a slope, to compare with other work."
    files = "trends.csv and seasonal.csv"
    return table("Trends, of the whole year and of seasons", columns, cells, step, note, files)


def regression(step: dict) -> dict:
    rows = rows_of(step, "regression")
    if not rows:
        return none(step, "regression", "no regression")
    cells = [
        [
            variable(row.get("name")),
            row.get("method"),
            limits(row, "coefficient", "low", "high"),
            row.get("unit"),
            p_value(number(row, "p_corrected")),
            short(number(row, "standardised")),
            short(number(row, "partial_r2")),
            short(number(row, "vif")),
        ]
        for row in rows
    ]
    columns = [
        "predictor",
        "method",
        "coefficient [95 %]",
        "unit",
        "p, corrected",
        "standardised",
        "partial R²",
        "VIF",
    ]
    title = "Regression of deseasonalised snow on all predictors together"
    return table(title, columns, cells, step, file="regression.csv")


def diagnostics(step: dict) -> dict:
    model = part(step["result"], "regression")
    names = {
        "n": "rows",
        "groups": "sites or years errors are grouped by",
        "errors": "errors",
        "r2": "R²",
        "adjusted_r2": "R², adjusted",
        "durbin_watson": "Durbin-Watson (2: no autocorrelation)",
        "r1": "autocorrelation of residuals at one step",
        "ljung_box_p": "Ljung-Box p (independence), the smallest of the series', corrected",
        "jarque_bera_p": "Jarque-Bera p (normal residuals)",
        "skewness": "skewness",
        "excess_kurtosis": "excess kurtosis",
    }
    rows = [
        [words, model[key] if isinstance(model[key], str) else short(number(model, key))]
        for key, words in names.items()
        if model.get(key) is not None
    ]
    if not rows:
        return missing(f"{step['name']}/result.json tells nothing of a regression: no diagnostics.")
    influential = model.get("influential")
    note = ""
    if isinstance(influential, list) and influential:
        note = (
            "Rows with much influence (Cook's distance): "
            + ", ".join(str(i)[:60] for i in influential[:8])
            + "."
        )
    return table("Diagnostics of the regression", ["figure", "value"], rows, step, note)
