"""The analysis network g_a of a codec file (doc/format_codec.md), in numpy."""
import struct
import zlib

import numpy as np

CODEC, ANALYSIS = 1, 16


class Codec:
    def __init__(self, path):
        with open(path, "rb") as f:
            data = f.read()
        count = struct.unpack_from("<I", data, 24)[0]
        sections = {}
        for i in range(count):
            kind, flags, offset, stored, _ = struct.unpack_from("<IIQQQ", data, 64 + 48 * i)
            raw = data[offset:offset + stored]
            sections[kind] = zlib.decompress(raw) if flags & 1 else raw
        codec = sections[CODEC]
        self.levels = codec[14]
        self.step = np.frombuffer(codec, "<f4", self.levels, 32)
        self.rate = np.frombuffer(codec, "<f4", self.levels, 32 + 8 * self.levels)
        self._parse(sections[ANALYSIS])

    def _parse(self, data):
        self.width, self.blocks, self.activation, self.layer_norm = struct.unpack_from("<HBBB", data, 4)
        numbers = np.frombuffer(data, "<f4", offset=12 + 4 * self.levels)
        w, at = self.width, 0

        def take(*shape):
            nonlocal at
            size = int(np.prod(shape))
            at += size
            return numbers[at - size:at].reshape(shape)

        if w == 0:
            self.skip = take(16, 16)
            self.parameters = at
            return
        self.enter, self.enter_bias = take(w, 16), take(w)
        self.layers = [(take(w, w), take(w), *((take(w), take(w)) if self.layer_norm else ()))
                       for _ in range(self.blocks)]
        self.leave, self.leave_bias, self.skip = take(16, w), take(16), take(16, 16)
        self.embedding = take(self.blocks, self.levels, w)
        self.parameters = at  # of g_a, and of g_s, its mirror

    def analyse(self, chunks, level):
        """chunks [count][16] of normalised weights -> latents [count][16], before division by the step."""
        y = chunks @ self.skip.T
        if self.width == 0:
            return y
        h = chunks @ self.enter.T + self.enter_bias
        for b, (v, bias, *norm) in enumerate(self.layers):
            u = h @ v.T + bias
            if norm:
                u = (u - u.mean(1, keepdims=True)) / np.sqrt(u.var(1, keepdims=True) + 1e-5) * norm[0] + norm[1]
            u = np.maximum(u, 0) if self.activation == 1 else u / (1 + np.exp(-u))
            h = (h + u) * self.embedding[b, level]
        return y + h @ self.leave.T + self.leave_bias
