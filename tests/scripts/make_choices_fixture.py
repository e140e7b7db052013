#!/usr/bin/env python3
"""Makes tests/fixtures/choices/made_up.json: multiple-choice questions that nobody else wrote, and what
lm-evaluation-harness finds with models/gutenlm-2.6m. Needs: pip install torch transformers lm-eval (made with lm-eval
0.4.13). Works offline: the task's file is local.

Usage: make_choices_fixture.py OUTPUT.json
"""
import json
import os
import pathlib
import sys
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
import lm_eval  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
ITEMS = [
    ("Mr. Bennet was among the earliest of those who waited on Mr.", ["Bingley", "Darcy of Pemberley", "Collins"], 0),
    ("It is a truth universally", ["acknowledged", "known", "hidden from all"], 0),
    ("Elizabeth took the letter from his", ["hand", "unwilling fingers", "garden", "horse"], 0),
    ("The carriage stopped at the", ["door of the house", "door", "sea"], 1),
    ("She was not at all", ["surprised", "blue", "n\u00e9cessaire"], 0),
    ("Question: Who wrote to Jane?\nAnswer:", ["Miss Bingley", "nobody", "Sir William Lucas, from St. James's"], 0),
    ("\u201cMy dear,\u201d said he,", ["\u201cyou are right.\u201d", "and then no more", "walking"], 0),
    ("After dinner", [", they went into the drawing-room", "the", "\u2014 silence"], 0),
]


def main():
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "task.jsonl"
        data.write_text("".join(json.dumps(dict(context=c, choices=x, answer=a)) + "\n" for c, x, a in ITEMS))
        task = dict(task="made_up", dataset_path="json", dataset_kwargs=dict(data_files=dict(test=str(data))),
                    test_split="test", output_type="multiple_choice", doc_to_text="context", doc_to_choice="choices",
                    doc_to_target="answer", metric_list=[dict(metric="acc"), dict(metric="acc_norm")])
        model = HFLM(pretrained=str(ROOT / "models" / "gutenlm-2.6m"), device="cpu", dtype="float32", batch_size=1, prefix_token_id=0)
        out = lm_eval.simple_evaluate(model=model, tasks=[task], log_samples=True, bootstrap_iters=0)
    samples = sorted(out["samples"]["made_up"], key=lambda s: s["doc_id"])
    result = out["results"]["made_up"]
    fixture = dict(items=[dict(context=c, choices=x, answer=a) for c, x, a in ITEMS],
                   scores=[[round(float(r[0]), 5) for r in s["filtered_resps"]] for s in samples],
                   acc=result["acc,none"], acc_norm=result["acc_norm,none"])
    pathlib.Path(sys.argv[1]).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(sys.argv[1]).write_text(json.dumps(fixture, indent=1) + "\n")
    print(fixture["acc"], fixture["acc_norm"])


if __name__ == "__main__":
    main()
