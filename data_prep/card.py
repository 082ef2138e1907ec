"""The data-set card: what a set of triplets is, its sources and licences, how to check and cite it."""

import csv
import hashlib
from collections import Counter
from pathlib import Path

from data_prep import scenes
from data_prep.runs import write_text
from data_prep.triplets import FILES


def checksums(folder: Path) -> str:
    """`sha256sum -c` lines for the manifest and every file it names."""
    lines = []
    for path in sorted(p for kind in FILES for p in (folder / kind).rglob("*.tif")):
        with open(path, "rb") as stream:
            lines.append(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {path.relative_to(folder)}\n")
    manifest = folder / "triplets.csv"
    return f"{hashlib.sha256(manifest.read_bytes()).hexdigest()}  triplets.csv\n" + "".join(lines)


def write(folder: Path, sites: list[Path], arguments: dict) -> None:
    """Write DATASET_CARD.md and SHA256SUMS into a folder of triplets."""
    counts, snow, valid, dates = Counter(), 0.0, 0.0, []
    with open(folder / "triplets.csv", newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            counts[row["site"]] += 1
            pixels = int(row["height"]) * int(row["width"]) * float(row["valid_fraction"])
            valid, snow = valid + pixels, snow + pixels * float(row["snow_fraction"])
            dates.append(row["date"])
    about = [scenes.read_site(site) for site in sites if site.name in counts]
    sources = sorted({str(site.get("source") or "not stated") for site in about})
    licences = sorted({str(site.get("licence") or "not stated") for site in about})
    table = "".join(
        f"| {site['site']} | {site['latitude']:.4f} | {site['longitude']:.4f} | {counts[site['site']]} |\n"
        for site in about
    )
    write_text(folder / "SHA256SUMS", checksums(folder))
    wet = ""
    if any((folder / "mask_wet").glob("*.tif")):
        wet = "- `mask_wet/` is the truth of simulated sites: snow with liquid water. No index sees it.\n"
    write_text(
        folder / "DATASET_CARD.md",
        f"""# Snow triplets from Sentinel-1 and Sentinel-2

{sum(counts.values())} triplets (radar backscatter in dB, RGB picture, snow mask) of {len(counts)} sites,
{min(dates, default="-")} to {max(dates, default="-")}.
Snow covers {snow / valid if valid else 0:.1%} of the {valid:,.0f} labelled pixels.

- Masks are optical: snow index `{arguments["index"]}`.
  They err under trees, in shadow and near clouds; they are not ground truth.
{wet}- Radar and optical passes lie at most {arguments["max_gap_hours"]:g} hours apart
  (`gap_hours` in triplets.csv).
- Split by site before training: tiles of a site share their ground.
  Files: see triplets.csv; checksums: `sha256sum -c SHA256SUMS`.

| site | latitude | longitude | triplets |
|---|---|---|---|
{table}
Sources: {"; ".join(sources)}.

Licences: {"; ".join(licences)}.

Cite the sources above, and SnowSAR for the curation (`curation.json` holds every threshold and version).
""",
    )
