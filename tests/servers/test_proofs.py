"""What a replacement has to prove, on real servers and from the command line."""

import json

from labs import Lab, until
from test_power_cuts import assert_as_after_a_rotation
from witness import OneOpen, Writers

from reaper.domain.errors import ExitCode

TABLE = "app.proofs"


def test_E29_a_row_that_the_copied_replicas_have_wrong_refuses_against_the_master_and_kills_nobody(lab: Lab) -> None:
    master = lab.master
    rows = "INSERT INTO proofs SELECT seq, MD5(seq) FROM seq_1_to_5000"
    lab.endpoint_sql("USE app", "CREATE TABLE proofs (id INT PRIMARY KEY, v TEXT)", rows)
    replicas = [name for name in lab.instances if name != master]
    before = sorted(lab.instances)
    for name in replicas:
        until(lambda n=name: len(lab.rows(n, TABLE)) == 5000, f"{name} has the rows")  # type: ignore[misc]
        lab.root_sql(name, "SET SESSION sql_log_bin = 0", f"UPDATE {TABLE} SET v = 'rotten' WHERE id = 4711")
    said = lab.site.cli("rotate", lab.name, "--verify-against", "master")
    assert said.code == int(ExitCode.REFUSED), said.all
    assert f"{TABLE}, key 4711: different" in said.err
    assert "Nothing was killed" in said.err
    assert (lab.master, sorted(lab.instances)) == (master, before)
    assert not list((lab.directory / "snapshots").iterdir())
    for name in replicas:
        lab.root_sql(name, "SET SESSION sql_log_bin = 0", f"UPDATE {TABLE} SET v = MD5(4711) WHERE id = 4711")


def test_a_rotation_with_a_warmth_gate_keeps_its_snapshot_which_serves_the_next_one(lab: Lab) -> None:
    """Two rotations, one snapshot; it was restored and tested by both."""
    arguments = ("--warm", "0.5", "--keep-snapshots", "1", "--reuse-snapshot", "1h", "--outage-budget", "1m")
    with Writers(lab), OneOpen(lab) as one:
        for _ in range(2):
            said = lab.site.cli("rotate", lab.name, *arguments, "--output", "json")
            assert said.code == 0, said.all
        one.check()
    proven = json.loads(said.out)["verdict"]["proven"]
    assert proven["reused"]
    assert proven["warmth"]["passed"]
    (kept,) = json.loads(lab.site.cli("snapshots", "--output", "json").out)
    assert kept["name"] == proven["snapshot"]
    assert len(kept["used_by"]) == 2
    refused = lab.site.cli("snapshots", "delete", kept["name"])
    assert refused.code != 0
    assert "the newest snapshot" in refused.err
    assert lab.site.cli("snapshots", "delete", kept["name"], "--force").code == 0
    victim = lab.master
    with Writers(lab) as writers:
        assert lab.site.cli("rotate", lab.name, "--outage-budget", "1m").code == 0
        assert_as_after_a_rotation(lab, victim, writers)
