"""llama.cpp's own quantizer through llama-cpp-python, fed with the GGUF that `nwc decompress --format gguf` writes.

Its bytes are those of the quantized tensors; norms and the rest count as nwc stores them, like for every rival. Its
k-quants need rows of a multiple of 256 weights and fall back to 32-weight types elsewhere, by llama.cpp's own rules."""
import ctypes
import json
import os

import numpy as np

import tensors

NAME = "llama.cpp"


def _load():
    import llama_cpp
    callback = llama_cpp.llama_log_callback(lambda level, text, user: None)
    llama_cpp.llama_log_set(callback, None)
    llama_cpp.kept_log_callback = callback  # ctypes does not keep it alive
    return llama_cpp


def importance_matrix(llama_cpp, space):
    """E[x^2] of every tensor's inputs, from the same calibration as all others have; also what must stay alive."""
    entries, alive = [], []
    for name in space.coded:
        hessian = space.calibration.hessian(name)
        if hessian is None:
            continue
        values = np.ascontiguousarray(np.diag(hessian), "f4")
        if name == "model.embed_tokens.weight":  # the tied head's inputs
            names = ("token_embd.weight", "output.weight")
        else:
            names = (tensors.gguf_name(name),)
        for gguf in names:
            encoded = gguf.encode()
            entries.append(llama_cpp.llama_model_imatrix_data(
                name=encoded, data=values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), size=values.size))
            alive += [values, encoded]
    entries.append(llama_cpp.llama_model_imatrix_data(name=None, data=None, size=0))
    return (llama_cpp.llama_model_imatrix_data * len(entries))(*entries), alive


def quantize(space, kind, matrix, path):
    """False where llama.cpp refuses (types that need an importance matrix)."""
    llama_cpp = _load()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = os.cpu_count() or 1
    alive = None
    if matrix:
        alive = importance_matrix(llama_cpp, space)
        params.imatrix = ctypes.cast(alive[0], type(params.imatrix))
    done = llama_cpp.llama_model_quantize(str(space.template).encode(), str(path).encode(), ctypes.byref(params))
    del alive
    return done == 0


def _stored(space, path):
    """Bits of the coded tensors, their types, and the tensors themselves dequantized by gguf."""
    import gguf
    reader = gguf.GGUFReader(path)
    by_name = {t.name: t for t in reader.tensors}
    bits = 8 * sum(int(by_name[tensors.gguf_name(n)].n_bytes) for n in space.coded)
    kinds = {}
    for name in space.coded:
        t = by_name[tensors.gguf_name(name)]
        kinds[t.tensor_type.name] = kinds.get(t.tensor_type.name, 0) + int(t.n_elements)
    head_dim = tensors.GgufTemplate(space.template).head_dim

    def decoded():
        out = {}
        for name in space.coded:
            t = by_name[tensors.gguf_name(name)]
            a = gguf.dequantize(t.data, t.tensor_type).reshape(space.reference.shape(name))
            rotary = name.endswith(("self_attn.q_proj.weight", "self_attn.k_proj.weight"))
            out[name] = tensors.from_rotary_pairs(a, head_dim) if rotary else a
        return out

    return bits, kinds, decoded


def row(space, kind, matrix):
    """One type's result, cached; None where llama.cpp refuses it or is not installed."""
    try:
        import gguf  # noqa: F401
        import llama_cpp
    except ImportError as error:
        print(f"no rows of llama.cpp: {error} (pip install llama-cpp-python gguf)")
        return None
    version = f"{llama_cpp.__version__} {space.model.tokens} {space.calibration.hash if matrix else ''}"
    folder = space.folder / "llama.cpp"
    folder.mkdir(exist_ok=True)
    cache = folder / f"{kind}{'-imatrix' if matrix else ''}.json"
    if cache.exists():
        result = json.loads(cache.read_text())
        if result["version"] == version:
            return result if "kld_mean" in result else None
    path = cache.with_suffix(".gguf")
    result = {"version": version, "setting": kind}
    if quantize(space, kind, matrix, path):
        bits, kinds, decoded = _stored(space, path)
        result.update(bpw=space.bpw_file(bits), bpw_coded=bits / space.coded_weights,
                      bpw_own_file=8 * path.stat().st_size / space.weights, types=kinds)
        weights = decoded()
        result["mse"] = float(np.mean([((weights[n] - w) ** 2).mean() / (w ** 2).mean()
                                       for n in space.coded for w in [space.reference.read(n)]]))
        result.update(space.evaluate_tensors(weights))
    path.unlink(missing_ok=True)
    cache.write_text(json.dumps(result, indent=1))
    return result if "kld_mean" in result else None
