#!/usr/bin/env python3
"""Writes runtime/model/unicode_tables.inc: what tokenizers ask Unicode for, as sorted lists.

usage: make_unicode_tables.py [OUTPUT]

Uses the package unicodedata2 where it is installed (its version is Unicode's), else Python's own unicodedata. The
committed file is of Unicode 16.0, which the regular expressions of Hugging Face's tokenizers have too
(`pip install unicodedata2==16.0.0`). Prints how many bytes each table takes.

The tables, whose types and readers are in runtime/model/unicode_tables.h, unicode.cpp and normal_form.cpp:
  kCategories   a run begins at (value >> 5) and has the class (value & 31); neighbours that are upper and lower case in
                turn are one run of class kUpperEven or kUpperOdd (the case of even code points, of odd ones)
  kLowerCase    runs of code points, every one or every second, whose lower case is at the same distance
  kCombining    runs of one combining class, other than 0
  kMappings     runs of decompositions of one length, canonical or compatible, one step deep, as UTF-16 in kMappingText;
                or of single characters that lie side by side as their sources do
  kComposites   the code points that two others compose to, ordered by these two
"""
import os
import sys

try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata

DEFAULT_OUTPUT = os.path.join(os.path.dirname(__file__), "..", "runtime", "model", "unicode_tables.inc")
CODES = range(0x110000)
HANGUL = range(0xAC00, 0xD7A4)

# The order is that of GeneralClass in runtime/model/unicode.h.
CLASSES = ["Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd", "No", "P", "S", "Z", "Cc", "Cf", "Co", "Cn"]
UPPER_EVEN, UPPER_ODD = len(CLASSES), len(CLASSES) + 1


def class_of(code):
    category = unicodedata.category(chr(code))
    if category[0] in "PSZ":
        category = category[0]
    category = {"Me": "Mc", "Nl": "No", "Cs": "Cn"}.get(category, category)
    return CLASSES.index(category)


def categories():
    runs = []  # [first, class]
    for code in CODES:
        kind = class_of(code)
        if runs and runs[-1][1] == kind:
            continue
        runs.append([code, kind])
    merged = []
    i = 0
    while i < len(runs):
        # These are single code points, upper and lower case in turn.
        end = i
        while end + 1 < len(runs) and runs[end + 1][0] == runs[end][0] + 1 and {runs[end][1],
                                                                                runs[end + 1][1]} == {0, 1}:
            end += 1
        if end - i >= 3:
            # The last one may go on beyond the alternation.
            upper = runs[i][0] if runs[i][1] == 0 else runs[i][0] + 1
            merged.append([runs[i][0], UPPER_EVEN if upper % 2 == 0 else UPPER_ODD])
            merged.append(runs[end])
            i = end + 1
        else:
            merged.append(runs[i])
            i += 1
    return [first << 5 | kind for first, kind in merged]


def lower_case():
    """[(first, count, stride, distance)]; U+0130 becomes two characters and is not here."""
    runs = []
    for code in CODES:
        lower = chr(code).lower() if not 0xD800 <= code < 0xE000 else chr(code)
        if len(lower) != 1 or ord(lower) == code:
            continue
        if unicodedata.category(chr(code)) == "Cn":
            continue
        distance = ord(lower) - code
        if runs and runs[-1][3] == distance:
            first, count, stride, _ = runs[-1]
            step = code - (first + (count - 1) * stride)
            if step in (1, 2) and (count == 1 or step == stride):
                runs[-1] = (first, count + 1, step, distance)
                continue
        runs.append((code, 1, 1, distance))
    return runs


def combining():
    runs = []  # [first, count, class]
    for code in CODES:
        kind = unicodedata.combining(chr(code))
        if kind == 0:
            continue
        if runs and runs[-1][2] == kind and runs[-1][0] + runs[-1][1] == code:
            runs[-1][1] += 1
        else:
            runs.append([code, 1, kind])
    return runs


def decomposition(code):
    """-> (compatible, [code points]) or None"""
    if code in HANGUL:
        return None
    text = unicodedata.decomposition(chr(code))
    if not text:
        return None
    parts = text.split()
    compatible = parts[0].startswith("<")
    return compatible, [int(p, 16) for p in parts[compatible:]]


def units(codes):
    return list(memoryview("".join(map(chr, codes)).encode("utf-16-le")).cast("H"))


def mappings():
    """-> ([(first, count, compatible, linear, length, offset)], [UTF-16 units])"""
    entries = [(code, d[0], units(d[1]), d[1]) for code in CODES if (d := decomposition(code))]
    runs, pool = [], []
    i = 0
    while i < len(entries):
        code, compatible, text, codes = entries[i]
        end = i + 1
        while (
            end < len(entries) and entries[end][0] == code + end - i and entries[end][1] == compatible
            and len(entries[end][3]) == len(codes) == 1 and entries[end][3][0] == codes[0] + end - i < 0x10000
        ):
            end += 1
        if end - i >= 4:
            runs.append((code, end - i, compatible, True, 1, codes[0]))
            i = end
            continue
        end = i + 1
        while (end < len(entries) and entries[end][0] == code + end - i and entries[end][1] == compatible
               and len(entries[end][2]) == len(text)):
            # Leave what makes a linear run of its own.
            ahead = entries[end:end + 4]
            if len(ahead) == 4 and all(len(e[3]) == 1 and e[0] == ahead[0][0] + k and e[3][0] == ahead[0][3][0] + k
                                       for k, e in enumerate(ahead)):
                break
            end += 1
        flat = [u for e in entries[i:end] for u in e[2]]
        offset = find(pool, flat)
        if offset < 0:
            offset = len(pool)
            pool += flat
        runs.append((code, end - i, compatible, False, len(text), offset))
        i = end
    return runs, pool


def find(pool, flat):
    text, wanted = "".join(map(chr, pool)), "".join(map(chr, flat))
    return text.find(wanted)


def composites():
    found = []
    for code in CODES:
        d = decomposition(code)
        if d is None or d[0] or len(d[1]) != 2:
            continue
        if unicodedata.normalize("NFC", chr(code)) != chr(code):
            continue  # excluded from composition
        found.append((d[1], code))
    return [code for _, code in sorted(found)]


def table(declaration, items):
    lines = [f"[[maybe_unused]] constexpr {declaration} = {{"]
    line = "   "
    for item in items:
        item = f" {item},"
        if len(line) + len(item) > 120:
            lines.append(line)
            line = "   "
        line += item
    return "\n".join(lines + [line, "};\n"])


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_OUTPUT
    runs, pool = mappings()
    tables = [
        ("uint32_t kCategories[]", [hex(v) for v in categories()], 4),
        ("CaseRun kLowerCase[]", ["{0x%x, %d, %d, %d}" % run for run in lower_case()], 12),
        ("CombiningRun kCombining[]", ["{0x%x, %d, %d}" % tuple(run) for run in combining()], 8),
        ("MappingRun kMappings[]", ["{0x%x, %d, %d, %d, %d, 0x%x}" % run for run in runs], 8),
        ("char16_t kMappingText[]", [hex(v) for v in pool], 2),
        ("uint32_t kComposites[]", [hex(v) for v in composites()], 4),
    ]
    with open(output, "w", encoding="ascii", newline="\n") as out:
        version = unicodedata.unidata_version
        out.write(f"// Generated by scripts/make_unicode_tables.py from Unicode {version}; do not edit.\n")
        for declaration, items, size in tables:
            out.write(table(declaration, items))
            print(f"{declaration}: {len(items)} entries, {len(items) * size} bytes")


if __name__ == "__main__":
    main()
