"""LaTeX tables of the climate analysis, ready for a manuscript (booktabs)."""

import pandas as pd

from data_prep.climate_words import between, figure_of, origin, snow_words, words
from data_prep.manuscript_latex import escape
from data_prep.runs import write_text


def write(folder, told: dict[str, list[dict]], tables, model: dict) -> None:
    """associations.tex, seasonal.tex, trends.tex and regression.tex from rows with units."""
    folder.mkdir(exist_ok=True)
    snow, brackets = snow_words(tables), f"95 % intervals in brackets{origin(tables)}."
    default = "p (BH): corrected for all tests made."

    def slope(row, middle="slope", low="slope_low", high="slope_high"):
        p = {"p": figure_of(row.get("p"), 2), "p (BH)": figure_of(row.get("p_corrected"), 2)}
        return {"Slope": between(row, middle, low, high), "Unit": row["unit"], **p}

    rows = [
        {"Variable": words(r["variable"]), "Values": r["treatment"], "A row is": "a " + r["row"], "n": r["n"],
         "n eff": figure_of(r.get("n_eff")), "r": between(r, "r", "r_low", "r_high"), **slope(r)}
        for r in told["associations"]
    ]  # fmt: skip
    caption = f"Association of {snow} with weather, raw and deseasonalised; {brackets} {default}"
    table(folder / "associations.tex", rows, caption)
    rows = [
        {"Season": r["season"], "Method": r["method"], "Years": r.get("years") or r.get("points"), **slope(r),
         "Detectable": figure_of(r.get("detectable"))}
        for r in told["seasonal"]
    ]  # fmt: skip
    table(folder / "seasonal.tex", rows, f"Trend of {snow} by season; {brackets} {default}")
    rows = [
        {"Series": words(r["series"]), "Months": r["season"], "Method": r["method"], **slope(r),
         "Detectable": figure_of(r.get("detectable"))}
        for r in told["trends"]
        if r["series"] == "snow" or r["default"]
    ]  # fmt: skip
    table(folder / "trends.tex", rows, f"Trends; {brackets} {default}")
    rows = [
        {"Predictor": words(r["name"]), **slope(r, "coefficient", "low", "high"),
         "Standardised": figure_of(r.get("standardised")), "Partial R2": figure_of(r.get("partial_r2")),
         "VIF": figure_of(r.get("vif"))}
        for r in told["regression"]
        if r["default"]
    ]  # fmt: skip
    skill = figure_of(model.get("leave_one_year_out", {}).get("r2"))
    about = f"R2 {figure_of(model.get('r2'))}, on years left out {skill}, n = {model.get('n', 0)}"
    table(folder / "regression.tex", rows, f"Regression of {snow} anomalies; {about}; {brackets} {default}")


def table(path, rows: list[dict], caption: str) -> None:
    """One table; all text is escaped."""
    if not rows:
        return
    frame = pd.DataFrame(rows)
    text = frame.to_latex(
        index=False, escape=True, na_rep="--", caption=escape(caption), label=f"tab:{path.stem}",
        position="t", column_format="l" * frame.shape[1],
    )  # fmt: skip
    write_text(path, text)
