"""What is said of a wrong value, and powers of ten that YAML reads as texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from policyopt.recipe.base import BudgetSection, StageSection
from policyopt.wording import rule, whole


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e9", 10**9), ("2.5e3", 2500), ("1.E2", 100), ("+3e0", 3), ("-1e2", -100), ("1.50e1", 15), ("1e18", 10**18)],
)
def test_powers_of_ten_are_whole_numbers(text, number):
    assert whole(text) == number
    assert type(whole(text)) is int


@pytest.mark.parametrize(
    "text", ["1e-9", "15e-1", "2.55e1", "1e19", "1e999999999", "e9", "1e", "0x1e3", "many", "12", 3]
)
def test_what_is_none_stays_what_it_is(text):
    assert whole(text) == text
    assert type(whole(text)) is type(text)


@given(st.integers(-(10**6), 10**6), st.integers(0, 12))
def test_it_is_the_number_that_python_reads(digits, power):
    assert whole(f"{digits}e{power}") == float(f"{digits}e{power}")


def test_sections_read_them_where_whole_numbers_stand():
    assert StageSection.model_validate({"method": "1e9", "steps": "1e9"}).steps == 10**9
    assert StageSection.model_validate({"method": "1e9", "steps": "1e9"}).method == "1e9"
    assert BudgetSection.model_validate({"tokens": "2.5e6"}).tokens == 2_500_000
    with pytest.raises(ValidationError):
        StageSection.model_validate({"method": "grpo", "steps": "1e-1"})


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (int, "many", "takes a whole number (an integer)"),
        (int, 1.5, "takes a whole number (an integer)"),
        (float, "many", "takes a number"),
        (bool, "maybe", "takes true or false"),
        (str, 3, "takes a text"),
        (dict[str, int], 3, "takes a mapping"),
    ],
)
def test_kinds_are_named_in_words(kind, value, said):
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(kind).validate_python(value)
    assert rule(raised.value.errors()[0]).startswith(said)
