"""Builds pass_transfer._C, the compiled operators, where PyTorch and a C++ compiler are at hand.

Falls back from CUDA to C++ to nothing; the package works without the extension. PyTorch is
at hand with `pip install --no-build-isolation .` in an environment that has it: an extension
works with the PyTorch it was built against alone.

PASS_TRANSFER_BUILD=auto|cuda|cpp|none: auto builds for CUDA where a GPU is present; cuda
builds for it anyway. TORCH_CUDA_ARCH_LIST names the GPUs to build for.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
ARCHITECTURES = "8.0;9.0+PTX"
CHOICES = ("auto", "cuda", "cpp", "none")


def say(line: str) -> None:
    """One line of what was decided; pip shows it with -v."""
    print(f"pass-transfer: {line}", flush=True)


def cuda_toolkit() -> Path | None:
    """The folder with CUDA's headers and libraries.

    The nvcc on the PATH can be a wrapper that lies elsewhere.
    """
    named: list[str | Path | None] = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    if nvcc := shutil.which("nvcc"):
        named.append(Path(nvcc).resolve().parents[1])
        plan = subprocess.run(
            [nvcc, "--dryrun", "-c", "-x", "cu", "/dev/null", "-o", "/dev/null"],
            capture_output=True,
            text=True,
            check=False,
        )
        named += re.findall(r"^#\$ TOP=(.+)$", plan.stdout + plan.stderr, flags=re.MULTILINE)
    named += sorted(Path("/usr/local").glob("cuda*"), reverse=True)
    for folder in [Path(name) for name in named if name]:
        if (folder / "include" / "cuda_runtime.h").exists() and any(
            (folder / lib / "libcudart.so").exists() for lib in ("lib64", "lib")
        ):
            return folder.resolve()
    return None


def sources(*endings: str) -> list[str]:
    """Files of csrc by ending, relative to this one."""
    return sorted(
        str(path.relative_to(HERE)) for path in (HERE / "csrc").iterdir() if path.suffix in endings
    )


def builds(asked: str) -> list[str]:
    """What to try, in order.

    Sets CUDA_HOME, which torch reads when its build tools are imported.
    """
    if asked not in CHOICES:
        choices = ", ".join(CHOICES)
        raise SystemExit(f"PASS_TRANSFER_BUILD is {asked!r}; choose one of {choices}")
    if asked == "none":
        return []
    if asked == "cpp":
        return ["cpp"]
    import torch

    if torch.version.cuda is None or asked == "auto" and not torch.cuda.is_available():
        why = (
            "this PyTorch has no CUDA"
            if torch.version.cuda is None
            else "no GPU here, and PASS_TRANSFER_BUILD=cuda is not set"
        )
        say(f"building for the CPU alone ({why})")
        return ["cpp"]
    folder = cuda_toolkit()
    if folder is None:
        say("building for the CPU alone (no CUDA toolkit with headers and libraries found)")
        return ["cpp"]
    os.environ["CUDA_HOME"] = str(folder)
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
    return ["cuda", "cpp"]


def arguments() -> dict:
    """Arguments of setup() that build the extension, or none."""
    try:
        kinds = builds(os.environ.get("PASS_TRANSFER_BUILD", "auto"))
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension
    except ImportError:
        say("installing without compiled operators (no PyTorch in the build environment)")
        return {}
    if not kinds:
        say("installing without compiled operators (PASS_TRANSFER_BUILD=none)")
        return {}
    # No code here waits for a floating-point trap, and with them a choice between two numbers
    # would not be vectorised.
    flags = ["-O3", "-fno-trapping-math", "-fopenmp", "-g0"]
    # Some compilers link libstdc++ into what they build. Its symbols stay there, or half of them
    # would be those of the copy that PyTorch has loaded, and an error's message would crash or be
    # cut short.
    link = ["-Wl,--exclude-libs,ALL"] if sys.platform == "linux" else []
    extensions = {
        "cpp": lambda: CppExtension(
            "pass_transfer._C",
            sources(".cpp"),
            extra_compile_args={"cxx": flags},
            extra_link_args=link,
        ),
        "cuda": lambda: CUDAExtension(
            "pass_transfer._C",
            sources(".cpp", ".cu"),
            define_macros=[("PASS_TRANSFER_CUDA", None)],
            extra_compile_args={"cxx": flags, "nvcc": ["-O3", "--expt-relaxed-constexpr"]},
            extra_link_args=link,
        ),
    }

    class OptionalBuild(BuildExtension):
        """Tries one kind of build after the other.

        If none succeeds the package is left without the extension.
        """

        def run(self) -> None:
            extension, compiler = self.extensions[0], self.compiler
            for number, kind in enumerate(kinds):
                self.compiler = compiler  # a run replaces the name by an object
                if number:  # what setuptools has noted on the extension stays
                    vars(extension).update(vars(extensions[kind]()))
                try:
                    super().run()
                # Whatever a missing or broken compiler raises.
                except (Exception, SystemExit) as error:
                    message = (str(error) or "no message").splitlines()[0]
                    say(f"the build for {kind} failed ({type(error).__name__}: {message})")
                    continue
                built = Path(self.get_ext_fullpath("pass_transfer._C"))
                if built.exists():
                    # Read before the module is loaded, which another PyTorch would crash.
                    built.with_name("_C.torch-version").write_text(
                        torch.__version__, encoding="utf-8"
                    )
                    what = "CUDA and the CPU" if kind == "cuda" else "the CPU"
                    say(f"built the operators for {what}, for torch {torch.__version__}")
                    return
            say("installing without compiled operators (no build succeeded)")
            self.extensions = self.distribution.ext_modules = []

    return {"ext_modules": [extensions[kinds[0]]()], "cmdclass": {"build_ext": OptionalBuild}}


setup(**arguments())
