"""hf-hub: names, against a stub of the hub on loopback.

In processes of their own: the client reads its address when it is imported.
"""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    """What a download needs of the hub: what a repository is, its files, each file."""

    folders: dict[str, Path] = {}
    asked: list[str] = []

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = unquote(urlparse(self.path).path).strip("/")
        self.asked.append(path)
        name = next(
            (n for n in self.folders if path.startswith((f"api/models/{n}", f"{n}/resolve/"))), None
        )
        if name is None:
            return self.send(
                {"error": "Repository not found"}, body, 404, {"X-Error-Code": "RepoNotFound"}
            )
        files = sorted(p for p in self.folders[name].iterdir() if p.is_file())
        if f"api/models/{name}/tree/" in path:
            return self.send(
                [
                    {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": digest(p)}
                    for p in files
                ],
                body,
            )
        if path.startswith("api/"):
            return self.send(
                {
                    "id": name,
                    "modelId": name,
                    "sha": COMMIT,
                    "private": False,
                    "siblings": [{"rfilename": p.name} for p in files],
                },
                body,
            )
        file = self.folders[name] / path.rsplit("/", 1)[-1]
        self.send(
            file.read_bytes(), body, headers={"ETag": f'"{digest(file)}"', "X-Repo-Commit": COMMIT}
        )

    def send(self, content, body, code=200, headers=None):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for key, value in {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(len(content)),
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub(entry, finished):
    """The stub's address; it holds an entry and a finished run."""
    Hub.folders = {"someone/entry": Path(entry), "someone/small": Path(finished)}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def python(code, endpoint, home):
    without = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    environment = without | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
    }
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )


def test_an_entry_is_loaded_from_the_hub(hub, entry, tmp_path):
    code = (
        "import pass_transfer as pt\nprint(pt.load_hypernet('hf-hub:someone/entry').fingerprint())"
    )
    done = python(code, hub, tmp_path)
    assert done.returncode == 0, done.stderr
    from pass_transfer import load_hypernet

    assert done.stdout.strip() == load_hypernet(entry).fingerprint()


def test_a_model_is_loaded_from_the_hub_with_only_its_own_two_files(hub, finished, tmp_path):
    Hub.asked.clear()
    code = (
        "import pass_transfer as pt, torch\n"
        "model = pt.load_pruned('hf-hub:someone/small')\n"
        "print(model(torch.full((1, 3, 32, 32), 0.5)).flatten().tolist())"
    )
    done = python(code, hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.rsplit("/", 1)[-1] for p in Hub.asked if "/resolve/" in p} == {
        "model.json",
        "model.safetensors",
    }
    import torch

    from pass_transfer import load_pruned

    expected = load_pruned(finished)(torch.full((1, 3, 32, 32), 0.5)).flatten()
    torch.testing.assert_close(
        torch.tensor(json.loads(done.stdout)), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "loader, kind", [("load_pruned", "RunError"), ("load_hypernet", "ZooError")]
)
@pytest.mark.parametrize("address", ["the stub", "http://127.0.0.1:9"])
def test_what_the_hub_does_not_give_is_one_error(hub, tmp_path, loader, kind, address):
    code = (
        "import pass_transfer as pt\n"
        f"try:\n    pt.{loader}('hf-hub:nobody/nothing')\n"
        "except pt.PassTransferError as e:\n    print(type(e).__name__, e)"
    )
    done = python(code, hub if address == "the stub" else address, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.startswith(f"{kind} cannot get hf-hub:nobody/nothing: ")
        and len(done.stdout.splitlines()) == 1
    )
