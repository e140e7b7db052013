"""Hugging Face transformers: folders whose weights are in a .nwc file.

Importing this module registers the quantizer "nwc". Then ``AutoModel...from_pretrained(folder)`` works with a folder that
:func:`save` has made, or ``save_pretrained`` of a model that was loaded from one::

    folder/config.json          with "quantization_config": {"quant_method": "nwc", "file": "model.nwc", ...}
    folder/model.nwc            the weights
    folder/model.safetensors    the names of the tensors with a number of each, a few bytes: where transformers looks
    folder/tokenizer.json, ...  as they were

Weights are decoded one tensor at a time while transformers puts them where they belong, and become ordinary parameters of
the type and on the device that were asked for: the model runs at the speed of any other, in the memory that this type takes.
To run it in the memory of its coded weights, use ``nwc.open(folder + "/model.nwc").generate(...)``.
"""
from __future__ import annotations

import json
import os
import pathlib
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy
import torch
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.modeling_utils import PreTrainedModel
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from . import _checkpoint, _compress, _torch, errors
from .model import Model
from .model import open as open_model

METHOD = "nwc"
FILE = "model.nwc"
_STAND_INS = "model.safetensors"
#: What of a model's folder is taken along: everything that describes it, and no weights.
_KEPT = {".json", ".txt", ".model", ".jinja", ".md", ".py", ".tiktoken"}


def _names_crc32(names: Iterable[str]) -> int:
    return zlib.crc32("\n".join(names).encode())


@register_quantization_config(METHOD)
class NwcConfig(QuantizationConfigMixin):
    """quantization_config of config.json. file: the name of the .nwc file in the folder; bits_per_weight: of its coded
    weights; names_crc32: of the tensors' names, so that another model's file is noticed."""

    def __init__(self, file: str = FILE, bits_per_weight: float | None = None, names_crc32: int | None = None,
                 **_: Any) -> None:
        self.quant_method = METHOD
        self.file = file
        self.bits_per_weight = bits_per_weight
        self.names_crc32 = names_crc32


def _stand_in(index: int) -> numpy.ndarray[Any, Any]:
    """A tensor's number as four numbers below 256, which every float type of a model holds exactly."""
    return numpy.array([index >> shift & 255 for shift in (0, 8, 16, 24)], numpy.uint8)


def _dtype_in(model: Any, name: str) -> torch.dtype | None:
    """The type of a parameter or buffer; None: the name is that of several, before the model's operations."""
    try:
        dtype = model.get_parameter_or_buffer(name).dtype
    except AttributeError:
        return None
    return dtype if isinstance(dtype, torch.dtype) else None


class _Decode(ConversionOps):
    """Stand-ins become the tensors that they stand for."""

    def __init__(self, quantizer: NwcQuantizer, last: bool) -> None:
        self.quantizer = quantizer
        self.last = last  # after the model's own operations, if it has any for these names

    def __deepcopy__(self, memo: Any) -> _Decode:
        return _Decode(self.quantizer, self.last)  # transformers copies converters for every parameter

    def convert(self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str],
                full_layer_name: str = "", model: Any = None, **_: Any) -> dict[str, Any]:
        if self.last and tuple(source_patterns) in self.quantizer.converted:
            self.quantizer.check_shapes(model, input_dict)  # the other one has decoded them
            return input_dict
        dtype = _dtype_in(model, full_layer_name)
        decoded: dict[str, Any] = {}
        for name, stand_ins in input_dict.items():
            several = isinstance(stand_ins, (list, tuple))
            found = [self.quantizer.decode(one, dtype, full_layer_name, self.last)
                     for one in (stand_ins if several else [stand_ins])]
            decoded[name] = found if several else found[0]
        if self.last:
            self.quantizer.check_shapes(model, decoded)
        return decoded

    @property
    def reverse_op(self) -> ConversionOps:
        return _Nothing()


class _Nothing(ConversionOps):
    def convert(self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str],
                **_: Any) -> dict[str, Any]:
        return input_dict

    @property
    def reverse_op(self) -> ConversionOps:
        return self


@register_quantizer(METHOD)
class NwcQuantizer(HfQuantizer):
    """What from_pretrained calls. As if weights were quantized while they are loaded, which is the one way in which
    transformers gives a quantizer each tensor in turn, and one at a time."""

    requires_calibration = False

    def __init__(self, quantization_config: NwcConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.pre_quantized = False
        self.path: pathlib.Path | None = None
        self.opened: Model | None = None
        self.tensors: list[_checkpoint.CheckpointTensor] = []
        self.converted: set[tuple[str, ...]] = set()
        self.plain: dict[str, tuple[int, torch.dtype]] = {}  # number of the tensor, and the type that it was loaded in
        self.versions: dict[str, tuple[int, int]] = {}
        self.failure: Exception | None = None

    # -- loading -------------------------------------------------------------------------------------------------------

    def _process_model_before_weight_loading(self, model: Any, checkpoint_files: list[str] | None = None, **_: Any) -> Any:
        name = self.quantization_config.file
        if not isinstance(name, str) or os.path.basename(name) != name or name in ("", ".", ".."):
            raise errors.InvalidArgument(f"quantization_config names the file {name!r}: it has to be one of the same folder")
        if not checkpoint_files:
            raise errors.InvalidArgument(f"from_pretrained has found no {_STAND_INS}; nwc.transformers.save makes such folders")
        self.path = pathlib.Path(checkpoint_files[0]).parent / name
        self.opened = open_model(self.path)
        tensors = _checkpoint.tensors_of(self.opened)
        crc32 = _names_crc32(tensors)
        if self.quantization_config.names_crc32 not in (None, crc32):
            raise errors.InvalidFile(f"{self.path} is not the file that config.json and {_STAND_INS} were made for: its tensors "
                                     "have other names")
        self.tensors = list(tensors.values())
        return model

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        return True

    def get_quantize_ops(self) -> ConversionOps:
        return _Decode(self, last=True)

    def update_weight_conversions(self, weight_conversions: list[Any], model: Any) -> list[Any]:
        updated = []
        for step in weight_conversions:
            if isinstance(step, WeightConverter):
                step = step.copy(step._original_source_patterns.copy(), step._original_target_patterns.copy(),
                                 operations=[_Decode(self, last=False), *step.operations])
                self.converted.add(tuple(step.source_patterns))
            updated.append(step)
        return updated

    def check_shapes(self, model: Any, made: dict[str, Any]) -> None:
        """What was made fits: transformers leaves the shapes of quantized weights to the quantizer."""
        for name, value in made.items():
            tensor = value[0] if isinstance(value, (list, tuple)) else value
            try:
                wanted = tuple(model.get_parameter_or_buffer(name).shape)
            except AttributeError:
                continue
            if tuple(tensor.shape) != wanted:
                self.failure = self.failure or errors.StateDictMismatch(
                    f"{name} is {list(tensor.shape)} in {self.path} and {list(wanted)} in the model")

    def decode(self, stand_in: torch.Tensor, dtype: torch.dtype | None, layer: str, last: bool) -> torch.Tensor:
        """The tensor that a stand-in stands for. A failure is kept and raised when transformers has gone through all tensors:
        what is raised here it would only write to its log."""
        out = stand_in
        try:
            digits = [int(digit) for digit in stand_in.reshape(-1).tolist()]
            index = sum(digit << 8 * place for place, digit in enumerate(digits))
            if len(digits) != 4 or index >= len(self.tensors):
                raise errors.InvalidFile(f"{_STAND_INS} does not stand for {self.path}")
            tensor = self.tensors[index]
            if dtype is None:  # the type that the model is made in, as transformers has given it to the stand-in
                dtype = stand_in.dtype if stand_in.is_floating_point() else torch.float32
            out = _torch._empty(tensor.shape, dtype)
            tensor.fill(out)
            if last:
                self.plain[layer] = (index, dtype)
        except Exception as error:
            self.failure = self.failure or error
        return out.to(stand_in.device)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        if self.opened is not None:
            self.opened.close()
        if self.failure is not None:
            raise self.failure
        self.versions = {name: (id(value), value._version) for name, value in model.named_parameters()}
        model.save_pretrained = _SavePretrained(model)
        return model

    # -- saving --------------------------------------------------------------------------------------------------------

    def is_serializable(self, **_: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        with open_model(self._file()) as opened:
            names = _checkpoint.tensors_of(opened)
            return {name: torch.from_numpy(_stand_in(i)) for i, name in enumerate(names)}, {METHOD: self.quantization_config.file}

    def _dequantize(self, model: Any, dtype: Any = None) -> Any:
        """model.dequantize(): the model forgets its file, and save_pretrained writes its weights like any other's."""
        model.__dict__.pop("save_pretrained", None)
        if isinstance(dtype, str):  # save_pretrained leaves a name in the configuration
            dtype = getattr(torch, dtype)
        return model.to(dtype) if dtype is not None else model

    def _file(self) -> pathlib.Path:
        if self.path is None:
            raise errors.InvalidArgument("no model was loaded")
        return self.path

    def check_unchanged(self, model: Any) -> None:
        """The file is still what the model's weights are: compared tensor by tensor where a parameter is one tensor, and by
        torch's count of changes where the model has joined several. Errors: InvalidArgument."""
        changed = None
        with open_model(self._file()) as opened:
            tensors = list(_checkpoint.tensors_of(opened).values())
            for name, value in model.named_parameters():
                plain = self.plain.get(name)
                if plain is None:
                    if self.versions.get(name) != (id(value), value._version):
                        changed = name
                else:
                    tensor = _torch._empty(tensors[plain[0]].shape, plain[1])
                    tensors[plain[0]].fill(tensor)
                    if not torch.equal(tensor.to(device=value.device, dtype=value.dtype), value.detach()):
                        changed = name
                if changed is not None:
                    raise errors.InvalidArgument(
                        f"{changed} has changed since the model was loaded: nwc.transformers.save(model, folder, bits) compresses "
                        "it anew, and after model.dequantize() save_pretrained writes the weights as they are")


class _SavePretrained:
    """save_pretrained of a model that was loaded from such a folder: writes one again, the same .nwc file in it."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> _SavePretrained:
        return _SavePretrained(memo.get(id(self.model), self.model))

    def __call__(self, save_directory: str | os.PathLike[str], **options: Any) -> Any:
        model = self.model
        quantizer = model.hf_quantizer
        quantizer.check_unchanged(model)
        os.makedirs(save_directory, exist_ok=True)
        target = pathlib.Path(save_directory) / quantizer.quantization_config.file
        if not (target.exists() and os.path.samefile(target, quantizer.path)):
            partial = target.with_name(target.name + ".partial")
            try:
                shutil.copyfile(quantizer.path, partial)
                os.replace(partial, target)
            finally:
                partial.unlink(missing_ok=True)
        options["save_original_format"] = False  # names are those of the file already
        return type(model).save_pretrained(model, save_directory, **options)


def save(source: str | os.PathLike[str] | PreTrainedModel, out: str | os.PathLike[str], bits: float | None = None, *,
         tokenizer: Any = None, **options: Any) -> dict[str, Any]:
    """Makes a folder for from_pretrained whose weights are in a .nwc file.

    source: a Hugging Face folder with safetensors, or a model of transformers. out: the folder to make, which is new or empty;
    it appears when it is complete, or not at all. bits, options: of nwc.compress (size, kld, calib, effort, progress, card, ...).
    tokenizer: for a model; of a folder all files but weights are taken along.
    Returns compress's report. Errors: those of nwc.compress; InvalidArgument (out has files in it); Unsupported (a source that
    is quantized already).
    """
    folder = pathlib.Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise errors.InvalidArgument(f"{folder} is there already; name a new or empty folder")
    with tempfile.TemporaryDirectory(prefix="nwc-") as temporary:
        if isinstance(source, PreTrainedModel):
            _save_plain(source, temporary)
            if tokenizer is not None:
                tokenizer.save_pretrained(temporary)
            path = pathlib.Path(temporary)
        else:
            path = pathlib.Path(source)
        config = _read_config(path)
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = pathlib.Path(tempfile.mkdtemp(prefix=folder.name + ".", suffix=".partial", dir=folder.parent))
        try:
            report = _compress.compress(path, work / FILE, bits, **options)
            for file in _described_by(path):
                (work / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path / file, work / file)
            with open_model(work / FILE) as opened:
                _write_stand_ins(work, opened, config)
            os.chmod(work, 0o777 & ~_umask())
            os.replace(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return report


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _read_config(folder: pathlib.Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise errors.InputOutputError(f"{folder / 'config.json'}: {error.strerror}: not a Hugging Face folder") from error
    except ValueError as error:
        raise errors.Corrupt(f"{folder / 'config.json'}: {error}") from error
    if not isinstance(config, dict):
        raise errors.Corrupt(f"{folder / 'config.json'}: not a JSON object")
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "?")
        raise errors.Unsupported(f"{folder} is quantized already ({method}); name the original")
    return config


def _described_by(folder: pathlib.Path) -> list[pathlib.Path]:
    """What a folder and the folders in it have beside weights."""
    found = []
    for pattern in ("*", "*/*"):
        for path in folder.glob(pattern):
            if path.is_file() and path.suffix in _KEPT and not path.name.endswith(".index.json"):
                found.append(path.relative_to(folder))
    return found


def _write_stand_ins(folder: pathlib.Path, opened: Model, config: dict[str, Any]) -> None:
    config = dict(config)
    tensors = _checkpoint.tensors_of(opened)
    config["quantization_config"] = NwcConfig(FILE, round(opened.info["bits_per_coded_weight"], 4),
                                              _names_crc32(tensors)).to_dict()
    if not config.get("dtype") and not config.get("torch_dtype"):
        # transformers would ask the weights.
        types = [tensor.dtype for tensor in opened.values() if tensor.ndim > 1]
        common = max(("f32", "f16", "bf16"), key=types.count)
        config["dtype"] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[common]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    with open(folder / _STAND_INS, "wb") as file:
        _compress.write_safetensors(file, {name: _stand_in(i) for i, name in enumerate(tensors)},
                                    {"format": "pt", METHOD: FILE})


def _save_plain(model: Any, folder: str) -> None:
    """The model's weights as they are, also of one that was loaded from a .nwc file."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        model.save_pretrained(folder)
        return
    if not isinstance(quantizer, NwcQuantizer):
        raise errors.Unsupported("the model is quantized already; compress the original")
    config = model.config.quantization_config
    try:
        model.hf_quantizer = None
        del model.config.quantization_config
        type(model).save_pretrained(model, folder)
    finally:
        model.hf_quantizer = quantizer
        model.config.quantization_config = config
