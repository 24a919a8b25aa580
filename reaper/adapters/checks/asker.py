"""Ask the external checks of a policy."""

from reaper.domain.checks import ExternalCheck
from reaper.domain.plan import Plan
from reaper.domain.verdict import GuardVerdict, Ruling


class Asker:
    """The workflow's `Checker`."""

    def ask(self, check: ExternalCheck, plan: Plan) -> GuardVerdict:  # noqa: ARG002 - the interface's
        """What cannot be asked refuses."""
        return GuardVerdict(guard=f"check {check.name}", ruling=Ruling.REFUSE, reason="this kind cannot be asked yet")
