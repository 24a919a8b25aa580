"""A lab from its birth to its end: what is made, what survives, what is never touched."""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from labs import Lab, Said, Site, alive, kill_9, processes_below, until

from reaper.adapters.mysql import engines
from reaper.domain.errors import ExitCode, UsageError

MAKE_TABLE = "CREATE TABLE app.t (id INT PRIMARY KEY, what VARCHAR(40))"


def refused_in_one_sentence(said: Said, code: ExitCode, *words: str) -> None:
    """An error is one line on stderr, says the words, carries the code and no traceback."""
    assert said.code == code, said.all
    assert "Traceback" not in said.all
    assert said.sentence.startswith("reaper: "), said.err
    for word in words:
        assert word in said.sentence


@contextlib.contextmanager
def a_process(*command: str) -> Iterator["subprocess.Popen[str]"]:
    """Somebody else's process, which nobody but this test may end."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def a_listener(port: int) -> Iterator["subprocess.Popen[str]"]:
    """A stranger that listens on a port."""
    program = (
        "import socket\n"
        "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        f"s.bind(('127.0.0.1', {port})); s.listen(); print('ready', flush=True)\n"
        "while True: s.accept()[0].close()\n"
    )
    with a_process(sys.executable, "-c", program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


# ---- up


def test_up_makes_servers_that_lose_nothing_and_serve_on_without_the_command(lab: Lab) -> None:
    """E08, E14, E20: read-only replicas, unique ids, GTID strict mode, semi-sync that does not fall back."""
    book = lab.book()
    names = [i["name"] for i in book["instances"]]
    assert names == ["n1", "n2", "n3"]
    settings = {
        name: lab.sql(
            name,
            "SELECT @@server_id AS id, @@port AS port, @@datadir AS data, @@gtid_strict_mode AS strict_mode,"
            " @@sync_binlog AS sync_binlog, @@innodb_flush_log_at_trx_commit AS flush, @@read_only AS ro,"
            " @@log_bin AS binlog, @@log_slave_updates AS logs_replicated, @@bind_address AS bind,"
            " @@rpl_semi_sync_master_wait_point AS wait_point, @@rpl_semi_sync_master_timeout AS timeout_ms,"
            " @@rpl_semi_sync_master_enabled AS source_on, @@rpl_semi_sync_slave_enabled AS replica_on",
        )[0]
        for name in names
    }
    for name, said in settings.items():
        assert (said["strict_mode"], said["sync_binlog"], said["flush"]) == (1, 1, 1), name
        assert (said["binlog"], said["logs_replicated"], said["bind"]) == (1, 1, "127.0.0.1"), name
        assert (said["wait_point"], said["replica_on"]) == ("AFTER_SYNC", 1), name
        assert said["timeout_ms"] >= 10 * 60 * 1000, "a short time-out falls back to asynchronous (E02)"
    assert [settings[n]["ro"] for n in names] == [0, 1, 1]
    assert settings["n1"]["source_on"] == 1
    for column in ("id", "port", "data"):
        assert len({said[column] for said in settings.values()}) == len(names), column
    pids = [lab.pid(n) for n in names] + [book["endpoint"]["pid"]]
    assert all(alive(pid) for pid in pids)
    assert all(os.getsid(pid) == pid for pid in pids), "each has a session of its own and outlives the command"


def test_a_write_through_the_endpoint_arrives_on_every_replica(lab: Lab) -> None:
    lab.endpoint_sql(MAKE_TABLE, "INSERT INTO app.t VALUES (1, 'through the endpoint')")
    try:
        for name in lab.instances:
            until(lambda name=name: len(lab.rows(name, "app.t")) == 1, f"the row arrives on {name}")
        status = {row["Variable_name"]: row["Value"] for row in lab.sql("n1", "SHOW STATUS LIKE 'Rpl_semi%'")}
        assert status["Rpl_semi_sync_master_status"] == "ON"
        assert int(status["Rpl_semi_sync_master_yes_tx"]) >= 2
        assert int(status["Rpl_semi_sync_master_no_tx"]) == 0
    finally:
        lab.endpoint_sql("DROP TABLE app.t")


def test_two_labs_live_side_by_side_and_one_going_down_does_not_touch_the_other(lab: Lab, module_site: Site) -> None:
    other = module_site.make_lab("other", nodes=2)
    ports = [
        port
        for of in (lab, other)
        for port in (of.book()["endpoint_port"], *(i["port"] for i in of.book()["instances"]))
    ]
    assert len(set(ports)) == len(ports) == 7
    other.endpoint_sql(MAKE_TABLE)
    assert lab.rows("n1", "app.t") == []
    assert not lab.root_sql("n1", "SHOW TABLES IN app LIKE 't'")
    shown = module_site.cli("status", "--output", "json").json()
    assert [view["cluster"] for view in shown] == ["other", "shared"]
    before = lab.book()
    assert module_site.cli("lab", "down", "--name", "other").code == ExitCode.GOOD
    assert not other.directory.exists()
    assert lab.book() == before
    assert lab.status()["shape"] == "master with replicas"


def test_up_twice_is_refused_and_nothing_is_lost(lab: Lab, module_site: Site) -> None:
    before = lab.book()
    said = module_site.cli("lab", "up", "--name", lab.name)
    refused_in_one_sentence(said, ExitCode.USAGE, "the lab shared exists", "reaper lab down --name shared")
    assert lab.book() == before
    assert all(alive(lab.pid(name)) for name in lab.instances)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--name", "Lab"], ["'Lab' is no lab name", "lower-case"], id="a name in capitals"),
        pytest.param(["--name", ""], ["no lab name"], id="an empty name"),
        pytest.param(["--name", "../elsewhere"], ["no lab name"], id="a name that leaves the directory"),
        pytest.param(["--name", "a/b"], ["no lab name"], id="a name with a slash"),
        pytest.param(["--name", "9lives"], ["no lab name"], id="a name that begins with a digit"),
        pytest.param(["--name", "l" * 31], ["no lab name", "at most 30"], id="a name that is too long"),
        pytest.param(["--name", "läb"], ["no lab name"], id="a name with an umlaut"),
        pytest.param(["--nodes", "1"], ["2 to 20 nodes, not 1"], id="one node, which cannot fail over"),
        pytest.param(["--nodes", "0"], ["2 to 20 nodes, not 0"], id="no node"),
        pytest.param(["--nodes", "-3"], ["2 to 20 nodes, not -3"], id="a negative number of nodes"),
        pytest.param(["--nodes", "21"], ["2 to 20 nodes, not 21"], id="more nodes than a machine carries"),
        pytest.param(["--server", "/nonexistent"], ["/nonexistent"], id="a server that does not exist"),
        pytest.param(["--server", "/tmp"], ["/tmp"], id="a server that is a directory"),
        pytest.param(
            ["--server", "/bin/true"], ["/bin/true is no mysqld or mariadbd"], id="a program that is no server"
        ),
        pytest.param(
            ["--server", "/etc/hostname"],
            ["/etc/hostname", "Name a mysqld or mariadbd with --server"],
            id="a file that cannot be run",
        ),
    ],
)
def test_up_with_bad_input_is_one_sentence_and_leaves_nothing(
    site: Site, arguments: list[str], words: list[str]
) -> None:
    said = site.cli("lab", "up", *arguments)
    refused_in_one_sentence(said, ExitCode.USAGE, *words)
    assert "PosixPath" not in said.err
    labs = site.home / "labs"
    assert not labs.exists() or not list(labs.iterdir())


def test_up_with_a_program_that_lies_about_being_a_server_leaves_nothing(site: Site, tmp_path: Path) -> None:
    liar = tmp_path / "mariadbd"
    liar.write_text(
        "#!/bin/sh\n"
        'case "$*" in *--version*) echo "mariadbd  Ver 10.11.6-MariaDB for Linux";;\n'
        "*) echo 'no such thing as a table' >&2; exit 1;; esac\n"
    )
    liar.chmod(0o755)
    said = site.cli("lab", "up", "--server", liar)
    refused_in_one_sentence(said, ExitCode.USAGE, "cannot initialise", "no such thing as a table")
    assert not list((site.home / "labs").glob("*"))


def test_up_with_a_server_that_is_too_old_says_which_one_would_do(site: Site, tmp_path: Path) -> None:
    old = tmp_path / "mysqld"
    old.write_text('#!/bin/sh\necho "mysqld  Ver 5.7.44 for Linux on x86_64"\n')
    old.chmod(0o755)
    said = site.cli("lab", "up", "--server", old)
    refused_in_one_sentence(said, ExitCode.USAGE, "mysql 5.7.44", "8.0.23 or later")


def test_without_a_server_program_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "which", lambda _name: None)
    with pytest.raises(UsageError, match=r"apt-get install mariadb-server.*--server"):
        engines.find_engine(None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_that_a_person_stops_leaves_nothing(site: Site, number: signal.Signals) -> None:
    """E11: undone, with the exit code of an interruption."""
    with site.background("lab", "up", "--nodes", "4") as process:
        until((site.home / "labs" / "lab" / "lab.json").exists, "the book is there")
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED, out + err
    assert "Traceback" not in err
    assert not list((site.home / "labs").glob("*"))
    assert not processes_below(site.home)


def test_up_that_was_killed_can_be_removed_and_made_again(site: Site) -> None:
    """E12: the command dies half-way; its next call knows what is there."""
    with site.background("lab", "up") as process:
        until((site.home / "labs" / "lab" / "instances" / "n2").exists, "two data directories are made")
        process.kill()
        process.wait(60)
    again = site.cli("lab", "up")
    refused_in_one_sentence(again, ExitCode.USAGE, "the lab lab is half-made", "lab down")
    said = site.cli("lab", "down")
    assert said.code == ExitCode.GOOD, said.all
    assert not processes_below(site.home)
    assert site.make_lab().status()["shape"] == "master with replicas"


@pytest.mark.parametrize("directory", ["my home", "ha#sh", "back\\slash"])
def test_a_home_with_unusual_letters_works_or_is_refused_by_name(site: Site, directory: str) -> None:
    site.home = site.home.parent / directory
    said = site.cli("lab", "up", "--nodes", "2")
    if said.code == ExitCode.GOOD:
        assert Lab(site, "lab").status()["shape"] == "master with replicas"
    else:
        refused_in_one_sentence(said, ExitCode.USAGE, "REAPER_HOME")
    assert said.code == ExitCode.GOOD or not list((site.home / "labs").glob("*"))


def test_servers_do_not_share_a_directory_for_temporary_files(lab: Lab) -> None:
    """A server that boots deletes every `#sql*` file in its tmpdir, those of its running neighbours too."""
    directories = [lab.sql(name, "SELECT @@tmpdir AS t")[0]["t"] for name in lab.instances]
    assert len(set(directories)) == len(directories)
    assert all(Path(d).is_relative_to(lab.directory) for d in directories), directories


def test_labs_that_are_made_at_the_same_time_do_not_get_into_each_others_way(site: Site) -> None:
    with (
        site.background("lab", "up", "--name", "left") as left,
        site.background("lab", "up", "--name", "right") as right,
    ):
        said = [process.communicate(timeout=120) for process in (left, right)]
    assert [left.returncode, right.returncode] == [ExitCode.GOOD, ExitCode.GOOD], said
    books = [Lab(site, name).book() for name in ("left", "right")]
    assert len({i["port"] for book in books for i in book["instances"]}) == 6


# ---- an ordinary user


def _as_nobody() -> list[str] | None:
    """A command line that runs reaper as an ordinary user, or None if nothing on this machine can."""
    become = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=-all"]
    packages = [str(Path(engines.__file__).parents[3]), *(p for p in sys.path if p.endswith("site-packages"))]
    start = "from reaper.cli.main import run; run()"
    # The interpreter of the virtual environment may lie below /root, which only root may enter.
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        command = [*become, "env", f"PYTHONPATH={os.pathsep.join(packages)}", python, "-c", start]
        enters = subprocess.run([*become, "sh", "-c", f"exec {python} -c ''"], capture_output=True, check=False)
        if enters.returncode == 0:
            return command
    return None


@pytest.fixture
def nobodys_site(site: Site) -> Site:
    command = _as_nobody() if os.geteuid() == 0 and shutil.which("setpriv") else None
    if command is None:
        pytest.skip("cannot run reaper as another user here: root, setpriv and a readable interpreter are needed")
    site.home.mkdir()
    shutil.chown(site.home, "nobody", "nogroup")
    site.program = tuple(command)
    return site


def test_an_ordinary_user_makes_rotates_and_removes_a_lab(nobodys_site: Site) -> None:
    lab = nobodys_site.make_lab(nodes=2)
    nobody = nobodys_site.home.stat().st_uid
    assert all(Path(f"/proc/{lab.pid(name)}").stat().st_uid == nobody for name in lab.instances)
    assert "master with replicas" in lab.status()["shape"]
    rotated = nobodys_site.cli("rotate", "lab", "--output", "json")
    assert rotated.code == ExitCode.GOOD, rotated.all
    assert rotated.json()["good"]
    assert lab.master == "n3"
    down = nobodys_site.cli("lab", "down")
    assert down.code == ExitCode.GOOD, down.all
    assert not lab.directory.exists()
    assert not processes_below(nobodys_site.home)


def test_a_directory_that_may_not_be_written_is_named(nobodys_site: Site) -> None:
    nobodys_site.home.chmod(0o555)
    said = nobodys_site.cli("lab", "up")
    assert said.code in (ExitCode.USAGE, ExitCode.TRY_AGAIN), said.all
    assert "Traceback" not in said.all
    assert str(nobodys_site.home) in said.sentence
    nobodys_site.home.chmod(0o755)


# ---- down


def _untouched(_lab: Lab) -> None:
    return


def _killed_frozen_and_deleted(lab: Lab) -> None:
    lab.kill_9("n1")
    os.kill(lab.pid("n2"), signal.SIGSTOP)
    os.kill(lab.book()["endpoint"]["pid"], signal.SIGSTOP)
    shutil.rmtree(lab.directory / "instances" / "n3")


def _all_dead(lab: Lab) -> None:
    for name in lab.instances:
        lab.kill_9(name)
    kill_9(lab.book()["endpoint"]["pid"])


def _server_unrecorded(lab: Lab) -> None:
    # What a SIGKILL of the command between the start of the server and the note of its pid leaves behind.
    lab.edit(lambda book: book["instances"][2].update(process=None))


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(_untouched, id="a healthy lab"),
        pytest.param(_killed_frozen_and_deleted, id="one killed, one frozen, one without files, the endpoint frozen"),
        pytest.param(_all_dead, id="everything is dead, the endpoint too"),
        pytest.param(_server_unrecorded, id="a server runs that was never written down (E12)"),
    ],
)
def test_down_leaves_no_process_and_no_file(
    make_lab: Callable[..., Lab], site: Site, trouble: Callable[[Lab], None]
) -> None:
    lab = make_lab(nodes=3)
    trouble(lab)
    said = site.cli("lab", "down")
    assert said.code == ExitCode.GOOD, said.all
    assert not processes_below(site.home)
    assert not lab.directory.exists()
    again = site.cli("lab", "down")
    refused_in_one_sentence(again, ExitCode.USAGE, "there is no lab 'lab'", "reaper lab up")


def test_down_of_a_lab_that_never_was_says_so(site: Site) -> None:
    said = site.cli("lab", "down", "--name", "never")
    refused_in_one_sentence(said, ExitCode.USAGE, "there is no lab 'never'", "reaper lab up")
    assert not list(site.home.rglob("never*")), "looking for a lab makes none"


# ---- strangers


def test_a_stranger_on_an_instances_port_is_shown_refused_and_left_alone(
    make_lab: Callable[..., Lab], site: Site
) -> None:
    """E13, I4: reaper ends only what it started."""
    lab = make_lab()
    port = lab.record("n2")["port"]
    lab.kill_9("n2")
    with a_listener(port) as stranger:
        states = {m["instance"]: m["state"] for m in lab.status()["members"]}
        assert states == {"local:lab/n1": "running", "local:lab/n2": "stranger", "local:lab/n3": "running"}
        shown = site.cli("status", "lab")
        assert "stranger" in shown.out
        rotated = site.cli("rotate", "lab")
        refused_in_one_sentence(rotated, ExitCode.REFUSED, "stranger", "n2", str(port))
        killed = site.cli("kill", "local:lab/n2", "--yes")
        refused_in_one_sentence(killed, ExitCode.REFUSED, "n2")
        assert site.cli("lab", "down").code == ExitCode.GOOD
        assert stranger.poll() is None
    assert not processes_below(site.home)


def test_a_pid_that_belongs_to_somebody_else_by_now_is_never_killed(make_lab: Callable[..., Lab], site: Site) -> None:
    lab = make_lab()
    for name in ("n1", "n3"):
        lab.kill_9(name)
    kill_9(lab.book()["endpoint"]["pid"])
    with a_process("sleep", "600") as sleeper:

        def give(book: dict[str, Any]) -> None:
            for process in (book["endpoint"], _instance(book, "n1")["process"], _instance(book, "n3")["process"]):
                process["pid"] = sleeper.pid

        lab.edit(give)
        states = {m["instance"]: m["state"] for m in lab.status()["members"]}
        assert states == {"local:lab/n1": "dead", "local:lab/n2": "running", "local:lab/n3": "dead"}
        for command in (("rotate", "lab"), ("kill", "local:lab/n1", "--yes"), ("kill", "local:lab/n3", "--yes")):
            refused_in_one_sentence(site.cli(*command), ExitCode.REFUSED, "n1")
        assert site.cli("lab", "down").code == ExitCode.GOOD
        assert sleeper.poll() is None


def _instance(book: dict[str, Any], name: str) -> dict[str, Any]:
    return next(i for i in book["instances"] if i["name"] == name)


# ---- the book


def _not_json(text: str) -> str:
    return text[: len(text) // 2]


def _unknown_key(text: str) -> str:
    return json.dumps(json.loads(text) | {"colour": "blue"})


def _missing_key(text: str) -> str:
    return json.dumps({k: v for k, v in json.loads(text).items() if k != "endpoint_port"})


def _future_format(text: str) -> str:
    return json.dumps(json.loads(text) | {"format": 99})


def _binary(_text: str) -> str:
    return "\0\1\2"


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        pytest.param(_not_json, "lab.json", id="cut off in the middle"),
        pytest.param(lambda _: "", "lab.json", id="empty"),
        pytest.param(_binary, "lab.json", id="no text"),
        pytest.param(lambda _: "[]", "lab.json", id="another kind of JSON"),
        pytest.param(_unknown_key, "colour", id="with a key that reaper does not know"),
        pytest.param(_missing_key, "endpoint_port", id="without a key that it needs"),
        pytest.param(_future_format, "format", id="written by a later reaper"),
    ],
)
def test_a_damaged_book_is_one_sentence_and_nothing_is_touched(
    lab: Lab, module_site: Site, damage: Callable[[str], str], word: str
) -> None:
    good = lab.book_path.read_text()
    lab.book_path.write_text(damage(good))
    damaged = lab.book_path.read_text()
    pids = [i["process"]["pid"] for i in json.loads(good)["instances"]]
    try:
        for command in (("status", "shared"), ("lab", "down", "--name", "shared")):
            said = module_site.cli(*command)
            refused_in_one_sentence(said, ExitCode.USAGE, str(lab.book_path), word, "restore")
        assert lab.book_path.read_text() == damaged
        assert all(alive(pid) for pid in pids)
    finally:
        lab.book_path.write_text(good)


@pytest.mark.parametrize(
    "command",
    [
        ("rotate", "shared"),
        ("kill", "local:shared/n1", "--yes"),
        ("kill", "--random", "--yes"),
        ("retire", "shared"),
        ("lab", "up", "--name", "shared"),
        ("lab", "load", "--name", "shared"),
    ],
    ids=" ".join,
)
def test_no_command_works_on_a_damaged_book(lab: Lab, module_site: Site, command: tuple[str, ...]) -> None:
    good = lab.book_path.read_text()
    lab.book_path.write_text(_unknown_key(good))
    try:
        refused_in_one_sentence(module_site.cli(*command), ExitCode.USAGE, str(lab.book_path), "colour", "restore")
    finally:
        lab.book_path.write_text(good)
    assert lab.status()["shape"] == "master with replicas"


def test_the_book_and_everything_beside_it_is_closed_to_other_users(lab: Lab) -> None:
    assert stat.S_IMODE(lab.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(lab.book_path.stat().st_mode) == 0o600


# ---- secrets


def test_no_password_is_on_a_command_line_in_a_log_or_in_the_store(make_lab: Callable[..., Lab], site: Site) -> None:
    """Watched while a rotation runs, searched for afterwards; meanwhile nobody else may work on the lab (I7)."""
    lab = make_lab()
    book = lab.book()
    secrets = [book[account]["password"] for account in ("admin", "replication", "application")]
    assert len(set(secrets)) == 3
    assert all(len(secret) >= 24 for secret in secrets)
    stop, seen = threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            for pid in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    said = (pid / "cmdline").read_bytes() + (pid / "environ").read_bytes()
                    if any(secret.encode() in said for secret in secrets):
                        seen.append(said.replace(b"\0", b" "))
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with site.background("rotate", "lab", "--approval", "2m") as rotation:

            def waiting() -> list[str]:
                runs = site.cli("runs", "lab", "--output", "json").json()
                return [r["run"] for r in runs if "a person's yes" in r["waits_for"]]

            until(lambda: bool(waiting()), "the rotation waits for a yes", 60)
            run = waiting()[0]
            for command in (("lab", "down"), ("rotate", "lab"), ("kill", "local:lab/n2", "--yes"), ("retire", "lab")):
                said = site.cli(*command)
                refused_in_one_sentence(said, ExitCode.REFUSED, run)
            assert site.cli("approve", run).code == ExitCode.GOOD
            out, err = rotation.communicate(timeout=120)
    finally:
        stop.set()
        watcher.join()
    assert rotation.returncode == ExitCode.GOOD, out + err
    assert not seen
    runs = site.cli("runs", "--output", "json").json()
    assert [run["state"] for run in runs] == ["good"]
    shown = site.cli("show", runs[0]["run"]).all + site.cli("show", runs[0]["run"], "--output", "json").all
    status = site.cli("status").all + site.cli("status", "--output", "json").all
    load = site.cli("lab", "load", "--for", "1s").all
    assert not [secret for secret in secrets if secret in out + err + shown + status + load]
    told = [
        path.relative_to(site.home)
        for path in site.home.rglob("*")
        if path.is_file() and path.name != "lab.json" and "data" not in path.relative_to(site.home).parts
        if any(secret.encode() in path.read_bytes() for secret in secrets)
    ]
    assert not told


# ---- load


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_load_says_what_it_does_and_stops_on_a_signal(lab: Lab, module_site: Site, number: signal.Signals) -> None:
    with module_site.background("lab", "load", "--name", lab.name, "--rate", "50") as load:
        assert load.stdout is not None
        lines = [load.stdout.readline(), load.stdout.readline()]
        load.send_signal(number)
        out, err = load.communicate(timeout=30)
    assert load.returncode == ExitCode.GOOD, out + err
    assert "Traceback" not in err
    assert all("writes" in line and "reads" in line and "0 errors" in line for line in lines), lines
    assert out.splitlines()[-1].startswith("stopped: ")
    for name in lab.instances:
        until(lambda name=name: len(lab.rows(name, "app.load_rows")) > 0, f"the load's rows are on {name}")


def test_load_stops_by_itself(lab: Lab, module_site: Site) -> None:
    said = module_site.cli("lab", "load", "--name", lab.name, "--for", "1s", "--clients", "2", "--rate", "20")
    assert said.code == ExitCode.GOOD, said.all
    assert said.out.splitlines()[-1].startswith("stopped: ")


# ---- the endpoint


def test_a_dead_endpoint_is_said_and_comes_back_with_its_route(make_lab: Callable[..., Lab], site: Site) -> None:
    lab = make_lab(nodes=2)
    route = (lab.directory / "endpoint" / "route.json").read_text()
    kill_9(lab.book()["endpoint"]["pid"])
    refused_in_one_sentence(site.cli("lab", "load"), ExitCode.TRY_AGAIN, "takes no writes", "reaper status lab")
    assert site.cli("status", "lab").code == ExitCode.GOOD
    refused_in_one_sentence(site.cli("rotate", "lab"), ExitCode.REFUSED, "endpoint", "reaper lab up")
    with a_listener(lab.book()["endpoint_port"]) as stranger:
        refused_in_one_sentence(site.cli("lab", "up"), ExitCode.USAGE, "endpoint", str(lab.book()["endpoint_port"]))
        assert stranger.poll() is None
    up = site.cli("lab", "up")
    assert up.code == ExitCode.GOOD, up.all
    assert (lab.directory / "endpoint" / "route.json").read_text() == route
    assert lab.master == "n1"
    assert site.cli("rotate", "lab", "--dry-run").code == ExitCode.GOOD
