import contextlib
import csv
import datetime
import json
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests_cache
from conftest import ROOT, SHARED, command, result, run
from hypothesis import given, settings
from hypothesis import strategies as st
from open_meteo_server import ORIGINAL_PLACE, REASONS, serving

from data_prep import answer_cache, call_budget, degree_days, open_meteo, runs, weather
from data_prep.call_budget import FREE, Budget, charge, close, forecast_s, load, settle, wait_s
from data_prep.open_meteo import VARIABLES, Service, ServiceError, ask, weight

WINDOWS = tuple(zip(call_budget.NAMES, FREE, strict=True))
REAL = ("temperature_2m_max", "temperature_2m_min", "temperature_2m_mean", "rain_sum", "snowfall_sum")
VALAIS, GRISONS = (46.22, 7.18), (46.85, 9.47)
START = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self, now: float = START):
        self.now, self.slept = now, []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def site(name="a", place=VALAIS, start="2018-01-01", end="2018-01-31"):
    first, last = map(datetime.date.fromisoformat, (start, end))
    return SimpleNamespace(name=name, latitude=place[0], longitude=place[1], start=first, end=last)


@contextlib.contextmanager
def service(folder: Path, server, clock, limits=FREE, **more):
    """A Service as the job makes it, but on a clock of our own."""
    folder.mkdir(exist_ok=True)
    backend = requests_cache.SQLiteCache(folder / "answers.sqlite", serializer="json")
    with requests_cache.CachedSession(backend=backend) as session:
        budget = load(folder / "calls.json", limits, clock())
        yield Service(session, server.url, budget, clock=clock, sleep=clock.sleep, **more)


def write_sites(path: Path, *rows) -> Path:
    lines = [f"{name},{place[0]},{place[1]},1000,{start},{end}" for name, place, start, end in rows]
    path.write_text("site,latitude,longitude,half_width_m,start,end\n" + "\n".join(lines) + "\n")
    return path


def read_csv(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# ---- what calls count as, and the limits -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "variables", "calls"),
    [
        (
            14,
            15,
            1.5,
        ),  # the service's own examples (open-meteo.com/en/pricing, "How is one API call defined?")
        (28, 15, 3.0),
        (1, 1, 1.0),
        (7, 20, 2.0),  # fewer days make it no lighter than its variables
        (3653, 9, 3653 / 14 * 0.9),
    ],
)
def test_a_call_counts_as_the_service_documents(days, variables, calls):
    assert weight(days, variables) == pytest.approx(calls)


def make_calls(budget, clock, weights, takes=lambda: 0.0) -> list[tuple[float, float, float]]:
    """(begin, end, weight) of calls made as soon as the limits allow, one after the other."""
    made = []
    for cost in weights:
        while (seconds := wait_s(budget, cost, clock())) > 0:
            clock.sleep(seconds)
        began = clock()
        charge(budget, cost, began)
        clock.now += takes()
        settle(budget, clock())
        made.append((began, clock(), cost))
    return made


@pytest.mark.parametrize(("length", "most"), WINDOWS)
def test_each_limit_alone_holds_calls_back_until_its_window_has_room(length, most):
    clock = Clock()
    made = make_calls(Budget(None, ((length, most),)), clock, [most / 4] * 9)
    assert [began - START for began, *_ in made] == [0] * 4 + [length] * 4 + [2 * length]


def test_all_three_limits_at_once_spread_ten_years_of_two_hundred_sites_over_five_days():
    cost, clock = weight(3653, 9), Clock()
    budget = Budget(None, WINDOWS)
    assert forecast_s(budget, [cost] * 200, START) == pytest.approx(
        make_calls(budget, clock, [cost] * 200)[-1][0] - START
    )
    assert 4 < (clock() - START) / 86400 < 4.2
    assert wait_s(Budget(None, ()), cost, START) == 0


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.floats(1, 700), min_size=1, max_size=60),
    waits=st.lists(st.floats(0, 4000), min_size=60, max_size=60),
    takes=st.lists(st.floats(0, 90), min_size=60, max_size=60),
    limits=st.tuples(st.floats(20, 600), st.floats(100, 5000), st.floats(500, 10000)),
)
def test_no_stretch_of_a_minute_an_hour_or_a_day_ever_holds_more_than_its_limit(
    weights, waits, takes, limits
):
    budget, clock = Budget(None, tuple(zip(call_budget.NAMES, limits, strict=True))), Clock()
    made = []
    for cost, pause, took in zip(weights, waits, takes, strict=False):
        clock.now += pause
        made += make_calls(budget, clock, [cost], lambda took=took: took)
    # The service counts a call somewhere between its begin and its end.
    for counted in (0, 1):
        for length, most in budget.limits:
            for first in range(len(made)):
                inside = [one for one in made[first:] if one[counted] < made[first][counted] + length - 1e-3]
                total = sum(cost for *_, cost in inside)
                assert total <= most + 1e-6 or len(inside) == 1  # one heavier than the limit goes alone


def test_spent_calls_are_known_to_the_next_run_and_forgotten_after_a_day(tmp_path):
    path = tmp_path / "calls.json"
    budget = load(path, FREE, START)
    charge(budget, 600, START)
    later = load(path, FREE, START + 10)
    assert wait_s(later, 1, START + 10) == 50
    assert load(path, FREE, START + 86400).spent == []
    assert load(path, FREE, START - 500).spent == [[START - 500, 600]]  # the clock was set back
    path.write_text("{")
    with pytest.raises(runs.BadInput, match="delete it"):
        load(path, FREE, START)


@pytest.mark.parametrize(
    ("reason", "opens"),
    [
        ("minutely", START + 61),
        ("hourly", START - START % 3600 + 3600 + 60),  # 2023-11-14 23:01 UTC
        ("daily", START - START % 86400 + 86400 + 60),  # 2023-11-15 00:01 UTC
    ],
)
def test_a_refusal_closes_the_service_as_long_as_its_reason_says(tmp_path, reason, opens):
    budget = load(tmp_path / "calls.json", FREE, START)
    assert close(budget, REASONS[reason], START)
    assert START + wait_s(budget, 1, START) == opens
    assert wait_s(load(tmp_path / "calls.json", FREE, START), 1, START) == opens - START  # the next run knows
    assert not close(budget, REASONS["busy"], START)


# ---- asking ------------------------------------------------------------------------------------------------


def test_a_site_is_asked_for_once_and_then_answered_from_disk(tmp_path):
    clock = Clock()
    with serving() as server, service(tmp_path / "c", server, clock) as one:
        first, held = ask(one, site(), VARIABLES, "era5_seamless", "auto")
        again, held_again = ask(one, site(), VARIABLES, "era5_seamless", "auto")
    assert (held, held_again, len(server.asked)) == (False, True, 1)
    assert first.columns == again.columns and first.about["request"] == again.about["request"]
    words = server.asked[0]
    assert words["models"] == "era5_seamless" and words["daily"].split(",") == list(VARIABLES)
    assert (words["start_date"], words["end_date"], words["timezone"]) == ("2018-01-01", "2018-01-31", "auto")
    assert first.elevation_m == 488 and first.about["timezone"] == "Europe/Zurich"
    assert one.budget.spent == [[START, pytest.approx(weight(31, 9))]]


def test_days_that_are_not_settled_yet_are_asked_for_again_after_a_day(tmp_path):
    today = datetime.datetime.now(datetime.UTC).date()
    fresh = site(start=(today - datetime.timedelta(20)).isoformat(), end=today.isoformat())
    clock = Clock(time.time() - 2 * 86400)  # it was asked two days ago, when its end was not settled
    with serving() as server, service(tmp_path / "c", server, clock) as one:
        for name in ("a", "b"):
            ask(one, site(name, end="2018-02-01"), VARIABLES[:2], "era5_seamless", "auto")
            ask(one, fresh, VARIABLES[:2], "era5_seamless", "auto")
        assert len(server.asked) == 3
        one.offline = True
        assert ask(one, fresh, VARIABLES[:2], "era5_seamless", "auto")[1]


@pytest.mark.parametrize("fault", ["500", "cut", "truncated", "busy"])
def test_a_passing_fault_is_asked_over_and_a_lasting_one_ends_in_a_sentence(tmp_path, fault):
    clock = Clock()
    with serving(faults=[fault, fault]) as server, service(tmp_path / "c", server, clock) as one:
        answer, _ = ask(one, site(), VARIABLES, "era5_seamless", "auto")
        assert len(server.asked) == 3 and clock.slept == [1, 2] and len(answer.days) == 31
        server.always = fault
        with pytest.raises(ServiceError, match=r"site b: .* 4 times; try again later"):
            ask(one, site("b", GRISONS), VARIABLES, "era5_seamless", "auto")
        assert len(one.session.cache.responses) == 1 and server.most_at_once == 1


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("units", "temperature_2m_max in °F, expected °C"),
        ("missing", "has no wind_speed_10m_max; found time, temperature_2m_max"),
        ("short", "has 30 days from 2018-01-01, expected 31"),
    ],
)
def test_an_answer_to_another_question_is_named_and_not_kept(tmp_path, fault, says):
    with serving(faults=[fault]) as server, service(tmp_path / "c", server, Clock()) as one:
        with pytest.raises(ServiceError, match=says):
            ask(one, site(), VARIABLES, "era5_seamless", "auto")
        assert ask(one, site(), VARIABLES, "era5_seamless", "auto")[1] is False


def test_minutely_and_hourly_refusals_are_waited_out_and_cost_nothing(tmp_path):
    clock = Clock()
    with serving(faults=["minutely", "hourly"]) as server, service(tmp_path / "c", server, clock) as one:
        ask(one, site(), VARIABLES, "era5_seamless", "auto")
    assert clock.slept[0] == 61 and clock() % 3600 == 60 and len(server.asked) == 3
    assert len(one.budget.spent) == 1


def test_a_daily_refusal_stops_the_run_or_is_waited_out_when_told_to(tmp_path):
    clock = Clock()
    with serving(faults=["daily", "daily"]) as server, service(tmp_path / "c", server, clock) as one:
        clock.now -= 7200  # far from midnight
        with pytest.raises(runs.Interrupted, match=r"Go on after 2023-11-15 00:01:00 UTC: the service says"):
            ask(one, site(), VARIABLES, "era5_seamless", "auto")
        with pytest.raises(runs.Interrupted, match="Go on after"):  # and the service is left alone until then
            ask(one, site(), VARIABLES, "era5_seamless", "auto")
        assert len(server.asked) == 1 and clock.slept == []
        one.wait = True
        ask(one, site(), VARIABLES, "era5_seamless", "auto")
    assert len(server.asked) == 3 and clock() == START - START % 86400 + 2 * 86400 + 60


def test_a_service_that_refuses_for_ever_is_not_asked_for_ever(tmp_path):
    with (
        serving(always="minutely") as server,
        service(tmp_path / "c", server, Clock()) as one,
        pytest.raises(runs.Interrupted, match="again and again"),
    ):
        ask(one, site(), VARIABLES, "era5_seamless", "auto")
    assert len(server.asked) == open_meteo.REFUSALS + 1


def test_no_network_is_a_sentence_that_does_not_hold_the_key(tmp_path):
    gone = SimpleNamespace(url="http://127.0.0.1:9/v1/archive")
    with (
        service(tmp_path / "c", gone, Clock(), key="SECRETKEY") as one,
        pytest.raises(ServiceError) as caught,
    ):
        ask(one, site(), VARIABLES, "era5_seamless", "auto")
    assert "127.0.0.1 gives no answer (ConnectionError), 4 times" in str(caught.value)
    assert "SECRETKEY" not in str(caught.value)


def test_a_service_that_is_too_slow_is_given_up(tmp_path):
    with (
        serving(slow_s=0.4) as server,
        service(tmp_path / "c", server, Clock(), timeout_s=0.1) as one,
        pytest.raises(ServiceError, match="ReadTimeout"),
    ):
        ask(one, site(), VARIABLES, "era5_seamless", "auto")
    assert one.requests == 4


def test_a_redirect_is_not_followed_with_the_key(tmp_path):
    with (
        serving() as other,
        serving(always="redirect", change={"Location": other.url}) as server,
        service(tmp_path / "c", server, Clock(), key="SECRETKEY") as one,
        pytest.raises(ServiceError, match="the service answers 302"),
    ):
        ask(one, site(), VARIABLES, "era5_seamless", "auto")
    assert other.asked == []


def test_what_the_service_refuses_is_bad_input_in_its_own_words(tmp_path):
    with serving() as server, service(tmp_path / "c", server, Clock()) as one:
        with pytest.raises(runs.BadInput, match=r"site a: .*400: .* invalid String value no_such_thing"):
            ask(one, site(), ["no_such_thing"], "era5_seamless", "auto")
        with pytest.raises(runs.BadInput, match="Invalid timezone"):
            ask(one, site(), VARIABLES, "era5_seamless", "Nowhere")


# ---- the job -----------------------------------------------------------------------------------------------

THREE = (
    ("valais", VALAIS, "2018-01-01", "2023-12-31"),
    ("grisons", GRISONS, "2018-01-01", "2023-12-31"),
    ("original", ORIGINAL_PLACE, "2014-01-06", "2024-12-26"),
)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three sites brought in real time within the free limits: the folder, the server, the result."""
    base = tmp_path_factory.mktemp("weather")
    sites = write_sites(base / "sites.csv", *THREE)
    with serving(slow_s=0.1) as server:
        done = run("weather", "--data", sites, "--out", base / "out", "--url", server.url)
        yield base, server, result(done), done.stderr


@pytest.fixture
def here(capsys):
    """Run the job in this process: (exit code, last line on stderr); handlers of signals are put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}

    def job(*words) -> tuple[int, str]:
        code = runs.start(weather.main, weather.get_parser(), [str(word) for word in words])
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return code, err.strip().splitlines()[-1]

    yield job
    for number, handler in before.items():
        signal.signal(number, handler)


def test_three_sites_take_three_requests_one_at_a_time(three):
    _, server, figures, _ = three
    assert len(server.asked) == 3 and server.most_at_once == 1
    assert figures["requests"] == 3 and figures["days"] == 2191 * 2 + 4008
    assert figures["weighted_calls"] == pytest.approx(2 * weight(2191, 9) + weight(4008, 9))
    assert figures["variables"] == list(VARIABLES)


def test_values_are_the_source_s_to_the_last_digit(three):
    base, *_ = three
    found = {(row["site"], row["date"]): row for row in read_csv(base / "out" / "weather.csv")}
    compared = 0
    for name, path in (("valais", "weather_valais.csv"), ("grisons", "weather_graubuenden.csv")):
        with open(SHARED / "weather" / path, newline="", encoding="utf-8") as stream:
            lines = list(csv.reader(stream))
        assert tuple(head.split(" (")[0] for head in lines[3][1:]) == REAL
        for day, *texts in lines[4:]:
            assert [found[name, day][variable] for variable in REAL] == texts
            compared += len(texts)
    assert compared == 2 * 2191 * 5
    table = {row["time"]: row for row in read_csv(SHARED / "original" / "results_df.csv")}
    for day, row in table.items():
        for variable in ("temperature_2m_max", "precipitation_sum", "relative_humidity_2m_mean"):
            assert found["original", day][variable] == row[variable]


def test_missing_values_stay_empty_and_are_counted(three):
    base, _, figures, said = three
    rows = [row for row in read_csv(base / "out" / "weather.csv") if row["site"] == "original"]
    days = {row["time"] for row in read_csv(SHARED / "original" / "results_df.csv")}
    assert {row["date"] for row in rows if row["temperature_2m_max"]} == days
    assert (
        figures["missing"]["temperature_2m_max"] == 4008 - len(days) and figures["missing"]["rain_sum"] == 0
    )
    about = json.loads((base / "out" / "weather.json").read_text())
    assert about["sites"]["valais"]["missing"]["temperature_2m_max"] == 0
    assert f"temperature_2m_max {4008 - len(days)}" in said


def test_weather_json_says_what_the_values_are(three):
    base, server, *_ = three
    about = json.loads((base / "out" / "weather.json").read_text())
    assert (about["model"], about["timezone"]) == ("era5_seamless", "Europe/Zurich")
    assert about["units"]["shortwave_radiation_sum"] == "MJ/m²" and about["units"]["snowfall_sum"] == "cm"
    of = about["sites"]["grisons"]
    assert (of["elevation_m"], of["grid_latitude"], of["utc_offset_seconds"]) == (600, 46.85413, 7200)
    assert of["request"].startswith(server.url) and "models=era5_seamless" in of["request"]
    series = degree_days.read_weather(base / "out" / "weather.csv")  # simulate and curate read it too
    assert series["valais"]["elevation_m"] == 488 and len(series["valais"]["dates"]) == 2191


def test_a_second_run_asks_for_nothing(three, here, tmp_path):
    base, server, *_ = three
    words = ("--data", base / "sites.csv", "--url", server.url, "--cache", base / "out" / "cache")
    for more in ((), ("--offline",)):
        out = tmp_path / f"again{len(more)}"
        assert here(*words, "--out", out, *more)[0] == 0
        assert (out / "weather.csv").read_bytes() == (base / "out" / "weather.csv").read_bytes()
        assert json.loads((out / "result.json").read_text())["requests"] == 0
    assert (
        "already done"
        in run("weather", "--data", base / "sites.csv", "--out", base / "out", "--url", server.url).stderr
    )
    assert here(*words, "--out", tmp_path / "plan", "--dry-run")[0] == 0 and not (tmp_path / "plan").exists()
    assert len(server.asked) == 3


def test_dry_run_of_two_hundred_sites_and_ten_years_says_calls_and_days(tmp_path):
    rows = [(f"s{n}", (40 + n / 20, 8), "2014-01-01", "2023-12-31") for n in range(200)]
    done = run(
        "weather", "--data", write_sites(tmp_path / "sites.csv", *rows), "--out", tmp_path / "o", "--dry-run"
    )
    assert "200 requests of archive-api.open-meteo.com, which count as 46,954 calls" in done.stderr
    assert "within the free limits (600 a minute, 5,000 an hour, 10,000 a day): done on day 5" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sites.csv"]


def test_a_used_up_day_ends_in_75_and_the_next_run_asks_only_for_the_rest(tmp_path, here):
    rows = [(f"s{n}", (40 + n, 8), "2020-01-01", "2020-12-31") for n in range(5)]
    words = ["--data", write_sites(tmp_path / "sites.csv", *rows), "--out", tmp_path / "o"]
    cost = weight(366, 9)
    with serving() as server:
        words += ["--url", server.url]
        day = ("--calls", 600, 5000, 2.5 * cost)
        code, said = here(*words, *day)
        assert code == 75 and "2 of 5 sites are there. Go on after" in said and "a day are used up" in said
        assert not (tmp_path / "o" / "weather.csv").exists() and len(server.asked) == 2
        code, said = here(*words, *day)  # the same day
        assert code == 75 and len(server.asked) == 2
        calls = next((tmp_path / "o" / "cache").glob("calls_*.json"))
        yesterday = json.loads(calls.read_text())
        for one in yesterday["spent"]:
            one[0] -= 86400
        calls.write_text(json.dumps(yesterday))
        assert here(*words, *day)[0] == 75 and len(server.asked) == 4
        assert here(*words)[0] == 0 and len(server.asked) == 5
    assert len({words["latitude"] for words in server.asked}) == 5
    assert len(read_csv(tmp_path / "o" / "weather.csv")) == 5 * 366


def test_a_killed_run_goes_on_without_asking_again(tmp_path):
    rows = [(f"s{n}", (40 + n, 8), "2020-01-01", "2020-03-31") for n in range(8)]
    words = ("--data", write_sites(tmp_path / "sites.csv", *rows), "--out", tmp_path / "o")
    with serving(slow_s=0.15) as server:
        for number, killed in ((3, signal.SIGKILL), (6, signal.SIGTERM)):
            job = subprocess.Popen(
                command("weather", *words, "--url", server.url), cwd=ROOT, stderr=subprocess.DEVNULL
            )
            while len(server.asked) < number:
                assert job.poll() is None
                time.sleep(0.01)
            job.send_signal(killed)
            assert job.wait() == (-9 if killed == signal.SIGKILL else 75)
            calls = json.loads(next((tmp_path / "o" / "cache").glob("calls_*.json")).read_text())
            assert len(calls["spent"]) == len(server.asked)  # the call that was cut is on record
        server.slow_s = 0
        done = result(run("weather", *words, "--url", server.url))
    assert len(server.asked) <= 9 and server.most_at_once == 1  # the one that SIGKILL cut is asked for again
    assert (
        done["requests"] + done["from_cache"] == 8 and len(read_csv(tmp_path / "o" / "weather.csv")) == 8 * 91
    )
    assert not list((tmp_path / "o").glob(".*.tmp"))


def test_a_key_goes_to_the_host_and_into_no_file_or_line(tmp_path, here, monkeypatch):
    sites = write_sites(tmp_path / "sites.csv", ("a", VALAIS, "2020-01-01", "2020-01-31"))
    words = ("--data", sites, "--out", tmp_path / "o")
    with serving(key="SECRET-123") as server:
        monkeypatch.setenv("OPEN_METEO_API_KEY", "SECRET-123")
        code, said = here(*words, "--url", server.url)  # that host was not given it
        assert code == 2 and "API key required" in said and "apikey" not in server.asked[0]
        code, said = here(*words, "--url", server.url, "--api-key", "WRONG")
        assert code == 2 and "supplied API key is invalid" in said
        assert here(*words, "--url", server.url, "--api-key", "SECRET-123")[0] == 0
        assert server.asked[-1]["apikey"] == "SECRET-123"
        again = (
            "--data",
            sites,
            "--out",
            tmp_path / "p",
            "--cache",
            tmp_path / "o" / "cache",
            "--url",
            server.url,
        )
        assert (
            here(*again, "--api-key", "OTHER")[0] == 0 and len(server.asked) == 3
        )  # the cache knows no keys
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5 and not any(b"SECRET-123" in path.read_bytes() for path in files)
    code, said = here(*words, "--dry-run", "--overwrite")
    assert code == 0 and "SECRET" not in said
    monkeypatch.delenv("OPEN_METEO_API_KEY")
    code, said = here(*words, "--overwrite", "--url", open_meteo.CUSTOMER)
    assert code == 2 and "needs a key; set OPEN_METEO_API_KEY" in said
    code, said = here(*words, "--overwrite", "--url", "http://example.org/v1/archive", "--api-key", "k")
    assert code == 2 and "use https" in said


@pytest.mark.parametrize(
    ("row", "saying"),
    [
        (("a", (91, 8), "2020-01-01", "2020-02-01"), "latitude 91"),
        (("a", (46, 181), "2020-01-01", "2020-02-01"), "longitude 181"),
        (("a", ("x", 8), "2020-01-01", "2020-02-01"), "must be numbers"),
        (("a", VALAIS, "2020-02-01", "2020-01-01"), "lies after end 2020-01-01"),
        (("a", VALAIS, "2020-02-30", "2020-03-01"), "expected dates YYYY-MM-DD"),
        (("a", VALAIS, "1939-12-31", "1940-02-01"), "the archive on 1940-01-01"),
        (("a", VALAIS, "2020-01-01", "2999-01-01"), "in the future"),
    ],
)
def test_places_and_days_that_cannot_be_are_refused(tmp_path, here, row, saying):
    sites = write_sites(tmp_path / "sites.csv", row)
    code, said = here("--data", sites, "--out", tmp_path / "o", "--url", "http://127.0.0.1:9/")
    assert code == 2 and saying in said and "sites.csv" in said
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("words", "saying"),
    [
        (("--variables", "temperature_2m_max&x"), "--variables temperature_2m_max&x: expected names"),
        (("--models", "era5,era5_land"), "--models era5,era5_land: expected one name"),
        (("--timezone", "a b"), "--timezone a b: expected auto, UTC"),
        (("--calls", 0, 1, 1), "limits must be 1 or more"),
        (("--url", "ftp://x/y"), "--url: expected https://host/path"),
        (("--offline",), "--offline: "),
        (("--import", "nowhere.csv"), "nowhere.csv: no such file"),
    ],
)
def test_arguments_that_cannot_be_are_refused(tmp_path, here, words, saying):
    sites = write_sites(tmp_path / "sites.csv", ("a", VALAIS, "2020-01-01", "2020-02-01"))
    code, said = here("--data", sites, "--out", tmp_path / "o", *words)
    assert code == 2 and saying in said


def test_a_failing_service_ends_in_1_and_loses_nothing(tmp_path, here):
    rows = [(f"s{n}", (40 + n, 8), "2020-01-01", "2020-01-31") for n in range(3)]
    words = ("--data", write_sites(tmp_path / "sites.csv", *rows), "--out", tmp_path / "o")
    with serving(faults=[None, "units"]) as server:
        code, said = here(*words, "--url", server.url)
        assert code == 1 and "site s1: " in said and "1 of 3 sites are kept" in said
        assert here(*words, "--url", server.url)[0] == 0 and len(server.asked) == 4
        code, said = here(*words, "--url", server.url, "--offline", "--overwrite", "--timezone", "UTC")
        assert code == 2 and "site s0: its weather is not in the cache; run once without --offline" in said


def test_without_requests_cache_the_pip_line_is_said(tmp_path, here, monkeypatch):
    sites = write_sites(tmp_path / "sites.csv", ("a", VALAIS, "2020-01-01", "2020-01-31"))
    monkeypatch.setitem(sys.modules, "requests_cache", None)
    code, said = here("--data", sites, "--out", tmp_path / "o", "--url", "http://127.0.0.1:9/")
    assert code == 2 and "run `python -m pip install -r requirements-extra.txt`" in said


def test_two_runs_do_not_share_a_cache_at_once(tmp_path, here):
    sites = write_sites(tmp_path / "sites.csv", ("a", VALAIS, "2020-01-01", "2020-01-31"))
    with serving(slow_s=1.5) as server:
        words = ("--data", sites, "--cache", tmp_path / "c", "--url", server.url)
        first = subprocess.Popen(
            command("weather", *words, "--out", tmp_path / "o"), cwd=ROOT, stderr=subprocess.DEVNULL
        )
        while not server.asked:
            time.sleep(0.01)
        code, said = here(*words, "--out", tmp_path / "p")
        assert code == 2 and "another run uses it" in said
        assert first.wait() == 0 and len(server.asked) == 1


def test_a_cache_that_cannot_be_written_or_read_is_a_sentence(tmp_path, here):
    sites = write_sites(tmp_path / "sites.csv", ("a", VALAIS, "2020-01-01", "2020-01-31"))
    words = ("--data", sites, "--out", tmp_path / "o", "--url", "http://127.0.0.1:9/")
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", Path("/proc/here")):
        code, said = here(*words, "--cache", folder)
        assert code == 2 and f"--cache {folder}: cannot be written" in said
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "answers.sqlite").write_text("no database at all, but long enough to be looked at" * 40)
    code, said = here(*words, "--cache", tmp_path / "c")
    assert code == 2 and "no cache that can be used" in said


def test_a_cache_on_a_read_only_disk_serves_offline_and_says_so_otherwise(tmp_path, here):
    sites = write_sites(tmp_path / "sites.csv", ("a", VALAIS, "2020-01-01", "2020-01-31"))
    disk = tmp_path / "disk"
    with serving() as server:
        words = ("--data", sites, "--url", server.url, "--cache", disk)
        assert here(*words, "--out", tmp_path / "o")[0] == 0
        if subprocess.run(["mount", "--bind", "-o", "ro", disk, disk], capture_output=True).returncode:
            pytest.skip("a read-only disk needs the right to mount")
        try:
            code, said = here(*words, "--out", tmp_path / "p")
            assert code == 2 and "cannot be written (Read-only file system)" in said
            assert here(*words, "--out", tmp_path / "q", "--offline")[0] == 0
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def test_a_geometry_file_that_moved_is_another_input(tmp_path, here):
    sites = tmp_path / "sites.csv"
    sites.write_text("site,geometry,start,end\na,a.geojson,2020-01-01,2020-01-31\n")
    words = ("--data", sites, "--out", tmp_path / "o")
    with serving() as server:
        for west, expected in ((7.0, 0), (8.0, 2)):
            ring = [[west, 46], [west + 0.02, 46], [west + 0.02, 46.02], [west, 46]]
            (tmp_path / "a.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
            for _ in range(2):
                code, said = here(*words, "--url", server.url)
                assert code == expected, said
    assert "a.geojson" in said and len(server.asked) == 1


def test_a_cache_keeps_no_key_even_where_requests_cache_itself_keeps_the_answer(tmp_path):
    with serving(key="SECRET-123") as server, answer_cache.opened(tmp_path, offline=False) as session:
        words = {**open_meteo.question(site(), ["rain_sum"], "era5_seamless", "auto"), "apikey": "SECRET-123"}
        assert session.get(server.url, params=words).status_code == 200
        assert session.get(server.url, params={**words, "apikey": "OTHER"}).from_cache
    files = [path.read_bytes() for path in tmp_path.iterdir()]
    assert any(b"era5_seamless" in content for content in files)
    assert not any(b"SECRET-123" in content for content in files)


def test_offline_reads_what_a_killed_run_left_and_what_another_run_is_writing(tmp_path):
    """A journal beside the database holds what must be rolled back first; a plain copy would be torn."""
    path = tmp_path / "answers.sqlite"
    writer = f"""
import os, sqlite3
rows = [(n, "old" * 100) for n in range(2000)]
held = sqlite3.connect({str(path)!r})
held.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, v TEXT)")
held.executemany("INSERT INTO t VALUES (?, ?)", rows)
held.commit()
held.execute("PRAGMA cache_size = 5")
held.execute("UPDATE t SET v = replace(v, 'old', 'new')")
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", writer]).returncode == 9
    assert path.with_name("answers.sqlite-journal").stat().st_size > 0 and b"newnew" in path.read_bytes()
    (tmp_path / "copy").mkdir()
    copy = answer_cache.copied(path, tmp_path / "copy")
    with contextlib.closing(sqlite3.connect(copy)) as found:
        assert found.execute("SELECT DISTINCT v FROM t").fetchall() == [("old" * 100,)]
    with contextlib.closing(sqlite3.connect(path)) as writing:
        writing.execute("UPDATE t SET v = 'newer' WHERE n = 1")  # begun, not committed
        copy = answer_cache.copied(path, tmp_path / "copy")
        with contextlib.closing(sqlite3.connect(copy)) as found:
            assert found.execute("SELECT count(*) FROM t WHERE v = 'newer'").fetchone() == (0,)


def test_licence_is_in_the_words_of_its_owner():
    assert "contains modified Copernicus Climate Change Service information" in open_meteo.LICENCE


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path, here):
    rows = [(f"s{n}", (40 + n, 8), "2010-01-01", "2019-12-31") for n in range(3)]
    words = ("--data", write_sites(tmp_path / "sites.csv", *rows), "--out", tmp_path / "o")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving() as server:
        words += ("--url", server.url, "--calls", 9999, 9999, 9999)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))  # as a disk with room for two
            code, said = here(*words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert code == 2 and "is the disk full?" in said
        kept = len(server.asked) - 1
        assert kept >= 1 and here(*words)[0] == 0 and len(server.asked) == 3 + 1
    assert len(read_csv(tmp_path / "o" / "weather.csv")) == 3 * 3652


def test_implausible_values_are_named_and_kept(tmp_path, here):
    sites = write_sites(tmp_path / "sites.csv", ("a", (40, 8), "2020-01-01", "2020-01-31"))
    change = {
        ("temperature_2m_max", "2020-01-03"): "75.3",
        ("relative_humidity_2m_mean", "2020-01-04"): "101",
        ("precipitation_sum", "2020-01-05"): "-0.10",
        ("temperature_2m_min", "2020-01-06"): "59.9",
        ("rain_sum", "2020-01-07"): "null",
    }
    with serving(change=change) as server:
        code, said = here("--data", sites, "--out", tmp_path / "o", "--url", server.url)
    assert code == 0 and "4 implausible values are kept" in said
    rows = {row["date"]: row for row in read_csv(tmp_path / "o" / "weather.csv")}
    for (name, date), text in change.items():
        assert rows[date][name] == ("" if text == "null" else text)
    named = [
        (row["date"], row["variable"], row["value"]) for row in read_csv(tmp_path / "o" / "implausible.csv")
    ]
    assert named == [(date, name, text) for (name, date), text in change.items() if text != "null"]


# ---- downloads of Open-Meteo's own -------------------------------------------------------------------------


def test_a_download_of_the_service_s_own_is_taken_digit_by_digit(tmp_path, here):
    sites = write_sites(
        tmp_path / "sites.csv",
        ("valais", VALAIS, "2017-12-30", "2018-12-31"),
        ("b", GRISONS, "2018-01-01", "2018-12-31"),
    )
    files = (f"valais={SHARED / 'weather' / 'weather_valais.csv'}", tmp_path / "b.csv")
    shutil.copyfile(SHARED / "weather" / "weather_graubuenden.csv", files[1])
    assert here("--data", sites, "--out", tmp_path / "o", "--import", *files)[0] == 0  # nobody is asked
    rows = read_csv(tmp_path / "o" / "weather.csv")
    assert list(rows[0]) == ["site", "date", *REAL]
    with open(files[1], newline="", encoding="utf-8") as stream:
        source = {line[0]: line[1:] for line in list(csv.reader(stream))[4:]}
    assert all([row[name] for name in REAL] == source[row["date"]] for row in rows if row["site"] == "b")
    assert [row["temperature_2m_max"] for row in rows[:3]] == ["", "", "6.2"]
    about = json.loads((tmp_path / "o" / "weather.json").read_text())
    assert about["sites"]["valais"]["missing"] == dict.fromkeys(REAL, 2)
    assert about["sites"]["b"]["elevation_m"] == 600 and about["timezone"] == "Europe/Zurich"
    assert about["model"] == "not stated by the imported files" and about["units"]["rain_sum"] == "mm"


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        (lambda text: text.replace("9.46602", "12.5"), "km from site b"),
        (lambda text: text.replace("mean (°C)", "mean (°F)"), "temperature_2m_mean is in °F, expected °C"),
        (lambda text: text.replace("2018-01-02,", "2018-01-02T00:00,"), "download daily values"),
        (lambda text: text.replace("2018-01-02,3.7", "2018-01-02,x"), "temperature_2m_max 'x' on 2018-01-02"),
        (lambda text: text.replace("2018-01-02,", "2018-01-01,"), "2018-01-01 stands twice"),
        (lambda text: text.replace("2018-", "2008-"), "has no day of 2018-01-01 to 2018-12-31"),
        (lambda text: "site,date\n", "expected Open-Meteo's CSV of one place"),
    ],
)
def test_a_download_that_cannot_be_the_site_s_is_refused(tmp_path, here, change, saying):
    sites = write_sites(tmp_path / "sites.csv", ("b", GRISONS, "2018-01-01", "2018-12-31"))
    text = (SHARED / "weather" / "weather_graubuenden.csv").read_text(encoding="utf-8")
    (tmp_path / "b.csv").write_text(change(text), encoding="utf-8")
    code, said = here("--data", sites, "--out", tmp_path / "o", "--import", tmp_path / "b.csv")
    assert code == 2 and saying in said and "b.csv" in said


# ---- beside snow cover -------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_climate_analysis_reads_it_beside_a_snow_cover(three, tmp_path, whole):
    base, *_ = three
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("weather.csv", "weather.json"):
        shutil.copyfile(base / "out" / name, folder / name)
    lines = ["site,date,source,relative_orbit,valid_pixels,snow_pixels,snow_fraction,snow_area_km2"]
    for row in read_csv(folder / "weather.csv"):
        if row["site"] == "valais" and row["date"][8:] in ("01", "13", "25"):
            snow = round(min(1000, max(0, 500 - 30 * float(row["temperature_2m_mean"]))))
            lines.append(f"valais,{row['date']},unet,066,1000,{snow},{snow / 1000},{snow * 1e-4:.4f}")
    (folder / "snow_cover.csv").write_text("\n".join(lines) + "\n")
    words = (
        "--data",
        folder,
        "--out",
        tmp_path / "out",
        "--variables",
        "temperature_2m_mean",
        "snowfall_sum",
    )
    if not whole:
        assert (
            f"would analyse {len(lines) - 1} rows of 1 sites"
            in run("climate_analysis.py", *words, "--dry-run").stderr
        )
        return
    done = run("climate_analysis.py", *words, "--resamples", 100)
    assert result(done)["rows"] == len(lines) - 1
    assert "its days are those of time zone Europe/Zurich" in done.stderr
