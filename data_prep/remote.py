"""Files of web servers read by byte ranges: signed, retried, counted.

Needs requests, and runs.py for its errors. A signature stays in memory: no message, record or file name holds
the query of a URL.
"""

import datetime
import email.utils
import os
import random
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

import requests

from data_prep.runs import BadInput, Interrupted

CHUNK = 16384  # bytes of a small read: a COG's header comes in one or two, as with GDAL's /vsicurl
SMALL = 4096  # bytes under which a read is a piece of header, kept for the next; blocks are read to the byte
LARGE = 8 << 20  # bytes of one request at most: what a cut answer costs
TIMEOUT_S = (10, 30)  # to connect, and between bytes
MAX_WAIT_S = 300  # longest obedience to a Retry-After
RENEW_S = 60  # a signature that ends sooner is renewed first
RESIGNED = 3  # times a refused file is signed anew
PASSING = (408, 429, 500, 502, 503, 504)  # answers that may be others next time


class ServiceFailure(Exception):
    """A service that did not do its part, after all retries; one sentence."""


@dataclass
class Connection:
    """How to ask: retries, the waits between them, when to stop, and what was moved."""

    retries: int = 6
    backoff_s: float = 1
    stop: threading.Event = field(default_factory=threading.Event)
    moved: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    local: threading.local = field(default_factory=threading.local)

    def session(self) -> requests.Session:
        """One a thread: requests does not promise that threads may share one."""
        if not hasattr(self.local, "session"):
            self.local.session = requests.Session()
        return self.local.session

    def wait(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise Interrupted()

    def pause(self, attempt: int, answer: requests.Response | None) -> None:
        """Before the next try: as long as Retry-After says, else twice as long each time, with jitter."""
        asked = retry_after_s(answer.headers.get("Retry-After", "")) if answer is not None else None
        jitter = random.uniform(0.75, 1.25)  # so that threads do not come back all at once
        self.wait(min(MAX_WAIT_S, self.backoff_s * 2**attempt * jitter if asked is None else asked))


def retry_after_s(text: str) -> float | None:
    """Seconds of a Retry-After header: a number or an HTTP date (RFC 9110, 10.2.3); None for neither."""
    if text.isdecimal():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())


def without_query(url: str) -> str:
    """The URL without signature, query, fragment or password."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def get(connection: Connection, url: str, headers: dict, refused=None, redirects: bool = True):
    """(answer, body) of a GET, tried again while it fails in passing or is cut; then a ServiceFailure.

    url: text, or a function that gives it anew for each try. refused(answer): called on 401 and 403; True to
    try again.
    """
    shown = without_query(url if isinstance(url, str) else url())
    why = ""
    for attempt in range(connection.retries + 1):
        if connection.stop.is_set():
            raise Interrupted()
        answer = None
        address = url if isinstance(url, str) else url()
        try:
            with connection.session().get(
                address, headers=headers, stream=True, timeout=TIMEOUT_S, allow_redirects=redirects
            ) as answer:
                if answer.status_code in (200, 206):
                    body = read_body(connection, answer, whole="Range" not in headers)
                    return answer, body
                why = f"answered {answer.status_code}"
                if answer.status_code in (401, 403) and refused and refused(answer):
                    continue
                if answer.status_code not in PASSING:
                    raise ServiceFailure(f"{shown}: {why}.")
        except (requests.ConnectionError, requests.Timeout) as error:
            why = "cannot be reached" if "Max retries" in str(error) else "the connection broke"
        except requests.exceptions.ChunkedEncodingError:
            why = "the answer was cut short"
        except requests.RequestException as error:
            raise ServiceFailure(f"{shown}: no usable address or answer ({type(error).__name__}).") from None
        if attempt < connection.retries:
            connection.pause(attempt, answer)
    raise ServiceFailure(f"{shown}: {why}, {connection.retries + 1} times.")


def read_body(connection: Connection, answer: requests.Response, whole: bool) -> bytes:
    """The body, as long as its header says; a cut one is a ChunkedEncodingError."""
    if answer.status_code == 200 and not whole:
        raise ServiceFailure(
            f"{without_query(answer.url)}: the server ignores byte ranges; it must serve them."
        )
    expected, parts, length = answer.headers.get("Content-Length"), [], 0
    for part in answer.iter_content(1 << 18):
        if connection.stop.is_set():
            raise Interrupted()
        parts.append(part)
        length += len(part)
        with connection.lock:
            connection.moved += len(part)
    if "Content-Encoding" not in answer.headers and expected is not None and length != int(expected):
        raise requests.exceptions.ChunkedEncodingError("cut")
    return b"".join(parts)


# ---- who may read ------------------------------------------------------------------------------------------


class Signature:
    """The address of one file, signed at the moment of reading and again when it ends or is refused."""

    def __init__(self, connection: Connection, url: str, section: dict):
        self.connection, self.url, self.section = connection, url, section
        self.signed, self.ends, self.renewed = "", 0.0, 0

    def address(self) -> str:
        if self.section["signing"] != "planetary-computer":
            return self.url
        if not self.signed or time.time() > self.ends - RENEW_S:
            self.sign()
        return self.signed

    def sign(self) -> None:
        """Ask the signing host, the only one that sees the key, for a signed address."""
        key = os.environ.get("PC_SDK_SUBSCRIPTION_KEY", "")
        headers = {"Ocp-Apim-Subscription-Key": key} if key else {}
        ask = f"{self.section['signing_url']}?href={requests.utils.quote(self.url, safe='')}"

        def refused(answer):
            found = "the key in PC_SDK_SUBSCRIPTION_KEY was refused" if key else "a key is asked for"
            raise BadInput(
                f"{without_query(ask)}: answered {answer.status_code}, {found}; set "
                "PC_SDK_SUBSCRIPTION_KEY to a valid subscription key."
            )

        for attempt in range(self.connection.retries + 1):
            _, body = get(self.connection, ask, headers, refused, redirects=False)
            try:
                about = requests.models.complexjson.loads(body)
                ends = datetime.datetime.fromisoformat(about["msft:expiry"].replace("Z", "+00:00"))
                self.signed, self.ends = about["href"], ends.timestamp()
                return
            except (ValueError, KeyError, TypeError, AttributeError):
                self.connection.pause(attempt, None)
        raise ServiceFailure(f"{without_query(ask)}: its answer holds no href and msft:expiry.")

    def headers(self) -> dict:
        """Authorization for the hosts that a bearer catalogue names, and for no other."""
        section = self.section
        if section["signing"] != "bearer" or urlsplit(self.url).hostname not in section["token_hosts"]:
            return {}
        token = os.environ.get(section["token_env"], "")
        if not token:
            raise BadInput(
                f"{without_query(self.url)}: asks for a token; set {section['token_env']} to yours."
            )
        return {"Authorization": f"Bearer {token}"}

    def refused(self, answer) -> bool:
        """After a 401 or 403: forget the signature; True while it is worth another try."""
        self.signed = ""
        self.renewed += 1
        if self.section["signing"] == "bearer":
            raise BadInput(
                f"{without_query(self.url)}: answered {answer.status_code}; the token in "
                f"{self.section['token_env']} was refused, renew it."
            )
        return self.section["signing"] == "planetary-computer" and self.renewed <= RESIGNED


class RemoteFile:
    """A file-like object over byte ranges: headers in chunks that are kept, blocks to the byte.

    After the first read: size and etag. read_bytes counts what came. To GDAL an error is a file that ends;
    it is kept in `error` for the caller to raise.
    """

    def __init__(self, connection: Connection, url: str, section: dict):
        self.connection, self.url = connection, url
        self.signature = Signature(connection, url, section)
        self.size, self.etag, self.place, self.read_bytes = None, "", 0, 0
        self.chunks: dict[int, bytes] = {}
        self.held: list[tuple[int, bytes]] = []  # (start, bytes) that fetch_ahead() brought
        self.error: Exception | None = None

    def fetch(self, start: int, end: int) -> bytes:
        """Bytes start..end (end excluded, cut at the end of the file)."""
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        headers |= self.signature.headers()
        answer, body = get(self.connection, self.signature.address, headers, self.signature.refused)
        self.signature.renewed = 0
        served, _, size = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        etag = answer.headers.get("ETag", "")
        if not size.isdigit() or not served.startswith(f"{start}-"):
            raise ServiceFailure(f"{without_query(self.url)}: the server sent another range than asked for.")
        if len(body) != min(end, int(size)) - start:
            raise ServiceFailure(f"{without_query(self.url)}: the server sent fewer bytes than asked for.")
        if self.size is not None and (self.size, self.etag) != (int(size), etag):
            raise ServiceFailure(f"{without_query(self.url)}: changed on the server while it was read.")
        self.size, self.etag = int(size), etag
        self.read_bytes += len(body)
        return body

    def chunk(self, number: int) -> bytes:
        if number not in self.chunks:
            self.chunks[number] = self.fetch(number * CHUNK, (number + 1) * CHUNK)
        return self.chunks[number]

    def fetch_ahead(self, ranges: list[tuple[int, int]]) -> None:
        """Bring the ranges (start, size) that will be read next, neighbours in one request."""
        merged: list[list[int]] = []
        for start, size in sorted(ranges):
            if merged and start - merged[-1][1] <= SMALL and start + size - merged[-1][0] <= LARGE:
                merged[-1][1] = max(merged[-1][1], start + size)
            else:
                merged.append([start, start + size])
        self.held = []
        self.held = [(start, self.part(start, end, header=False)) for start, end in merged]

    def part(self, start: int, end: int, header: bool = True) -> bytes:
        """Bytes start..end: from what is held; else, if it may be of a header and is small, in chunks."""
        for first, body in self.held:
            if first <= start and end <= first + len(body):
                return body[start - first : end - first]
        parts = []
        while start < end and (start // CHUNK in self.chunks or (header and end - start <= SMALL)):
            piece = self.chunk(start // CHUNK)[start % CHUNK : start % CHUNK + end - start]
            parts.append(piece)
            start += len(piece)
        if start < end:
            parts.append(self.fetch(start, end))
        return b"".join(parts)

    def read(self, count: int = -1) -> bytes:
        if self.error:
            return b""
        try:
            if self.size is None:
                self.chunk(0)
            end = self.size if count < 0 else min(self.size, self.place + count)
            body = self.part(self.place, end) if end > self.place else b""
            self.place += len(body)
            return body
        except Exception as error:  # GDAL's callbacks cannot pass it on: read_on() raises it
            self.error = error
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 2 and self.size is None:
            self.read(0)
        self.place = offset + (self.place if whence == 1 else (self.size or 0) if whence == 2 else 0)
        return self.place

    def tell(self) -> int:
        return self.place

    def close(self) -> None:
        """GDAL closes it after each window; the chunks of the header serve the next."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
