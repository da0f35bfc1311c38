"""How far a share can be trusted that was counted on some images."""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # the normal quantile of 0.975


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share that was seen `right` times in `n` (Wilson 1927); it never leaves [0, 1].

    >>> [round(bound, 3) for bound in wilson_interval(90, 100)]
    [0.826, 0.945]
    """
    share, shrink = right / n, 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / shrink
    half = Z95 / shrink * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def largest_share(seen: int, n: int, risk: float) -> float:
    """The exact upper bound (Clopper and Pearson 1934) of a share seen `seen` times in `n`, too low with that risk.

    >>> round(largest_share(0, 59, 0.05), 3)
    0.05
    """
    from scipy.special import betaincinv

    return 1.0 if seen >= n else float(betaincinv(seen + 1, n - seen, 1 - risk))
