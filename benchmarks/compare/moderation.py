"""What cells of a like size say about each other's variance (empirical Bayes).

G. K. Smyth, Linear models and empirical Bayes methods for assessing differential expression, 2004.
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A cell's variance counts as at least this share of the median one of its group: a timer's tick makes variances of
# exactly zero, whose logarithm would tell the group that variances differ without bound.
_SMALLEST_VARIANCE = 1e-5
# And at least this standard deviation of a log ratio, 0.1 ppm: no timer sees less, a rounding error does.
_SMALLEST_DEVIATION = 1e-7


def _trigamma_inverse(x: float) -> float:
    from scipy import optimize, special

    # 1/y + 1/(2 y^2) < trigamma(y) < 1/y + 1/y^2 puts the root between these two ends.
    root: float = optimize.brentq(lambda y: float(special.polygamma(1, y)) - x, 1 / x, 1 / x + 1)
    return root


def prior(variances: Floats, freedom: Floats) -> tuple[float, float]:
    """Prior degrees of freedom and prior variance of a group's variances, by the moments of their logarithms
    (Smyth 2004, section 6.2).

    Args:
        variances: `[n]` sample variances, positive.
        freedom: `[n]` their degrees of freedom.

    Returns:
        Degrees of freedom, inf where the variances differ no more than equal ones would and 0 where a single one says
        nothing of others; the variance.
    """
    from scipy import special

    if len(variances) < 2:
        return 0.0, float(variances[0])
    half = freedom / 2
    e = np.log(variances) - special.digamma(half) + np.log(half)
    excess = float(np.var(e, ddof=1) - np.mean(special.polygamma(1, half)))
    if excess <= 0:
        return math.inf, float(np.average(variances, weights=freedom))
    freedom_0 = 2 * _trigamma_inverse(excess)
    return freedom_0, float(np.exp(np.mean(e) + special.digamma(freedom_0 / 2) - np.log(freedom_0 / 2)))


def moderate(variances: Floats, freedom: Floats) -> tuple[Floats, Floats]:
    """Variances of one group drawn towards their common one, and the degrees of freedom they then have.

    Args:
        variances: `[n]` sample variances, zero allowed.
        freedom: `[n]` their degrees of freedom.
    """
    positive = variances[variances > 0]
    typical = float(np.median(positive)) if len(positive) else 0.0
    variances = np.maximum(variances, max(_SMALLEST_VARIANCE * typical, _SMALLEST_DEVIATION**2))
    freedom_0, variance_0 = prior(variances, freedom)
    # No more is known of the common variance than all cells of the group together can say.
    total = np.minimum(freedom_0 + freedom, freedom.sum())
    if math.isinf(freedom_0):
        return np.full_like(variances, variance_0), total
    return (freedom_0 * variance_0 + freedom * variances) / (freedom_0 + freedom), total
