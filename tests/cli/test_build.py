"""Building the compiled operators: CUDA, C++ or nothing, each said in one line.

And an extension that does not fit.
"""

import importlib.machinery
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def build(tmp_path, *, code=None, cwd=ROOT, **environment):
    """Run setup.py build_ext into a folder; returns its lines and what it built."""
    command = [
        sys.executable,
        *(("-c", code) if code else ("setup.py",)),
        "build_ext",
        "--build-lib",
        tmp_path / "lib",
        "--build-temp",
        tmp_path / "temp",
    ]
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("pass-transfer: ")], list(
        tmp_path.rglob("*.so")
    )


TRIVIAL = """#include <Python.h>
PyMODINIT_FUNC PyInit__C() {
    static PyModuleDef d = {PyModuleDef_HEAD_INIT, "_C"};
    return PyModule_Create(&d);
}
"""


@pytest.fixture
def little(tmp_path):
    """A copy of setup.py with a source that compiles at once."""
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "a.cpp").write_text(TRIVIAL)
    shutil.copy(ROOT / "setup.py", tmp_path)
    return tmp_path


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_what_is_built_notes_its_torch(little):
    lines, built = build(little, cwd=little, PASS_TRANSFER_BUILD="cpp")
    assert (
        lines == [f"pass-transfer: built the operators for the CPU, for torch {torch.__version__}"]
        and len(built) == 1
    )
    assert (built[0].parent / "_C.torch-version").read_text() == torch.__version__


FORMATS = """#include <Python.h>
#include <sstream>
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef d = {PyModuleDef_HEAD_INIT, "_C"};
  PyObject* m = PyModule_Create(&d);
  std::ostringstream text;
  text << "number " << 42;
  PyModule_AddStringConstant(m, "text", text.str().c_str());
  return m;
}
"""


@pytest.mark.skipif(
    shutil.which("c++") is None or sys.platform != "linux",
    reason="no C++ compiler, or one that links otherwise",
)
def test_an_extension_with_a_libstdcpp_of_its_own_formats_numbers(little):
    (little / "csrc" / "a.cpp").write_text(FORMATS)
    _, built = build(
        little,
        cwd=little,
        PASS_TRANSFER_BUILD="cpp",
        LDFLAGS="-static-libstdc++ -static-libgcc -Wl,-Bsymbolic-functions",
    )
    found = subprocess.run(
        [sys.executable, "-c", "import torch, _C; print(_C.text)"],
        cwd=built[0].parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == "number 42\n", found.stderr


@pytest.mark.skipif(
    torch.version.cuda is None or shutil.which("nvcc") is None or shutil.which("c++") is None,
    reason="no nvcc, or a PyTorch without CUDA",
)
def test_where_cuda_does_not_compile_the_cpus_operators_are_built(little):
    (little / "csrc" / "b.cu").write_text("this is no source\n")
    lines, built = build(little, cwd=little, PASS_TRANSFER_BUILD="cuda")
    assert (
        "the build for cuda failed" in lines[0]
        and "built the operators for the CPU" in lines[-1]
        and len(built) == 1
    )


def test_nothing_is_built_where_nothing_is_wanted(tmp_path):
    assert build(tmp_path, PASS_TRANSFER_BUILD="none") == (
        ["pass-transfer: installing without compiled operators (PASS_TRANSFER_BUILD=none)"],
        [],
    )


def test_without_a_compiler_the_installation_succeeds_without_operators(tmp_path):
    lines, built = build(
        tmp_path, PASS_TRANSFER_BUILD="cpp", CXX="/nonexistent/c++", CC="/nonexistent/cc"
    )
    assert built == [] and len(lines) == 2
    assert (
        "the build for cpp failed" in lines[0]
        and lines[1] == "pass-transfer: installing without compiled operators (no build succeeded)"
    )


@pytest.mark.skipif(
    torch.version.cuda is None or shutil.which("nvcc") is None,
    reason="no nvcc, or a PyTorch without CUDA",
)
def test_cuda_falls_back_to_cpp_and_cpp_to_nothing(tmp_path):
    lines, built = build(
        tmp_path, PASS_TRANSFER_BUILD="cuda", CXX="/nonexistent/c++", CC="/nonexistent/cc"
    )
    assert built == [] and [line.split(" failed")[0] for line in lines[:-1]] == [
        "pass-transfer: the build for cuda",
        "pass-transfer: the build for cpp",
    ]


def test_without_pytorch_the_installation_succeeds_without_operators(tmp_path):
    code = "import sys; sys.modules['torch'] = None; __file__ = 'setup.py'; "
    code += "exec(open('setup.py').read())"
    lines, built = build(tmp_path, code=code, PASS_TRANSFER_BUILD="auto")
    assert (
        lines
        == [
            "pass-transfer: installing without compiled operators "
            "(no PyTorch in the build environment)"
        ]
        and built == []
    )


def test_an_unknown_kind_of_build_is_refused():
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        env=os.environ | {"PASS_TRANSFER_BUILD": "some"},
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 1
        and "choose one of auto, cuda, cpp, none" in done.stderr
        and "Traceback" not in done.stderr
    )


@pytest.fixture
def copied(tmp_path):
    """Runs code with a copy of the package, which has an extension built for another PyTorch."""
    shutil.copytree(
        ROOT / "pass_transfer",
        tmp_path / "pass_transfer",
        ignore=shutil.ignore_patterns("__pycache__", "_C*"),
    )
    (tmp_path / "pass_transfer" / f"_C{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(
        b"not to be loaded"
    )
    (tmp_path / "pass_transfer" / "_C.torch-version").write_text("1.0.0")

    def run(code, **environment):
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)} | environment,
            capture_output=True,
            text=True,
        )

    return run


def test_an_extension_for_another_torch_is_not_loaded_and_the_twins_take_over(copied):
    done = copied(
        "import torch; from pass_transfer import ops; print(ops.kernels.chosen().reason);"
        "print(ops.mask_channels(torch.ones(1, 2), torch.tensor([1., 0.])).tolist())"
    )
    reason, values = done.stdout.splitlines()
    assert (
        reason.startswith("reference (plain torch): the extension was built with torch 1.0.0")
        and "build it again" in reason
    )
    assert values == "[[1.0, 0.0]]" and done.stderr == ""


@pytest.mark.parametrize(
    "value, word",
    [
        ("cpp", "was built with torch 1.0.0"),
        ("cuda", "was built with torch 1.0.0"),
        ("fast", "choose one of auto, cpp, cuda, reference"),
    ],
)
def test_kernels_that_are_asked_for_and_not_there_are_an_error(copied, value, word):
    done = copied(
        "from pass_transfer import ops\nfrom pass_transfer.errors import KernelError\n"
        "try: ops.kernels.chosen()\nexcept KernelError as e: print(e)",
        PASS_TRANSFER_KERNELS=value,
    )
    assert word in done.stdout and "PASS_TRANSFER_KERNELS is" in done.stdout


def test_the_reference_can_be_asked_for(copied):
    done = copied(
        "from pass_transfer import ops; print(ops.kernels.chosen().reason)",
        PASS_TRANSFER_KERNELS="reference",
    )
    assert done.stdout.strip() == "reference (plain torch), as PASS_TRANSFER_KERNELS asks"


@pytest.mark.skipif(
    torch.version.cuda is None or shutil.which("nvcc") is None,
    reason="no nvcc, or a PyTorch without CUDA",
)
@pytest.mark.parametrize("source", sorted(path.name for path in (ROOT / "csrc").glob("*.cu")))
def test_cuda_sources_compile(tmp_path, source):
    code = (
        "import os, runpy, sys; sys.argv = ['setup.py', '--version']; "
        "space = runpy.run_path('setup.py'); "
        "os.environ['CUDA_HOME'] = str(space['cuda_toolkit']()); "
        "from torch.utils.cpp_extension import include_paths; "
        "print(*include_paths('cuda'), sep='\\n')"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PASS_TRANSFER_BUILD": "none"},
        capture_output=True,
        text=True,
        check=True,
    )
    includes = [f"-I{line}" for line in found.stdout.splitlines() if line.startswith("/")]
    done = subprocess.run(
        [
            "nvcc",
            "-std=c++20",
            "-O0",
            "-DPASS_TRANSFER_CUDA",
            "--expt-relaxed-constexpr",
            "--ptx",
            "-arch=compute_80",
            *includes,
            str(ROOT / "csrc" / source),
            "-o",
            str(tmp_path / "out.ptx"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert ".target sm_80" in (tmp_path / "out.ptx").read_text()
