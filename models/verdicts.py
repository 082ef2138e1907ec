"""Plain words for a claim about a sign: supported, not supported, or undetectable with this n."""

SUPPORTED, NOT_SUPPORTED, UNDETECTABLE = "supported", "not supported", "undetectable with this n"
NO_TEST = "not tested"


def verdict(sign: int, estimate, p, smallest, worth: float, level: float = 0.05) -> str:
    """The verdict on "the effect has this sign" from an estimate and its p (corrected for all tests made).

    smallest: effect that would have been found with 80 % power (trends.smallest_detectable); worth: smallest
    effect worth knowing of, same unit. Significant: supported or, with the other sign, not supported. Not
    significant: not supported if an effect of `worth` would have been found, else undetectable.
    """
    if estimate is None or p is None or smallest is None:
        return NO_TEST
    if p < level:
        return SUPPORTED if estimate * sign > 0 else NOT_SUPPORTED
    return NOT_SUPPORTED if smallest <= worth else UNDETECTABLE


def in_words(claim: str, word: str, estimate, p, smallest, worth: float, unit: str) -> str:
    """One sentence: the claim, the verdict and the figures that it rests on."""
    if word == NO_TEST:
        return f"{claim}: {word}, this table does not hold what it needs."
    found = f"{short(estimate)} {unit}, p {p:.2g} corrected for all tests"
    if word == SUPPORTED:
        return f"{claim}: {word} ({found}); associated with, which is not caused by."
    if p < 0.05:
        return f"{claim}: {word}, the opposite is seen ({found})."
    reach, matters = short(smallest), short(worth)
    if word == NOT_SUPPORTED:
        return f"{claim}: {word} ({found}); {reach} would have been seen, {matters} matters."
    return f"{claim}: {word} ({found}); only {reach} or more would have been seen, {matters} matters."


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2g}"
