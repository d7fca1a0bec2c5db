"""What is done again, and how often."""

import pytest
from sqlalchemy.exc import IntegrityError

from db_manager.delivery.again import claim_again


@pytest.mark.parametrize(("taken", "claimed"), [(0, True), (4, True), (5, False)])
async def test_a_claim_is_tried_five_times(*, taken: int, claimed: bool) -> None:
    """Who finds a lane taken looks again; who never gets it says so."""
    left = taken

    async def claim() -> str:
        nonlocal left
        if left:
            left -= 1
            raise IntegrityError("", {}, ValueError())
        return "mine"

    if claimed:
        assert await claim_again(claim) == "mine"
    else:
        with pytest.raises(IntegrityError):
            await claim_again(claim)
    assert left == 0
