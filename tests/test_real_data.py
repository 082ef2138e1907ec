"""The README's way from a latitude and a longitude, word for word, through services on loopback."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import stac_archive
import stac_services
from conftest import ROOT, THREADS
from open_meteo_server import serving

README = ROOT / "README.md"
HEADING = "From a latitude and a longitude"
JOBS = ["download", "curate", "snow_cover", "weather"]
DAYS = range(10, 30, 2)  # of January 2021: climate_analysis.py wants ten dates


def section(readme: Path) -> str:
    text = readme.read_text(encoding="utf-8")
    found = re.search(rf"^## {HEADING}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{readme} has no section '{HEADING}'"
    return found[1]


def blocks(readme: Path) -> tuple[str, list[str], str]:
    """The section's table of sites, its four commands, and the one that analyses what they bring."""
    found = re.findall(r"^```(?:csv)?\n(.*?)^```$", section(readme), re.MULTILINE | re.DOTALL)
    table, (active, *commands), (analysis,) = found[0], *(block.splitlines() for block in found[1:])
    assert active == ". .venv/bin/activate"  # the environment that runs this test
    return table, commands, analysis


def named_paths(readme: Path) -> set[str]:
    """What the section's table of outputs says lies in my/ afterwards."""
    rows = [line for line in section(readme).splitlines() if line.startswith("| ")]
    return {path for line in rows for path in re.findall(r"`(my/[^`]+)`", line)}


def follow(folder: Path, line: str, *more) -> str:
    """Run a line of the README in `folder`; what it said."""
    python, *words = shlex.split(line)
    assert python == "python", line
    command = [sys.executable, *words, *map(str, more)]
    environment = {**os.environ, **THREADS}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stderr


def read_csv(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> Path:
    """A folder as a clone of the repository, in which the four commands were run."""
    folder, files = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("archive")
    for name in ("data_prep", "models", "climate_analysis.py"):
        (folder / name).symlink_to(ROOT / name)
    archive = stac_archive.Archive(files)
    stac_archive.add_alps(archive, DAYS)
    table, commands, _ = blocks(README)
    if not stac_archive.add_banff(archive):  # without ../shared/data the archive holds the first place only
        table = "".join(table.splitlines(keepends=True)[:2])
    (folder / "my").mkdir()
    (folder / "my" / "sites.csv").write_text(table)
    assert [line.split()[2] for line in commands] == [f"data_prep.{job}" for job in JOBS]
    with stac_services.running(files, archive.items) as services, serving() as weather:
        (folder / "local.toml").write_text(stac_archive.catalog(services.url))
        here = {"download": ("--catalog", "local.toml"), "weather": ("--url", weather.url)}
        for job, line in zip(JOBS, commands, strict=True):
            follow(folder, line, *here.get(job, ()))
        asked = len(weather.asked)
    assert asked == len(table.splitlines()) - 1  # one request a site
    return folder


def test_the_four_commands_bring_snow_cover_and_the_weather_beside_it(followed):
    sites = {row["site"]: row for row in read_csv(followed / "my" / "sites.csv")}
    snow = read_csv(followed / "my" / "cover" / "snow_cover.csv")
    weather = read_csv(followed / "my" / "weather" / "weather.csv")
    assert {row["site"] for row in snow} == {row["site"] for row in weather} == set(sites)
    days = {(row["site"], row["date"]) for row in weather}
    assert len(days) == len(weather) and {(row["site"], row["date"]) for row in snow} <= days
    for name, site in sites.items():
        own = sorted(date for place, date in days if place == name)
        assert (own[0], own[-1]) == (site["start"], site["end"])
    first = next(iter(sites))
    assert sorted(row["date"] for row in snow if row["site"] == first) == [f"2021-01-{day}" for day in DAYS]
    assert all(row["source"] == "optical" and 0 < float(row["snow_fraction"]) < 1 for row in snow)


def test_what_the_section_names_is_there(followed):
    named = named_paths(README)
    assert len(named) >= 6 and not [path for path in named if not (followed / path).exists()]


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_climate_analysis_reads_them(followed, whole):
    rows, sites = (len(read_csv(followed / "my" / name)) for name in ("cover/snow_cover.csv", "sites.csv"))
    line = blocks(README)[2]
    assert line.split()[1] == "climate_analysis.py"
    if not whole:
        assert f"would analyse {rows} rows of {sites} sites" in follow(followed, line, "--dry-run")
        return
    follow(followed, line, "--resamples", 100)
    joined = read_csv(followed / "my" / "climate" / "joined.csv")
    assert len(joined) == rows and read_csv(followed / "my" / "climate" / "verdicts.csv")
