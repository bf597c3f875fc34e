"""Places of items that are known: as many as are asked for, where they are asked for."""

from typing import get_args

import pytest

from genloom.core.errors import ConfigError
from genloom.recipes.editing import Hidden, known_places


@pytest.mark.parametrize("hidden", get_args(Hidden))
@pytest.mark.parametrize("keep", [0.01, 0.25, 0.5, 0.75, 0.999])
def test_about_this_share_is_known(hidden: Hidden, keep: float) -> None:
    known = known_places(hidden, (3, 16, 16), keep)
    assert known.shape == (3, 16, 16)
    assert bool((known == known[:1]).all())
    assert 0 < int(known[0].sum()) < 256
    assert float(known.double().mean()) == pytest.approx(keep, abs=0.13)


def test_each_part_is_where_its_name_says() -> None:
    known = {hidden: known_places(hidden, (1, 4, 4), 0.25)[0].int().tolist() for hidden in get_args(Hidden)}
    assert known["last"] == [[1] * 4, [0] * 4, [0] * 4, [0] * 4]
    assert known["first"] == [[0] * 4, [0] * 4, [0] * 4, [1] * 4]
    assert known["right"] == [[1, 0, 0, 0]] * 4
    assert known["left"] == [[0, 0, 0, 1]] * 4
    assert known["surroundings"] == [[0] * 4, [0, 1, 1, 0], [0, 1, 1, 0], [0] * 4]
    assert known_places("centre", (1, 4, 4), 0.75)[0].int().tolist() == [
        [1] * 4,
        [1, 0, 0, 1],
        [1, 0, 0, 1],
        [1] * 4,
    ]


def test_vectors_have_no_middle() -> None:
    assert known_places("last", (4,), 0.5).tolist() == [True, True, False, False]
    with pytest.raises(ConfigError, match="for images"):
        known_places("centre", (4,), 0.5)
