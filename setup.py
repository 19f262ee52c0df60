"""Builds the native extension.

Every file of csrc/methods is compiled once per instruction set (the loops are templates, so the
flags must reach them), each copy in a namespace of its own; the rest is compiled once. Adding a
method adds a file and changes nothing here.
"""

import os
import platform
import sys
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

X86 = {
    "ref": [],
    "avx2": ["-mavx2", "-mf16c"],
    "avx512": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512vl",
        "-mavx512dq",
        "-mavx512vbmi",
        "-mf16c",
        "-mprefer-vector-width=512",
    ],
}
ARM = {"ref": [], "neon": []}
# -ffp-contract=off: a fused multiply-add would round once where the numpy reference rounds twice.
FLAGS = [
    "-std=c++17",
    "-O3",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
]


class BuildExt(build_ext):
    def build_extension(self, ext):
        import nanobind

        here = os.path.dirname(os.path.abspath(nanobind.__file__))
        machine = platform.machine().lower()
        isas = X86 if machine in ("x86_64", "amd64") else ARM if machine in ("arm64", "aarch64") else {"ref": []}
        sanitize = os.environ.get("EMBSTORE_SANITIZE")
        extra = [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g"] if sanitize else ["-g0"]
        temp = self.build_temp
        include = [
            os.path.join(here, "include"),
            os.path.join(here, "ext", "robin_map", "include"),
            "csrc",
            *self.include_dirs,
        ]
        compile_ = lambda sources, out, flags, macros=(): self.compiler.compile(  # noqa: E731
            sources,
            output_dir=os.path.join(temp, out),
            include_dirs=include,
            macros=list(macros),
            extra_postargs=FLAGS + extra + flags,
        )
        objects = []
        for isa, flags in isas.items():
            macros = [("EMBSTORE_ISA", isa), (f"EMBSTORE_ISA_{isa.upper()}", "1")]
            objects += compile_(sorted(glob("csrc/methods/*.cpp")), isa, flags, macros)
        plain = sorted(glob("csrc/*.cpp") + glob("csrc/core/*.cpp") + glob("csrc/keys/*.cpp"))
        objects += compile_(plain, "plain", [])
        binding = [os.path.join(here, "src", "nb_combined.cpp")]
        objects += compile_(binding, "nanobind", ["-w", "-Os"], [("NDEBUG", "1")])
        link = [f"-fsanitize={sanitize}"] if sanitize else [] if sys.platform == "darwin" else ["-s"]
        self.compiler.link_shared_object(
            objects, self.get_ext_fullpath(ext.name), extra_postargs=[*link, "-pthread"], target_lang="c++"
        )


setup(ext_modules=[Extension("embstore._native", sources=[], language="c++")], cmdclass={"build_ext": BuildExt})
