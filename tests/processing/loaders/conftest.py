"""Folders, pictures, and a server of this machine that behaves as servers do, well and badly."""

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def jpeg(colour="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def put_picture(path, colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(colour))


def rows_of(dataset, *columns):
    return list(zip(*(dataset[column][:] for column in columns), strict=True))


class Host:
    """Files by path, how the host misbehaves, and the ranges that were asked for."""

    def __init__(self, address):
        self.address = address
        self.files = {}
        self.ranges = []
        self.cut = []  # of each next answer, after how many bytes it breaks off
        self.knows_ranges = True
        self.redirects = {}

    def url(self, path):
        return f"{self.address}/{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        host, path = self.server.host, self.path.lstrip("/")
        if path in host.redirects:
            self.send_response(302)
            self.send_header("Location", host.redirects[path])
            self.end_headers()
            return
        if path not in host.files:
            self.send_error(404, "gone | <b>away</b>")
            return
        self.send_file(host, host.files[path])

    def send_file(self, host, content):
        asked = self.headers.get("Range")
        host.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and host.knows_ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:][: host.cut.pop(0) if host.cut else None])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def host():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.host = Host(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    server.host.files["a.zip"] = CONTENT
    yield server.host
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def nowhere():
    """The address of a port at which nobody listens."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.server_close()
    return f"http://127.0.0.1:{server.server_port}"
