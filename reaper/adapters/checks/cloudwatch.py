"""A CloudWatch alarm, of a metric or composite, that has to be in the state OK."""

from reaper.adapters import cloud
from reaper.adapters.checks.finding import go, refuse
from reaper.adapters.patience import Deadline
from reaper.domain.checks import CloudwatchCheck
from reaper.domain.verdict import GuardVerdict


def ask(check: CloudwatchCheck, region: str | None, deadline: Deadline) -> GuardVerdict:
    """Its state, with the reason that CloudWatch gives. An alarm that could not be evaluated well is no yes."""
    client = cloud.client("cloudwatch", region, deadline)
    try:
        found = client.describe_alarms(AlarmNames=[check.alarm], AlarmTypes=["MetricAlarm", "CompositeAlarm"])
    except cloud.failures() as error:
        advice = "reaper's role needs cloudwatch:DescribeAlarms in that region"
        return refuse(check, f"the alarm {check.alarm} cannot be read ({advice}): {error}")
    finally:
        client.close()
    alarms = [a for a in found["MetricAlarms"] + found["CompositeAlarms"] if a["AlarmName"] == check.alarm]
    where = client.meta.region_name
    if len(alarms) != 1:
        return refuse(
            check, f"there is no alarm {check.alarm} in {where}, wanted one in the state OK: correct its name or region"
        )
    alarm = alarms[0]
    state, evaluation = alarm.get("StateValue"), alarm.get("EvaluationState")
    evidence = [f"state {state} since {alarm.get('StateUpdatedTimestamp')}", f"reason: {alarm.get('StateReason')}"]
    if evaluation is not None:
        evidence.append(f"evaluation: {evaluation}")
        reason = f"the alarm {check.alarm} is {state}, but CloudWatch could not evaluate it well ({evaluation})"
        return refuse(check, f"{reason}: see the alarm's reason", *evidence)
    if state != "OK":
        return refuse(check, f"the alarm {check.alarm} is {state}, wanted OK: see the alarm's reason", *evidence)
    return go(check, f"the alarm {check.alarm} is OK", *evidence)
