"""make_report.py --manuscript: figures at IEEE widths, tables and methods that hold the run's own numbers."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import refuse, result, run
from test_make_report import write_step, write_table

from data_prep import manuscript, manuscript_latex, manuscript_words, report_run

HOSTILE = r"50%_of & #1 $x$ \input{/etc/passwd} ~^{} <b> 雪 \end{tabular} -1"
SCORES = ("iou", "f1", "balanced_accuracy", "mcc", "auprc", "snow_area_bias")
SIZES = {"sites": 7, "scenes": 31, "sites_with_snow": 5}


def scored(method: str, iou: float, **more) -> dict:
    limits = {f"{n}{end}": iou + d for n in SCORES for end, d in (("", 0), ("_low", -0.11), ("_high", 0.07))}
    return {"method": method, "coverage": 1.0, **SIZES, "prevalence": 0.25, **limits, **more}


def triplet(number: int, split: str) -> dict:
    return {"id": f"t{number}", "site": f"s{number}", "date": f"2021-01-{number + 1:02}",
        "product": "simulated",
            "latitude": 47 + 0.1 * number, "longitude": 9 + 0.2 * number, "split": split}  # fmt: skip


def build(folder, method: str = "unet", reason: str = "3 years; a trend needs 5 or more"):
    """A run of every kind of step, of few rows; `method` and `reason` are texts from its tables."""
    rows = [triplet(k, ("train", "val", "test")[k % 3]) for k in range(9)]
    balance = {
        s: {"triplets": 3, "sites": 3, "tiles_with_snow": 2, "snow_share": 0.3}
        for s in ("train", "val", "test")
    }
    write_step(folder / "1_curate",
        {"max_gap_hours": 17, "max_cloud_share": 0.35, "min_valid_share": 0.5, "tile": 192,
               "index": "ndsi"}, {"kept": 9, "rejected": {"cloud": 4}}, triplets=rows)  # fmt: skip
    write_step(folder / "2_split",
        {"data": str(folder / "1_curate"), "block_m": 2, "fractions": {}, "by": "site",
               "seed": 3}, {"balance": balance, "by": "site", "shares_ground": False},
               triplets=rows)  # fmt: skip
    read = {"data": str(folder / "2_split")}
    write_step(
        folder / "3_train",
        {**read, "snow_weight": "none", "loss": "bce", "width": 12, "depth": 3, "norm": "batch",
            "target": "total",
         "batch": 8, "learning_rate": 0.002, "weight_decay": 0.01, "warm_up": 0.05, "seed": 11},
        {"best": {"epoch": 4, "iou": 0.61, "threshold": 0.435}, "epochs": 9, "steps": 90,
            "parameters": 123456,
         "contract": {"bands": ["vv", "vh"], "units": "dB", "backscatter": "sigma0", "tile": 64},
         "versions": {"torch": "9.9.1"}, "device": "cpu"},
    )  # fmt: skip
    strata = [{**scored(m, v), "stratum": s, "class": c} for m, v in ((method, 0.62), ("optical", 0.9))
              for s, c in (("all", "all"), ("surface", "forest"), ("surface", "open"))]  # fmt: skip
    paired = [{"first": method, "other": "optical", "stratum": "all", "class": "all", "score": name, **SIZES,
               "difference": -0.28, "low": -0.4, "high": -0.13,
               "excludes_0": "yes"} for name in SCORES]  # fmt: skip
    write_step(folder / "4_judge", {**read, "against": "truth", "masks": []},
        {"split": "test", "triplets": 3},
               scores=[scored(method, 0.62), scored("optical", 0.9)], strata=strata,
               paired=paired)  # fmt: skip
    write_step(folder / "5_sam", {**read, "grid_points": 8, "prompts": None},
               {"split": "test", "triplets": 3, "image": "sar", "model": "vit_t", "prompts": {"grid": 4},
                "random_weights": True},
               scores=[scored("sam-grid", 0.3),
                   scored("sam-oracle-box, oracle (upper bound)", 0.8)])  # fmt: skip
    layers = [{"model": "dinov2", "weights": w, "layer": f"layer.{k}", "depth": k,
               **{f"held_out_auc_{m}{end}": 0.6 + d for m in ("rgb", "sar")
                  for end, d in (("", 0), ("_low", -0.1), ("_high", 0.1))}}
              for w in ("given", "random") for k in range(3)]  # fmt: skip
    write_step(folder / "6_probe", {**read, "attention_layer": -1, "cam_class": None},
               {"triplets": 3, "sites": 3, "models": {"dinov2": {}}}, layers=layers)  # fmt: skip
    gaps = [{"comparison": c, "treatment": t, "sar_to_rgb_chance_r_at_1": 0.1,
             **{f"{k}{end}": v for k in ("unexplained", "probe", "sar_to_rgb_r_at_1", "rgb_to_sar_r_at_1")
                for end, v in (("", 0.5), ("_low", 0.4), ("_high", 0.7))}}
            for c in ("RGB against SAR", "RGB against SAR, random weights") for t in ("raw",
                "shift")]  # fmt: skip
    write_step(folder / "7_embed", {**read, "perplexity": None, "points": 9},
               {"pairs_measured": 9, "sites_measured": 9, "gallery": 9, "judged": "judged on all"},
               modality_gap=gaps)  # fmt: skip
    main = "seasonal Mann-Kendall and Sen, Hirsch-Slack covariance"
    slope = {"slope": 0.03, "slope_low": -0.3, "slope_high": 0.37, "unit": "snow fraction a decade"}
    seasonal = [
        {"season": s, "method": main, "default": "True", "years": 3, "why_not": reason}
        for s in ("winter", "summer")
    ]
    seasonal = [{**row, **dict.fromkeys(slope, "")} for row in seasonal]
    seasonal += [{**seasonal[0], "method": "least squares", "default": "False", **slope}]
    each = {"variable": "temperature_2m_mean_30d", "row": "row", "r": -0.3, "r_low": -0.5, "r_high": -0.1,
        **slope,
            "unit": "snow fraction per °C", "p_corrected": 0.0004, "n": 77}  # fmt: skip
    write_step(
        folder / "8_climate", {"snow_season_fraction": 0.5, "response_scale": "as-is", "min_valid": 0.6},
        {"rows": 77, "sites": 9, "dates": 40, "source": "unet", "errors": "year", "tests": 21,
         "regression": {"r2": 0.125, "n": 77, "errors": "year"}},
        associations=[{**each, "treatment": t} for t in ("raw", "deseasonalised")], seasonal=seasonal,
        verdicts=[{"claim": "colder days go with more snow", "verdict": "supported", "estimate": -0.31,
                   "low": -0.5, "high": -0.1, "unit": "r", "p": 2e-7, "smallest": 0.2, "n": 77}],
        regression=[{"name": "year", "default": "True", "coefficient": 2e-7, "low": -3e-6, "high": 4e-6,
                     "unit": "x",
                     "p_corrected": 0.5, "standardised": 0.1, "partial_r2": 0.01, "vif": 1.5}],
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """(what the job said, the folder it wrote) of a run of every kind of step."""
    base = tmp_path_factory.mktemp("paper")
    words = ("--data", build(base / "run"), "--out", base / "page", "--manuscript", base / "tex")
    return result(run("make_report.py", *words)), base / "tex"


# ---- LaTeX -------------------------------------------------------------------------------------------------

ARGUMENTS = (
    "label",
    "input",
    "cite",
    "url",
    "bibliography",
    "bibliographystyle",
    "usepackage",
    "includegraphics",
)
NAMES = re.compile(rf"\\(?:{'|'.join(ARGUMENTS)})(?:\[[^]]*\])?\{{[^{{}}]*\}}")


def faults(text: str) -> list[str]:
    """What a TeX engine would stop at: braces, environments, letters of its own that are not escaped."""
    text = re.sub(r"(?<!\\)%.*", "", text)
    found, depth, open_ = [], 0, []
    for name, what in re.findall(r"\\(begin|end)\{([^}]*)\}", text):
        if name == "begin":
            open_.append(what)
        elif not open_ or open_.pop() != what:
            found.append(f"\\end{{{what}}} closes nothing")
    found += [f"{what} is not closed" for what in open_]
    for letter in re.sub(r"\\.", "", text):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth < 0:
            found.append("a brace too many")
    found += ["a brace is not closed"] if depth > 0 else []
    words = re.sub(r"\$[^$]*\$", "", re.sub(r"\\[#$%&_{}^~]", "", NAMES.sub("", text)))
    words = re.sub(
        r"\\begin\{tabular\}.*?\\end\{tabular\}", lambda m: m[0].replace("&", ""), words, flags=re.S
    )
    found += [f"bare {letter}" for letter in "#$^_&" if letter in words]
    known = set(re.findall(r"\\([a-zA-Z]+)", words))
    return found + [f"unknown \\{name}" for name in sorted(known - COMMANDS)]


COMMANDS = {
    *("begin", "end", "caption", "label", "centering", "scriptsize", "setlength", "tabcolsep", "toprule"),
    *("midrule", "bottomrule", "par", "smallskip", "parbox", "textwidth", "columnwidth", "raggedright"),
    *(
        "resizebox",
        "textbackslash",
        "textasciitilde",
        "textasciicircum",
        "textless",
        "textgreater",
        "textbar",
    ),
    *(
        "textquotedbl",
        "textasciigrave",
        "textdegree",
        "textsuperscript",
        "textmu",
        "ldots",
        "emph",
        "section",
    ),
    *("subsection", "documentclass", "title", "author", "maketitle"),
}


def test_the_faults_of_broken_latex_are_seen():
    assert faults(r"\begin{table} 5\% \end{table}") == []
    for broken in (r"\begin{table}", r"\end{table}", "{", "a_b", "5 & 6", "#", r"\input{x} \foo"):
        assert faults(broken), broken


def test_all_parts_are_sound_latex(paper):
    about, folder = paper
    parts = sorted(folder.glob("*.tex"))
    assert len(parts) == len([name for name in about["manuscript"]["files"] if name.endswith(".tex")]) > 15
    for path in parts:
        assert faults(path.read_text()) == [], path.name


def test_the_document_takes_in_every_part_once(paper):
    about, folder = paper
    text = (folder / "manuscript.tex").read_text()
    taken = re.findall(r"\\input\{([^}]*)\}", text)
    assert sorted(taken) == sorted(p.name for p in folder.glob("*.tex") if p.name != "manuscript.tex")
    labels = [name for p in folder.glob("*.tex") for name in re.findall(r"\\label\{([^}]*)\}", p.read_text())]
    assert len(labels) == len(set(labels)) == len(taken) - 1
    for name in re.findall(
        r"\\includegraphics[^{]*\{([^}]*)\}", "".join(p.read_text() for p in folder.glob("fig_*.tex"))
    ):
        assert (folder / name).is_file()
    assert text.index("% left out: fig_chips") < text.index(r"\documentclass[journal]{IEEEtran}")
    assert any("fig_chips" in words for words in about["manuscript"]["left_out"])


def test_every_source_cited_is_in_the_references(paper):
    text, entries = ((paper[1] / name).read_text() for name in ("methods.tex", "references.bib"))
    cited = {key for keys in re.findall(r"\\cite\{([^}]*)\}", text) for key in keys.split(",")}
    assert cited == set(re.findall(r"@misc\{(\w+),", entries)) and "ronneberger2015" in cited
    known = set(re.findall(r"@misc\{(\w+),", manuscript_words.SOURCES.read_text()))
    named = set(re.findall(r"[a-z]+(?:19|20)\d\d", Path(manuscript_words.__file__).read_text()))
    assert named == known


@pytest.mark.skipif(
    not any(map(shutil.which, ("pdflatex", "tectonic"))), reason="neither pdflatex nor tectonic is there"
)
def test_it_compiles(paper):
    if shutil.which("pdflatex"):
        command = [
            "pdflatex",
            "-interaction=nonstopmode",
            "-halt-on-error",
            "-no-shell-escape",
            "manuscript.tex",
        ]
        if subprocess.run(["kpsewhich", "IEEEtran.cls"], capture_output=True).returncode:
            pytest.skip("this TeX has no IEEEtran")
    else:
        command = ["tectonic", "--untrusted", "manuscript.tex"]
    done = subprocess.run(command, cwd=paper[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


# ---- what it says ------------------------------------------------------------------------------------------


def test_figures_are_as_wide_as_a_column_or_a_page_and_embed_their_fonts(paper):
    pdfs = sorted(paper[1].glob("fig_*.pdf"))
    assert len(pdfs) == 7
    for path in pdfs:
        data = path.read_bytes()
        left, _, right, _ = map(float, re.search(rb"/MediaBox \[([^]]*)\]", data)[1].split())
        wide = r"\begin{figure*}" in path.with_suffix(".tex").read_text()
        assert (right - left) / 72 * 25.4 == pytest.approx(181.9 if wide else 88.9, abs=0.1), path.name
        assert b"/Type3" not in data and path.with_suffix(".png").is_file()


def test_methods_hold_the_numbers_of_the_run(paper):
    text = (paper[1] / "methods.tex").read_text()
    for words in (r"at most 17\,h apart", r"tiles of at most 192 pixels", r"at most 35\,\%",
                  "Of 13 candidates 9 were kept",
                  "width 12 and depth 3", "123,456 parameters", "vv and vh", "9 epochs (90 steps)",
                  "learning rate of 0.002", "from seed 11", "epoch 5,", "threshold of 0.435", "binary "
                  "cross-entropy,",
                  "77 dates and places of 9 sites", "All 21 tests", "commit abc", "torch 9.9.1",
                  "5 of them"):  # fmt: skip
        assert words in text, words
    assert "None" not in text and "<" not in text


def test_a_sentence_without_its_numbers_is_left_out(tmp_path):
    write_step(tmp_path / "train", {"snow_weight": "none", "loss": "bce"}, {"parameters": 5})
    made = manuscript.write(report_run.read_run(tmp_path), tmp_path / "tex")
    text = (tmp_path / "tex" / "methods.tex").read_text()
    assert "U-Net" not in text and "None" not in text
    assert sum(words.startswith(("fig_", "tab_")) for words in made["left_out"]) == 18
    assert made["files"] == ["manuscript.tex", "methods.tex", "references.bib"]


def test_captions_say_n_the_interval_and_the_origin(paper):
    for name, random in (
        ("tab_scores", False),
        ("fig_strata", False),
        ("tab_sam", True),
        ("fig_scores", True),
    ):
        caption = re.search(r"\\caption\{(.*)\}", (paper[1] / f"{name}.tex").read_text())[1]
        for words in (
            "7 sites",
            "31 scenes",
            r"95 \% intervals of a bootstrap over sites",
            "Simulated data.",
        ):
            assert words in caption, (name, words)
        assert ("Random weights." in caption) == random, name
    table = (paper[1] / "tab_scores.tex").read_text()
    assert "U-Net & 0.62 [0.51,~0.69]" in table and r"\toprule" in table
    assert r"$-$0.28 [$-$0.40,~$-$0.13]" in (paper[1] / "tab_paired.tex").read_text()
    assert r"2.0\,$\times$\,$10^{-7}$" in (paper[1] / "tab_regression.tex").read_text()
    assert "3 years; a trend needs 5 or more" in (paper[1] / "fig_trends.tex").read_text()


# ---- hostile input -----------------------------------------------------------------------------------------


def test_escaped_text_is_sound_and_keeps_all_letters():
    shown = manuscript_latex.escape(HOSTILE)
    assert faults(shown) == [] and r"\textbackslash{}input\{" in shown and "[U+96EA]" in shown
    assert manuscript_latex.escape("a\nb\x00c\u202ed") == "a b c d"
    assert manuscript_latex.line([manuscript_latex.escape("[x]"), manuscript_latex.Tex("1")]).startswith(
        "{}["
    )


def test_hostile_names_in_tables_stay_text(tmp_path):
    manuscript.write(report_run.read_run(build(tmp_path / "run", HOSTILE, HOSTILE)), tmp_path / "tex")
    for path in sorted((tmp_path / "tex").glob("*.tex")):
        assert faults(path.read_text()) == [], path.name
    assert "passwd" in (tmp_path / "tex" / "tab_scores.tex").read_text()


def test_odd_tables_cost_their_part_of_the_paper_alone(tmp_path):
    folder = build(tmp_path / "run")
    write_table(folder / "4_judge" / "scores.csv", [{"way": "unet", "iou": 0.5}])
    write_table(folder / "7_embed" / "modality_gap.csv", [{"treatment": "raw", "probe": 1}])
    told = (folder / "3_train" / "result.json").read_text().replace('"steps": 90', f'"steps": {10**400}')
    (folder / "3_train" / "result.json").write_text(told.replace('"threshold": 0.435', '"threshold": NaN'))
    words = ("--data", folder, "--out", tmp_path / "page", "--manuscript", tmp_path / "tex")
    left_out = result(run("make_report.py", *words))["manuscript"]["left_out"]
    assert any(one.startswith("fig_scores: cannot be made of what the run holds") for one in left_out)
    for path in sorted((tmp_path / "tex").glob("*.tex")):
        assert faults(path.read_text()) == [], path.name
    assert "nan" not in (tmp_path / "tex" / "methods.tex").read_text()


def test_letters_that_no_font_has_are_named():
    assert manuscript_latex.escape("Ħaż-Żebbuġ, ŧ") == "[U+0126]aż-Żebbuġ, [U+0167]"


def test_a_folder_of_another_is_refused_and_its_own_is_made_anew(paper, tmp_path):
    folder = build(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "methods.tex").write_text("my own words")
    base = ("--data", folder, "--out", tmp_path / "page", "--manuscript")
    refuse("make_report.py", *base, tmp_path / "mine", saying="not written by make_report.py")
    (tmp_path / "my figures").mkdir()
    (tmp_path / "my figures" / "fig_trends.pdf").write_text("drawn by hand")
    refuse("make_report.py", *base, tmp_path / "my figures", saying="fig_trends.pdf: not written by")
    assert (tmp_path / "my figures" / "fig_trends.pdf").read_text() == "drawn by hand"
    refuse("make_report.py", *base, folder / "3_train", saying="is a step of the run")
    refuse("make_report.py", *base, tmp_path / "mine" / "methods.tex", saying="is a file")
    tex = shutil.copytree(paper[1], tmp_path / "tex")
    (folder / "8_climate" / "seasonal.csv").unlink()
    made = manuscript.write(report_run.read_run(folder), tex)
    assert not (tex / "fig_trends.pdf").exists() and (tex / "fig_scores.pdf").exists()
    assert any(words.startswith("fig_trends") for words in made["left_out"])


def test_damaged_tables_give_a_manuscript_too(tmp_path):
    folder = build(tmp_path / "run")
    write_table(folder / "4_judge" / "scores.csv", [{"method": "unet", "iou": "high"}])
    (folder / "5_sam" / "result.json").write_text(
        '{"arguments": {"grid_points": 8, "prompts": 1}, "prompts": 3}'
    )
    (folder / "2_split" / "result.json").write_text(
        '{"arguments": {"block_m": 1, "fractions": 1}, "balance": {"a": 1}}'
    )
    (folder / "3_train" / "result.json").write_text(
        '{"arguments": {"snow_weight": 1, "loss": "x"}, "best": 3, "contract": {"bands": 7}, "versions": []}'
    )
    manuscript.write(report_run.read_run(folder), tmp_path / "tex")
    for path in sorted((tmp_path / "tex").glob("*.tex")):
        assert faults(path.read_text()) == [], path.name
