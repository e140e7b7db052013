#!/usr/bin/env python3
"""What compression takes as models grow: `nwc compress --estimate` of whole models, and parts of them that are compressed.

    growth.py [--only NAME ...] [--out FOLDER] [--report]

Models are those of make_llama.py: random weights in the shapes of Llama 3.2 1B and 3B and Llama 3.1 8B. Whole ones are
estimated with nothing but --bits 3. Of the others, which have few layers and a small vocabulary, so that the shapes of
the tensors are those of the whole model, the estimate is set against a run with --calib-tokens 2048: wall-clock time,
processor time over the number of threads (what it would take on a machine that does nothing else), peak memory, and the
size of the kept calibration. A model is made, and removed when its row is there; an interrupted run resumes. The 8B
shape takes 16 GiB of disk.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "bench/quality")]
import plot_style  # noqa: E402
import report  # noqa: E402

TOKENS = 2048
GIB = 1 << 30
# name: shape, options of make_llama.py, whether it is compressed
POINTS = {
    "1B, 1 layer": ("1b", ["--layers", "1", "--vocab", "16000"], True),
    "1B, 2 layers": ("1b", ["--layers", "2", "--vocab", "32000"], True),
    "3B, 2 layers": ("3b", ["--layers", "2", "--vocab", "32000"], True),
    "8B, 1 layer": ("8b", ["--layers", "1", "--vocab", "32000"], True),
    "1B": ("1b", [], False),
    "3B": ("3b", [], False),
    "8B": ("8b", [], False),
}


def run(command):
    """(stdout, seconds, processor seconds, peak bytes)"""
    begin = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {process.returncode}")
    return out, time.monotonic() - begin, usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss


def measure(args, name):
    shape, options, compressed = POINTS[name]
    folder = args.out / "model"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, ROOT / "bench/scale/make_llama.py", folder, "--shape", shape, *options], check=True)
    cache = args.out / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    command = [args.nwc, "compress", folder, "-o", args.out / "model.nwc", "--bits", 3, "--json", "--threads",
               args.threads, "--calib-cache", cache, *(["--calib-tokens", TOKENS] if compressed else [])]
    estimate = json.loads(run(command + ["--estimate"])[0])
    row = {"model": name, "weights": (folder / "model.safetensors").stat().st_size // 2,
           "estimated_seconds": estimate["seconds"], "estimated_memory": estimate["memory_bytes"],
           "estimated_cache": estimate["cache_bytes"]}
    for part in ("writing", "calibrating", "coding", "fine_tuning"):
        row[f"estimated_{part}"] = estimate[f"seconds_{part}"]
    if compressed:
        said, wall, processor, peak = run(command)
        made = json.loads(said)
        row |= {"seconds": wall, "processor_seconds": processor / args.threads, "memory": peak,
                "cache": made["calibration"]["bytes"], "bpw": made["bpw_file"]}
    for path in (folder, cache):
        shutil.rmtree(path, ignore_errors=True)
    (args.out / "model.nwc").unlink(missing_ok=True)
    return row


def table(rows):
    lines = ["| model | G weights | time, estimated | measured (idle machine) | memory, GiB | measured | calibration, GiB | measured |",
             "|---" * 8 + "|"]
    minutes = lambda s: f"{s / 3600:.1f} h" if s >= 5400 else f"{s / 60:.1f} min"  # noqa: E731
    for r in rows:
        took = f"{minutes(r['seconds'])} ({minutes(r['processor_seconds'])})" if r.get("seconds") else ""
        had = lambda key: f"{r[key] / GIB:.2f}" if r.get(key) else ""  # noqa: E731
        lines.append(f"| {r['model']} | {r['weights'] / 1e9:.3f} | {minutes(r['estimated_seconds'])} | {took} | "
                     f"{had('estimated_memory')} | {had('memory')} | {had('estimated_cache')} | {had('cache')} |")
    return "\n".join(lines)


def plot(rows, path):
    """Both against the number of weights: lines through whole models, a pair of markers for each part of one."""
    plt = plot_style.pyplot()
    if plt is None:
        return
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2))
    whole = sorted((r for r in rows if not r.get("seconds")), key=lambda r: r["weights"])
    parts = sorted((r for r in rows if r.get("seconds")), key=lambda r: r["weights"])
    giga = lambda some: [r["weights"] / 1e9 for r in some]  # noqa: E731
    for axis, estimated, measured, unit, title in (
            (axes[0], "estimated_seconds", "processor_seconds", 3600, "time on two cores, hours"),
            (axes[1], "estimated_memory", "memory", GIB, "peak memory, GiB")):
        axis.plot(giga(whole), [r[estimated] / unit for r in whole], "o-", color="black", label="whole models, estimated")
        axis.plot(giga(parts), [r[estimated] / unit for r in parts], "o", mfc="none", color="tab:blue",
                  label=f"few layers, {TOKENS:,} tokens, estimated")
        axis.plot(giga(parts), [r[measured] / unit for r in parts], "x", color="tab:red",
                  label=f"few layers, {TOKENS:,} tokens, measured")
        axis.set(xscale="log", yscale="log", xlabel="weights, billions", title=title)
        for of_axis, ticks in ((axis.xaxis, (0.1, 0.2, 0.5, 1, 2, 4, 8)), (axis.yaxis, (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50))):
            low, high = of_axis.get_view_interval()
            of_axis.set_ticks([t for t in ticks if low <= t <= high], [f"{t:g}" for t in ticks if low <= t <= high])
            of_axis.set_ticks([], minor=True)
    plot_style.legend_below(figure, axes, 3)
    plot_style.save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nwc", type=pathlib.Path, default=ROOT / "build/release/bin/nwc")
    parser.add_argument("--only", nargs="+", choices=list(POINTS), metavar="NAME", help=", ".join(POINTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/bench/growth")
    parser.add_argument("--report", action="store_true", help="only table and figure of the rows measured before")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "rows.json"
    rows = json.loads(kept.read_text()) if kept.exists() else {}
    for name in [] if args.report else args.only or POINTS:
        if name in rows and not args.only:
            continue
        rows[name] = measure(args, name)
        kept.write_text(json.dumps(rows, indent=1))
        print(f"{name}: {rows[name]}", flush=True)
    ordered = [rows[name] for name in POINTS if name in rows]
    if not ordered:
        sys.exit("nothing has been measured yet")
    print(table(ordered))
    columns = list(dict.fromkeys(key for r in ordered for key in r))
    report.write_csv(args.out / "growth.csv", ordered, columns)
    plot(ordered, args.out / "growth.png")


if __name__ == "__main__":
    main()
