"""embed_tsne.py: files that hold what the encoders say, a page that is safe and whole, numbers, refusals."""

import json
import re
import shutil
import signal
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from conftest import refuse, result, run
from PIL import Image

import embed_tsne
from data_prep import (
    embedding_files,
    embedding_inputs,
    embedding_page,
    gap_tables,
    runs,
    sar_rgb_pairs,
    triplets,
)
from models import gap, pair_encoders, picture_statistics, training
from models.sar_rgb import SarRgb

JOB = "embed_tsne.py"
HOSTILE = "</script><img src=http://x onerror=alert(1)>&$data"


def here(*words) -> int:
    """The job's exit code, run in this process: its imports take long."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        return runs.start(embed_tsne.main, embed_tsne.get_parser(), [str(word) for word in words])
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@pytest.fixture
def refuse_here(capsys):
    """The job must exit 2 with one sentence that holds `saying`."""

    def check(*words, saying: str):
        capsys.readouterr()
        assert here(*words) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert saying in line, f"expected {saying!r} in: {line}"

    return check


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A SarRgb with random weights, as train_sar_rgb.py writes it."""
    torch.manual_seed(0)
    net = SarRgb(2, dimensions=8, width=2, depth=2)
    contract = {
        "bands": ["vv", "vh"], "units": "dB", "backscatter": "sigma0", "mean": [-12.0, -19.0],
        "std": [4.0, 4.0], "tile": 48, "rgb_mean": [120.0] * 3, "rgb_std": [60.0] * 3, "origin": "",
        "sar_encoder": {"name": "unet"}, "rgb_encoder": {"name": "unet"},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("checkpoint") / "best.pt"
    torch.save(training.checkpoint(net, contract, model="sar-rgb", weights=net.state_dict()), path)
    return path


@pytest.fixture(scope="module")
def embedded(triplets_folder, checkpoint, tmp_path_factory):
    """(output folder, result, stderr) of the job with a sar-rgb checkpoint on all twelve triplets."""
    out = tmp_path_factory.mktemp("embed") / "out"
    words = ("--data", triplets_folder, "--out", out, "--model", "sar-rgb", "--weights", checkpoint)
    done = run(JOB, *words, "--perplexity", 3, "--batch", 5, "--amp", "off", "--workers", 0)
    return out, result(done), done.stderr


class Tags(HTMLParser):
    """Every tag with its attributes, and the text of the JSON inside."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.data, self.inside = [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = dict(attributes).get("id") == "data"

    def handle_data(self, data):
        if self.inside:
            self.data += data
            self.inside = False


# ---- what it writes ----------------------------------------------------------------------------------------


def test_the_parquet_file_holds_what_the_encoders_say(embedded, triplets_folder, checkpoint):
    out = embedded[0]
    rows = pq.read_table(out / "embeddings.parquet")
    assert rows.column_names == [*embedding_files.TEXTS, "snow_fraction", "vector"]
    assert rows.num_rows == 24 and rows.schema.field("vector").type == pa.list_(pa.float32(), 8)
    made = json.loads(rows.schema.metadata[b"snowsar"])
    assert made["model"] == "sar-rgb" and len(made["weights_sha256"]) == 64 and not made["random"]
    table = embedding_files.read(out / "embeddings.parquet")
    manifest = {row["id"]: row for row in triplets.read_manifest(triplets_folder).rows}
    assert {row["id"] for row in table["rows"]} == set(manifest)
    encoder = pair_encoders.load("sar-rgb", checkpoint)
    for k in (0, 7):
        row = manifest[table["rows"][k]["id"]]
        item = embedding_inputs.EmbeddingInputs([row], "vv", None, ("vv", "vh"))[0, 0]
        batch = {name: torch.from_numpy(item[name])[None] for name in ("sar", "rgb")}
        found = encoder.embed(batch, ("rgb", "sar", "rgb_moved"))
        for name in ("rgb", "sar"):
            np.testing.assert_allclose(table[name][k], found[name][0], atol=1e-5)
        far = F.pad(batch["rgb"], (0, 8, 0, 8), mode="reflect")[..., 8:, 8:]
        again = encoder.embed({"rgb": far}, ("rgb",))["rgb"]
        np.testing.assert_allclose(found["rgb_moved"], again, atol=1e-6)
        assert table["rows"][k]["snow_fraction"] == float(row["snow_fraction"])
        assert table["rows"][k]["ground"] == "/".join((row["site"], row["row"], row["col"]))


def test_numbers_are_of_one_date_per_ground_with_floors(embedded):
    out, about, said = embedded
    found = json.loads((out / "modality_gap.json").read_text())
    assert about["pairs"] == 12 and found["model"]["pairs"] <= 6  # of twelve triplets of six grounds
    assert set(gap_tables.comparisons(found)) == {"model", "shuffled", "moved", "random"}
    assert found["random"]["raw"]["alignment"] != found["model"]["raw"]["alignment"]
    assert found["moved"]["raw"]["cosines"]["paired"] > found["model"]["raw"]["cosines"]["paired"]
    assert found["sentence"] in said and found["sentence"] == about["sentence"]
    text = (out / "modality_gap.md").read_text()
    assert text.count("\n| ") == 13 and found["sentence"] in text
    columns = (out / "modality_gap.csv").read_text().splitlines()[0].split(",")
    assert {"gap_norm", "sar_to_rgb_r_at_1_low", "cosines_paired", "cka_unbiased"} <= set(columns)
    for name in ("projection", "gap"):
        width, height = Image.open(out / f"{name}.png").size
        assert width == round(7.16 * 300) and height < 9.6 * 300
        assert (out / f"{name}.pdf").read_bytes()[:5] == b"%PDF-"
    assert not (out / "batches").exists()


def test_the_page_needs_no_network_and_shows_chips(embedded):
    out, about, _ = embedded
    page = (out / "projection.html").read_text()
    assert len(page.encode()) == about["page_bytes"] < 12e6
    tags = Tags(page)
    for tag, attributes in tags.tags:
        assert tag not in ("link", "iframe", "object", "base")
        assert not {"src", "href"} & set(attributes)
    policy = next(a["content"] for _, a in tags.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "http" not in policy
    data = json.loads(tags.data)
    assert sorted(data["chips"]) == sorted(data["pairs"]["id"]) and about["chips"] == 12
    for chips in data["chips"].values():
        assert len(chips) == 2 and all(chip.startswith("data:image/webp;base64,UklGR") for chip in chips)
    assert len(data["planes"]) == 2 and set(data["views"]) == {"site", "season", "snow fraction"}
    assert all(len(x) == len(y) == 24 for x, y in data["planes"].values())


def test_hostile_names_stay_text(tmp_path):
    rows = [{"id": HOSTILE, "site": HOSTILE, "date": HOSTILE, "snow_fraction": None}] * 3
    words = dict.fromkeys(("title", "answer", "note", "hint", "without"), HOSTILE)
    chips = {HOSTILE: ["data:image/webp;base64,AA=="] * 2}
    embedding_page.write(tmp_path / "p.html", rows, {HOSTILE: np.zeros((6, 2))}, chips, words)
    page = (tmp_path / "p.html").read_text()
    tags = Tags(page)
    assert all("onerror" not in attributes for _, attributes in tags.tags)
    assert not [tag for tag, _ in tags.tags if tag == "img"]
    assert json.loads(tags.data)["pairs"]["id"] == [HOSTILE] * 3
    own = page[page.rindex("<script>") :]
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(", own)


def test_season_is_by_month_and_unknown_without_a_date():
    from data_prep.embedding_figures import colours, season

    assert [season(d) for d in ("2021-12-31", "2021-03-01", "", "x")] == ["Dec-Feb", "Mar-May", "", ""]
    rows = [{"site": f"s{k}", "date": "", "snow_fraction": None} for k in range(12)]
    assert len(set(colours(rows, "site")[0])) == 12 and colours(rows, "site")[1] == {}
    assert list(colours(rows, "season")[1]) == ["no date"]
    assert len(colours(rows[:8], "site")[1]) == 8


# ---- runs --------------------------------------------------------------------------------------------------


def test_embeddings_give_the_same_numbers_and_a_stopped_run_goes_on(
    embedded, triplets_folder, checkpoint, tmp_path, capsys, monkeypatch
):
    out, about, _ = embedded
    given = tmp_path / "given.parquet"
    shutil.copy(out / "embeddings.parquet", given)
    assert here("--embeddings", given, "--out", tmp_path / "again") == 0
    again = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert again["retrieval"] == about["retrieval"] and again["gap"] == about["gap"]
    page = (tmp_path / "again" / "projection.html").read_text()
    assert "made from embeddings alone" in page and again["chips"] == 0

    words = (
        "--data",
        triplets_folder,
        "--out",
        tmp_path / "stopped",
        "--model",
        "sar-rgb",
        "--weights",
        checkpoint,
    )
    words += ("--perplexity", 3, "--batch", 5, "--amp", "off", "--workers", 0)
    count, check_stop = [], embed_tsne.check_stop

    def stop_at_second_batch(stop, where):
        count.append(where)
        if count.count("sar-rgb") == 2:
            stop.requested = "SIGTERM"
        check_stop(stop, where)

    monkeypatch.setattr(embed_tsne, "check_stop", stop_at_second_batch)
    assert here(*words) == 75
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped" / "batches").iterdir()}
    assert len(kept) == 1 and not (tmp_path / "stopped" / "embeddings.parquet").exists()
    monkeypatch.setattr(embed_tsne, "check_stop", check_stop)
    assert here(*words) == 0
    second = embedding_files.read(tmp_path / "stopped" / "embeddings.parquet")
    first = embedding_files.read(out / "embeddings.parquet")
    np.testing.assert_array_equal(second["sar"], first["sar"])
    capsys.readouterr()
    assert here(*words) == 0
    assert "already done" in capsys.readouterr().err


def test_backbones_and_statistics_without_masks(triplets_folder, tmp_path, capsys):
    """Masks are not read; random weights are stamped; the radar picture is the one of its scene."""
    import transformers as t

    folder = tmp_path / "triplets"
    shutil.copytree(triplets_folder, folder)
    shutil.rmtree(folder / "mask")
    torch.manual_seed(1)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    t.Dinov2Model(t.Dinov2Config(**small, image_size=70, patch_size=14)).save_pretrained(tmp_path / "net")
    common = ("--data", folder, "--perplexity", 3, "--workers", 0, "--amp", "off")
    words = ("--model", "dinov2", "--weights", tmp_path / "net", "--size", 42, "--dates", "one")
    assert here(*common, *words, "--out", tmp_path / "d") == 0
    about = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert about["pairs"] == about["pairs_measured"] == 6
    table = embedding_files.read(tmp_path / "d" / "embeddings.parquet")
    assert table["rgb"].shape == (6, 64) and len({row["ground"] for row in table["rows"]}) == 6
    assert here(*common, "--model", "statistics", "--out", tmp_path / "s", "--no-floor") == 0
    found = json.loads((tmp_path / "s" / "modality_gap.json").read_text())
    assert "moved" not in found and found["model"]["dimensions"] == len(picture_statistics.NAMES)


def hashes(*sites) -> list[str]:
    return sar_rgb_pairs.seen_sites([{"site": site} for site in sites])


def test_sites_a_checkpoint_has_seen_are_never_judged(capsys):
    """Split anew with another seed, or of another country: what counts is what the checkpoint says."""
    rows = [{"id": f"t{k}", "site": f"s{k % 12:02}", "ground": f"g{k}",
             "split": ("train", "val", "test", "test")[max(0, k % 12 // 2 - 2)]}
            for k in range(48)]  # fmt: skip
    seen = {"seen": hashes(*(f"s{k:02}" for k in range(3, 10)))}  # s08, s09 are of split test now
    places, train, said = embed_tsne.choose_measured(rows, seen, 0)
    judged = {rows[k]["site"] for k, fitted in zip(places, train, strict=True) if not fitted}
    assert judged == {"s00", "s01", "s02", "s10", "s11"} and "5 sites the model has not seen" in said
    assert "seen 2 of 4 sites of split test (s08, s09)" in capsys.readouterr().err
    elsewhere = [{**row, "site": f"other {row['site']}", "split": ""} for row in rows]
    places, train, said = embed_tsne.choose_measured(elsewhere, seen, 0)
    assert len(places) == 48 and train is None and said == "corrections by folds of sites"
    every = {"seen": hashes(*(row["site"] for row in rows))}
    assert "was trained on" in embed_tsne.choose_measured(rows, every, 0)[2]


def test_corrections_are_fitted_on_val_where_it_is_large_enough():
    def rows(of_val: int) -> list[dict]:
        splits = ["train"] * 80 + ["val"] * of_val + ["test"] * 40
        return [{"id": f"t{k}", "site": f"{split}{k % 4}", "ground": f"g{k}", "split": split}
                for k, split in enumerate(splits)]  # fmt: skip

    for of_val, fitted in ((embed_tsne.FITTED, {"val"}), (embed_tsne.FITTED - 1, {"train", "val"})):
        found = rows(of_val)
        seen = {"seen": hashes(*(row["site"] for row in found if row["split"] != "test"))}
        for about in (seen, {"trained_on_these_splits": True}):
            places, train, said = embed_tsne.choose_measured(found, about, 0)
            assert {found[k]["split"] for k in places[train]} == fitted
            assert {found[k]["split"] for k in places[~train]} == {"test"}
            assert said.endswith("fitted on val") == (fitted == {"val"})


def test_a_random_floor_is_no_net_whose_norms_saw_nothing():
    """With statistics of 0 and 1 all rows of a deep random net lie on one point."""
    arguments = {"sar_bands": 2, "rgb_bands": 3, "sar": "unet", "rgb": "resnet18", "width": 8}
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        net, again = (pair_encoders.untrained(arguments, 3) for _ in range(2))
        images = torch.randn(12, 3, 64, 64)
        first, second = net.embed_rgb(images), again.embed_rgb(images)
    assert not net.training and torch.equal(first, second)
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) > 20 and all(norm.running_mean.any() and not norm.training for norm in norms)
    frozen = {**arguments, "sar": "features", "sar_bands": 8}
    with torch.random.fork_rng(devices=[]):
        assert pair_encoders.untrained(frozen, 0).embed_sar(torch.randn(2, 8)).shape == (2, 128)


def test_columns_of_other_types_are_read_or_refused_in_a_sentence(tmp_path):
    import datetime

    days = [datetime.date(2021, 3, 1 + k // 2) for k in range(16)]
    numbers = {"site": [k // 2 % 4 for k in range(16)], "id": [k // 2 for k in range(16)]}
    path = parquet(tmp_path / "a.parquet", date=days, snow_fraction=["0.5", "0.5"] * 8, **numbers)
    row = embedding_files.read(path)["rows"][1]
    assert (row["id"], row["site"], row["date"], row["snow_fraction"]) == ("1", "1", "2021-03-02", 0.5)
    stamps = [datetime.datetime(2021, 3, 1, 10)] * 16
    path = parquet(tmp_path / "b.parquet", date=stamps, snow_fraction=[np.nan, np.nan] * 8)
    row = embedding_files.read(path)["rows"][0]
    assert row["date"] == "2021-03-01" and row["snow_fraction"] is None
    for changes in ({"snow_fraction": ["much"] * 16}, {"site": [["a"]] * 16}, {"date": [{"y": 1}] * 16}):
        with pytest.raises(runs.BadInput, match=f"column {next(iter(changes))} holds .*cannot be read as"):
            embedding_files.read(parquet(tmp_path / "c.parquet", **changes))


def test_long_names_stay_apart_in_a_legend():
    from data_prep.embedding_figures import short

    names = [short(f"sierra_nevada_{k:02}") for k in range(8)]
    assert len(set(names)) == 8 and all(len(name) == 14 for name in names) and short("alps") == "alps"


def test_an_id_that_is_a_word_of_javascript_has_no_chips(tmp_path):
    rows = [{"id": "constructor", "site": "a", "date": "", "snow_fraction": None}] * 3
    words = dict.fromkeys(("title", "answer", "note", "hint", "without"), "x")
    embedding_page.write(tmp_path / "p.html", rows, {"PCA": np.zeros((6, 2))}, {}, words)
    page = (tmp_path / "p.html").read_text()
    own = page[page.rindex("<script>") :]
    assert all(use.endswith("Object.hasOwn(data.chips, pairs.id[k]) ? data.chips")
               for use in re.findall(r"[^;]*data\.chips(?=\[)", own))  # fmt: skip


def test_the_legend_of_snow_has_the_colours_of_the_points(tmp_path):
    rows = [{"id": str(snow), "site": "a", "date": "", "snow_fraction": snow} for snow in (0.0, 0.5, 1.0)]
    words = dict.fromkeys(("title", "answer", "note", "hint", "without"), "x")
    embedding_page.write(tmp_path / "p.html", rows, {"PCA": np.zeros((6, 2))}, {}, words)
    view = embedding_page.read(tmp_path / "p.html")["views"]["snow fraction"]
    assert [view["key"][name] for name in ("0 %", "50 %", "100 %")] == view["colours"]
    assert len(set(view["colours"])) == 3


def test_trained_models_are_judged_on_test_alone():
    rows = [{"id": f"t{k}", "site": f"s{k // 2}", "ground": f"g{k // 2 if k < 4 else k}",
             "split": ("train", "val", "test")[k % 3 if k > 3 else 0]} for k in range(24)]  # fmt: skip
    places, train, said = embed_tsne.choose_measured(rows, {"trained_on_these_splits": True}, 0)
    assert len(places) == 22 and "judged on split test" in said
    assert [rows[k]["split"] != "test" for k in places] == train.tolist()
    places, train, said = embed_tsne.choose_measured(rows, {"trained_on_these_splits": False}, 0)
    assert len(places) == 22 and train is None
    for row in rows:
        row["split"] = "train"
    assert "was trained on" in embed_tsne.choose_measured(rows, {"trained_on_these_splits": True}, 0)[2]


# ---- refusals ----------------------------------------------------------------------------------------------


def parquet(path, count: int = 8, sites: int = 4, **changes):
    """A file of somebody else's: no date, no split, lists of doubles."""
    random = np.random.default_rng(0)
    columns = {
        "id": [f"t{k // 2}" for k in range(2 * count)],
        "site": [f"s{k // 2 % sites}" for k in range(2 * count)],
        "modality": ["sar", "rgb"] * count, "vector": list(random.normal(size=(2 * count, 4))),
    }  # fmt: skip
    for name, change in changes.items():
        change(columns) if callable(change) else columns.update({name: change})
    pq.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), path)
    return path


def with_nan(columns):
    columns["vector"][3] = np.array([1, np.nan, 0, 0])


def uneven(columns):
    columns["vector"][3] = np.ones(3)


def test_files_of_others_are_read_and_bad_ones_refused(tmp_path, refuse_here, monkeypatch):
    good = parquet(tmp_path / "good.parquet")
    assert here("--embeddings", good, "--out", tmp_path / "good", "--perplexity", 4) == 0
    table = embedding_files.read(good)
    assert table["rows"][0]["ground"] == "t0" and table["sar"].dtype == np.float32
    cases = [
        (parquet(tmp_path / "a.parquet", 2, 2), "2 pairs of 2 sites"),
        (parquet(tmp_path / "b.parquet", sites=1), "1 sites"),
        (parquet(tmp_path / "c.parquet", modality=["rgb"] * 16), "no embeddings of modality 'sar'"),
        (parquet(tmp_path / "d.parquet", modality=["rgb"] * 3 + ["sar", "rgb"] * 6 + ["sar"]), "twice"),
        (parquet(tmp_path / "e.parquet", nan=with_nan), "1 embeddings or more hold NaN"),
        (parquet(tmp_path / "f.parquet", uneven=uneven), "unequal length"),
        (parquet(tmp_path / "g.parquet", site=None), "column site is missing"),
        (parquet(tmp_path / "i.parquet", vector=["x"] * 16), "expected lists"),
    ]  # fmt: skip
    (tmp_path / "h.parquet").write_bytes(b"PAR1 nothing")
    cases += [(tmp_path / "h.parquet", "not a readable Parquet file")]
    cases += [(tmp_path / "none.parquet", "no such file")]
    for path, saying in cases:
        refuse_here("--embeddings", path, "--out", tmp_path / "out", "--perplexity", 1, saying=saying)
    monkeypatch.setattr(gap, "measure", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert here("--embeddings", good, "--out", tmp_path / "cut", "--perplexity", 4) == 75
    monkeypatch.undo()
    refuse_here(
        "--embeddings",
        good,
        "--out",
        tmp_path / "out",
        "--perplexity",
        30,
        saying="4.67 is the largest possible",
    )
    refuse_here("--embeddings", good, "--out", tmp_path / "out", "--model", "clip", saying="no --model")
    for flag, value in (
        ("--split", "test"),
        ("--dates", "one"),
        ("--sample", 4),
        ("--compose", "vh"),
        ("--limit", 4),
    ):
        words = ("--embeddings", good, "--out", tmp_path / "out", flag, value)
        refuse_here(*words, saying=f"--embeddings takes no {flag}")
    words = ("--embeddings", good, "--out", tmp_path / "out", "--no-floor")
    refuse_here(*words, saying="--embeddings takes no --no-floor")
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_sentence(triplets_folder, checkpoint, trained, tmp_path, refuse_here):
    data, out = ("--data", triplets_folder), ("--out", tmp_path / "out", "--perplexity", 2, "--workers", 0)
    refuse_here(*out, saying="either --data")
    refuse_here(*data, *out, saying="--model is missing")
    refuse_here(*data, *out, "--model", "sar-rgb", saying="needs --weights")
    model = ("--model", "sar-rgb", "--weights")
    refuse_here(*data, *out, *model, tmp_path / "none.pt", saying="no such file")
    refuse_here(*data, *out, *model, trained / "best.pt", saying="'sar-rgb'")
    refuse_here(*data, *out, "--model", "dinov2", "--weights", tmp_path, saying="--model dinov2")
    plain = ("--model", "statistics")
    refuse_here(*data, *out, *plain, "--limit", 2, saying="2 pairs of")
    refuse_here(
        *data, "--out", tmp_path / "out", *plain, "--perplexity", 30, saying="7.33 is the largest possible"
    )
    folder = tmp_path / "triplets"
    shutil.copytree(triplets_folder, folder)
    manifest = (folder / "triplets.csv").read_text()
    (folder / "triplets.csv").write_text(re.sub(r"rgb/[^,]*", "", manifest))
    refuse_here("--data", folder, *out, *plain, saying="has no RGB picture")
    (folder / "triplets.csv").write_text(re.sub(r",(train|val|test)\n", ",train\n", manifest))
    refuse_here("--data", folder, *out, *plain, "--split", "test", saying="split 'test' is empty")
    assert not (tmp_path / "out").exists()


def test_lacking_extras_are_named_before_work(triplets_folder, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('plotly', 'pyarrow') else find(name, *a)\n"
    )
    words = ("--data", triplets_folder, "--out", tmp_path / "out", "--model", "statistics")
    saying = "python -m pip install -r requirements-extra.txt"
    refuse(JOB, *words, saying=saying, env={"PYTHONPATH": str(tmp_path)})


def test_models_are_those_of_the_encoders():
    assert embed_tsne.MODELS == pair_encoders.MODELS and set(gap_tables.WAYS) < set(gap.measure(
        *np.random.default_rng(0).normal(size=(2, 8, 4)), list("aabbccdd"))["raw"])  # fmt: skip
