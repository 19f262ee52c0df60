"""Builds the native extension.

Directories of csrc named in PER_ISA hold loops: each of their files is compiled once per instruction
set, each copy in a namespace of its own; everything else is compiled once. A new file is found by
itself. Environment: EMBSTORE_JOBS, compilers at a time (default: every core this process may use);
EMBSTORE_SANITIZE, sanitizers to build with, as in `address,undefined`.
"""

import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, OptionError
from setuptools.modified import newer_group

PER_ISA = ("methods", "search", "transforms")
# A header of ours: named from csrc, as every one is.
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
# From the least to the most capable, as the link order below needs. csrc/core/registry.cpp checks for these at run time.
X86 = {
    "ref": [],
    "avx2": ["-mavx2", "-mf16c", "-mfma"],
    "avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vbmi"),
        *("-mavx512vnni", "-mavx512bitalg", "-mavx512vpopcntdq"),
        *("-mf16c", "-mprefer-vector-width=512"),
        # GCC's own AVX-512 headers initialize undefined vectors with themselves.
        *("-Wno-uninitialized", "-Wno-maybe-uninitialized"),
    ],
}
ARM = {"ref": [], "neon": []}
ISAS = {"x86_64": X86, "amd64": X86, "arm64": ARM, "aarch64": ARM}.get(platform.machine().lower(), {"ref": []})
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
    "-Wno-psabi",  # vectors wider than a register are passed between functions of one object only
]


def jobs():
    asked = os.environ.get("EMBSTORE_JOBS", "")
    if not asked:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked.isdecimal() or int(asked) < 1:
        raise OptionError(
            f"EMBSTORE_JOBS must be a number of compilers from 1 on, found {asked!r}; unset it for all cores"
        )
    return int(asked)


def included(source, found=None):
    """A file of ours and every one that it includes, and those include, as paths."""
    found = {source} if found is None else found
    for name in INCLUDE.findall(source.read_text(encoding="utf-8")):
        header = Path("csrc", name)
        if header not in found and header.exists():
            found.add(header)
            included(header, found)
    return found


class BuildExt(build_ext):
    def build_extension(self, ext):
        import nanobind

        home = Path(nanobind.__file__).resolve().parent
        self.binding = nanobind.__version__
        self.include = [home / "include", home / "ext" / "robin_map" / "include", "csrc", *self.include_dirs]
        sanitize = os.environ.get("EMBSTORE_SANITIZE")
        extra = [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-O1", "-g1"] if sanitize else ["-g0"]
        common = [*self.compiler.compiler_so_cxx, *FLAGS, *extra]
        loops = sorted(path for name in PER_ISA for path in glob(f"csrc/{name}/*.cpp"))
        plain = sorted(set(glob("csrc/**/*.cpp", recursive=True)) - set(loops))
        # The linker keeps the first copy of an inline function of the standard library that several objects hold.
        # It must not be one compiled for an instruction set that its other users' processors may lack.
        units = [(home / "src" / "nb_combined.cpp", "nanobind", ["-w", "-Os", "-DNDEBUG"])]
        units += [(path, "plain", []) for path in plain]
        for isa, flags in ISAS.items():
            macros = [f"-DEMBSTORE_ISA={isa}", f"-DEMBSTORE_ISA_{isa.upper()}"]
            units += [(path, isa, [*flags, *macros]) for path in loops]

        with ThreadPoolExecutor(jobs()) as pool:
            running = [pool.submit(self.compile, Path(path), name, common + flags) for path, name, flags in units]
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
            pool.shutdown(cancel_futures=True)
        for each in done:
            each.result()  # raises what stopped the build
        link = [f"-fsanitize={sanitize}"] if sanitize else [] if sys.platform == "darwin" else ["-s"]
        self.compiler.force = True  # objects of other flags may all be older than the last extension
        self.compiler.link_shared_object(
            [each.result() for each in running],
            self.get_ext_fullpath(ext.name),
            extra_postargs=[*link, "-pthread"],
            target_lang="c++",
        )

    def compile(self, source, name, command):
        """The object of one file, made again if older than the file or a header of it, or if another command made it."""
        # Not in build_temp, and without the include paths: both are new ones for each run of pip.
        made_by = shlex.join([sys.implementation.cache_tag, self.binding, *command])
        folder = Path("build", "objects", f"{name}-{hashlib.sha256(made_by.encode()).hexdigest()[:12]}")
        ours = not source.is_absolute()  # what is not is a file of nanobind, which its version stands for
        target = folder / (source if ours else Path(source.name)).with_suffix(".o")
        if not self.force and not newer_group(sorted(included(source)) if ours else [], target):
            return str(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        print(f"{source} for {name}", flush=True)
        whole = [*command, *(f"-I{path}" for path in self.include), "-c", str(source), "-o", str(target)]
        # Captured, so that what two compilers have to say does not come out mixed.
        told = subprocess.run(whole, stderr=subprocess.PIPE, text=True)
        print(told.stderr, end="", file=sys.stderr, flush=True)
        if told.returncode != 0:
            raise CompileError(f"{source} did not compile for {name}; the command was: {shlex.join(whole)}")
        return str(target)


setup(ext_modules=[Extension("embstore._native", sources=[], language="c++")], cmdclass={"build_ext": BuildExt})
