"""A stand-in for the Hub: the endpoints ``huggingface_hub`` calls, over real HTTP, with faults on demand.

Repositories live in memory as commits of ``{path: content}``. Writing needs a token; private repos answer so.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN, READ_TOKEN = "hf_standInTokenThatMayWrite00000000", "hf_standInTokenThatMayOnlyRead00000"
USER = "user"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def is_lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".png", ".bin", ".pt", ".ckpt"))


@dataclass
class Commit:
    sha: str
    title: str
    files: dict[str, bytes]


@dataclass
class Repo:
    id: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, revision: str, title: str, files: dict[str, bytes]) -> Commit:
        parent = self.refs.get(revision, "")
        sha = hashlib.sha1(f"{self.id}{parent}{len(self.commits)}{title}".encode()).hexdigest()
        self.commits[sha] = Commit(sha, title, files)
        self.refs[revision] = sha
        return self.commits[sha]

    def at(self, revision: str) -> Commit | None:
        return self.commits.get(self.refs.get(revision, revision))


@dataclass
class Fault:
    """What goes wrong with the next requests whose ``"METHOD /path"`` matches.

    ``kind`` is a status, or ``drop`` (no answer), ``drop after`` (done, but no answer), ``slow`` (the body pauses),
    ``truncate`` (the body ends early), ``corrupt`` (a byte of the body is another), ``echo`` (a refusal that repeats
    the token).
    """

    match: str
    kind: int | str
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


class StandIn:
    """``with StandIn() as hub:`` serves at ``hub.url``; ``hub.log`` lists the requests."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self.headers_seen: list[dict[str, str]] = []
        self.members: set[str] = set()  # repos whose gate is open to the tokens
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> StandIn:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *details) -> None:
        self.server.shutdown()
        self.server.server_close()

    def make(self, repo_id: str, files: dict[str, bytes] | None = None, **options) -> Repo:
        """A repo with one commit, as if somebody had pushed it."""
        repo = self.repos[repo_id] = Repo(repo_id, **options)
        repo.commit("main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})})
        return repo

    def fail(self, match: str, kind: int | str, times: int = 1, **headers: str) -> None:
        self.faults.append(Fault(match, kind, times, {k.replace("_", "-"): v for k, v in headers.items()}))

    def asked(self, pattern: str) -> list[str]:
        """Requests so far whose ``"METHOD /path"`` matches."""
        return [line for line in self.log if re.search(pattern, line)]


class Refuse(Exception):
    def __init__(self, status: int, code: str = "", message: str = ""):
        self.status, self.code, self.message = status, code, message


class Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self.fault = self._answered = None
        parts = urlsplit(self.path)
        self.route, self.query = unquote(parts.path), parse_qs(parts.query)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = (
            self._chunks() if "chunked" in self.headers.get("Transfer-Encoding", "") else self.rfile.read(length)
        )
        line = f"{self.command} {self.route}"
        with self.hub.lock:
            self.hub.log.append(line)
            self.hub.headers_seen.append({key.lower(): value for key, value in self.headers.items()})
            for fault in self.hub.faults:
                if fault.times > 0 and re.search(fault.match, line):
                    fault.times -= 1
                    self.fault = fault
                    break
        try:
            if self.fault is not None and isinstance(self.fault.kind, int):
                codes = {404: "RepoNotFound"}
                raise Refuse(self.fault.kind, codes.get(self.fault.kind, ""), "made to fail")
            if self.fault is not None and self.fault.kind == "echo":
                raise Refuse(400, "", f"bad token {self._token()}")
            if self.fault is not None and self.fault.kind == "drop":
                return self._hang_up()
            with self.hub.lock:
                self._dispatch()
        except Refuse as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            headers = {
                **{key: value for key, value in headers.items() if value},
                **(self.fault.headers if self.fault else {}),
            }
            self._send(refusal.status, json.dumps({"error": refusal.message}).encode(), headers)

    do_POST = do_PUT = do_HEAD = do_DELETE = do_GET

    def _chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        if self.fault is not None and self.fault.kind == "drop after":
            return self._hang_up()
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        kind = self.fault.kind if self.fault is not None else None
        if kind == "corrupt":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if kind == "truncate":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            return self._hang_up()
        if kind == "slow":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            time.sleep(1.0)
            body = body[len(body) // 2 :]
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def _json(self, value, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode())

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _writer(self) -> None:
        if self._token() == READ_TOKEN:
            raise Refuse(403, "", "this token may only read")
        if self._token() != TOKEN:
            raise Refuse(401, "", "who are you?")

    def _repo(self, repo_id: str, content: bool = False) -> Repo:
        repo = self.hub.repos.get(repo_id)
        known = self._token() in (TOKEN, READ_TOKEN)
        if self._token() and not known:
            raise Refuse(401, "", "Invalid credentials in Authorization header")
        if repo is None or (repo.private and not known):
            raise Refuse(404 if known else 401, "RepoNotFound", "Repository not found")
        if content and repo.gated and not (known and repo_id in self.hub.members):
            raise Refuse(403 if known else 401, "GatedRepo", f"Access to model {repo_id} is restricted")
        return repo

    def _commit(self, repo: Repo, revision: str) -> Commit:
        commit = repo.at(revision)
        if commit is None:
            raise Refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _dispatch(self) -> None:
        for method, pattern, name in ROUTES:
            found = re.fullmatch(pattern, self.route)
            if found and method in (self.command, {"HEAD": "GET"}.get(self.command)):
                return getattr(self, name)(**found.groupdict())
        raise Refuse(404, "", f"the stand-in does not know {self.command} {self.route}")

    # what the routes do -----------------------------------------------------------------------------------------------

    def harnesses(self) -> None:
        self._json({"standardEnvVars": [], "harnesses": {}})

    def whoami(self) -> None:
        self._writer()
        self._json({"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def yaml(self) -> None:
        self._json({"errors": [], "warnings": []})

    def create(self) -> None:
        self._writer()
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        status = 409 if name in self.hub.repos else 200
        if status == 200:
            self.hub.make(name, private=asked.get("visibility") == "private" or bool(asked.get("private")))
        self._json({"url": f"{self.hub.url}/{name}", "name": name}, status)

    def info(self, repo: str, revision: str = "main") -> None:
        found = self._repo(repo)
        commit = self._commit(found, revision)
        siblings = [{"rfilename": path, **self._file(path, content)} for path, content in commit.files.items()]
        self._json(
            {"id": repo, "sha": commit.sha, "private": found.private, "gated": "auto" if found.gated else False,
             "tags": [], "downloads": 0, "likes": 0, "siblings": siblings, "disabled": False,
             "cardData": self._card_data(commit)}
        )  # fmt: skip

    @staticmethod
    def _card_data(commit: Commit) -> dict:
        text = commit.files.get("README.md", b"").decode(errors="replace")
        licence = re.search(r"^license: (\S+)$", text, re.M)
        return {"license": licence.group(1)} if licence else {}

    @staticmethod
    def _file(path: str, content: bytes) -> dict:
        details = {"size": len(content), "blobId": git_sha1(content)}
        if is_lfs(path):
            details["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
        return details

    def tree(self, repo: str, revision: str, folder: str | None = None) -> None:
        commit = self._commit(self._repo(repo), revision)
        if folder is not None:  # which transformers looks for, and no repo here has
            raise Refuse(404, "EntryNotFound", f"{folder} does not exist")
        entries = []
        for path, content in commit.files.items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
            if is_lfs(path):
                entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        self._json(entries)

    def refs(self, repo: str) -> None:
        found = self._repo(repo)
        branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": s} for n, s in found.refs.items()]
        self._json({"branches": branches, "tags": [], "converts": []})

    def branch(self, repo: str, name: str) -> None:
        self._writer()
        found = self._repo(repo)
        if name in found.refs:
            raise Refuse(409, "", "Reference already exists")
        found.refs[name] = found.refs["main"]
        self._json({})

    def preupload(self, repo: str, revision: str) -> None:
        self._writer()
        commit = self._commit(self._repo(repo), revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            there = commit.files.get(file["path"])
            oid = None if there is None else sha256(there) if is_lfs(file["path"]) else git_sha1(there)
            mode = "lfs" if is_lfs(file["path"]) else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answers})

    def lfs_batch(self, repo: str) -> None:
        self._writer()
        objects = []
        for item in json.loads(self.body)["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.lfs:
                entry["actions"] = {
                    "upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"},
                    "verify": {"href": f"{self.hub.url}/{repo}.git/info/lfs/verify"},
                }
            objects.append(entry)
        self._json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if sha256(self.body) != oid:
            raise Refuse(400, "", "the content does not have its checksum")
        self.hub.lfs[oid] = self.body
        self._json({})

    def lfs_verify(self, repo: str) -> None:
        if json.loads(self.body)["oid"] not in self.hub.lfs:
            raise Refuse(404, "", "not there")
        self._json({})

    def commit(self, repo: str, revision: str) -> None:
        self._writer()
        found = self._repo(repo)
        head = self._commit(found, revision)
        files = dict(head.files)
        title = ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, head.sha):
                    raise Refuse(412, "", "the parent commit is not the last one")
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.lfs[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        answer = {}
        if self.query.get("create_pr") == ["1"]:
            number = 1 + sum(name.startswith("refs/pr/") for name in found.refs)
            revision = f"refs/pr/{number}"
            found.refs[revision] = head.sha
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo}/discussions/{number}"
        made = found.commit(revision, title, files)
        self._json(
            {**answer, "commitOid": made.sha, "commitUrl": f"{self.hub.url}/{repo}/commit/{made.sha}", "success": True}
        )

    def resolve(self, repo: str, revision: str, path: str) -> None:
        found = self._repo(repo, content=True)
        commit = self._commit(found, revision)
        if path not in commit.files:
            self.fault = self.fault or Fault("", "", headers={"X-Repo-Commit": commit.sha})
            raise Refuse(404, "EntryNotFound", "Entry not found")
        content = commit.files[path]
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{sha256(content) if is_lfs(path) else git_sha1(content)}"',
                   "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}  # fmt: skip
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.command == "GET":
            first, last = int(asked.group(1)), min(int(asked.group(2) or len(content)), len(content) - 1)
            if first >= len(content):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return self._send(206, content[first : last + 1], headers)
        self._send(200, content, headers)


_REPO, _REV = r"(?P<repo>[\w.-]+/[\w.-]+)", r"(?P<revision>.+?)"
ROUTES = [
    ("GET", "/api/agent-harnesses", "harnesses"),
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/validate-yaml", "yaml"),
    ("POST", "/api/repos/create", "create"),
    ("GET", f"/api/models/{_REPO}", "info"),
    ("GET", f"/api/models/{_REPO}/revision/{_REV}", "info"),
    ("GET", f"/api/models/{_REPO}/tree/{_REV}(?:/(?P<folder>additional_chat_templates))?", "tree"),
    ("GET", f"/api/models/{_REPO}/refs", "refs"),
    ("POST", f"/api/models/{_REPO}/branch/(?P<name>.+)", "branch"),
    ("POST", f"/api/models/{_REPO}/preupload/{_REV}", "preupload"),
    ("POST", f"/api/models/{_REPO}/commit/{_REV}", "commit"),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("POST", rf"/{_REPO}\.git/info/lfs/verify", "lfs_verify"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("GET", rf"/{_REPO}/resolve/(?P<revision>refs/pr/\d+|[^/]+)/(?P<path>.+)", "resolve"),
]
