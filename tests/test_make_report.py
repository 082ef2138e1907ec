"""make_report.py: one page of what a run folder holds; what is missing is named, no name is markup."""

import base64
import csv
import io
import json
import os
import re
import shutil
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
import rasterio
from conftest import refuse, result, run
from PIL import Image

from data_prep import (
    embedding_page,
    embedding_words,
    report_blocks,
    report_images,
    report_run,
    report_verdicts,
    runs,
)

MARKUP = '<script>alert("x")</script><img src=x onerror=alert(1)>'
SECTIONS = ("data", "segmentation", "maps", "activations", "embeddings", "climate", "provenance")


class Page(HTMLParser):
    """Tags with their attributes, the text people read, and scripts by type."""

    def __init__(self, html: str):
        super().__init__()
        self.html, self.tags, self.text, self.scripts, self.inside = html, [], [], [], None
        self.feed(html)
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self.inside = tag
            if tag == "script":
                self.scripts.append([dict(attributes).get("type", ""), ""])

    def handle_endtag(self, tag):
        if tag == self.inside:
            self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1][1] += data
        elif self.inside is None:
            self.text.append(data)

    def views(self) -> list[dict]:
        return [json.loads(text) for kind, text in self.scripts if kind == "application/json"]


# ---- run folders -------------------------------------------------------------------------------------------


def write_table(path, rows: list[dict]) -> None:
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_step(folder, arguments: dict, result_: dict | None = None, **tables) -> None:
    """A step as a job leaves it: args.json, result.json, and tables {name: rows}."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"arguments": arguments, "inputs": {}}
    (folder / "args.json").write_text(json.dumps(about))
    if result_ is not None:
        (folder / "result.json").write_text(
            json.dumps({**about, "seconds": 1.5, "git_commit": "abc", **result_})
        )
    for name, rows in tables.items():
        write_table(folder / f"{name}.csv", rows)


INFER = {"elevation_step_m": 200, "tile": 256, "weights": "x"}
CLIMATE = {"snow_season_fraction": 0.5, "response_scale": "as-is"}
EMBED = {"perplexity": None, "points": 5000}
PROBE = {"attention_layer": -1, "cam_class": None}


def write_climate(folder, site: str, claim: str = "colder days go with more snow", dates: int = 24) -> None:
    days = [f"{2020 + k // 24}-{k % 12 + 1:02}-{1 + 12 * (k // 12 % 2):02}" for k in range(dates)]
    numbers = {"estimate": -0.31, "low": -0.5, "high": -0.1, "p": 0.002, "smallest": 0.2, "n": dates}
    each = {"variable": "temperature_2m_mean_30d", "row": "row", "r": -0.3, "r_low": -0.5, "r_high": -0.1,
            "slope": -0.01, "slope_low": -0.02, "slope_high": -0.005, "unit": "snow fraction per °C",
            "p_corrected": 0.01, "n": dates}  # fmt: skip
    write_step(
        folder, CLIMATE, {"rows": dates, "sites": 1, "source": "unet", "response": "snow_fraction"},
        verdicts=[{"claim": claim, "verdict": "supported", "unit": "r", **numbers, "in_words": claim}],
        joined=[{"site": site, "date": day, "snow": 0.5, "temperature_2m_mean_30d": -1.5} for day in days],
        associations=[{**each, "treatment": t} for t in ("raw", "deseasonalised")],
    )  # fmt: skip


def write_map(folder, sites: list[str], shares=(0.0, 0.25, 0.5, 0.75, 1.0), size: int = 40, **more) -> None:
    """A step that mapped scenes: a mask and a probability of each date, of which so much is snow."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, how = (
        [],
        {"driver": "GTiff", "width": size, "height": size, "count": 1, "dtype": "uint8", "nodata": 255},
    )
    for site in sites:
        (folder / site).mkdir()
        for k, share in enumerate(shares):
            mask = (np.arange(size * size) < share * size * size).astype(np.uint8).reshape(1, size, size)
            for kind, values in (("mask", mask), ("probability", mask * 200)):
                path = folder / site / f"2021-01-{k + 1:02}T053000_066_{kind}.tif"
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # it lies nowhere on the earth
                    with rasterio.open(path, "w", **how) as target:
                        target.write(values)
            key = {"site": site, "date": f"2021-01-{k + 1:02}", "source": "unet", "relative_orbit": "066"}
            rows.append({**key, "valid_pixels": size**2, "snow_fraction": share, "snow_area_km2": share})
    write_step(folder, INFER, {"scenes": len(rows), "left_out": [], **more}, snow_cover=rows)


def a_chip(shade: int = 90) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.full((30, 30, 3), shade, np.uint8)).save(stream, "webp")
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def write_embed(folder, ids: list[str], site: str = "a", chips: dict | None = None) -> None:
    sentence = "No, it is not: 80 % lies between (before: 9 %)"
    write_step(folder, EMBED, {"sentence": sentence, "pairs_measured": 3, "about": {"random": True}})
    rows = [{"id": name, "site": site, "date": "2021-01-10", "snow_fraction": 0.25} for name in ids]
    plane = np.random.default_rng(0).normal(size=(2 * len(ids), 2))
    chips = {name: [a_chip(60), a_chip(200)] for name in ids[:400]} if chips is None else chips
    words = embedding_words.page("t", "a", "n", 600)
    embedding_page.write(folder / "projection.html", rows, {"PCA": plane, "t-SNE": -plane}, chips, words)


def build(folder, triplets_folder, trained):
    """A run made by hand, its steps named at will: curated, split, train, score, climate, embed."""
    for source, name in (
        (triplets_folder.parent / "curated", "curated"),
        (triplets_folder, "split"),
        (trained, "train"),
    ):
        shutil.copytree(source, folder / name)
        for path in (folder / name).glob("*.json"):  # as if it had been made here
            told = path.read_text().replace(str(triplets_folder.parent / "curated"), str(folder / "curated"))
            path.write_text(told.replace(str(triplets_folder), str(folder / "split")))
    words = ("--data", folder / "split", "--weights", folder / "train" / "best.pt", "--out", folder / "score")
    run("infer_unet.py", *words, "--device", "cpu", "--workers", 0)
    write_climate(folder / "weather and snow", "site-0")
    write_embed(folder / "embed", [f"pair-{k}" for k in range(12)])
    return folder


@pytest.fixture(scope="session")
def a_run(triplets_folder, trained, tmp_path_factory):
    return build(tmp_path_factory.mktemp("runs") / "mine", triplets_folder, trained)


@pytest.fixture(scope="session")
def report(a_run, tmp_path_factory):
    """(result, page) of the run by hand."""
    out = tmp_path_factory.mktemp("report")
    about = result(run("make_report.py", "--data", a_run, "--out", out))
    return about, Page((out / "report.html").read_text())


# ---- what the page holds -----------------------------------------------------------------------------------


def test_every_section_is_there_and_verdicts_come_first(report):
    about, page = report
    ids = [attributes.get("id") for tag, attributes in page.tags if tag == "section"]
    assert tuple(ids) == SECTIONS and about["steps"][:2] == ["curated", "embed"]
    assert page.words.index("IoU of snow") < page.words.index("Figure 1.")
    assert sum(tag == "h1" for tag, _ in page.tags) == 1
    assert "U-Net (vv, vh)" in page.words and "12 real triplets of 6 sites" in page.words
    assert "Marking all ground as snow would give IoU 0.5" in page.words
    assert "colder days go with more snow" in page.words


def test_the_page_asks_for_nothing(report):
    _, page = report
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "base", "form")
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes
        assert not [name for name in attributes if name.startswith("on")]
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "http" not in policy
    assert "unsafe" not in policy.partition("script-src")[2].partition(";")[0]


def test_tables_have_captions_and_header_cells(report):
    _, page = report
    tables = [part.partition("</table>")[0] for part in page.html.split("<table")[1:]]
    assert len(tables) > 5
    for number, one in enumerate(tables, 1):
        assert f'<p class="caption" id="table-{number}"><b>Table {number}.</b>' in page.html
        assert one.startswith(f' aria-labelledby="table-{number}"')
        assert '<th scope="col">' in one and '<th scope="row">' in one
    for tag, attributes in page.tags:
        assert tag != "img" or (attributes["alt"] and "decoding" not in attributes)


def test_views_hold_what_the_run_holds(report, a_run):
    _, page = report
    chips, pairs, series = page.views()
    with open(a_run / "score" / "per_image.csv") as stream:
        judged = {row["id"] for row in csv.DictReader(stream)}
    assert {item["id"] for item in chips["items"]} == judged and len(judged) == 2
    for item in chips["items"]:
        assert all(item["layers"][name].startswith("data:image/webp;base64,") for name in chips["layers"])
    assert set(pairs["chips"]) == set(pairs["pairs"]["id"]) and len(pairs["planes"]["PCA"][0]) == 24
    assert len(series["sites"]["site-0"]["snow"]["snow"]) == 24


def test_masks_keep_their_colours(report, a_run):
    """The reference layer of a chip, decoded, is the mask's own colours, pixel by pixel."""
    from data_prep import pictures, triplets

    item = report[1].views()[0]["items"][0]
    row = next(row for row in triplets.read_manifest(a_run / "split").rows if row["id"] == item["id"])
    data = base64.b64decode(item["layers"]["reference"].partition(",")[2])
    shown = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(shown, pictures.mask_colours(triplets.read_mask(row)))


def test_maps_are_shown_and_cover_over_time_without_any_weather(tmp_path):
    """Of each site the least, the median and the most snow, in the colours of masks; series of snow alone."""
    from data_prep import pictures

    write_map(tmp_path / "run" / "my map", ["high", "low"], left_out=["low/x.tif: no reference."])
    broken = tmp_path / "run" / "my map" / "low" / "2021-01-05T053000_066_mask.tif"
    broken.write_bytes(broken.read_bytes()[:300])
    Image.new("RGB", (60, 20)).save(
        tmp_path / "run" / "my map" / "high" / "2021-01-03T053000_066_preview.png"
    )
    about = result(run("make_report.py", "--data", tmp_path / "run", "--out", tmp_path / "out"))
    page = Page((tmp_path / "out" / "report.html").read_text())
    section = page.html.partition('id="maps"')[2].partition("</section>")[0]
    shown = re.findall(r'<img src="([^"]*)" width="(\d+)" height="(\d+)" alt="([^"]*)"', section)
    both, named = ("mask", "probability"), [alt for *_, alt in shown if "snow (" in alt]
    assert named == [
        *(f"high, 2021-01-01: 0 % snow (least snow): {kind}" for kind in both),
        "high, 2021-01-03: 50 % snow (median): preview",
        *(f"high, 2021-01-05: 100 % snow (most snow): {kind}" for kind in both),
        *(f"low, 2021-01-01: 0 % snow (least snow): {kind}" for kind in both),
        *(f"low, 2021-01-03: 50 % snow (median): {kind}" for kind in both),
    ]
    data = next(src for src, _, _, alt in shown if alt.startswith("low, 2021-01-03") and alt.endswith("mask"))
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))))
    half = (np.arange(1600) < 800).astype(np.uint8).reshape(40, 40)
    np.testing.assert_array_equal(picture, pictures.mask_colours(half))
    assert "1 map cannot be shown; the first: 2021-01-05T053000_066_mask.tif" in page.words
    assert "1 scene was left out; the first: low/x.tif: no reference." in page.words
    series = next(view for view in page.views() if "sites" in view)
    assert series["sites"]["low"]["snow"]["unet"][:2] == [["2021-01-01", 0.0], ["2021-01-02", 0.25]]
    assert series["weather"] == "" and not any("maps" in one or "cover" in one for one in about["missing"])


def test_segment_anything_without_snow_says_so_and_not_that_nothing_ran(tmp_path):
    row = {"method": "sam-grid", "prevalence": 0.0, "iou": "", "sites": 1, "scenes": 2, "sites_with_snow": 0}
    strata = [{"method": "sam-grid", "stratum": "season", "class": "SON", "iou": "", "balanced_accuracy": ""}]
    write_step(
        tmp_path / "sam",
        {"grid_points": 8, "prompts": ["grid"]},
        {"split": "test"},
        scores=[row],
        strata=strata,
    )
    Image.new("RGB", (20, 20)).save(tmp_path / "sam" / "strata.png")
    run("make_report.py", "--data", tmp_path, "--out", tmp_path / "out")
    words = Page((tmp_path / "out" / "report.html").read_text()).words
    said = words.partition("What does Segment Anything make of the radar?")[2]
    assert said.startswith(
        " Segment Anything: no score, there is no snow in what is judged. sam: 1 site, 2 scenes"
    )
    assert "no figure of strata, for no stratum has a score" in words and "Scores of each prompt" not in words


def test_a_figure_that_a_job_left_out_has_its_reason(tmp_path):
    why = {"trends": "2 years; a trend needs 5 or more"}
    write_step(
        tmp_path / "climate",
        CLIMATE,
        {"rows": 3, "left_out": why},
        joined=[{"site": "a", "date": "2021-01-01"}],
    )
    about = result(run("make_report.py", "--data", tmp_path, "--out", tmp_path / "out"))
    words = Page((tmp_path / "out" / "report.html").read_text()).words
    assert (
        "No figure of this: trend of snow by season" in words
        and "; 2 years; a trend needs 5 or more." in words
    )
    assert not any("trends.png" in one for one in about["missing"])


def test_missing_parts_are_named(report):
    about, page = report
    for words in ("No step of run_sam.py", "No step of probe_activations.py", "No step of score_masks.py",
                  "trends.csv is not there", "gap.png is not there"):  # fmt: skip
        assert any(words in one for one in about["missing"]), words
        assert words in page.words
    assert page.words.count("Missing.") == len(about["missing"])


def test_random_weights_and_simulated_data_are_stamped(a_run, tmp_path):
    folder = shutil.copytree(a_run, tmp_path / "mine")
    for name in ("curated", "split"):
        with open(folder / name / "triplets.csv", newline="") as stream:
            rows = [{**row, "product": "simulated"} for row in csv.DictReader(stream)]
        write_table(folder / name / "triplets.csv", rows)
    run("make_report.py", "--data", folder, "--out", folder)
    html = (folder / "report.html").read_text()
    figures = re.findall(r'(?:<figcaption>|<p class="caption"[^>]*>)(.*?)</(?:figcaption|p)>', html, re.S)
    of_scores = [words for words in figures if "score" in words]
    assert of_scores and all('class="stamp">simulated data<' in words for words in of_scores)
    cloud = next(words for words in figures if "pairs in a plane" in words)
    assert 'class="stamp">random weights<' in cloud and "12 simulated triplets" in Page(html).words
    climate = next(words for words in figures if "Verdicts on what" in words)
    assert "stamp" not in climate  # nothing says that its data are simulated


def test_a_report_touches_no_step_and_is_made_once(a_run, tmp_path):
    folder = shutil.copytree(a_run, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    first = run("make_report.py", "--data", folder, "--out", folder)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert before.items() <= after.items()
    assert {path.name for path in set(after) - set(before)} == {"report.html", "args.json", "result.json"}
    again = run("make_report.py", "--data", folder, "--out", folder)
    assert "already done" in again.stderr and result(again) == result(first)
    (folder / "score" / "result.json").write_text('{"arguments": {}}')
    refuse("make_report.py", "--data", folder, "--out", folder, saying="other arguments or input")
    run("make_report.py", "--data", folder, "--out", folder, "--overwrite")
    run("make_report.py", "--data", folder, "--out", folder / "report", "--overwrite")
    page = (folder / "report" / "report.html").read_text()
    assert "a job unknown here" in page
    run("make_report.py", "--data", folder, "--out", folder / "report")  # its own step is no input


def test_refusals(a_run, tmp_path):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    refuse("make_report.py", "--data", tmp_path / "none", "--out", out, saying="no such folder")
    refuse("make_report.py", "--data", tmp_path / "empty", "--out", out, saying="no run")
    refuse("make_report.py", "--data", a_run / "split", "--out", out, saying="one step of a run")
    refuse("make_report.py", "--data", a_run, "--out", a_run / "split", saying="is a step of the run")
    assert not out.exists()
    assert "steps" in run("make_report.py", "--data", a_run, "--out", out, "--dry-run").stderr
    assert not out.exists()


# ---- hostile run folders -----------------------------------------------------------------------------------


def hostile(folder, a_run, chips: int = 5000):
    """Names with markup, huge tables, missing files, broken pictures and JSON, so many chips and pairs."""
    for name in ("curated", "split", "train", "score"):
        shutil.copytree(a_run / name, folder / name)
    with open(folder / "split" / "triplets.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    scored = {path.stem for path in (folder / "score" / "mask").glob("*.tif")}
    first = next(row for row in rows if row["id"] in scored)
    many = [{**first, "id": f"chip-{k:05}", "site": f"site-{k}", "latitude": k % 80, "longitude": k % 170}
            for k in range(chips)]  # fmt: skip
    with open(folder / "score" / "per_image.csv", newline="") as stream:
        judged = next(row for row in csv.DictReader(stream) if row["id"] == first["id"])
    write_table(folder / "split" / "triplets.csv", many)
    judged = [{**judged, "id": row["id"], "accuracy": k / chips} for k, row in enumerate(many)]
    write_table(folder / "score" / "per_image.csv", judged)
    for kind in ("mask", "probability"):
        for row in many:
            os.link(
                folder / "score" / kind / f"{first['id']}.tif", folder / "score" / kind / f"{row['id']}.tif"
            )
    (folder / "score" / "mask" / "chip-04999.tif").unlink()
    (folder / "curated" / "contact_sheet_kept.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    Image.new("1", (20000, 20000)).save(folder / "curated" / "contact_sheet_rejected.png")
    (folder / "curated" / "curation.json").write_text("[" * 100_000)
    about = json.loads((folder / "curated" / "result.json").read_text())
    (folder / "curated" / "result.json").write_text(json.dumps({**about, "rejected": {"cloud": 3}}))
    write_climate(folder / f"9_{MARKUP.replace('/', '')}", MARKUP, MARKUP, dates=60_000)
    write_embed(folder / "embed", [f"{MARKUP}{k}" for k in range(chips)], MARKUP)
    write_embed(
        folder / "embed2", ["a", "b", "c"], chips={"a": ["javascript:alert(1)", "data:image/svg+xml,<svg>"]}
    )
    write_map(folder / "map", [MARKUP.replace("/", "_"), *(f"s{k}" for k in range(60))], (0.1, 0.5, 0.9))
    with open(folder / "map" / "snow_cover.csv", "a") as stream:
        stream.writelines(
            f"s{k % 60},2021-13-45,unet,066,1,0.5,1\n../../etc,2021-01-01,x,1,1,0.5,1\n"
            for k in range(40_000)
        )
    huge = {"driver": "GTiff", "width": 60_000, "height": 60_000, "count": 1, "dtype": "uint8"}
    for k in range(60):
        places = sorted((folder / "map" / f"s{k}").glob("*_mask.tif"))
        places[0].write_bytes(b"II*\0 broken")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rasterio.open(places[1], "w", **huge, tiled=True, compress="deflate", sparse_ok=True).close()
        places[2].with_name(places[2].name.replace("_mask.tif", "_preview.png")).write_bytes(
            b"\x89PNG broken"
        )
        for name in range(80):
            os.link(places[2], folder / "map" / f"s{k}" / f"{name}_mask.tif")
    layer = {"model": MARKUP, "weights": "given", "layer": MARKUP, "channels": 3, "held_out_auc_rgb": 0.7}
    write_step(
        folder / "probe", PROBE, {"models": {MARKUP: {"provenance": MARKUP}}}, layers=[layer] * 200_000
    )
    write_step(folder / "sam", {"grid_points": 8, "prompts": [MARKUP]})
    (folder / "sam" / "result.json").write_text("{not json")
    (folder / "sam" / "scores.csv").write_bytes(bytes(range(256)) * 50)
    write_step(
        folder / "odd", CLIMATE, {"regression": [], "notes": 3, "seconds": "long", "versions": {MARKUP: 1}}
    )
    return folder


@pytest.fixture(scope="session")
def hostile_page(a_run, tmp_path_factory):
    """(result, path of the page) of a hostile run folder."""
    folder = hostile(tmp_path_factory.mktemp("hostile") / "mine", a_run)
    return result(
        run("make_report.py", "--data", folder, "--out", folder / "page")
    ), folder / "page" / "report.html"


def test_a_hostile_folder_gives_a_page_in_time_and_memory(hostile_page):
    about, path = hostile_page
    assert about["seconds"] < 30 and about["peak_memory_mib"] < 1024
    assert path.stat().st_size == about["bytes"] < 15e6
    page = Page(path.read_text())
    assert [a.get("id") for tag, a in page.tags if tag == "section"] == list(SECTIONS)
    assert (
        "23 of 5,000 judged chips, evenly over their rank by accuracy, best first; 1 more cannot be read"
        in page.words
    )
    assert "The first 60 of 20,000 rows are shown" in page.words
    assert "probe/layers.csv: the first 20,000 of 200,000 rows are read" in page.words
    assert (
        "all are in probe/layers.csv" in page.words and "cannot be shown; the first: 2021-01-0" in page.words
    )
    assert f"{MARKUP.replace('/', '_')}, 2021-01-03: 90 % snow (most snow): mask" in [
        a.get("alt") for tag, a in page.tags if tag == "img"
    ]
    for words in ("contact_sheet_kept.png is not a readable picture", "(400000000 pixels)",
                  "curation.json", "sam/result.json cannot be read", "sam/scores.csv"):  # fmt: skip
        assert any(words in one for one in about["missing"]), words


def test_names_with_markup_stay_text(hostile_page):
    _, path = hostile_page
    page = Page(path.read_text())
    assert MARKUP in page.words and "onerror" in page.words
    assert not [a for _, a in page.tags if {"onerror", "onload", "onclick"} & set(a)]
    assert sorted({kind for kind, _ in page.scripts}) == ["", "application/json", "text/plain"]
    assert [kind for kind, _ in page.scripts].count("") == 1  # the page's own
    views = page.views()
    assert any(MARKUP in view.get("sites", {}) for view in views)
    clouds = [view for view in views if "pairs" in view]
    assert any(MARKUP in view["pairs"]["site"][0] for view in clouds)
    shown = [uri for view in clouds for uris in view["chips"].values() for uri in uris]
    assert 100 < len(shown) <= 600 and all(uri.startswith("data:image/webp;base64,UklGR") for uri in shown)


def test_lineage_of_data_and_of_weights_are_told_apart(tmp_path):
    """Real triplets scored by a net of simulated ones; a step of another run; triplets of a map; encoders."""
    row, run_ = {"site": "a", "id": "x"}, tmp_path / "mine"
    curate, train = {"max_gap_hours": 1, "max_cloud_share": 1}, {"snow_weight": "none", "loss": "bce"}
    infer = {"elevation_step_m": 1, "tile": 1}
    write_step(run_ / "sim", curate, {}, triplets=[{**row, "product": "simulated"}])
    write_step(run_ / "real", curate, {}, triplets=[{**row, "product": "S1"}])
    write_step(run_ / "net", {**train, "data": "runs/mine/sim", "target": "wet"}, {})
    weights = {"weights": "runs/mine/net/best.pt"}
    write_step(run_ / "score", {**infer, **weights, "data": "runs/mine/real"}, {"scores": {}})
    write_step(run_ / "other", {**infer, **weights, "data": "runs/theirs/sim"}, {"scores": {}})
    write_step(run_ / "map", {**infer, **weights, "data": "my/scenes"}, {"scenes": 3024})
    encoders = {"contract": {"sar_encoder": {"random": True}}}
    write_step(run_ / "pairs", {"sar_encoder": "dinov2", "rgb_encoder": "unet"}, encoders)
    write_step(run_ / "embed", {**EMBED, "weights": "runs/mine/pairs/best.pt"}, {"n": 10**400})
    for folder in (run_, shutil.copytree(run_, tmp_path / "renamed")):
        found = report_run.read_run(folder)
        steps = {step["name"]: step for step in found["steps"]}
        assert report_blocks.stamps(steps["net"]) == ["simulated data"]
        assert report_blocks.stamps(steps["score"]) == ["trained on simulated data"]
        assert steps["score"]["data"] == "1 real triplet of 1 site"
        assert report_verdicts.target_of(steps["score"], found) == "wet"
        assert steps["other"]["data"] == "data from outside the run folder"
        assert steps["map"]["data"] == "3,024 scene dates from outside the run folder"
        assert steps["pairs"]["random"] and steps["embed"]["random"] and not steps["score"]["random"]
        assert report_run.number(steps["embed"]["result"], "n") is None


def test_odd_tables_cost_their_part_alone(tmp_path):
    days = [{"date": "2021-01-01", "snow": 1}]
    write_step(tmp_path / "run" / "climate", CLIMATE, {}, joined=days)
    write_step(tmp_path / "run" / "judge", {"against": [1], "masks": []}, {}, scores=[{"iou": 0.5}])
    found = (("given", "input", 0.95), ("given", "one", 0.9), ("random", "one", 0.8))
    rows = [{"model": "m", "weights": w, "layer": n, "held_out_auc_rgb": v} for w, n, v in found]
    write_step(tmp_path / "run" / "probe", PROBE, {}, layers=rows)
    auc = {"held_out_auc_rgb": 0.7}  # of a table without layers
    write_step(tmp_path / "run" / "probe2", PROBE, {}, layers=[{"model": "m", "weights": "given", **auc}])
    run("make_report.py", "--data", tmp_path / "run", "--out", tmp_path / "out")
    words = Page((tmp_path / "out" / "report.html").read_text()).words
    assert "joined.csv has no column site or date" in words and "could not be made" not in words
    assert "(layer one, best of 1 layer; the picture itself 0.95; random weights 0.80)" in words


def test_what_is_cut_off_is_not_taken_as_whole(tmp_path):
    """In the middle of a number, of a row, between rows; what is left is said to be a part."""
    names = ("colder days", "more rain", "drier air")
    rows = [{"claim": name, "verdict": "supported", "estimate": -0.248, "n": 77} for name in names]
    folder = tmp_path / "run" / "climate"
    write_step(folder, CLIMATE, {"verdicts": dict.fromkeys(names, "supported"), "errors": "site", "sites": 9},
               verdicts=rows)  # fmt: skip
    whole = (folder / "verdicts.csv").read_bytes()

    def read(kept: bytes):
        (folder / "verdicts.csv").write_bytes(kept)
        found = report_run.read_run(tmp_path / "run")
        return report_verdicts.climate(found), found["steps"][0]["problems"]

    answers, problems = read(whole)
    assert answers[0]["text"] == "Of 3 claims: 3 supported." and not problems
    assert "n = 77 of 9 sites; errors by site: the interval holds only if" in answers[1]["basis"]
    lines = whole.splitlines(True)
    for kept, why in (
        (whole[:-3], "its last line has no end"),
        (whole[:-7], "line 4 has too few fields"),
        (b"".join(lines[:3]), "holds 2 of 3 rows"),
    ):
        answers, problems = read(kept)
        assert answers[0]["text"] == "Of 2 claims: 2 supported." and why in problems[0]
        assert "its files were read in part, see Provenance" in answers[0]["basis"]


def test_answers_come_of_finished_steps_and_a_damaged_judge_hides_no_score(tmp_path):
    row = {"method": "unet", "iou": 0.6, "iou_low": 0.5, "iou_high": 0.7, "prevalence": 0.4}
    row |= {"iou_gain": 0.2, "iou_gain_low": 0.1, "iou_gain_high": 0.3}
    row |= {"sites": 7, "scenes": 9, "sites_with_snow": 7}
    scored = {"split": "test", "scores": {"iou": 0.5, "prevalence": 0.25}}
    write_step(tmp_path / "score", INFER, scored)
    read = {"against": "truth", "target": "wet", "masks": [f"unet={tmp_path / 'score'}"]}
    write_step(tmp_path / "judge", read, {"split": "test"}, scores=[row])
    (answer,) = report_verdicts.segmentation(report_run.read_run(tmp_path))
    assert (
        "against the truth of wet snow" in answer["text"]
        and "0.20 [0.10,\u00a00.30] lies above 0" in answer["text"]
    )
    (tmp_path / "judge" / "scores.csv").write_text("")
    (answer,) = report_verdicts.segmentation(report_run.read_run(tmp_path))
    assert answer["basis"].startswith("score: split test") and "IoU of snow 0.50" in answer["text"]
    write_step(tmp_path / "judge", read, None, scores=[row])
    (tmp_path / "judge" / "result.json").unlink()
    (answer,) = report_verdicts.segmentation(report_run.read_run(tmp_path))
    assert answer["basis"].startswith("score")


def test_scores_of_an_earlier_training_are_not_given_to_the_new_net(tmp_path):
    train = {"snow_weight": "none", "loss": "bce"}
    write_step(tmp_path / "net", train, {"contract": {"bands": ["vv", "elevation"]}})
    (tmp_path / "net" / "best.pt").write_bytes(b"first")
    path = str(tmp_path / "net" / "best.pt")
    write_step(tmp_path / "score", {**INFER, "weights": path}, {"split": "test", "scores": {"iou": 0.5}})
    told = json.loads((tmp_path / "score" / "result.json").read_text())
    told["inputs"] = {path: runs.fingerprint(tmp_path / "net" / "best.pt")}
    (tmp_path / "score" / "result.json").write_text(json.dumps(told))

    def name():
        (answer,) = report_verdicts.segmentation(report_run.read_run(tmp_path))
        return answer["text"].partition(":")[0]

    assert name() == "U-Net (vv, elevation)"
    (tmp_path / "net" / "best.pt").write_bytes(b"second")
    assert name() == "U-Net (of an earlier training than that in net)"


def test_a_net_that_marks_everything_is_called_out():
    row = {"iou": None, "prevalence": 0.0, "true_snow": 0, "false_snow": 960, "pixels": 1000}
    said = report_verdicts.words_of_score("U-Net", row, "")
    assert said.endswith("no snow in what is judged. 96 % of the ground is marked as snow.")
    assert "marked" not in report_verdicts.words_of_score("U-Net", {**row, "false_snow": 900}, "")


def test_the_floor_is_compared_with_from_six_sites_with_snow_on():
    from data_prep import reporting
    from models import metrics

    assert reporting.FEWEST_SITES == metrics.FEWEST_SITES
    ends = ("", "_low", "_high")
    assert set(reporting.LIMITS) == {name + end for name in metrics.TABLED for end in ends}
    row = {"iou": 0.6, "iou_gain": 0.2, "iou_gain_low": 0.1, "prevalence": 0.4, "sites_with_snow": 6}
    assert report_verdicts.above_floor(row) is True
    assert report_verdicts.above_floor({**row, "iou_gain_low": 0.0}) is False
    assert report_verdicts.above_floor({**row, "sites_with_snow": 5}) is None
    assert report_verdicts.above_floor({**row, "iou_gain_low": ""}) is None
    assert report_verdicts.floor_words({"iou": 0.6, "prevalence": 0.4}).endswith("would give IoU 0.40.")


@pytest.mark.parametrize("low, shown", [(0.1, True), (-0.1, False)])
def test_a_climate_out_of_masks_that_find_no_snow_says_so(tmp_path, low, shown):
    row = {"method": "unet", "iou": 0.7, "iou_gain_low": low, "prevalence": 0.4, "sites_with_snow": 7}
    write_step(tmp_path / "judge", {"against": "truth", "masks": []}, {}, scores=[row])
    write_climate(tmp_path / "climate", "a")
    basis = report_verdicts.climate(report_run.read_run(tmp_path))[0]["basis"]
    assert ("not shown to be better than marking all ground" in basis) != shown


def test_paths_are_told_from_the_run_folder_on(tmp_path):
    run_ = {"folder": tmp_path}
    assert report_blocks.in_run(f"{tmp_path}/2_curate and {tmp_path}/x", run_) == "2_curate and x"
    other = f"/elsewhere{tmp_path}/2_curate"
    assert report_blocks.in_run(other, run_) == other


# ---- rules -------------------------------------------------------------------------------------------------


def test_steps_are_known_by_what_is_in_them(tmp_path):
    write_step(tmp_path / "7_climate", EMBED, {})
    write_step(tmp_path / "train", CLIMATE)
    write_step(tmp_path / "x", {"run_folder": "."}, {})
    found = report_run.read_run(tmp_path)
    assert [(step["name"], step["kind"], step["finished"]) for step in found["steps"]] == [
        ("7_climate", "embed", True), ("train", "climate", False)
    ]  # fmt: skip


def test_a_model_that_finds_no_pair_answers_nothing_about_the_gap(tmp_path):
    def said(model: str, low: float) -> str:
        way = {"r_at_1": 0.4, "r_at_1_low": low, "r_at_1_high": 0.9, "chance_r_at_1": 0.25}
        found = {
            "sentence": "No, the SAR cloud is not the RGB cloud, shifted: 9 % (before: 8 %).",
            "about": {"model": model}, "retrieval": {"raw": dict.fromkeys(("sar_to_rgb", "rgb_to_sar"), way)},
        }  # fmt: skip
        folder = tmp_path / f"{model}-{low}"
        write_step(folder / "embed", EMBED, found)
        (answer,) = report_verdicts.embeddings(report_run.read_run(folder))
        return answer["text"]

    assert said("sar-rgb", 0.1).startswith("Not answered: the model is not shown to find pairs better than")
    assert said("sar-rgb", 0.3).startswith("No, the SAR cloud") and said("clip", 0.1).startswith("No, the")


def test_numbers_are_written_short():
    assert [report_blocks.short(v) for v in (None, 0, 3.0, 0.12345, 1234.5, 2e-7, float("nan"))] == [
        "–", "0", "3", "0.123", "1,234", "2.0e-07", "–"
    ]  # fmt: skip
    assert report_blocks.interval(0.5, 0.25, 0.75) == "0.50 [0.25,\u00a00.75]"
    assert report_blocks.interval(0.5, None, None) == "0.50 (no interval)"
    assert report_blocks.interval(-0.001, -0.5, 0) == "0.00 [-0.50,\u00a00.00]"
    assert report_blocks.general(-1325.0, -1400, -52.25) == "-1\u202f325 [-1\u202f400,\u00a0-52.2]"
    assert (
        report_blocks.minus("-1 [-0.5, 2e-7] of sim-01 on 2021-01-10")
        == "−1 [−0.5, 2e−7] of sim-01 on 2021-01-10"
    )
    assert report_blocks.p_value(0.0001) == "<\u00a00.001"


def test_a_map_of_one_site_and_of_the_whole_world_has_a_frame_and_a_bar():
    for places in ([(47.0, 9.0)], [(-77.0, -170.0), (80.0, 175.0), (0.0, 0.0)], [(90.0, 0.0), (90.0, 10.0)]):
        rows = [{"site": "s", "latitude": a, "longitude": b, "split": "test"} for a, b in places]
        drawn = report_images.site_map(rows)
        assert drawn["bar"][1].endswith(" km") and 0 < drawn["bar"][0] < drawn["width"]
        for point in drawn["points"]:
            assert drawn["left"] <= point["x"] <= drawn["left"] + drawn["width"]
            assert drawn["top"] <= point["y"] <= drawn["top"] + drawn["height"]
        assert len(drawn["meridians"]) >= 1 and len(drawn["parallels"]) >= 1
