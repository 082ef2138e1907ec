"""README.md and docs/*.md, followed to the letter by somebody who has just cloned the repository.

The pages are parsed: a command is what stands in a fenced block without a language, or of sh or bash. What
no test here runs is in NOT_HERE with its reason, or in a ```bash block of docs/cluster.md, which
test_cluster_page.py runs. Blocks of other languages are data (csv, text, toml) or python.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rasterio
import stac_archive
import stac_services
from conftest import JOBS, ROOT, THREADS, TINY, refuse, write_site
from open_meteo_server import serving
from test_cluster_page import repository

from data_prep import catalogs

README = ROOT / "README.md"
ELSEWHERE = {"docs/cluster.md": "bash"}  # blocks that test_cluster_page.py runs, in one shell on a true SLURM
SHELL, DATA = ("", "sh", "bash"), ("csv", "text", "toml")
BY_HAND = ("docs/copying.md", "docs/extending.md")  # whose python the tests of these pages run, see below
NOT_HERE = {  # how a line begins, and why it is not run
    "./runbook.sh test": "it is what runs this test",
    "apptainer build": "it brings a container's packages from the internet, and wants apptainer",
    'export JOB_PYTHON="apptainer': "it names that container to the commands after it",
}
JOB = re.compile(r"python3? (?:-m )?(data_prep\.\w+|(?:\w+/)?\w+\.py)([^`\n|]*)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


class Block(NamedTuple):
    page: str
    language: str
    text: str


def pages() -> list[Path]:
    """README.md, then the pages in the order in which it names them, then any that it forgot."""
    named = [ROOT / name for name in re.findall(r"\((docs/[\w-]+\.md)\)", README.read_text())]
    every = dict.fromkeys([README, *named, *sorted((ROOT / "docs").glob("*.md"))])
    return [page for page in every if page.exists()]  # a link that leads nowhere has a test of its own


def blocks(page: Path) -> list[Block]:
    name = page.relative_to(ROOT).as_posix()
    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") % 2 == 0, f"{name}: a fence is not closed"
    return [Block(name, *parts) for parts in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)]


def lines(block: Block) -> list[str]:
    """Its commands, continued lines joined; a line that is only a comment is none."""
    joined = block.text.replace("\\\n", " ").splitlines()
    return [line for line in joined if line.strip() and not line.lstrip().startswith("#")]


def inline(page: Path) -> list[str]:
    """The words in backticks outside of blocks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", text)]


def reason(line: str) -> str | None:
    return next((why for start, why in NOT_HERE.items() if line.startswith(start)), None)


OURS = [*(f"data_prep.{job}" for job in JOBS), *sorted(path.name for path in ROOT.glob("*.py"))]


@functools.cache
def help_of(job: str) -> str:
    start = ["-m", job] if job.startswith("data_prep.") else [str(ROOT / job)]
    environment = {**os.environ, "COLUMNS": "300"}  # each flag on a line
    done = subprocess.run(
        [sys.executable, *start, "--help"], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, f"{job} --help: {done.stderr}"
    return done.stdout


def flags_of(job: str) -> frozenset[str]:
    return frozenset(FLAG.findall(help_of(job)))


# ---- what pages say, read ----------------------------------------------------------------------------------


def test_every_block_is_run_or_has_its_reason():
    """A block in a language that nobody runs, commands in a block of data, and stale reasons all fail."""
    every = [block for page in pages() for block in blocks(page)]
    for block in every:
        assert block.language in (*SHELL, *DATA, "python"), f"{block.page}: nobody runs a ```{block.language}"
        if block.language in DATA:
            assert not re.search(r"^(python|\./|git |sbatch )", block.text, re.M), block
    said = [line for block in every if block.language in SHELL for line in lines(block)]
    assert len(said) > 20
    assert not [start for start in NOT_HERE if not any(line.startswith(start) for line in said)]
    for page, language in ELSEWHERE.items():
        source = (ROOT / "tests" / "test_cluster_page.py").read_text()
        assert f'r"^```{language}\\n(.*?)^```"' in source  # all of them, as it finds them
        assert {block.language for block in every if block.page == page} <= {language, "sh"}


def test_links_lead_somewhere():
    for page in [*pages(), ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if target.startswith("http"):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
                names = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
                assert anchor in names, f"{page.name}: {target}"
    linked = README.read_text()
    assert not [page.name for page in pages()[1:] if f"(docs/{page.name})" not in linked]


def test_files_that_pages_name_are_there():
    folders = "data_prep|models|tests|bench|slurm|docs"
    ours = rf"(?:{folders})/[\w./-]*\w|\w+\.(?:py|sh)|requirements\S*\.txt|ruff\.toml"
    for page in [*pages(), ROOT / "CONTRIBUTING.md"]:
        for words in inline(page):
            for name in re.findall(rf"(?<![\w./-])(?:{ours})", words):
                found = (ROOT / name).exists() or (ROOT / "slurm" / name).exists()
                assert found or name.startswith("my"), f"{page.name}: {name}"
            for module in re.findall(r"data_prep\.(\w+)", words):
                assert (ROOT / "data_prep" / f"{module}.py").exists(), f"{page.name}: {module}"


def test_flags_that_pages_name_are_known():
    every = frozenset().union(*map(flags_of, OURS)) | {"--help"}
    checked = 0
    for page in [*pages(), ROOT / "CONTRIBUTING.md"]:
        words = [line for block in blocks(page) if block.language in SHELL for line in lines(block)]
        for text in [*words, *inline(page)]:
            for job, rest in JOB.findall(text):
                assert (ROOT / f"{job.replace('.', '/')}.py").exists() or (ROOT / job).exists(), job
                unknown = set(FLAG.findall(rest)) - (flags_of(job) if FLAG.search(rest) else set())
                assert not unknown, f"{page.name}: {text}: {unknown}"
                checked += 1
            if text.startswith("--") and page.name != "cluster.md":  # whose others are sbatch's and srun's
                assert not set(FLAG.findall(text)) - every, f"{page.name}: {text}"
    assert checked > 30


def test_every_flag_says_what_it_does():
    for job in OURS:
        entries = re.findall(r"^  (--?\S.*)\n(?: {6,}(\S.*))?", help_of(job), re.M)
        assert len(entries) > 3, job
        bare = [flag for flag, below in entries if not below and not re.search(r"\S  +\S", flag)]
        assert not bare, f"{job}: {bare}"


def test_chains_within_a_sentence_are_understood():
    """`DATA=... ./runbook.sh` in the text is asked for its steps."""
    said = {words for page in pages() for words in inline(page) if "./runbook.sh" in words}
    said = {words for words in said if reason(words) is None and not words.endswith("install")}
    assert len(said) > 2
    for words in said:
        environment = {**os.environ, "DRY_RUN": "1"}
        done = subprocess.run(
            ["bash", "-c", words], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0 and "[2 curate]" in done.stderr, f"{words}\n{done.stderr}"


def test_the_table_of_jobs_holds_every_step():
    environment = {**os.environ, "DRY_RUN": "1"}
    said = subprocess.run([ROOT / "runbook.sh"], env=environment, capture_output=True, text=True).stderr
    steps = dict(re.findall(r"^\[(\d+) (\w+)\]", said, re.M))
    rows = {}
    for numbers, job in re.findall(r"^\| ([\d, -]+) \| ([^|]+) \|", README.read_text(), re.M):
        for part in numbers.split(","):
            first, _, last = part.partition("-")
            rows |= {str(number): job for number in range(int(first), int(last or first) + 1)}
    assert rows.keys() == steps.keys()
    for number, words in re.findall(r"^\[(\d+) \w+\] \S+ (.*)", said, re.M):
        job = words.removeprefix("-m ").split()[0]
        assert job in rows[number] or steps[number] in rows[number], f"step {number}: {rows[number]}"


def test_the_catalogue_that_extending_shows_is_one(tmp_path):
    shown = [block.text for block in blocks(ROOT / "docs/extending.md") if block.language == "toml"]
    assert shown
    for number, text in enumerate(shown):
        (tmp_path / f"{number}.toml").write_text(text)
        sections = catalogs.read_catalog(str(tmp_path / f"{number}.toml"))
        assert {"s1", "s2"} <= sections.keys()
    everything = {key for text in catalogs.BUILT_IN.values() for key in re.findall(r"^(\w+) =", text, re.M)}
    everything |= {
        key for text in catalogs.BUILT_IN.values() for key in re.findall(r"^(assets)\.", text, re.M)
    }
    assert everything == catalogs.KEYS  # "use every key there is"


@pytest.mark.slow
def test_the_band_that_extending_adds_trains_and_maps(triplets_folder, tmp_path):
    """The page's one line, put into a copy: two steps of training, and inference; the copy alone knows it."""
    page = ROOT / "docs/extending.md"
    (line,) = [block.text for block in blocks(page) if block.language == "python"]
    (bands,) = [words for words in inline(page) if words.startswith("--bands")]
    for name in ("data_prep", "models"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    channels = tmp_path / "data_prep/channels.py"
    text = channels.read_text()
    assert text.count("CHANNELS = {\n") == 1
    channels.write_text(text.replace("CHANNELS = {\n", "CHANNELS = {\n" + line))
    tiny = [str(word) for word in TINY]
    tiny[tiny.index("--epochs") + 1] = "1"
    trained, mapped = tmp_path / "trained", tmp_path / "mapped"
    for job, *words in (
        ("train_unet.py", "--out", trained, *bands.split(), *tiny, "--limit", "4"),
        ("infer_unet.py", "--out", mapped, "--weights", trained / "best.pt", "--amp", "off"),
    ):
        shutil.copy(ROOT / job, tmp_path)
        command = [sys.executable, tmp_path / job, "--data", triplets_folder, *words]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env={**os.environ, **THREADS}
        )
        assert done.returncode == 0, done.stderr
    assert list((mapped / "mask").glob("*.tif"))
    words = ("--data", triplets_folder, "--weights", trained / "best.pt", "--out", tmp_path / "no")
    refuse("infer_unet.py", *words, saying="vv-vh")


def test_the_examples_of_copying_run_beside_the_piece(tmp_path):
    shown = [block for block in blocks(ROOT / "docs/copying.md") if block.language == "python"]
    assert len(shown) >= 3
    for number, block in enumerate(shown):
        folder = tmp_path / str(number)
        folder.mkdir()
        names = re.findall(r"^import (\w+)$", block.text, re.M)
        pieces = [ROOT / folder / f"{name}.py" for name in names for folder in ("models", "data_prep")]
        pieces = [path for path in pieces if path.exists()]
        assert len(pieces) == 1, block
        shutil.copy(pieces[0], folder)
        (folder / "example.py").write_text(block.text)
        done = subprocess.run([sys.executable, "example.py"], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


# ---- what pages say, done ----------------------------------------------------------------------------------


class Reader:
    """Types lines into one bash after another, each of which begins where the last one ended."""

    def __init__(self, folder: Path):
        self.folder, self.state = folder, folder / "state.sh"
        self.state.write_text(f"cd {folder}\n")

    def type(self, line: str) -> subprocess.CompletedProcess:
        leave = f'{{ export -p; printf "cd %q\\n" "$PWD"; }} > {self.state}'
        script = f". {self.state}\n{line}\ncode=$?\n{leave}\nexit $code"
        environment = {**os.environ, **THREADS, "SIZE": "tiny"}
        return subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=environment, capture_output=True, text=True,
            errors="replace", stdin=subprocess.DEVNULL, timeout=3600,
        )  # fmt: skip


def settle_in(clone: Path) -> None:
    """What the first ./runbook.sh would spend an hour on: the packages and weights that are here already."""
    (clone / ".venv").symlink_to(ROOT / ".venv")
    for name in ("requirements.txt", "requirements-extra.txt", "constraints.txt"):
        shutil.copystat(ROOT / name, clone / name)
    for name in ("sample", "weights"):
        if (ROOT / "data" / name / "result.json").exists():
            shutil.copytree(ROOT / "data" / name, clone / "data" / name)


def bring_places(clone: Path, banff: bool) -> None:
    """my/sites.csv, as README.md shows it; without ../shared/data the archive holds its first place only."""
    (table,) = [block.text for block in blocks(README) if block.language == "csv"]
    (clone / "my").mkdir(exist_ok=True)
    (clone / "my/sites.csv").write_text(table if banff else "".join(table.splitlines(True)[:2]))


def bring_scenes(clone: Path, world: Path) -> None:
    """my/scenes: the sites of the tests, and one whose radar lacks what docs/own-data.md adds to it."""
    scenes = clone / "my/scenes"
    shutil.copytree(world, scenes)
    for path in scenes.glob("*/s1/*.tif"):
        with rasterio.open(path, "r+") as scene:
            scene.update_tags(backscatter="gamma0_rtc")  # as the page's own scene: one kind a run
    write_site(scenes, "davos", 7, dates=("2023-01-10",))
    (radar,) = (scenes / "davos/s1").iterdir()
    with rasterio.open(radar) as scene:
        values, profile = scene.read(), scene.profile
    radar.unlink()
    with rasterio.open(radar.with_name("2023-01-10_066.tif"), "w", **profile) as bare:
        bare.write(values)


def bring_product(clone: Path) -> None:
    """my/fsc: a product of snow cover in per cent, 255 no data, on the ground of the chain's triplets."""
    (clone / "my/fsc").mkdir()
    for path in (clone / "runs/default/3_split/mask").glob("*.tif"):
        with rasterio.open(path) as mask:
            values, profile = mask.read(), mask.profile
        with rasterio.open(clone / "my/fsc" / path.name, "w", **profile) as product:
            product.write(np.where(values == 255, 255, 100 * values).astype(np.uint8))


@pytest.mark.slow
def test_every_command_of_every_page_runs(world, tmp_path, capsys):
    """In the order of the pages, in one clone; SIZE=tiny and services on loopback are all that is changed."""
    (tmp_path / "origin").mkdir()
    repository(tmp_path / "origin")
    clone, files = tmp_path / "snowsar", tmp_path / "files"
    files.mkdir()
    archive = stac_archive.Archive(files)
    stac_archive.add_alps(archive, range(10, 30, 2))
    banff = stac_archive.add_banff(archive)
    reader, done, left_out, said = Reader(tmp_path), [], [], []
    for block in [block for page in pages() for block in blocks(page)]:
        if block.language == "python" and block.page not in BY_HAND:
            typed = tmp_path / f"typed-{len(said)}.py"
            typed.write_text(block.text)
            said.append((block.page, f"python < {typed}"))
        elif block.language in SHELL and ELSEWHERE.get(block.page) != block.language:
            said += [(block.page, line) for line in lines(block)]
    with stac_services.running(files, archive.items) as services, serving() as weather:
        catalog = tmp_path / "local.toml"
        catalog.write_text(stac_archive.catalog(services.url))
        local = {"data_prep.download": f" --catalog {catalog}", "data_prep.weather": f" --url {weather.url}"}

        def follow(page: str, line: str) -> None:
            typed = line.replace("<this repository>", str(tmp_path / "origin"))
            for job, more in local.items():
                typed += more if f"-m {job} " in typed else ""
            why = reason(line)
            needs_weights = "data/weights" in line and "data_prep.weights" not in line
            if why is None and needs_weights and not (clone / "data/weights/result.json").exists():
                why = "npm or pip bring no weights here"
            if why:
                left_out.append(f"{page}: not run: {line}: {why}")
                return
            if "my/fsc" in line and not (clone / "my/fsc").exists():
                bring_product(clone)
            began = time.time()
            ended = reader.type(typed)
            optional = "data_prep.weights" in line and ended.returncode == 2  # no package mirror is reachable
            assert ended.returncode == 0 or optional, (
                f"{page}: {line}\n{ended.stdout[-3000:]}\n{ended.stderr[-6000:]}"
            )
            assert "Traceback" not in ended.stderr, f"{page}: {line}\n{ended.stderr}"
            failed = ", WHICH COULD NOT BE DONE HERE" if ended.returncode else ""
            done.append(f"{page}: {time.time() - began:.0f} s{failed}: {line}")
            if "git clone" in line:
                settle_in(clone)
                bring_places(clone, banff)
                bring_scenes(clone, world)

        for page, line in said:
            follow(page, line)
    with capsys.disabled():
        print("", *done, *left_out, sep="\n")
    missing = []
    for page in pages():
        for words in inline(page):
            for name in re.findall(r"^(?:runs|my)/[\w.<>/*-]+$", words):
                made = name.replace("runs/tiny/", "runs/default/")  # this chain is the tiny one, see Reader
                if page.name != "cluster.md" and not list(
                    clone.glob(re.sub(r"<\w+>", "*", made.rstrip("/")))
                ):
                    missing.append(f"{page.name}: {name}")
    assert not missing
