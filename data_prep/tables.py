"""CSV tables checked row by row: what cannot be used is left out with its reason, nothing is guessed.

Needs numpy and pandas, and runs.py beside it for its errors.
"""

import csv
import string
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.runs import BadInput

FIRST_DAY = "1940-01-01"  # ERA5 begins (Hersbach 2020, 10.1002/qj.3803); no snow mask is older
NOT_CHOSEN = "is not the chosen one"
NO_NUMBER = ("", "NaN", "nan", "NA", "null", "None", "none")


@dataclass
class Tables:
    """What read() gives.

    rows: site ("" where the table names none), date (datetime64[ns]), snow, then `variables`; sorted by
    site and date. snow: site, date, snow of every usable snow row, with weather or without. valid_pixels: of
    each of the rows, NaN where the table has none. daily: the weather of each site of the rows, every day
    from the first to the last, NaN where missing; empty for the original's table.
    dropped: dicts of file, line, site, date, reason. notes: sentences, those to heed begin with "Warning:".
    sources: rows of each source that the snow table held. places: what weather.json says of each site
    of the rows. about_weather: the source it names, and the model.
    gaps: dicts of site, dates, first, last, longest_gap_days, gap_from, missing_weather_days.
    """

    rows: pd.DataFrame
    snow: pd.DataFrame
    valid_pixels: pd.Series
    daily: dict[str, pd.DataFrame]
    units: dict[str, str]
    response: str  # snow_fraction, or snow_pixel_count
    named_sites: bool
    variables: list[str] = field(default_factory=list)
    dropped: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)
    source: str = ""
    places: dict[str, dict] = field(default_factory=dict)
    about_weather: str = ""
    gaps: list[dict] = field(default_factory=list)

    def faulty(self) -> list[dict]:
        """The dropped rows that something was wrong with; rows of another source or orbit are not."""
        return [drop for drop in self.dropped if not drop["reason"].endswith(NOT_CHOSEN)]


def header(path: Path, skip: int = 0) -> list[str]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            lines = csv.reader(stream)
            for _ in range(skip):
                next(lines, None)
            return [name.strip() for name in next(lines, [])]
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: not a readable CSV file ({error}).") from None


def read_table(path: Path, text: tuple[str, ...], need: tuple[str, ...], skip: int = 0) -> pd.DataFrame:
    """A CSV file with a column `line`; columns of `text` as they stand, others numbers where they can be."""
    names = header(path, skip)
    missing = [name for name in need if name not in names]
    if missing:
        raise BadInput(f"{path}: column {', '.join(missing)} missing; found {', '.join(names) or 'nothing'}.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(f"{path}: column {', '.join(twice)} stands twice; keep one of them.")
    texts, numbers = [n for n in names if n in text], [n for n in names if n not in text]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # more fields than the header has
            table = pd.read_csv(
                path, names=names, skiprows=skip + 1, index_col=False, skip_blank_lines=False,
                dtype=dict.fromkeys(texts, object), low_memory=False, encoding="utf-8-sig",
                keep_default_na=False, na_values={name: list(NO_NUMBER) for name in numbers},
            )  # fmt: skip
    except (ValueError, Warning, OSError) as error:
        what = " ".join(str(error).split())
        raise BadInput(f"{path}: not a table of {len(names)} columns ({what}); write it again.") from None
    table["line"] = np.arange(len(table)) + skip + 2
    for name in texts:
        table[name] = stripped(table[name])
    return table[table[numbers].notna().any(axis=1) | (table[texts] != "").any(axis=1)]


def stripped(column: pd.Series) -> pd.Categorical:
    """Text as categories in order of the alphabet, without spaces around it; "" where there is none.

    pandas' own category type would make numbers of them: orbit 066 were 66.
    """
    codes, found = pd.factorize(column.to_numpy(object))
    texts, place = np.unique([*(str(text).strip() for text in found), ""], return_inverse=True)
    # Code -1, nothing at all, takes the last place.
    return pd.Categorical.from_codes(place[codes], texts.astype(object)).remove_unused_categories()


def with_blank(table: pd.DataFrame, names) -> pd.DataFrame:
    """`table` with an empty text in each column of `names` that it lacks."""
    blank = pd.Categorical.from_codes(np.zeros(len(table), np.int8), [""])
    return table.assign(**{name: blank for name in names if name not in table})


def leave_out(tables: Tables, path: Path, table: pd.DataFrame, bad, reason: str) -> pd.DataFrame:
    """The rows of `table` that are not `bad` (bool); the others are noted.

    reason: a column in braces stands for the row's own value: "snow_pixels {snow_pixels:g} is negative".
    """
    bad = np.asarray(bad, bool)
    if not bad.any():
        return table
    out = table[bad]
    names = [name for _, name, *_ in string.Formatter().parse(reason) if name]
    columns = {name: out[name].astype(object).tolist() for name in {"line", "site", "text", *names}}
    for place in range(len(out)):
        tables.dropped.append({
            "file": path.name, "line": columns["line"][place], "site": columns["site"][place],
            "date": columns["text"][place], "reason": reason.format(**{n: columns[n][place] for n in names}),
        })  # fmt: skip
    return table[~bad]


def with_dates(tables: Tables, path: Path, table: pd.DataFrame, today) -> pd.DataFrame:
    """`table` with `date` as datetime64[ns] and `text` as it stood; rows without a day of the past go."""
    codes, texts = table["date"].cat.codes.to_numpy(), pd.Series(table["date"].cat.categories, dtype=object)
    whole = texts.str.fullmatch(r"\d{4}-\d{2}-\d{2}").to_numpy(bool)
    days = pd.to_datetime(texts.where(whole), format="%Y-%m-%d", errors="coerce").to_numpy("datetime64[ns]")
    problems = {
        "date with a time of day or a time zone, expected YYYY-MM-DD": texts.str.match(
            r"\d{4}-\d{2}-\d{2}[T ]\d"
        ),
        "no date YYYY-MM-DD that exists": np.isnat(days),
        f"date in the future, after {str(today)[:10]}": days > today,
        f"date before {FIRST_DAY}, older than satellites and reanalysis": days < np.datetime64(FIRST_DAY),
    }
    found = np.select([np.asarray(bad, bool) for bad in problems.values()], list(problems), "").astype(object)
    table = table.assign(text=table["date"], date=days[codes], problem=found[codes])
    return leave_out(tables, path, table, table["problem"] != "", "{problem}").drop(columns="problem")


def as_numbers(tables: Tables, path: Path, table: pd.DataFrame, names) -> pd.DataFrame:
    """`table` with these columns as float64; rows with text or infinity in them go."""
    for name in names:
        if not pd.api.types.is_numeric_dtype(table[name]) or pd.api.types.is_bool_dtype(table[name]):
            said = table[name].astype(str).where(table[name].notna())  # True is no number either
            table = table.assign(**{name: pd.to_numeric(said, errors="coerce")}, said=said)
            wrong = table[name].isna() & said.notna()
            table = leave_out(tables, path, table, wrong, f"{name} {{said!r}} is no number").drop(
                columns="said"
            )
        table = table.assign(**{name: table[name].astype(np.float64)})
        table = leave_out(tables, path, table, np.isinf(table[name]), f"{name} is infinite")
    return table


def without_repeats(tables: Tables, path: Path, table: pd.DataFrame, key: list[str], values) -> pd.DataFrame:
    """`table` without rows that repeat another, and without rows of one key that contradict each other."""
    if not table.duplicated(key).any():
        return table
    whole = list(dict.fromkeys([*key, *values]))
    table = table.assign(first=table.groupby(whole, dropna=False, observed=True)["line"].transform("min"))
    table = leave_out(tables, path, table, table.duplicated(whole), "repeats line {first}")
    lines = table.groupby(key, observed=True)["line"]
    low, high = lines.transform("min"), lines.transform("max")
    table = table.assign(other=low.where(low != table["line"], high))
    clash = table.duplicated(key, keep=False)
    why = "contradicts line {other}: which is right is unknown"
    return leave_out(tables, path, table, clash, why).drop(columns=["first", "other"])
