"""Figures of a manuscript on climate: associations with weather, and trends by season."""

from data_prep.climate_figures import COLUMN, tidy
from data_prep.manuscript_draw import MOST_LINES, Nothing, bars, begin, cut, looks, rows_down, triple
from data_prep.manuscript_latex import caption_of
from data_prep.manuscript_steps import first, series_name
from data_prep.manuscript_tables import climate_words
from data_prep.report_run import number, rows_of


def associations(run: dict) -> dict:
    """Correlation of snow with each weather variable: raw, and with the season taken out."""
    step = first(run, "climate", table="associations")
    found = {}
    for row in rows_of(step, "associations"):
        if row.get("row", "row") == "row" and number(row, "r") is not None:
            found.setdefault(row.get("variable"), {})[row.get("treatment")] = row
    if not found:
        raise Nothing("no finished step of climate_analysis.py has associations")
    found = dict(list(found.items())[:MOST_LINES])
    fig = begin(COLUMN, 0.8 + 0.2 * len(found), step)
    axes = fig.subplots()
    axes.axvline(0, color="#000000", linewidth=0.6)
    styles = (("raw", {"color": "#888888", "marker": "s", "markerfacecolor": "white"}),
              ("deseasonalised", looks(1)[0]))  # fmt: skip
    for k, (treatment, look) in enumerate(styles):
        rows = [by.get(treatment, {}) for by in found.values()]
        bars(axes, [y + 0.34 * k - 0.17 for y in range(len(rows))], rows, triple("r"), look, treatment)
    rows_down(axes, [cut(series_name(name), 30) for name in found])
    axes.set_xlabel("correlation with snow cover")
    handles, names = axes.get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncol=2)
    words = climate_words(step, "Correlation of snow cover with weather, raw and with the season taken out")
    words += f" Bars: 95 % intervals, errors by {step['result'].get('errors') or '?'}."
    return {"figure": fig, "caption": caption_of(words, step), "wide": False}


def trends(run: dict) -> dict:
    """Slope of snow cover a decade in each season: the method the verdicts go by, and others beside it."""
    step = first(run, "climate", table="seasonal")
    seasons, methods = {}, {}
    for row in rows_of(step, "seasonal"):
        seasons.setdefault(row.get("season"), {})[row.get("method")] = row
        methods[row.get("method")] = methods.get(row.get("method"), False) or row.get("default") == "True"
    told = [row for by in seasons.values() for row in by.values() if number(row, "slope") is not None]
    if not told:
        why = next(
            (f": {r['why_not']}" for by in seasons.values() for r in by.values() if r.get("why_not")), ""
        )
        raise Nothing(f"no finished step of climate_analysis.py has a trend in any season{why}")
    main = next((name for name, default in methods.items() if default), None)
    methods = [
        name
        for name in methods
        if any(number(by.get(name, {}), "slope") is not None for by in seasons.values())
    ]
    methods = sorted(methods, key=lambda name: name != main)[:5]
    fig = begin(COLUMN, 0.75 + len(seasons) * (0.22 + 0.09 * len(methods)) + 0.14 * len(methods), step)
    axes = fig.subplots()
    axes.axvline(0, color="#000000", linewidth=0.6)
    for k, method in enumerate(methods):
        look = looks(len(methods))[k]
        look = look if method == main else {**look, "markerfacecolor": "white"}
        shift = (k - (len(methods) - 1) / 2) * 0.7 / len(methods)
        rows = [by.get(method, {}) for by in seasons.values()]
        name = method.removesuffix(", named for the year they end in")
        name = name if len(name) <= 52 else name.partition(",")[0]
        bars(axes, [y + shift for y in range(len(seasons))], rows, triple("slope"), look, name)
    untold = {
        name: by[main].get("why_not") for name, by in seasons.items() if main in by and main not in methods
    }
    rows_down(axes, [str(name) for name in seasons], range(1, len(seasons)))
    tidy(axes, "x")
    axes.set_xlabel(f"trend, {told[0].get('unit') or 'a decade'}")
    handles, names = axes.get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncol=1)
    words = climate_words(step, "Trend of snow cover by season") + " Bars: 95 % intervals."
    if untold:
        why = next(iter(untold.values())) or "too few values"
        words += f" The method that the verdicts go by ({main}) gives no trend ({why}); the others are shown "
        words += "for comparison and settle nothing."
    elif len(methods) > 1:
        words += " Filled: the method that the verdicts go by."
    return {"figure": fig, "caption": caption_of(words, step), "wide": False}
