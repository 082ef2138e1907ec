"""Files of web servers, read by byte ranges: a header in chunks, blocks to the byte and once.

Needs requests, and remote.py beside it.
"""

import bisect

from data_prep.remote import Connection, ServiceFailure, Signature, get, without_query

CHUNK = 16384  # bytes of a small read: a COG's header comes in one or two, as with GDAL's /vsicurl
SMALL = 4096  # bytes under which a read is a piece of header, kept for the next; blocks are read to the byte
LARGE = 8 << 20  # bytes of one request at most: what a cut answer costs
KEPT = 16 << 20  # bytes of blocks kept for the next windows: a row of 30 blocks of noise, some 150 km


class RemoteFile:
    """Byte ranges of a file: of its header in chunks that are kept, of blocks to the byte.

    After the first: size and etag. read_bytes counts what came.
    """

    def __init__(self, connection: Connection, url: str, section: dict):
        self.connection, self.url = connection, url
        self.signature = Signature(connection, url, section)
        self.size, self.etag, self.read_bytes = None, "", 0
        self.chunks: dict[int, bytes] = {}
        self.kept: dict[tuple[int, int], bytes] = {}  # (start, size): a block to be read again
        self.tiff = None  # the Header of a TIFF, when its first window is read
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

    def header(self, start: int, end: int) -> bytes:
        """Bytes start..end: in chunks if they are few, to the byte if they are many."""
        return self.part(start, end, in_chunks=end - start <= SMALL)

    def part(self, start: int, end: int, in_chunks: bool = False) -> bytes:
        """Bytes start..end, as far as they go from the chunks that are there, or are brought."""
        parts = []
        while start < end and (in_chunks or start // CHUNK in self.chunks):
            piece = self.chunk(start // CHUNK)[start % CHUNK : start % CHUNK + end - start]
            parts.append(piece)
            start += len(piece)
        if start < end:
            parts.append(self.fetch(start, end))
        return b"".join(parts)

    def blocks(self, ranges: list[tuple[int, int]], again=()) -> list[bytes]:
        """Bytes of the ranges (start, size), in their order; neighbours come in one request.

        again: those that later windows may touch too; they are kept, the oldest dropped over KEPT.
        """
        held = {one: self.kept.pop(one) for one in ranges if one in self.kept}
        merged: list[list[int]] = []
        for start, size in sorted(set(ranges) - set(held)):
            if merged and start - merged[-1][1] <= SMALL and start + size - merged[-1][0] <= LARGE:
                merged[-1][1] = max(merged[-1][1], start + size)
            else:
                merged.append([start, start + size])
        firsts, bodies = [start for start, _ in merged], [self.part(*one) for one in merged]
        for start, size in set(ranges) - set(held):
            number = bisect.bisect(firsts, start) - 1
            first = start - firsts[number]
            held[start, size] = bodies[number][first : first + size]
        self.kept |= {one: held[one] for one in ranges if one in again}
        while sum(map(len, self.kept.values())) > KEPT:
            del self.kept[next(iter(self.kept))]
        return [held[one] for one in ranges]
