"""A true SLURM on this machine for the tests: ../shared/minislurm, found relative to the repository."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import ROOT, THREADS

MINISLURM = ROOT.parent / "shared" / "minislurm"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "DEADLINE"}


class Cluster:
    """Two nodes, and the words of a user's shell on the login node."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = {
            **os.environ,
            **THREADS,
            "MINISLURM_DIR": str(folder),
            "JOB_PYTHON": sys.executable,
            "GPU": "",
        }
        for name in [n for n in self.env if n.startswith(("SLURM_", "SBATCH_"))]:
            del self.env[name]
        self.env["SLURM_CONF"] = str(folder / "slurm.conf")

    def do(self, *words, code: int | None = 0, env: dict | None = None, cwd: Path = ROOT) -> str:
        """Run a command on the login node; returns what it prints. code: its exit code, None for any."""
        settings = {**self.env, **{name: str(value) for name, value in (env or {}).items()}}
        words = [str(word) for word in words]
        done = subprocess.run(words, capture_output=True, text=True, env=settings, cwd=cwd, timeout=900)
        said = done.stdout + done.stderr
        assert code is None or done.returncode == code, f"{words}: exit {done.returncode}\n{said}"
        return said

    def slurm(self, *words, **more) -> str:
        return self.do("timeout", 60, *words, **more)

    def node(self, word: str, number: int) -> None:
        """kill-node or start-node."""
        self.do(MINISLURM, word, number)

    def submit(self, *words, **env) -> str:
        """sbatch; returns the job's number."""
        return self.slurm("sbatch", "--parsable", *words, env=env).strip().splitlines()[-1]

    def look(self, job: str) -> list[dict]:
        """A dict of scontrol's words for a job, or for each task of an array."""
        lines = self.slurm("scontrol", "-o", "show", "job", job, code=None).splitlines()
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines if line.startswith("JobId=")]

    def wait_until(self, true, seconds: float = 120, what: str = ""):
        """Poll until true() is; returns it."""
        end = time.time() + seconds
        while time.time() < end:
            if found := true():
                return found
            time.sleep(0.2)
        queue = self.slurm("squeue", "--all", code=None)
        raise AssertionError(f"not within {seconds} s: {what}\n{queue}")

    def wait(self, *jobs: str, seconds: float = 300) -> dict[str, tuple[str, int]]:
        """Until the jobs have ended: {number, or number_task: (state, exit code)}."""
        found, open_jobs = {}, list(jobs)

        def ended():
            for job in list(open_jobs):
                rows = self.look(job)
                assert rows, f"job {job} is unknown to SLURM"
                if all(row["JobState"] in ENDED for row in rows):
                    open_jobs.remove(job)
                    for row in rows:
                        task = row.get("ArrayTaskId")
                        name = f"{row['ArrayJobId']}_{task}" if task else row["JobId"]
                        found[name] = row["JobState"], int(row["ExitCode"].split(":")[0])
            return not open_jobs

        self.wait_until(ended, seconds, f"jobs {', '.join(jobs)} ended")
        return found

    def run(self, *words, state: str = "COMPLETED", seconds: float = 300, **env) -> str:
        """sbatch and wait; the job must end in `state`; returns its number."""
        job = self.submit(*words, **env)
        ended = self.wait(job, seconds=seconds)
        assert {s for s, _ in ended.values()} == {state}, f"{ended}\n{self.logs()}"
        return job

    def logs(self) -> str:
        return "\n".join(
            f"--- {path}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.out"))
        )


@contextlib.contextmanager
def started(**settings):
    """A cluster of two nodes of four CPUs; skips, in words, where there is none to be had."""
    if not MINISLURM.exists():
        pytest.skip("../shared/minislurm, relative to the repository, is not there")
    if not shutil.which("slurmctld", path=os.environ["PATH"] + ":/usr/sbin"):
        if os.geteuid():
            pytest.skip("SLURM is not installed, and only root can run ../shared/minislurm install")
        done = subprocess.run([str(MINISLURM), "install"], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"../shared/minislurm install failed: {done.stderr.strip().splitlines()[-1]}")
    cluster = Cluster(Path(tempfile.gettempdir()) / f"ms{os.getpid()}")
    cluster.do(MINISLURM, "start", env=settings)
    try:
        yield cluster
    finally:
        cluster.do(MINISLURM, "stop", code=None)
