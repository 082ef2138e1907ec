"""Exports: snow cover as NetCDF by the CF conventions, the U-Net as ONNX, maps with a style in QGIS."""

import csv
import datetime
import json
import shutil
import subprocess
import warnings
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
import pytest
import rasterio
import torch
from conftest import grid, refuse, result, run

import export_onnx
from data_prep import cover, predictions, qgis_style, rasters
from models import training
from models.unet import UNet

# ---- NetCDF ------------------------------------------------------------------------------------------------

PLACES = {"alp": (46.9, 10.3), "berg": (-43.5, 170.1)}
DATES = ("2020-12-30", "2021-01-11", "2021-02-03")


@pytest.fixture(scope="module")
def covers(tmp_path_factory):
    """A folder of snow cover with gaps, a day without a valid pixel, a blank orbit; and of the two sites."""
    base = tmp_path_factory.mktemp("covers")
    whole, bands = [], []
    for site, source, orbit, dates in (
        ("alp", "unet", "066", DATES), ("alp", "optical", "066", DATES[:2]),
        ("berg", "schätzung", "", DATES[1:]),
    ):  # fmt: skip
        for number, date in enumerate(dates):
            key = dict(zip(cover.KEY, (site, date, source, orbit), strict=True))
            valid = 0 if date == DATES[2] and site == "alp" else 3_000_000_000 if site == "berg" else 900
            whole.append(cover.row(key, valid, valid // (number + 2), 1e-4))
            if site == "alp":
                total = {None: (valid, 0), 1000: (valid, valid // 3), 750: (number, number // 2)}
                bands += cover.rows(key, total, 1e-4, 250)[1]
    cover.write(base, whole, bands)
    for site, (latitude, longitude) in PLACES.items():
        (base / "scenes" / site).mkdir(parents=True)
        about = {
            "site": site,
            "latitude": latitude,
            "longitude": longitude,
            "source": "Höhe",
            "licence": "MIT",
        }
        (base / "scenes" / site / "site.json").write_text(json.dumps(about), encoding="utf-8")
    lines = [f"{site},{place[0]},{place[1]},1000,2020-01-01,2021-12-31" for site, place in PLACES.items()]
    head = "site,latitude,longitude,half_width_m,start,end"
    (base / "sites.csv").write_text("\n".join([head, *lines]) + "\n")
    return base


@pytest.fixture(scope="module")
def written(covers, tmp_path_factory):
    out = tmp_path_factory.mktemp("netcdf") / "out"
    done = run("export_cover", "--data", covers, "--sites", covers / "scenes", "--out", out)
    assert result(done)["files"]["snow_cover.nc"] == {"series": 3, "days": 3}
    return out


def cf_errors(path: Path, report: Path) -> str:
    """What IOOS's checker, strict, has against a file; empty where nothing."""
    from compliance_checker.runner import CheckSuite, ComplianceChecker

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of checkers that are not asked
        CheckSuite.load_all_available_checkers()
    fine, _ = ComplianceChecker.run_checker(
        str(path), ["cf:1.11"], 0, "strict", output_filename=str(report), output_format="text"
    )
    return "" if fine else report.read_text(encoding="utf-8")


def texts(variable) -> list[str]:
    return [str(text).strip() for text in variable[:]]


@pytest.mark.parametrize("name", ["snow_cover", "snow_cover_by_elevation"])
def test_netcdf_holds_every_row_and_nothing_else(covers, written, name):
    import netCDF4

    with open(covers / f"{name}.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with netCDF4.Dataset(written / f"{name}.nc") as file:
        keys = zip(*(texts(file[key]) for key in ("site", "source", "relative_orbit")), strict=True)
        keys = list(keys)
        if "elevation" in name:
            keys = [
                (*key, *map(str, map(int, b))) for key, b in zip(keys, file["elevation_bounds"], strict=True)
            ]
        days = [str(datetime.date(1970, 1, 1) + datetime.timedelta(int(day))) for day in file["time"][:]]
        assert days == sorted({row["date"] for row in rows}) and len(set(texts(file["series_id"]))) == len(
            keys
        )
        for key, latitude, longitude in zip(keys, file["latitude"], file["longitude"], strict=True):
            assert (latitude, longitude) == PLACES[key[0]]
        parts = ("site", "source", "relative_orbit", *(cover.BAND if "elevation" in name else ()))
        for variable, column in (
            ("snow_fraction", "snow_fraction"), ("snow_area", "snow_area_km2"),
            ("valid_pixels", "valid_pixels"), ("snow_pixels", "snow_pixels"),
        ):  # fmt: skip
            values, expected = file[variable][:].astype(float).filled(np.nan), {}
            for row in rows:
                place = keys.index(tuple(row[part] for part in parts)), days.index(row["date"])
                expected[place] = float(row[column] or "nan")
            for place in np.ndindex(values.shape):
                assert np.array_equal(values[place], expected.get(place, np.nan), equal_nan=True), (
                    variable,
                    place,
                )


def test_netcdf_passes_the_cf_checker_and_a_spoiled_one_does_not(written, tmp_path):
    import netCDF4

    for name in ("snow_cover", "snow_cover_by_elevation"):
        assert cf_errors(written / f"{name}.nc", tmp_path / "report.txt") == ""
    shutil.copy(written / "snow_cover.nc", tmp_path / "spoiled.nc")
    with netCDF4.Dataset(tmp_path / "spoiled.nc", "a") as file:
        assert file.featureType == "timeSeries" and file.license == "MIT" and "scenes: Höhe" in file.source
        assert file["snow_fraction"].standard_name == "surface_snow_area_fraction"
        file["snow_fraction"].standard_name = "snow_in_percent"
    assert "snow_in_percent" in cf_errors(tmp_path / "spoiled.nc", tmp_path / "report.txt")


def test_a_table_of_sites_gives_the_same_places(covers, written, tmp_path):
    import netCDF4

    words = ("--data", covers, "--sites", covers / "sites.csv", "--out", tmp_path / "out")
    run("export_cover", *words)
    assert "already done" in run("export_cover", *words).stderr
    with (
        netCDF4.Dataset(tmp_path / "out" / "snow_cover.nc") as mine,
        netCDF4.Dataset(written / "snow_cover.nc") as b,
    ):
        assert np.array_equal(mine["latitude"][:], b["latitude"][:]) and mine.license == "not stated"


def test_netcdf_refuses_what_it_cannot_place(covers, tmp_path):
    def no(data, sites, saying):
        refuse("export_cover", "--data", data, "--sites", sites, "--out", tmp_path / "out", saying=saying)

    no(tmp_path, covers / "scenes", "snow_cover.csv: no such file")
    no(covers, tmp_path / "nowhere", "no such file or folder; --sites names")
    (tmp_path / "sites.csv").write_text((covers / "sites.csv").read_text().replace("berg", "burg"))
    no(covers, tmp_path / "sites.csv", "site 'berg' is not among the 2 of --sites")
    text = (covers / "snow_cover.csv").read_text(encoding="utf-8")
    (tmp_path / "snow_cover.csv").write_text(text.replace(DATES[0], "30.12.2020"), encoding="utf-8")
    no(tmp_path, covers / "scenes", "date '30.12.2020', expected YYYY-MM-DD")
    assert not (tmp_path / "out").exists()


# ---- ONNX --------------------------------------------------------------------------------------------------


def write_checkpoint(path: Path, norm: str = "batch", bands=("vv", "vh-vv"), **arguments) -> Path:
    """A net of random weights, its norms' statistics those of noise, as train_unet.py writes it."""
    torch.manual_seed(1)
    net = UNet(len(bands), norm=norm, **arguments)
    for parameter in net.parameters():
        if parameter.ndim == 1:  # scales and shifts of the norms
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    for _ in range(30):
        net(torch.randn(2, len(bands), 64, 64))
    mean, std = [-11.0, -6.0, 1500.0][: len(bands)], [4.0, 2.0, 600.0][: len(bands)]
    contract = {
        "bands": list(bands),
        "units": "dB",
        "backscatter": "gamma0",
        "mean": mean,
        "std": std,
        "tile": 64,
    }
    state = training.checkpoint(net, contract, "wet", 0.37, weights=net.state_dict())
    torch.save(state, path)
    return path


def test_onnx_equals_torch_and_says_what_to_feed_it(tmp_path):
    import onnx
    import onnxruntime

    weights, out = write_checkpoint(tmp_path / "best.pt", width=4, depth=2), tmp_path / "out"
    words = ("--weights", weights, "--out", out)
    done = run("export_onnx.py", *words)
    found = result(done)
    assert 0 < found["max_absolute_difference"] <= 1e-4 and len(found["parity"]) == 6
    assert {tuple(row["shape"][2:]) for row in found["parity"]} >= {(64, 64), (101, 143), (1, 3)}
    model, about = onnx.load(out / "unet.onnx"), json.loads((out / "unet.json").read_text())
    assert {p.key: json.loads(p.value) for p in model.metadata_props} == about
    assert about["bands"] == ["vv", "vh-vv"] and about["planes"]["vh-vv"] == ["VH", "VV"]
    assert (about["target"], about["threshold"], about["backscatter"]) == ("wet", 0.37, "gamma0")
    assert about["mean"] == [-11.0, -6.0] and about["padded_inside_to_multiples_of"] == 4
    assert [(o.domain, o.version) for o in model.opset_import] == [("", about["opset"])]
    content = (out / "unet.onnx").read_bytes()
    assert str(export_onnx.__file__).encode() not in content and b".py" not in content
    assert "already done" in run("export_onnx.py", *words).stderr

    state = training.load_checkpoint(weights)
    net = training.build_net(state, weights)
    image = torch.randn(3, 2, 37, 50, generator=torch.Generator().manual_seed(5)) * 5 - 9
    image[1, 0, :3, :9] = torch.nan
    session = onnxruntime.InferenceSession(content)
    probability = session.run(None, {"image": image.numpy()})[0]
    z = (image.double() - torch.tensor([[[-11.0]], [[-6.0]]])) / torch.tensor([[[4.0]], [[2.0]]])
    with torch.no_grad():
        expected = torch.sigmoid(net.double()(torch.nan_to_num(z)))[:, 0].numpy()
    assert np.isnan(probability).sum() == 27 and np.isnan(probability[1, :3, :9]).all()
    assert np.nanmax(np.abs(probability - expected)) < 1e-5 and np.ptp(expected) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(("width", "depth", "bands"), [(16, 4, ("vv",)), (6, 3, ("vv", "vh", "elevation"))])
def test_onnx_of_any_net(tmp_path, norm, width, depth, bands):
    weights = write_checkpoint(tmp_path / "best.pt", norm, bands, width=width, depth=depth)
    words = ("export_onnx.py", "--weights", weights, "--out")
    found = result(run(*words, tmp_path / "out"))
    assert found["max_absolute_difference"] <= 1e-4
    run(*words, tmp_path / "elsewhere")
    files = [(tmp_path / name / "unet.onnx").read_bytes() for name in ("out", "elsewhere")]
    assert files[0] == files[1]
    about = json.loads((tmp_path / "out" / "unet.json").read_text())
    assert about["tiles_equal_the_whole"] == (norm == "batch")


def test_a_difference_is_seen():
    image = np.zeros((1, 2, 2, 2), np.float32)
    image[0, 1, 0, 0] = np.nan
    good = np.array([[[np.nan, 0.2], [0.4, 0.6]]], np.float32)
    assert export_onnx.largest_difference(image, good, good) == 0
    assert export_onnx.largest_difference(image, good, good + np.float32(0.01)) == pytest.approx(
        0.01, rel=1e-4
    )
    filled, emptied = np.nan_to_num(good), np.where(good == good[0, 1, 1], np.nan, good)
    for pair in ((good, filled), (filled, good), (filled, filled), (good, emptied), (emptied, emptied)):
        assert export_onnx.largest_difference(image, *pair) == float("inf")


@pytest.mark.slow
def test_onnx_that_differs_is_not_kept(tmp_path):
    weights = write_checkpoint(tmp_path / "best.pt", width=4, depth=2)
    state = torch.load(weights, weights_only=True)
    state["weights"]["head.bias"].fill_(float("nan"))
    torch.save(state, weights)
    done = run("export_onnx.py", "--weights", weights, "--out", tmp_path / "out", code=1)
    assert "differs from torch" in done.stderr and "Traceback" not in done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"args.json"}


def test_onnx_refuses_what_is_no_checkpoint(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"none")
    refuse(
        "export_onnx.py",
        "--weights",
        tmp_path / "a.pt",
        "--out",
        tmp_path / "out",
        saying="a.pt: holds more than tensors",
    )
    words = ("--weights", tmp_path / "b.pt", "--out", tmp_path / "out")
    refuse("export_onnx.py", *words, saying="b.pt: no such file")
    write_checkpoint(tmp_path / "b.pt", bands=("vv", "snowiness"), width=4, depth=1)
    refuse("export_onnx.py", *words, saying="unknown snowiness")
    write_checkpoint(tmp_path / "b.pt", width=4, depth=1)
    assert (
        "would write" in run("export_onnx.py", *words, "--dry-run").stderr and not (tmp_path / "out").exists()
    )


# ---- QGIS --------------------------------------------------------------------------------------------------

SNOW, BARE = "#56b4e9", "#785e3c"
QGIS_PYTHON = "/usr/bin/python3"  # the one that Debian's python3-qgis is for
IN_QGIS = """
import json, os, sys
from qgis.core import QgsApplication, QgsMapRendererSequentialJob, QgsMapSettings, QgsRasterLayer
from qgis.PyQt.QtCore import QSize
app = QgsApplication([], False)
app.initQgis()
found = {}
for name in ("mask", "probability"):
    layer = QgsRasterLayer(f"{name}.tif", name)
    about = {"valid": layer.isValid(), "without": layer.renderer().type()}
    about["said"], about["loaded"] = layer.loadNamedStyle(f"snow_{name}.qml")
    renderer = layer.renderer()
    about["with"] = renderer.type()
    if name == "mask":
        about["legend"] = [[c.value, c.label, c.color.name(), c.color.alpha()] for c in renderer.classes()]
    else:
        items = renderer.shader().rasterShaderFunction().colorRampItemList()
        about["legend"] = [[item.value, item.color.name()] for item in items]
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setExtent(layer.extent())
    settings.setDestinationCrs(layer.crs())
    settings.setOutputSize(QSize(64, 64))
    settings.setBackgroundColor(settings.backgroundColor().fromRgb(255, 255, 255))
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    image = job.renderedImage()
    about["pixels"] = [image.pixelColor(x, 32).name() for x in (8, 32, 56)]
    found[name] = about
print(json.dumps(found), flush=True)
os._exit(0)  # QGIS of Debian 12 ends with a fault while it tidies up
"""


@pytest.fixture
def styled(tmp_path):
    """A mask of a third each of snow-free, snow, no data, the probability of it, and the styles."""
    where, columns = grid(64, 64), np.arange(64) * 3 // 64
    mask = np.broadcast_to(np.array([0, 1, 255], np.uint8)[columns], (64, 64))
    probability = np.broadcast_to(np.array([0.0, 0.5, np.nan])[columns], (64, 64))
    with rasters.cog_writer(tmp_path / "mask.tif", where, "uint8", 255, "snow", "nearest") as target:
        target.write(mask, 1)
    scale = rasters.PROBABILITY_SCALE
    with rasters.cog_writer(
        tmp_path / "probability.tif", where, "uint8", 255, "snow_probability", "average", scale
    ) as target:
        target.write(predictions.probability_bytes(probability), 1)
    qgis_style.write(tmp_path)
    return tmp_path


def test_a_mask_carries_its_colours_and_a_probability_none(styled):
    with rasterio.open(styled / "mask.tif") as source:
        colours = source.colormap(1)
        assert (
            source.colorinterp[0].name == "palette" and source.nodata == 255 and source.dtypes == ("uint8",)
        )
        assert source.read(1)[0, [0, 32, 63]].tolist() == [0, 1, 255]
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert [qgis_style.as_hex(colours[value][:3]) for value in (0, 1)] == [BARE, SNOW]
    assert colours[0][3] == colours[1][3] == 255 and colours[255][3] == 0
    with rasterio.open(styled / "probability.tif") as source:
        assert source.colorinterp[0].name == "gray" and source.scales == (0.004,)


def test_styles_are_written_as_qgis_writes_them(styled):
    renderer = Xml.parse(styled / "snow_mask.qml").find("./pipe/rasterrenderer")
    assert (renderer.get("type"), renderer.get("band")) == ("paletted", "1")
    entries = [
        (e.get("value"), e.get("label"), e.get("alpha"))
        for e in renderer.findall("colorPalette/paletteEntry")
    ]
    assert entries == [("0", "snow-free", "255"), ("1", "snow", "255"), ("255", "no data", "0")]
    renderer = Xml.parse(styled / "snow_probability.qml").find("./pipe/rasterrenderer")
    assert renderer.get("type") == "singlebandpseudocolor"
    ramp = renderer.find("rastershader/colorrampshader")
    assert ramp.get("colorRampType") == "INTERPOLATED"
    assert [float(item.get("value")) for item in ramp.findall("item")] == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.slow
def test_qgis_itself_opens_the_maps_and_loads_the_styles(styled):
    try:
        subprocess.run([QGIS_PYTHON, "-c", "import qgis.core"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(
            f"{QGIS_PYTHON} has no PyQGIS (apt-get install python3-qgis): that QGIS loads the styles was not "
            "checked, only that they hold the elements QGIS writes"
        )
    environment = {"QT_QPA_PLATFORM": "offscreen", "HOME": str(styled), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [QGIS_PYTHON, "-c", IN_QGIS], cwd=styled, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    mask, probability = found["mask"], found["probability"]
    assert all(about["valid"] and about["loaded"] and not about["said"] for about in (mask, probability))
    assert (mask["without"], mask["with"]) == ("paletted", "paletted")
    assert mask["legend"] == [
        [0, "snow-free", BARE, 255],
        [1, "snow", SNOW, 255],
        [255, "no data", "#000000", 0],
    ]
    assert mask["pixels"] == [BARE, SNOW, "#ffffff"]
    assert probability["with"] == "singlebandpseudocolor" and len(probability["legend"]) == 5
    assert probability["pixels"] == ["#00224e", "#7d7c78", "#ffffff"]
