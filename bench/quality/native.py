"""Compiles native.c at first use (any C compiler as $CC or cc) and calls it from several threads."""
import concurrent.futures
import ctypes
import functools
import hashlib
import os
import pathlib
import subprocess

import numpy as np

SOURCE = pathlib.Path(__file__).with_name("native.c")
FOLDER = pathlib.Path(__file__).resolve().parents[2] / "build/bench/quality"
threads = os.cpu_count() or 1


@functools.lru_cache(maxsize=None)
def _library():
    compiler = [os.environ.get("CC", "cc"), "-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"]
    tag = hashlib.sha256(SOURCE.read_bytes() + " ".join(compiler).encode()).hexdigest()[:12]
    path = FOLDER / f"native-{tag}.so"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        temporary = f"{path}.{os.getpid()}"
        subprocess.run([*compiler, "-o", temporary, SOURCE, "-lm"], check=True)
        os.replace(temporary, path)
    return ctypes.CDLL(str(path))


def _pointer(a):
    return a.ctypes.data_as(ctypes.c_void_p)


def _in_parts(count, work):
    """work(begin, end) over 0 .. count in some parts per thread; the library releases the interpreter's lock."""
    _library()  # compiled once, before there are several threads
    edges = np.linspace(0, count, min(count, 4 * threads) + 1).astype(int)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, edges[:-1], edges[1:]))


def trellis_search(x, state_bits, shift, values):
    """x [count][steps * V]; values [V][2^state_bits]. Returns the states [count][steps] of tail-biting paths."""
    x, values = np.ascontiguousarray(x, "f4"), np.ascontiguousarray(values, "f4")
    v = len(values)
    steps = x.shape[1] // v
    states = np.empty((len(x), steps), "u4")

    def work(a, b):
        return _library().trellis_search(_pointer(x[a:b]), ctypes.c_int64(b - a), steps, state_bits, shift, v,
                                         _pointer(values), _pointer(states[a:b]))

    if any(_in_parts(len(x), work)):
        raise MemoryError("trellis search")
    return states


def e8p_nearest(x, entries, odd):
    """x [count][8] -> the nearest codewords; entries [256][8] of absolute values, odd [256]: parity of their minus
    signs."""
    x, entries = np.ascontiguousarray(x, "f4"), np.ascontiguousarray(entries.T, "f4")
    odd = np.ascontiguousarray(odd, "u1")
    out = np.empty_like(x)
    _in_parts(len(x), lambda a, b: _library().e8p_nearest(_pointer(x[a:b]), ctypes.c_int64(b - a), _pointer(entries),
                                                          _pointer(odd), _pointer(out[a:b])))
    return out


def largest_projections(x, bases, parts):
    """x [count][C]; bases [num][C][P] with orthonormal columns. For each block and each of `parts` equal parts of the
    bases the index of the base with the largest projection: [count][parts]."""
    x = np.ascontiguousarray(x, "f4")
    num, c, p = bases.shape
    flat = np.ascontiguousarray(bases.transpose(2, 1, 0), "f4")
    out = np.empty((len(x), parts), "i4")
    _in_parts(len(x), lambda a, b: _library().largest_projections(
        _pointer(x[a:b]), ctypes.c_int64(b - a), c, p, ctypes.c_int64(num), parts, _pointer(flat), _pointer(out[a:b])))
    return out


def fit_grids(x, bits, symmetric, shrink, importance=None):
    """x [m][g] -> scale, zero [m][1]: see grids.fit."""
    x, shrink = np.ascontiguousarray(x, "f4"), np.ascontiguousarray(shrink, "f4")
    importance = None if importance is None else np.ascontiguousarray(importance, "f4")
    scale, zero = np.empty((len(x), 1), "f4"), np.empty((len(x), 1), "f4")
    _in_parts(len(x), lambda a, b: _library().fit_grids(
        _pointer(x[a:b]), ctypes.c_int64(b - a), x.shape[1], bits, int(symmetric), _pointer(shrink), len(shrink),
        None if importance is None else _pointer(importance), _pointer(scale[a:b]), _pointer(zero[a:b])))
    return scale, zero
