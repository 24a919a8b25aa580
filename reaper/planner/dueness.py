"""What is decided of one instance: whether it may die at all, and whether its age or image makes it due."""

from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache

from reaper.domain.facts import Instance
from reaper.domain.standing import OPT_OUT_TAG, PROTECT_UNTIL_TAG, StandingPolicy, Tags
from reaper.planner.words import in_words


def carries(tags: Collection[tuple[str, str]], wanted: Tags) -> bool:
    """True if every wanted tag is there, with a value that its glob matches."""
    if not wanted:
        return True
    exact, globs = by_kind(wanted)
    if not exact.issubset(tags):  # nearly always decides, and at once if the tags are a set
        return False
    if not globs:
        return True
    carried = dict(tags)
    return all(name in carried and fnmatchcase(carried[name], glob) for name, glob in globs)


@lru_cache(maxsize=1024)  # every policy asks it of every cluster
def by_kind(wanted: Tags) -> tuple[frozenset[tuple[str, str]], Tags]:
    """Those that name one value, which are looked up, and those that are globs."""
    globs = tuple(tag for tag in wanted if any(sign in tag[1] for sign in "*?["))
    return frozenset(tag for tag in wanted if tag not in globs), globs


def instance_spared(policy: StandingPolicy, instance: Instance, now: datetime) -> str | None:
    """Why an instance may not die whatever its age, or None: protection, the missing opt-in, another target."""
    target = policy.target
    if target.instances and not any(fnmatchcase(instance.id.short, glob) for glob in target.instances):
        return f"its name matches none of {', '.join(target.instances)}"
    if instance.tags is None:
        return "its tags are unreadable, so it is protected"
    tags = dict(instance.tags)
    if OPT_OUT_TAG in tags:
        return f"it is opted out by the tag {OPT_OUT_TAG}"
    if PROTECT_UNTIL_TAG in tags:
        protected = protected_until(tags[PROTECT_UNTIL_TAG], now)
        if protected:
            return protected
    if target.instance_tags and not carries(instance.tags, target.instance_tags):
        return f"it does not carry {_shown(target.instance_tags)}"
    if target.opt_in and not carries(instance.tags, target.opt_in):
        return f"it has not opted in with {_shown(target.opt_in)}"
    return None


def _shown(tags: Tags) -> str:
    return ", ".join(f"{name}={value}" for name, value in tags)


def protected_until(until: str, now: datetime) -> str | None:
    """Why a protect-until tag still protects, or None if its time is over."""
    text = until.strip()
    try:
        if len(text) == len("2026-12-31"):
            ends = datetime.combine(date.fromisoformat(text) + timedelta(days=1), datetime.min.time(), UTC)
        else:
            ends = datetime.fromisoformat(text)
            ends = ends if ends.tzinfo else ends.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return f"its tag {PROTECT_UNTIL_TAG} says {until!r}, which is no date, so it is protected"
    return f"it is protected until {text}" if now < ends else None


def reasons_due(policy: StandingPolicy, instance: Instance, now: datetime) -> tuple[str, ...]:
    """Why an instance is due; empty if it is not."""
    due = policy.due
    reasons = []
    age = now - instance.created
    if due.max_age is not None and age > due.max_age:
        reasons.append(f"is {in_words(age)} old, more than {in_words(due.max_age)}")
    if due.stale_image and instance.image is not None and instance.image.stale:
        reasons.append(f"was made from {instance.image.name}, {instance.image.newest} is the newest")
    if due.max_age is None and not due.stale_image:
        reasons.append("is what the policy names, at any age")
    if reasons and due.mean_time_between is not None:
        reasons.append(f"the dice fell, at a mean of {in_words(due.mean_time_between)} between kills")
    elif reasons and due.probability < 1:
        reasons.append(f"the dice fell, at a chance of {due.probability:g}")
    return tuple(reasons)


def reason_not_due(policy: StandingPolicy, instance: Instance, now: datetime) -> str:
    """Why an instance for which `reasons_due` found nothing is not due."""
    due = policy.due
    parts = []
    if due.max_age is not None:
        parts.append(f"it is {in_words(now - instance.created)} old, not more than {in_words(due.max_age)}")
    if due.stale_image:
        unknown = instance.image is None or instance.image.stale is None
        parts.append("whether its image is stale is unknown" if unknown else "its image is the newest")
    return " and ".join(parts)
