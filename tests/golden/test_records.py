"""Every family still gives what it gave when its record was made, to the rounding of other machines."""

import json
import sys
from pathlib import Path

import pytest

from genloom.core import registry

sys.path.insert(0, str(Path(__file__).parent))
from record import RECORDS, measure

RECORDED = json.loads(RECORDS.read_text())["families"]


def test_every_family_has_a_record() -> None:
    assert set(RECORDED) == set(registry.BUILT_IN)


@pytest.mark.parametrize("family", sorted(RECORDED))
def test_family_matches_its_record(family: str, tmp_path: Path) -> None:
    found = measure(family, tmp_path / "run")
    assert found.keys() == RECORDED[family].keys()
    for name, value in RECORDED[family].items():
        assert found[name] == pytest.approx(value, rel=0.02), name
