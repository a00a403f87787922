"""The environment that make sets up, on a Python without ensurepip as Debian ships it."""

import hashlib
import importlib.util
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch):
    """tools/make_venv.py on a Python that has neither ensurepip nor pip."""
    spec = importlib.util.spec_from_file_location("make_venv", ROOT / "tools" / "make_venv.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    return module


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index on loopback: {file name: (content, attributes)} of pip are served."""
    root = tmp_path / "index"
    (root / "pip").mkdir(parents=True)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def serve(files):
        links = []
        for name, (content, attributes) in files.items():
            (root / name).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            links.append(f'<a href="../{name}#sha256={digest}" {attributes}>{name}</a>')
        (root / "pip" / "index.html").write_text("\n".join(links))
        return root

    yield serve
    server.shutdown()


def bundled_pip():
    ensurepip = pytest.importorskip("ensurepip")

    found = sorted((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    return found[-1] if found else pytest.skip("this Python carries no pip wheel")


def test_pip_comes_from_the_index_newest_usable_release_first(tool, index, tmp_path):
    wheel = bundled_pip()
    index(
        {
            wheel.name: (wheel.read_bytes(), ""),
            "pip-99.0-py3-none-any.whl": (b"yanked", "data-yanked"),
            "pip-98.0b1-py3-none-any.whl": (b"early", ""),
            "pip-97.0-py3-none-any.whl": (b"other", 'data-requires-python="&gt;=3.99"'),
            "pip-1.0.tar.gz": (b"source", ""),
            "pip-1.0-py3-none-any.whl": (b"old", ""),
        }
    )
    tool.make_venv(tmp_path / "an environment")
    python = tmp_path / "an environment" / "bin" / "python"
    out = subprocess.run(
        [python, "-m", "pip", "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert out.startswith(f"pip {wheel.name.split('-')[1]} ") and "an environment" in out
    before = python.lstat().st_mtime_ns
    tool.make_venv(tmp_path / "an environment")
    assert python.lstat().st_mtime_ns == before


@pytest.mark.parametrize("case", ["altered", "no wheel", "no index"])
def test_without_a_pip_to_be_had_the_package_to_install_is_named(
    tool, index, tmp_path, case, monkeypatch
):
    root = index({} if case == "no wheel" else {"pip-1.0-py3-none-any.whl": (b"as listed", "")})
    if case == "altered":
        (root / "pip-1.0-py3-none-any.whl").write_bytes(b"not as listed")
    if case == "no index":
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    with pytest.raises(SystemExit) as stop:
        tool.make_venv(tmp_path / "environment")
    assert "apt install python3-venv" in str(stop.value)


def test_an_old_python_is_told_what_is_needed(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool.sys, "version_info", (3, 10))
    with pytest.raises(SystemExit, match="3.11 or newer"):
        tool.make_venv(tmp_path / "environment")
    assert not (tmp_path / "environment").exists()
