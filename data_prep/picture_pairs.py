"""The RGB picture and the radar picture of triplets beside each other, and which triplets to take when."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data_prep import compose, runs, triplets
from data_prep.runs import BadInput


class PicturePairs:
    """RGB and SAR uint8 (2, H, W, 3), mask uint8 (H, W), bool (H, W) seen in both, index; by (epoch, index).

    rows: of a manifest; how: a key of compose.COMPOSE; limits: of compose.scene_limits.
    """

    def __init__(self, rows: list[dict], how: str, limits: dict, target: str):
        self.rows, self.how, self.limits, self.target = rows, how, limits, target

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]):
        row = self.rows[key[1]]
        rgb, in_rgb = compose.rgb_picture(row)
        sar, in_sar = compose.sar_picture(row, self.how, self.limits)
        mask = triplets.read_mask(row, self.target)
        if not rgb.shape[:2] == sar.shape[:2] == mask.shape:
            sizes = f"RGB {rgb.shape[:2]}, SAR {sar.shape[:2]}, mask {mask.shape}"
            raise BadInput(f"{row['id']}: its files differ in size: {sizes}; curate them again.")
        return np.stack([rgb, sar]), mask, in_rgb & in_sar, key[1]

    def inspect(self, skip_bad: bool) -> list[str]:
        """Read every pair once; refuse bad ones, or leave them out and return what is wrong with them.

        Rows get height, width, known (share of pixels with label and both pictures), snow (share of those).
        """
        good, bad = [], []
        with ThreadPoolExecutor(runs.core_count()) as pool:
            found = runs.progress(pool.map(self._look, range(len(self))), len(self), "reading")
            for row, problem in zip(self.rows, found, strict=True):
                if problem is None:
                    good.append(row)
                    continue
                if not skip_bad:
                    hint = "Mend it, or leave such triplets out with --skip-bad."
                    raise BadInput(f"{problem.rstrip('.')}. {hint}")
                runs.say(f"left out: {problem}")
                bad.append(problem)
        self.rows = good
        return bad

    def _look(self, index: int) -> str | None:
        row = self.rows[index]
        try:
            _, mask, seen, _ = self[0, index]
        except BadInput as error:
            return str(error)
        row["height"], row["width"] = mask.shape
        known = seen & (mask != triplets.NO_DATA)
        row["known"], row["snow"] = float(known.mean()), float((mask[known] == 1).sum() / max(1, known.sum()))
        return None if seen.any() else f"{row['id']}: no pixel is seen in both RGB and SAR."


def by_turns(rows: list[dict]) -> list[dict]:
    """One row of each site in turn: the row before is of another place as long as there is another."""
    rank, numbers = [], {}
    for row in rows:
        numbers[row["site"]] = numbers.get(row["site"], -1) + 1
        rank.append((numbers[row["site"]], row["site"]))
    return [rows[k] for k in sorted(range(len(rows)), key=rank.__getitem__)]


def halves(rows: list[dict]) -> list[int]:
    """0 or 1 for each row: every other site; of a single site every other radar date."""
    names = [row["site"] for row in rows]
    names = names if len(set(names)) > 1 else [row["s1_date"] or row["id"] for row in rows]
    half = {name: place % 2 for place, name in enumerate(sorted(set(names)))}
    return [half[name] for name in names]


def most_mixed(rows: list[dict], count: int) -> list[int]:
    """Places of the rows to show: of different sites first, with snow and bare ground, well labelled."""

    def rank(place: int):  # about half snow; of the unmixed rather all snow than none
        row = rows[place]
        return abs(row["snow"] - 0.6) + 0.5 * (1 - row["known"]), row["id"]

    order = sorted(range(len(rows)), key=rank)
    first: dict[str, int] = {}
    for place in order:
        first.setdefault(rows[place]["site"], place)
    return [*first.values(), *(place for place in order if place not in first.values())][:count]
