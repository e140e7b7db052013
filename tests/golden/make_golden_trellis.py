#!/usr/bin/env python3
"""make_golden_trellis.py: writes good/<name>-v1.1.nwc, -v1.2.nwc and -v1.6.nwc and the .txt beside each. Written from
doc/format.md alone, sharing nothing with the C++ programs: the integers in the .txt are those that were encoded. Run
once and committed; files that exist are left alone."""
import pathlib
import math
import random
import struct
import zlib

FOLDER = pathlib.Path(__file__).parent / "good"
TRELLISES = {2: (2, 1), 3: (5, 2), 4: (9, 2), 5: (18, 4), 6: (33, 10), 8: (166, 121), 10: (794, 487), 12: (3166, 1367)}
LEVELS, TABLES = 3, 7


def sign(x):
    return (x > 0) - (x < 0)


def as_i16(x):
    return (x + 32768) % 65536 - 32768


class Table:
    """Section 4, item 6. slot[s][rank] inverts the lookup of section 5.4."""

    def __init__(self, raw_bits, minimum, freq):
        self.raw_bits, self.min, self.freq = raw_bits, minimum, freq
        self.escape = len(freq) - 1
        cutoff = freq + [0] * (128 - len(freq))
        alias, offset, under, over = list(range(128)), [0] * 128, [], []
        for i, c in enumerate(cutoff):
            if c < 32:
                under.append(i)
            elif c > 32:
                over.append(i)
        while over:
            o, u = over.pop(), under.pop()
            cutoff[o] -= 32 - cutoff[u]
            alias[u], offset[u] = o, cutoff[o]
            if cutoff[o] < 32:
                under.append(o)
            elif cutoff[o] > 32:
                over.append(o)
        self.slot = [[None] * f for f in freq]
        for slot in range(4096):
            i, p = divmod(slot, 32)
            if p < cutoff[i]:
                self.slot[i][p] = slot
            else:
                self.slot[alias[i]][offset[i] + p - cutoff[i]] = slot

    def symbol(self, k):
        s = (k >> self.raw_bits) - self.min
        return s if 0 <= s < self.escape else self.escape

    def random_value(self, rng):
        s = rng.choices(range(len(self.freq)), self.freq)[0]
        if s == self.escape:
            return rng.randrange(-32768, 32768)
        return ((s + self.min) << self.raw_bits) + rng.randrange(1 << self.raw_bits)

    def bytes(self):
        head = struct.pack("<BBhH", self.raw_bits, 0, self.min, len(self.freq))
        return head + struct.pack(f"<{len(self.freq)}H", *(f - 1 for f in self.freq))


def random_table(rng, raw_bits):
    n = rng.choice([1, 2, 20, 45, 128])
    weight = [rng.expovariate(1) ** 2 for _ in range(n)]
    freq = [1 + int(w / sum(weight) * (4096 - n)) for w in weight]
    freq[0] += 4096 - sum(freq)
    return Table(raw_bits, -(n // 2), freq)


class Codec:
    def __init__(self, rng, v, by_class):
        self.v, self.by_class, self.banks = v, by_class, 1 if v == 0 else 2
        self.tables = [random_table(rng, rng.choice([0, 0, 3, 7]) if v != 3 else 0) for _ in range(TABLES)]
        self.map = [rng.randrange(TABLES) for _ in range(LEVELS * 16 * self.banks)]
        self.numbers = [0.5, 0.25, 0.125, 0.0, 0.125, 0.0, 2.0, 3.0, 4.0] + [rng.uniform(-1, 1) for _ in range(256)]

    def table(self, level, second, bank):
        return self.tables[self.map[(level * 16 + second) * self.banks + bank]]

    def bytes(self, codec_id=0):
        quantizer = 0 if self.v == 0 else 1
        out = struct.pack("<I4BH6BQHB5x", 1, 16, 0, quantizer, self.v, 0, 0, 0, 0, 0, LEVELS, self.banks, codec_id,
                          TABLES, self.by_class)
        out += struct.pack(f"<{len(self.numbers)}f", *self.numbers) + struct.pack(f"<{len(self.map)}H", *self.map)
        return out + b"".join(t.bytes() for t in self.tables)

    def section(self):
        fnv = 0xCBF29CE484222325
        for b in self.bytes():
            fnv = (fnv ^ b) * 0x100000001B3 % 2**64
        return self.bytes(fnv)


def encode_tile(lanes, rows, width, table_and_value, free_states=False):
    """Section 5.3 backwards: table_and_value(row, column) of the tile."""
    start = [0 if free_states else 1 << 16] * lanes
    while True:
        payload, at_first_word = encode_from(start, rows, width, table_and_value)
        low = [lane for lane in range(lanes) if at_first_word and at_first_word[lane] < 1 << 16]
        if not low:
            return payload
        for lane in low:
            start[lane] = min(1 << 16, start[lane] + start[lane] // 2 + 1)


def encode_from(start, rows, width, table_and_value):
    """The payload, and the states when the first word, a decoder's last, comes."""
    state, words, at_first_word = list(start), [], []

    def push(word):
        if not words:
            at_first_word.extend(state)
        words.append(word & 0xFFFF)

    def shed(lane):
        push(state[lane])
        state[lane] >>= 16

    for block in reversed(range(rows // 16)):
        for j in reversed(range(-(-width // 32))):
            for channel in reversed(range(16)):
                step = [table_and_value(16 * block + channel, 32 * j + lane) for lane in range(min(32, width - 32 * j))]
                step = [(lane, t, k, t.symbol(k)) for lane, (t, k) in enumerate(step)][::-1]
                for _, t, k, s in step:
                    if s == t.escape:
                        push(k)
                for lane, t, k, s in step:
                    if t.raw_bits and s != t.escape:
                        if state[lane] << t.raw_bits >= 1 << 32:
                            shed(lane)
                        state[lane] = state[lane] << t.raw_bits | k & (1 << t.raw_bits) - 1
                for lane, t, _, s in step:
                    if state[lane] >= t.freq[s] << 20:
                        shed(lane)
                    q, rank = divmod(state[lane], t.freq[s])
                    state[lane] = q << 12 | t.slot[s][rank]
    return struct.pack(f"<{len(state)}I", *state) + struct.pack(f"<{len(words)}H", *words[::-1]), at_first_word


def coded_tensor(rng, codec, name, m, n, tile_rows, tile_cols, row_scales, row_classes, shape=None, split=1,
                 free_states=False):
    """The record without offset and group, its blob, and the indices [row block][column][16]. The first `split`
    dimensions of `shape` make the m rows, the others the n columns."""
    shape = shape or (m, n)
    assert math.prod(shape[:split]) == m and math.prod(shape[split:]) == n
    level = [rng.randrange(LEVELS) for _ in range(n)]
    side = bytes(level) + bytes(rng.randrange(0, 60) for _ in range(n))
    if row_scales:
        side += bytes(rng.randrange(1, 20) for _ in range(m))
    row_class = [rng.randrange(16) for _ in range(m)] if row_classes else [0] * m
    if row_classes:
        side += bytes(row_class)
    padded = -(-m // 16) * 16
    row_class += [0] * (padded - m)
    a, b = TRELLISES.get(codec.v, (0, 0))
    cells = [[None] * n for _ in range(padded)]
    index = [[0] * n for _ in range(padded)]
    for column in range(n):
        for row in range(padded):
            if row % tile_rows == 0:
                state = 0
            bank = state & 1
            table = codec.table(level[column], row_class[row] if codec.by_class else row % 16, bank)
            k = table.random_value(rng)
            cells[row][column] = (table, k)
            index[row][column] = k
            if codec.v:
                index[row][column] = as_i16(2 * k - bank * sign(k))
                state = state >> 1 ^ (a if state & 1 else 0) ^ (b if k & 1 else 0)
    payloads = []
    for row in range(0, m, tile_rows):
        for column in range(0, n, tile_cols):
            rows, width = min(tile_rows, padded - row), min(tile_cols, n - column)
            payloads.append(encode_tile(min(32, width), rows, width, lambda r, c: cells[row + r][column + c],
                                        free_states))
    side = zlib.compress(side)
    directory = b"".join(struct.pack("<II", len(p), zlib.crc32(p)) for p in payloads)
    blob = side + directory + b"".join(payloads)
    tail = struct.pack("<IIHHff", zlib.crc32(side + directory), len(side), tile_rows, tile_cols, 0.01, 0.5
                       if row_scales else 0)
    flags = row_scales + 2 * row_classes + 4 * (split - 1) + 32 * free_states
    values = [index[16 * block + i][column] for block in range(padded // 16) for column in range(n) for i in range(16)]
    return (name, struct.pack("<4B", 2, 1, len(shape), flags), struct.pack(f"<{len(shape)}Q", *shape),
            tail), blob, struct.pack(f"<{len(values)}h", *values)


U8 = 5
BITS = {0: 32, 1: 16, 2: 16, 3: 64, 4: 8, 5: 8, 6: 16, 7: 16, 8: 32, 9: 32, 10: 64, 11: 64, 12: 8, 13: 8, 14: 8, 15: 8,
        16: 8, 17: 8,
        18: 4, 19: 6, 20: 6, 21: 64}  # of an element of each type (section 6)


def raw_tensor(name, data, dtype=U8, shape=None):
    shape = (len(data),) if shape is None else shape
    assert math.prod(shape) * BITS[dtype] == 8 * len(data)
    head = struct.pack("<4B", 0, dtype, len(shape), 0)
    return (name, head, struct.pack(f"<{len(shape)}Q", *shape), struct.pack("<IIHHff", zlib.crc32(data), 0, 0, 0, 0,
                                                                            0)), data, data


def text(t):
    return struct.pack("<H", len(t)) + t.encode()


DEFLATED, MAY_BE_IGNORED = 1, 2


def container(sections, minor):
    """Sections 2 and 3 of the document."""
    offset, table, body = 64 + 48 * len(sections), b"", b""
    for kind, data, flags in sections:
        stored = zlib.compress(data) if flags & DEFLATED else data
        crc = 0 if kind == 7 else zlib.crc32(stored)
        table += struct.pack("<IIQQQI12x", kind, flags, offset + len(body), len(stored), len(data), crc)
        body += stored
    size = offset + len(body)
    head = struct.pack("<8sHHIQII28x", b"\x89NWC\r\n\x1a\n", 1, minor, 1, size, len(sections), zlib.crc32(table))
    return head + struct.pack("<I", zlib.crc32(head)) + table + body


def source_section(kind, files):
    """Section 9 of the document."""
    out = struct.pack("<III", 1, kind, len(files))
    for name, data in files.items():
        out += text(name) + struct.pack("<I", len(data)) + data
    return out


def write(name, v, by_class, tensors, minor=1, more=(), raw=()):
    target = FOLDER / f"{name}-v1.{minor}.nwc"
    if target.exists():
        return
    rng = random.Random(name)
    codec = Codec(rng, v, by_class)
    made = [raw_tensor("norm", bytes(range(100))), *(raw_tensor(*t) for t in raw)] + [coded_tensor(rng, codec, *t)
                                                                                      for t in tensors]
    records, data, lines = struct.pack("<I", len(made)), b"", ""
    for group, ((tensor, head, shape, tail), blob, values) in enumerate(made):
        data += b"\0" * (-len(data) % 64)
        records += text(tensor) + head + struct.pack("<I", group) + shape + struct.pack("<QQ", len(data),
                                                                                        len(blob)) + tail
        data += blob
        lines += f"{tensor} {zlib.crc32(values):x}\n"
    provenance = struct.pack("<I", 1) + text("encoder") + struct.pack("<I", 9) + b"by script"
    sections = [(1, codec.section(), 0), *more, (4, records, DEFLATED), (5, provenance, 0), (7, data, 0)]
    target.write_bytes(container(sections, minor))
    target.with_suffix(".txt").write_text(lines)
    print(target.name, target.stat().st_size, "bytes")


def main():
    # name, m, n, tile_rows, tile_cols, row scales, row classes
    shapes = [("both", 75, 83, 48, 64, True, True), ("scales", 33, 40, 16, 32, True, False),
              ("classes", 16, 130, 32, 512, False, True)]
    write("trellis-3-classes", 3, True, shapes)
    write("trellis-8-classes", 8, True, shapes)
    write("trellis-5-channels", 5, False, [("w", 130, 40, 64, 32, True, False)])
    write("scalar-classes", 0, True, shapes)
    # Records of a later version, and sections that a reader may ignore: they do not concern whoever decodes.
    later = [(2, struct.pack("<I", 2) + b"any architecture", 0), (3, struct.pack("<IB", 1, 77) + b"any tokenizer",
                                                                  DEFLATED),
             (8, source_section(1, {"config.json": b"{}", "tokenizer.json": b"[1]"}), DEFLATED | MAY_BE_IGNORED),
             (99, b"not known yet", MAY_BE_IGNORED)]
    write("later-records", 4, True, shapes, minor=2, more=later)
    write("source-gguf", 0, True, shapes[2:], minor=2,
          more=[(8, source_section(2, {"header.gguf": b"GGUF" + struct.pack("<IQQ", 3, 0, 0)}),
                 DEFLATED | MAY_BE_IGNORED)])
    # Since 1.2: coded tensors whose rows are several dimensions, every element type, ranks up to 64.
    write("split", 4, True, minor=2,
          tensors=[("experts", 75, 83, 48, 64, True, True, (3, 25, 83), 2), ("kernel", 33, 40, 16, 32, True, False,
                                                                             (33, 5, 2, 4), 1),
                   ("deep", 16, 130, 32, 512, False, True, (1, 2, 1, 2, 1, 2, 1, 2, 13, 10), 8)])
    # Since 1.6: lanes that end in any state, and larger trellises.
    free = [(name, m, n, rows, cols, scales, classes, (m, n), 1, True)
            for name, m, n, rows, cols, scales, classes in shapes]
    write("trellis-10-free", 10, True, free, minor=6)
    write("trellis-12-free", 12, False, [("w", 130, 40, 64, 32, True, False, (130, 40), 1, True)], minor=6)
    rng = random.Random("types")
    types = [(f"type.{dtype}", rng.randbytes(3 * bits), dtype, (4, 6)) for dtype, bits in BITS.items() if dtype != 12]
    write("types", 0, True, shapes[2:], minor=2,
          raw=[*types, ("type.12", bytes([0, 1, 1, 0]), 12, (4,)), ("scalar", b"\x07", U8, ()),
               ("empty", b"", U8, (3, 0)),
               ("deepest", b"12", U8, (1,) * 63 + (2,))])


if __name__ == "__main__":
    main()
