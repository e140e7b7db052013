"""python/docs/tutorial.md, word for word, in an empty folder. What needs torch or transformers is passed over without them."""
import doctest
import importlib.util
import io
import os
import re
import tempfile
import unittest

from support import ROOT

TEXT = ROOT / "python/docs/tutorial.md"


def examples(available):
    """The tutorial with its prose and what cannot run made empty lines, and what was left out."""
    lines, skipped, inside = [], set(), False
    for line in TEXT.read_text(encoding="utf-8").splitlines():
        fence = re.fullmatch(r"```(python)?( \w+)?", line)
        if fence:
            inside = fence[1] is not None
            needed = (fence[2] or "").strip()
            if inside and needed and not available(needed):
                skipped.add(needed)
                inside = False
            lines.append("")
        else:
            lines.append(line if inside else "")
    return "\n".join(lines) + "\n", skipped


class Tutorial(unittest.TestCase):
    def test_runs(self):
        text, skipped = examples(lambda name: importlib.util.find_spec(name) is not None)
        test = doctest.DocTestParser().get_doctest(text, {}, "tutorial.md", str(TEXT), 0)
        self.assertGreater(len(test.examples), 50)
        said = io.StringIO()
        before = os.getcwd()
        with tempfile.TemporaryDirectory(prefix="nwc-tutorial-") as folder:
            os.chdir(folder)
            try:
                flags = doctest.NORMALIZE_WHITESPACE
                result = doctest.DocTestRunner(optionflags=flags).run(test, out=said.write)
            finally:
                os.chdir(before)
        self.assertEqual(result.failed, 0, said.getvalue())
        if skipped:
            print(f"tutorial: passed over what needs {' and '.join(sorted(skipped))}, which are not installed")


if __name__ == "__main__":
    unittest.main()
