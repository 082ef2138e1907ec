"""Questions to web servers on loopback: redirects, tokens, keys, signatures, byte ranges; grids of sites."""

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import ROOT
from rasterio.crs import CRS
from rasterio.shutil import copy
from rasterio.transform import from_origin
from rasterio.windows import Window

from data_prep import catalogs, rasters, remote, remote_file, remote_pixels, sites
from data_prep.runs import BadInput

CONTENT = bytes(range(256)) * 400


class Web(BaseHTTPRequestHandler):
    """files: path -> bytes; moved: path -> address; valid: signatures that open /signed/, None for any."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, parts = self.server, urllib.parse.urlsplit(self.path)
        host, wanted = self.headers["Host"].split(":")[0], self.headers.get("Range", "")
        said = self.headers.get("Authorization") or self.headers.get("Ocp-Apim-Subscription-Key")
        server.seen.append((host, parts.path, said, wanted))
        if parts.path in server.moved:
            return self.answer(302, b"on", Location=server.moved[parts.path])
        if parts.path == "/sign":
            return self.answer(200, self.sign(urllib.parse.parse_qs(parts.query)["href"][0]))
        if parts.path.startswith("/signed"):
            name = urllib.parse.parse_qs(parts.query).get("sig", [""])[0]
            if name not in server.valid:
                return self.answer(403, b"expired")
        if parts.path == "/login":
            return self.answer(200, b"<html>", **{"Content-Type": "text/html; charset=utf-8"})
        content = server.files.get(parts.path, CONTENT)
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        last = min(last, len(content) - 1)
        whole = f"bytes {first}-{last}/{len(content)}"
        self.answer(206, content[first : last + 1], **{"Content-Range": whole, "ETag": '"e"'})

    def sign(self, href: str) -> bytes:
        time.sleep(self.server.sign_s)
        name = f"s{sum(path == '/sign' for _, path, *_ in self.server.seen)}"
        self.server.valid.add(name)
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.server.lasts_s))
        return json.dumps({"href": f"{href}?{self.server.kind}&sig={name}", "msft:expiry": ends}).encode()

    def answer(self, status: int, body: bytes, **headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def web(address: str = "127.0.0.1", **switches):
    with ThreadingHTTPServer((address, 0), Web) as server:
        server.files, server.moved, server.valid, server.seen = {}, {}, set(), []
        server.kind, server.lasts_s, server.sign_s = "sr=c", 3600, 0.0
        vars(server).update(switches)
        server.daemon_threads, server.at = True, f"http://{address}:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def bearer(*hosts: str) -> dict:
    return {"signing": "bearer", "token_env": "A_TOKEN", "token_hosts": list(hosts)}


def signed(server) -> dict:
    return {"signing": "planetary-computer", "signing_url": f"{server.at}/sign"}


def opened(url: str, section: dict, retries: int = 0, connection=None) -> remote_file.RemoteFile:
    return remote_file.RemoteFile(connection or remote.Connection(retries, 0.01), url, section)


# ---- redirects, tokens and keys ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "said"),
    [(("localhost", "127.0.0.1"), ["Bearer t", "Bearer t"]), (("localhost",), ["Bearer t", None])],
)
def test_a_redirect_shows_the_token_to_named_hosts_only(monkeypatch, hosts, said):
    monkeypatch.setenv("A_TOKEN", "t")
    with web() as server:
        server.moved["/a"] = f"{server.at}/b"
        file = opened(f"http://localhost:{server.server_port}/a", bearer(*hosts))
        assert file.fetch(10, 20) == CONTENT[10:20]
    assert [(host, token) for host, _, token, _ in server.seen] == list(
        zip(("localhost", "127.0.0.1"), said, strict=True)
    )


def test_redirects_end():
    with web(moved={"/a": "/a", "/out": "http://data.example/a"}) as server:
        with pytest.raises(remote.ServiceFailure, match="answered 302"):
            opened(f"{server.at}/a", {"signing": "none"}).fetch(0, 9)
        assert len(server.seen) == 1 + remote.REDIRECTS
        with pytest.raises(remote.ServiceFailure, match="sends on to an address without encryption"):
            opened(f"{server.at}/out", {"signing": "none"}).fetch(0, 9)


def test_token_goes_to_named_hosts_only_and_encrypted(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "t")
    signature = remote.Signature(remote.Connection(), "https://data.example/a", bearer("data.example"))
    assert signature.headers("https://data.example/a") == {"Authorization": "Bearer t"}
    for url in ("https://data.example.evil/a", "https://evil/data.example"):
        assert signature.headers(url) == {}
    with pytest.raises(BadInput, match="not sent without encryption"):
        signature.headers("http://data.example/a")
    monkeypatch.delenv("A_TOKEN")
    with pytest.raises(BadInput, match="set A_TOKEN"):
        signature.headers("https://data.example/a")


def test_a_login_page_is_no_file():
    with web() as server, pytest.raises(remote.ServiceFailure, match="sent a web page for a file, a login"):
        opened(f"{server.at}/login", {"signing": "none"}).fetch(0, 9)


@pytest.mark.parametrize(("address", "key"), [("127.0.0.1", "k"), ("127.0.0.2", None)])
def test_key_goes_to_the_signing_host_alone(monkeypatch, address, key):
    """127.0.0.2 stands for any other host that a catalogue may name."""
    monkeypatch.setenv(catalogs.KEY, "k")
    with web(address) as server:
        opened(f"{server.at}/signed/a.tif", signed(server)).fetch(0, 9)
    assert [(path, said) for _, path, said, _ in server.seen] == [("/sign", key), ("/signed/a.tif", None)]
    assert catalogs.key_may_go("https://planetarycomputer.microsoft.com/api/sas/v1/sign")
    for url in ("http://planetarycomputer.microsoft.com/", "https://planetarycomputer.microsoft.com.evil/"):
        assert not catalogs.key_may_go(url)


BASE = """url = "https://h/"
signing = "{signing}"
signing_url = "{signing_url}"
token_env = "{token_env}"
token_hosts = {token_hosts}
[s1]
collection = "a"
assets = {{ VV = "v", VH = "h" }}
units = "linear"
backscatter = "sigma0"
[s2]
collection = "b"
assets = {{ B02 = "a", B03 = "a", B04 = "a", B08 = "a", B11 = "a" }}
"""
RIGHT = {
    "signing": "bearer", "token_env": "MY_TOKEN", "token_hosts": '["data.example"]', "signing_url": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "saying"),
    [
        ({"token_env": "AWS_SECRET_ACCESS_KEY"}, "expected a name that ends in _TOKEN"),
        ({"token_hosts": '"data.example"'}, "a list of host names"),
        ({"token_hosts": '["https://data.example/"]'}, "a list of host names"),
        ({"signing": "planetary-computer", "signing_url": "http://h/sign"}, "the https address signing_url"),
    ],
)
def test_a_catalogue_cannot_ask_for_any_secret(tmp_path, changes, saying):
    (tmp_path / "c.toml").write_text(BASE.format(**{**RIGHT, **changes}))
    with pytest.raises(BadInput, match=saying):
        catalogs.read_catalog(str(tmp_path / "c.toml"))


def test_a_catalogue_says_which_secret_goes_where(tmp_path, monkeypatch, capsys):
    (tmp_path / "c.toml").write_text(BASE.format(**RIGHT))
    monkeypatch.delenv("MY_TOKEN", raising=False)
    catalogs.read_catalog(str(tmp_path / "c.toml"))
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("MY_TOKEN", "the-secret")
    catalogs.read_catalog(str(tmp_path / "c.toml"))
    said = capsys.readouterr().err
    assert "MY_TOKEN is set and goes to data.example, to no other host" in said and "the-secret" not in said


def test_address_is_shown_without_secrets():
    assert remote.without_query("https://u:p@h:1/a/b.tif?sig=x#y") == "https://h:1/a/b.tif"


# ---- signatures --------------------------------------------------------------------------------------------


def signings(server) -> int:
    return sum(path == "/sign" for _, path, *_ in server.seen)


@pytest.mark.parametrize(("kind", "asked"), [("sr=c", 2), ("sr=b", 9)])
def test_one_signature_for_a_container(kind, asked):
    """Eight files of one container at once and one of another; sr=b signs one file only."""
    with web(kind=kind, sign_s=0.05) as server:
        names = [f"signed/{number}.tif" for number in range(8)] + ["signed2/0.tif"]
        connection = remote.Connection(0, 0.01)
        files = [opened(f"{server.at}/{name}", signed(server), connection=connection) for name in names]
        with ThreadPoolExecutor(9) as pool:
            assert set(pool.map(lambda file: file.fetch(0, 9), files)) == {CONTENT[:9]}
    assert signings(server) == asked


@pytest.mark.parametrize("kind", ["sr=c", "sr=b"])
def test_a_refused_signature_is_renewed_without_retries_left(kind):
    with web(kind=kind) as server:
        connection = remote.Connection(0, 0.01)
        files = [opened(f"{server.at}/signed/{n}.tif", signed(server), connection=connection) for n in (1, 2)]
        for file in files:
            file.fetch(0, 9)
        before = signings(server)
        server.valid.clear()
        for file in files:
            assert file.fetch(0, 9) == CONTENT[:9]
    assert signings(server) - before == (1 if kind == "sr=c" else 2)


def test_a_signature_that_ends_is_renewed_and_a_useless_one_given_up():
    with web(lasts_s=remote.RENEW_S - 5) as server:
        file = opened(f"{server.at}/signed/1.tif", signed(server))
        file.fetch(0, 9), file.fetch(0, 9)
        assert signings(server) == 2
    with web() as server:
        server.valid = type("Never", (set,), {"add": lambda *_: None})()
        with pytest.raises(remote.ServiceFailure, match="answered 403"):
            opened(f"{server.at}/signed/1.tif", signed(server)).fetch(0, 9)
        assert signings(server) == 1 + remote.RESIGNED


# ---- what is moved -----------------------------------------------------------------------------------------


def cog(path: Path, values: np.ndarray, pixel_m: float, block: int, row: int, col: int, side: int) -> None:
    """`values` in an otherwise empty scene of side x side pixels, sparse, with overviews."""
    where = {"crs": CRS.from_epsg(32632), "transform": from_origin(600000, 5300040, pixel_m, pixel_m)}
    layout = {"tiled": True, "blockxsize": block, "blockysize": block, "sparse_ok": True, "nodata": 0}
    draft = path.with_name("draft.tif")
    with rasterio.open(
        draft, "w", driver="GTiff", height=side, width=side, count=1, dtype=values.dtype.name,
        **layout, **where,
    ) as target:  # fmt: skip
        target.write(values, 1, window=Window(col, row, *values.shape[::-1]))
    copy(draft, path, driver="COG", compress="deflate", level=1, blocksize=block,
         overview_resampling="nearest")  # fmt: skip
    draft.unlink()


def blocks_of(path: Path, row: int, col: int, side: int) -> dict[int, int]:
    """start -> size in the file of the blocks that a square window touches."""
    with rasterio.open(path) as source:
        block = source.block_shapes[0][0]
        places = [(x, y) for x in range(col // block, (col + side - 1) // block + 1)
                  for y in range(row // block, (row + side - 1) // block + 1)]  # fmt: skip
        names = [[f"BLOCK_{what}_{x}_{y}" for what in ("OFFSET", "SIZE")] for x, y in places]
        of = [[int(source.get_tag_item(name, "TIFF", bidx=1)) for name in both] for both in names]
    return dict(of)


def square(pixel_m: float, row: int, col: int, side: int) -> rasters.Grid:
    corner = from_origin(600000 + pixel_m * col, 5300040 - pixel_m * row, pixel_m, pixel_m)
    return rasters.Grid(CRS.from_epsg(32632), corner, side, side)


def test_no_block_is_fetched_twice_by_the_windows_of_a_site(tmp_path, monkeypatch):
    """At the server: windows of 300 pixels over blocks of 128, as bring() reads a site larger than one."""
    values = np.random.default_rng(0).integers(1, 60000, (1500, 1500), dtype=np.uint16)
    cog(tmp_path / "a.tif", values, 10, 128, 0, 0, 1500)
    row, col, side, step = 70, 50, 1100, 300
    blocks, got = blocks_of(tmp_path / "a.tif", row, col, side), np.zeros((side, side))
    with web(files={"/a.tif": (tmp_path / "a.tif").read_bytes()}) as server:
        file, grid = opened(f"{server.at}/a.tif", {"signing": "none"}), square(10, row, col, side)
        for y in range(0, side, step):
            for x in range(0, side, step):
                box = (y, x, min(step, side - y), min(step, side - x))
                part, how, _ = remote_pixels.read_on(file, grid.window(*box), "level", None)
                got[y : y + box[2], x : x + box[3]] = part
                assert how == "own pixels" and sum(map(len, file.kept.values())) <= 30 * 128 * 128 * 2
        ranges = [tuple(map(int, words[6:].split("-"))) for *_, words in server.seen]
    assert np.array_equal(got, values[row : row + side, col : col + side])
    for start, size in blocks.items():
        assert (
            sum(first < start + size and last >= start for first, last in ranges if last - first + 1 != 16384)
            <= 1
        )
    assert file.read_bytes <= 1.05 * sum(blocks.values()) + 2 * remote_file.CHUNK


def test_gdal_asks_nothing_of_a_server(tmp_path, monkeypatch):
    """rasterio's `opener` changes GDAL's list of file systems under the reads of other threads: a crash."""

    def registered(*_):
        raise AssertionError("a file system was added to GDAL's")

    monkeypatch.setattr(rasterio, "_opener_registration", registered)
    cog(tmp_path / "a.tif", np.ones((64, 64), np.uint8), 10, 128, 0, 0, 64)
    with web(files={"/a.tif": (tmp_path / "a.tif").read_bytes()}) as server:
        file = opened(f"{server.at}/a.tif", {"signing": "none"})
        assert (remote_pixels.read_on(file, square(10, 0, 0, 64), "level", None)[0] == 1).all()


def test_a_file_cut_on_the_server_is_of_no_use(tmp_path):
    cog(
        tmp_path / "a.tif", np.random.default_rng(0).integers(0, 99, (500, 500), np.uint8), 10, 128, 0, 0, 500
    )
    body = (tmp_path / "a.tif").read_bytes()
    for length in (10, 200, 20_000, len(body) - 30_000):
        with web(files={"/a.tif": body[:length]}) as server:
            file = opened(f"{server.at}/a.tif", {"signing": "none"})
            with pytest.raises(
                remote.BadFile, match=r"not a readable GeoTIFF .*(outside of it|begin as one)"
            ):
                remote_pixels.read_on(file, square(10, 0, 0, 500), "level", None)


@pytest.mark.parametrize(
    ("crs", "pixel_m"), [('LOCAL_CS["x",UNIT["metre",1]]', 10), ("EPSG:5703", 10), ("EPSG:32632", 1e-300)]
)
def test_a_file_that_cannot_be_laid_on_the_site_is_of_no_use(tmp_path, crs, pixel_m):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=9, width=9, count=1, dtype="uint8", crs=crs,
        transform=from_origin(600000, 5300040, pixel_m, pixel_m),
    ) as target:  # fmt: skip
        target.write(np.ones((1, 9, 9), np.uint8))
    with web(files={"/a.tif": (tmp_path / "a.tif").read_bytes()}) as server:
        file = opened(f"{server.at}/a.tif", {"signing": "none"})
        with pytest.raises(remote.BadFile, match="not a readable GeoTIFF"):
            remote_pixels.read_on(file, square(10, 3, 3, 3), "level", None)


def test_blocks_are_kept_and_given_as_asked_for_however_they_overlap(monkeypatch):
    """Some writers store tiles that are alike once: two blocks of one offset."""
    chance = random.Random(0)
    monkeypatch.setattr(remote_file, "LARGE", 9000)
    with web() as server:
        file = opened(f"{server.at}/a", {"signing": "none"})
        for _ in range(40):
            ranges = [(chance.randrange(60, 90) * 1000, chance.randint(1, 12_000)) for _ in range(6)]
            ranges += ranges[:2]
            expected = [CONTENT[start : start + size] for start, size in ranges]
            assert file.blocks(ranges, set(ranges[:4])) == expected
    assert len(file.kept) > 10


def test_a_header_is_asked_for_once_however_long_it_is(tmp_path):
    """3600 blocks: their offsets and sizes are more than the chunks that are kept of a header."""
    cog(tmp_path / "a.tif", np.ones((9, 9), np.uint8), 10, 16 * 8, 0, 0, 60 * 128)
    with web(files={"/a.tif": (tmp_path / "a.tif").read_bytes()}) as server:
        file = opened(f"{server.at}/a.tif", {"signing": "none"})
        remote_pixels.read_on(file, square(10, 0, 0, 9), "level", None)
        before = len(server.seen)
        remote_pixels.read_on(file, square(10, 4000, 4000, 9), "level", None)  # in one block
        assert len(server.seen) == before + 1


def test_kept_blocks_are_bounded(monkeypatch):
    monkeypatch.setattr(remote_file, "KEPT", 1000)
    with web() as server:
        file = opened(f"{server.at}/a", {"signing": "none"})
        for start in range(20_000, 30_000, 400):
            assert file.blocks([(start, 400)], {(start, 400)}) == [CONTENT[start : start + 400]]
    assert sum(map(len, file.kept.values())) == 800 and list(file.kept) == [(29_200, 400), (29_600, 400)]


@pytest.mark.parametrize("name", ["B11", "SCL"])
def test_a_small_window_of_20_m_bands_costs_its_blocks_and_the_header(tmp_path, name):
    """The header takes 16 KiB whatever the blocks: little beside B11's, more than a block of SCL's itself."""
    noise = np.random.default_rng(0)
    if name == "B11":
        values = noise.integers(1000, 5000, (1024, 1024), dtype=np.uint16)
    else:
        values = np.kron(noise.integers(2, 12, (103, 103)), np.ones((10, 10)))[:1024, :1024].astype(np.uint8)
    cog(tmp_path / "a.tif", values, 20, 512, 1024, 1024, 5490)
    with web(files={"/a.tif": (tmp_path / "a.tif").read_bytes()}) as server:
        for row, col in ((1200, 1200), (1480, 1480)):
            file = opened(f"{server.at}/a.tif", {"signing": "none"})
            got, *_ = remote_pixels.read_on(file, square(20, row, col, 100), "class", None)
            assert np.array_equal(got, values[row - 1024 : row - 924, col - 1024 : col - 924])
            blocks = sum(blocks_of(tmp_path / "a.tif", row, col, 100).values())
            assert file.read_bytes <= blocks + 1.5 * remote_file.CHUNK
            assert name == "SCL" or file.read_bytes <= 1.1 * blocks


@pytest.mark.filterwarnings("ignore")
def test_a_file_on_no_map_is_one_sentence(tmp_path):
    """In a process of its own: pytest has its own rules for warnings."""
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=9, width=9, count=1, dtype="uint8"
    ) as target:
        target.write(np.ones((1, 9, 9), np.uint8))
    code = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import pathlib, test_remote as t
with t.web(files={{"/a.tif": pathlib.Path({str(tmp_path / "a.tif")!r}).read_bytes()}}) as server:
    try:
        file = t.opened(server.at + "/a.tif", {{"signing": "none"}})
        t.remote_pixels.read_on(file, t.square(10, 0, 0, 9), "level", None)
    except t.BadInput as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "" and "a.tif: lies in radar geometry or on no map" in done.stdout


# ---- catalogues and sites ----------------------------------------------------------------------------------


def test_opera_names_tell_track_burst_and_platform(tmp_path):
    import re

    pattern = catalogs.read_catalog("opera")["s1"]["id_pattern"]
    name = "OPERA_L2_RTC-S1_T102-217155-IW1_20240703T162341Z_20240703T210000Z_S1A_30_v1.0"
    assert re.search(pattern, name).groupdict() == {
        "relative_orbit": "102", "burst": "217155-IW1", "platform": "S1A",
    }  # fmt: skip
    still = re.search(pattern, "OPERA_L2_RTC-S1_T102-217155-IW1_20240703")
    assert still["relative_orbit"] == "102" and still["platform"] is None


def test_licences_are_as_their_owners_ask():
    sections = catalogs.read_catalog("planetary-computer")
    assert sections["dem"]["licence"] == (
        "produced using Copernicus WorldDEM-30 (c) DLR e.V. 2010-2014 and (c) Airbus Defence and Space GmbH "
        "2014-2018 provided under COPERNICUS by the European Union and ESA; all rights reserved"
    )
    assert sections["landcover"]["licence"].endswith(
        "(c) ESA WorldCover project / Contains modified Copernicus Sentinel data (2021) processed by ESA "
        "WorldCover consortium"
    )


@pytest.mark.parametrize(
    ("latitude", "longitude", "zone"),
    [
        (60.39, 5.32, 32632), (60.39, 2.9, 32631), (55.9, 5.32, 32631), (64.1, 5.32, 32631),  # Bergen: 32V
        (78.2, 15.6, 32633), (78.2, 8.9, 32631), (78.2, 9.1, 32633), (78.2, 21.1, 32635), (78.2, 33.1, 32637),
        (71.9, 15.6, 32633), (71.9, 9.1, 32632), (78.2, 42.1, 32638), (-78.2, 9.1, 32732), (46, 180, 32601),
    ],
)  # fmt: skip
def test_zones_of_norway_and_svalbard(latitude, longitude, zone):
    assert sites.utm(latitude, longitude).to_epsg() == zone


def test_a_site_names_its_geometry_file(tmp_path):
    ring = [[10.3, 46.85], [10.31, 46.85], [10.31, 46.86], [10.3, 46.85]]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    (tmp_path / "sites.csv").write_text(
        "site,geometry,latitude,longitude,half_width_m,start,end\n"
        "a,a.geojson,,,,2021-01-01,2021-02-01\nb,,46,8,500,2021-01-01,2021-02-01\n"
    )
    assert [s.geometry_file for s in sites.read_sites(tmp_path / "sites.csv")] == [
        tmp_path / "a.geojson",
        None,
    ]
