"""A directory as an S3 bucket, as far as reading goes: listing, size, ranges."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit


@contextmanager
def serve_s3(root: Path) -> Iterator[str]:
    """Serve the files under ``root`` as a bucket of any name; gives host and port."""
    handler = type("Handler", (_Bucket,), {"root": root})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Bucket(BaseHTTPRequestHandler):
    root: ClassVar[Path]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        asked = urlsplit(self.path)
        key = unquote(asked.path).strip("/").partition("/")[2]
        path = self.root / key
        if not key:
            self._send(
                200, self._listing({name: values[0] for name, values in parse_qs(asked.query).items()})
            )
        elif path.is_file():
            self._send_file(path.read_bytes())
        else:
            self._send(404, b"")

    def _listing(self, query: dict[str, str]) -> bytes:
        """Keys under a prefix; with a delimiter, those below the next level as common prefixes."""
        prefix = query.get("prefix", "")
        names = (str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())
        keys = sorted(name for name in names if name.startswith(prefix))
        deeper = [key for key in keys if "/" in key[len(prefix) :]] if "delimiter" in query else []
        folders = sorted({prefix + key[len(prefix) :].partition("/")[0] + "/" for key in deeper})
        sizes = {key: (self.root / key).stat().st_size for key in keys if key not in deeper}
        return (
            '<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>'
            f"<KeyCount>{len(sizes) + len(folders)}</KeyCount>"
            + "".join(f"<Contents><Key>{k}</Key><Size>{n}</Size></Contents>" for k, n in sizes.items())
            + "".join(f"<CommonPrefixes><Prefix>{f}</Prefix></CommonPrefixes>" for f in folders)
            + "</ListBucketResult>"
        ).encode()

    def _send_file(self, content: bytes) -> None:
        wanted = self.headers.get("Range")
        if wanted is None:
            self._send(200, content)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1 if last else None]
        self._send(206, part, {"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
