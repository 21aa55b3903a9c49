#!/usr/bin/env python3
"""Checks Kiln's kernels on the NVIDIA GPU of this machine: check.py [--models MODELS]

- The tests of templates (tests/cuda/*.cpp), compiled by nvcc for this GPU instead of for the emulator, against double precision.
- What each operation of matrix units gives on random data (tests/cuda/fragments.cpp), held against the emulator's, word by word; --record FILE
  keeps what the GPU gave.
- All of that again under compute-sanitizer, where it is installed (--sanitize).
- With --models, the outputs of those models (ONNX files, or folders of them) against the CPU's.

Needs nvcc and g++ alone, and for models cargo (or --kiln) and a Python with numpy. --compile only compiles, for machines without a GPU; else it ends
there with status 3.
"""
import argparse
import concurrent.futures
import ctypes
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TESTS = ["fragments", "products", "bytes", "codes", "rows", "images", "picks", "attention"]


def nvcc():
    """The compiler, and the folder of its libraries."""
    homes = [os.environ[k] for k in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(k)] + ["/usr/local/cuda"]
    named = os.environ.get("NVCC")
    found = [named] if named else [f"{h}/bin/nvcc" for h in homes] + [shutil.which("nvcc") or ""]
    for path in map(pathlib.Path, found):
        if path.is_file():
            home = path.resolve().parent.parent
            return path, next((home / d for d in ("lib64", "lib") if (home / d / "libcudart_static.a").is_file()), None)
    print("error: nvcc is not here: set NVCC or CUDA_HOME, or install CUDA 12.8 or later", file=sys.stderr)
    sys.exit(3)


def level():
    """The compute capability of the first GPU, such as 90; None where there is no GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, numbers = ctypes.c_int(0), []
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    for attribute in (75, 76):
        value = ctypes.c_int(0)
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        numbers.append(value.value)
    return f"{numbers[0]}{numbers[1]}"


def run(command, **how):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, **how)


def said(done):
    """What a program ended with, in a line."""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return next((x for x in lines if "error" in x or x.startswith("FAILED")), lines[-1] if lines else f"status {done.returncode}")


class Check:
    def __init__(self, args):
        self.args, self.failed = args, []
        self.out = args.out / "check"
        self.out.mkdir(parents=True, exist_ok=True)
        self.include = [f"-I{ROOT / p}" for p in ("kernels-templates/src/cuda", "kernels-templates/src", "tests/cuda")]

    def tell(self, what, wrong):
        print(f"{'FAILED' if wrong else 'ok'} {what}{': ' + wrong if wrong else ''}", flush=True)
        if wrong:
            self.failed.append(what)

    def compile(self, arch):
        """The programs, each by the number of processors at a time; gives those that compiled."""
        tool, libraries = nvcc()
        how = ["-x", "cu", "-std=c++17", "-O2", "--extended-lambda", "--expt-relaxed-constexpr", "-diag-suppress", "177", f"-arch=sm_{arch}", "-cudart", "static"]
        how += [f"-L{libraries}"] if libraries else []
        # As kernels of models are compiled.
        how += ["-fmad=false", *self.include]
        one = lambda t: run([tool, *how, ROOT / "tests/cuda" / f"{t}.cpp", "-o", self.out / t])
        with concurrent.futures.ThreadPoolExecutor(self.args.jobs) as pool:
            made = dict(zip(self.args.tests, pool.map(one, self.args.tests)))
        for t, done in made.items():
            self.tell(f"{t}: nvcc for sm_{arch}", said(done) if done.returncode else "")
        return [t for t, done in made.items() if done.returncode == 0]

    def tests(self, names):
        for t in names:
            done = run([self.out / t])
            (self.out / f"{t}.txt").write_text(done.stdout)
            self.tell(f"{t}: results", said(done) if done.returncode else "")
        sanitizer = shutil.which("compute-sanitizer") or next((str(p) for p in [nvcc()[0].resolve().parent / "compute-sanitizer"] if p.is_file()), None)
        if not self.args.sanitize:
            return
        if not sanitizer:
            return self.tell("compute-sanitizer", "it is not installed")
        for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
            for t in names:
                done = run([sanitizer, "--tool", tool, "--error-exitcode", 9, self.out / t])
                self.tell(f"{t}: {tool}", said(done) if done.returncode else "")

    def fragments(self):
        """The GPU's fragments against the emulator's."""
        program = self.out / "fragments-emulated"
        source = [ROOT / "tests/cuda/fragments.cpp", ROOT / "kernels-templates/src/cuda/emulator.cpp"]
        made = run([os.environ.get("CXX", "g++"), "-std=c++17", "-O2", "-march=native", "-ffp-contract=off", "-DKILN_EMULATE", *self.include, *source, "-o", program])
        if made.returncode:
            return self.tell("fragments: the emulator", said(made))
        found = fragments((self.out / "fragments.txt").read_text())
        for name, want in fragments(run([program]).stdout).items():
            got = found.get(name, [])
            apart = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), None)
            wrong = f"{len(got)} words, not {len(want)}" if len(got) != len(want) else f"word {apart} is {got[apart]}, the emulator's {want[apart]}" if apart is not None else ""
            if wrong and not any(w != "0" for w in got):
                wrong = "the GPU has none of these units"
            self.tell(f"fragments: {name}", wrong)
        if self.args.record:
            self.args.record.write_text((self.out / "fragments.txt").read_text())

    def models(self):
        kiln = [self.args.kiln] if self.args.kiln else ["cargo", "run", "--release", "--quiet", "--manifest-path", ROOT / "Cargo.toml", "-p", "kiln-cli", "--"]
        for model in [f for m in self.args.models for f in (sorted(m.glob("*.onnx")) if m.is_dir() else [m])]:
            for precision, limit in (("f32", 1e-4), ("tf32", 2e-2), ("f16", 3e-2), ("bf16", 2e-1)):
                at = [self.out / "models" / model.stem / kind for kind in ("cpu", precision)]
                outs = [run([*kiln, "run", model, *how, "--output-dir", to]) for to, how in zip(at, (["--accuracy", "exact"], ["--target", "cuda", "--precision", precision]))]
                bad = next((said(o) for o in outs if o.returncode), None)
                self.tell(f"{model.stem}: {precision}", bad if bad else compare(*at, limit))


def fragments(text):
    """The words of each fragment by its name."""
    out = {}
    for line in text.splitlines():
        if line.startswith("fragment "):
            name, _, words = line.removeprefix("fragment ").partition(" : ")
            out[name] = words.split()
    return out


def compare(wanted, found, limit):
    """What is wrong with results: more than `limit` of the deviation of the output between them, or another number."""
    import numpy

    for path in sorted(wanted.glob("out_*.npy")):
        w, f = numpy.load(path), numpy.load(found / path.name)
        if numpy.issubdtype(w.dtype, numpy.floating):
            error = float(numpy.abs(w.astype(numpy.float64) - f).max() / (w.std() or 1.0)) if w.size else 0.0
            if not error <= limit:
                return f"{path.stem} is off by {error:.1e} of its deviation"
        elif (w != f).mean() > limit:
            return f"{path.stem} has other numbers"
    return ""


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--tests", nargs="+", choices=TESTS, default=TESTS, metavar="TEST", help="which, of " + ", ".join(TESTS))
    parse.add_argument("--models", nargs="+", type=pathlib.Path, default=[], help="ONNX files, or folders of them")
    parse.add_argument("--record", type=pathlib.Path, metavar="FILE", help="keep the GPU's fragments")
    parse.add_argument("--sanitize", action="store_true", help="run everything under compute-sanitizer too")
    parse.add_argument("--compile", metavar="LEVEL", help="only compile, for that level, such as 90a or 80")
    parse.add_argument("--kiln", help="the command; by default that of this checkout")
    parse.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time")
    parse.add_argument("--out", type=pathlib.Path, default=HERE / "results", help="where programs and results go")
    args = parse.parse_args()
    args.out = args.out.resolve()
    check = Check(args)
    if args.compile:
        check.compile(args.compile)
        return 1 if check.failed else 0
    found = level()
    if not found:
        print("error: there is no CUDA device on this machine; --compile LEVEL only compiles", file=sys.stderr)
        return 3
    # The units of four warps are those of 90a alone.
    made = check.compile("90a" if found == "90" else found)
    check.tests(made)
    if "fragments" in made:
        check.fragments()
    check.models()
    print(f"{len(check.failed)} failures")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
