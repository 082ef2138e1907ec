"""The RGB picture and the radar picture of triplets beside each other, and which triplets to take when."""

import textwrap

import numpy as np

from data_prep import compose, triplets
from data_prep.runs import BadInput

GROUPS = 256  # of sites, so that memory does not grow with their number
MIXED = (0.1, 0.9)  # share of snow between which a triplet shows both classes


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

    def inspect(self, skip_bad: bool, go_on=lambda: None) -> list[str]:
        """Read every pair once; refuse bad ones, or leave them out and return what is wrong with them.

        go_on: called after each, may raise to stop.
        Rows get height, width, known (share of pixels with label and both pictures), snow (share of those).
        """
        bad, numbers = [], range(len(self))
        good = triplets.each_good(numbers, self._look, skip_bad, "reading", bad, go_on)
        self.rows = [self.rows[index] for index, _ in list(good)]
        return bad

    def _look(self, index: int) -> None:
        row, (_, mask, seen, _) = self.rows[index], self[0, index]
        row["height"], row["width"] = mask.shape
        known = seen & (mask != triplets.NO_DATA)
        row["known"], row["snow"] = float(known.mean()), float((mask[known] == 1).sum() / max(1, known.sum()))
        if not seen.any():
            raise BadInput(f"{row['id']}: no pixel is seen in both RGB and SAR.")


def sites_in_turn(rows: list[dict]) -> list[dict]:
    """One row of each site in turn: the row before is of another place as long as there is another."""
    rank, numbers = [], {}
    for row in rows:
        numbers[row["site"]] = numbers.get(row["site"], -1) + 1
        rank.append((numbers[row["site"]], row["site"]))
    return [rows[k] for k in sorted(range(len(rows)), key=rank.__getitem__)]


def groups(rows: list[dict]) -> list[int]:
    """A number for each row: of its site, or of one of GROUPS groups of sites where there are more."""
    place = {site: k % GROUPS for k, site in enumerate(sorted({row["site"] for row in rows}))}
    return [place[row["site"]] for row in rows]


def most_mixed(rows: list[dict], count: int) -> list[int]:
    """Places of the rows to show: half snow and well labelled, of different sites first.

    Those under 10 % or over 90 % snow come last, and are shown only where there are too few others.
    """

    def rank(place: int):
        row = rows[place]
        return abs(row["snow"] - 0.5) + 0.5 * (1 - row["known"]), row["id"]

    seen, order = {}, []
    for place in sorted(range(len(rows)), key=rank):
        site, snow = rows[place]["site"], rows[place]["snow"]
        unmixed = not MIXED[0] <= snow <= MIXED[1]
        seen[site, unmixed] = seen.get((site, unmixed), 0) + 1
        order.append((unmixed, min(seen[site, unmixed], 2), rank(place), place))
    return [place for *_, place in sorted(order)[:count]]


def example(pairs: PicturePairs, place: int) -> dict:
    """What a figure shows of a row: pictures (RGB, SAR), mask with 255 where not seen, caption."""
    (images, mask, seen, _), row = pairs[0, place], pairs.rows[place]
    share = f"{row['snow']:.0%} snow of\n{row['known']:.0%} labelled"
    site = "\n".join(textwrap.wrap(row["site"], 18)[:2])
    caption = "\n".join(part for part in (site, row["s1_date"][:10], share) if part)
    return {
        "pictures": images, "mask": np.where(seen, mask, triplets.NO_DATA), "caption": caption,
    }  # fmt: skip
