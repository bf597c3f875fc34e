"""The conformance kit: what every family promises, as checks that anyone can run on their own.

from genloom.testing import check_family, checks_for

check_family("mine.new")                                        # all of them
@pytest.mark.parametrize("check", checks_for("mine.new"), ids=str)
def test_family(check): check()                                 # one test each
"""

from genloom.testing.kit import Check, check_family, checks_for
from genloom.testing.values import EVENTS, draw, require_legal

__all__ = ["EVENTS", "Check", "check_family", "checks_for", "draw", "require_legal"]
