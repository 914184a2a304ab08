"""Which errors say that memory is exhausted; what of a text is printed."""

import pytest

from reldepth_jax.errors import out_of_memory, printable


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


def test_control_characters_are_escaped():
    hostile = "a\x1b[2J\r\n\t\x00\x9b\u202e\udcff\u2028é深"
    assert printable(hostile) == r"a\x1b[2J\r\n\t\x00\x9b\u202e\udcff\u2028é深"
    assert printable("a\nb\r\x07", lines=True) == "a\nb\\r\\x07"
