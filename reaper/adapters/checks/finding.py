"""The verdict of a check, in the guard's form."""

from reaper.adapters.plain import one_line
from reaper.domain.checks import ExternalCheck
from reaper.domain.verdict import GuardVerdict, Ruling

_MOST_EVIDENCE = 12
_MOST_CHARACTERS = 300


def go(check: ExternalCheck, reason: str, *evidence: str) -> GuardVerdict:
    """A clear yes."""
    return _verdict(check, Ruling.GO, reason, evidence)


def refuse(check: ExternalCheck, reason: str, *evidence: str) -> GuardVerdict:
    """Everything else (I10)."""
    return _verdict(check, Ruling.REFUSE, reason, evidence)


def _verdict(check: ExternalCheck, ruling: Ruling, reason: str, evidence: tuple[str, ...]) -> GuardVerdict:
    shown = tuple(one_line(line, _MOST_CHARACTERS) for line in evidence[:_MOST_EVIDENCE])
    return GuardVerdict(
        guard=f"check {check.name}", ruling=ruling, reason=one_line(reason, 3 * _MOST_CHARACTERS), evidence=shown
    )
