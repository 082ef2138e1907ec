"""Real services on loopback: a STAC API (rustac serve), nginx with COGs, and between them and the client a
proxy that signs, refuses, counts, and fails as often as it is told. All are stopped by pid.
"""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

NGINX = """
{user}
daemon off; master_process off; pid {root}/nginx.pid; error_log {root}/error.log; worker_rlimit_nofile 512;
events {{ worker_connections 256; }}
http {{
  log_format bytes '$request_method $uri $status $body_bytes_sent $http_range';
  access_log {root}/access.log bytes; sendfile on; keepalive_requests 100000;
  client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
  uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
  server {{ listen 127.0.0.1:{port}; root {files}; types {{ image/tiff tif; }} }}
}}
"""


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def find_nginx(folder: Path) -> str:
    """nginx of the PATH, else out of Debian's package, not installed; skips, in words, without either."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found:
        return found
    if not shutil.which("apt-get"):
        pytest.skip("nginx is not installed here and there is no apt-get to bring it")
    done = subprocess.run(["apt-get", "download", "nginx"], cwd=folder, capture_output=True, text=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package.name, "nginx"], cwd=folder, capture_output=True)
    binary = folder / "nginx" / "usr" / "sbin" / "nginx"
    if not binary.exists() or subprocess.run([binary, "-v"], capture_output=True).returncode:
        why = (done.stderr.strip().splitlines() or ["the package holds no program that starts"])[-1]
        pytest.skip(f"nginx is not installed here and apt-get cannot bring it: {why}")
    return str(binary)


def find_rustac() -> str:
    beside = Path(sys.executable).with_name("rustac")
    found = str(beside) if beside.exists() else shutil.which("rustac")
    if not found:
        pytest.skip("rustac is not installed here: python -m pip install rustac")
    return found


def wait_for(port: int, child: subprocess.Popen) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        assert child.poll() is None, f"{child.args[0]} ended with {child.returncode}"
        time.sleep(0.05)
    raise AssertionError(f"{child.args[0]} does not answer")


@contextlib.contextmanager
def started(*command, port: int, **more):
    child = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more
    )
    try:
        wait_for(port, child)
        yield child
    finally:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


# ---- the proxy ---------------------------------------------------------------------------------------------


@dataclass
class Faults:
    """What the proxy does to requests, and what it saw."""

    share: float = 0  # of answers that are 500, 429, cut or refused
    always: int = 0  # answer this status to every request of a file
    on: str = ""  # only to files whose path holds this
    signed: bool = False  # files need a signature
    key: str = ""  # the key that signing asks for
    retry_after: str = "0"
    slow_s: float = 0
    seed: int = 0
    kinds: tuple = ("500", "429", "cut", "expired")
    seen: list = field(default_factory=list)  # (place, path, what was done, had the key)
    valid: set = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self):
        self.random = random.Random(self.seed)

    def set(self, **changes) -> "Faults":
        """As new, with these changes."""
        with self.lock:
            fresh = Faults(**changes)
            self.__dict__.update({name: v for name, v in fresh.__dict__.items() if name != "lock"})
        return self

    def count(self, what: str) -> int:
        return sum(done == what for _, _, done, _ in self.seen)


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults
    files: int
    stac: int

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.do_GET()

    def do_GET(self):
        parts = urllib.parse.urlsplit(self.path)
        place = {"/files": "files", "/sign": "sign"}.get("/" + parts.path.split("/")[1], "stac")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        fault, faults = "", self.faults
        with faults.lock:
            if faults.random.random() < faults.share:
                fault = faults.random.choice(faults.kinds)
        if fault == "expired" and not (place == "files" and faults.signed):
            fault = "500"
        if place == "files" and faults.always and faults.on in parts.path:
            fault = str(faults.always)
        key = self.headers.get("Ocp-Apim-Subscription-Key", "")
        with faults.lock:
            faults.seen.append((place, parts.path, fault, bool(key)))
        if faults.slow_s:
            time.sleep(faults.slow_s)
        if fault.isdigit():
            return self.answer(
                int(fault), b"fault", {"Retry-After": faults.retry_after} if fault == "429" else {}
            )
        if place == "sign":
            return self.sign(parts, key)
        if place == "files" and faults.signed:
            signature = urllib.parse.parse_qs(parts.query).get("sig", [""])[0]
            with faults.lock:
                if fault == "expired":
                    faults.valid.discard(signature)
                known = signature in faults.valid
            if not known:
                return self.answer(403, b"expired")
        self.forward(place, parts, body, cut=fault == "cut")

    def sign(self, parts, key: str):
        href = urllib.parse.parse_qs(parts.query)["href"][0]
        if self.faults.key and key != self.faults.key:
            return self.answer(401, b"a key is needed")
        with self.faults.lock:
            signature = f"secret{len(self.faults.valid)}{self.faults.random.random()}"
            self.faults.valid.add(signature)
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
        return self.answer(200, json.dumps({"href": f"{href}?sig={signature}", "msft:expiry": ends}).encode())

    def forward(self, place, parts, body, cut: bool):
        port, path = (self.files, parts.path[6:]) if place == "files" else (self.stac, self.path)
        wanted = {
            name: self.headers[name] for name in ("Range", "Content-Type", "Accept") if self.headers[name]
        }
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, wanted, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, headers, content = answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            status, headers, content = error.code, dict(error.headers), error.read()
        kept = ("content-range", "etag", "content-type", "accept-ranges", "last-modified")
        headers = {name: value for name, value in headers.items() if name.lower() in kept}
        self.answer(status, content, headers, cut)

    def answer(self, status: int, content: bytes, headers: dict | None = None, cut: bool = False):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True


@dataclass
class Services:
    """Addresses of what runs, the folder nginx serves, and the proxy's faults."""

    url: str  # of the proxy: /files/..., /sign, and the STAC API at /
    direct: str  # of nginx itself
    root: Path
    faults: Faults

    def access_log(self) -> list[tuple[str, int]]:
        """(path, body bytes) of every request that nginx has answered."""
        lines = (self.root / "access.log").read_text().splitlines()
        return [(line.split()[1], int(line.split()[3])) for line in lines]


@contextlib.contextmanager
def files_served(folder: Path, files: Path):
    """nginx over a folder; yields its port."""
    nginx, port = find_nginx(folder), free_port()
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX.format(user=user, root=folder, files=files, port=port))
    with started(nginx, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log", port=port):
        yield port


@contextlib.contextmanager
def running(files: Path, items, faults: Faults | None = None):
    """All services. items: a function of the address of the files that gives the items of the STAC API."""
    faults = faults or Faults()
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        folder = Path(place)
        port = stack.enter_context(files_served(folder, files))
        stac, handler = free_port(), type("OneProxy", (Proxy,), {"faults": faults, "files": port})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads, handler.stac = True, stac
        url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        collection = {"type": "FeatureCollection", "features": items(f"{url}/files")}
        (folder / "items.json").write_text(json.dumps(collection))
        command = (find_rustac(), "serve", "--create-collections", "-a", url, "-b", f"127.0.0.1:{stac}")
        stack.enter_context(started(*command, folder / "items.json", port=stac))
        yield Services(url, f"http://127.0.0.1:{port}", folder, faults)
