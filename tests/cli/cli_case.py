"""What the tests of the command line share: the tool, its exit codes, a compressed model and a text."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/gutenlm-2.6m"
NWC = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/release/bin/nwc").resolve()

EMULATOR = os.environ.get("NWC_EMULATOR", "").split()  # runs the tool where it is another system's

OK, FAILURE, USAGE, BAD_FILE, NO_DEVICE = range(5)


def nwc(*args, env=None, as_is=False, **options):
    """Runs the tool to its end. options: of subprocess.run, instead of what is set here. Unless as_is, compress is told
    --calib none and --effort 1 where they are not given: most tests are about other things, and both take seconds."""
    words = set(map(str, args))
    if args[:1] == ("compress",) and len(args) > 1 and not as_is and "--help" not in words:
        if "--calib" not in words:
            args = (*args, "--calib", "none")
        if not {"-e", "--effort"} & words:
            args = (*args, "--effort", "1")
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True,
               "timeout": 300, **options}
    return subprocess.run([*EMULATOR, NWC, *map(str, args)], env={**os.environ, **(env or {})}, **options)


class CliCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.tmp = pathlib.Path(cls.folder.name)
        cls.file = cls.tmp / "g.nwc"
        done = nwc("compress", MODEL, "--bits", 4, "-o", cls.file, "--json")
        assert done.returncode == OK, done.stderr
        cls.report = json.loads(done.stdout)
        cls.text = cls.tmp / "text.txt"
        cls.text.write_text((ROOT / "models/sample.txt").read_text()[:4000])

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def check(self, code, *args, env=None, **options):
        done = nwc(*args, env=env, **options)
        self.assertEqual(done.returncode, code, f"nwc {' '.join(map(str, args))}\n{done.stdout}\n{done.stderr}")
        return done

    def json(self, *args):
        return json.loads(self.check(OK, *args, "--json").stdout)


def main():
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
