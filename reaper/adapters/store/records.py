"""Plans and verdicts as they are stored: of a run over a cluster or over a group, told apart by what is written."""

import json

from reaper.adapters.store.codec import decode, encode
from reaper.domain.groups import GroupPlan, GroupVerdict
from reaper.domain.plan import Plan
from reaper.domain.verdict import RunVerdict

AnyPlan = Plan | GroupPlan
AnyVerdict = RunVerdict | GroupVerdict


def plan_text(plan: AnyPlan) -> str:
    """A plan as JSON."""
    return encode(type(plan), plan)


def plan_of(text: str) -> AnyPlan:
    """What `plan_text` made. ValidationError: it is no plan, as this version of reaper sees it."""
    return decode(GroupPlan, text) if _has(text, "group") else decode(Plan, text)


def verdict_text(verdict: AnyVerdict) -> str:
    """A verdict as JSON."""
    return encode(type(verdict), verdict)


def verdict_of(text: str) -> AnyVerdict:
    """What `verdict_text` made. ValidationError: it is no verdict, as this version of reaper sees it."""
    return decode(GroupVerdict, text) if _has(text, "replaced") else decode(RunVerdict, text)


def _has(text: str, key: str) -> bool:
    """Whether it is an object with that key; what is no JSON has none."""
    try:
        said = json.loads(text)
    except ValueError:
        return False
    return isinstance(said, dict) and key in said
