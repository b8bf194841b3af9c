"""Quantities, as Kubernetes' own client reads them."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity as reference

from backdrop.config.cluster import Cluster
from backdrop.config.quantity import is_quantity, parse_quantity

NUMBERS = st.from_regex(r"\A([0-9]{1,6}(\.[0-9]{0,4})?|\.[0-9]{1,4})\Z")
SUFFIXES = st.sampled_from(["", *"numkMGTPE", *(f"{letter}i" for letter in "KMGTPE")])


@given(NUMBERS, SUFFIXES)
def test_it_is_what_kubernetes_reads(number: str, suffix: str) -> None:
    assert parse_quantity(number + suffix) == reference(number + suffix)


@given(NUMBERS, st.integers(-9, 9), st.sampled_from("eE"))
def test_exponents(number: str, exponent: int, letter: str) -> None:
    assert parse_quantity(f"{number}{letter}{exponent}") == Decimal(number) * Decimal(10) ** exponent


@pytest.mark.parametrize("text", ["", "4 Gi", "16GB", "four", "1Kib", "-1", "0", "0.0Gi", "m", "1ki", "٣"])
def test_what_is_none(text: str) -> None:
    assert not is_quantity(text)


def test_a_cluster_takes_numbers_and_text() -> None:
    assert Cluster(image="i", cpu=4).cpu == "4"  # type: ignore[arg-type]
    assert Cluster(image="i", cpu="300m", memory="512Mi").memory == "512Mi"
    with pytest.raises(ValueError, match="four isn't an amount"):
        Cluster(image="i", cpu="four")
