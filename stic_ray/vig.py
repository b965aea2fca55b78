"""Visual information gain of answers (VIG, arXiv 2602.17186): pure functions on columns.

Legend: T = tokens of a conversation's answers.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def token_gains(logp_T: Sequence[float], blind_logp_T: Sequence[float]) -> Floats:
    """VIG_t = [-log q(a_t | a_<t, Q, blind image)] - [-log q(a_t | a_<t, Q, I)] (equation 3), nats, float32 [T]."""
    gains_T = np.asarray(logp_T, dtype=np.float32) - np.asarray(blind_logp_T, dtype=np.float32)
    return np.asarray(gains_T, dtype=np.float32)


def mean_gain(gains_T: Floats) -> float:
    """VIG = mean over T of VIG_t = log(PPL(A | Q) / PPL(A | Q, I)) (equation 4), nats; 0 where there are no tokens."""
    return float(gains_T.astype(np.float64).mean()) if len(gains_T) else 0.0
