#!/usr/bin/env python3
"""Checks and measures nwc on this machine's GPU, from a folder that `device_check.sh pack` made elsewhere.

Parts, in order; each has a limit of its own, and what hangs costs no more than that:
  device        which driver works, the device's limits, how decoders start with and without each optional feature
  verify        coded models decoded on the device and on the CPU, compared weight by weight
  tests         every Vulkan test, each in a process of its own
  decode        4096 x 4096 to f16, q8 and packed in device memory, for every preset, against a copy of the f16
  fused         products of 1 to 8 vectors from the payload, and with q8 and packed weights, against those with f16
  attention     one layer's to 4,096 positions, split over them and not, against a copy of the keys and values
  choices       what is chosen by guess: dot products of bytes, several tiles a workgroup, queues for decoding, with and
                without
  tokens        tokens per second of gutenlm by mode, and resident as f16 and q8
  tokens-large  the same of a model of about a thousand million random weights, which is made here
  nvcomp        nvCOMP's ANS decoder on the same values, where its Python package is
  variants      every Vulkan test again without each of the device's optional features

Files, complete after each part: device_check.json (everything), device_check.txt (a table), device_check.log (what the
programs printed). Ends with 0 if all parts passed, 1 if one did not, 4 if there is no GPU.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import sys
import tempfile
import time

from device_check_host import (NVIDIA_LIBRARIES, Libraries, Outcome, driver_candidates, find_library, machine_line,
                               run_program)

FEATURES = ["ballot", "size_control", "storage16", "host_import", "pipeline_cache", "all"]
NO_DEVICE = 4
TEST_LIMIT = 60
# The tests of a rehearsal are one that decodes, one with faults, one of host memory, one of what is around.
FEW_TESTS = ("KernelVariants.OneTable", "VulkanFaults.LostDeviceIsReplacedByTheCpu", "HostImport.AnyByteOfTheHeap",
             "VulkanCreate.NamesAndIndexesChooseTheDevice")


def without(disabled):
    return f" without {disabled}" if disabled else ""


class Check:
    def __init__(self, options):
        self.o = options
        self.folder = pathlib.Path(options.folder).resolve()
        self.out = pathlib.Path(options.out or self.folder / "results").resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.start = time.monotonic()
        self.deadline = self.start + 60 * options.minutes
        self.cores = os.cpu_count() or 1
        self.patience = 5 if options.rehearse else 1  # software takes its time
        self.results = {"arguments": sys.argv[1:], "machine": machine_line(), "cores": self.cores, "parts": []}
        self.table = []
        self.log = open(self.out / "device_check.log", "w", buffering=1)
        self.bench, self.nwc = self.folder / "bin/nwc-bench", self.folder / "bin/nwc"
        self.env = {}

    # What is left of the time, and what is kept.

    def left(self, limit):
        return min(limit, self.deadline - time.monotonic())

    def say(self, line=""):
        print(line, flush=True)
        self.table.append(line)

    def note(self, name, outcome):
        self.log.write(f"\n$ {name}\n# {outcome.text}, {outcome.seconds:.1f} s\n{outcome.out[-20000:]}\n"
                       f"{outcome.err[-20000:]}\n")

    def save(self):
        self.results["seconds"] = round(time.monotonic() - self.start, 1)
        for name, text in (("json", json.dumps(self.results, indent=1)), ("txt", "\n".join(self.table) + "\n")):
            path = self.out / f"device_check.{name}"
            path.with_suffix(".part").write_text(text)
            path.with_suffix(".part").rename(path)

    def run(self, command, limit, env=None):
        outcome = run_program(command, self.env if env is None else env, self.left(limit))
        different = {k: v for k, v in (env or {}).items() if self.env.get(k) != v}
        self.note(" ".join([f"{k}={v}" for k, v in different.items()] + [str(c) for c in command]), outcome)
        return outcome

    def json_of(self, part, command, end, env=None):
        """The program's JSON, or None, with a problem noted."""
        outcome = self.run(command, end - time.monotonic(), env)
        try:
            found = json.loads(outcome.out)
        except ValueError:
            found = None
        if outcome.code != 0 or found is None:
            last = (outcome.err.strip() or outcome.out.strip())[-400:]
            part["problems"].append(f"{' '.join(map(str, command[1:4]))}: {outcome.text}: {last}")
        return found

    def part(self, name, limit, work):
        """Runs work(part, end) unless it is left out; `end` is when it has to be done."""
        if self.o.only and name not in self.o.only:
            return
        part = {"name": name, "problems": []}
        limit *= self.patience
        start = time.monotonic()
        self.say(f"\n== {name}")
        if self.left(limit) < 5:
            part["problems"].append("left out: no time was left")
        else:
            try:
                work(part, start + self.left(limit))
            except Exception as error:  # one part's trouble is not the others'
                part["problems"].append(f"{type(error).__name__}: {error}")
        part["ok"] = not part["problems"]
        part["seconds"] = round(time.monotonic() - start, 1)
        for problem in part["problems"]:
            self.say(f"   PROBLEM {problem}")
        self.say(f"   {'ok' if part['ok'] else 'NOT OK'}, {part['seconds']} s")
        self.results["parts"].append(part)
        self.save()

    # The parts.

    def find_driver(self, libraries, work):
        """Sets the environment to one with a GPU, else to one with a software device. Returns what kind it found."""
        base = dict(os.environ, LD_LIBRARY_PATH=libraries.search_path(), NWC_REQUIRE_VULKAN="1",
                    MESA_SHADER_CACHE_DISABLE="true", NWC_TEST_SOURCE_DIR=str(self.folder / "data"),
                    NWC_TEST_MODEL=str(self.folder / "models/capi_model.nwc"), XDG_CACHE_HOME=f"{work}/cache")
        if self.o.device:
            base["NWC_VULKAN_DEVICE"] = self.o.device
        software = None
        self.results["drivers"] = []
        for name, more in driver_candidates(work):
            env = dict(base, **more)
            outcome = self.run([self.bench, "device", "--list"], 25 * self.patience, env)
            try:
                report = json.loads(outcome.out)
            except ValueError:
                report = {"devices": [], "why": f"{outcome.text} {outcome.err.strip()[-300:]}"}
            found = [d for d in report["devices"] if d["usable"]]
            names = [d["name"] for d in found]
            self.results["drivers"].append({"driver": name, "devices": names, "why": report.get("why", "")})
            self.say(f"driver: {name}: {', '.join(names) or 'no device'} {report.get('why', '')}")
            if any(d["type"] != "CPU" for d in found):
                self.env = env
                return "GPU"
            software = software or (env if found else None)
        self.env = software or base
        # What the loader says of drivers that it cannot use, and what they lack.
        self.run([self.bench, "device", "--list"], 25, dict(self.env, VK_LOADER_DEBUG="error,warn,driver"))
        for path in filter(None, map(find_library, NVIDIA_LIBRARIES)):
            self.run(["ldd", path], 10)
        return "software" if software else "none"

    def device(self, part, end):
        found = part["report"] = self.json_of(part, [self.bench, "device", "--preset", *self.presets()], end)
        if found is None:
            return
        d = found["devices"][0]
        gib = {key: d[key] / 2**30 for key in ("local_memory", "max_allocation", "max_storage_range")}
        self.say(f"   {d['name']}, {d['type']}, {d['driver']}, subgroups of {d['subgroup_size']}, "
                 f"features {d['features']}")
        self.say(f"   GiB: memory {gib['local_memory']:.1f}, allocations {gib['max_allocation']:.1f}, bindings "
                 f"{gib['max_storage_range']:.1f}; shared memory {d['max_shared_memory']} B, timestamps of "
                 f"{d['timestamp_bits']} bits, {d['timestamp_nanoseconds']:g} ns")
        for decoder in found["decoders"]:
            name = f"decoder, {decoder['preset']}{without(decoder['disabled'])}"
            kernel = re.search(r"rANS kernel: (.*)", " ".join(decoder["log"]))
            self.say(f"   {name}: {decoder['seconds']:.2f} s, {kernel.group(1) if kernel else decoder['message']}")
            if not decoder["ok"] or any("quarantined" in line for line in decoder["log"]):
                part["problems"].append(f"{name}: {decoder['message'] or decoder['log']}")

    def verify(self, part, end):
        part["files"] = []
        for path in sorted((self.folder / "models").glob("gutenlm*.nwc")):
            for disabled in [""] if self.o.rehearse else ["", "ballot", "all"]:
                found = self.json_of(part, [self.nwc, "verify", path, "--backend", "vulkan", "--no-speed", "--json",
                                            "--shader-cache", "none"], end,
                                     dict(self.env, NWC_VULKAN_DISABLE=disabled))
                if found is None:
                    continue
                found.pop("comparisons", None)
                part["files"].append(dict(found, disabled=disabled))
                self.say(f"   {path.name}{without(disabled)}: {found['coded_tensors']} coded tensors, "
                         f"{found['different_values']} different values, within {found['worst_tolerance']:.3f} of the "
                         f"tolerance, on {found['device']}")

    def presets(self):
        return ["identity"] if self.o.rehearse else ["identity", "linear", "small", "paper"]

    def list_tests(self):
        tests = []
        for program in (self.folder / "tests.txt").read_text().split():
            suite = ""
            listing = run_program([self.folder / "bin" / program, "--gtest_list_tests"], self.env, 20)
            for line in listing.out.splitlines():
                line = line.split("#")[0].rstrip()
                if line.endswith("."):
                    suite = line
                elif line.startswith("  "):
                    tests.append((program, suite + line.strip()))
        return [t for t in tests if t[1] in FEW_TESTS] if self.o.rehearse else tests

    def run_tests(self, part, end, variants):
        def one(job):
            disabled, program, test = job
            if end - time.monotonic() < 2:
                return job, "not run", Outcome(None, 0, "", "")
            with tempfile.TemporaryDirectory() as folder:
                env = dict(self.env, NWC_VULKAN_DISABLE=disabled, TEST_TMPDIR=folder)
                outcome = run_program([self.folder / "bin" / program, f"--gtest_filter={test}"], env,
                                      min(TEST_LIMIT * self.patience, end - time.monotonic()))
            return job, ("timed out" if outcome.code is None else "failed" if outcome.code != 0
                         else "skipped" if "[  SKIPPED ]" in outcome.out
                         else "passed" if "[  PASSED  ] 1 test" in outcome.out else "failed"), outcome

        jobs = [(disabled, *test) for disabled in variants for test in self.list_tests()]
        part["tests"] = []
        with concurrent.futures.ThreadPoolExecutor(max(2, min(12, self.cores - 2))) as pool:
            for (disabled, program, test), result, outcome in pool.map(one, jobs):
                entry = {"program": program, "test": test, "disabled": disabled, "result": result,
                         "seconds": round(outcome.seconds, 2)}
                part["tests"].append(entry)
                if result in ("passed", "not run"):
                    continue
                entry["output"] = (outcome.out + outcome.err)[-2000:]
                self.note(f"NWC_VULKAN_DISABLE={disabled} {program} --gtest_filter={test}", outcome)
                self.say(f"   {result}: {test}{without(disabled)} ({outcome.seconds:.0f} s)")
        results = [t["result"] for t in part["tests"]]
        counts = {what: results.count(what) for what in ("passed", "skipped", "failed", "timed out", "not run")}
        self.say("   " + ", ".join(f"{n} {what}" for what, n in counts.items() if n))
        slow = sorted(part["tests"], key=lambda t: -t["seconds"])[:3]
        self.say("   longest: " + ", ".join(f"{t['test']} {t['seconds']:.0f} s" for t in slow))
        bad = [f"{n} {what}" for what, n in counts.items() if n and what not in ("passed", "skipped")]
        if bad or not counts["passed"]:
            part["problems"].append(", ".join(bad) or "no test was run")

    def records(self, part, command, end, show, env=None, note=None):
        """note: goes to the records under "choice"."""
        options = ["--threads", self.cores, "--backend", "vulkan", "--json", "--repeat", 3 if self.o.rehearse else 7]
        found = self.json_of(part, [self.bench, *command, *options], end, dict(self.env, **(env or {}))) or []
        for r in found if note else []:
            r["choice"] = note
        part.setdefault("records", []).extend(found)
        for r in found:
            self.say("   " + show(r))
        return found

    def layers(self, part, end, command, show):
        """One run a preset, so that one that takes too long does not cost the others'."""
        size = ["--rows", 1024, "--cols", 64] if self.o.rehearse else []
        for preset in self.presets():
            found = self.records(part, [*command, "--bits", 4, "--preset", preset, *size], end, show)
            if not found:
                part["problems"].append(f"{preset}: nothing was measured")

    def decode(self, part, end):
        self.layers(part, end, ["decode"], lambda r:
                    f"{r['name']}, {r['preset']}, {r['quantizer']}, {r['bpw']:.2f} bpw: "
                    f"{1e6 * r['seconds_median']:.0f} us, {r['gweights_per_s']:.2f} G weights/s, "
                    f"{r.get('ratio_device_copy', 0):.2f} copies")

    def fused(self, part, end):
        batches = [1, 2] if self.o.rehearse else [1, 2, 4, 8]
        self.layers(part, end, ["fused", "--batch", *batches], lambda r:
                    f"{r['name']}, {r['preset']}, {r['quantizer']}: {1e6 * r['seconds_median']:.0f} us, "
                    f"{r.get('ratio_f16_product', 1):.2f} f16 products")

    def choices(self, part, end):
        """Each choice in turn, in one part, so that one look compares them. Dot products are measured wherever the device
        can run them, also where it does not claim to be fast."""
        few = self.o.rehearse
        size = ["--rows", 1024, "--cols", 64] if few else []
        products = self.records(part, ["fused", "--batch", *([1] if few else [1, 4, 8]), "--bits", 4, "--preset", "identity",
                                       "--only", " product", *size], end, lambda r:
                                f"{r['name']}, {r['quantizer']}: {1e6 * r['seconds_median']:.0f} us",
                                {"NWC_VULKAN_FORCE": "dot_product"}, "products")
        decoding = []
        for tiles in (1, 2) if few else (1, 2, 4):
            decoding += self.records(part, ["decode", "--bits", 4, "--preset", "linear", "--tiles", tiles, "--only",
                                            "in device memory", *size], end, lambda r:
                                     f"{r['name']}, {r['quantizer']}, tiles a workgroup: {tiles}: "
                                     f"{1e6 * r['seconds_median']:.0f} us", None, f"tiles a workgroup: {tiles}")
        model = next((self.folder / "models").glob("gutenlm-3*.nwc"))
        short = ["--seconds", 2, "--generate", 2, "--prompt", 8] if few else ["--seconds", 4]
        streamed = []
        for disabled in ("", "queues"):
            # Four windows, so that two of them can be at work at a time.
            if not few:
                self.records(part, ["decode", "--bits", 4, "--preset", "linear", "--rows", 16384, "--cols", 8192, "--only",
                                    "upload included"], end, lambda r:
                             f"{r['name']}, 16384 x 8192, {r['quantizer']}{without(disabled)}: "
                             f"{1e6 * r['seconds_median']:.0f} us", {"NWC_VULKAN_DISABLE": disabled},
                             f"decoding{without(disabled)}")
            streamed += self.records(part, ["tokens", model, *short, "--mode", "streamed"], end, lambda r:
                                     f"{r['name']}{without(disabled)}: {r['tokens_per_second']:.1f} tokens/s",
                                     {"NWC_VULKAN_DISABLE": disabled}, f"streamed{without(disabled)}")
        if not products or not decoding or not streamed:
            part["problems"].append("a choice was not measured (see the log)")

    def attention(self, part, end):
        few = ["--shape", "9x3x64"] if self.o.rehearse else ["--tokens", 1, 128]
        found = self.records(part, ["attention", "--positions", 4096, *few], end, lambda r:
                             f"{r['name']}: {1e6 * r['seconds_median']:.0f} us, {r['ratio_device_copy']:.2f} copies")
        if not any("pieces" in r["name"] for r in found):
            part["problems"].append("split attention was not measured")

    def measure_tokens(self, part, model, modes, end, weights=None):
        few = ["--seconds", 2, "--generate", 2, "--prompt", 8] if self.o.rehearse else ["--seconds", 6]
        found = self.records(part, ["tokens", model, *few, "--mode", *modes,
                                     *(["--weights", weights] if weights else [])], end, lambda r:
                             f"{r['name']}{', ' + weights if weights else ''}: {r['tokens_per_second']:.1f} tokens/s, loaded in "
                             f"{r['load_seconds']:.2f} s, {r['weights'] / 1e6:.1f} M weights")
        if len(found) != 2 * len(modes):
            part["problems"].append(f"{model.name}: a mode failed (see the log)")

    def tokens(self, part, end):
        modes = ["fused"] if self.o.rehearse else ["resident", "fused", "cached", "streamed", "fused-cached"]
        for path in sorted((self.folder / "models").glob("gutenlm*.nwc"))[:1 if self.o.rehearse else None]:
            self.measure_tokens(part, path, modes, end)
            for weights in ["q8"] if self.o.rehearse else ["f16", "q8"]:
                self.measure_tokens(part, path, ["resident"], end, weights)

    def tokens_large(self, part, end, work):
        path = pathlib.Path(work) / "large.nwc"
        small = ["--hidden", 128, "--inner", 256, "--layers", 2, "--heads", 4, "--kv-heads", 2, "--vocab", 256]
        made = self.run([self.bench, "model", path, *(small if self.o.rehearse else [])], end - time.monotonic())
        self.say(f"   {made.out.strip()}, made in {made.seconds:.1f} s")
        if made.code != 0:
            part["problems"].append(f"no model was made: {made.text} {made.err[-300:]}")
            return
        for mode in ["resident"] if self.o.rehearse else ["resident", "fused", "streamed", "cached"]:
            self.measure_tokens(part, path, [mode], end)
        if not self.o.rehearse:
            self.measure_tokens(part, path, ["resident"], end, "f16")
        path.unlink()

    def nvcomp(self, part, end):
        outcome = self.run([sys.executable, self.folder / "nvcomp_ans.py", self.bench], end - time.monotonic())
        part["records"] = json.loads(outcome.out or "[]") if outcome.code == 0 else []
        for r in part["records"]:
            self.say(f"   {r['name']}: {r['bpw']:.2f} bpw, {1e6 * r['seconds_median']:.0f} us, "
                     f"{r['gweights_per_s']:.2f} G/s, {r['ratio_memcpy']:.2f} copies of the decoded f16")
        if not part["records"]:
            self.say(f"   {outcome.err.strip()[-300:]}")
        if outcome.code != 0:
            part["problems"].append(outcome.text)

    def all(self, work):
        self.say(f"{self.results['machine']}, {self.cores} cores")
        libraries = Libraries(self.folder, work)
        self.results["libraries_taken"] = libraries.taken
        kind = self.find_driver(libraries, work)
        if kind == "none" or (kind == "software" and not self.o.rehearse):
            self.say("no GPU was found: what the loader said is in device_check.log")
            self.save()
            return NO_DEVICE
        # On a GPU parts take a fraction of their limits, which come to more than the whole on purpose.
        self.part("device", 60, self.device)
        self.part("verify", 60, self.verify)
        self.part("tests", 110, lambda part, end: self.run_tests(part, end, [""]))
        self.part("decode", 100, self.decode)
        self.part("fused", 80, self.fused)
        self.part("attention", 40, self.attention)
        self.part("choices", 90, self.choices)
        self.part("tokens", 60, self.tokens)
        self.part("tokens-large", 90, lambda part, end: self.tokens_large(part, end, work))
        self.part("nvcomp", 40, self.nvcomp)
        variants = ["all"] if self.o.rehearse else FEATURES
        self.part("variants", 200, lambda part, end: self.run_tests(part, end, variants))
        bad = [p["name"] for p in self.results["parts"] if not p["ok"]]
        verdict = f"not ok: {', '.join(bad)}" if bad else "all parts passed"
        self.say(f"\n{verdict}, {time.monotonic() - self.start:.0f} s")
        self.save()
        return 1 if bad else 0


def main():
    parser = argparse.ArgumentParser(prog="device_check.sh run", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="what `device_check.sh pack` made")
    parser.add_argument("--out", help="folder for the three result files (default: results in the packed folder)")
    parser.add_argument("--minutes", type=float, default=8,
                        help="for everything; parts that find no time are left out (default: 8)")
    parser.add_argument("--only", action="append", default=[], metavar="PART",
                        help="this part alone; may be given several times")
    parser.add_argument("--device", help="part of the Vulkan device's name (default: the best one)")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, few tests, on a software device too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        sys.exit(Check(options).all(work))


if __name__ == "__main__":
    main()
