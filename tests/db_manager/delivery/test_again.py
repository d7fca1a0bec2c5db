"""What is done again, and how often."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from db_manager.delivery.again import Patience, claim_again
from db_manager.delivery.lookout import Lookout


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


async def test_a_sign_of_life_is_tried_again_as_soon_as_another_would_be_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long an outage was: others must be heard before one has lived for a lease."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    class Member:
        pause: float | None = 0.25

        async def pulse(self) -> None:
            if len(pauses) < 9:
                raise ConnectionRefusedError
            self.pause = None  # it was heard

    lookout: Any = Lookout.__new__(Lookout)
    lookout._member, lookout._relay = Member(), SimpleNamespace(again=Patience())
    monkeypatch.setattr(asyncio, "sleep", sleep)
    await lookout._pulse()
    assert len(pauses) == 9
    assert max(pauses) == 0.25
