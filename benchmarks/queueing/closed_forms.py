"""Waiting times that theory knows exactly: what the simulator is held to.

M/D/1: requests at random, one server, always the same service time. M/M/c: requests at random, c servers,
exponential service times. Sources: L. Kleinrock, Queueing Systems I (1975), chapter 3 for Erlang's C formula and
chapter 5 for the Pollaczek-Khinchin formula; V. B. Iversen and L. Staalhagen, "Waiting time distribution in M/D/1
queueing systems", Electronics Letters 35 (1999), for Erlang's distribution of 1909.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable
from decimal import Decimal

TOLERANCE = 1e-9


def md1_mean_wait_s(rate_per_s: float, service_s: float) -> float:
    """``rho * s / (2 (1 - rho))``, rho = rate * s: the mean time before service, in seconds."""
    rho = _utilization(rate_per_s, service_s, 1)
    return rho * service_s / (2 * (1 - rho))


def md1_wait_within(rate_per_s: float, service_s: float, wait_s: float) -> float:
    """P(wait <= t) = (1 - rho) sum over k <= t/s of (-r_k)^k / k! * exp(r_k), r_k = rate * (t - k s).

    The terms alternate and grow like exp(rate * t): they are summed in decimal digits enough for that.
    """
    rho = _utilization(rate_per_s, service_s, 1)
    if wait_s < 0:
        return 0.0
    with decimal.localcontext() as context:
        context.prec = 40 + int(rate_per_s * wait_s)
        rate, service, wait = Decimal(rate_per_s), Decimal(service_s), Decimal(wait_s)
        total = Decimal(0)
        for k in range(int(wait_s / service_s + TOLERANCE) + 1):
            exponent = rate * (wait - k * service)
            power = (-exponent) ** k if k else Decimal(1)
            total += power / math.factorial(k) * exponent.exp()
        return float((1 - Decimal(rho)) * total)


def md1_wait_percentile_s(rate_per_s: float, service_s: float, percent: float) -> float:
    """The wait that ``percent`` of the requests do not exceed, in seconds."""
    return _inverse(lambda wait_s: md1_wait_within(rate_per_s, service_s, wait_s), percent, service_s)


def mmc_waits(rate_per_s: float, mean_service_s: float, servers: int) -> float:
    """Erlang's C: the probability that a request has to wait."""
    rho = _utilization(rate_per_s, mean_service_s, servers)
    offered = rate_per_s * mean_service_s
    blocked = 1.0
    # Erlang's B by its recursion, which has no large factorials; C follows from it.
    for server in range(1, servers + 1):
        blocked = offered * blocked / (server + offered * blocked)
    return blocked / (1 - rho * (1 - blocked))


def mmc_mean_wait_s(rate_per_s: float, mean_service_s: float, servers: int) -> float:
    """``C / (c / s - rate)``: the mean time before service, in seconds."""
    return mmc_waits(rate_per_s, mean_service_s, servers) / (servers / mean_service_s - rate_per_s)


def mmc_wait_percentile_s(rate_per_s: float, mean_service_s: float, servers: int, percent: float) -> float:
    """From ``P(wait > t) = C exp(-(c / s - rate) t)``; 0 where so many do not wait at all."""
    _check_percent(percent)
    over = 1 - percent / 100
    waits = mmc_waits(rate_per_s, mean_service_s, servers)
    return max(0.0, math.log(waits / over) / (servers / mean_service_s - rate_per_s)) if waits > 0 else 0.0


def _inverse(within: Callable[[float], float], percent: float, step_s: float) -> float:
    """The least time that a share of ``percent`` is within, by halving."""
    _check_percent(percent)
    wanted = percent / 100
    if within(0.0) >= wanted:
        return 0.0
    low, high = 0.0, step_s
    while within(high) < wanted:
        low, high = high, 2 * high
    while high - low > TOLERANCE * step_s:
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < wanted else (low, middle)
    return high


def _check_percent(percent: float) -> None:
    if not 0 < percent < 100:
        raise ValueError(f"expected a percentile between 0 and 100, got {percent}")


def _utilization(rate_per_s: float, service_s: float, servers: int) -> float:
    rho = rate_per_s * service_s / servers
    if not 0 < rho < 1:
        raise ValueError(f"expected servers that are busy for a share between 0 and 1, got {rho:g}")
    return rho
