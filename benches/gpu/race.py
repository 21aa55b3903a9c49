#!/usr/bin/env python3
"""Races Kiln on an NVIDIA GPU against PyTorch on the same one: race.py MODELS [--models CASE ..] [--precision f16]

MODELS is a folder of files that benches/models.py exported; files that lack there are exported. Kiln (`kiln bench --target cuda`), PyTorch as it is
and `torch.compile` in its mode max-autotune, which records CUDA graphs, run in turn for some rounds, in the same precision, on the same inputs.
Times are by CUDA events, the median of a round and of the rounds. PyTorch's inputs and results stay on the GPU, so what is compared is Kiln's time
from its first kernel to its last; its whole run, with inputs and results brought over, stands beside it. Errors are the largest difference from
Kiln's direct sums in f32 on the CPU, over the standard deviation of the output.

--pack DIR makes a folder of programs on a machine that has cargo and nvcc, and --from DIR measures them on one that has neither: large weights stay
behind and are random there, so nothing is said of errors.

Needs cargo (or --kiln), nvcc, and a Python with torch, onnx and what models.py names (--python, by default the one that runs this). Without a GPU
it ends with status 3; --emulate shows the way of things without one, and its times say nothing.
"""
import argparse
import ctypes
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import typing
import zlib

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))


class Case(typing.NamedTuple):
    """A model of models.py at a size of batch."""

    title: str
    model: str
    batch: int = 1
    # Whether the file takes any batch once its inputs are given one; else it is exported for each.
    open: bool = True
    # Whether PyTorch is asked for channels last.
    images: bool = False
    # Rows of a cache that Kiln keeps in the instance when a run begins.
    past: int = 0

    def state(self):
        """Flags that keep the cache in the instance."""
        return ["--state", "past_*->present_*", "--capacity", 1024] if self.past else []


CASES = {
    "resnet50": Case("ResNet-50", "resnet50", images=True),
    "resnet50_b32": Case("ResNet-50, 32 images", "resnet50", 32, images=True),
    "bert_base_s128": Case("BERT-base, 128 tokens", "bert_base_s128"),
    "bert_base_s128_b16": Case("BERT-base, 16 × 128 tokens", "bert_base_s128", 16, open=False),
    "gpt2_decode": Case("GPT-2, one token behind 48", "gpt2_decode", past=48),
    "yolov5n": Case("YOLOv5n, 640×640", "yolov5n", images=True),
}
PEERS = {"eager": "PyTorch", "compiled": "torch.compile"}


def no_device():
    """Why there is no GPU to use; None where there is one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no CUDA driver on this machine (libcuda.so.1 cannot be loaded)"
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the CUDA driver sees no device"
    return None


# ---- what runs in the Python with torch: race.py --worker JOB


def export(job):
    """Writes the file of a case whose batch the exporter closes."""
    import torch

    import models

    name, path = job["model"], job["path"]
    entry = models.ALL[name]
    if job["batch"] > 1:
        wide = lambda torch: tuple(x.repeat(job["batch"], *[1] * (x.dim() - 1)) for x in entry.args(torch))
        models.ALL[name] = entry._replace(args=wide)
    torch.manual_seed(0)
    models.write(name, path)
    return {}


def inputs(job):
    """Writes in_0.npy .. for the case's batch; gives names, types and extents."""
    import numpy

    import models
    import race

    dims, ports = models.ALL[job["model"]].dims, []
    for name, dtype, extents in race.ports(job["path"]):
        shape = [n if n is not None else dims.get(param, 1 if axis == 0 else 64) for axis, (n, param) in enumerate(extents)]
        ports.append((name, numpy.dtype(dtype).name, [job["batch"] if shape[0] == 1 else shape[0], *shape[1:]]))
    return values({**job, "ports": ports})


def values(job):
    """Writes in_0.npy .. from a seed that the case's name gives, as benches/race.py makes them."""
    import numpy

    rng, folder = numpy.random.default_rng(zlib.crc32(job["case"].encode())), pathlib.Path(job["folder"])
    for i, (name, dtype, shape) in enumerate(job["ports"]):
        dtype = numpy.dtype(dtype)
        if "mask" in name or dtype == numpy.bool_:
            value = numpy.ones(shape, dtype)
        elif "token_type" in name:
            value = numpy.zeros(shape, dtype)
        elif numpy.issubdtype(dtype, numpy.integer):
            value = rng.integers(0, 100, shape).astype(dtype)
        else:
            value = rng.standard_normal(shape).astype(dtype)
        numpy.save(folder / f"in_{i}.npy", value)
    return {"ports": job["ports"]}


def fill(job):
    """Writes the weights of a packed program: those that were left out are random, of a size that keeps sums near 1."""
    import numpy

    packed, rng = pathlib.Path(job["packed"]), numpy.random.default_rng(0)
    plan, kept = json.loads((packed / "weights.json").read_text()), (packed / "weights.bin").read_bytes()
    whole, at, end = bytearray(plan["bytes"]), 0, 0
    for offset, size, element, depth in plan["holes"]:
        whole[end:offset] = kept[at : at + offset - end]
        at += offset - end
        wide = element in ("f32", "tf32")
        x = rng.standard_normal(size // (4 if wide else 2), numpy.float32) * numpy.float32(depth**-0.5 if depth > 1 else 0.1)
        x = x if wide else x.astype(numpy.float16) if element == "f16" else (x.view(numpy.uint32) >> 16).astype(numpy.uint16)
        whole[offset : offset + size] = x.tobytes()
        end = offset + size
    whole[end:] = kept[at:]
    assert len(whole) == plan["bytes"]
    pathlib.Path(job["to"]).write_bytes(whole)
    return {}


def errors(job):
    """The largest error of each engine over the standard deviation of the output, over all outputs of floats."""
    import numpy

    import race

    wanted = race.read(pathlib.Path(job["wanted"]), "out")

    def worst(found):
        most = 0.0
        for f, w in zip(found, wanted):
            if numpy.issubdtype(w.dtype, numpy.floating) and w.size:
                difference = numpy.abs(f.astype(numpy.float64).reshape(w.shape) - w.astype(numpy.float64))
                most = max(most, float(difference.max()) / (float(w.std()) or 1.0))
        return most

    return {engine: worst(race.read(pathlib.Path(at), "out")) for engine, at in job["engines"].items() if list(pathlib.Path(at).glob("out_*.npy"))}


class Torch:
    """A model in PyTorch on the GPU, ready to run."""

    def __init__(self, job):
        import torch

        import models
        import race

        self.torch = torch
        module = models.build(job["model"])
        if module is None:
            raise RuntimeError("there is no PyTorch side of this model")
        precision = job["precision"]
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True
        kind = {"f16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
        # Exported as plain operators, run as PyTorch would run it: with its fused attention.
        for m in module.modules():
            config = getattr(m, "config", None)
            if getattr(config, "_attn_implementation", None) == "eager":
                config._attn_implementation = "sdpa"
        module = module.to(job["device"], kind)
        given = [torch.from_numpy(x).to(job["device"]) for x in race.read(pathlib.Path(job["folder"]), "in")]
        given = [x.to(kind) if x.is_floating_point() else x for x in given]
        if job["images"]:
            module = module.to(memory_format=torch.channels_last)
            given = [x.to(memory_format=torch.channels_last) for x in given]
        if job["engine"] == "compiled":
            module = torch.compile(module, mode="max-autotune")
        self.module, self.given = module, given

    def run(self):
        with self.torch.inference_mode():
            if self.torch.cuda.is_available():
                self.torch.compiler.cudagraph_mark_step_begin()
            return self.module(*self.given)

    def save(self, folder):
        import numpy

        found = self.run()
        found = found if isinstance(found, (tuple, list)) else (found,)
        for i, x in enumerate(x for x in found if isinstance(x, self.torch.Tensor)):
            numpy.save(f"{folder}/out_{i}.npy", x.float().cpu().numpy() if x.is_floating_point() else x.cpu().numpy())

    def measure(self, seconds):
        cuda = self.torch.cuda

        def once():
            start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
            start.record()
            self.run()
            end.record()
            end.synchronize()
            return start.elapsed_time(end)

        # Whatever is compiled or recorded on the way is so before the count.
        for _ in range(5):
            last = once()
        times = [once() for _ in range(max(10, min(2000, int(seconds * 1e3 / max(last, 1e-3)))))]
        return {"p50_ms": statistics.median(times), "min_ms": min(times), "iterations": len(times)}


def serve(job):
    """Makes a model, then measures it once for each line on standard input."""
    peer = Torch(job)
    peer.save(job["outputs"])
    print(json.dumps({"version": peer.torch.__version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(peer.measure(json.loads(line)["seconds"])), flush=True)


def worker(text):
    job = json.loads(text)
    # What libraries print goes beside the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    if job["job"] == "serve":
        sys.stdout = answers
        return serve(job)
    print(json.dumps({"export": export, "inputs": inputs, "values": values, "fill": fill, "errors": errors}[job["job"]](job)), file=answers)


# ---- the race itself, with nothing but the standard library


class Peer:
    """A process that measures PyTorch when it is told to."""

    def __init__(self, python, job):
        command = [python, __file__, "--worker", json.dumps(job)]
        # A file takes whatever is said there; a pipe that nobody reads would stop the process once it is full.
        self.said = tempfile.TemporaryFile("w+", errors="replace")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True)
        self.answer()

    def answer(self):
        # Lines that are no answers come from libraries.
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        self.process.wait()
        self.said.seek(0)
        text = self.said.read().strip().splitlines()
        raise RuntimeError(text[-1] if text else "the process ended without a word")

    def measure(self, seconds):
        self.process.stdin.write(json.dumps({"seconds": seconds}) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


class Race:
    def __init__(self, args):
        self.args = args
        gpu = ["--emulate"] if args.emulate else ["--target", "cuda"]
        self.gpu = [*gpu, "--precision", args.precision, *(["--overlap"] if args.overlap else [])]

    def call(self, command, env=None):
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=env)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()
            raise RuntimeError(f"{command[0]} {command[1]}: {said[0] if said else done.returncode}")
        return done.stdout

    def ask(self, job):
        return json.loads(self.call([self.args.python, __file__, "--worker", json.dumps(job)]).strip().splitlines()[-1])

    def folder(self, name):
        """A case's folder for what comes and goes."""
        folder = self.args.out / "work" / name
        for sub in ("inputs", "cpu", "kiln", *PEERS):
            (folder / sub).mkdir(parents=True, exist_ok=True)
            for old in (folder / sub).glob("*.npy"):
                old.unlink()
        return folder

    def file(self, name, case):
        """The case's file, flags that give its inputs, and what its jobs are told."""
        folder = self.folder(name)
        path = self.args.folder / f"{case.model}.onnx" if case.open or case.batch == 1 else folder / f"{case.model}.onnx"
        if not path.is_file():
            print(f"exporting {path}", file=sys.stderr)
            self.ask({"job": "export", "model": case.model, "batch": 1 if case.open else case.batch, "path": str(path)})
        job = {"case": name, "model": case.model, "batch": case.batch, "path": str(path), "folder": str(folder / "inputs"), "images": case.images}
        job |= self.ask({**job, "job": "inputs"})
        flags = [f for n, _, shape in job["ports"] for f in ("--shape", f"{n}={'x'.join(map(str, shape))}")] if case.batch > 1 and case.open else []
        return path, [*flags, "--inputs", folder / "inputs"], job

    def pack(self, name, case):
        """What --from needs of a case."""
        path, flags, job = self.file(name, case)
        to = self.args.pack / name
        print(f"packing {name}", file=sys.stderr)
        self.call([*self.args.kiln, "pack", path, *flags, *case.state(), *self.gpu, "--output", to])
        told = {k: job[k] for k in ("case", "model", "batch", "images", "ports")} | {"precision": self.args.precision, "past": case.past}
        (to / "case.json").write_text(json.dumps(told))

    def packed(self, name):
        """How a packed case is measured, and what its jobs are told."""
        folder, packed = self.folder(name), self.args.packed / name
        job = json.loads((packed / "case.json").read_text()) | {"folder": str(folder / "inputs")}
        if job["precision"] != self.args.precision:
            raise RuntimeError(f"it was packed for {job['precision']}")
        self.ask({**job, "job": "values"})
        self.ask({"job": "fill", "packed": str(packed), "to": str(folder / "weights")})
        (packed / "model").chmod(0o755)
        how = [f"in={packed / 'in'}", f"device_weights={folder / 'weights'}", "device=cuda", *(["overlap=1"] if self.args.overlap else [])]
        how += ["warmup=0", "iterations=2"] if self.args.emulate else ["warmup=5", "iterations=0"]
        how += [f"past={job['past']}"] if job["past"] else []
        env = {"LD_LIBRARY_PATH": str(packed)} if (packed / "libcuda.so.1").is_file() else None
        return (lambda: json.loads(self.call([packed / "model", "bench", *how], env))), job

    def prepare(self, name, case):
        """How a case is measured, and what its jobs are told. Its results by the CPU and the GPU are there then."""
        path, flags, job = self.file(name, case)
        folder = self.args.out / "work" / name
        self.call([*self.args.kiln, "run", path, *flags, "--accuracy", "exact", "--output-dir", folder / "cpu"])
        if self.args.tune:
            self.call([*self.args.kiln, "tune", path, *flags, *case.state(), *self.gpu, "--output", folder / "tune"])
            flags += ["--tune", folder / "tune"]
        self.call([*self.args.kiln, "run", path, *flags, *self.gpu, "--output-dir", folder / "kiln"])
        how = [*flags, *case.state(), *(["--past", case.past] if case.past else []), *self.gpu, "--json", "--iterations", 2 if self.args.emulate else 0]
        return (lambda: json.loads(self.call([*self.args.kiln, "bench", path, *how]))), job

    def case(self, name, case):
        measure, job = self.packed(name) if self.args.packed else self.prepare(name, case)
        folder = self.args.out / "work" / name
        line, peers = {"case": name, "title": case.title, "precision": self.args.precision}, {}
        try:
            for engine in () if self.args.emulate else PEERS:
                try:
                    more = {"job": "serve", "engine": engine, "precision": self.args.precision, "device": "cuda", "outputs": str(folder / engine)}
                    peers[engine] = Peer(self.args.python, {**job, **more})
                except RuntimeError as e:
                    print(f"  {PEERS[engine]} left out: {e}", file=sys.stderr)
            engines, rounds = ["kiln", *peers], {}
            for r in range(self.args.rounds):
                # Another one begins each round.
                for engine in engines[r % len(engines):] + engines[: r % len(engines)]:
                    if engine == "kiln":
                        found = measure()
                        found = {"p50_ms": found["gpu_kernels_ms"], "whole_ms": found["gpu_ms"], "wall_ms": found["p50_ms"]}
                    else:
                        found = peers[engine].measure(self.args.seconds)
                    rounds.setdefault(engine, []).append(found)
        finally:
            for peer in peers.values():
                peer.end()
        for engine, found in rounds.items():
            line[engine] = {k: statistics.median(f[k] for f in found) for k in found[0]}
        best = min((line[e]["p50_ms"] for e in peers), default=None)
        line["ratio"] = line["kiln"]["p50_ms"] / best if best else None
        at = {e: str(folder / e) for e in ("kiln", *PEERS)}
        if self.args.packed:
            return line | {"errors": {}}
        line["errors"] = self.ask({"job": "errors", "wanted": str(folder / "cpu"), "engines": at})
        return line


def markdown(results):
    """The table."""
    out = [f"Median milliseconds in {results['precision']}, {results['rounds']} rounds in turn; below 1 Kiln is faster than the faster of the others.", ""]
    if results["emulated"]:
        out = ["By the emulator, on a CPU: these times say nothing of a GPU.", ""]
    out += ["| model | Kiln, kernels | Kiln, with copies | PyTorch | torch.compile | Kiln / the faster | errors: Kiln | PyTorch | torch.compile |", "|---" * 9 + "|"]
    for line in results["lines"]:
        ms = lambda engine, key="p50_ms": f"{line[engine][key]:.3f}" if engine in line else ""
        error = lambda engine: f"{line['errors'][engine]:.1e}" if engine in line["errors"] else ""
        ratio = f"{line['ratio']:.2f}" if line["ratio"] else ""
        cells = [line["title"], ms("kiln"), ms("kiln", "whole_ms"), *map(ms, PEERS), ratio, error("kiln"), *map(error, PEERS)]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("folder", type=pathlib.Path, nargs="?", help="the folder of exported models")
    parse.add_argument("--models", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help="which, of " + ", ".join(CASES))
    parse.add_argument("--precision", default="f16", choices=["f32", "tf32", "f16", "bf16"])
    parse.add_argument("--rounds", type=int, default=3, help="rounds of all engines in turn")
    parse.add_argument("--seconds", type=float, default=2.0, help="how long PyTorch is measured in a round")
    parse.add_argument("--tune", action="store_true", help="measure the forms of Kiln's kernels first")
    parse.add_argument("--overlap", action="store_true", help="have Kiln's kernels begin while others end")
    parse.add_argument("--emulate", action="store_true", help="run Kiln's kernels by the emulator, and nothing else")
    parse.add_argument("--pack", type=pathlib.Path, metavar="DIR", help="only make a folder for --from")
    parse.add_argument("--from", type=pathlib.Path, metavar="DIR", dest="packed", help="measure what --pack made")
    parse.add_argument("--python", default=sys.executable, help="a Python that has the packages")
    parse.add_argument("--kiln", help="the command; by default it is built from this checkout")
    parse.add_argument("--out", type=pathlib.Path, default=HERE / "results", help="where results go")
    parse.add_argument("--worker", help=argparse.SUPPRESS)
    args = parse.parse_args()
    if args.worker:
        worker(args.worker)
        return 0
    if args.folder is None and not args.packed:
        parse.error("name the folder of the models")
    why = None if args.emulate or args.pack else no_device()
    if why:
        print(f"error: {why}; --emulate shows the way of things without one", file=sys.stderr)
        return 3
    args.out = args.out.resolve()
    args.folder, args.pack, args.packed = (p and p.resolve() for p in (args.folder, args.pack, args.packed))
    if args.packed:
        args.models = [name for name in args.models if (args.packed / name / "case.json").is_file()]
    elif args.kiln:
        args.kiln = [args.kiln]
    else:
        root = HERE.parent.parent
        subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "kiln-cli"], cwd=root, check=True)
        meta = subprocess.run(["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=root, check=True, capture_output=True)
        args.kiln = [str(pathlib.Path(json.loads(meta.stdout)["target_directory"]) / "release" / "kiln")]
    race = Race(args)
    if args.pack:
        root = HERE.parent.parent
        files = [root / "benches" / f for f in ("models.py", "race.py", "gpu/race.py", "gpu/check.py")]
        files += [f for at in ("tests/cuda", "kernels-templates/src") for kind in ("cuh", "h", "cpp") for f in (root / at).rglob("*." + kind)]
        for file in files:
            to = args.pack / file.relative_to(root)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, to)
        for name in args.models:
            race.pack(name, CASES[name])
        size = sum(f.stat().st_size for f in args.pack.rglob("*") if f.is_file())
        print(f"{args.pack}: {size / 2**20:.1f} MiB; in that folder, python3 benches/gpu/race.py --from . measures, and benches/gpu/check.py checks kernels")
        return 0
    results = {"precision": args.precision, "rounds": args.rounds, "emulated": args.emulate, "lines": [], "failed": []}
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.models:
        try:
            results["lines"].append(race.case(name, CASES[name]))
        except RuntimeError as e:
            print(f"{name} left out: {e}", file=sys.stderr, flush=True)
            results["failed"].append(name)
        # After every model, so that what was measured stays if a later one fails.
        (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        (args.out / "results.md").write_text(markdown(results))
    print((args.out / "results.md").read_text(), end="")
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
