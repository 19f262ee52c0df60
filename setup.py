"""Builds the native extension, and that of CUDA where its compiler is.

Directories of csrc named in PER_ISA hold loops: each of their files is compiled once per instruction
set, each copy in a namespace of its own; everything else is compiled once. A new file is found by
itself. csrc/cuda makes embstore._cuda, its .cu files compiled by nvcc. Environment: EMBSTORE_JOBS, compilers at
a time (default: every core this process may use); EMBSTORE_SANITIZE, sanitizers to build with, as in
`address,undefined`, which leaves CUDA out; EMBSTORE_CUDA, `on`, `off` or `auto` (default: on where nvcc is found, by
CUDACXX, CUDA_HOME or PATH).
"""

import hashlib
import os
import platform
import re
import shlex
import shutil
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

# Machine code for what data centres run, and PTX for what comes after. -fmad=false as -ffp-contract=off above.
NVCC_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fmad=false",
    *("-gencode", "arch=compute_80,code=sm_80", "-gencode", "arch=compute_90,code=[sm_90,compute_90]"),
    "-DEMBSTORE_ISA=cuda",
]
# A row that is not good is neither placed nor fetched: GCC does not see that.
NVCC_HOST_FLAGS = [
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-Wall",
    *("-Wno-unknown-pragmas", "-Wno-maybe-uninitialized"),
]


def nvcc():
    """CUDA's compiler, or None where there is none or none is wanted."""
    wanted = os.environ.get("EMBSTORE_CUDA") or "auto"
    if wanted not in ("auto", "on", "off"):
        raise OptionError(f"EMBSTORE_CUDA must be auto, on or off, found {wanted!r}; unset it for auto")
    sanitize = os.environ.get("EMBSTORE_SANITIZE")
    if wanted == "off" or (sanitize and wanted == "auto"):
        return None
    if sanitize:
        raise OptionError("EMBSTORE_CUDA=on does not go with EMBSTORE_SANITIZE, found both; unset one of them")
    asked, home = os.environ.get("CUDACXX"), os.environ.get("CUDA_HOME")
    found = shutil.which(asked) if asked else (home and shutil.which(f"{home}/bin/nvcc")) or shutil.which("nvcc")
    if found is None and (wanted == "on" or asked):
        where = f"at {asked}, where CUDACXX says" if asked else "in CUDA_HOME and on PATH"
        raise OptionError(
            f"EMBSTORE_CUDA needs nvcc, found none {where}; install CUDA 12 or later or set EMBSTORE_CUDA=off"
        )
    return found


def nvcc_libraries(compiler):
    """Options that let the linker find CUDA's runtime: where the compiler itself looks."""
    told = subprocess.run([compiler, "--dryrun", "-x", "cu", os.devnull], stderr=subprocess.PIPE, text=True)
    line = re.search(r"^#\$ LIBRARIES=(.*)$", told.stderr, re.MULTILINE)
    if line is None:
        raise OptionError(
            f"{compiler} does not tell where its libraries are; set EMBSTORE_CUDA=off, or CUDACXX to another"
        )
    return shlex.split(line[1])


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
        self.common = [*self.compiler.compiler_so_cxx, *FLAGS, *extra]
        self.first = [(home / "src" / "nb_combined.cpp", "nanobind", [*self.common, "-w", "-Os", "-DNDEBUG"])]
        link = [f"-fsanitize={sanitize}"] if sanitize else [] if sys.platform == "darwin" else ["-s"]
        units, libraries = self.cuda_units() if ext.name == CUDA else self.native_units()
        with ThreadPoolExecutor(jobs()) as pool:
            running = [pool.submit(self.compile, Path(path), name, command) for path, name, command in units]
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
            pool.shutdown(cancel_futures=True)
        for each in done:
            each.result()  # raises what stopped the build
        self.compiler.force = True  # objects of other flags may all be older than the last extension
        self.compiler.link_shared_object(
            [each.result() for each in running],
            self.get_ext_fullpath(ext.name),
            extra_postargs=[*link, *libraries, "-pthread"],
            target_lang="c++",
        )

    def native_units(self):
        """What each file of the extension is compiled by, in the order of linking, and options of the linker."""
        loops = sorted(path for name in PER_ISA for path in glob(f"csrc/{name}/*.cpp"))
        every = set(glob("csrc/**/*.cpp", recursive=True)) - set(glob("csrc/cuda/**/*.cpp", recursive=True))
        plain = sorted(every - set(loops))
        # The linker keeps the first copy of an inline function of the standard library that several objects hold.
        # It must not be one compiled for an instruction set that its other users' processors may lack.
        units = self.first + [(path, "plain", self.common) for path in plain]
        for isa, flags in ISAS.items():
            macros = [f"-DEMBSTORE_ISA={isa}", f"-DEMBSTORE_ISA_{isa.upper()}"]
            units += [(path, isa, [*self.common, *flags, *macros]) for path in loops]
        return units, []

    def cuda_units(self):
        """As native_units, of the extension for CUDA."""
        compiler = nvcc()
        # nvcc takes its host compiler without the options that Python was built with.
        host = ["-ccbin", self.compiler.compiler_so_cxx[0], "-Xcompiler", ",".join(NVCC_HOST_FLAGS)]
        command = [compiler, *NVCC_FLAGS, *host]
        plain = ["csrc/bindings_params.cpp", *sorted(glob("csrc/cuda/**/*.cpp", recursive=True))]
        units = self.first + [(path, "plain", self.common) for path in plain]
        units += [(path, "cuda", command) for path in sorted(glob("csrc/cuda/**/*.cu", recursive=True))]
        # Hidden: other libraries of a process bring a runtime of their own.
        hide = ["-Wl,--exclude-libs,ALL"] if sys.platform.startswith("linux") else []
        return units, [*nvcc_libraries(compiler), "-lcudart_static", "-ldl", "-lrt", *hide]

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


CUDA = "embstore._cuda"
names = ["embstore._native", *([CUDA] if os.path.isdir("csrc/cuda") and nvcc() else [])]
setup(ext_modules=[Extension(name, sources=[], language="c++") for name in names], cmdclass={"build_ext": BuildExt})
