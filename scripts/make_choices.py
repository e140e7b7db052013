#!/usr/bin/env python3
"""Makes the JSON lines that `nwc eval --choices` reads from local copies of public data sets, with the prompts of
lm-evaluation-harness 0.4 (zero-shot; few-shot examples may be put in front of "context" by hand).

usage: make_choices.py TASK FILE... -o OUT.jsonl [--limit N]

TASK and FILE, as the data sets are published:
  arc         ARC-Easy-Test.jsonl, ARC-Challenge-Test.jsonl: {"question": {"stem", "choices": [{"text", "label"}]}, "answerKey"}
  hellaswag   hellaswag_val.jsonl: {"activity_label", "ctx_a", "ctx_b", "endings", "label"}
  piqa        valid.jsonl and valid-labels.lst: {"goal", "sol1", "sol2"}
  winogrande  dev.jsonl: {"sentence", "option1", "option2", "answer"}
  boolq       val.jsonl: {"question", "passage", "label" or "answer"}
  mmlu        SUBJECT_test.csv (question, A, B, C, D, answer); several files may be given
"""
import argparse
import csv
import json
import pathlib
import re
import sys


def lines_of(path):
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    sys.exit(f"{path}: line {number} is no JSON: {error}")


def arc(paths):
    for path in paths:
        for row in lines_of(path):
            question = row["question"]
            labels = [c["label"] for c in question["choices"]]
            yield dict(context=f"Question: {question['stem']}\nAnswer:", choices=[c["text"] for c in question["choices"]],
                       answer=labels.index(row["answerKey"]))


def clean(text):
    """HellaSwag's texts, of which some come from WikiHow with marks of its own."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def hellaswag(paths):
    for path in paths:
        for row in lines_of(path):
            context = row["ctx_a"] + " " + row["ctx_b"].capitalize()
            yield dict(context=clean(row["activity_label"] + ": " + context), choices=[clean(e) for e in row["endings"]],
                       answer=int(row["label"]))


def piqa(paths):
    if len(paths) != 2:
        sys.exit("piqa needs two files: valid.jsonl and valid-labels.lst")
    labels = pathlib.Path(paths[1]).read_text(encoding="utf-8").split()
    for row, label in zip(lines_of(paths[0]), labels, strict=True):
        yield dict(context=f"Question: {row['goal']}\nAnswer:", choices=[row["sol1"], row["sol2"]], answer=int(label))


def winogrande(paths):
    """The choices are put into the sentence, and what comes behind is scored."""
    for path in paths:
        for row in lines_of(path):
            before, after = row["sentence"].split("_", 1)
            yield dict(contexts=[before + row["option1"], before + row["option2"]], choices=[after.strip()] * 2,
                       answer=int(row["answer"]) - 1)


def boolq(paths):
    for path in paths:
        for row in lines_of(path):
            yield dict(context=f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:", choices=["no", "yes"],
                       answer=int(row["label"] if "label" in row else row["answer"]))


def mmlu(paths):
    for path in paths:
        subject = re.sub(r"_(test|val|dev)$", "", pathlib.Path(path).stem).replace("_", " ")
        with open(path, encoding="utf-8", newline="") as file:
            for question, *options, answer in csv.reader(file):
                listed = "".join(f"{letter}. {text}\n" for letter, text in zip("ABCD", options))
                yield dict(context=f"The following are multiple choice questions (with answers) about {subject}.\n\n"
                                   f"{question.strip()}\n{listed}Answer:",
                           choices=list("ABCD"), answer="ABCD".index(answer))


TASKS = dict(arc=arc, hellaswag=hellaswag, piqa=piqa, winogrande=winogrande, boolq=boolq, mmlu=mmlu)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("files", nargs="+")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--limit", type=int, help="only so many questions")
    arguments = parser.parse_args()
    count = 0
    temporary = arguments.output + ".nwc.tmp"
    with open(temporary, "w", encoding="utf-8") as out:
        for item in TASKS[arguments.task](arguments.files):
            if count == arguments.limit:
                break
            out.write(json.dumps(item) + "\n")
            count += 1
    pathlib.Path(temporary).replace(arguments.output)
    print(f"{arguments.output}: {count} questions")


if __name__ == "__main__":
    main()
