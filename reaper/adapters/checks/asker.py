"""Ask the external checks of a policy."""

from typing import assert_never

from reaper.adapters.checks.finding import refuse
from reaper.adapters.patience import Deadline, LateError, Patience
from reaper.domain.checks import CloudwatchCheck, ExternalCheck, HttpCheck, PrometheusCheck, ScriptCheck
from reaper.domain.errors import ReaperError
from reaper.domain.plan import Plan
from reaper.domain.verdict import GuardVerdict
from reaper.planner.words import in_words


class Asker:
    """The workflow's `Checker`. `region`: of CloudWatch alarms whose check names none; None: the environment's."""

    def __init__(self, region: str | None = None) -> None:
        self._region = region
        self._patience = Patience()

    def ask(self, check: ExternalCheck, plan: Plan) -> GuardVerdict:
        """Never raises and never takes longer than the check's own time: whatever is no clear yes refuses (I10)."""
        try:
            return self._patience.call(check.within, lambda deadline: self._put(check, plan, deadline))
        except LateError:
            limit = in_words(check.within)
            return refuse(check, f"no answer within {limit}: see why it is slow, or give it more time with `within`")
        except ReaperError as error:
            return refuse(check, f"it cannot be asked: {error}")
        except Exception as error:  # noqa: BLE001 - the interface never raises; a fault of ours is no yes either
            kind = type(error).__name__
            return refuse(check, f"it cannot be asked: an unexpected {kind}; this is a fault of reaper, report it")

    def _put(self, check: ExternalCheck, plan: Plan, deadline: Deadline) -> GuardVerdict:
        from reaper.adapters.checks import cloudwatch, page, prometheus, script  # most commands ask nobody

        match check:
            case PrometheusCheck():
                return prometheus.ask(check, plan.cluster, deadline)
            case CloudwatchCheck():
                return cloudwatch.ask(check, check.region or self._region, deadline)
            case HttpCheck():
                return page.ask(check, deadline)
            case ScriptCheck():
                return script.ask(check, plan, deadline)
            case _:
                assert_never(check)
