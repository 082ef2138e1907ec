"""How snow cover goes with temperature, precipitation, snowfall and humidity, by season; does it change?

    python climate_analysis.py --data runs/default/8_cover --weather runs/default/1_simulate/weather.csv \\
        --source unet --out runs/climate
    python climate_analysis.py --data results_df.csv --original-axes --out runs/original

In: a folder with snow_cover.csv and weather.csv (--cover and --weather name them elsewhere), or one table
with time, Open-Meteo's variables and snow_pixel_count. Out: verdicts.csv (answers in words),
associations.csv (raw and deseasonalised), lags.csv, seasonal.csv, trends.csv, regression.csv, vif.csv,
snow_season.csv, monthly.csv, joined.csv, gaps.csv, tests.csv (all that was tested, with Benjamini and
Hochberg's p), dropped.csv (every row left out and why), results.json, tables/*.tex, and figures as PNG and
PDF; with several sources in snow_cover.csv also sources.csv and sources.png: what the origin of the masks
does to the answers. All of it is association, none of it cause.
"""

import sys
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput

REGRESSED = ("temperature_2m_mean", "precipitation_sum", "snowfall_sum", "relative_humidity_2m_mean")


# ---- one analysis after the other --------------------------------------------------------------------------


def month_codes(rows):
    """Number of the site and calendar month of each row: the means that deseasonalising takes off."""
    return rows.groupby(["site", rows["date"].dt.month]).ngroup().to_numpy()


def years_of(args, rows):
    from data_prep import series

    return series.hydrological_year(rows["date"], args.southern)


def associations(args, rows, variables, row_is: str, treatments=("raw", "deseasonalised")) -> list[dict]:
    """Snow against each variable; only rows of a named site, or means of dates, follow each other."""
    from models import climate_tests

    found = []
    for treatment in treatments:
        for name in variables:
            used = rows[["site", "date", "snow", name]].dropna()
            groups = years_of(args, used) if args.errors == "year" else used["site"]
            months = month_codes(used) if treatment == "deseasonalised" else None
            order = None if row_is == "row" and not used["site"].iloc[0] else used["date"]
            figures = climate_tests.association(
                used["snow"], used[name], used["site"], order, groups, args.errors, months
            )
            about = {"variable": name, "treatment": treatment, "row": row_is}
            found.append({**about, "default": treatment == "deseasonalised", **figures})
    return found


def trends_of(args, tables) -> list[dict]:
    """Trends of snow and each variable: of monthly means by every test, and of annual means.

    Weather of named sites counts every day, not only those of snow cover.
    """
    from data_prep import series
    from models import climate_tests

    frames, found = {"snow": tables.snow, **dict.fromkeys(tables.variables, tables.rows)}, []
    if tables.daily:
        frames |= dict.fromkeys(tables.variables, series.of_days(tables.daily))
    for name, frame in frames.items():
        values, times, *_ = series.cube(series.monthly(frame, [name]), name)
        default, more = climate_tests.trend(values, times), []
        if "why_not" not in default:
            resamples = args.resamples if name == "snow" else 0
            more = climate_tests.other_trends(values, times, args.seed, resamples)
        found += [{"series": name, "season": "all months", **row} for row in (default, *more)]
    over = {"rows": frames}
    if not tables.named_sites:
        over["dates"] = dict.fromkeys(frames, series.per_date_means(tables.rows))
    for row_is, named in over.items():
        for name, frame in named.items():
            daily = bool(tables.daily) and name != "snow"
            yearly, of = series.annual_means(frame, name, daily), "days" if daily else row_is
            about = {"series": name, "season": f"annual means over {of}", "n": len(frame)}
            found += [{**about, **row} for row in climate_tests.annual(yearly.index, yearly)]
    return found


def seasons_of(args, rows) -> list[dict]:
    """Trend of snow in each season: the default test, and lines by four ways to say what a year is."""
    from data_prep import series
    from models import climate_tests

    months, found = series.monthly(rows, ["snow"]), []
    named, ends = series.season_of(rows["date"], args.months), series.season_year(rows["date"], args.months)
    for season, numbers in args.months.items():
        values, times, *_ = series.cube(months, "snow", numbers[0])
        part = slice(None), slice(None), slice(len(numbers))
        found.append({"season": season, **climate_tests.trend(values[part], times[part])})
        here, ends_in = rows[named == season], ends[named == season]
        calendar, day = here["date"].dt.year.to_numpy(), here["date"].dt.day_of_year.to_numpy()
        by_calendar, by_season = here["snow"].groupby(calendar).mean(), here["snow"].groupby(ends_in).mean()
        for method, x, y in (
            ("rows on calendar year + day / 365.25", calendar + day / 365.25, here["snow"]),
            ("rows on calendar year", calendar, here["snow"]),
            ("means of calendar years", by_calendar.index, by_calendar),
            ("means of seasons, named for the year they end in", by_season.index, by_season),
        ):
            line = climate_tests.straight(x, y, len(set(ends_in)))
            about = {"season": season, "method": f"least squares, {method}", "default": False, "n": len(here)}
            found.append({**about, **line})
    return found


def multiple(args, rows, pixels, names):
    """Regression of snow on all predictors and the year, over rows that have them all."""
    from data_prep import series
    from models import climate_tests, regression

    whole = rows[names].notna().all(axis=1)
    used, snow = rows[whole], rows["snow"][whole].to_numpy()
    if len(used) < len(rows):
        args.notes.append(f"Regression: {len(rows) - len(used)} of {len(rows)} rows lack a predictor.")
    if args.response_scale == "logit":
        snow = regression.logit(snow, pixels[whole].to_numpy() if pixels.notna().all() else None)
    used, years = used.assign(year=series.decimal_year(used["date"])), years_of(args, used)
    columns = [*names, *(["year"] if len(set(years)) > 1 else [])]
    order, month = used["date"].to_numpy().astype("int64"), used["date"].dt.month.to_numpy()
    x, site = used[columns].to_numpy(), used["site"].to_numpy()
    found, about, checks = climate_tests.multiple(
        snow, x, columns, site, order, years, month, month_codes(used), args.errors
    )
    about |= {"response_scale": args.response_scale, "advice": climate_tests.vif_advice(found)}
    if checks is None:
        about["advice"].append(f"Warning: no regression: {about['not_offered'][args.errors]}")
    if checks is not None:
        about |= {key: value for key, value in checks.items() if value is None or isinstance(value, float)}
        worst = used.iloc[checks["influential"][:10]]
        names_of = zip(worst["site"], worst["date"], strict=True)
        about["influential"] = [f"{site} {date:%Y-%m-%d}".strip() for site, date in names_of]
        checks["date"] = used["date"].to_numpy()
    return found, about, checks


def collinearity(rows, variables) -> list[dict]:
    """Variance inflation factor of each variable given all others, raw (with a constant) and less months."""
    from models import climate_tests, regression

    used, found = rows.dropna(subset=variables), []
    for treatment, months in (("raw", None), ("deseasonalised", month_codes(used))):
        vif = climate_tests.tried(regression.vif, used[variables].to_numpy(), variables, months)
        if isinstance(vif, dict):
            found.append({"treatment": treatment, **vif})
            continue
        each = zip(variables, vif.tolist(), strict=True)
        found += [{"variable": name, "treatment": treatment, "vif": value} for name, value in each]
    return found


def answers_of(args, found, tables) -> list[dict]:
    """Verdicts on the original's claims from the tables of figures."""
    from data_prep import series
    from models import verdicts

    snow, season = tables.snow["snow"], series.season_of(tables.snow["date"], args.months)
    means = {name: float(snow[season == name].mean()) for name in args.months}
    return verdicts.answers(
        found, "row" if tables.named_sites else "date", args.window_days if tables.daily else None, means,
        float(snow.mean()), "snow pixels" if tables.response == "snow_pixel_count" else "snow fraction",
        args.worth_r, args.worth_trend_percent / 100,
    )  # fmt: skip


def by_source(args, tables, names) -> dict | None:
    """The same questions asked of each source's masks, over the sites and dates that all of them have."""
    from data_prep import climate_tables, series

    rows = {}
    for source in tables.sources if len(tables.sources) > 1 else ():
        try:
            one = tables if source == tables.source else read_tables(args, source)
            rows[source] = lagged(args, one, names).set_index(["site", "date"])
        except BadInput as error:
            args.notes.append(f"Source {source} is not compared: {error}")
    if len(rows) < 2:
        return None
    common = None
    for frame in rows.values():
        common = frame.index if common is None else common.intersection(frame.index)
    if len(common.get_level_values("date").unique()) < climate_tables.MIN_DATES:
        args.notes.append(f"Sources are not compared: {len(common)} sites and dates are in all of them.")
        return None
    table, climatology = [], {}
    for source, frame in rows.items():
        frame = frame.loc[common].sort_index().reset_index()
        mean = series.monthly(frame, ["snow"]).groupby("month")["snow"].mean()
        climatology[source] = mean.index.to_numpy(), mean.to_numpy()
        for row in associations(args, frame, names, "row", ("deseasonalised",)):
            deviation = float(series.anomalies(frame, [row["variable"]])[row["variable"]].std())
            ends = ("", "_low", "_high") if "slope" in row else ()
            per_deviation = {f"a_deviation{end}": row[f"slope{end}"] * deviation for end in ends}
            table.append(
                {"source": source, "question": "association", **row, "deviation": deviation, **per_deviation}
            )
        seasons = {"snow": frame["snow"], "name": series.season_of(frame["date"], args.months)}
        for row in seasons_of(args, frame):
            if row["default"]:
                mean = float(seasons["snow"][seasons["name"] == row["season"]].mean())
                table.append({"source": source, "question": "season", "mean_snow": mean, **row})
    table = [{**row, "default": False} for row in table]
    return {"table": table, "climatology": climatology, "n": len(common)}


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    common = ("--data", "--out", "--config", "--seed", "--overwrite", "--dry-run")
    parser = runs.get_parser(__doc__, *common, data="folder of snow_cover.csv and weather.csv, or one table")
    add = parser.add_argument
    add("--cover", type=Path, metavar="CSV", help="snow_cover.csv or its folder, where it is not in --data")
    add("--weather", type=Path, metavar="CSV", help="weather.csv or its folder, where it is not in --data")
    add(
        "--source",
        metavar="NAME",
        help="whose masks, where snow_cover.csv mixes several: unet, optical, truth",
    )
    text = "only this track; without it tracks of a day are averaged by their valid pixels"
    add("--relative-orbit", metavar="N", help=text)
    text = "a date counts if so much of its site's most valid pixels is valid, 0 to 1"
    add("--min-valid", type=float, default=0.6, metavar="SHARE", help=text)
    text = "snow as if every elevation were always seen, from snow_cover_by_elevation.csv"
    add("--standardise-elevation", action="store_true", help=text)
    text = "seasons, as winter=12,1,2 or winter=dec,jan,feb; without it four, half a year later in the south"
    add("--seasons", nargs="+", metavar="NAME=MONTHS", help=text)
    text = "which seasons and hydrological year; auto: by the latitudes in weather.json"
    add("--hemisphere", choices=("auto", "north", "south"), default="auto", help=text)
    text = "days of weather up to a date that the regression and half of the verdicts go by"
    add("--window-days", type=int, choices=(3, 7, 14, 30), default=30, help=text)
    text = "weather to use, by Open-Meteo's names; without it temperatures, precipitation, snowfall, humidity"
    add("--variables", nargs="+", metavar="NAME", help=text)
    text = "of the regression: variables, or <variable>_<days>d; without it four over --window-days"
    add("--predictors", nargs="+", metavar="NAME", help=text)
    text = "snow in the regression: the fraction or count as it is, or the logit of the fraction"
    add("--response-scale", choices=("as-is", "logit"), default="as-is", help=text)
    text = "what errors of slopes are grouped by: years, sites, neither (hac: Newey-West; ols: classic); "
    text += "auto chooses and says why"
    add("--errors", choices=("auto", "year", "site", "hac", "ols"), default="auto", help=text)
    text = "of whole years, for one more interval of the trend of snow"
    add("--resamples", type=int, default=1000, metavar="N", help=text)
    text = "scatters with snow on x and weather on y, as the original drew them"
    add("--original-axes", action="store_true", help=text)
    text = "snow lies where the fraction is this or more, for first and last snow"
    add("--snow-season-fraction", type=float, default=0.5, metavar="F", help=text)
    text = "smallest correlation that matters; a verdict says whether one could have been seen"
    add("--worth-r", type=float, default=0.2, metavar="R", help=text)
    text = "smallest trend of snow that matters, in %% of its mean a decade"
    add("--worth-trend-percent", type=float, default=10, metavar="P", help=text)
    return parser


def check(args) -> None:
    for name, low, high in (("min_valid", 0, 1), ("worth_r", 0.01, 0.99), ("worth_trend_percent", 0.1, 1000),
                            ("snow_season_fraction", 0.01, 1), ("resamples", 100, 100_000)):  # fmt: skip
        if not low <= getattr(args, name) <= high:
            raise BadInput(
                f"--{name.replace('_', '-')} {getattr(args, name):g}: expected {low:g} to {high:g}."
            )


def read_tables(args, source: str | None):
    from data_prep import climate_tables
    from models import verdicts

    return climate_tables.read(
        args.data, args.cover, args.weather, source, args.relative_orbit, args.min_valid,
        args.standardise_elevation, args.variables, tuple(verdicts.QUESTIONS),
    )  # fmt: skip


def settle(args, tables) -> None:
    """Decide what was left to the data: hemisphere, seasons, errors; each with a note."""
    from data_prep import series
    from models import regression

    latitudes = [place["latitude"] for place in tables.places.values() if "latitude" in place]
    if args.hemisphere == "auto" and min(latitudes, default=1) < 0 < max(latitudes, default=-1):
        raise BadInput(f"{args.data}: sites on both hemispheres have no common seasons; analyse them apart.")
    args.southern = args.hemisphere == "south" or (
        args.hemisphere == "auto" and max(latitudes, default=1) < 0
    )
    if args.hemisphere == "auto" and not latitudes:
        args.notes.append(
            "No latitude is known: seasons are those of the north; --hemisphere south shifts them."
        )
    args.months = series.parse_seasons(args.seasons)
    if args.southern and not args.seasons:
        args.months = series.southern(args.months)
    if args.response_scale == "logit" and tables.response != "snow_fraction":
        raise BadInput(f"{args.data}: counts of pixels have no logit; use --response-scale as-is.")
    groups = {"year": len(set(years_of(args, tables.rows))), "site": tables.rows["site"].nunique()}
    if args.errors == "auto":
        args.errors, why = regression.default_errors(groups["year"], groups["site"])
        args.notes.append(f"Errors of slopes by {args.errors}: {why}")
    elif groups.get(args.errors, regression.FEWEST_GROUPS) < regression.FEWEST_GROUPS:
        found = groups[args.errors]
        raise BadInput(
            f"--errors {args.errors}: needs {regression.FEWEST_GROUPS} {args.errors}s, found {found}."
        )


def lagged(args, tables, names):
    """The table's rows with the lagged predictors among `names`."""
    from data_prep import series

    more = [name for name in names if name not in tables.rows]
    return series.with_lagged(tables.rows, tables.daily, more, args.southern) if more else tables.rows


def choose_predictors(args, tables) -> list[str]:
    """What the regression is on: over the window where there is daily weather, else the day's values."""
    from data_prep import series

    have = list(tables.variables)
    possible = have + (series.lag_names(have) if tables.daily else [])
    if args.predictors:
        unknown = [name for name in args.predictors if name not in possible]
        if unknown:
            raise BadInput(f"--predictors: no {unknown[0]!r}; possible are {', '.join(possible)}.")
        same = [name.removesuffix("_1d") for name in args.predictors]  # the last day is the day itself
        twice = {name for name in same if same.count(name) > 1}
        if twice:
            raise BadInput(f"--predictors: {twice.pop()} stands twice; leave one out.")
        return args.predictors
    chosen = [name for name in REGRESSED if name in have]
    if REGRESSED[0] not in chosen and "temperature_2m_max" in have:
        chosen.insert(0, "temperature_2m_max")
    chosen = chosen or have
    return [f"{name}_{args.window_days}d" for name in chosen] if tables.daily else chosen


def input_files(args) -> list[Path]:
    """What the result depends on. By names alone, as data_prep.climate_tables is slow to import."""
    if not args.data.exists():
        raise BadInput(f"{args.data}: no such file or folder.")
    beside = args.data.parent if args.data.is_file() else args.data
    named = [args.data] if args.data.is_file() else []
    for given, name in ((args.cover, "snow_cover.csv"), (args.weather, "weather.csv")):
        path = beside / name if given is None else given / name if given.is_dir() else given
        named += [path, path.with_suffix(".json"), path.with_name(path.stem + "_by_elevation.csv")]
    return [path for path in named if path.is_file()]


def main(args) -> int:
    check(args)
    run = runs.Run(args, [Path(path) for path in input_files(args)])
    if run.finished():
        return runs.DONE
    from data_prep import climate_report, series
    from models import verdicts

    args.notes = []
    tables = read_tables(args, args.source)
    settle(args, tables)
    predictors = choose_predictors(args, tables)
    have = tables.variables
    windows = (
        [f"{name}_{args.window_days}d" for name in verdicts.QUESTIONS if name in have] if tables.daily else []
    )
    lags = [name for name in series.lag_names(have) if not name.endswith("_1d")] if tables.daily else []
    rows = lagged(args, tables, list(dict.fromkeys([*predictors, *windows, *lags])))
    empty = [name for name in dict.fromkeys([*predictors, *windows]) if not rows[name].notna().any()]
    if empty:
        raise BadInput(
            f"{args.weather or args.data}: {', '.join(empty)}: no date of snow cover has weather on all the "
            "days before it; bring daily weather without gaps, or give --window-days or --variables."
        )
    lags = [name for name in lags if rows[name].notna().any()]
    if args.dry_run:
        sites, dates = rows["site"].nunique(), rows["date"].nunique()
        runs.say(f"would analyse {len(rows)} rows of {sites} sites, {dates} dates")
        return runs.DONE
    run.begin()
    found = {"associations": associations(args, rows, [*have, *windows], "row")}
    over = rows if tables.named_sites else series.per_date_means(rows)
    if not tables.named_sites:
        found["associations"] += associations(args, over, have, "date")
    lags = [name for name in lags if name not in windows]
    found["lags"] = associations(args, rows, lags, "row", ("deseasonalised",))
    found["seasonal"], found["trends"] = seasons_of(args, tables.snow), trends_of(args, tables)
    found["vif"] = collinearity(over if tables.named_sites else rows, have)
    pixels = tables.valid_pixels if tables.named_sites else over["snow"] * float("nan")
    found["regression"], model, checks = multiple(args, over, pixels, predictors)
    sources = by_source(args, tables, predictors)
    found |= {"sources": sources["table"]} if sources else {}
    tests = verdicts.correct(found)
    answers = answers_of(args, found, tables)
    notes = [*tables.notes, *args.notes, *model["advice"]]
    for line in (*notes, *(row["in_words"] for row in answers)):
        runs.say(line)
    left_out = climate_report.write(args, tables, rows, found, model, checks, tests, answers, sources, notes)
    for name, why in left_out.items():
        runs.say(f"no figure {name}: {why}")
    about = {"rows": len(rows), "dates": rows["date"].nunique(), "sites": rows["site"].nunique()}
    about |= {"dropped": len(tables.faulty()), "tests": len(tests), "errors": args.errors}
    about |= {"response": tables.response, "source": tables.source}
    told = {row["claim"]: row["verdict"] for row in answers}
    return run.finish(**about, verdicts=told, regression=model, notes=notes, left_out=left_out)


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
