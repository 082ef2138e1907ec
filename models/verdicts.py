"""Plain words for claims about a sign: supported, not supported, or undetectable with this n.

Rows of figures are those of climate_tests.py. Needs what climate_tests.py needs, and that beside it.
"""

from models import climate_tests, regression

SUPPORTED, NOT_SUPPORTED, UNDETECTABLE = "supported", "not supported", "undetectable with this n"
NO_TEST = "not tested"
LEVEL = 0.05
WORTH_C = 0.3  # C a decade; the globe's surface warms by 0.2 to 0.3 (IPCC AR6 WG1, 2.3.1)
QUESTIONS = {  # variable -> the sign that the original's conclusions give it, in words
    "temperature_2m_max": (-1, "colder days (maximum) go with more snow"),
    "temperature_2m_mean": (-1, "colder days (mean) go with more snow"),
    "temperature_2m_min": (-1, "colder days (minimum) go with more snow"),
    "precipitation_sum": (1, "more precipitation goes with more snow"),
    "snowfall_sum": (1, "more snowfall goes with more snow"),
    "relative_humidity_2m_mean": (-1, "drier air goes with more snow"),
}


def verdict(sign: int, estimate, low, high, p, worth: float) -> str:
    """The verdict on "the effect has this sign" from an estimate, its 95 % interval and its p.

    p: corrected for the other claims; worth: the smallest effect worth knowing of, same unit. Significant:
    supported or, with the other sign, not supported. Not significant: not supported if the interval leaves
    out an effect of that sign and size, else undetectable.
    """
    if None in (estimate, low, high, p):
        return NO_TEST
    if p < LEVEL:
        return SUPPORTED if estimate * sign > 0 else NOT_SUPPORTED
    return NOT_SUPPORTED if most(sign, low, high) < worth else UNDETECTABLE


def most(sign: int, low: float, high: float) -> float:
    """The largest effect of this sign that the interval allows; negative: not even none."""
    return high if sign > 0 else -low


def in_words(claim: str, word: str, sign: int, row: dict, worth: float, unit: str) -> str:
    """One sentence: the claim, the verdict and the figures it rests on.

    row: estimate, low, high, p and smallest, what would have been found with 80 % power before correction;
    or why_not.
    """
    if word == NO_TEST:
        return f"{claim}: {word}; {row.get('why_not') or 'the table does not hold what it needs'}."
    found = f"{short(row['estimate'])} [{short(row['low'])}, {short(row['high'])}] {unit}"
    found += f", p {row['p']:.2g} corrected for the other claims"
    matters = f"{short(worth)} matters"
    if word == SUPPORTED:
        small = f"; less than what matters, {short(worth)}" if abs(row["estimate"]) < worth else ""
        return f"{claim}: {word} ({found}{small}); associated with, which is not caused by."
    if row["p"] < LEVEL:
        return f"{claim}: {word}, the opposite is seen ({found})."
    if word == NOT_SUPPORTED:
        return f"{claim}: {word} ({found}); the interval leaves out what would matter, {short(worth)}."
    shows = f"{short(row['smallest'])} would show with 80 % power, were it the only claim"
    return f"{claim}: {word} ({found}); {shows}, {matters}."


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def correct(found: dict[str, list[dict]]) -> list[dict]:
    """Every p of the tables in one list; rows get p_corrected (over all) and p_default (over default ones).

    Benjamini and Hochberg's. The default ones are what the answers go by: deseasonalised associations, trends
    and coefficients by the default method.
    """
    tested = [(table, row) for table, rows in found.items() for row in rows if row.get("p") is not None]
    default = [one for one in tested if one[1]["default"]]
    for column, family in (("p_corrected", tested), ("p_default", default)):
        corrected = regression.benjamini_hochberg([row["p"] for _, row in family])
        for (_, row), p in zip(family, corrected.tolist(), strict=True):
            row[column] = p
    tests = []
    for table, row in tested:
        of = row.get("variable") or row.get("name") or row.get("series") or "snow"
        how = [str(row[key]) for key in ("source", "season", "treatment", "row", "method") if row.get(key)]
        kept = {key: row.get(key) for key in ("default", "p", "p_corrected", "p_default")}
        tests.append({"table": table, "of": of, "how": "; ".join(how), **kept})
    return tests


def answers(found, row_is, window_days, season_means, mean, snow: str, worth_r, worth_share) -> list[dict]:
    """The original's claims and their verdicts, each with the figures it rests on.

    found: tables of rows after `correct`; row_is: "row" or "date", what an association goes by; window_days:
    of the weather beside the day's own (None: none); season_means, mean: of snow, whose worth_share a decade
    is worth knowing of; snow: its unit.
    """
    told = []

    def answer(claim: str, sign: int, row: dict, key: str, worth: float, unit: str) -> None:
        if row.get("tied", 0) > climate_tests.MOST_TIED:
            row = {
                "n": row["n"],
                "why_not": f"{row['tied']:.0%} of the pairs of years are equal, all snow or none",
            }
        kept = {
            "estimate": row.get(key), "low": row.get(f"{key}_low"), "high": row.get(f"{key}_high"),
            "p": row.get("p_default"), "smallest": row.get("detectable_r" if key == "r" else "detectable"),
            "why_not": row.get("why_not"),
        }  # fmt: skip
        word = verdict(sign, kept["estimate"], kept["low"], kept["high"], kept["p"], worth)
        words = in_words(claim, word, sign, kept, worth, unit)
        more = {"unit": unit, "worth": worth, "n": row.get("n"), "in_words": words}
        told.append({"claim": claim, "verdict": word, **kept, **more})

    for name, (sign, claim) in QUESTIONS.items():
        for window in ("",) if window_days is None else ("", f"_{window_days}d"):
            wanted = {"variable": name + window, "treatment": "deseasonalised", "row": row_is}
            over = f", over {window_days} days" if window else ""
            row = pick(found["associations"], **wanted) or {"why_not": f"the table has no {name}"}
            answer(claim + over, sign, row, "r", worth_r, "r of anomalies")
    row = pick(found["trends"], series="temperature_2m_max", default=True)
    days = "on dates of snow cover" if window_days is None else "every day"
    claim = f"the maximum temperature has risen, {days}"
    answer(
        claim, 1, row or {"why_not": "the table has no temperature_2m_max"}, "slope", WORTH_C, "°C a decade"
    )
    for season, of_season in season_means.items():
        row = pick(found["seasonal"], season=season, default=True)
        worth = worth_share * of_season
        answer(f"snow cover in {season} has fallen", -1, row, "slope", worth, f"{snow} a decade")
    row, worth = pick(found["trends"], series="snow", default=True), worth_share * mean
    answer("snow cover has fallen", -1, row, "slope", worth, f"{snow} a decade")
    return [*told, too_few(row, worth, f"{snow} a decade")]


def too_few(row: dict, worth: float, unit: str) -> dict:
    """The verdict on "so many years are too few", from the row of the trend of snow; none without a trend."""
    years, smallest = row["years"], row.get("detectable")
    many = "1 year is" if years == 1 else f"{years} years are"
    claim, word = f"{many} too few to show a trend of {short(worth)} {unit}", NO_TEST
    if smallest is not None:
        word = NOT_SUPPORTED if smallest <= worth else SUPPORTED
    shown = row.get("why_not") or f"{short(smallest)} would show with 80 % power"
    words = f"{claim}: {word}; {shown}."
    figures = {"smallest": smallest, "worth": worth, "n": row["n"], "unit": unit}
    return {"claim": claim, "verdict": word, **figures, "in_words": words}


def pick(rows: list[dict], **wanted) -> dict | None:
    """The first row with these values."""
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), None)
