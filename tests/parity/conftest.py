"""Comparison with torch that is recorded: per case the largest error, relative to the scale."""

from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
import pytest

Arrays = Mapping[str, np.ndarray]


def relative_error(got: Arrays, expected: Arrays) -> tuple[float, str]:
    """Return the largest |got - expected| / max |expected| over the entries, and which it is."""
    assert set(got) == set(expected), set(got) ^ set(expected)
    errors = {}
    for name, target in expected.items():
        value = np.asarray(got[name])
        assert value.shape == target.shape, f"{name}: {value.shape}, {target.shape}"
        scale = np.abs(target).max()
        assert scale > 0, f"{name} is zero: nothing would be compared"
        errors[name] = float(np.abs(value - target).max() / scale)
    # NaN is larger than everything here: it must not pass.
    worst = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
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


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Accelerators multiply float32 in fewer bits unless told otherwise."""
    with jax.default_matmul_precision("highest"):
        yield


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table and keep it as JSON in pytest's cache, under `parity`."""
    rows = [
        value
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        if report.when == "call"
        for name, value in report.user_properties
        if name == "parity"
    ]
    if not rows:
        return
    width = max(len(case) for case, _, _ in rows)
    terminalreporter.section("parity with torch: max error / scale")
    for case, error, tolerance in rows:
        terminalreporter.write_line(f"{case:<{width}}  {error:.1e}  (tolerance {tolerance:.0e})")
    if config.cache is not None:
        keys = ("case", "error", "tolerance")
        config.cache.set("parity", [dict(zip(keys, row, strict=True)) for row in rows])
