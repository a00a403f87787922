"""A hub on loopback: repositories with commits, small files in them and large ones beside (LFS).

What huggingface_hub's client asks when it creates, uploads, lists and downloads. `faults` makes
one kind of request to one repository fail.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

TOKEN = "hf_thisIsTheSecretOfTheTests"
CUT = "cut"  # the connection is lost in the middle
WRONG = "wrong"  # other bytes, as many
ROUTES = (  # what is asked, by path; {n} is the repository
    ("create", r"api/repos/create"),
    ("yaml", r"api/validate-yaml"),
    ("paths", r"api/models/{n}/paths-info/(?P<rev>.+)"),
    ("preupload", r"api/models/{n}/preupload/(?P<rev>.+)"),
    ("commit", r"api/models/{n}/commit/(?P<rev>.+)"),
    ("tree", r"api/models/{n}/tree/(?P<rev>.+)"),
    ("info", r"api/models/{n}(?:/revision/(?P<rev>.+))?"),
    ("batch", r"{n}\.git/info/lfs/objects/batch"),
    ("large", r"large/{n}/(?P<oid>\w+)"),
    ("resolve", r"{n}/resolve/(?P<rev>[^/]+)/(?P<file>.+)"),
)
NAME = r"(?P<name>[^/]+/[^/]+?)"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def blob(content):
    """git's own name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def asked_for(path):
    """Which request a path is, and its parts."""
    for kind, pattern in ROUTES:
        found = re.fullmatch(pattern.replace("{n}", NAME), path)
        if found:
            return kind, found.groupdict()
    return None, {}


def is_large(file):
    return file.endswith(".safetensors")


@dataclass
class Repository:
    """Commits, the newest last, each a folder of files."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self):
        self.commit({".gitattributes": b""})

    @property
    def head(self):
        return list(self.commits)[-1]

    @property
    def files(self):
        """The newest files that are not the hub's own."""
        return {name: f for name, f in self.commits[self.head].items() if name[0] != "."}

    def commit(self, files):
        before = self.commits[self.head] if self.commits else {}
        number = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[number] = before | files

    def at(self, revision):
        return self.head if revision in (None, "main") else revision


class Refused(Exception):
    """An answer that is none."""

    def __init__(self, status, code=""):
        self.status, self.code = status, code


class Stub:
    """The hub. `faults`: repository -> (which request, a status or CUT or WRONG)."""

    def __init__(self):
        self.repositories, self.faults, self.asked = {}, {}, []
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            do_HEAD = do_GET = do_POST = do_PUT = lambda self: stub.serve(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, name, folder, private=False):
        """A repository with the files of a folder."""
        made = self.repositories[name] = Repository(private)
        made.commit({p.name: p.read_bytes() for p in Path(folder).iterdir() if p.is_file()})
        return made

    def serve(self, request):
        path, query = urlparse(request.path).path.strip("/"), urlparse(request.path).query
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        kind, parts = asked_for(unquote(path))
        if kind is None:
            return self.send(request, b"{}", 404)
        if kind == "create":
            sent = json.loads(body)
            parts["name"] = f"{sent['organization']}/{sent['name']}"
        self.asked.append((kind, parts))
        at, fault = self.faults.get(parts.get("name"), (None, None))
        fault = fault if at == kind else None
        try:
            if isinstance(fault, int):
                raise Refused(fault)
            if request.command in ("POST", "PUT") and kind != "large":
                self.check_token(request)
            answer = getattr(self, kind)(request, body, parts, query)
        except Refused as refusal:
            return self.refuse(request, refusal)
        content, headers = answer if isinstance(answer, tuple) else (answer, {})
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        if fault == WRONG and content:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send(request, content, 200, headers, cut=fault == CUT)

    def check_token(self, request):
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(401)

    def refuse(self, request, refusal):
        """A careless answer, with what was sent in it."""
        said = f"refused {request.headers.get('Authorization')}"
        headers = {"X-Error-Message": said, "Retry-After": "0"}
        if refusal.code:
            headers["X-Error-Code"] = refusal.code
        answer = {"error": said, "url": f"{self.address}/owner/name"}
        self.send(request, json.dumps(answer).encode(), refusal.status, headers)

    def send(self, request, content, status, headers=None, cut=False):
        whole = {"Content-Length": str(len(content)), **(headers or {})}
        request.send_response(status)
        for key, value in whole.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        with contextlib.suppress(ConnectionError):
            request.wfile.write(content[: len(content) // 2] if cut else content)

    def repository(self, parts):
        found = self.repositories.get(parts["name"])
        if found is None:
            raise Refused(404, "RepoNotFound")
        if found.at(parts.get("rev")) not in found.commits:
            raise Refused(404, "RevisionNotFound")
        return found

    def create(self, request, body, parts, query):
        name = parts["name"]
        if name in self.repositories:
            raise Refused(409)
        self.repositories[name] = Repository(json.loads(body).get("visibility") == "private")
        return {"url": f"{self.address}/{name}", "name": name}

    def yaml(self, request, body, parts, query):
        return {"errors": [], "warnings": []}

    def info(self, request, body, parts, query):
        found, name = self.repository(parts), parts["name"]
        sha = found.at(parts["rev"])
        siblings = [{"rfilename": file} for file in found.commits[sha]]
        about = {"id": name, "modelId": name, "sha": sha, "private": found.private}
        return about | {"siblings": siblings}

    def listed(self, found, revision):
        rows = []
        for file, content in found.commits[found.at(revision)].items():
            row = {"type": "file", "path": file, "size": len(content), "oid": blob(content)}
            if is_large(file):
                row["lfs"] = {"size": len(content), "oid": sha256(content), "pointerSize": 130}
            rows.append(row)
        return rows

    def tree(self, request, body, parts, query):
        return self.listed(self.repository(parts), parts["rev"])

    def paths(self, request, body, parts, query):
        wanted = parse_qs(body.decode())["paths"]
        rows = self.listed(self.repository(parts), parts["rev"])
        return [row for row in rows if row["path"] in wanted]

    def preupload(self, request, body, parts, query):
        self.repository(parts)
        rows = []
        for file in json.loads(body)["files"]:
            mode = "lfs" if is_large(file["path"]) else "regular"
            rows.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        return {"files": rows}

    def batch(self, request, body, parts, query):
        self.repository(parts)
        rows = []
        for one in json.loads(body)["objects"]:
            href = f"{self.address}/large/{parts['name']}/{one['oid']}"
            rows.append({**one, "actions": {"upload": {"href": href, "header": {}}}})
        return {"transfer": "basic", "objects": rows}

    def large(self, request, body, parts, query):
        if sha256(body) != parts["oid"]:
            raise Refused(400)
        self.repository(parts).large[parts["oid"]] = body
        return b"{}"

    def commit(self, request, body, parts, query):
        found, files = self.repository(parts), {}
        for line in body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "header" and value.get("parentCommit") not in (None, found.head):
                raise Refused(412)
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if row["key"] == "lfsFile":
                files[value["path"]] = found.large[value["oid"]]
        found.commit(files)
        url = f"{self.address}/{parts['name']}/commit/{found.head}"
        return {"commitUrl": url, "commitOid": found.head}

    def resolve(self, request, body, parts, query):
        found = self.repository(parts)
        sha = found.at(parts["rev"])
        content = found.commits[sha].get(parts["file"])
        if content is None:
            raise Refused(404, "EntryNotFound")
        etag = sha256(content) if is_large(parts["file"]) else blob(content)
        return content, {"ETag": f'"{etag}"', "X-Repo-Commit": sha}
