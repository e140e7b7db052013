"""What QuIP#- and QTIP-style coding share: random Hadamard transform, one scale, block feedback."""
import numpy as np

import feedback
import hadamard

# Feedback widens what a block has to code beyond the weights' own spread. It does so the more, the worse the Hessian's
# condition is, and a fixed-rate code clips. The originals allow for it by a constant factor; here the best of these is
# taken for each tensor.
SPREADS = (1.0, 1.1, 1.25, 1.5, 2.0, 2.75)
SAMPLE_ROWS = 32


def quantize(w, hessian, block, encode, seed):
    """encode(x [m][block columns of unit variance]) -> reconstruction of that shape. m a multiple of 16."""
    transform = hadamard.Incoherence(*w.shape, seed)
    x = transform.forward(w)
    sigma = np.float32(np.sqrt((x ** 2).mean())) or np.float32(1)
    if hessian is None:
        return transform.inverse(encode(x / sigma) * sigma)
    h = transform.hessian(hessian)
    u = feedback.factor(h, block)

    def run(rows, spread):
        scale = sigma * np.float32(spread)
        return feedback.ldlq(rows, u, lambda _, target: encode(target / scale) * scale, block=block)

    sample = x[:max(SAMPLE_ROWS, len(x) // 256 * 16)]
    spread = min(SPREADS, key=lambda s: feedback.proxy_error(sample, run(sample, s), h))
    return transform.inverse(run(x, spread))
