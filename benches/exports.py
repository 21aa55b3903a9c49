#!/usr/bin/env python3
"""Real exports: models of PyTorch's libraries through both of its exporters, held against ONNX Runtime and timed beside it.

    exports.py [NAME ...] --kiln target/release/kiln --table docs/exports.md

Each model of families.py is exported with seeded random weights, by TorchScript (`script`) or `torch.export` (`export`), with the extents of the
example or with open ones. `kiln compare` holds the compiled model against ONNX Runtime with all of its optimizations off: integers, truth values
and shapes equal, errors of floats over the standard deviation of the output. A model with open extents is compiled once and run at several sizes.
Times are the least of both on as many threads, in turn. A line is printed for each; the table is made of all results that --work has kept.

NAME is a model (`bert`), one of its forms (`bert.script-open`), or a library (`timm`). --check compiles to source and runs nothing.
Needs torch, torchvision, timm, transformers, ultralytics, diffusers, onnx, onnxscript, onnxruntime; files go to --work, and are deleted behind
each model unless --keep is given.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zlib

import families
import rewritten

RESULTS = "results.json"


# ---- what runs in a process of its own: exports.py --worker


def sizes_of(case, way):
    """The extents that a form is exported with, then those it is run at."""
    return list(case.sizes) if way.endswith("open") else [case.sizes[1]]


def export_yolo(name, how, path):
    """Ultralytics writes files by itself, its NMS included."""
    import ultralytics

    yolo = (ultralytics.RTDETR if name.startswith("rtdetr") else ultralytics.YOLO)(name + ".yaml")
    families.plausible(yolo.model)
    # New heads score everything below any threshold.
    for parameter, value in yolo.model.named_parameters():
        if ".cv3." in parameter and parameter.endswith(".2.bias"):
            value.data.zero_()
        elif ".cv3." in parameter and parameter.endswith(".2.weight"):
            value.data.mul_(10)
    shutil.move(yolo.export(format="onnx", imgsz=320, simplify=False, **how), path)


def export(name, way, path):
    """Writes the file of one form; gives the one that says its results."""
    import torch

    case, script = families.CASES[name], way.startswith("script")
    if (form := way.removesuffix("-open")) in rewritten.FORMS:
        source = path + ".export"
        export(name, way.replace(form, "script"), source)
        rewrite, same = rewritten.FORMS[form]
        feeds = inputs(name, sizes_of(case, way)[0], session(source, False))
        rewrite(source, path, case, feeds)
        return source if same else path
    torch.manual_seed(zlib.crc32(name.encode()))
    if case.library == "ultralytics":
        export_yolo(*case.make, path)
        return path
    module = case.make(script)
    # A scripted module is exported in the mode it was scripted in.
    module = module if isinstance(module, torch.jit.ScriptModule) else module.eval()
    # Heads that begin as zeros would make all results equal, whatever comes before.
    for parameter in module.parameters():
        if parameter.dim() > 1 and parameter.is_floating_point() and not parameter.any():
            torch.nn.init.normal_(parameter.data, std=0.02)
    args = case.args(torch, **sizes_of(case, way)[0])
    axes = case.axes if way.endswith("open") else {}
    how = {"input_names": list(case.axes), "dynamo": not script}
    if script:
        how |= {"dynamic_axes": {k: v for k, v in axes.items() if v} or None}
    else:
        how |= {"external_data": False, "verbose": False}
        if axes:
            how["dynamic_shapes"] = (tuple(axes[k] or None for k in axes),)
    # The fused kernel of encoder layers has no ONNX form in TorchScript's exporter.
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad():
        torch.onnx.export(module, args, path, **how)
    return path


def session(path, optimized, threads=1):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def inputs(name, size, run, seed=0):
    """Seeded inputs by name: those that a session asks for, since exporters leave out what a model does not use."""
    import torch

    case = families.CASES[name]
    torch.manual_seed(zlib.crc32(f"{name} {seed}".encode()))
    args = dict(zip(case.axes, case.args(torch, **size)))
    return {p.name: args[p.name].numpy() for p in run.get_inputs()}


def record(name, way, folder, says):
    """Writes inputs of each size, and what ONNX Runtime makes of them, unoptimized, by the file that says it."""
    import numpy

    run = session(says, False)
    for k, size in enumerate(sizes_of(families.CASES[name], way)):
        data = folder / f"set_{k}"
        data.mkdir()
        feeds = inputs(name, size, run, k)
        for i, x in enumerate(feeds.values()):
            numpy.save(data / f"in_{i}.npy", x)
        for i, x in enumerate(run.run(None, feeds)):
            if way == "packed" and x.ndim == 3:
                # Where padding was, packed models leave zeros.
                x = x * feeds["mask"][..., None].astype(x.dtype)
            numpy.save(data / f"out_{i}.npy", x)


def make(job):
    """Exports one form and records its results."""
    folder = pathlib.Path(job["folder"])
    os.environ.update(HF_HUB_OFFLINE="1", YOLO_OFFLINE="1")
    warnings.filterwarnings("ignore")
    stage = "export"
    try:
        # Ultralytics leaves its files where it is called.
        os.chdir(folder)
        says = export(job["name"], job["way"], str(folder / "model.onnx"))
        stage = "ONNX Runtime"
        record(job["name"], job["way"], folder, says)
        return {}
    except Exception as e:
        # The exporters wrap what went wrong.
        while e.__cause__ is not None:
            e = e.__cause__
        text = str(e).strip().splitlines() or [""]
        return {"failed": stage, "why": f"{type(e).__name__}: {text[0][:200]}"}


def apart(found, wanted):
    """The largest error of an output of floats over its standard deviation."""
    import numpy

    if found.dtype.kind != "f" or found.shape != wanted.shape or not found.size:
        return 0.0
    difference = numpy.abs(found.astype(numpy.float64) - wanted)[numpy.isfinite(wanted)]
    return float(difference.max(initial=0.0) / (wanted[numpy.isfinite(wanted)].std() or 1.0))


def measure(job):
    """The least milliseconds of ONNX Runtime, as it comes and without its optimizations, and how far the first is from the second."""
    import numpy

    folder = pathlib.Path(job["folder"])
    out = {"own": 0.0}
    for key, optimized in (("ort", True), ("plain", False)):
        try:
            run = session(folder / "model.onnx", optimized, job["threads"])
        except Exception:  # its optimizer fails on some files that it runs without; GPU operators it has no kernels of
            out[key] = None
            continue
        feeds = {p.name: numpy.load(folder / "set_0" / f"in_{i}.npy") for i, p in enumerate(run.get_inputs())}
        found = run.run(None, feeds)
        if optimized:
            out["own"] = max(apart(x, numpy.load(folder / "set_0" / f"out_{i}.npy")) for i, x in enumerate(found))
        least, count, start = float("inf"), 0, time.perf_counter()
        while count < 5 or time.perf_counter() - start < job["seconds"]:
            before = time.perf_counter()
            run.run(None, feeds)
            least, count = min(least, time.perf_counter() - before), count + 1
        out[key] = least * 1e3
    return out


def shaken(job):
    """How far the outputs of ONNX Runtime move by themselves when its inputs move by some units in the last place, as much as a layer rounds: for each output the largest distance over
    the standard deviation, or None where shapes or integers change, so that nothing is to be said of values."""
    import numpy

    folder = pathlib.Path(job["folder"])
    run = session(folder / "model.onnx", False, job["threads"])
    feeds = {p.name: numpy.load(folder / job["set"] / f"in_{i}.npy") for i, p in enumerate(run.get_inputs())}
    wanted = run.run(None, feeds)
    out = [0.0] * len(wanted)
    for seed in range(8):
        noise = numpy.random.default_rng(seed)
        near = {k: (v * (1 + 2.0**-21 * noise.standard_normal(v.shape))).astype(v.dtype) if v.dtype.kind == "f" else v for k, v in feeds.items()}
        for i, (a, b) in enumerate(zip(run.run(None, near), wanted)):
            if out[i] is not None:
                same = a.shape == b.shape and (a.dtype.kind == "f" or (a == b).all())
                out[i] = max(out[i], apart(a, b)) if same else None
    return {"moved": out}


# What stands before a result among what libraries print.
MARK = "kiln-result "


def worker():
    """Answers jobs, a line each, until there are no more."""
    for text in sys.stdin:
        job = json.loads(text)
        found = {"make": make, "measure": measure, "shaken": shaken}[job["job"]](job)
        print("\n" + MARK + json.dumps(found), flush=True)


# ---- the run


class Run:
    def __init__(self, args):
        self.args = args
        self.work = args.work
        self.work.mkdir(parents=True, exist_ok=True)
        # Compiled models go where they can be deleted; the runtime is built there once.
        self.cache = self.work / "cache"
        self.env = {**os.environ, "XDG_CACHE_HOME": str(self.cache)}
        file = self.work / RESULTS
        self.results = json.loads(file.read_text()) if file.exists() else {}
        self.worker, self.jobs = None, 0

    def ask(self, **job):
        """Has the worker do a job; importing the libraries takes longer than most exports, so that it stays for some."""
        if self.worker is None or self.jobs >= 30:
            self.dismiss()
            command = [sys.executable, str(pathlib.Path(__file__).resolve()), "--worker"]
            self.worker, self.jobs = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True), 0
        self.jobs += 1
        guard = threading.Timer(self.args.timeout, self.worker.kill)
        guard.start()
        self.worker.stdin.write(json.dumps(job | {"folder": str(job["folder"])}) + "\n")
        self.worker.stdin.flush()
        answer = next((l for l in self.worker.stdout if l.startswith(MARK)), None)
        guard.cancel()
        if answer is None:
            self.dismiss()
            return {"failed": "export", "why": f"the process ended, or took over {self.args.timeout:.0f} s"}
        return json.loads(answer.removeprefix(MARK))

    def dismiss(self):
        if self.worker is not None:
            self.worker.stdin.close()
            self.worker.kill()
            self.worker.wait()
        self.worker = None

    def kiln(self, *command):
        """Runs the command; gives its status and what it prints, or the first line of what is wrong."""
        try:
            done = subprocess.run([str(c) for c in (self.args.kiln, *command)], capture_output=True, text=True, env=self.env, timeout=self.args.timeout)
        except subprocess.TimeoutExpired:
            return 1, "", f"took over {self.args.timeout} s"
        errors = [l for l in done.stderr.strip().splitlines() if l and not l.startswith("chosen:")]
        return done.returncode, done.stdout, " / ".join(l.strip() for l in errors[:4])[:400]

    def compare(self, folder, open_, tolerance):
        """Runs each set of inputs; gives the worst error and what is wrong. What differs is compared again with sums as ONNX Runtime takes them:
        results that are ordered by sums which differ in their last digits may change places."""
        found = self.compare_by(folder, open_, tolerance)
        if "why" in found:
            again = self.compare_by(folder, [*open_, "--accuracy", "exact"], tolerance)
            return found if "why" in again else again | {"exact": True}
        return found

    def compare_by(self, folder, open_, tolerance):
        import numpy

        worst, absolute, shaken = 0.0, 0.0, False
        for data in sorted(folder.glob("set_*")):
            moved = None
            # Its own verdict is of another tolerance.
            status, out, why = self.kiln("compare", folder / "model.onnx", "--expect", data, *open_, "--json")
            if not out.strip():
                return {"why": why or f"ended by {status}"}
            for i, o in enumerate(json.loads(out)["outputs"]):
                kind = numpy.load(data / f"out_{i}.npy", mmap_mode="r").dtype.kind
                error = o["worst_over_sd"] if o.get("worst_over_sd") is not None else float("inf")
                wrong = "reason" in o or error > (tolerance if kind == "f" else 0)
                if wrong:
                    # What such noise already does to ONNX Runtime alone is no difference.
                    if moved is None:
                        moved = self.ask(job="shaken", folder=folder, set=data.name, threads=self.args.threads).get("moved", [0.0] * (i + 1))
                    if moved[i] is None or ("reason" not in o and error <= 4 * moved[i]):
                        shaken = True
                        continue
                    why = o.get("reason") or f"differs by {error:.1e} of the deviation, {o['outside']} of {o['elements']}"
                    return {"why": f"{data.name}, output {i}: {why}"}
                if kind == "f":
                    worst, absolute = max(worst, error), max(absolute, o["worst"] or 0.0)
        return {"worst": absolute, "relative": worst, "shaken": shaken}

    def time(self, folder, open_):
        """The least milliseconds of Kiln and of ONNX Runtime, in turn for some rounds."""
        command = ["bench", folder / "model.onnx", "--inputs", folder / "set_0", *open_, "--threads", self.args.threads, "--json"]
        out = {}
        for _ in range(self.args.rounds):
            status, text, why = self.kiln(*command)
            if status:
                return {"why": why}
            found = json.loads(text)
            turn = self.ask(job="measure", folder=folder, threads=self.args.threads, seconds=self.args.seconds)
            if "failed" in turn:
                return {"why": turn["why"]}
            turn |= {"kiln": found["min_ms"]}
            out |= {k: min(v, out.get(k) or v) if v else v for k, v in turn.items()}
            out |= {"build_seconds": found["build_seconds"], "kernels": found["kernels"]}
        return out

    def one(self, name, way):
        """All that is to know of one form."""
        case = families.CASES[name]
        folder = self.work / "models" / f"{name}.{way}"
        if not (folder / "set_0" / "out_0.npy").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            if "failed" in (found := self.ask(job="make", name=name, way=way, folder=folder)):
                return found
        out = {"bytes": (folder / "model.onnx").stat().st_size}
        open_ = ["--open"] if way.endswith("open") else []
        if self.args.check:
            status, _, why = self.kiln("compile", folder / "model.onnx", "-o", self.work / "crate")
            return out | ({"failed": "Kiln", "why": why} if status else {"checked": True})
        # A sum that is rounded the other way is a step of eight bits further on: of six deviations between the ends, a 43rd of one.
        # For GPUs the optimizer has Gelu by tanh where the export has it by erf.
        tolerance = 6e-2 if way in families.QUANTIZED else 1e-2 if way == "optimizer-gpu" else case.tolerance
        for found in (lambda: self.compare(folder, open_, tolerance), lambda: self.time(folder, open_)):
            out |= found()
            if "why" in out:
                return out | {"failed": "Kiln"}
        out["sizes"] = len(list(folder.glob("set_*")))
        return out

    def clean(self, name, way):
        shutil.rmtree(self.cache / "kiln" / "models", ignore_errors=True)
        if not self.args.keep:
            shutil.rmtree(self.work / "models" / f"{name}.{way}", ignore_errors=True)

    def all(self, wanted):
        failed = 0
        for name, way in wanted:
            start = time.time()
            try:
                found = self.one(name, way)
            finally:
                self.clean(name, way)
            failed += "failed" in found
            self.results[f"{name}.{way}"] = found
            (self.work / RESULTS).write_text(json.dumps(self.results, indent=1) + "\n")
            print(f"{name}.{way}: {line(found)} ({time.time() - start:.0f} s)", flush=True)
        self.dismiss()
        return failed


def line(found):
    if "failed" in found:
        return f"FAILED, {found['failed']}: {found['why']}"
    if "checked" in found:
        return "compiles"
    cell = lambda key: f"{found[key]:.2f}" if found.get(key) else "-"
    shaken = " (some outputs are decided by rounding)" if found.get("shaken") else " (with --accuracy exact)" if found.get("exact") else ""
    return f"error {found['worst']:.1e}{shaken}, {found['relative']:.1e} of the deviation (ONNX Runtime's own {found['own']:.1e}); Kiln {cell('kiln')} ms, ONNX Runtime {cell('ort')} ms, unoptimized {cell('plain')} ms"


HEAD = """# Real exports

`python3 benches/exports.py --kiln target/release/kiln --table docs/exports.md` writes this page. Models with seeded random weights, small configurations where weights do
not change which operators are written, go through PyTorch's exporters: `script` traces TorchScript, `export` is `torch.export`; `open` leaves axes open, and the one
compiled model runs at all sizes. Errors are the largest over all outputs and sizes against ONNX Runtime 1.31.1 with its optimizations off, absolute and over the
standard deviation of the output; beside them the error of ONNX Runtime's own optimizations, by the same measure. Integers, truth values and shapes are equal. Outputs marked by a star are decided
by rounding: noise of some units in the last place on the inputs moves what ONNX Runtime itself gives by a quarter of the difference or more (boxes and ties of detectors whose weights
are random); their errors are not counted. With a dagger agreement is that of `--accuracy exact`: scores that differ by less than the error of the standard accuracy change places
otherwise. Times are the least milliseconds on {threads}, on a machine that others used too.

{count} exports of {models} models agree.

| library | model | exporter | sizes | error | over deviation | ONNX Runtime's own | Kiln | ONNX Runtime | unoptimized | Kiln / ONNX Runtime |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def table(results, threads):
    """The page, of what agrees; then what does not."""
    good, bad = {}, {}
    for name in families.CASES:
        for way in families.CASES[name].ways:
            key = f"{name}.{way}"
            if key in results and "checked" not in results[key]:
                (bad if "failed" in results[key] else good)[name, way] = results[key]
    rows = []
    for (name, way), r in good.items():
        ms = lambda key: f"{r[key]:.2f}" if r.get(key) else ""
        ratio = f"{r['kiln'] / r['ort']:.2f}" if r.get("ort") else ""
        own = f"{r['own']:.1e}" if r.get("ort") and r.get("own") is not None else ""
        rows.append(f"| {families.CASES[name].library} | {name} | {way} | {r['sizes']} | {r['worst']:.1e}{' *' if r.get('shaken') else ''}{' †' if r.get('exact') else ''} | {r['relative']:.1e} | {own} | {ms('kiln')} | {ms('ort')} | {ms('plain')} | {ratio} |")
    text = HEAD.format(threads="one thread" if threads == 1 else f"{threads} threads", count=len(good), models=len({n for n, _ in good})) + "\n".join(rows) + "\n"
    if bad:
        text += "\n## What does not\n\n" + "\n".join(f"- {name}, {way}: {r['failed']}: {r['why']}" for (name, way), r in bad.items()) + "\n"
    return text


def chosen(names):
    """The forms that names stand for."""
    forms = [(n, w) for n, c in families.CASES.items() for w in c.ways]
    known = lambda n, w: {n, f"{n}.{w}", families.CASES[n].library}
    if unknown := [x for x in names if not any(x in known(n, w) for n, w in forms)]:
        sys.exit(f"there is no {', '.join(unknown)} among {', '.join(families.CASES)}")
    return [(n, w) for n, w in forms if not names or known(n, w) & set(names)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--kiln", default="kiln", help="the command")
    parser.add_argument("--work", type=lambda p: pathlib.Path(p).absolute(), default=pathlib.Path(tempfile.gettempdir()) / "kiln-exports")
    parser.add_argument("--keep", action="store_true", help="keep the exported files, and take those that are there")
    parser.add_argument("--check", action="store_true", help="compile to source, run nothing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long ONNX Runtime is timed")
    parser.add_argument("--rounds", type=int, default=2, help="how often each is timed, in turn")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for a step of one model")
    parser.add_argument("--table", type=pathlib.Path, help="where the page goes")
    args = parser.parse_args()
    if shutil.which(args.kiln):
        args.kiln = os.path.abspath(shutil.which(args.kiln))
    run = Run(args)
    failed = run.all(chosen(args.names))
    if args.table:
        args.table.write_text(table(run.results, args.threads))
    sys.exit(bool(failed))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker()
    else:
        main()
