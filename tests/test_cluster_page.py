"""docs/cluster.md, followed to the letter on a true SLURM.

Every ```bash block is run as it stands, in order, in one shell; before the next the queue is let run empty.
The ```sh blocks want what is not here: a container builder, the internet.
"""

import json
import re
import subprocess

import pytest
from cluster import started
from conftest import ROOT

PAGE = ROOT / "docs" / "cluster.md"


@pytest.fixture(scope="module")
def cluster():
    with started(MINISLURM_PARTITIONS="cpu gpu", MINISLURM_GPUS=2, MINISLURM_CPUS=8) as found:
        yield found


def test_the_page_names_what_there_is():
    """Files, settings and words of SLURM's that the page promises."""
    text = PAGE.read_text()
    for name in set(re.findall(r"slurm/[\w.]+", text)):
        assert (ROOT / name).exists(), name
    head = (ROOT / "slurm/submit.sh").read_text().split("set -euo")[0] + (ROOT / "runbook.sh").read_text()
    for setting in set(re.findall(r"\b([A-Z]{3,})=", text)) - {"PATH"}:
        assert setting in head or setting == "SHARES", setting
    listed = set(re.search(r"how it is used: `([\w ]+)`, and `job`", text)[1].split()) | {"job"}
    assert listed == {path.stem for path in (ROOT / "slurm").glob("*.sbatch")}


def repository(folder):
    """A git repository of the working tree as it is."""
    git = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-p", str(ROOT / name), str(folder / name)], check=True)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "as it is"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)


@pytest.mark.slow
def test_the_page_works_to_the_letter(cluster, tmp_path):
    repository(tmp_path / "origin")
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 9
    shell, log = [], tmp_path / "said.txt"
    environment = {"SIZE": "tiny", "TASKS": 2}  # the sizes of a test; all else is the page's
    for name in ("JOB_PYTHON", "GPU"):
        cluster.env.pop(name)

    def type_in(block: str) -> str:
        """Run the block after what all blocks before it left in the shell: its folder and variables."""
        script = "\n".join(["set -e", *shell, "exec > >(cat) 2>&1", "set -x", block])
        said = cluster.do("bash", "-c", script, env=environment, cwd=tmp_path)
        with open(log, "a") as stream:
            stream.write(said)
        shell.extend(line for line in block.splitlines() if line.startswith(("cd ", "export ")))
        cluster.wait_until(lambda: not cluster.slurm("squeue", "-h").strip(), 1500, block)
        return said

    clone, *rest = blocks
    assert clone.splitlines()[0] == "git clone <this repository> snowsar"
    subprocess.run(["git", "clone", "-q", str(tmp_path / "origin"), str(tmp_path / "snowsar")], check=True)
    here = tmp_path / "snowsar"
    (here / ".venv").symlink_to(ROOT / ".venv")  # installed already: torch need not come twice
    for name in ("requirements.txt", "requirements-extra.txt", "constraints.txt"):
        subprocess.run(["touch", "-r", str(ROOT / name), str(here / name)], check=True)
    if (ROOT / "data").exists():
        (here / "data").symlink_to(ROOT / "data")  # the weights likewise
    type_in("\n".join(clone.splitlines()[1:]))
    simulated = here / "runs/cluster/1_simulate"
    for block in rest:
        if "DATA=my/scenes" in block:  # sites of one's own
            (here / "my/scenes").mkdir(parents=True)
            for site in sorted((simulated / "scenes").iterdir())[:6]:
                (here / "my/scenes" / site.name).symlink_to(site)
            (here / "my/weather").mkdir()
            for name in ("weather.csv", "weather.json"):
                (here / "my/weather" / name).write_bytes((simulated / name).read_bytes())
        said = type_in(block)
        if "DRY_RUN" in block:
            assert "job_1=$(sbatch" in said and not said.count("sbatch: error")

    jobs = (cluster.folder / "log/jobcomp.txt").read_text().splitlines()
    failed = [line for line in jobs if "JobState=COMPLETED" not in line and "JobState=REQUEUED" not in line]
    assert not failed, "\n".join(failed)
    runs = here / "runs"
    results = {
        path.parent.relative_to(runs).as_posix(): json.loads(path.read_text())
        for path in runs.rglob("result.json")
    }
    assert {
        "cluster/9_climate",
        "cluster/14_score",
        "mine/9_climate",
        "by-hand",
        "many",
        "two",
    } <= results.keys()
    assert results["many"]["processes"] == 4 and results["two"]["processes"] == 2
    assert results["by-hand"]["scenes"] == results["cluster/7_map"]["scenes"] > 100
    same = (runs / name / "snow_cover.csv" for name in ("by-hand", "cluster/7_map"))
    assert len({path.read_bytes() for path in same}) == 1
    again = [path.read_text() for path in (runs / "cluster/logs").glob("4_train-*.log")]
    assert len(again) == 2 and any("already done, skipped" in text for text in again)
