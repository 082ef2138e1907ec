"""A stand-in for Open-Meteo's archive on loopback: its JSON, its refusals, and its faults when told to.

    with serving() as server:
        run("weather", "--data", sites, "--out", out, "--url", server.url)
    python tests/open_meteo_server.py 8910

Values are real where the shared data have them (two Swiss valleys; the original's table, a day a week, the
others null) and made by a rule elsewhere. Answers follow open-meteo.com/en/docs/historical-weather-api and
the reasons that the service is known to give. What it was asked stands in `asked`, the most requests at a
time in `most_at_once`.
"""

import contextlib
import csv
import datetime
import json
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
UNITS = {
    "temperature": "°C", "precipitation_sum": "mm", "rain_sum": "mm", "snowfall_sum": "cm",
    "relative_humidity": "%", "shortwave_radiation_sum": "MJ/m²", "wind_speed": "km/h", "snow_depth": "m",
}  # fmt: skip
REASONS = {
    "minutely": "Minutely API request limit exceeded. Please try again in one minute.",
    "hourly": "Hourly API request limit exceeded. Please try again in the next hour.",
    "daily": "Daily API request limit exceeded. Please try again tomorrow.",
    "busy": "Too many concurrent requests",
}
ORIGINAL_PLACE = (46.50, 9.90)  # where the stand-in puts the original's table, which names no place


@dataclass
class Server:
    """faults: one for each request to come, None for none; `always` is for all those after them."""

    url: str = ""
    faults: list = field(default_factory=list)
    always: str | None = None
    key: str | None = None
    slow_s: float = 0.0
    change: dict = field(default_factory=dict)  # (variable, day): text of a value; Location of a redirect
    asked: list[dict] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def tables() -> list[dict]:
    """Of each place with real values: latitude, longitude, elevation (text), values by variable and day."""
    found = []
    for path in sorted((SHARED / "weather").glob("*.csv")):
        with open(path, newline="", encoding="utf-8") as stream:
            lines = list(csv.reader(stream))
        names = [name.split(" (")[0] for name in lines[3][1:]]
        days = {row[0]: dict(zip(names, row[1:], strict=True)) for row in lines[4:] if row}
        found.append(
            dict(zip(("latitude", "longitude", "elevation"), lines[1], strict=False)) | {"days": days}
        )
    path = SHARED / "original" / "results_df.csv"
    if path.exists():
        with open(path, newline="", encoding="utf-8") as stream:
            days = {row["time"]: row for row in csv.DictReader(stream)}
        latitude, longitude = map(str, ORIGINAL_PLACE)
        found.append({"latitude": latitude, "longitude": longitude, "elevation": "1700.0", "days": days})
    return found


def made(variable: str, day: datetime.date, latitude: float) -> str:
    """A value by a rule, with digits that a float would not keep."""
    wave = (day.toordinal() * 37 + sum(map(ord, variable)) + int(latitude * 100)) % 100
    season = 10 if 4 < day.month < 10 else -5
    add = {"temperature_2m_max": 4, "temperature_2m_min": -4}.get(variable, 0)
    if variable.startswith("temperature"):
        wave = (day.toordinal() * 37 + int(latitude * 100)) % 100
        return f"{season + add + wave / 10 - 5:.1f}"
    return f"{wave / 10:.2f}" if variable.endswith("_sum") else f"{wave}"


def answer(server: Server, places: list[dict], words: dict, fault: str | None) -> tuple[int, str]:
    """Status and body for the parameters of a request."""

    def refusal(reason: str, status: int = 400):
        return status, json.dumps({"reason": reason, "error": True})

    if server.key and words.get("apikey") != server.key:
        given = "apikey" in words
        reason = (
            "The supplied API key is invalid."
            if given
            else "API key required. Please add &apikey= to the URL."
        )
        return refusal(reason, 400 if given else 401)
    if fault in REASONS:
        return refusal(REASONS[fault], 429)
    if fault == "500":
        return 500, json.dumps({"reason": "Something went wrong.", "error": True})
    latitude, longitude = float(words["latitude"]), float(words["longitude"])
    if not -90 <= latitude <= 90:
        return refusal(f"Latitude must be in range of -90 to 90°. Given: {latitude}.")
    start, end = (datetime.date.fromisoformat(words[name]) for name in ("start_date", "end_date"))
    today = datetime.datetime.now(datetime.UTC).date()
    if start > end:
        return refusal("End-date must be larger or equals than start-date.")
    if end > today:
        return refusal(f"Parameter 'end_date' is out of allowed range from 1940-01-01 to {today}")
    names, zone = words["daily"].split(","), words.get("timezone", "GMT")
    for name in names:
        if not any(name.startswith(known) for known in UNITS):
            return refusal(
                f"Data corrupted at path ''. Cannot initialize variable from invalid String value {name}."
            )
    if zone not in ("auto", "GMT", "UTC") and "/" not in zone:
        return refusal("Invalid timezone")
    near = [
        p
        for p in places
        if abs(float(p["latitude"]) - latitude) + abs(float(p["longitude"]) - longitude) < 0.1
    ]
    count = (end - start).days + 1
    days = [start + datetime.timedelta(n) for n in range(count)]
    columns = {name: [] for name in names}
    for day in days:
        known = near[0]["days"].get(day.isoformat(), {}) if near else None
        for name in names:
            real = near and name in next(iter(near[0]["days"].values()))
            text = (known.get(name) or "null") if real else made(name, day, latitude)
            if near and name == "temperature_2m_mean" and not real:  # between the real lowest and highest
                both = [known.get(f"temperature_2m_{part}") for part in ("min", "max")]
                text = f"{sum(map(float, both)) / 2:.1f}" if all(both) else "null"
            text = "null" if fault == "nulls" and day.day == 1 else text
            columns[name].append(server.change.get((name, day.isoformat()), text))
    units = {name: next(UNITS[known] for known in UNITS if name.startswith(known)) for name in names}
    if fault == "units":
        units[names[0]] = "°F"
    if fault == "missing":
        columns.pop(names[-1])
    if fault == "short":
        days = days[:-1]
    place = (
        near[0]
        if near
        else {"latitude": f"{latitude:.4f}", "longitude": f"{longitude:.4f}", "elevation": "812.0"}
    )
    daily = [f'"time":{json.dumps([day.isoformat() for day in days])}']
    daily += [f'"{name}":[{",".join(values)}]' for name, values in columns.items()]
    said_units = json.dumps({"time": "iso8601", **units}, ensure_ascii=False)
    local = "Europe/Zurich" if zone == "auto" else zone
    body = (
        f'{{"latitude":{place["latitude"]},"longitude":{place["longitude"]},"generationtime_ms":0.4329,'
        f'"utc_offset_seconds":{0 if local in ("GMT", "UTC") else 7200},"timezone":"{local}",'
        f'"timezone_abbreviation":"{local}","elevation":{place["elevation"]},'
        f'"daily_units":{said_units},"daily":{{{",".join(daily)}}}}}'
    )
    return 200, body[: len(body) // 2] if fault == "truncated" else body


def handler(server: Server, places: list[dict]):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            words = {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}
            with server.lock:
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
                server.asked.append(words)
                fault = server.faults.pop(0) if server.faults else server.always
            try:
                time.sleep(server.slow_s)
                status, body = (302, "{}") if fault == "redirect" else answer(server, places, words, fault)
                content = body.encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                if fault == "redirect":
                    self.send_header("Location", server.change["Location"])
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the job was killed
            finally:
                self.close_connection = True
                with server.lock:
                    server.at_once -= 1

        def log_message(self, *_):
            pass

    return Handler


@contextlib.contextmanager
def serving(port: int = 0, **switches):
    """A running Server; switches are its fields."""
    server = Server(**switches)
    with ThreadingHTTPServer(("127.0.0.1", port), handler(server, tables())) as listening:
        server.url = f"http://127.0.0.1:{listening.server_port}/v1/archive"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()


if __name__ == "__main__":
    with serving(int(sys.argv[1]) if sys.argv[1:] else 0) as running:
        print(running.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
