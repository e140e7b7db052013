#!/usr/bin/env python3
"""Reads the logs that scripts/fuzz.sh leaves: fuzz_report.py FOLDER HARNESS...

Prints a table, writes FOLDER/report.json, and exits with 1 if a harness found something or did not run.
Edges are places of the program that libFuzzer counts, features these with how often each was passed."""
import json
import pathlib
import re
import sys


def number(pattern, text, default=0):
    found = re.findall(pattern, text)
    return int(found[-1]) if found else default


def read_harness(root, name):
    result = {"harness": name, "executions": 0, "seconds": 0, "edges": 0, "edges_in_program": 0, "features": 0,
              "corpus": len(list((root / "corpus" / name).glob("*"))), "findings": []}
    for log in sorted((root / "logs").glob(name + ".*")):
        text = log.read_text(errors="replace")
        result["executions"] += number(r"stat::number_of_executed_units: +(\d+)", text, number(r"(?m)^#(\d+)\t", text))
        result["edges_in_program"] = number(r"Loaded \d+ modules +\((\d+) inline", text)
        result["edges"] = max(result["edges"], number(r" cov: (\d+) ", text))
        result["features"] = max(result["features"], number(r" ft: (\d+) ", text))
        rate = number(r"stat::average_exec_per_sec: +(\d+)", text)
        if rate:
            result["seconds"] += number(r"stat::number_of_executed_units: +(\d+)", text) // rate
        for artefact in re.findall(r"Test unit written to (\S+)", text):
            first = re.search(r"(?m)^(fuzz: .*|.*ERROR: .*|.*runtime error: .*)$", text)
            result["findings"].append({"input": artefact, "what": first.group(1) if first else "see " + str(log)})
    return result


def main():
    root = pathlib.Path(sys.argv[1])
    results = [read_harness(root, name) for name in sys.argv[2:]]
    print(f"{'harness':<22}{'executions':>12}{'a second':>10}{'edges':>16}{'features':>10}{'corpus':>8}"
          f"{'findings':>10}")
    for r in results:
        rate = r["executions"] // max(1, r["seconds"])
        edges = f"{r['edges']} / {r['edges_in_program']}"
        print(f"{r['harness']:<22}{r['executions']:>12,}{rate:>10,}{edges:>16}{r['features']:>10,}{r['corpus']:>8,}"
              f"{len(r['findings']):>10}")
    print(f"{'all':<22}{sum(r['executions'] for r in results):>12,}")
    for r in results:
        for finding in r["findings"]:
            print(f"FOUND by {r['harness']}: {finding['what']}\n  {finding['input']}")
        if r["executions"] == 0:
            print(f"{r['harness']} did not run: see {root}/logs/{r['harness']}.1")
    (root / "report.json").write_text(json.dumps(results, indent=1) + "\n")
    return 1 if any(r["findings"] or r["executions"] == 0 for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
