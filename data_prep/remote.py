"""Questions to web servers: signed, retried, counted, redirects followed by hand.

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
from urllib.parse import parse_qs, urljoin, urlsplit, urlunsplit

import requests

from data_prep.catalogs import KEY, KEY_HOST, key_may_go, private
from data_prep.runs import BadInput, Interrupted

TIMEOUT_S = (10, 30)  # to connect, and between bytes
MAX_WAIT_S = 300  # longest obedience to a Retry-After
RENEW_S = 60  # a signature that ends sooner is renewed first
RESIGNED = 3  # times a refused file is signed anew
REDIRECTS = 5  # followed at most
PASSING = (408, 429, 500, 502, 503, 504)  # answers that may be others next time


class ServiceFailure(Exception):
    """A service that did not do its part, after all retries; one sentence."""


class BadFile(ServiceFailure):
    """A file that is gone (404, 410) or of no use, however often it is asked for."""


@dataclass
class Connection:
    """How to ask: retries, waits between them, when to stop; what was moved; signatures of containers."""

    retries: int = 6
    backoff_s: float = 1
    stop: threading.Event = field(default_factory=threading.Event)
    moved: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    local: threading.local = field(default_factory=threading.local)
    signing: threading.Lock = field(
        default_factory=threading.Lock
    )  # held by the one who asks for a signature
    signatures: dict[tuple, tuple[str, float]] = field(default_factory=dict)  # container: (query, its end)

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


def get(connection: Connection, url, headers, refused=None, redirects: int = REDIRECTS):
    """(answer, body) of a GET, tried again while it fails in passing or is cut; then a ServiceFailure.

    url: text, or a function that gives it anew for each try. headers: a dict, or a function that gives those
    for an address: a redirect leads to another host, which must not see what the first may. refused(answer):
    called on 401 and 403; True to ask again at once, whatever the number of tries left.
    """
    attempt = 0
    while True:
        if connection.stop.is_set():
            raise Interrupted()
        answer = None
        address = url if isinstance(url, str) else url()
        shown = without_query(address)
        try:
            with answered(connection, address, headers, redirects) as answer:
                if answer.status_code in (200, 206):
                    return answer, read_body(connection, answer)
                why = f"answered {answer.status_code}"
                if answer.status_code in (401, 403) and refused and refused(answer):
                    continue
                if answer.status_code in (404, 410) and "Range" in answer.request.headers:
                    raise BadFile(f"{shown}: {why}, it is gone.")
                if answer.status_code not in PASSING:
                    raise ServiceFailure(f"{shown}: {why}.")
        except (requests.ConnectionError, requests.Timeout) as error:
            why = "cannot be reached" if "Max retries" in str(error) else "the connection broke"
        except requests.exceptions.ChunkedEncodingError:
            why = "the answer was cut short"
        except requests.RequestException as error:
            raise ServiceFailure(f"{shown}: no usable address or answer ({type(error).__name__}).") from None
        if attempt == connection.retries:
            raise ServiceFailure(f"{shown}: {why}, {attempt + 1} times.")
        connection.pause(attempt, answer)
        attempt += 1


def answered(connection: Connection, address: str, headers, redirects: int) -> requests.Response:
    """The answer, its body unread, at the end of at most so many redirects (none: the redirect itself)."""
    while True:
        answer = connection.session().get(
            address, headers=headers(address) if callable(headers) else headers, stream=True,
            timeout=TIMEOUT_S, allow_redirects=False,
        )  # fmt: skip
        if not answer.is_redirect or redirects == 0:
            return answer
        redirects -= 1
        answer.content  # noqa: B018 (read, so that the connection serves again)
        onward = urljoin(address, answer.headers["Location"])
        if private(address) and not private(onward):
            raise ServiceFailure(f"{without_query(address)}: sends on to an address without encryption.")
        address = onward


def read_body(connection: Connection, answer: requests.Response) -> bytes:
    """The body, as long as its header says; a cut one is a ChunkedEncodingError."""
    if answer.status_code == 200 and "Range" in answer.request.headers:
        page = "text/html" in answer.headers.get("Content-Type", "")
        why = "sent a web page for a file, a login?" if page else "the server ignores byte ranges"
        raise ServiceFailure(f"{without_query(answer.url)}: {why}; byte ranges of the file must be served.")
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
    """The address of one file, signed at the moment of reading and again when it ends or is refused.

    A signature of a whole container (its query says sr=c) is shared by all files of that container.
    """

    def __init__(self, connection: Connection, url: str, section: dict):
        self.connection, self.url, self.section = connection, url, section
        self.signed, self.ends, self.renewed = "", 0.0, 0
        parts = urlsplit(url)  # .../<container>/<file> at the host of the account
        self.container = (section.get("signing_url"), parts.netloc, f"{parts.path}/".split("/")[1])

    def address(self) -> str:
        if self.section["signing"] != "planetary-computer":
            return self.url
        if not self.lasts():
            with self.connection.signing:
                query, self.ends = self.connection.signatures.get(self.container, ("", 0.0))
                self.signed = f"{self.url}{'&' if urlsplit(self.url).query else '?'}{query}"
                if not self.lasts():
                    self.sign()
        return self.signed

    def lasts(self) -> bool:
        return bool(self.signed) and time.time() < self.ends - RENEW_S

    def sign(self) -> None:
        """Ask the signing host for a signed address; Planetary Computer's own, and no other, sees the key."""
        place = self.section["signing_url"]
        key = os.environ.get(KEY, "") if key_may_go(place) else ""
        headers = {"Ocp-Apim-Subscription-Key": key} if key else {}
        ask = f"{place}?href={requests.utils.quote(self.url, safe='')}"

        def refused(answer):
            found = f"the key in {KEY} was refused" if key else "a key is asked for"
            mend = (
                f"set {KEY} to a valid subscription key"
                if key_may_go(place)
                else f"{KEY} goes to {KEY_HOST} alone"
            )
            raise BadInput(f"{without_query(ask)}: answered {answer.status_code}, {found}; {mend}.")

        for attempt in range(self.connection.retries + 1):
            _, body = get(self.connection, ask, headers, refused, redirects=0)
            try:
                about = requests.models.complexjson.loads(body)
                ends = datetime.datetime.fromisoformat(about["msft:expiry"].replace("Z", "+00:00"))
                self.signed, self.ends = about["href"], ends.timestamp()
                query = urlsplit(self.signed).query
                if parse_qs(query).get("sr") == ["c"] and without_query(self.signed) == self.url:
                    self.connection.signatures[self.container] = (query, self.ends)
                return
            except (ValueError, KeyError, TypeError, AttributeError):
                self.connection.pause(attempt, None)
        raise ServiceFailure(f"{without_query(ask)}: its answer holds no href and msft:expiry.")

    def headers(self, address: str) -> dict:
        """Authorization for the hosts that a bearer catalogue names, and for no other that sends us on."""
        section = self.section
        if section["signing"] != "bearer" or urlsplit(address).hostname not in section["token_hosts"]:
            return {}
        if not private(address):
            raise BadInput(f"{without_query(address)}: a token is not sent without encryption; use https.")
        token = os.environ.get(section["token_env"], "")
        if not token:
            raise BadInput(
                f"{without_query(address)}: asks for a token; set {section['token_env']} to yours."
            )
        return {"Authorization": f"Bearer {token}"}

    def refused(self, answer) -> bool:
        """After a 401 or 403: forget the signature; True while it is worth another try."""
        with self.connection.signing:
            query, _ = self.connection.signatures.get(self.container, ("", 0.0))
            if query and self.signed.endswith(query):  # else another thread has renewed it
                del self.connection.signatures[self.container]
        self.signed = ""
        self.renewed += 1
        if "Authorization" in answer.request.headers:
            raise BadInput(
                f"{without_query(answer.url)}: answered {answer.status_code}; the token in "
                f"{self.section['token_env']} was refused, renew it."
            )
        return self.section["signing"] == "planetary-computer" and self.renewed <= max(
            RESIGNED, self.connection.retries
        )
