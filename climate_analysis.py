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

QUESTIONS = {  # variable -> the sign that the original's conclusions give it, in words
    "temperature_2m_max": (-1, "colder days (maximum) go with more snow"),
    "temperature_2m_mean": (-1, "colder days (mean) go with more snow"),
    "temperature_2m_min": (-1, "colder days (minimum) go with more snow"),
    "precipitation_sum": (1, "more precipitation goes with more snow"),
    "snowfall_sum": (1, "more snowfall goes with more snow"),
    "relative_humidity_2m_mean": (-1, "drier air goes with more snow"),
}
REGRESSED = ("temperature_2m_mean", "precipitation_sum", "snowfall_sum", "relative_humidity_2m_mean")
WORTH_C = 0.3  # C a decade; the globe's surface warms by 0.2 to 0.3 (IPCC AR6 WG1, 2.3.1)


# ---- one analysis after the other --------------------------------------------------------------------------


def month_codes(rows):
    """Number of the site and calendar month of each row: the means that deseasonalising takes off."""
    return rows.groupby(["site", rows["date"].dt.month]).ngroup().to_numpy()


def years_of(args, rows):
    from data_prep import series

    return series.hydrological_year(rows["date"], args.southern)


def associations(args, rows, variables, row_is: str, treatments=("raw", "deseasonalised")) -> list[dict]:
    """Snow against each variable over `rows`."""
    from models import climate_tests

    found = []
    for treatment in treatments:
        for name in variables:
            used = rows[["site", "date", "snow", name]].dropna()
            groups = years_of(args, used) if args.errors == "year" else used["site"]
            months = month_codes(used) if treatment == "deseasonalised" else None
            figures = climate_tests.association(
                used["snow"], used[name], used["site"], used["date"], groups, args.errors, months
            )
            found.append({"variable": name, "treatment": treatment, "row": row_is, **figures})
    return found


def trends_of(args, rows, variables, tables) -> list[dict]:
    """Trends of snow and each variable: of monthly means by every test, and of annual means."""
    from data_prep import series
    from models import climate_tests

    months, found = series.monthly(rows, ["snow", *variables]), []
    for name in ("snow", *variables):
        values, times, *_ = series.cube(months, name)
        default = climate_tests.trend(values, times)
        more = (
            []
            if "why_not" in default
            else climate_tests.other_trends(values, times, args.seed, args.resamples)
        )
        found += [{"series": name, "season": "all months", **row} for row in (default, *more)]
    over = {"rows": rows} | ({} if tables.named_sites else {"dates": series.per_date_means(rows)})
    for row_is, table in over.items():
        for name in ("snow", *variables):
            yearly = table.groupby(table["date"].dt.year)[name].mean().dropna()
            about = {"series": name, "season": f"annual means over {row_is}", "n": len(table)}
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
            line = climate_tests.straight(x, y)
            about = {"season": season, "method": f"least squares, {method}", "default": False, "n": len(here)}
            found.append({**about, **line})
    return found


def multiple(args, rows, pixels, names):
    """Regression of snow on all predictors and the year, over rows that have them all."""
    from data_prep import series
    from models import climate_tests, regression

    whole = rows[names].notna().all(axis=1)
    used, snow = rows[whole], rows["snow"][whole].to_numpy()
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
    if checks is not None:
        about |= {key: value for key, value in checks.items() if value is None or isinstance(value, float)}
        worst = used.iloc[checks["influential"][:10]]
        about["influential"] = [
            f"{s} {d:%Y-%m-%d}" for s, d in zip(worst["site"], worst["date"], strict=True)
        ]
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


# ---- answers -----------------------------------------------------------------------------------------------


def all_tests(found: dict[str, list[dict]]) -> list[dict]:
    """Every p of the tables, in one list with Benjamini and Hochberg's p, which the tables get as well."""
    from models import regression

    tested = [(table, row) for table, rows in found.items() for row in rows if row.get("p") is not None]
    for (_, row), p in zip(
        tested, regression.benjamini_hochberg([row["p"] for _, row in tested]), strict=True
    ):
        row["p_corrected"] = float(p)
    tests = []
    for table, row in tested:
        of = row.get("variable") or row.get("name") or row.get("series") or "snow"
        how = [str(row[key]) for key in ("season", "treatment", "row", "method") if row.get(key)]
        default = row.get("default", True)
        tests.append({"table": table, "of": of, "how": "; ".join(how), "default": default,
                      "p": row["p"], "p_corrected": row["p_corrected"]})  # fmt: skip
    return tests


def verdicts_of(args, found, tables, rows) -> list[dict]:
    """The original's claims and their verdicts on this table, each with the figures it rests on."""
    from models import verdicts

    answers, unit = [], "snow pixels" if tables.response == "snow_pixel_count" else "snow fraction"
    row_is = "row" if tables.named_sites else "date"

    def answer(claim: str, sign: int, row: dict | None, keys: tuple[str, str], worth: float, what: str):
        row = row or {}
        estimate, p, smallest = row.get(keys[0]), row.get("p_corrected"), row.get(keys[1])
        word = verdicts.verdict(sign, estimate, p, smallest, worth)
        words = verdicts.in_words(claim, word, estimate, p, smallest, worth, what)
        answers.append({
            "claim": claim, "verdict": word, "estimate": estimate, "unit": what, "p": row.get("p"),
            "p_corrected": p, "smallest_detectable": smallest, "worth": worth, "n": row.get("n"),
            "in_words": words,
        })  # fmt: skip

    for name, (sign, claim) in QUESTIONS.items():
        for variable in (name, f"{name}_{args.window_days}d"):
            if variable in tables.variables or variable in rows:
                row = pick(found["associations"], variable=variable, treatment="deseasonalised", row=row_is)
                over = "" if variable == name else f", over {args.window_days} days"
                answer(claim + over, sign, row, ("r", "detectable_r"), args.worth_r, "r of anomalies")
    if "temperature_2m_max" in tables.variables:
        row = pick(found["trends"], series="temperature_2m_max", default=True)
        answer("the maximum temperature has risen", 1, row, ("slope", "detectable"), WORTH_C, "°C a decade")
    worth = args.worth_trend_percent / 100 * float(rows["snow"].mean())
    for season in args.months:
        row = pick(found["seasonal"], season=season, default=True)
        answer(
            f"snow cover in {season} has fallen", -1, row, ("slope", "detectable"), worth, f"{unit} a decade"
        )
    row = pick(found["trends"], series="snow", default=True)
    answer("snow cover has fallen", -1, row, ("slope", "detectable"), worth, f"{unit} a decade")
    years, smallest = row["years"], row.get("detectable")
    word = verdicts.SUPPORTED if smallest is None or smallest > worth else verdicts.NOT_SUPPORTED
    shown = "no trend can be tested" if smallest is None else f"only {verdicts.short(smallest)} would show"
    claim = f"{years} years are too few to show a trend of {verdicts.short(worth)} {unit} a decade"
    answers.append({
        "claim": claim, "verdict": word, "smallest_detectable": smallest, "worth": worth,
        "unit": f"{unit} a decade", "n": row["n"], "in_words": f"{claim}: {word}; {shown}.",
    })  # fmt: skip
    return answers


def pick(rows: list[dict], **wanted) -> dict | None:
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), None)


def by_source(args, tables, names) -> dict | None:
    """The same questions asked of each source's masks, over the sites and dates that all of them have."""
    from data_prep import climate_tables, series
    from models import climate_tests

    if len(tables.sources) < 2:
        return None
    read = {source: read_tables(args, source) for source in tables.sources}
    rows = {source: lagged(args, one, names) for source, one in read.items()}
    common = None
    for frame in rows.values():
        index = frame.set_index(["site", "date"]).index
        common = index if common is None else common.intersection(index)
    if len(common) < climate_tables.MIN_DATES:
        args.notes.append(f"Sources are not compared: {len(common)} sites and dates are in all of them.")
        return None
    rows = {source: frame.set_index(["site", "date"]).loc[common].sort_index().reset_index()
            for source, frame in rows.items()}  # fmt: skip
    table, climatology = [], {}
    for source, frame in rows.items():
        months = series.monthly(frame, ["snow"])
        mean = months.groupby("month")["snow"].mean()
        climatology[source] = mean.index.to_numpy(), mean.to_numpy()
        for row in associations(args, frame, names, "row", ("deseasonalised",)):
            deviation = float(series.anomalies(frame, [row["variable"]])[row["variable"]].std())
            ends = {f"a_deviation{end}": row[f"slope{end}"] * deviation for end in ("", "_low", "_high")
                    if "slope" in row}  # fmt: skip
            table.append({"source": source, "question": "association", **row, "deviation": deviation, **ends})
        for season, numbers in args.months.items():
            values, times, *_ = series.cube(months, "snow", numbers[0])
            part = values[:, :, : len(numbers)], times[:, :, : len(numbers)]
            here = frame["snow"][series.season_of(frame["date"], args.months) == season]
            about = {
                "source": source,
                "question": "season",
                "season": season,
                "mean_snow": float(here.mean()),
            }
            table.append({**about, **climate_tests.trend(*part)})
    return {"table": table, "climatology": climatology, "n": len(common)}


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    common = ("--data", "--out", "--config", "--seed", "--overwrite", "--dry-run")
    parser = runs.get_parser(__doc__, *common, data="folder of snow_cover.csv and weather.csv, or one table")
    add = parser.add_argument
    add("--cover", type=Path, metavar="CSV", help="snow_cover.csv (default: the one in --data)")
    add("--weather", type=Path, metavar="CSV", help="weather.csv (default: the one in --data)")
    add("--source", metavar="NAME", help="whose masks, where the table mixes several")
    add(
        "--relative-orbit",
        metavar="N",
        help="one track only (default: tracks of a day are averaged by pixels)",
    )
    add(
        "--min-valid",
        type=float,
        default=0.6,
        metavar="SHARE",
        help="of a site's most valid pixels; less is dropped",
    )
    add(
        "--standardise-elevation",
        action="store_true",
        help="fraction from snow_cover_by_elevation.csv at fixed areas",
    )
    add(
        "--seasons",
        nargs="+",
        metavar="NAME=MONTHS",
        help="winter=12,1,2 ... (default: four; shifted in the south)",
    )
    add(
        "--hemisphere",
        choices=("auto", "north", "south"),
        default="auto",
        help="auto: by latitude in weather.json",
    )
    add(
        "--window-days",
        type=int,
        choices=(3, 7, 14, 30),
        default=30,
        help="weather of the regression and verdicts",
    )
    add(
        "--predictors",
        nargs="+",
        metavar="NAME",
        help="of the regression (default: temperature and the three others)",
    )
    add("--response-scale", choices=("as-is", "logit"), default="as-is", help="snow in the regression")
    add(
        "--errors",
        choices=("auto", "year", "site", "hac", "ols"),
        default="auto",
        help="of slopes; auto says why",
    )
    add("--resamples", type=int, default=1000, metavar="N", help="of years, for the bootstrap interval")
    add("--original-axes", action="store_true", help="snow on x and weather on y, as the original's figures")
    add(
        "--snow-season-fraction", type=float, default=0.5, metavar="F", help="snow lies from this fraction on"
    )
    add("--worth-r", type=float, default=0.2, metavar="R", help="smallest correlation worth knowing of")
    text = "smallest trend worth knowing of, of the mean snow, a decade"
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

    return climate_tables.read(
        args.data,
        args.cover,
        args.weather,
        source,
        args.relative_orbit,
        args.min_valid,
        args.standardise_elevation,
    )


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
    if args.errors == "auto":
        years, sites = len(set(years_of(args, tables.rows))), tables.rows["site"].nunique()
        args.errors, why = regression.default_errors(years, sites)
        args.notes.append(f"Errors of slopes by {args.errors}: {why}")


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
        return args.predictors
    chosen = [name for name in REGRESSED if name in have]
    if REGRESSED[0] not in chosen and "temperature_2m_max" in have:
        chosen.insert(0, "temperature_2m_max")
    return [f"{name}_{args.window_days}d" for name in chosen] if tables.daily else chosen


def main(args) -> int:
    check(args)
    names = ("snow_cover.csv", "snow_cover_by_elevation.csv", "weather.csv", "weather.json")
    paths = [args.data / name for name in names] if args.data.is_dir() else [args.data]
    paths += [args.cover, args.weather, args.weather and args.weather.with_suffix(".json")]
    run = runs.Run(args, [path for path in paths if path is not None and path.exists()])
    if run.finished():
        return runs.DONE
    from data_prep import climate_report, series
    from models import climate_tests

    args.notes = []
    tables = read_tables(args, args.source)
    settle(args, tables)
    predictors = choose_predictors(args, tables)
    have = tables.variables
    windows = [f"{name}_{args.window_days}d" for name in QUESTIONS if name in have] if tables.daily else []
    lags = series.lag_names(have) if tables.daily else []
    rows = lagged(args, tables, list(dict.fromkeys([*predictors, *windows, *lags])))
    if args.dry_run:
        sites, dates = rows["site"].nunique(), rows["date"].nunique()
        runs.say(f"would analyse {len(rows)} rows of {sites} sites, {dates} dates")
        return runs.DONE
    run.begin()
    found = {"associations": associations(args, rows, [*have, *windows], "row")}
    if not tables.named_sites:
        found["associations"] += associations(args, series.per_date_means(rows), have, "date")
    found["lags"] = associations(
        args, rows, [name for name in lags if name not in windows], "row", ("deseasonalised",)
    )
    found["seasonal"], found["trends"] = seasons_of(args, rows), trends_of(args, rows, have, tables)
    found["vif"] = collinearity(rows, have)
    found["regression"], model, checks = multiple(args, rows, tables.valid_pixels, predictors)
    tests = all_tests(found)
    answers = verdicts_of(args, found, tables, rows)
    sources = by_source(args, tables, predictors)
    trends = (*found["trends"], *found["seasonal"])
    trended = [row for row in trends if row.get("tied", 0) > climate_tests.MOST_TIED]
    tied = [
        f"{row.get('series', 'snow')}, {row['season']}: {row['tied']:.0%} of the pairs of years are equal "
        "(all snow or none?), which draws the trend to 0."
        for row in trended
    ]
    notes = [*tables.notes, *args.notes, *model["advice"], *tied]
    for line in (*notes, *(row["in_words"] for row in answers)):
        runs.say(line)
    climate_report.write(args, tables, rows, found, model, checks, tests, answers, sources, notes)
    about = {"rows": len(rows), "dates": rows["date"].nunique(), "sites": rows["site"].nunique()}
    about |= {"dropped": len(tables.faulty()), "tests": len(tests), "errors": args.errors}
    about |= {"response": tables.response, "source": tables.source}
    told = {row["claim"]: row["verdict"] for row in answers}
    return run.finish(**about, verdicts=told, regression=model, notes=notes)


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
