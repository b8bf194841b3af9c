import pytest

from backdrop.common.words import count


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 objects"), (1, "1 object"), (2, "2 objects"), (100_064, "100,064 objects")]
)
def test_a_number_and_its_noun_agree(number: int, words: str) -> None:
    assert count(number, "object") == words


def test_a_plural_can_be_given() -> None:
    assert [count(number, "entry", "entries") for number in (1, 2)] == ["1 entry", "2 entries"]
