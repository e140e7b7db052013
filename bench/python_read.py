#!/usr/bin/env python3
"""Reading a tensor from Python against the C call, in one process and by turns: medians, and ratios within a round.
Needs the installed package (pip install ./python). Usage: bench/python_read.py [--rounds N] [--threads N]

The tensor is as large as an MLP matrix of Llama 3.2 1B, 8,192 by 2,048 random weights at 4 bits. The C call is
nwc_decoder_decode_tensor of the same library by ctypes. Both are measured into memory that has been used before (out=), and
into new memory (malloc and free in C), which the system gives page by page at the first writing.
"""
import argparse
import ctypes
import pathlib
import statistics
import tempfile
import time

import numpy

import nwc

try:
    import torch
except ImportError:
    torch = None

NUMBERS = {"f32": 0, "f16": 1, "bf16": 2}


class Library:
    """The C API, with one model and one decoder."""

    def __init__(self, path, threads):
        folder = pathlib.Path(nwc.__file__).parent / "install/lib"
        self.lib = ctypes.CDLL(str(next(folder.glob("libnwc.so*"))))
        self.model, self.decoder = ctypes.c_void_p(), ctypes.c_void_p()
        self.check(self.lib.nwc_model_open_path(str(path).encode(), None, ctypes.byref(self.model)))
        # nwc_decoder_params: struct_size, backend (CPU), device_index, num_threads; the rest is 0, the default
        params = (ctypes.c_uint32 * 16)(64, 1, 0, threads)
        self.check(self.lib.nwc_decoder_create(self.model, ctypes.byref(params), None, ctypes.byref(self.decoder)))

    @staticmethod
    def check(status):
        if status != 0:
            raise RuntimeError(f"status {status}")

    def decode(self, dtype, address, size_bytes):
        self.check(self.lib.nwc_decoder_decode_tensor(self.decoder, ctypes.c_uint32(0), ctypes.c_uint32(NUMBERS[dtype]), None, None,
                                                      ctypes.c_void_p(address), ctypes.c_size_t(size_bytes)))

    def decode_new(self, dtype, size_bytes):
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        address = libc.malloc(ctypes.c_size_t(size_bytes))
        self.decode(dtype, address, size_bytes)
        libc.free(ctypes.c_void_p(address))


def timed(call):
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shape", type=int, nargs=2, default=(8192, 2048))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tensor.nwc"
        weights = numpy.random.default_rng(1).standard_normal(args.shape).astype(numpy.float32)
        nwc.compress({"weight": weights}, path, bits=4, calib="none", effort=1)
        c = Library(path, args.threads)
        with nwc.open(path, threads=args.threads) as model:
            tensor = model["weight"]
            print(f"{args.shape[0]} x {args.shape[1]} at {tensor.bits_per_weight:.2f} bits per weight, {args.threads} threads, "
                  f"medians of {args.rounds} rounds")
            print(f"{'type':5} {'call':22} {'ms':>8} {'of the C call like it':>22}")
            for dtype in ("f32", "f16", "bf16"):
                used = tensor.to_numpy(dtype)
                calls = {"C": lambda: c.decode(dtype, used.ctypes.data, used.nbytes),
                         "C, new memory": lambda: c.decode_new(dtype, used.nbytes),
                         "to_numpy(out=)": lambda: tensor.to_numpy(dtype, out=used),
                         "to_numpy": lambda: tensor.to_numpy(dtype)}
                if torch is not None:
                    space = tensor.to_torch(dtype)
                    calls["to_torch(out=)"] = lambda: tensor.to_torch(out=space)
                    calls["to_torch"] = lambda: tensor.to_torch(dtype)
                times = {name: [] for name in calls}
                for turn in range(args.rounds + 1):
                    for name, call in calls.items():
                        taken = timed(call)
                        if turn > 0:
                            times[name].append(taken)
                for name, taken in times.items():
                    reference = times["C" if name in ("C", "C, new memory") or "out=" in name else "C, new memory"]
                    ratio = statistics.median(a / b for a, b in zip(taken, reference))
                    print(f"{dtype:5} {name:22} {1e3 * statistics.median(taken):8.1f} {ratio:22.3f}")


if __name__ == "__main__":
    main()
