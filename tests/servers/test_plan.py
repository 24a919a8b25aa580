"""`reaper plan` on real servers: it sees them, asks the guards, and touches nothing."""

import hashlib
from pathlib import Path

from labs import Lab

POLICY = """name: nightly
leash: off
target: {clusters: "*"}
schedule: {cron: "0 3 * * *", timezone: Asia/Tokyo}
guards: {soak: 200ms}
"""


def listing(home: Path) -> dict[str, str]:
    """Every file below a data directory; with a digest of it where only reaper writes. Servers write their own."""
    found = {}
    for path in sorted(p for p in home.rglob("*") if p.is_file()):
        name = str(path.relative_to(home))
        servers_own = "/instances/" in name or name.endswith(".log")
        found[name] = "" if servers_own else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def positions(lab: Lab) -> dict[str, str]:
    """How far every server is, its own commits included."""
    return {i: str(lab.sql(i, "SELECT @@gtid_current_pos AS at")[0]["at"]) for i in lab.instances}


def test_a_plan_shows_who_would_die_and_touches_nothing(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "nightly.yaml").write_text(POLICY)
    page = tmp_path / "plan.html"
    files, places = listing(lab.site.home), positions(lab)
    asked = ("plan", "--at", "2030-12-01 03:00 Asia/Tokyo")
    env = {"REAPER_POLICIES": str(tmp_path)}
    said = lab.site.cli(*asked, "--output", "json", env=env)
    drawn = lab.site.cli(*asked, "--output", "html", "--out", page, env=env)
    assert (said.code, drawn.code) == (0, 0), said.all + drawn.all
    report = said.json()
    (run,) = report["runs"]
    assert run["victim"] == f"local:{lab.name}/{lab.master}"
    assert [g["reason"] for g in run["guards"] if g["ruling"] == "refuse"] == []
    assert report["headline"] == "1 master would die."
    assert "INHERITS" in page.read_text()
    assert positions(lab) == places
    assert listing(lab.site.home) == files
