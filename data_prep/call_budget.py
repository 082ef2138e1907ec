"""Pacing of calls against a service's limits over the last minute, hour and day, remembered on disk.

    budget = load(Path("calls.json"), FREE, time.time())
    time.sleep(wait_s(budget, weight, time.time()))
    charge(budget, weight, time.time())  # then the call, then settle(budget, time.time())

Needs runs.py beside it, for its errors and its files. Times are arguments, in seconds since 1970 UTC. The
service counts by the clock's minutes, hours and UTC days (its RateLimiter.swift); here no stretch of time of
those lengths, wherever it begins, holds more than the limit, so none of theirs does.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400
NAMES = {MINUTE_S: "a minute", HOUR_S: "an hour", DAY_S: "a day"}
FREE = (600, 5000, 10000)  # calls a minute, hour and day without a key (open-meteo.com/en/terms)
CLEARED_S = 60  # the service clears its counts within a minute after the full hour or day (RateLimiter.swift)


@dataclass
class Budget:
    """limits: (seconds, calls) of each window. spent: [time, weight] of the last day's calls, oldest first.

    closed_until, why: when a service that refused answers again, and what it said.
    """

    path: Path | None
    limits: tuple[tuple[int, float], ...]
    spent: list[list[float]] = field(default_factory=list)
    closed_until: float = 0.0
    why: str = ""


def load(path: Path | None, limits, now: float) -> Budget:
    """The budget of a file, or a fresh one; calls that a clock set back puts ahead count as of now."""
    budget = Budget(path, tuple(zip(NAMES, limits, strict=True)) if limits else ())
    if path is None or not path.exists():
        return budget
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        spent = [[min(float(time), now), float(weight)] for time, weight in known["spent"]]
        budget.spent = sorted(one for one in spent if one[0] > now - DAY_S)
        budget.closed_until, budget.why = (
            min(float(known["closed_until"]), now + 2 * DAY_S),
            str(known["why"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path}: is no record of spent calls ({type(error).__name__}); delete it, then "
            "today's calls are counted anew."
        ) from None
    return budget


def save(budget: Budget) -> None:
    if budget.path:
        known = {"spent": budget.spent, "closed_until": budget.closed_until, "why": budget.why}
        runs.write_json(budget.path, known)


def wait_s(budget: Budget, weight: float, now: float) -> float:
    """Seconds until a call keeps all limits; one heavier than a limit goes alone in its window."""
    when = max(now, budget.closed_until)
    for length, most in budget.limits:
        inside = [(time, cost) for time, cost in budget.spent if time > now - length]
        left = math.fsum(cost for _, cost in inside)
        for time, cost in inside:
            if left + weight <= most + 1e-9:
                break
            left, when = left - cost, max(when, time + length)
    return when - now


def full(budget: Budget, weight: float, now: float) -> str:
    """In words, what a call of this weight waits for."""
    if budget.closed_until > now:
        return f"the service says: {budget.why}"
    for length, most in reversed(budget.limits):
        if wait_s(Budget(None, ((length, most),), budget.spent), weight, now) > 0:
            return f"the {most:,g} calls {NAMES[length]} are used up"
    return "nothing"


def charge(budget: Budget, weight: float, now: float) -> None:
    """Write a call down before it is made, so that a run killed meanwhile does not forget it."""
    budget.spent = [one for one in budget.spent if one[0] > now - DAY_S] + [[now, weight]]
    save(budget)


def settle(budget: Budget, now: float) -> None:
    """The last call has ended: the service counted it between its charge and now, the later is safe."""
    budget.spent[-1][0] = now
    save(budget)


def refund(budget: Budget) -> None:
    """The last call was refused before it was counted."""
    budget.spent.pop()
    save(budget)


def close(budget: Budget, reason: str, now: float) -> bool:
    """Take note of a refusal (the `reason` of a 429); False if it does not say which limit it is of."""
    for word, length in (("minutely", MINUTE_S), ("hourly", HOUR_S), ("daily", DAY_S)):
        if word in reason.lower():
            full_hour_or_day = (now // length + 1) * length + CLEARED_S
            budget.closed_until = now + MINUTE_S + 1 if length == MINUTE_S else full_hour_or_day
            budget.why = reason
            save(budget)
            return True
    return False


def forecast_s(budget: Budget, weights, now: float) -> float:
    """Seconds until the last of these calls is made, if answers take no time."""
    trial, end = Budget(None, budget.limits, list(budget.spent), budget.closed_until), now
    for weight in weights:
        end += wait_s(trial, weight, end)
        charge(trial, weight, end)
    return end - now
