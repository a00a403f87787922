"""Builds pass_transfer._C, the compiled operators, where PyTorch and a C++ compiler are at hand.

Without them the package installs as it is. PyTorch is at hand with
`pip install --no-build-isolation .` in an environment that has it: an extension works
with the PyTorch it was built against alone.
"""

from pathlib import Path

from setuptools import setup


def extension() -> dict:
    """Arguments of setup() that build the extension, or none."""
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:
        print("pass-transfer: no PyTorch in the build environment; installing without compiled operators")
        return {}

    class OptionalBuild(BuildExtension):
        """A build whose failure leaves the package without the extension."""

        def run(self) -> None:
            try:
                super().run()
                for extension in self.extensions:  # read before the module is loaded: another PyTorch would crash it
                    Path(self.get_ext_fullpath(extension.name)).with_name("_C.torch-version").write_text(torch.__version__, encoding="utf-8")
            except Exception as error:  # whatever a missing or broken compiler raises
                print(f"pass-transfer: installing without compiled operators ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})")

    sources = sorted(str(path.relative_to(Path(__file__).parent)) for path in Path(__file__).parent.glob("csrc/*.cpp"))
    compiled = CppExtension("pass_transfer._C", sources, extra_compile_args=["-O3", "-fopenmp", "-g0"], optional=True)
    return {"ext_modules": [compiled], "cmdclass": {"build_ext": OptionalBuild}}


setup(**extension())
