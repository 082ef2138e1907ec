"""The figures of gap.measure in words: is one cloud the other, shifted?

    word, sentence = verdict(found)                      # found: gap.measure's

A word of WORDS, or "between A and B" where the intervals over sites reach over a bound.
"""

from models.gap import TREATMENTS

NEARLY_NONE, HALF = 0.1, 0.5  # of the distance of strangers: what a shift leaves of that of pairs. A choice
MOST, SOME = 0.9, 0.5  # of the squared distance of pairs: what a shift takes of it. A choice
SMALL, MIXED = 0.01, 0.6  # share of the variance between centres; probe and neighbours (0.5: mixed). A choice
WORDS = {  # from one cloud to two that have nothing to do with each other
    "no gap": "There is no gap",
    "translation": "Yes, the SAR cloud is the RGB cloud, shifted",
    "in part": "The SAR cloud is the RGB cloud, shifted, only in part",
    "near, but not by a shift": "The SAR cloud lies near the RGB cloud; what divides pairs is no shift",
    "not a translation": "No, the SAR cloud is not the RGB cloud, shifted",
}


def word_of(left: float, taken: float) -> str:
    """The word of what a shift leaves (of the distance of strangers) and takes (of that of pairs)."""
    if left > HALF:
        return "not a translation"
    if taken < SOME:
        return "near, but not by a shift"
    return "translation" if left <= NEARLY_NONE and taken >= MOST else "in part"


def ends(figures: dict, key: str, missing: float = 0.0) -> tuple[float, float]:
    """A figure's interval, or the figure twice where it has none."""
    value = missing if figures.get(key) is None else figures[key]
    low, high = figures.get(f"{key}_low"), figures.get(f"{key}_high")
    return (value, value) if low is None else (low, high)


def words(found: dict) -> list[str]:
    """All words the intervals allow, in the order of WORDS."""
    raw, shift = found["raw"], found["shift"]
    told = [ends(raw, key, 0.5) for key in ("probe", "neighbours")]
    near = (found["gap"]["share_of_variance"] or 0.0) < SMALL
    if near and all(high < MIXED for _, high in told):
        return ["no gap"]
    allowed = {word_of(left, taken) for left in ends(shift, "unexplained") for taken in ends(shift, "taken")}
    if near and all(low < MIXED for low, _ in told):
        allowed.add("no gap")
    return [word for word in WORDS if word in allowed]


def share(figures: dict, key: str) -> str:
    """A figure in percent, or in times where it is ten or more, with its interval."""
    value, (low, high) = figures[key] or 0, ends(figures, key)
    factor, unit = (1, "times") if value >= 10 else (100, "%")
    interval = (
        "" if figures.get(f"{key}_low") is None else f" ({factor * low:.0f} to {factor * high:.0f} {unit})"
    )
    return f"{factor * value:.0f} {unit}{interval}"


def verdict(found: dict) -> tuple[str, str]:
    """A word of WORDS or "between A and B", and a sentence with the figures it rests on.

    A translation leaves pairs at most NEARLY_NONE as far apart as strangers, squared, and takes at least MOST
    of their distance; in part: HALF and SOME; taking less, the clouds are near, but not by a shift. No gap:
    under SMALL of the variance lies between the centres, and both a linear probe and neighbours are right
    less often than MIXED. An interval that reaches over a bound makes it "between".
    """
    raw, shift, turned = (found[treatment] for treatment in TREATMENTS)
    allowed = words(found)
    word, claim = allowed[0], WORDS[allowed[0]]
    if len(allowed) > 1:
        word = f"between {allowed[0]} and {allowed[-1]}"
        claim = f"The pairs do not decide between {allowed[0]!r} and {allowed[-1]!r}"
    probed = ""
    if raw["probe"] is not None:
        probed = f"a linear probe tells SAR from RGB with accuracy {raw['probe']:.2f} before and "
        probed += f"{shift['probe']:.2f} after it, "
    ways = [figures["sar_to_rgb"]["r_at_1"] for figures in (raw, shift, turned)]
    return word, (
        f"{claim}: {found['gap']['share_of_variance'] or 0:.1%} of the variance lies between the centres; "
        f"a shift fitted on other sites takes away {share(shift, 'taken')} of the squared distance of pairs "
        f"and leaves them {share(shift, 'unexplained')} as far apart as strangers "
        f"(before: {share(raw, 'unexplained')}; with a rotation as well: {share(turned, 'unexplained')}); "
        f"{probed}{raw['neighbours']:.0%} and {shift['neighbours']:.0%} of nearest neighbours are of the "
        f"same modality (50 %: mixed); R@1 from SAR to RGB goes from {ways[0]:.3f} to {ways[1]:.3f}, with a "
        f"rotation as well to {ways[2]:.3f}, of {raw['sar_to_rgb']['gallery']} "
        f"(chance {raw['sar_to_rgb']['chance_r_at_1']:.3f})."
    )
