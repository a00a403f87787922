"""What is installed: one name, with the command line and the zoo inside, from any folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "pass_transfer", "cli", "csrc")


def pip(*arguments):
    without = os.environ | {
        "PASS_TRANSFER_BUILD": "none"
    }  # the operators take minutes, and have tests of their own
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=without,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(entry, tmp_path_factory):
    """(wheel, sdist) of the sources with a small entry in the zoo."""
    pytest.importorskip("setuptools", minversion="77")
    root = tmp_path_factory.mktemp("build")
    source = root / "a source folder"
    source.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(
                ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__", "*.so")
            )
        elif (ROOT / part).exists():
            shutil.copy(ROOT / part, source / part)
    (source / "zoo").mkdir()
    shutil.copy(ROOT / "zoo" / "__init__.py", source / "zoo")
    shutil.copytree(entry, source / "zoo" / "small")
    code = "import sys, setuptools.build_meta as b; b.build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(root)], cwd=source, check=True, capture_output=True
    )
    sdist = next(root.glob("*.tar.gz"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", root / "wheel", sdist)
    return next((root / "wheel").glob("*.whl")), sdist


def test_the_wheel_from_the_sdist_holds_the_package_alone(built):
    names = zipfile.ZipFile(built[0]).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pass_transfer"}
    inside = {str(path.relative_to(ROOT)) for path in (ROOT / "pass_transfer").rglob("*.py")}
    inside |= {f"pass_transfer/{path.relative_to(ROOT)}" for path in (ROOT / "cli").glob("*.py")}
    assert inside | {"pass_transfer/report/page.css"} <= set(names)
    entry = {
        "README.md",
        "backbone.safetensors",
        "config.json",
        "hypernet.safetensors",
        "manifest.json",
        "masks.safetensors",
        "prompt.safetensors",
    }
    assert {f"pass_transfer/zoo_data/small/{name}" for name in entry} <= set(names)


def test_every_folder_of_the_package_is_listed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "pass_transfer").rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == folders | {
        "pass_transfer.cli",
        "pass_transfer.zoo_data",
    }


def test_the_installed_command_works_from_any_folder(built, tmp_path):
    home = tmp_path / "an environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    pip("--python", python, "install", "--no-deps", "--no-index", built[0])
    packages = next((home / "lib").glob("python*")) / "site-packages"
    (packages / "others.pth").write_text(
        sysconfig.get_paths()["purelib"] + "\n"
    )  # torch and the rest, not installed twice

    def run(*arguments):
        done = subprocess.run(
            [str(a) for a in arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert Path(
        run(python, "-c", "import pass_transfer; print(pass_transfer.__file__)").strip()
    ).is_relative_to(home)
    assert run(home / "bin" / "pass-transfer", "zoo", "ls").startswith("small")
    assert "all files are what the manifest says" in run(
        home / "bin" / "pass-transfer", "zoo", "verify", "zoo/small"
    )
    for name in ("cli", "zoo", "tests", "tools", "benchmarks", "csrc"):
        found = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
        assert run(python, "-c", found).strip() == "None"
