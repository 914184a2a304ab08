"""Comparison with torch that is recorded: per case the largest error, relative to the scale."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import numpy as np
import pytest

from reldepth_jax.models.cpu import winograd_network

Arrays = Mapping[str, np.ndarray]

# A ReLU whose input is within rounding of zero may fall on either side, and the gradient jumps:
# torch's own float32 and float64 differ by that. Of eight inputs to the network with ResNet-50 two
# showed it, by up to 15 % of one channel's gradient and 2 % of the norm of one parameter's.
# An error in a gradient is of order one.
KINK = 0.1


def relative_error(got: Arrays, expected: Arrays) -> tuple[float, str]:
    """Return the largest |got - expected| / max |expected| over the entries, and which it is."""
    assert set(got) == set(expected), set(got) ^ set(expected)
    errors = {}
    for name, target in expected.items():
        value = np.asarray(got[name])
        assert value.shape == target.shape, f"{name}: {value.shape}, {target.shape}"
        assert np.isfinite(value).all(), f"{name} is not finite"
        scale = np.abs(target).max()
        assert scale > 0, f"{name} is zero: nothing would be compared"
        errors[name] = float(np.abs(value - target).max() / scale)
    worst = max(errors, key=lambda name: errors[name])
    return errors[worst], worst


@pytest.fixture
def parity(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Return `check(case, got, expected, tolerance)` for mappings of arrays."""

    def check(case: str, got: Arrays, expected: Arrays, tolerance: float) -> None:
        error, worst = relative_error(got, expected)
        print(f"{case}: max error / scale {error:.1e} in {worst}, tolerance {tolerance:.0e}")
        record_property("parity", [case, error, tolerance])
        assert error <= tolerance, f"{case}: {error:.2e} in {worst}, tolerance {tolerance:.0e}"

    return check


@pytest.fixture
def gradient_parity(parity: Callable[..., None]) -> Callable[..., None]:
    """Return `check(case, attempts, tolerance)`, `attempts` yielding (got, expected) per input.

    The first input within the tolerance decides; those before must be within `KINK`.
    """

    def check(case: str, attempts: Iterable[tuple[Arrays, Arrays]], tolerance: float) -> None:
        for got, expected in attempts:
            error, worst = relative_error(got, expected)
            if error <= tolerance:
                parity(case, got, expected, tolerance)
                return
            print(f"{case}: next input, because of {error:.1e} in {worst}")
            for name, target in expected.items():
                off = np.linalg.norm(got[name] - target) / np.linalg.norm(target)
                assert off <= KINK, f"{case}: {off:.2e} in the norm of {name}, tolerance {KINK}"
        pytest.fail(f"{case}: no input is within the tolerance {tolerance:.0e}")

    return check


@pytest.fixture
def take_winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `fast_training` take all 3x3 convolutions at stride 1, however small, of two channels."""
    for name in ("CHANNELS", "TILES", "MULTIPLICATIONS"):
        monkeypatch.setattr(winograd_network, f"_LEAST_{name}_TRAINED", 2)


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Accelerators multiply float32 in fewer bits unless told otherwise."""
    with jax.default_matmul_precision("highest"):
        yield
