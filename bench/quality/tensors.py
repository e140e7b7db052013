"""Models as files: safetensors in, GGUF candidates out.

A candidate is the reference as an F32 GGUF file (`nwc decompress --format gguf --dtype f32`) with the coded tensors'
data replaced, so that nothing but the weights changes, and so that Hugging Face folders and GGUF references take the
same path.
"""
import json
import mmap
import os
import shutil
import struct

import numpy as np

_DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U8": "u1", "I8": "i1"}


class Safetensors:
    """Read-only view of one file; tensors come as F32 where they are floats."""

    def __init__(self, path):
        self._path = path
        with open(path, "rb") as f:
            size = struct.unpack("<Q", f.read(8))[0]
            self._header = json.loads(f.read(size))
        self._header.pop("__metadata__", None)
        self._data = np.memmap(path, np.uint8, "r", offset=8 + size)

    def __reduce__(self):  # other processes map the file themselves, instead of being sent what it holds
        return Safetensors, (self._path,)

    def names(self):
        return list(self._header)

    def shape(self, name):
        return tuple(self._header[name]["shape"])

    def read(self, name):
        entry = self._header[name]
        lo, hi = entry["data_offsets"]
        raw = self._data[lo:hi]
        if entry["dtype"] == "BF16":
            return (raw.view("<u2").astype("<u4") << 16).view("<f4").reshape(entry["shape"])
        array = raw.view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        return array.astype("f4") if array.dtype.kind == "f" else np.array(array)


def write_safetensors(path, tensors):
    """tensors: name -> array, written as F32."""
    header, offset = {}, 0
    for name, a in tensors.items():
        size = 4 * int(np.prod(a.shape))
        header[name] = {"dtype": "F32", "shape": list(a.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for a in tensors.values():
            f.write(np.ascontiguousarray(a, "<f4").tobytes())


_WHOLE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
          "lm_head.weight": "output.weight"}
_PARTS = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
          "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
          "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def gguf_name(name):
    """Hugging Face's name of a Llama tensor -> GGUF's."""
    if name in _WHOLE:
        return _WHOLE[name]
    _, _, layer, part = name.split(".", 3)
    return f"blk.{layer}.{_PARTS[part.removesuffix('.weight')]}.weight"


def to_rotary_pairs(rows, head_dim):
    """Hugging Face's order of a head's rows (first halves of all pairs, then second halves) -> GGUF's (pair by
    pair)."""
    m, n = rows.shape
    return rows.reshape(m // head_dim, 2, head_dim // 2, n).swapaxes(1, 2).reshape(m, n)


def from_rotary_pairs(rows, head_dim):
    m, n = rows.shape
    return rows.reshape(m // head_dim, head_dim // 2, 2, n).swapaxes(1, 2).reshape(m, n)


class GgufTemplate:
    """An F32 GGUF file whose tensors can be replaced in a copy."""

    def __init__(self, path):
        self.path = path
        self.offsets = {}
        self.metadata = {}
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            self._parse(data)

    def _parse(self, data):
        at = 8
        num_tensors, num_keys = struct.unpack_from("<QQ", data, at)
        at += 16

        def string():
            nonlocal at
            size = struct.unpack_from("<Q", data, at)[0]
            at += 8 + size
            return data[at - size:at].decode("utf-8", "surrogateescape")

        formats = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}

        def value(kind):
            nonlocal at
            if kind == 8:
                return string()
            if kind == 9:
                element, count = struct.unpack_from("<IQ", data, at)
                at += 12
                return [value(element) for _ in range(count)]
            out = struct.unpack_from(formats[kind], data, at)[0]
            at += struct.calcsize(formats[kind])
            return out

        for _ in range(num_keys):
            key = string()
            kind = struct.unpack_from("<I", data, at)[0]
            at += 4
            self.metadata[key] = value(kind)
        for _ in range(num_tensors):
            name = string()
            dims = struct.unpack_from("<I", data, at)[0]
            shape = struct.unpack_from(f"<{dims}Q", data, at + 4)[::-1]
            kind, offset = struct.unpack_from("<IQ", data, at + 4 + 8 * dims)
            at += 16 + 8 * dims
            self.offsets[name] = (kind, offset, shape)
        start = -(-at // 32) * 32
        self.offsets = {name: (kind, start + offset, shape) for name, (kind, offset, shape) in self.offsets.items()}

    @property
    def head_dim(self):
        return self.metadata["llama.attention.key_length"]

    def write(self, path, tensors):
        """A copy at `path` with these tensors, under Hugging Face's names and in its row order."""
        temporary = f"{path}.tmp"
        shutil.copyfile(self.path, temporary)
        with open(temporary, "r+b") as f:
            for name, a in tensors.items():
                kind, offset, shape = self.offsets[gguf_name(name)]
                if kind != 0 or tuple(a.shape) != tuple(shape):
                    raise ValueError(f"{name}: {a.shape} does not fit the template's {shape} of type {kind}")
                if name.endswith(("self_attn.q_proj.weight", "self_attn.k_proj.weight")):
                    a = to_rotary_pairs(a, self.head_dim)
                f.seek(offset)
                f.write(np.ascontiguousarray(a, "<f4").tobytes())
        os.replace(temporary, path)
