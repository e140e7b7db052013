#!/usr/bin/env python3
"""README's comparison: every method as it is used with nothing else at hand, on texts of several kinds.

All that is calibrated is calibrated on the same text, which the model writes itself (the default of nwc compress).
Every file is measured on 100,000 tokens of each text, or all there are, with errors by a block bootstrap; nwc's default
with three seeds. A rival has the rate that its settings give, and is set against what nwc's default has at that same rate
over the whole file (log KL divergence interpolated linearly between nwc's rates, which are half a bit apart).

  headline.py                     everything for gutenlm-2.6m (an hour or two on two cores)
  headline.py --model SmolLM2-135M --tokens 25000
  headline.py --only GPTQ --report

Texts and models: see quality.py --help. The text of code is made of the standard library of this Python. Results are
cached: an interrupted run resumes.
"""
import argparse
import json
import os
import pathlib
import sys
import sysconfig

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):  # tensors run in parallel instead
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

import awq  # noqa: E402
import baselines  # noqa: E402
import e8p  # noqa: E402
import gptq  # noqa: E402
import nwc_rows  # noqa: E402
import qtip  # noqa: E402
import report  # noqa: E402
import rtn  # noqa: E402
import seedlm  # noqa: E402
import settings  # noqa: E402
import workspace  # noqa: E402
from settings import DATA, Method  # noqa: E402

RATES = (2.5, 3.0, 3.5, 4.0, 4.5, 5.0)  # of nwc's default; the others of nwc's have 3 and 4
SEEDS = (1, 2, 3)
CODE_BYTES = 1_500_000


def code_text(folder):
    """The first modules of Python's standard library in the order of their names, in one file."""
    path = pathlib.Path(folder) / f"python-{sys.version_info.major}.{sys.version_info.minor}.txt"
    if not path.exists():
        text = ""
        for module in sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
            text += module.read_text(errors="ignore") + "\n"
            if len(text) > CODE_BYTES:
                break
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path


def models(out, tokens):
    code = code_text(out)
    wikitext, novel, other = (DATA / "text" / f"{n}.txt" for n in ("wikitext-2-test", "pride-and-prejudice",
                                                                   "the-time-machine"))
    gutenlm = settings.MODELS["gutenlm-2.6m"]
    smollm2 = settings.MODELS["SmolLM2-135M"]
    return {m.name: m for m in (
        settings.Model(gutenlm.name, gutenlm.reference, "self", novel, tokens, gutenlm.trellis_bits,
                       (("The Time Machine", other), ("WikiText-2", wikitext), ("Python", code))),
        settings.Model(smollm2.name, smollm2.reference, "self", wikitext, tokens, smollm2.trellis_bits,
                       (("Pride and Prejudice", novel), ("The Time Machine", other), ("Python", code)),
                       every_setting=False))}


def _grid(bits):
    return tuple(dict(bits=b, group=128, symmetric=False) for b in bits)


def _both(name, quantize, steps, **options):
    """A method with its own statistics, E[x x^T], and with those that nwc has."""
    return (Method(name, quantize, steps, allocated=False, **options),
            Method(f"{name}, Fisher", quantize, steps, allocated=False, fisher=True, **options))


RIVALS = (
    Method("RTN, groups of 128", rtn.quantize, _grid((3, 4)), calibrated=False, allocated=False),
    Method("SeedLM", seedlm.quantize, tuple(dict(bits=b) for b in (3, 4)), calibrated=False, allocated=False),
    *_both("GPTQ, groups of 128", gptq.quantize, _grid((3, 4))),
    *_both("AWQ, groups of 128", awq.quantize, _grid((3, 4))),
    *_both("E8P + RHT + LDLQ", e8p.quantize, tuple(dict(bits=b) for b in (3, 4))),
    *_both("QTIP HYB + RHT + LDLQ", qtip.quantize, tuple(dict(bits=b, code="hyb") for b in (3, 4)),
           model_bits=qtip.HYB_TABLE_BITS),
)
OURS = {name: settings.NWC[name] for name in (
    "nwc with recovery", "nwc without allocation", "nwc, data-free", "entropy-coded scalar + LDLQ + water-filling",
    "entropy-coded scalar + LDLQ + water-filling, allocated", "the paper without its networks (K=4, scalar, LDLQ)")}
DEFAULT = "nwc, default"


def collect(args, space):
    wanted = lambda name: not args.only or any(part.lower() in name.lower() for part in args.only)  # noqa: E731
    if wanted(DEFAULT):
        for rate in (3.0, 4.0, *(r for r in RATES if r not in (3.0, 4.0))):
            for seed in SEEDS if rate in (3.0, 4.0) else SEEDS[:1]:
                yield nwc_rows.row(space, DEFAULT, [], rate, seed=seed)
    for name, options in OURS.items():
        for rate in (3.0, 4.0) if wanted(name) else ():
            yield nwc_rows.row(space, name, options, rate)
    runner = baselines.Runner(space, args.jobs)
    for method in RIVALS:
        for setting in method.settings if wanted(method.name) else ():
            yield {"method": method.name, **runner.uniform(method, setting)}


def on_texts(model, row):
    """(text, figures) of every text that a row was measured on."""
    return [(model.text.stem, row), *row.get("texts", {}).items()]


def table(model, rows):
    """A line for each row: its rate, its divergences with errors, and how many times what nwc's default has there."""
    default = sorted((r for r in rows if r["method"] == DEFAULT and r.get("seed", 1) == 1), key=lambda r: r["bpw"])
    names = [name for name, _ in on_texts(model, rows[0])]
    lines = ["| method | bpw | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for row in rows:
        cells = []
        for i, (_, figures) in enumerate(on_texts(model, row)):
            cell = f"{figures['kld_mean']:.4g} ± {figures['kld_se']:.1g}"
            if row["method"] != DEFAULT and len(default) > 1 and default[0]["bpw"] <= row["bpw"] <= default[-1]["bpw"]:
                ours = [on_texts(model, r)[i][1]["kld_mean"] for r in default]
                at = np.exp(np.interp(row["bpw"], [r["bpw"] for r in default], np.log(ours)))
                cell += f" ({figures['kld_mean'] / at:.2f}x)"
            cells.append(cell)
        seed = f", seed {row['seed']}" if row.get("seed", 1) != 1 else ""
        lines.append(f"| {row['method']}{seed} | {row['bpw']:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def flat(model, rows):
    for row in rows:
        for text, figures in on_texts(model, row):
            yield {"method": row["method"], "setting": row["setting"], "seed": row.get("seed", ""), "bpw": row["bpw"],
                   "text": text, **{k: figures[k] for k in ("kld_mean", "kld_se", "kld_low", "kld_high", "ppl",
                                                            "ppl_reference", "same_top", "tokens")}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nwc", type=pathlib.Path, default=settings.ROOT / "build/release/bin/nwc")
    parser.add_argument("--model", choices=list(settings.MODELS), default="gutenlm-2.6m")
    parser.add_argument("--only", nargs="+", help="methods whose name contains one of these")
    parser.add_argument("--tokens", type=int, default=100_000, help="of each text")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=pathlib.Path, default=settings.ROOT / "build/bench/headline")
    parser.add_argument("--report", action="store_true", help="only the table of the rows measured before")
    args = parser.parse_args()
    model = models(args.out, args.tokens)[args.model]
    rows_path = args.out / model.name / "rows.json"
    rows = json.loads(rows_path.read_text()) if rows_path.exists() else {}
    if not args.report:
        missing = [str(p) for p in (model.reference, model.text, *(t for _, t in model.more_texts)) if not p.exists()]
        if missing:
            sys.exit(f"{model.name}: missing {', '.join(missing)}; quality.py --help says where they come from")
        try:
            space = workspace.Workspace(model, args.nwc, args.out)
            for row in collect(args, space):
                rows[f"{row['method']} | {row['setting']} | {row.get('seed', '')}"] = row
                rows_path.write_text(json.dumps(rows, indent=1))
                print(f"{row['method']:45} {row['setting']:28} {row['bpw']:7.4f} bpw  " + "  ".join(
                    f"{name} {f['kld_mean']:.5f}" for name, f in on_texts(model, row)), flush=True)
        except workspace.ToolError as error:
            sys.exit(str(error))
    if rows:
        ordered = sorted(rows.values(), key=lambda r: (r["method"] != DEFAULT, r["method"], round(r["bpw"], 2),
                                                       r.get("seed", 1)))
        text = table(model, ordered)
        (args.out / f"headline_{model.name}.md").write_text(text + "\n")
        report.write_csv(args.out / f"headline_{model.name}.csv", list(flat(model, ordered)))
        print(text)


if __name__ == "__main__":
    main()
