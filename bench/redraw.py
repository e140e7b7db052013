#!/usr/bin/env python3
"""Draws all figures of doc/figures again from the tables beside them: redraw.py [FOLDER]

For changes of how figures look. Figures of new measurements come from the programs that measure.
"""
import csv
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "bench/quality"), str(ROOT / "bench/rate_distortion"),
                str(ROOT / "bench/scale")]
import growth  # noqa: E402
import plot_bench  # noqa: E402
import rate_distortion  # noqa: E402
import report  # noqa: E402
import study_ablations  # noqa: E402
import study_rates  # noqa: E402
import study_sources  # noqa: E402
import study_transforms  # noqa: E402

MODEL_OF_TOKENS = "SmolLM2-135M"  # what the records of doc/figures/speed_tokens.csv were measured with


def read(path):
    """Rows with numbers as numbers; empty cells are None."""
    def value(text):
        if text == "":
            return None
        if re.fullmatch(r"[0-9]+", text):
            return int(text)
        try:
            return float(text)
        except ValueError:
            return text

    with open(path, newline="") as f:
        return [{k: value(v) for k, v in row.items()} for row in csv.DictReader(f)]


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "doc/figures"
    for path in sorted(folder.glob("*.csv")):
        kind, _, name = path.stem.partition("_")
        rows = read(path)
        if kind == "quality":
            report.plot(name, rows, path.with_suffix(".png"))
        elif kind == "ablations":
            study_ablations.plot(name, rows, path.with_suffix(".png"))
        elif path.stem.startswith("fig_rates_"):
            model = path.stem.removeprefix("fig_rates_")
            reference = read(folder / f"quality_{model}.csv")[0]["ppl_reference"]
            study_rates.draw(model, rows, reference, folder)
        elif kind == "speed":
            plot_bench.draw(name, rows, folder, MODEL_OF_TOKENS)
        else:
            {"fig_sources": study_sources, "table_transforms": study_transforms,
             "rate_distortion": rate_distortion, "growth": growth}[path.stem].plot(rows, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
