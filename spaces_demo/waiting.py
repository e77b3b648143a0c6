"""The page while a model is being made: there at once, with a bar, until the demo takes its place and its address."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# Gradio, and whatever else takes seconds to import, is not imported here: the page comes first.

PROGRESS, PICTURE = "/progress.json", "/store.png"


class WaitingPage:
    """
    Serves the page until it is closed, which leaves the address to the demo.

    Args:
        host (`str`): address to serve at.
        port (`int`, *optional*): port; the first free one from 7860 by default.
        picture (`Path`, *optional*): a picture to look at meanwhile, from when it is there.

    Attributes:
        address (`str`), port (`int`): where it is.

    Raises:
        `OSError`: no port is free.
    """

    def __init__(self, host: str, port: int | None = None, picture: Path | None = None) -> None:
        self.picture = picture
        self._step, self._share, self._seconds_left = "", 0.0, None
        self._server = _bind(host, [port] if port is not None else _free_ports())
        self._server.page = self
        self.port = self._server.server_port
        self.address = f"http://{host}:{self.port}"

    def __enter__(self) -> "WaitingPage":
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def tell(self, step: str, share: float, seconds_left: float | None = None) -> None:
        """What is being done, how much of everything is done (0 to 1), and how long this may still take."""
        self._step, self._share, self._seconds_left = step, share, seconds_left

    def progress(self) -> dict[str, Any]:
        """What the page asks for each second."""
        picture = self.picture is not None and self.picture.is_file()
        left = None if self._seconds_left is None else _readable(self._seconds_left)
        return {"step": self._step, "share": round(self._share, 4), "left": left, "picture": picture}


def _readable(seconds: float) -> str:
    minutes = round(seconds / 60)
    return "less than a minute left" if minutes < 1 else f"about {minutes} minute{'' if minutes == 1 else 's'} left"


def _free_ports() -> range:
    """The ports that Gradio tries, too."""
    first = int(os.getenv("GRADIO_SERVER_PORT", "7860"))
    return range(first, first + int(os.getenv("GRADIO_NUM_PORTS", "100")))


def _bind(host: str, ports: Any) -> ThreadingHTTPServer:
    for port in ports:
        try:
            return ThreadingHTTPServer((host, port), _Handler)
        except OSError as error:
            reason = error
    raise OSError(f"`port`: none of {ports[0]} to {ports[-1]} is free at {host} ({reason}); name another.")


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """The page, how far it is, the picture; whoever asks for the demo's own addresses may try again later."""
        page, path = self.server.page, self.path.partition("?")[0]
        if path == PROGRESS:
            self._send(200, "application/json", json.dumps(page.progress()).encode())
        elif path == PICTURE and page.progress()["picture"]:
            self._send(200, "image/png", page.picture.read_bytes())
        elif path == "/":
            self._send(200, "text/html; charset=utf-8", PAGE.encode())
        else:
            self._send(503, "text/plain", b"The model is being made.")

    def do_HEAD(self) -> None:
        """As `do_GET`, without what it says."""
        self.do_GET()

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        if status == 503:
            self.send_header("Retry-After", "60")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """The terminal has a progress bar of its own."""


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>UniMP: making a model</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark;
    --ink: #292524; --paper: #f6f3ee; --card: #fff; --line: #e7e5e4; --accent: #0f766e; }
  @media (prefers-color-scheme: dark) {
    :root { --ink: #f5f5f4; --paper: #1a1816; --card: #292524; --line: #44403c; --accent: #2dd4bf; }
  }
  * { box-sizing: border-box; }
  body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
    font-family: Inter, "Segoe UI", system-ui, sans-serif; }
  main { max-width: 860px; margin: 0 auto; padding: 28px 16px 40px; }
  h1 { font-size: 1.7rem; letter-spacing: -.02em; margin: 0; }
  p { margin: 6px 0 0; }
  section { background: var(--card); border: 1px solid var(--line); border-radius: 16px; padding: 16px;
    margin-top: 18px; }
  .line { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 16px; min-height: 1.5em;
    font-variant-numeric: tabular-nums; }
  #step { font-weight: 600; }
  #left, figcaption { opacity: .75; }
  progress { display: block; width: 100%; height: 12px; margin: 12px 0 4px; border: 0; border-radius: 6px;
    overflow: hidden; background: var(--line); appearance: none; -webkit-appearance: none; }
  progress::-webkit-progress-bar { background: var(--line); }
  progress::-webkit-progress-value { background: var(--accent); border-radius: 6px; transition: width .6s; }
  progress::-moz-progress-bar { background: var(--accent); border-radius: 6px; }
  figure { margin: 22px 0 0; aspect-ratio: 1436 / 1330; }
  figcaption { font-size: .9rem; margin-bottom: 8px; }
  img { display: block; width: 100%; border: 1px solid var(--line); border-radius: 16px; background: #faf8f4; }
  [hidden] { display: none; }
  .bad { border-color: #dc2626; }
  @media (prefers-reduced-motion: reduce) { progress::-webkit-progress-value { transition: none; } }
</style>
</head>
<body>
<main>
  <h1>What would they like?</h1>
  <p>There is no model here yet, so one is being made: a small shop is drawn, and a tiny model learns what its people
    like. This takes some minutes, once; then this page becomes the demo.</p>
  <section id="card">
    <div class="line"><span id="step">Starting</span><span id="left"></span></div>
    <progress id="bar" max="1" value="0" aria-label="How much of it is done">0%</progress>
  </section>
  <noscript><p>Load this page again in some minutes.</p></noscript>
  <figure id="shop" hidden>
    <figcaption>Meanwhile, some of what the shop sells. Colours and patterns are in the pictures alone.</figcaption>
    <img id="picture" alt="Rows of drawn garments: coats, dresses, hats, bags and more, in colours and patterns">
  </figure>
</main>
<script>
  const part = (id) => document.getElementById(id);
  const EVERY = 1000, GONE = 60;
  let missed = 0;

  function show(step, left, isBad = false) {
    if (part('step').textContent !== step) part('step').textContent = step;
    part('left').textContent = left || '';
    part('card').classList.toggle('bad', isBad);
  }
  async function ask() {
    let answer = null;
    try {
      answer = await fetch('progress.json', { cache: 'no-store' });
    } catch { /* nobody listens: the demo is about to, or it has stopped */ }
    if (answer === null) {
      missed += 1;
      if (missed < GONE) show('Opening the demo', '');
      else show('It has stopped: see the terminal in which it was started. This page goes on by itself.', '', true);
    } else if (!answer.ok) {
      location.reload();  // the demo is there
      return;
    } else {
      missed = 0;
      const { step, share, left, picture } = await answer.json();
      show(step, left);
      part('bar').value = share;
      document.title = `${Math.round(100 * share)}% · UniMP: making a model`;
      if (picture && part('shop').hidden) {
        part('picture').src = 'store.png';
        part('shop').hidden = false;
      }
    }
    setTimeout(ask, EVERY);
  }
  ask();
</script>
</body>
</html>
"""
