"""Downloads that go on where they broke off, checked before they count; pictures side by side."""

import hashlib
import http.client
import logging
import os
import re
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from ..images_unimp import ImageError, load_image
from ..store import StoreReport

logger = logging.getLogger(__name__)

MAX_PICTURE_BYTES = 10_000_000
WORKERS = 16
TRIES = 4  # of a transfer that breaks off
TIMEOUT = 60  # seconds without an answer
PATIENCE = 32  # pictures tried before hosts of which none answers are given up
_BLOCK = 1 << 20


class DownloadError(OSError):
    """
    What could not be downloaded; the message is one line.

    Attributes:
        reason (`str`): why, in words that fit others too.
        answered (`bool`): whether the host was reached.
    """

    def __init__(self, url: str, reason: str, answered: bool, detail: object = None) -> None:
        super().__init__(f"`{url}` could not be downloaded: {reason}{f' ({detail})' if detail else ''}.")
        self.reason = reason
        self.answered = answered


def fetch(url: str, path: Path, md5: str | None = None) -> None:
    """
    Downloads a file, unless it is there. Until it is complete it is called `*.part`, and a later call goes on with it.

    Args:
        url (`str`): http or https.
        path (`Path`): where to.
        md5 (`str`, *optional*): checksum the file must have, in hexadecimal.

    Raises:
        DownloadError: if the host refuses or the transfer keeps breaking off.
        ValueError: if the checksum differs; the file is removed then.
    """
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    if not any(_transfer(url, part) for _ in range(TRIES)):
        reason = f"it broke off {TRIES} times; run the command again to go on from there"
        raise DownloadError(url, reason, answered=True)
    if md5 is not None and (got := _md5(part)) != md5.lower():
        part.unlink()
        raise ValueError(f"`{url}` has the checksum {got}, but {md5} was published; run the command again.")
    os.replace(part, path)


def published_md5(url: str) -> str | None:
    """The checksum in a small text file, or `None` if there is no such file."""
    try:
        found = re.search(rb"\b[0-9a-fA-F]{32}\b", _read(url, 10_000))
    except DownloadError as error:
        if not error.answered:
            raise
        found = None
    if found is None:
        logger.info("no checksum at %s: the file is taken as it comes", url)
        return None
    return found[0].decode().lower()


def unpack(archive: Path, folder: Path, names: Collection[str]) -> None:
    """Unpacks the files of these names that are not there, from any folder of a zip archive, straight into `folder`.

    Raises:
        ValueError: if the archive is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                name = entry.filename.rpartition("/")[2]
                path = folder / name
                if name in names and not (path.is_file() and path.stat().st_size == entry.file_size):
                    part = folder / f"{name}.part"
                    with packed.open(entry) as source, part.open("wb") as target:
                        shutil.copyfileobj(source, target, _BLOCK)
                    os.replace(part, path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"`{archive}` is damaged: {error}; delete it and run the command again.") from error


def fetch_pictures(urls: Mapping[str, str], path_of: Callable[[str], Path]) -> StoreReport:
    """
    Downloads pictures side by side, those aside whose file is there. Each is opened before it is kept.

    Args:
        urls (`Mapping[str, str]`): by item id.
        path_of (`Callable[[str], Path]`): the file of an item id; must not leave its folder, see [`safe_name`].

    Returns:
        [`StoreReport`]: the items that have no picture now, counted by reason.

    Raises:
        DownloadError: if no host can be reached.
    """
    report, reached = StoreReport(), False
    with _pool() as pool:
        results = pool.map(lambda item: _fetch_picture(urls[item], path_of(item)), urls)
        progress = tqdm(zip(urls, results, strict=True), "pictures", total=len(urls), unit="", disable=None)
        for tried, (item, error) in enumerate(progress, start=1):
            reached = reached or error is None or error.answered
            if not reached and tried in (PATIENCE, len(urls)):
                raise error
            if error is not None:
                report.change(f"items: picture not downloaded: {error.reason}", [item])
    return report


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)  # what has not begun when something fails never does


def _fetch_picture(url: str, path: Path) -> DownloadError | None:
    if os.path.isfile(path):
        return None
    try:
        content = _read(url, MAX_PICTURE_BYTES)
        load_image(content)
    except DownloadError as error:
        return error
    except ImageError:
        return DownloadError(url, "not a readable picture", answered=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)
    return None


def _transfer(url: str, part: Path) -> bool:
    """Downloads what is missing of a file; returns whether that is all of it."""
    start = part.stat().st_size if part.exists() else 0
    with _open(url, start) as response:
        if response.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _is_whole(part, response.headers.get("Content-Range", "").rpartition("/")[2])
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            start = 0  # the host sends all of it
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with part.open("ab" if start else "wb") as file:
            complete = _copy(response, file.write, part.name.removesuffix(".part"), start, total)
    return complete and (total is None or part.stat().st_size == total)


def _copy(
    response: http.client.HTTPResponse, write: Callable[[bytes], int], name: str, start: int, total: int | None
) -> bool:
    with tqdm(desc=name, initial=start, total=total, unit="B", unit_scale=True, disable=None) as progress:
        try:
            while block := response.read(_BLOCK):
                write(block)
                progress.update(len(block))
        except (http.client.HTTPException, ConnectionError, TimeoutError):
            return False
    return True


def _is_whole(part: Path, total: str) -> bool:
    """Whether a file beyond whose end more was asked for is complete; one of another length is begun again."""
    if total == str(part.stat().st_size):
        return True
    part.unlink()
    return False


def _read(url: str, limit: int) -> bytes:
    """A small file as bytes."""
    with _open(url) as response:
        try:
            content = response.read(limit + 1)
        except (http.client.HTTPException, OSError) as error:
            raise DownloadError(url, "the transfer broke off", answered=True) from error
    if len(content) > limit:
        raise DownloadError(url, f"larger than {limit:,} bytes", answered=True)
    if len(content) < int(response.headers.get("Content-Length") or 0):
        raise DownloadError(url, "the transfer broke off", answered=True)
    return content


def _open(url: str, start: int = 0) -> http.client.HTTPResponse:
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError("not an address that begins with http:// or https://")
        headers = {"User-Agent": "unimp", "Accept-Encoding": "identity"}
        headers |= {"Range": f"bytes={start}-"} if start else {}
        return _OPENER.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if start and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return error
        error.close()
        # The standard's words, not the host's: they go into the card.
        words = http.client.responses.get(error.code, "unknown")
        raise DownloadError(url, f"the host answered {error.code} {words}", answered=True) from error
    except (http.client.InvalidURL, ValueError) as error:
        raise DownloadError(url, "no usable address", answered=True, detail=error) from error
    except (http.client.HTTPException, OSError) as error:
        raise DownloadError(url, "no answer", answered=False, detail=getattr(error, "reason", error)) from error


def _web_only() -> urllib.request.OpenerDirector:
    """Opens http and https, redirected or not, and nothing else: `build_opener` would open file:// and ftp:// too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


_OPENER = _web_only()


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
