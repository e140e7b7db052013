"""`mpirun -n N nwc compress`: the same bytes at any number of ranks as without, also after a rank was killed."""
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
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

    def test_calibrated_with_a_text(self):
        caches = iter(range(9))

        def fresh():
            return ["--calib", self.text, "--calib-tokens", 2048, "--calib-cache", self.work / f"cache{next(caches)}"]

        alone = self.compress(0, *fresh())
        for count in (1, 2, 3):
            self.assertEqual(self.compress(count, *fresh()), alone, f"{count} ranks")
        # More ranks than pieces of the text: some have nothing to do.
        self.assertEqual(self.compress(5, *fresh()), alone)

    def test_a_text_of_its_own(self):
        args = ["--calib", "self", "--calib-tokens", 1024, "--calib-cache"]
        alone = self.compress(0, *args, self.work / "alone")
        self.assertEqual(self.compress(2, *args, self.work / "two"), alone)
        self.assertEqual(self.compress(2, *args, self.work / "alone"), alone)  # the finished calibration is used

    def test_fine_tuned_on_the_first_rank(self):
        for tuned in (["--recovery", "on", "--recovery-tokens", 1024, "--recovery-epochs", 1], ["--drift", "on"]):
            args = ["--calib", self.text, "--calib-tokens", 1024, *tuned, "--distillation", "on", "--calib-cache"]
            self.assertEqual(self.compress(2, *args, self.work / "two"), self.compress(0, *args, self.work / "alone"))

    def test_a_killed_rank_ends_all_and_the_same_command_goes_on(self):
        model = cut_model(self.work / "model", 4)
        cache = self.work / "cache"
        args = ["compress", model, *FAST, "--calib", self.text, "--calib-tokens", 2048, "-t", 1]
        self.check(OK, *args, "--calib-cache", self.work / "alone", "-o", self.work / "alone.nwc")
        out = self.work / "x.nwc"
        command = ranks(2, *args, "--calib-cache", cache, "-o", out)
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not list(cache.glob("*/layer-3.safetensors")):  # the first of four that are written
            self.assertIsNone(run.poll(), "the run was to be interrupted")
            time.sleep(0.001)
        os.kill(self.pid_of_rank(1, run.pid), signal.SIGKILL)
        stderr = run.communicate(timeout=60)[1]
        self.assertNotEqual(run.returncode, OK)
        self.assertIn("signal 9", stderr)
        self.assertFalse(list(cache.glob("*/calibration.json")))
        self.assertFalse(out.exists())
        kept = next(cache.glob("*/layer-3.safetensors"))
        written = kept.stat().st_mtime_ns
        self.run_ranks(3, *args, "--calib-cache", cache, "-o", out)
        self.assertEqual(out.read_bytes(), (self.work / "alone.nwc").read_bytes())
        self.assertEqual(kept.stat().st_mtime_ns, written)
        self.assertFalse(list(cache.glob("*/*.scratch")))

    def pid_of_rank(self, rank, launcher):
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                ours = str(self.work).encode() in (process / "cmdline").read_bytes()
                if ours and f"OMPI_COMM_WORLD_RANK={rank}".encode() in (process / "environ").read_bytes().split(b"\0"):
                    return int(process.name)
            except OSError:
                continue
        self.fail(f"rank {rank} of mpirun {launcher} was not found")

    def test_only_the_first_rank_speaks(self):
        out = self.work / "x.nwc"
        done = self.run_ranks(3, "compress", self.model, "--bits", 3, "-e", 1, "--calib", "none", "-o", out, "-v")
        self.assertEqual(done.stdout.count("bits per coded weight"), 1, done.stdout)
        self.assertEqual(done.stderr.count("nwc: pass 1:"), 1, done.stderr)

    def test_what_is_wrong_is_said_once(self):
        done = self.run_ranks(2, "compress", self.work / "no-such-model", *FAST, "-o", self.work / "x.nwc", code=1)
        self.assertEqual(done.stderr.count("no-such-model"), 1, done.stderr)
        # What only one rank meets is said by that one, with its number.
        args = [*FAST, "--calib", "none", "-o", str(self.work / "x.nwc")]
        second = [":", "-n", "1", str(NWC), "compress", str(self.work / "only-here"), *map(str, args)]
        done = self.run_ranks(1, "compress", self.model, *args, *second, code=1)
        self.assertIn("only-here", done.stderr)
        self.assertIn("(rank 1 of 2, on ", done.stderr)
        self.assertFalse(list(self.work.iterdir()))
        done = self.run_ranks(2, "compress", self.model, "-o", "x.nwc", "--no-such-option", code=USAGE)
        self.assertEqual(done.stderr.count("--no-such-option"), 1, done.stderr)
        done = self.run_ranks(2, "info", self.model, code=USAGE)
        self.assertEqual(done.stderr.count("only nwc compress shares its work"), 1, done.stderr)


if __name__ == "__main__":
    main()
