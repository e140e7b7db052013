#!/usr/bin/env python3
"""nwc and llama.cpp side by side in one run: `nwc-bench peer`.

  nwc-bench peer --python V/bin/python --nwc m-3bit.nwc m-4bit.nwc --gguf m-f16.gguf m-q8_0.gguf m-q4_k_m.gguf \\
      --reference m-f16.gguf --text wikitext-2-test.txt --json peer.json

Every measurement is a process of its own: time from the start of loading to the first token, a prompt, generation, and
peak memory. The two sides take turns in rounds; figures are medians over the rounds, ratios are medians of the rounds'
own ratios with their standard error. llama.cpp's peak is without the Python interpreter, nwc's is the whole process's.
Files are in the page cache. KL divergence is from --reference on --text, each side's with its own implementation of the
reference. Prints tables in Markdown.
"""
import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
INSTALL = """llama.cpp is not there for {python}. Prebuilt wheels:
  python3 -m venv V
  V/bin/pip install xllamacpp==2026.10.11549 llama-cpp-py-sync==0.11739 cffi numpy
then give --python V/bin/python"""


def output_of(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout)


class Nwc:
    """An .nwc file with its weights in one of the forms that sessions hold."""

    def __init__(self, o, path, form):
        self.o, self.path, self.form = o, path, form
        self.name = f"nwc {path.stem} as {form}"

    def speed(self, threads):
        o = self.o
        command = [o.bench, "tokens", self.path, "--child", "resident", "--child-backend", "cpu", "--repeat", "1"]
        command += ["--seconds", "100000", "--weights", self.form, "--threads", str(threads)]
        command += ["--prompt", str(o.prompt), "--generate", str(o.generate), "--context", str(2 * o.prompt + o.generate)]
        r = output_of(command)
        if (r["prompt_tokens"], r["generated_tokens"]) != (o.prompt, o.generate):
            sys.exit(f"{self.name}: its context of {r['context']} tokens is too short for {o.prompt} + {o.generate}")
        return {
            "first_token_seconds": r["first_token_seconds"],
            "prompt": 1 / r["prompt"][0],
            "generation": 1 / r["generation"][0],
            "peak_bytes": r["peak_bytes"],
        }

    def divergence(self):
        o = self.o
        command = [o.program, "eval", self.path, "--reference", o.reference, "--text", o.text, "--json", "-q"]
        command += ["--tokens", str(o.tokens), "--context", str(o.eval_context)]
        help_text = subprocess.run([o.program, "eval", "--help"], capture_output=True, text=True).stdout
        if "--weights" in help_text:
            command += ["--weights", self.form]
        key = tuple(map(str, command))
        if key not in o.divergences:  # without --weights all forms of a file share one figure, that of f32
            o.divergences[key] = output_of(command)
        return {k: o.divergences[key][k] for k in ("kld_mean", "kld_se", "ppl", "ppl_reference")}


class Llama:
    def __init__(self, o, path):
        self.o, self.path = o, path
        self.name = f"llama.cpp {path.stem}"

    def run(self, *arguments):
        return output_of([self.o.python, HERE / "llama_peer.py", *map(str, arguments)])

    def speed(self, threads):
        o = self.o
        return self.run("speed", self.path, "--threads", threads, "--prompt", o.prompt, "--generate", o.generate)

    def divergence(self):
        o = self.o
        how = ["--text", o.text, "--tokens", o.tokens, "--context", o.eval_context, "--threads", max(o.threads)]
        return self.run("kld", self.path, "--reference", o.reference, *how)


def ratio(ours, theirs):
    """The median of the rounds' ratios, and its standard error (that of a median of normal values)."""
    each = [a / b for a, b in zip(ours, theirs)]
    error = 1.2533 * statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else float("nan")
    return statistics.median(each), error


def table(header, rows):
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def print_tables(o, sides, runs, divergences):
    median = lambda side, threads, key: statistics.median(r[key] for r in runs[side.name, threads])
    per_threads = [(t, key) for key in ("prompt", "generation") for t in o.threads]
    threads_text = " / ".join(map(str, o.threads)) + f" thread{'s' * (o.threads[-1] > 1)}"
    header = ["weights", "file, MiB", "peak memory, MiB", f"first token, s, {threads_text}"]
    header += [f"{key}, {t} thread{'s' * (t > 1)}" for t, key in per_threads] + ["KL divergence"]
    rows = []
    for side in sides:
        row = [side.name, f"{side.path.stat().st_size / 2**20:.0f}"]
        row += [f"{median(side, o.threads[0], 'peak_bytes') / 2**20:.0f}"]
        row += [" / ".join(f"{median(side, t, 'first_token_seconds'):.2f}" for t in o.threads)]
        row += [f"{median(side, t, key):.1f}" for t, key in per_threads]
        d = divergences.get(side.name)
        rows.append(row + [f"{d['kld_mean']:.4f} ± {d['kld_se']:.4f}" if d else ""])
    print(f"Tokens per second, prompt of {o.prompt}, generation of {o.generate}, medians of {o.repeat}; peak memory with "
          f"{o.threads[0]} thread{'s' * (o.threads[0] > 1)}\n")
    table(header, rows)
    ours, theirs = [s for s in sides if isinstance(s, Nwc)], [s for s in sides if isinstance(s, Llama)]
    if not ours or not theirs:
        return
    for key in ("generation", "prompt", "first_token_seconds"):
        seconds = key == "first_token_seconds"
        for t in o.threads:
            rows = []
            for a in ours:
                values = lambda side: [1 / r[key] if seconds else r[key] for r in runs[side.name, t]]
                rows.append([a.name] + ["{:.2f} ± {:.2f}".format(*ratio(values(a), values(b))) for b in theirs])
            what = "First token" if seconds else key.capitalize()
            ratio_of = "llama.cpp's time over nwc's" if seconds else "nwc's speed over llama.cpp's"
            print(f"{what}, {t} thread{'s' * (t > 1)}: {ratio_of}\n")
            table([""] + [b.name for b in theirs], rows)


def main():
    p = argparse.ArgumentParser(prog="nwc-bench peer", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--nwc", nargs="+", type=pathlib.Path, default=[], help=".nwc files of a model")
    p.add_argument("--gguf", nargs="+", type=pathlib.Path, default=[], help="GGUF files of it, for llama.cpp")
    p.add_argument("--weights", nargs="+", help="forms of decoded weights (default: all that sessions know)")
    p.add_argument("--reference", type=pathlib.Path, help="GGUF file in F16 or F32 for the KL divergence")
    p.add_argument("--text", type=pathlib.Path, help="UTF-8 text for the KL divergence")
    p.add_argument("--tokens", type=int, default=2048, help="predicted tokens of that text (2048)")
    p.add_argument("--eval-context", type=int, default=256, help="tokens that a model sees together there (256)")
    p.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    p.add_argument("--prompt", type=int, default=512, help="tokens of the prompt (512)")
    p.add_argument("--generate", type=int, help="tokens generated (128, with --quick 64)")
    p.add_argument("--repeat", type=int, default=5, help="rounds (5)")
    p.add_argument("--quick", action="store_true")
    p.add_argument("--json", type=pathlib.Path, help="write all measurements to this file")
    p.add_argument("--python", default=sys.executable, help="interpreter that has llama.cpp's wheels")
    p.add_argument("--bench", required=True, help=argparse.SUPPRESS)  # nwc-bench gives these two
    p.add_argument("--forms", default="", help=argparse.SUPPRESS)
    o = p.parse_args()
    o.generate = o.generate or (64 if o.quick else 128)
    o.program = pathlib.Path(o.bench).with_name("nwc")
    o.divergences = {}
    known = o.forms.split(",")
    for form in o.weights or []:
        if form not in known:
            p.error(f"--weights {form}: sessions know {', '.join(known)}")
    if not o.nwc and not o.gguf:
        p.error("nothing to measure: give --nwc, --gguf or both")
    if (o.text is None) != (o.reference is None):
        p.error("--text and --reference belong together")
    for path in [*o.nwc, *o.gguf, *filter(None, [o.text, o.reference])]:
        if not path.is_file():
            p.error(f"{path} is not a file")
    if o.text and o.nwc and not o.program.is_file():
        p.error(f"{o.program} is not there; build the target nwc-cli")
    probe = [o.python, "-c", "import numpy, llama_cpp_py_sync, importlib.util as u; assert u.find_spec('xllamacpp')"]
    if o.gguf and subprocess.run(probe, capture_output=True).returncode != 0:
        sys.exit(INSTALL.format(python=o.python))

    sides = [Nwc(o, path, form) for path in o.nwc for form in (o.weights or known)] + [Llama(o, g) for g in o.gguf]
    runs = {(side.name, t): [] for side in sides for t in o.threads}
    for number in range(-1, o.repeat):  # the first round brings the files into memory and does not count
        for t in o.threads if number >= 0 else o.threads[:1]:
            for side in sides if number % 2 == 0 else sides[::-1]:
                if number < 0:
                    subprocess.run(["cat", side.path], stdout=subprocess.DEVNULL, check=True)
                    continue
                print(f"round {number + 1} of {o.repeat}: {side.name}, {t} threads", file=sys.stderr)
                runs[side.name, t].append(side.speed(t))
    divergences = {}
    for side in sides if o.text else []:
        print(f"KL divergence: {side.name}", file=sys.stderr)
        divergences[side.name] = side.divergence()
    if o.json:
        report = [
            {"name": s.name, "file_bytes": s.path.stat().st_size, "threads": t, "prompt_tokens": o.prompt,
             "generated_tokens": o.generate, "runs": runs[s.name, t], **divergences.get(s.name, {})}
            for s in sides for t in o.threads
        ]
        o.json.write_text(json.dumps(report, indent=1))
    print_tables(o, sides, runs, divergences)


main()
