"""Assign every triplet to train, val or test so that no ground is on two sides.

    python -m data_prep.split --data runs/default/2_curate --out runs/default/3_split

In: a triplets folder. Out: the same folder with its `split` column filled (files linked, not copied),
split.csv with the class balance, class_balance.png. Triplets that belong to no side (buffers, mixed years)
keep an empty split.
"""

import argparse
import hashlib
import math
import os
import sys
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput

METRES_A_DEGREE = 111195  # of a great circle on a sphere of 6371 km


def rank(seed: int, name: str) -> str:
    """A deterministic shuffle key, the same on every machine."""
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def deal(
    groups: dict[str, tuple[int, bool]], fractions: dict[str, float], seed: int, kind: str = "site"
) -> dict[str, str]:
    """Deal groups (size, has snow) in the seed's order, each to the split that lacks most of its share.

    Groups with snow are dealt first and on their own, so that every split gets some while they last; no split
    stays empty.
    """
    wanted = {name: fraction for name, fraction in fractions.items() if fraction > 0}
    if len(groups) < len(wanted):
        raise BadInput(
            f"{runs.counted(len(groups), kind)} with triplets cannot fill {len(wanted)} splits "
            f"({', '.join(wanted)}); bring more sites, or split by blocks or years."
        )
    dealt: dict[str, str] = {}
    for snowy in (True, False):
        stratum = [name for name, (_, snow) in groups.items() if snow is snowy]
        total, filled = sum(groups[name][0] for name in stratum), dict.fromkeys(wanted, 0)
        for name in sorted(stratum, key=lambda name: rank(seed, name)):
            empty = [split for split in wanted if split not in dealt.values()]
            choices = empty if len(groups) - len(dealt) <= len(empty) else list(wanted)
            split = min(choices, key=lambda split: filled[split] / (wanted[split] * total))
            dealt[name], filled[split] = split, filled[split] + groups[name][0]
    return dealt


def grouped(names: list[str], rows: list[dict]) -> dict[str, tuple[int, bool]]:
    """Number of triplets of each group, and whether any has snow."""
    groups: dict[str, tuple[int, bool]] = {}
    for name, row in zip(names, rows, strict=True):
        size, snow = groups.get(name, (0, False))
        groups[name] = size + 1, snow or float(row["snow_fraction"]) > 0
    return groups


def by_site(rows, args) -> list[str]:
    dealt = deal(grouped([row["site"] for row in rows], rows), args.fractions, args.seed)
    return [dealt[row["site"]] for row in rows]


def snow_year(row) -> str:
    """Hydrological year, named by the year it ends in: October to September north, April to March south."""
    month, year = int(row["date"][5:7]), int(row["date"][:4])
    first = 10 if float(row["latitude"]) >= 0 else 4
    return str(year + (month >= first))


def by_year(rows, args) -> list[str]:
    """The earliest years train, the latest test: what a map of next winter would face."""
    years = sorted({snow_year(row) for row in rows})
    late = {
        name: max(1, round(args.fractions[name] * len(years)))
        for name in ("val", "test")
        if args.fractions[name]
    }
    first_late = len(years) - sum(late.values())
    if first_late < 1:
        raise BadInput(
            f"{runs.counted(len(years), 'hydrological year')} cannot fill {1 + len(late)} splits; "
            "split by site instead."
        )
    names = ["train"] * first_late + [name for name, number in late.items() for _ in range(number)]
    dealt = dict(zip(years, names, strict=True))
    return [dealt[snow_year(row)] for row in rows]


def by_both(rows, args) -> list[str]:
    """Test: new places in new winters. Train and val: other places, in the years before those winters."""
    fractions = {**args.fractions, "train": args.fractions["train"] + args.fractions["val"], "val": 0}
    late = [year == "test" for year in by_year(rows, argparse.Namespace(fractions=fractions))]
    return [
        site if (site == "test") == new else "" for site, new in zip(by_site(rows, args), late, strict=True)
    ]


def by_block(rows, args) -> list[str]:
    """Square blocks of ground dealt to splits; tiles within --buffer-m of another split's are left out."""
    boxes = footprints(rows)
    names = []
    for west, south, east, north in boxes:
        latitude = (south + north) / 2
        x = (west + east) / 2 * METRES_A_DEGREE * math.cos(math.radians(latitude))
        names.append(
            f"{math.floor(x / args.block_m)},{math.floor(latitude * METRES_A_DEGREE / args.block_m)}"
        )
    dealt = deal(grouped(names, rows), args.fractions, args.seed, "block")
    splits = [dealt[name] for name in names]
    close = {
        i for pair in neighbours(boxes, args.buffer_m) for i in pair if len({splits[j] for j in pair}) > 1
    }
    return ["" if i in close else split for i, split in enumerate(splits)]


METHODS = {"site": by_site, "year": by_year, "site-year": by_both, "block": by_block}


def footprints(rows) -> list[tuple[float, float, float, float]]:
    """West, south, east, north of every tile in WGS84 degrees."""
    from data_prep import rasters

    return [rasters.open_header(row["mask"]).grid.geographic_bounds() for row in rows]


def neighbours(boxes, margin_m: float):
    """Yield (i, j) of boxes less than `margin_m` apart (0: overlapping by more than a metre)."""
    gap = margin_m - 1  # metres; grids of neighbouring zones do not match to the last metre

    def east_west(*pair) -> float:
        """The gap in degrees of longitude, at the higher latitude of two boxes."""
        latitude = max(abs(boxes[k][side]) for k in pair for side in (1, 3))
        return gap / (METRES_A_DEGREE * max(0.01, math.cos(math.radians(latitude))))

    widest, north_south = max((east_west(k) for k in range(len(boxes))), default=0), gap / METRES_A_DEGREE
    active: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: boxes[i][0]):
        west, south, _, north = boxes[i]
        active = [j for j in active if boxes[j][2] + max(0, widest) > west]
        for j in active:
            if (
                boxes[j][2] + east_west(i, j) > west
                and south < boxes[j][3] + north_south
                and boxes[j][1] < north + north_south
            ):
                yield j, i
        active.append(i)


def shared_ground(rows, splits) -> tuple[str, str] | None:
    """Ids of two tiles in different splits whose footprints overlap, or None."""
    used = [i for i, split in enumerate(splits) if split]
    boxes = footprints([rows[i] for i in used])
    for a, b in neighbours(boxes, 0):
        if splits[used[a]] != splits[used[b]]:
            return rows[used[a]]["id"], rows[used[b]]["id"]
    return None


def balance(rows, splits) -> dict[str, dict]:
    """Triplets, sites and labelled pixels of each class per split."""
    table = {}
    for name in ("train", "val", "test", ""):
        chosen = [row for row, split in zip(rows, splits, strict=True) if split == name]
        if not chosen and not name:
            continue
        pixels = [float(r["valid_fraction"]) * int(r["height"]) * int(r["width"]) for r in chosen]
        snow = sum(p * float(r["snow_fraction"]) for p, r in zip(pixels, chosen, strict=True))
        table[name or "unused"] = {
            "triplets": len(chosen),
            "sites": len({r["site"] for r in chosen}),
            "snow": round(snow),
            "snow_free": round(sum(pixels) - snow),
            "snow_share": snow / sum(pixels) if pixels and sum(pixels) else None,
            "tiles_with_snow": sum(float(r["snow_fraction"]) > 0 for r in chosen),
        }
    return table


def link_files(source: Path, out: Path) -> None:
    """Make `out` a triplets folder of its own: relative links to the files of `source`."""
    from data_prep.triplets import FILES

    for kind in FILES:
        link, target = out / kind, source / kind
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            raise BadInput(f"{link}: is no link of an earlier split; choose another --out.")
        if target.is_dir():
            link.symlink_to(os.path.relpath(target.resolve(), out.resolve()), target_is_directory=True)


def get_parser():
    parser = runs.get_parser(
        __doc__, "--data", "--out", "--config", "--seed", "--overwrite", "--dry-run", data="a triplets folder"
    )
    add = parser.add_argument
    add(
        "--by",
        choices=list(METHODS),
        default="site",
        help="what is new to the test: places, winters, both; block: of one large site",
    )
    add("--val", type=float, default=0.2, metavar="S", help="share of the triplets for validation")
    add("--test", type=float, default=0.2, metavar="S", help="share of the triplets for the test")
    add("--block-m", type=float, default=20000, metavar="M", help="side of a block, for --by block")
    add(
        "--buffer-m",
        type=float,
        default=2000,
        metavar="M",
        help="distance kept between blocks of different splits",
    )
    return parser


def main(args) -> int:
    from data_prep import pictures, triplets

    args.fractions = {"train": 1 - args.val - args.test, "val": args.val, "test": args.test}
    if (
        min(args.fractions.values()) < 0
        or args.fractions["train"] <= 0
        or args.block_m <= 0
        or args.buffer_m < 0
    ):
        raise BadInput(
            f"--val {args.val:g} --test {args.test:g}: shares must leave something to train on, "
            "--block-m must be positive and --buffer-m not negative."
        )
    if args.out.resolve() == args.data.resolve():
        raise BadInput(f"--out {args.out}: must be another folder than --data.")
    source = triplets.read_manifest(args.data)
    if source.original:
        raise BadInput(f"{args.data}: the original's folders are split already, by their names.")
    run = runs.Run(args, runs.triplets_inputs(args.data))
    if run.finished():
        return runs.DONE
    splits = METHODS[args.by](source.rows, args)
    empty = [name for name, fraction in args.fractions.items() if fraction and name not in splits]
    if empty:
        raise BadInput(
            f"{args.data}: nothing is left for split {', '.join(empty)} with --by {args.by}; bring more "
            "ground or years, or lower --buffer-m."
        )
    clash = None if args.by == "year" else shared_ground(source.rows, splits)
    if clash:
        raise BadInput(
            f"{args.data}: {clash[0]} and {clash[1]} show the same ground in different splits; give "
            "overlapping sites one name, or use --by block."
        )
    table = balance(source.rows, splits)
    for name, row in table.items():
        share = "-" if row["snow_share"] is None else f"{row['snow_share']:.3f}"
        runs.say(
            f"{name:6s} {row['triplets']:6d} triplets {row['sites']:4d} sites   "
            f"snow {share} of labelled pixels, snow in {row['tiles_with_snow']} tiles"
        )
    filled = {name: row for name, row in table.items() if name != "unused" and row["triplets"]}
    without_snow = [name for name, row in filled.items() if not row["tiles_with_snow"]]
    for name in without_snow:
        lost = "nothing shows it snow" if name == "train" else "its scores say nothing about finding snow"
        runs.say(f"warning: {name} has no snow at all: {lost}; bring snowy sites or dates")
    if args.by == "year":
        runs.say(
            "split by year: the same ground is on both sides, in other winters; "
            "scores say nothing of new places"
        )
    if args.dry_run:
        return runs.DONE
    run.begin()
    link_files(args.data, args.out)
    rows = [
        {
            **row,
            "split": split,
            **{
                kind: row[kind] and row[kind].relative_to(args.data) for kind in triplets.FILES if kind in row
            },
        }
        for row, split in zip(source.rows, splits, strict=True)
    ]
    triplets.write_manifest(args.out / "triplets.csv", rows)
    runs.write_text(
        args.out / "split.csv",
        "split,triplets,sites,snow_pixels,snow_free_pixels,tiles_with_snow\n"
        + "".join(
            f"{name},{r['triplets']},{r['sites']},{r['snow']},{r['snow_free']},{r['tiles_with_snow']}\n"
            for name, r in table.items()
        ),
    )
    title = f"Split by {args.by}{triplets.origin(rows)}"
    pictures.class_balance(args.out / "class_balance.png", table, title)
    return run.finish(balance=table, without_snow=without_snow, by=args.by, shares_ground=args.by == "year")


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
