"""A sample of all mistyped and senseless options; tests/long goes through many more of them."""

import os
import random

import pytest

from tests.fuzz import bases, mutations, verdict

SEED = int(os.environ.get("SSL_KD_SEED", "0"))


@pytest.mark.parametrize("name", bases())
def test_every_option_is_understood_or_refused_in_a_sentence(name):
    words = bases()[name]
    drawn = random.Random(f"{SEED} {name}").sample(list(mutations(words)), 3)
    for word in drawn:
        assert verdict([*words, word]) != "built" or not word.endswith(("q=1", "z=1")), word
