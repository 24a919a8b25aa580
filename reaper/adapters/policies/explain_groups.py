"""What is particular to a policy about groups of stateless instances, in plain sentences."""

from collections.abc import Iterator
from typing import assert_never

from reaper.domain.groups import Draining, Floor, GroupPolicy, Order
from reaper.domain.standing import OPT_OUT_TAG, PROTECT_UNTIL_TAG, StandingPolicy, Tags
from reaper.planner.words import in_words, listed


def tags_in_words(tags: Tags) -> str:
    """`a=b and c=d`."""
    return listed(tuple(f"{name}={value}" for name, value in tags))


def who(policy: StandingPolicy) -> Iterator[str]:
    """Whose instances may die."""
    target = policy.target
    of = [f"of the provider {target.provider}"] if target.provider else []
    of += [f"with a name like {listed(target.names, 'or')}"] if target.names and "*" not in target.names else []
    of += [f"with the tags {tags_in_words(target.tags)}"] if target.tags else []
    yield " ".join(("Instances", "of each group", *of)) + "."
    if target.excluded:
        yield f"Not of groups with a name like {listed(target.excluded, 'or')}."
    if target.opt_in:
        yield f"Only instances that have opted in with {tags_in_words(target.opt_in)}."
    yield (
        f"Never one that is protected from scale-in, with the tag {OPT_OUT_TAG}, with {PROTECT_UNTIL_TAG} in the "
        "future, or whose tags are unreadable."
    )


def how(limits: GroupPolicy) -> Iterator[str]:
    """What happens to each of them, and in which order."""
    first = {
        Order.OLDEST: "the oldest first",
        Order.STALE: "those of an image that is not the newest first, of each the oldest",
        Order.RANDOM: "in an order that is drawn",
    }[limits.order]
    most = "all that are due" if limits.at_most is None else f"{limits.at_most} at the most"
    yield f"A run replaces {most}, one after the other, {first}."
    match limits.draining:
        case Draining.REAPER:
            within = in_words(limits.drain_within)
            yield f"A victim is taken out of its target groups, its requests have {within} to end; then it is killed."
        case Draining.GROUP:
            yield "A victim is killed at once: its group takes it out of its target groups."
        case _:
            assert_never(limits.draining)
    yield "It is terminated in its group, whose size stays, so that the group launches a successor."
    yield (
        f"The next one waits until a successor is in service and healthy in every target group; if none is within "
        f"{in_words(limits.successor_within)}, the run ends as bad and touches nobody else."
    )


def guards(policy: StandingPolicy, limits: GroupPolicy) -> Iterator[str]:
    """What refuses, before each of them."""
    floor = floor_in_words(limits.floor)
    yield f"Refused unless {floor} serve without the victim, in the group and in each target group."
    yield (
        "Refused during an instance refresh, while Launch or Terminate is suspended, while somebody hangs in a "
        "lifecycle hook, and while another instance of its zone comes or goes; what passes by itself is waited for, "
        f"for {in_words(limits.settle_within)}."
    )
    if policy.cool_down:
        yield f"A group is left alone for {in_words(policy.cool_down)} after any run."


def floor_in_words(floor: Floor) -> str:
    """`at least 3 and 90 % of the wanted size`."""
    parts = [str(floor.count)] if floor.count is not None else []
    parts += [f"{floor.percent:g} % of the wanted size"] if floor.percent is not None else []
    return f"at least {listed(tuple(parts)) or '0'}"


def budgets(policy: StandingPolicy) -> Iterator[str]:
    """What leashes it."""
    number = policy.budgets.failures_in_a_row
    row = "one bad run leashes" if number == 1 else f"{number} bad runs in a row leash"
    yield f"A run is bad when a victim gets no healthy successor; {row} it."
