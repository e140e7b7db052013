"""What is compared: models, rates, methods and their settings. Change it here."""
import dataclasses
import os
import pathlib

import awq
import e8p
import gptq
import qtip
import rtn
import seedlm

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = pathlib.Path(os.environ.get("NWC_DATA", ROOT / "../shared/data"))  # texts: quality.py says which, and whence
RATES = (2.5, 3.0, 4.0, 5.0)  # bits per weight over the whole file


@dataclasses.dataclass(frozen=True)
class Model:
    name: str
    reference: pathlib.Path
    calibration_text: pathlib.Path | str  # "self": text that the model writes itself
    text: pathlib.Path
    tokens: int       # predicted tokens of `text`
    trellis_bits: int  # states of QTIP's trellis, as a power of two: its search costs in proportion
    # Further texts to be measured on, by their names in tables; `tokens` of each.
    more_texts: tuple = ()
    # False: only grids with groups of 128 and an offset, and only trellises of whole bits.
    every_setting: bool = True


MODELS = {m.name: m for m in (
    Model("gutenlm-2.6m", ROOT / "models/gutenlm-2.6m", DATA / "text/calibration-books.txt",
          DATA / "text/the-time-machine.txt", 16384, 16),
    Model("SmolLM2-135M", ROOT / "build/data/SmolLM2-135M-Instruct.Q4_1.gguf", DATA / "text/wikitext-2-valid.txt",
          DATA / "text/wikitext-2-test.txt", 2048, 12, every_setting=False),
)}


@dataclasses.dataclass(frozen=True)
class Method:
    """quantize(w, hessian, **setting) -> (decoded, bits of storage); settings: ladder of keyword arguments."""
    name: str
    quantize: object
    settings: tuple
    calibrated: bool = True     # False: the Hessian is withheld
    model_bits: int = 0         # tables stored once
    fisher: bool = False        # calibrated on E[omega x x^T] as nwc is, in place of E[x x^T]
    allocated: bool = True      # also with a setting for each tensor, chosen by sensitivity

    def settings_for(self, model):
        return tuple(s for s in self.settings if model.every_setting or (
            s.get("group", 128) == 128 and not s.get("symmetric", False) and s["bits"] == int(s["bits"])))


def _grid(bits=(2, 3, 4, 5, 6), sizes=(32, 128), symmetric=(True, False)):
    return tuple(dict(bits=b, group=g, symmetric=s) for b in bits for g in sizes for s in symmetric)


METHODS = {m.name: m for m in (
    Method("RTN", rtn.quantize, _grid(), calibrated=False),
    Method("RTN, clipping by diag(H)", rtn.quantize, tuple(dict(s, weighted=True) for s in _grid())),
    Method("GPTQ", gptq.quantize, _grid()),
    Method("AWQ", awq.quantize, _grid()),
    Method("SeedLM", seedlm.quantize, tuple(dict(bits=b) for b in seedlm.CONFIGS), calibrated=False),
    Method("E8P + RHT + LDLQ", e8p.quantize, tuple(dict(bits=b) for b in e8p.STAGES)),
    Method("QTIP 1MAD + RHT + LDLQ", qtip.quantize, tuple(dict(bits=b, code="1mad") for b in (2, 3, 4, 5))),
    Method("QTIP HYB + RHT + LDLQ", qtip.quantize, tuple(dict(bits=b, code="hyb") for b in (2, 2.5, 3, 3.5, 4)),
           model_bits=qtip.HYB_TABLE_BITS),
)}

# These are options of `nwc compress` beside --bits and --calib. None stands for no --calib.
# What stands for other methods is neither corrected for drift nor distilled, as they are not.
_SCALAR = ["--quantizer", "scalar", "--feedback", "ldlq", "--no-row-classes", "--distillation", "off", "--drift", "off"]
NWC = {
    "nwc, default": [],
    "nwc with recovery": ["--effort", "7"],
    "nwc without allocation": ["--allocation", "none", "--row-importance", "off"],
    "nwc, data-free": None,
    "entropy-coded scalar + LDLQ + water-filling":
        _SCALAR + ["--importance", "waterfill", "--allocation", "none", "--row-importance", "off"],
    "entropy-coded scalar + LDLQ + water-filling, allocated":
        _SCALAR + ["--importance", "waterfill", "--allocation", "fisher", "--row-importance", "off"],
    "the paper without its networks (K=4, scalar, LDLQ)":
        _SCALAR + ["--importance", "paper", "--allocation", "none", "--row-importance", "off"],
}

# These are the types of llama.cpp's own quantizer. Those that refuse to work without an importance matrix are tried
# with one only.
LLAMA_TYPES = ("Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M", "Q5_0", "Q5_1",
               "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_M", "IQ3_XS", "IQ3_XXS", "IQ2_M",
               "IQ2_S", "IQ2_XS", "IQ2_XXS")
