#!/usr/bin/env python3
"""Races Kiln against ONNX Runtime, OpenVINO and, where it is installed, PyTorch: race.py MODEL.onnx ...

Every engine gets the same inputs, made from a seed, the same processors and the same number of threads, and is told to compute in f32. Engines
run in turn, each time in a process of its own, for several rounds: a slow minute shows in all of them. What is quoted is the median of a round's
median times, and the ratio to the fastest peer. Errors are those against the same graph in double precision (reference.py).

Python packages come from --python, or from a virtual environment that is made beside this file. Writes results.json and results.md.
"""
import argparse
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time
import zlib

HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = ["onnxruntime==1.31.1", "openvino==2026.4.1", "onnx==1.23.2", "numpy"]
ENGINES = {"kiln": "Kiln", "exact": "Kiln, exact", "ort": "ONNX Runtime", "ov": "OpenVINO", "torch": "PyTorch"}
# How Kiln is asked for in each of its own entries: as it comes, and with direct sums alone.
OURS = {"kiln": [], "exact": ["--accuracy", "exact"]}


# ---- what runs in the environment with the packages: race.py --worker JOB


def ports(path):
    """Name, element type and extents of each input of a model; None for an open extent."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    weights = {w.name for w in graph.initializer}
    for port in graph.input:
        if port.name not in weights:
            ty = port.type.tensor_type
            dims = [(d.dim_value if d.HasField("dim_value") else None, d.dim_param) for d in ty.shape.dim]
            yield port.name, onnx.helper.tensor_dtype_to_np_dtype(ty.elem_type), dims


def make_inputs(path, folder, dims):
    """Writes in_0.npy .. from a seed that the model's name gives: normal floats, integers below 100, ones for masks, zeros for token types."""
    import numpy

    rng = numpy.random.default_rng(zlib.crc32(path.stem.encode()))
    names = []
    for i, (name, dtype, extents) in enumerate(ports(path)):
        shape = [n if n is not None else dims.get(param, 1 if axis == 0 else 64) for axis, (n, param) in enumerate(extents)]
        if "mask" in name or dtype == numpy.bool_:
            value = numpy.ones(shape, dtype)
        elif "token_type" in name:
            value = numpy.zeros(shape, dtype)
        elif numpy.issubdtype(dtype, numpy.integer):
            value = rng.integers(0, 100, shape).astype(dtype)
        else:
            value = rng.standard_normal(shape).astype(dtype)
        numpy.save(folder / f"in_{i}.npy", value)
        names.append(name)
    import onnx

    import models

    props = {(p.key, p.value) for p in onnx.load(path, load_external_data=False).metadata_props}
    return {"names": names, "from_torch": models.STAMP in props}


def read(folder, kind):
    """in_0.npy .. or out_0.npy .. of a folder."""
    import numpy

    return [numpy.load(folder / f"{kind}_{i}.npy") for i in range(len(list(folder.glob(f"{kind}_*.npy"))))]


def session(engine, path, feeds, threads):
    """A function that runs the model once and gives its outputs."""
    if engine == "ort":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        run = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda: run.run(None, feeds)
    if engine == "ov":
        import openvino

        core = openvino.Core()
        model = core.read_model(str(path))
        model.reshape({name: list(x.shape) for name, x in feeds.items()})
        how = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        request = core.compile_model(model, "CPU", how).create_infer_request()
        return lambda: list(request.infer(feeds, share_inputs=True).values())
    import torch

    import models

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    module = models.build(path.stem)
    given = [torch.from_numpy(x) for x in feeds.values()]

    def flat(found):
        found = found if isinstance(found, (tuple, list)) else (found,)
        return [x.numpy() for x in found if isinstance(x, torch.Tensor)]

    def run():
        with torch.inference_mode():
            return flat(module(*given))

    return run


def measure(job):
    """Times one peer; its imports count neither as time nor, of course, as memory that it could do without."""
    import numpy

    engine, path, folder = job["engine"], pathlib.Path(job["model"]), pathlib.Path(job["folder"])
    feeds = dict(zip(job["names"], read(folder, "in")))
    __import__({"ort": "onnxruntime", "ov": "openvino", "torch": "torch"}[engine])
    start = time.perf_counter()
    run = session(engine, path, feeds, job["threads"])
    made = time.perf_counter() - start
    found = run()
    if "outputs" in job:
        for i, x in enumerate(found):
            numpy.save(f"{job['outputs']}/out_{i}.npy", x)
    del found
    start = time.perf_counter()
    run()
    count = max(5, min(1000, int(job["seconds"] / (time.perf_counter() - start))))
    for _ in range(max(2, count // 10)):
        run()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"p50_ms": float(numpy.median(times)), "min_ms": min(times), "new_ms": made * 1e3, "rss_bytes": rss, "iterations": count}


def errors(job):
    """The largest error of each engine over the standard deviation of the output, against double precision."""
    import numpy

    import reference

    path, folder = pathlib.Path(job["model"]), pathlib.Path(job["folder"])
    wanted = reference.outputs(str(path), dict(zip(job["names"], read(folder, "in"))))

    def worst(found, wanted):
        most = 0.0
        for f, w in zip(found, wanted):
            if numpy.issubdtype(w.dtype, numpy.floating) and w.size:
                spread = float(w.std()) or 1.0
                difference = numpy.abs(f.astype(numpy.float64).reshape(w.shape) - w)
                most = max(most, float(difference.max()) / spread)
        return most

    return {engine: worst(read(pathlib.Path(at), "out"), wanted) for engine, at in job["engines"].items()}


def available(job):
    """The versions of the packages that are there."""
    import importlib.metadata
    import importlib.util

    names = {"ort": "onnxruntime", "ov": "openvino", "torch": "torch"}
    return {k: importlib.metadata.version(n) for k, n in names.items() if importlib.util.find_spec(n)}


def worker(text):
    job = json.loads(text)
    path = job.get("model")
    if job["job"] == "inputs":
        found = make_inputs(pathlib.Path(path), pathlib.Path(job["folder"]), job["dims"])
    else:
        found = {"measure": measure, "errors": errors, "available": available}[job["job"]](job)
    print(json.dumps(found))


# ---- the race itself, with nothing but the standard library


def environment(given):
    """A Python with the packages: the given one, or that of a virtual environment beside this file."""
    if given:
        return given
    folder = HERE / ".venv"
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return str(python)


class Race:
    def __init__(self, args):
        self.args, self.python = args, environment(args.python)
        self.processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None

    def start(self, command, threads=None, **env):
        """Runs a command on as many processors as there are threads; gives what it prints."""
        pin = None
        if threads and self.processors:
            pin = lambda: os.sched_setaffinity(0, self.processors[:threads])
        env = {**os.environ, **{k: str(v) for k, v in env.items()}}
        done = subprocess.run([str(c) for c in command], preexec_fn=pin, env=env, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
        return done.stdout

    def ask(self, job, threads=None):
        """Runs a job in the environment with the packages."""
        count = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} if threads else {}
        out = self.start([self.python, __file__, "--worker", json.dumps(job)], threads, **count)
        return json.loads(out.strip().splitlines()[-1])

    def kiln(self, verb, model, folder, *flags, threads=None):
        return self.start([*self.args.kiln, verb, model, "--inputs", folder, *flags], threads)

    def turn(self, engine, case, threads):
        """One engine's times in one round."""
        if engine in OURS:
            flags = [*OURS[engine], "--json", "--threads", threads, "--iterations", case["iterations"], "--warmup", max(2, case["iterations"] // 10)]
            found = json.loads(self.kiln("bench", case["model"], case["folder"], *flags, threads=threads))
            return {k: found[k] for k in ("p50_ms", "min_ms", "new_ms", "rss_bytes", "isa", "iterations")}
        return self.ask({**case, "job": "measure", "engine": engine, "threads": threads, "seconds": self.args.seconds}, threads)

    def prepare(self, model, folder, dims, ours):
        """Makes inputs and outputs of a model, and has Kiln compile it: none of that is timed."""
        inputs = folder / "inputs"
        inputs.mkdir(parents=True, exist_ok=True)
        for old in inputs.glob("*.npy"):
            old.unlink()
        case = {"model": str(model), "folder": str(inputs), "dims": dims}
        case |= self.ask({**case, "job": "inputs"})
        for engine in ours:
            self.kiln("run", model, inputs, *OURS[engine], "--output-dir", folder / engine)
            one = json.loads(self.kiln("bench", model, inputs, *OURS[engine], "--json", "--iterations", 5, threads=1))
        case["iterations"] = max(5, min(1000, int(self.args.seconds * 1e3 / max(one["p50_ms"], 1e-3))))
        return case

    def model(self, model, dims, engines):
        """All rounds of a model: a line for each number of threads, and the errors."""
        import statistics

        folder = self.args.out / "work" / model.stem
        ours = [e for e in engines if e in OURS]
        case = self.prepare(model, folder, dims, ours)
        engines, outputs = list(engines), {e: str(folder / e) for e in ours}
        if not self.args.no_accuracy:
            # PyTorch's errors say something only where it has the weights of the file.
            for engine in [e for e in engines if e in ("ort", "ov") or (e == "torch" and case["from_torch"])]:
                (folder / engine).mkdir(exist_ok=True)
                outputs[engine] = str(folder / engine)
        lines = []
        for threads in self.args.threads:
            rounds = {e: [] for e in engines}
            for r in range(self.args.rounds):
                # Another one begins each round.
                for engine in engines[r % len(engines):] + engines[: r % len(engines)]:
                    extra = {"outputs": outputs[engine]} if r == 0 and engine in outputs and engine not in OURS else {}
                    try:
                        rounds[engine].append(self.turn(engine, {**case, **extra}, threads))
                    except RuntimeError as e:
                        print(f"  {ENGINES[engine]} left out: {e}", file=sys.stderr)
                        rounds[engine].append(None)
            engines = [e for e in engines if all(rounds[e])]
            outputs = {e: at for e, at in outputs.items() if e in engines}
            line = {"model": model.stem, "threads": threads, "rounds": self.args.rounds}
            for engine in engines:
                middle = lambda key: statistics.median(r[key] for r in rounds[engine])
                spread = max(r["p50_ms"] for r in rounds[engine]) / min(r["p50_ms"] for r in rounds[engine])
                line[engine] = {k: middle(k) for k in ("p50_ms", "min_ms", "new_ms", "rss_bytes")} | {"spread": spread}
            peers = [line[e]["p50_ms"] for e in engines if e not in OURS]
            line["ratio"] = line["kiln"]["p50_ms"] / min(peers) if peers and "kiln" in line else None
            lines.append(line)
            times = ", ".join(f"{ENGINES[e]} {line[e]['p50_ms']:.2f} ms" for e in engines)
            print(f"{model.stem}, {threads} threads: {times}", file=sys.stderr, flush=True)
        if not self.args.no_accuracy:
            found = self.ask({**case, "job": "errors", "engines": outputs})
            lines[0]["errors"] = found
            print(f"{model.stem}: " + ", ".join(f"{ENGINES[e]} errs by {x:.1e}" for e, x in found.items()), file=sys.stderr, flush=True)
        return lines


def processor():
    """What the machine calls itself."""
    try:
        for line in open("/proc/cpuinfo"):
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def markdown(results):
    """The tables: times with the ratio, then what they cost."""
    sys.path.insert(0, str(HERE))
    import models

    lines = results["lines"]
    engines = [e for e in ENGINES if any(e in line for line in lines)]
    name = lambda line: models.ALL[line["model"]].title if line["model"] in models.ALL else line["model"]
    cell = lambda line, e, f: f(line[e]) if e in line else ""
    out = [f"Median milliseconds on {results['processor']}, {results['rounds']} rounds; below 1 Kiln is faster than the fastest of the others.", ""]
    out += [f"| model | threads | {' | '.join(ENGINES[e] for e in engines)} | Kiln / the fastest |", "|---" * (len(engines) + 3) + "|"]
    for line in lines:
        times = " | ".join(cell(line, e, lambda x: f"{x['p50_ms']:.1f}") for e in engines)
        ratio = f"{line['ratio']:.2f}" if line["ratio"] else ""
        out.append(f"| {name(line)} | {line['threads']} | {times} | {ratio} |")
    out += ["", "The largest error over the standard deviation of the output, against double precision; the time that making a session takes; the peak memory",
            "of the process, of which Python and NumPy are part for all but Kiln.", ""]
    kinds = [("error", lambda line, e: f"{line['errors'][e]:.1e}" if e in line.get("errors", {}) else ""),
             ("new, ms", lambda line, e: cell(line, e, lambda x: f"{x['new_ms']:.0f}")),
             ("MB", lambda line, e: cell(line, e, lambda x: f"{x['rss_bytes'] / 1e6:.0f}"))]
    out += ["| model | " + " | ".join(f"{ENGINES[e]}: {kind}" for kind, _ in kinds for e in engines) + " |"]
    out += ["|---" * (1 + len(engines) * len(kinds)) + "|"]
    for line in [x for x in lines if x["threads"] == lines[0]["threads"]]:
        out.append(f"| {name(line)} | " + " | ".join(f(line, e) for _, f in kinds for e in engines) + " |")
    return "\n".join(out) + "\n"


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("models", nargs="*", type=pathlib.Path, help="ONNX files, or folders of them")
    parse.add_argument("--threads", default="1,2", help="numbers of threads, such as 1,2")
    parse.add_argument("--rounds", type=int, default=5, help="rounds of all engines in turn")
    parse.add_argument("--seconds", type=float, default=3.0, help="how long an engine is measured in a round")
    parse.add_argument("--quick", action="store_true", help="two rounds of less than a second, one thread")
    parse.add_argument("--engines", default="kiln,exact,ort,ov,torch", help="which, of " + ", ".join(ENGINES))
    parse.add_argument("--dim", action="append", default=[], metavar="NAME=SIZE", help="extent of an open dimension")
    parse.add_argument("--python", help="a Python that has the packages")
    parse.add_argument("--kiln", help="the command; by default it is built from this checkout")
    parse.add_argument("--no-accuracy", action="store_true", help="leave out the comparison with double precision")
    parse.add_argument("--out", type=pathlib.Path, default=HERE / "results", help="where results go")
    parse.add_argument("--worker", help=argparse.SUPPRESS)
    args = parse.parse_args()
    if args.worker:
        sys.path.insert(0, str(HERE))
        worker(args.worker)
        return 0
    if not args.models:
        parse.error("name at least one model; models.py exports those of the README")
    args.threads = [int(n) for n in args.threads.split(",")]
    if args.quick:
        args.rounds, args.seconds, args.threads = 2, 0.7, args.threads[:1]
    if args.kiln:
        args.kiln = [args.kiln]
    else:
        subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "kiln-cli"], cwd=HERE.parent, check=True)
        meta = subprocess.run(["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=HERE.parent, check=True, capture_output=True)
        args.kiln = [str(pathlib.Path(json.loads(meta.stdout)["target_directory"]) / "release" / "kiln")]
    sys.path.insert(0, str(HERE))
    import models

    race = Race(args)
    versions = race.ask({"job": "available"})
    engines = [e for e in args.engines.split(",") if e in OURS or e in versions]
    given = {k: int(v) for k, v in (d.split("=", 1) for d in args.dim)}
    files = [f.resolve() for m in args.models for f in (sorted(m.glob("*.onnx")) if m.is_dir() else [m])]
    known = list(models.ALL)
    for file in files:
        if not file.is_file():
            parse.error(f"{file} is not there")
    files.sort(key=lambda f: known.index(f.stem) if f.stem in known else len(known))
    results = {"processor": processor(), "versions": versions, "rounds": args.rounds, "seconds": args.seconds, "lines": [], "failed": []}
    args.out.mkdir(parents=True, exist_ok=True)
    for file in files:
        entered = [e for e in engines if e != "torch" or (file.stem in models.ALL and models.ALL[file.stem].make)]
        dims = models.ALL[file.stem].dims if file.stem in models.ALL else {}
        try:
            results["lines"] += race.model(file, {**dims, **given}, entered)
        except RuntimeError as e:
            print(f"{file.stem} left out: {e}", file=sys.stderr, flush=True)
            results["failed"].append(file.stem)
        # After every model, so that what was measured stays if a later one fails.
        (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        (args.out / "results.md").write_text(markdown(results))
    print((args.out / "results.md").read_text(), end="")
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
