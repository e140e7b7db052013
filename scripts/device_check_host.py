"""What device_check_run.py needs of the machine it runs on: programs with a time limit, the libraries that are missing
there, the places where a GPU's driver may be."""
import glob
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

DRIVER_FOLDERS = ["/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib64",
                  "/usr/lib", "/usr/lib/wsl/lib"]
NVIDIA_LIBRARIES = ["libGLX_nvidia.so.0", "libEGL_nvidia.so.0"]


class Outcome:
    """What a program came to: exit code (None: it was stopped), seconds, output."""

    def __init__(self, code, seconds, out, err):
        self.code, self.seconds, self.out, self.err = code, seconds, out, err

    @property
    def text(self):
        return {None: "timed out", 0: "ok"}.get(self.code, f"failed ({self.code})")


def end_process(process):
    """Asks its whole group to end, then ends it; one that hangs in the driver even so is left behind."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
            process.wait(5)
            return
        except (subprocess.TimeoutExpired, ProcessLookupError):
            pass


def run_program(command, env, limit):
    """Runs it in a process group of its own for at most `limit` seconds."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen([str(c) for c in command], env=env, stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=err, preexec_fn=os.setpgrp)
        try:
            code = process.wait(max(1.0, limit))
        except subprocess.TimeoutExpired:
            code = None
        except BaseException:
            end_process(process)
            raise
        # This ends what it has started and left, too.
        end_process(process)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return Outcome(code, time.monotonic() - start, *texts)


def find_library(name):
    """Where a driver's library lies, or None."""
    return next((f"{folder}/{name}" for folder in DRIVER_FOLDERS if os.path.exists(f"{folder}/{name}")), None)


class Libraries:
    """Which of the packed libraries this machine lacks, as links in a folder of their own."""

    def __init__(self, folder, work):
        self.chosen = pathlib.Path(work) / "lib"
        self.chosen.mkdir()
        listed = subprocess.run(["sh", "-c", "ldconfig -p || /sbin/ldconfig -p"], capture_output=True, text=True).stdout
        own = {line.split()[0] for line in listed.splitlines() if "=>" in line}
        packed = sorted((folder / "lib-system").iterdir())
        self.taken = []
        self.path = [str(folder / "lib"), str(self.chosen)]
        self.path += [f for f in DRIVER_FOLDERS[:2] if os.path.isdir(f)]
        self.path += [p for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if p]
        self.take([library for library in packed if library.name not in own])
        # Libraries of the machine's that are too old for the programs give way, too.
        found = subprocess.run(["ldd", *map(str, (folder / "bin").iterdir())], capture_output=True, text=True,
                               env=dict(os.environ, LD_LIBRARY_PATH=self.search_path()))
        if "not found" in found.stdout + found.stderr:
            self.take([lib for lib in packed if lib.name.startswith(("libstdc++", "libgcc_s", "libz.", "libfmt"))])

    def take(self, libraries):
        for library in libraries:
            if library.name not in self.taken:
                (self.chosen / library.name).symlink_to(library)
                self.taken.append(library.name)

    def search_path(self):
        return ":".join(self.path)


def driver_candidates(work):
    """Environments in which the loader may find a GPU's driver, with names: as it is, then one driver's file each."""
    yield "as the system has it", {}
    files = []
    for folder in ("/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d",
                   "/usr/local/etc/vulkan/icd.d", "/usr/local/nvidia/**", "/opt/nvidia/**", "/opt/amdgpu/**"):
        files += glob.glob(f"{folder}/*icd*.json", recursive=True)
    for path in sorted(set(files), key=lambda p: ("nvidia" not in p, p)):
        if not any(software in path for software in ("lvp", "swrast")):
            yield path, {"VK_DRIVER_FILES": path, "VK_ICD_FILENAMES": path}
    for name in NVIDIA_LIBRARIES:  # a driver whose file is missing
        library = find_library(name)
        if library is not None:
            path = f"{work}/{name}.json"
            icd = {"library_path": library, "api_version": "1.3.0"}
            pathlib.Path(path).write_text(json.dumps({"file_format_version": "1.0.0", "ICD": icd}))
            yield f"a file made here for {library}", {"VK_DRIVER_FILES": path, "VK_ICD_FILENAMES": path}


def machine_line():
    name = "unknown processor"
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return f"{name}, Linux {os.uname().release}"
