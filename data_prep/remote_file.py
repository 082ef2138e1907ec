"""Files of web servers read by byte ranges: a header in chunks, blocks to the byte and once.

Needs requests, and remote.py beside it.
"""

from data_prep.remote import Connection, ServiceFailure, Signature, get, without_query

CHUNK = 16384  # bytes of a small read: a COG's header comes in one or two, as with GDAL's /vsicurl
SMALL = 4096  # bytes under which a read is a piece of header, kept for the next; blocks are read to the byte
LARGE = 8 << 20  # bytes of one request at most: what a cut answer costs
KEPT = 16 << 20  # bytes of blocks kept for the next windows: a row of 30 blocks of noise, some 150 km


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
        self.kept: dict[int, bytes] = {}  # of those, by start, what a later window may read again
        self.error: Exception | None = None
        self.landed = ""  # where a redirect led: asked from then on, as long as it serves

    def fetch(self, start: int, end: int) -> bytes:
        """Bytes start..end (end excluded, cut at the end of the file)."""

        def headers(address: str) -> dict:
            asked = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
            return asked | self.signature.headers(address)

        answer, body = self.ask(headers)
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

    def ask(self, headers):
        """(answer, body), the redirects followed once a file: again only when where they led has ended."""
        if self.landed:
            try:
                return get(self.connection, self.landed, headers)
            except ServiceFailure:
                self.landed = ""
        answer, body = get(self.connection, self.signature.address, headers, self.signature.refused)
        if without_query(answer.url) != without_query(self.url):
            self.landed = answer.url
        return answer, body

    def chunk(self, number: int) -> bytes:
        if number not in self.chunks:
            self.chunks[number] = self.fetch(number * CHUNK, (number + 1) * CHUNK)
        return self.chunks[number]

    def fetch_ahead(self, ranges: list[tuple[int, int]], again=()) -> None:
        """Bring the ranges (start, size) that will be read next, neighbours in one request.

        again: starts of those that later windows may touch too; they are kept, the oldest dropped over KEPT.
        """
        self.held = [(start, self.kept[start]) for start, _ in ranges if start in self.kept]
        merged: list[list[int]] = []
        for start, size in sorted(one for one in ranges if one[0] not in self.kept):
            if merged and start - merged[-1][1] <= SMALL and start + size - merged[-1][0] <= LARGE:
                merged[-1][1] = max(merged[-1][1], start + size)
            else:
                merged.append([start, start + size])
        self.held += [(start, self.part(start, end, header=False)) for start, end in merged]
        for start, size in ranges:
            body = self.part(start, start + size)
            self.kept.pop(start, None)
            if start in again:
                self.kept[start] = body
        while sum(map(len, self.kept.values())) > KEPT:
            del self.kept[next(iter(self.kept))]

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
