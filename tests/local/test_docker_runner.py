"""Runs in containers, as far as they need no Docker."""

from hypothesis import given
from hypothesis import strategies as st

from backdrop.local.docker_runner import lines


@given(st.text(), st.integers(1, 5))
def test_lines_are_whole_wherever_the_stream_is_cut(text: str, size: int) -> None:
    data = text.encode()
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    assert list(lines(chunks)) == text.removesuffix("\n").split("\n") * bool(text)


def test_bytes_that_are_no_text_stop_nothing() -> None:
    assert list(lines([b"a\xff", b"b\n"])) == ["a\ufffdb"]
