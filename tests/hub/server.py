"""
A Hub of one's own: a real HTTP server that speaks the endpoints `huggingface_hub` uses.

It keeps repositories in memory: users and their tokens, private and gated repositories, branches and commits, git LFS
with the basic transfer, downloads with etags, ranges and redirects, and errors in the headers in which the client
looks for them. Not spoken: Xet (clients are started with `HF_HUB_DISABLE_XET=1`), pull requests, multipart uploads.
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

# What the Hub keeps in LFS whatever its size.
LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".png", ".jpg", ".onnx")
LFS_SIZE = 10 * 2**20
PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
REPO = r"(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
FILE_REPO = r"(?P<prefix>datasets/|spaces/)?(?P<repo_id>[^/]+/[^/]+)"


@dataclass(frozen=True)
class Blob:
    """A file: its bytes, and whether git holds them or LFS does."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """As git names it; of an LFS file, the pointer."""
        data = self.data
        if self.lfs:
            data = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(data)}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass
class Repo:
    """A repository: branches name commits, and a commit is all of its files."""

    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.commit("main", {}, "initial commit")
        self.messages.clear()

    def commit(self, branch, files, message):
        parents = f"{branch}{len(self.commits)}{message}{sorted((path, blob.oid) for path, blob in files.items())}"
        oid = hashlib.sha1(parents.encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        self.messages.append(message)
        return oid

    def resolve(self, revision):
        """A branch or commit to a commit; `None` where there is none."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status, message, code=None, commit=None, body=None):
        super().__init__(message)
        self.status, self.message, self.code, self.commit, self.body = status, message, code, commit, body


class Hub:
    """
    The server, in threads of this process; `with Hub() as hub:` starts and stops it.

    Attributes:
        users: token -> user name.
        repos: (type, id) -> [`Repo`].
        lfs: what LFS stores, by sha256.
        drops: (method, beginning of a path) -> how often the connection is dropped in the middle of such a request.
        requests: how often each (method, path) was asked for.
    """

    def __init__(self, users=None):
        self.users = users or {"hf_owner": "someone", "hf_stranger": "stranger"}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.drops: dict[tuple[str, str], int] = {}
        self.requests: Counter = Counter()
        self.errors: list[str] = []
        self.lock = threading.RLock()

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.hub = self
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.storage = f"http://localhost:{self.server.server_port}"  # another host, as the Hub's is
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def repo(self, repo_id, kind="model"):
        return self.repos[kind, repo_id]

    def files(self, repo_id, kind="model", revision="main"):
        """Path -> bytes."""
        repo = self.repo(repo_id, kind)
        return {path: blob.data for path, blob in repo.commits[repo.resolve(revision)].items()}

    def count(self, method, beginning):
        """Requests whose path begins so."""
        return sum(n for (verb, path), n in self.requests.items() if verb == method and path.startswith(beginning))

    def dropped(self, method, path):
        """Whether this request is to be broken off."""
        for (verb, beginning), times in self.drops.items():
            if verb == method and times and path.startswith(beginning):
                self.drops[verb, beginning] -= 1
                return True
        return False


ROUTES = [
    ("POST", r"/test/drop", "drop"),
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", rf"/api/{REPO}/branch/(?P<branch>[^/]+)", "branch"),
    ("POST", rf"/api/{REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"/api/{REPO}/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", rf"/api/{REPO}/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("GET", rf"/api/{REPO}/tree/(?P<revision>[^/]+)(?P<folder>/.*)?", "tree"),
    ("GET", rf"/api/{REPO}/revision/(?P<revision>[^/]+)", "info"),
    ("GET", rf"/api/{REPO}/refs", "refs"),
    ("GET", rf"/api/{REPO}", "info"),
    ("POST", rf"/{FILE_REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("POST", r"/lfs/verify", "lfs_verify"),
    ("PUT", r"/lfs/(?P<sha256>[0-9a-f]{64})", "lfs_put"),
    ("GET", r"/lfs/(?P<sha256>[0-9a-f]{64})", "lfs_get"),
    ("GET", rf"/{FILE_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        """Says nothing."""

    def do_GET(self):
        self._answer("GET")

    def do_HEAD(self):
        self._answer("GET")

    def do_POST(self):
        self._answer("POST")

    def do_PUT(self):
        self._answer("PUT")

    # The way of a request

    def _answer(self, method):
        url = urlsplit(self.path)
        self.query, path, hub = parse_qs(url.query), url.path, self.server.hub
        with hub.lock:
            hub.requests[self.command, path] += 1
            dropped = hub.dropped(self.command, path)
        if dropped:
            self._read_body(half=True)
            self.close_connection = True
            self.connection.close()
            return
        self.body = self._read_body()
        try:
            for verb, pattern, name in ROUTES:
                if verb == method and (match := re.fullmatch(pattern, path)):
                    with hub.lock:
                        status, headers, body = getattr(self, name)(
                            **{key: value and unquote(value) for key, value in match.groupdict().items()}
                        )
                    break
            else:
                hub.errors.append(f"{self.command} {self.path} is not spoken")
                raise Refused(501, "not spoken here")
        except Refused as error:
            headers = {"X-Error-Message": error.message}
            headers |= {"X-Error-Code": error.code} if error.code else {}
            headers |= {"X-Repo-Commit": error.commit} if error.commit else {}
            status, body = error.status, json.dumps(error.body or {"error": error.message}).encode()
        self._send(status, headers, body)

    def _read_body(self, half=False):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        size = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(size // 2 if half else size)

    def _send(self, status, headers, body):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value, status=200):
        return status, {"Content-Type": "application/json"}, json.dumps(value).encode()

    # Who may do what

    @property
    def user(self):
        kind, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if kind != "Bearer":
            return None
        if token not in self.server.hub.users:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.server.hub.users[token]

    def _repo(self, kind, repo_id, write=False, content=False):
        """The repository, where the user may see it; to `write` to it, or to read its `content`."""
        repo, owner, user = self.server.hub.repos.get((kind, repo_id)), repo_id.partition("/")[0], self.user
        allowed = user == owner or (repo is not None and user in repo.readers)
        if repo is None or (repo.private and not allowed):
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user != owner:
            raise Refused(401 if user is None else 403, "You don't have the right to write here")
        if content and repo.gated and not allowed:
            where = f"Access to {kind} {repo_id} is restricted"
            if user is None:
                raise Refused(401, f"{where}. You must be authenticated to access it.", "GatedRepo")
            raise Refused(403, f"{where} and you are not in the authorized list.", "GatedRepo")
        return repo

    def _at(self, kind, repo_id, revision, **rights):
        """Repository, commit and files of a revision."""
        repo = self._repo(kind, repo_id, **rights)
        commit = repo.resolve(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repo, commit, repo.commits[commit]

    # Endpoints

    def drop(self):
        """Not the Hub's: what a client cannot ask of it."""
        asked = json.loads(self.body)
        self.server.hub.drops[asked["method"], asked["path"]] = asked["times"]
        return self._json({})

    def whoami(self):
        if self.user is None:
            raise Refused(401, "Invalid username or password.")
        return self._json({"type": "user", "name": self.user, "orgs": []})

    def create(self):
        asked = json.loads(self.body)
        kind = asked.get("type") or "model"
        if self.user is None:
            raise Refused(401, "Invalid username or password.")
        owner = asked.get("organization") or self.user
        if owner != self.user:
            raise Refused(403, f"You don't have the rights to create a {kind} under the namespace {owner!r}")
        repo_id = f"{owner}/{asked['name']}"
        answer = {"url": f"{self.server.hub.url}/{PREFIXES[kind]}{repo_id}", "name": repo_id}
        if (kind, repo_id) in self.server.hub.repos:
            raise Refused(409, "You already created this repo", body={"error": "You already created it", **answer})
        self.server.hub.repos[kind, repo_id] = Repo(private=asked.get("visibility") == "private")
        return self._json(answer)

    def validate(self):
        text = json.loads(self.body)["content"]
        block = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        try:
            data = yaml.safe_load(block[1]) if block else {}
        except yaml.YAMLError as error:
            raise Refused(400, "bad metadata", body={"errors": [{"message": str(error)}]}) from error
        warnings = [] if data else [{"message": "empty or missing yaml metadata in repo card"}]
        return self._json({"errors": [], "warnings": warnings})

    def branch(self, kind, repo_id, branch):
        repo = self._repo(kind[:-1], repo_id, write=True)
        if branch in repo.branches:
            raise Refused(409, "Reference already exists")
        repo.branches[branch] = repo.branches["main"]
        return self._json({})

    def preupload(self, kind, repo_id, revision):
        _, _, there = self._at(kind[:-1], repo_id, revision, write=True)
        answers = []
        for file in json.loads(self.body)["files"]:
            lfs = file["path"].endswith(LFS_SUFFIXES) or file["size"] > LFS_SIZE
            answer = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            if old := there.get(file["path"]):
                answer["oid"] = old.etag
            answers.append(answer)
        return self._json({"files": answers})

    def commit(self, kind, repo_id, revision):
        repo, _, there = self._at(kind[:-1], repo_id, revision, write=True)
        files, header = dict(there), {}
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                header = value
            elif entry["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.server.hub.lfs:
                    raise Refused(400, f"LFS object {value['oid']} of {value['path']} was never uploaded")
                files[value["path"]] = Blob(self.server.hub.lfs[value["oid"]], lfs=True)
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(revision, files, header["summary"])
        url = f"{self.server.hub.url}/{repo_id}/commit/{oid}"
        return self._json({"success": True, "commitOid": oid, "commitUrl": url})

    def info(self, kind, repo_id, revision="main"):
        repo, commit, files = self._at(kind[:-1], repo_id, revision)
        readme = files["README.md"].data.decode() if "README.md" in files else ""
        block = re.match(r"---\n(.*?)\n---\n", readme, re.DOTALL)
        answer = {
            "id": repo_id,
            "sha": commit,
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "tags": [],
            "cardData": yaml.safe_load(block[1]) if block else {},
            "siblings": [{"rfilename": path} for path in files],
        }
        return self._json(answer)

    def refs(self, kind, repo_id):
        repo = self._repo(kind[:-1], repo_id)
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in repo.branches.items()
        ]
        return self._json({"branches": branches, "converts": [], "tags": []})

    def tree(self, kind, repo_id, revision, folder=None):
        _, commit, files = self._at(kind[:-1], repo_id, revision, content=True)
        folder = (folder or "").strip("/")
        inside = {path: blob for path, blob in files.items() if not folder or path.startswith(f"{folder}/")}
        if folder and not inside:
            raise Refused(404, f"{folder} does not exist", "EntryNotFound", commit)
        if self.query.get("recursive", ["false"])[0].lower() not in ("1", "true"):
            inside = {path: blob for path, blob in inside.items() if "/" not in path[len(folder) :].lstrip("/")}
        return self._json([self._entry(path, blob) for path, blob in sorted(inside.items())])

    def paths_info(self, kind, repo_id, revision):
        _, _, files = self._at(kind[:-1], repo_id, revision, content=True)
        asked = json.loads(self.body)["paths"] if self.body[:1] == b"{" else parse_qs(self.body.decode())["paths"]
        return self._json([self._entry(path, files[path]) for path in asked if path in files])

    def _entry(self, path, blob):
        entry = {"type": "file", "path": path, "size": len(blob.data), "oid": blob.oid}
        return entry | ({"lfs": {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 134}} if blob.lfs else {})

    def lfs_batch(self, prefix, repo_id):
        kind = next(kind for kind, known in PREFIXES.items() if known == (prefix or ""))
        self._repo(kind, repo_id, write=True)
        url, answers = self.server.hub.url, []
        for file in json.loads(self.body)["objects"]:
            answer = {"oid": file["oid"], "size": file["size"]}
            if file["oid"] not in self.server.hub.lfs:
                answer["actions"] = {
                    "upload": {"href": f"{url}/lfs/{file['oid']}"},
                    "verify": {"href": f"{url}/lfs/verify"},
                }
            answers.append(answer)
        return self._json({"transfer": "basic", "objects": answers})

    def lfs_put(self, sha256):
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise Refused(400, "the content is not what was announced")
        self.server.hub.lfs[sha256] = self.body
        return 200, {}, b""

    def lfs_verify(self):
        asked = json.loads(self.body)
        if len(self.server.hub.lfs.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "not there")
        return self._json({})

    def lfs_get(self, sha256):
        if "Authorization" in self.headers:
            self.server.hub.errors.append("the storage was shown a token")
        return self._content(self.server.hub.lfs[sha256], {"ETag": f'"{sha256}"'})

    def resolve(self, prefix, repo_id, revision, path):
        kind = next(kind for kind, known in PREFIXES.items() if known == (prefix or ""))
        _, commit, files = self._at(kind, repo_id, revision, content=True)
        if path not in files:
            raise Refused(404, "Entry not found", "EntryNotFound", commit)
        blob = files[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob.etag}"'}
        if not blob.lfs:
            return self._content(blob.data, headers)
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
        return 302, headers | {"Location": f"{self.server.hub.storage}/lfs/{blob.sha256}"}, b""

    def _content(self, data, headers):
        """A file, or what of it a `Range` asks for."""
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            return 200, headers, data
        first, last = int(asked[1]), int(asked[2] or len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return 206, headers, data[first : last + 1]
