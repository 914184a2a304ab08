"""Which errors say that memory is exhausted."""

import pytest

from reldepth_jax.errors import out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes."), True),
        (RuntimeError("INTERNAL: x"), False),
        (ValueError("RESOURCE_EXHAUSTED"), False),
    ],
    ids=repr,
)
def test_out_of_memory(error: Exception, expected: bool):
    assert out_of_memory(error) is expected
