"""The made-up pictures reach every branch of the decoder that the real world's do."""

from __future__ import annotations

import numpy as np

from hubel.dataset.decode import decode
from hubel.dataset.hard_cases import hard_cases
from hubel.records import Preprocess


def test_they_are_of_every_kind_and_all_can_be_used() -> None:
    facts = {name: decode(data, Preprocess(size=(24, 32)))[1] for name, data in hard_cases((24, 32)).items()}
    assert {"RGB", "L", "I;16", "CMYK", "RGBA", "LA", "P", "F", "1"} <= {fact.mode for fact in facts.values()}
    assert {fact.orientation for fact in facts.values()} == set(range(1, 9))
    assert {name for name, fact in facts.items() if fact.transparent} == {"alpha.png", "grey-alpha.png", "palette.png"}
    assert facts["animated.gif"].frames == 2
    assert {(1, 1), (10000, 1), (20, 3000), (32, 24)} <= {(fact.width, fact.height) for fact in facts.values()}


def test_they_are_always_the_same() -> None:
    first, second = hard_cases(), hard_cases()
    assert first.keys() == second.keys()
    for name in ("photo.jpg", "grey16.png", "one-pixel.png"):
        one, other = (decode(made[name], Preprocess(size=(16, 16)))[0] for made in (first, second))
        np.testing.assert_array_equal(one, other)
