#!/usr/bin/env python3
"""nvCOMP's ANS decoder on the values that nwc's rANS decoder is measured with, one byte each.

Takes the bytes from `nwc-bench decode --symbols`, compresses them with nvCOMP in device memory, decodes them there,
compares, and prints one record as `nwc-bench decode --json` does: a weight is a byte. Needs an NVIDIA device and the
Python package nvidia-nvcomp (nvidia-nvcomp-cu12 or -cu13); without either it says so on stderr, prints [] and ends with
0.

Usage: nvcomp_ans.py NWC_BENCH [--bits 4] [--repeat 5]
"""
import argparse
import ctypes
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

BATCH = 8  # arrays that one call decodes, so that starting it does not count


class Cuda:
    """What of the driver's interface it takes to time work on a stream."""

    def __init__(self):
        self.lib = ctypes.CDLL("libcuda.so.1")
        device, self.context, self.stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        name = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", name, 256, device)
        self.name = name.value.decode()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), device)
        self.call("cuCtxSetCurrent", self.context)
        self.call("cuStreamCreate", ctypes.byref(self.stream), 1)
        self.events = [ctypes.c_void_p(), ctypes.c_void_p()]
        for event in self.events:
            self.call("cuEventCreate", ctypes.byref(event), 0)

    def call(self, function, *args):
        code = getattr(self.lib, function)(*args)
        if code != 0:
            raise OSError(f"{function}: CUDA error {code}")

    def seconds(self, work):
        self.call("cuEventRecord", self.events[0], self.stream)
        result = work()
        self.call("cuEventRecord", self.events[1], self.stream)
        self.call("cuStreamSynchronize", self.stream)
        milliseconds = ctypes.c_float()
        self.call("cuEventElapsedTime", ctypes.byref(milliseconds), *self.events)
        return 1e-3 * milliseconds.value, result

    def copy_seconds(self, size):
        """Of copying `size` bytes from device memory to device memory."""
        buffers = [ctypes.c_uint64(), ctypes.c_uint64()]
        for buffer in buffers:
            self.call("cuMemAlloc_v2", ctypes.byref(buffer), ctypes.c_size_t(size))
        copy = lambda: self.call("cuMemcpyDtoDAsync_v2", buffers[1], buffers[0], ctypes.c_size_t(size), self.stream)
        self.seconds(copy)
        found = statistics.median(self.seconds(copy)[0] for _ in range(5))
        for buffer in buffers:
            self.call("cuMemFree_v2", buffer)
        return found


def measure(values, bits, repeat, cuda, nvcomp):
    import numpy as np
    codec = nvcomp.Codec(algorithm="ANS", cuda_stream=cuda.stream.value)
    compressed = codec.encode(nvcomp.as_array(values).cuda())
    size = compressed.buffer_size
    # Before version 6 a list was a batch.
    batch = [compressed] * BATCH
    if hasattr(nvcomp, "as_arrays"):
        batch = nvcomp.as_arrays(batch)
    decode = lambda: codec.decode(batch)
    decoded = cuda.seconds(decode)[1]
    if not np.array_equal(np.asarray(decoded[0].cpu()).view(np.uint8).ravel(), values):
        sys.exit("nvCOMP gives other bytes back than it was given")
    del decoded
    times, ratios = [], []
    for _ in range(repeat):
        copy = cuda.copy_seconds(2 * values.size)  # as f16, like the other records
        times.append(cuda.seconds(decode)[0] / BATCH)
        ratios.append(times[-1] / copy)
    median = statistics.median(times)
    return {"name": f"nvCOMP {nvcomp.__version__} ANS, bytes in device memory", "preset": "", "quantizer": "scalar",
            "bpw": 8 * size / values.size, "backend": "cuda", "device": cuda.name, "threads": 1,
            "weights": int(values.size),
            "seconds_median": median, "seconds_min": min(times), "gweights_per_s": 1e-9 * values.size / median,
            "ratio_memcpy": statistics.median(ratios), "bits": bits}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nwc_bench")
    parser.add_argument("--bits", type=float, nargs="+", default=[4])
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    try:
        import numpy as np
        from nvidia import nvcomp
        cuda = Cuda()
    except (ImportError, OSError) as error:
        print(f"nvCOMP left out: {error}", file=sys.stderr)
        print("[]")
        return
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for bits in options.bits:
            path = pathlib.Path(folder) / "values"
            subprocess.run([options.nwc_bench, "decode", "--bits", str(bits), "--symbols", path], check=True,
                           stdout=sys.stderr)
            records.append(measure(np.fromfile(path, np.uint8), bits, options.repeat, cuda, nvcomp))
    print(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
