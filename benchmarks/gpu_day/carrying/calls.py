"""The calls of a day: which pieces and which stages go into which, in how many bytes and seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..running.stage import Stage
from .kits import Kit, Piece

__all__ = ["Call", "Limits", "Plan", "plan_calls"]

MIB = 1 << 20
# Between the end of a call's budget and that of its command: the report is saved.
TIMEOUT_SPARE_S = 10


@dataclass(frozen=True)
class Limits:
    """What the GPU machine allows.

    Attributes:
        call_nbytes: Largest transfer of one call, the tree counted.
        tree_nbytes: Bytes of the tree, which travels with each call.
        total_s: Seconds of the whole day, starts and transfers counted.
        call_s: Longest command.
        start_s: What the machine's start takes.
        turn_s: What passes between the end of a call and the next command, for each call.
        link_nbytes_s: How fast files travel; a guess.
        spare_nbytes: Left free in each call for names and headers.
        text_chars: Longest text of a command.
    """

    call_nbytes: int
    tree_nbytes: int
    total_s: float = 840
    call_s: float = 600
    start_s: float = 90
    turn_s: float = 12
    link_nbytes_s: float = 8 * MIB
    spare_nbytes: int = MIB
    text_chars: int = 2000

    @property
    def room_nbytes(self) -> int:
        """What a call can carry beside the tree."""
        return self.call_nbytes - self.tree_nbytes - self.spare_nbytes

    def timeout_s(self, call: Call) -> float:
        """Return the timeout to give with a call: what ends it by itself comes first, and is saved."""
        return min(self.call_s, call.budget_s + TIMEOUT_SPARE_S)

    def transfer_s(self, nbytes: int) -> float:
        """Return what carrying so many bytes beside the tree takes."""
        return 2 + (self.tree_nbytes + nbytes) / self.link_nbytes_s


@dataclass
class Call:
    """One command on the GPU machine.

    Attributes:
        pieces: What it carries.
        stages: What it runs, after unpacking.
        unpack_s: For the kits that it completes.
    """

    pieces: list[Piece]
    stages: list[Stage]
    unpack_s: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the pieces."""
        return sum(piece.nbytes for piece in self.pieces)

    @property
    def budget_s(self) -> float:
        """What the command may take."""
        return 2 + self.unpack_s + sum(stage.limit_s for stage in self.stages)


@dataclass(frozen=True)
class Plan:
    """All calls, and what found no room.

    Attributes:
        calls: In order.
        left_out: Stages that are not run, and why.
        seconds: Of everything, the machine's start included.
    """

    calls: tuple[Call, ...]
    left_out: dict[str, str]
    seconds: float


def plan_calls(kits: Sequence[Kit], stages: Sequence[Stage], limits: Limits) -> Plan:
    """Lay stages and the kits that they need into calls, in the stages' order; those that do not fit are left out.

    Stages that no other waits for and that need only what has arrived run in calls that would only carry.
    While such calls run nothing, the stages that wait for them are left out first.

    Args:
        kits: What could be made.
        stages: What is wanted, the most valuable first.
        limits: Of the machine.

    Raises:
        ValueError: The tree leaves no room for a piece.
    """
    known = {kit.name: kit for kit in kits}
    left_out = {stage.name: f"kit {name} was not made" for stage in stages for name in stage.kits if name not in known}
    chosen = [stage for stage in stages if stage.name not in left_out]
    largest = max((piece.nbytes for kit in kits for piece in kit.pieces), default=0)
    if largest > limits.room_nbytes:
        raise ValueError(
            f"the tree takes {limits.tree_nbytes / MIB:.1f} of {limits.call_nbytes / MIB:.0f} MiB: no room for"
            f" a piece of {largest / MIB:.1f} MiB; make the tree smaller or cut smaller pieces"
        )
    dropped: list[Stage] = []
    while chosen and seconds_of(calls := _lay_out(known, chosen, limits), limits) > limits.total_s:
        dropped.append(_least(calls, chosen))
        chosen.remove(dropped[-1])
    for stage in sorted(dropped, key=stages.index):  # without a large kit there may be time for others
        more = sorted([*chosen, stage], key=stages.index)
        carried = {name for other in chosen for name in other.kits}
        if carried.issuperset(stage.kits) and seconds_of(_lay_out(known, more, limits), limits) <= limits.total_s:
            chosen = more
    while chosen and chosen[-1].on_machine:
        chosen.pop()
    calls = _lay_out(known, chosen, limits)
    left_out |= {
        stage.name: f"the day has {limits.total_s:.0f} s"
        for stage in stages
        if stage not in chosen and stage.name not in left_out
    }
    return Plan(tuple(calls), left_out, seconds_of(calls, limits))


def seconds_of(calls: Sequence[Call], limits: Limits) -> float:
    """Return what calls take together, starting the machine included."""
    return limits.start_s + sum(limits.turn_s + limits.transfer_s(call.nbytes) + call.budget_s for call in calls)


def _least(calls: Sequence[Call], chosen: Sequence[Stage]) -> Stage:
    """Return what is left out first: the last stage; while a call runs nothing, the last that is no filler."""
    waiting = [stage for stage in chosen if not _fills(stage)]
    return waiting[-1] if waiting and any(not call.stages for call in calls) else chosen[-1]


def _fills(stage: Stage) -> bool:
    """Whether a stage may run wherever there is time: it needs little, and no other needs it."""
    return not stage.on_machine and set(stage.kits) <= {"base"}


def _lay_out(known: dict[str, Kit], stages: Sequence[Stage], limits: Limits) -> list[Call]:
    names = dict.fromkeys(name for stage in stages for name in stage.kits)
    calls = [Call([], [])]
    complete: dict[str, int] = {}
    for name in names:
        for piece in known[name].pieces:
            if calls[-1].nbytes + piece.nbytes > limits.room_nbytes:
                calls.append(Call([], []))
            calls[-1].pieces.append(piece)
        complete[name] = len(calls) - 1
        calls[-1].unpack_s += known[name].unpack_s
    at = 0
    for stage in stages:
        at = max([at, *(complete[name] for name in stage.kits)])
        if calls[at].budget_s + stage.limit_s > limits.call_s - TIMEOUT_SPARE_S:
            at += 1
            calls[at:at] = [Call([], [])]
            complete = {name: index + (index >= at) for name, index in complete.items()}
        calls[at].stages.append(stage)
    _fill(calls, complete, limits)
    return [call for call in calls if call.pieces or call.stages]


def _fill(calls: list[Call], complete: dict[str, int], limits: Limits) -> None:
    """Move stages of later calls that can run anywhere into the first call that would only carry."""
    idle = next((index for index, call in enumerate(calls) if not call.stages), len(calls))
    for call in calls[idle + 1 :]:
        for stage in [stage for stage in call.stages if _fills(stage)]:
            arrived = all(complete[name] <= idle for name in stage.kits)
            if arrived and calls[idle].budget_s + stage.limit_s <= limits.call_s - TIMEOUT_SPARE_S:
                call.stages.remove(stage)
                calls[idle].stages.append(stage)
