"""From what the probe recorded to what the run cost."""

from datetime import timedelta

from reaper.domain.ledger import Ledger, LedgerVerdict, outages
from reaper.domain.policy import Policy
from reaper.domain.verdict import ClientCost, Part
from reaper.domain.warmth import Recovery
from reaper.workflow.cutover import Moments


def client_costs(ledger: Ledger, *, kill_ns: int, until_ns: int) -> tuple[ClientCost, ...]:
    """The outage of each client around the kill. `until_ns`: when writes should have been possible again."""
    return tuple(
        ClientCost(client=o.client, outage=o.outage) for o in outages(ledger, kill_ns=kill_ns, until_ns=until_ns)
    )


def worst(costs: tuple[ClientCost, ...]) -> timedelta | None:
    """The longest outage; None if nothing was measured or a client never came back."""
    spans = [c.outage for c in costs]
    known = [s for s in spans if s is not None]
    return max(known) if known and len(known) == len(spans) else None


def parts_of(ledger: Ledger, moments: Moments) -> tuple[Part, ...]:
    """The worst client's outage, cut at the cutover's moments; the parts add up to the outage."""
    found = [
        o
        for o in outages(ledger, kill_ns=moments.kill, until_ns=moments.rerouted)
        if o.first_after_ns is not None and o.last_before_ns is not None
    ]
    if not found:
        return ()
    o = max(found, key=lambda o: o.outage or timedelta(0))
    begin, end = o.last_before_ns or moments.kill, o.first_after_ns or moments.rerouted
    cuts = [
        ("idle before the kill", moments.kill),
        ("kill", moments.dead),
        ("fence", moments.fenced),
        ("elect", moments.elected),
        ("apply", moments.applied),
        ("promote", moments.promoted),
        ("endpoint", moments.rerouted),
        ("reconnect and first write", end),
    ]
    parts, at = [], begin
    for name, until in cuts:
        until = min(max(until, at), end)
        parts.append(Part(name=name, took=timedelta(microseconds=(until - at) / 1000)))
        at = until
    return tuple(parts)


def ledger_faults(verdict: LedgerVerdict | None, outage: timedelta | None, policy: Policy) -> tuple[str, ...]:
    """What is wrong with the outcome, in words. None: the ledger could not be compared."""
    faults = []
    if verdict is None:
        faults.append("there is no proof about acknowledged writes: the ledger was not compared with a master")
    elif verdict.lost:
        faults.append(f"{len(verdict.lost)} acknowledged writes are missing on the new master")
    if verdict and verdict.duplicated:
        faults.append(f"{len(verdict.duplicated)} writes are there twice")
    if verdict and verdict.refused_present:
        faults.append(f"{verdict.refused_present} writes that were refused are there")
    if outage is None:
        faults.append("at least one client never had a write acknowledged again")
    elif outage > policy.outage_budget:
        ms = timedelta(milliseconds=1)
        faults.append(f"the outage of {outage / ms:.0f} ms exceeds the budget of {policy.outage_budget / ms:.0f} ms")
    return tuple(faults)


def recovery_faults(recovery: Recovery | None, policy: Policy) -> list[str]:
    """What is wrong with the time to normal, if the policy has a budget for it. Not measured is not fine (I10)."""
    budget = policy.normal_budget
    if budget is None:
        return []
    if recovery is None or not recovery.baseline:
        why = recovery.words if recovery else "nobody could look"
        return [f"the policy has a budget for the time to normal, and it was not measured: {why}"]
    took = recovery.time_to_normal
    if took is None or took > budget:
        return [f"{recovery.words}, which exceeds the budget of {budget.total_seconds():g} s"]
    return []
