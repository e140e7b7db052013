"""Element types: the library's numbers, their names here, and what numpy calls them."""
from __future__ import annotations

from typing import Any

import numpy

from . import errors

try:
    import ml_dtypes
except ImportError:
    ml_dtypes = None

F32, F16, BF16 = 0, 1, 2
#: By the number of nwc_dtype.
NAMES = ("f32", "f16", "bf16", "f64", "i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64", "bool", "f8_e4m3", "f8_e5m2",
         "f8_e8m0", "f8_e4m3fnuz", "f8_e5m2fnuz", "f4", "f6_e2m3", "f6_e3m2", "c64")
_PLAIN = {"f32": "float32", "f16": "float16", "f64": "float64", "i8": "int8", "u8": "uint8", "i16": "int16", "u16": "uint16",
          "i32": "int32", "u32": "uint32", "i64": "int64", "u64": "uint64", "bool": "bool", "c64": "complex64"}
_ML = {"bf16": "bfloat16", "f8_e4m3": "float8_e4m3fn", "f8_e5m2": "float8_e5m2", "f8_e8m0": "float8_e8m0fnu",
       "f8_e4m3fnuz": "float8_e4m3fnuz", "f8_e5m2fnuz": "float8_e5m2fnuz"}
_DECODED = {"f32": F32, "float32": F32, "f16": F16, "float16": F16, "half": F16, "bf16": BF16, "bfloat16": BF16}


def name_of(dtype: int) -> str:
    return NAMES[dtype] if dtype < len(NAMES) else "?"


def numpy_type(name: str) -> numpy.dtype[Any]:
    """What numpy holds elements of this type in. Without ml_dtypes, bf16 is uint16 and eight-bit floats are uint8, with
    the same bits; types below a byte are always uint8."""
    if name in _PLAIN:
        return numpy.dtype(_PLAIN[name])
    if ml_dtypes is not None and name in _ML and hasattr(ml_dtypes, _ML[name]):
        found: numpy.dtype[Any] = numpy.dtype(getattr(ml_dtypes, _ML[name]))
        return found
    return numpy.dtype(numpy.uint16 if name == "bf16" else numpy.uint8)


def decoded(dtype: Any) -> int:
    """The number of a type that decoders deliver: its name here, numpy's or torch's, or numpy's or torch's type."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    number = _DECODED.get(name.removeprefix("torch."))
    if number is None:
        raise errors.InvalidArgument(f"dtype {dtype!r}: tensors are decoded to f32, f16 or bf16")
    return number
