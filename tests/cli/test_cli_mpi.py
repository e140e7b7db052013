"""`mpirun -n N nwc compress`: the same bytes at any number of ranks as without, also after a rank was killed."""
import hashlib
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from cli_case import MODEL, NWC, OK, ROOT, USAGE, CliCase, main, nwc
from test_cli_calib import cut_model

# Both of Open MPI: ranks may be more than cores, and root may start them.
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n"]
FAST = ["--bits", 3, "-e", 1, "-q"]


def ranks(count, *args):
    return [*MPIRUN, str(count), str(NWC), *map(str, args)]


def why_skipped():
    if shutil.which("mpirun") is None:
        return "mpirun is missing; scripts/setup.sh installs it"
    done = subprocess.run(ranks(1, "--version"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != OK:
        return "mpirun does not start processes here: " + done.stdout
    done = nwc("--version", env={"OMPI_COMM_WORLD_SIZE": "2"})
    return "this build has no MPI (-DNWC_MPI=ON)" if "no MPI" in done.stderr else ""


@unittest.skipIf(SKIPPED := why_skipped(), SKIPPED)
class Mpi(CliCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.tmp = pathlib.Path(cls.folder.name)
        cls.text = cls.tmp / "text.txt"
        cls.text.write_text((ROOT / "models/sample.txt").read_text()[:12000])
        cls.model = cut_model(cls.tmp / "model", 2)

    def setUp(self):
        self.work = self.tmp / self.id().rsplit(".", 1)[-1]
        self.work.mkdir()

    def run_ranks(self, count, *args, code=OK):
        done = subprocess.run(ranks(count, *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)
        self.assertEqual(done.returncode, code, f"{count} ranks, {args}\n{done.stdout}\n{done.stderr}")
        return done

    def compress(self, count, *args):
        """The SHA-256 of the file that so many ranks make; 0: without mpirun."""
        out = self.work / f"{count}.nwc"
        args = ["compress", self.model, *FAST, *args, "-o", out]
        if count == 0:
            self.check(OK, *args)
        else:
            self.run_ranks(count, *args)
        return hashlib.sha256(out.read_bytes()).hexdigest()

    def check_same(self, *args, counts=(1, 2, 3)):
        alone = self.compress(0, *args)
        for count in counts:
            self.assertEqual(self.compress(count, *args), alone, f"{count} ranks")

    def test_without_a_calibration(self):
        self.check_same("--calib", "none")

    def test_only_the_first_rank_speaks(self):
        out = self.work / "x.nwc"
        done = self.run_ranks(3, "compress", self.model, "--bits", 3, "-e", 1, "--calib", "none", "-o", out, "-v")
        self.assertEqual(done.stdout.count("bits per coded weight"), 1, done.stdout)
        self.assertEqual(done.stderr.count("nwc: pass 1:"), 1, done.stderr)

    def test_what_is_wrong_is_said_once(self):
        done = self.run_ranks(2, "compress", self.work / "no-such-model", *FAST, "-o", self.work / "x.nwc", code=1)
        self.assertEqual(done.stderr.count("no-such-model"), 1, done.stderr)
        done = self.run_ranks(2, "compress", self.model, "-o", "x.nwc", "--no-such-option", code=USAGE)
        self.assertEqual(done.stderr.count("--no-such-option"), 1, done.stderr)
        done = self.run_ranks(2, "info", self.model, code=USAGE)
        self.assertEqual(done.stderr.count("only nwc compress shares its work"), 1, done.stderr)


if __name__ == "__main__":
    main()
