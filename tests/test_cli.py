"""The command line: what it prints, what it writes, and how it says no."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ragtune.errors import EngineError, RagTuneError, ResourceError, SettingsError
from ragtune.records import Chunk, GateDecision, Hit, QAPair, Score, SplitItem
from ragtune.settings import child_environment, load_settings
from ragtune.store.artifacts import ArtifactStore, write_json
from ragtune.store.locks import held
from ragtune.store.warehouse import Warehouse
from ragtune_serving.address import check_port, endpoint_url
from ragtune_serving.checks import examine
from ragtune_serving.cli import app
from ragtune_serving.client import GatewayClient
from ragtune_serving.commands import asking, demo, documents, running
from ragtune_serving.processes import Program, how_to_stop, run_in_foreground, start, stop, supervise
from ragtune_serving.terminal import stoppable, words_of_interrupt

SCORE = Score(
    model="fine-tuned",
    precision="w8a8",
    metric="token_f1",
    value=0.75,
    low=0.7,
    high=0.8,
    n=160,
    split="test",
    dataset_sha256="d",
    model_version="2",
    seed=17,
    signature="s",
)
DECISION = GateDecision(
    promoted=True,
    reason="the interval excludes zero",
    metric="token_f1",
    live=0.2,
    candidate=0.7,
    gain=0.5,
    low=0.4,
    high=0.6,
    smallest_detectable_gain=0.05,
    n=120,
    alpha=0.05,
    live_version="",
    candidate_version="2",
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_the_command_line_has_the_fixed_commands():
    text = invoke("--help").output
    fixed = ("index", "search", "materialize", "serve", "up", "ask", "status", "rollback", "doctor", "demo")
    assert all(f" {name} " in text for name in fixed)


def test_an_error_is_a_message_and_exit_code_1_without_a_traceback(home):
    result = subprocess.run(
        [sys.executable, "-m", "ragtune_serving.cli", "search", "hello", "--mode", "psychic"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "hybrid, text or vector" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_home_that_belongs_to_somebody_else_is_a_message(tmp_path):
    # Nobody may create a folder in /sys, not even root.
    environment = child_environment(RAGTUNE_HOME="/sys/ragtune")
    for command in (["ragtune_serving.cli", "status"], ["ragtune_assets.materialize"]):
        result = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, check=False, env=environment
        )
        assert result.returncode == 1
        assert "/sys/ragtune cannot be used" in result.stderr + result.stdout
        assert "set RAGTUNE_HOME to a folder of your own" in result.stderr + result.stdout
        assert "Traceback" not in result.stderr


def test_documents_are_indexed_found_and_ranked_into_a_run_file(home, tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "cart.md").write_text("# Cart\n\nThe cart adds up the prices of all items.\n")
    (folder / "login.md").write_text("# Login\n\nA session lasts for thirty minutes after the password was checked.\n")
    result = invoke("index", "--source", f"folder:{folder}", "--json")
    counts = json.loads(result.stdout)
    assert set(counts) >= {"documents", "chunks", "added", "updated", "deleted", "seconds"}
    assert (counts["documents"], counts["added"], counts["deleted"]) == (2, counts["chunks"], 0)
    assert json.loads(invoke("index", "--source", f"folder:{folder}", "--json").stdout)["embedded"] == 0

    hits = json.loads(invoke("search", "how long does a session last", "--json", "--top-k", "1").stdout)
    assert len(hits) == 1
    assert "thirty minutes" in hits[0]["text"]
    assert set(hits[0]) >= {"document", "chunk", "score", "text"}
    assert "Login" in invoke("search", "session").stdout

    queries, run, timings = tmp_path / "q.jsonl", tmp_path / "out" / "run.trec", tmp_path / "t.jsonl"
    queries.write_text('{"id": "q1", "text": "prices of items"}\n{"id": 2, "text": "password"}\n')
    batch = ["--queries", str(queries), "--run", str(run), "--timings", str(timings), "--level", "document"]
    assert invoke("search", *batch, "--top-k", "100").exit_code == 0
    rows = [line.split() for line in run.read_text().splitlines()]
    assert {row[0] for row in rows} == {"q1", "2"}
    assert [row[3] for row in rows if row[0] == "q1"] == ["1", "2"][: sum(row[0] == "q1" for row in rows)]
    assert rows[0][2] == next(h["document"] for h in json.loads(invoke("search", "prices", "--json").stdout))
    assert all(json.loads(line)["latency_ms"] > 0 for line in timings.read_text().splitlines())


def test_a_document_is_ranked_once_by_its_best_chunk():
    chunks = [
        Chunk(id=f"c{i}", document_id=document, source="s", title="t", heading_path=(), text="x", position=i)
        for i, document in enumerate(["a", "b", "a"])
    ]
    hits = [Hit(chunk, 1.0 - i / 10) for i, chunk in enumerate(chunks)]
    assert documents._ranking(hits, "document") == [("a", 1.0), ("b", 0.9)]
    assert [name for name, _ in documents._ranking(hits, "chunk")] == ["c0", "c1", "c2"]


def test_searching_without_an_index_says_how_to_make_one(home):
    result = invoke("search", "hello")
    assert isinstance(result.exception, SettingsError)
    assert "ragtune index" in str(result.exception)


def test_a_broken_line_of_a_batch_is_named(tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text('{"id": "a", "text": "b"}\n{"id": "a"}\n')
    with pytest.raises(RagTuneError, match="Line 2"):
        documents.read_lines(file, "id", "text")


@pytest.mark.parametrize(
    ("dials", "switches", "words"),
    [
        (["deep=1"], [], ["creativity", "depth"]),
        (["depth=much"], [], ["depth=0.8"]),
        (["depth=2"], [], ["0 to 1"]),
        ([], ["citations=perhaps"], ["citations=off"]),
        ([], ["cite=off"], ["strict_grounding"]),
    ],
)
def test_an_error_about_wrong_controls_lists_the_valid_ones(dials, switches, words):
    with pytest.raises(SettingsError) as caught:
        asking.parse_controls(dials, switches)
    assert all(word in str(caught.value) for word in words)


def test_controls_reach_the_request():
    controls = asking.parse_controls(["depth=0.8"], ["citations=off"])
    assert controls == {"dials": {"depth": 0.8}, "switches": {"citations": False}}
    assert asking.parse_controls([], []) == {}


def test_asking_without_a_key_says_what_to_do(home):
    result = invoke("ask", "hello")
    assert isinstance(result.exception, ResourceError)
    assert "ragtune serve" in str(result.exception)


def test_a_batch_does_not_continue_a_file_with_answers_to_other_questions(tmp_path):
    answers = tmp_path / "a.jsonl"
    answers.write_text('{"id": "x"}\n{"id": "y"}\n{"id"')
    assert asking._count_finished(answers, ["x", "y", "z"]) == 2
    assert answers.read_text() == '{"id": "x"}\n{"id": "y"}\n'
    with pytest.raises(SettingsError, match="other questions"):
        asking._count_finished(answers, ["y", "x"])


def test_status_of_an_empty_home_says_so(home):
    report = json.loads(invoke("status", "--json").stdout)
    assert report["gateway"]["live"] is None
    assert report["aliases"] == {"champion": None, "challenger": None, "previous": None}
    assert report["feedback"] == {"responses": 0, "verdicts": 0}
    printed = invoke("status").stdout
    assert "champion    -" in printed
    assert "index       none yet; `ragtune index` builds it" in printed


def test_rollback_without_a_previous_champion_is_refused(home):
    assert "no previous champion" in str(invoke("rollback").exception)


def test_the_doctor_names_what_is_wrong_and_how_to_fix_it(home, monkeypatch, tmp_path):
    settings = load_settings({"engine": {"python": str(tmp_path / "nowhere")}, "base_model": {"name": str(tmp_path)}})
    findings = {finding.what: finding for finding in examine(settings)}
    assert findings["packages"].ok
    assert findings["base model"].ok
    assert "computes in" in findings["processor"].found
    assert not findings["engine"].ok
    assert "make install" in findings["engine"].fix
    monkeypatch.setenv("RAGTUNE_ENGINE__PYTHON", str(tmp_path / "nowhere"))
    assert invoke("doctor").exit_code == 1


def test_a_busy_port_names_its_setting():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ResourceError, match="RAGTUNE_PORTS__DAGSTER"):
            check_port("127.0.0.1", port, "ports.dagster")
    check_port("127.0.0.1", port, "ports.dagster")


def test_the_gateway_and_the_key_come_from_the_settings(home, monkeypatch):
    monkeypatch.setenv("RAGTUNE_GATEWAY_URL", "http://127.0.0.1:9/v1/")
    monkeypatch.setenv("RAGTUNE_API_KEY", "rt-secret")
    client = GatewayClient(load_settings())
    assert client.url == "http://127.0.0.1:9"
    assert client._client.headers["authorization"] == "Bearer rt-secret"
    with pytest.raises(ResourceError, match=r"No gateway answers at http://127\.0\.0\.1:9\."):
        client.ask("Why?")
    assert "rt-secret" not in repr(load_settings())


def test_the_address_of_a_killed_gateway_or_of_the_original_of_a_copy_is_not_used(home):
    settings = load_settings({"gateway": {"port": 9}})
    write_json(home / "gateway" / "endpoint.json", {"url": "http://127.0.0.1:1234"})
    assert endpoint_url(settings) == "http://127.0.0.1:9"
    with held(home / "gateway" / "serve.lock"):
        assert endpoint_url(settings) == "http://127.0.0.1:1234"


def test_up_runs_everything_on_loopback_with_its_state_in_the_home(home):
    programs = running.platform_programs(load_settings())
    names = {"gateway", "alerts", "Dagster daemon", "Dagster webserver", "MLflow UI"}
    assert {program.name for program in programs} == names
    for program in programs:
        assert program.log.is_relative_to(home)
        if program.name not in ("Dagster daemon", "alerts"):  # these two do not listen
            assert "127.0.0.1" in program.command
        if program.name.startswith("Dagster"):
            assert program.environment["RAGTUNE_DAGSTER_STORAGE"] == str(home / "dagster")


def test_up_starts_no_mlflow_ui_if_the_settings_name_a_server(home, monkeypatch):
    monkeypatch.setenv("RAGTUNE_TRACKING__URL", "http://127.0.0.1:9")
    assert "MLflow UI" not in {program.name for program in running.platform_programs(load_settings())}


def test_a_program_that_is_killed_is_started_again_and_the_others_go_on(tmp_path, caplog):
    counts = "echo $$ >> {file}; exec sleep 603"
    files = [tmp_path / "killed", tmp_path / "other"]
    programs = [
        Program(file.name, ["sh", "-c", counts.format(file=file)], tmp_path / f"{file.name}.log") for file in files
    ]

    def kill_once_then_end() -> None:
        while not files[0].is_file() or not files[0].read_text().strip():
            time.sleep(0.05)
        time.sleep(0.5)  # longer than `settled`
        os.kill(int(files[0].read_text()), signal.SIGKILL)
        while len(files[0].read_text().split()) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=kill_once_then_end, daemon=True).start()
    supervise(programs, settled=0.3)
    assert [len(file.read_text().split()) for file in files] == [2, 1]
    assert "killed ended with code -9. It is started again." in caplog.text


def test_if_one_program_ends_at_its_start_the_others_are_stopped_and_the_error_shows_its_log(tmp_path):
    sleeper = Program("sleeper", ["sleep", "600"], tmp_path / "a.log")
    failing = Program("failing", [sys.executable, "-c", "import time; time.sleep(0.3); 1/0"], tmp_path / "b.log")
    with pytest.raises(EngineError, match=r"failing ended with code 1(.|\n)*ZeroDivisionError"):
        supervise([sleeper, failing])
    assert not [1 for process in Path("/proc").glob("[0-9]*/cmdline") if process.read_bytes() == b"sleep\0600\0"]


def test_a_signal_ends_all_programs(tmp_path):
    started = time.monotonic()
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start()
    supervise([Program("sleeper", ["sleep", "601"], tmp_path / "a.log")])
    assert time.monotonic() - started < 10, "far less than the 20 s after which a program is killed"


@pytest.fixture
def set_sigint():
    """Sets the handler of SIGINT for one test; the tests may themselves run in a background job that ignores it."""
    old_handler = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, old_handler)


def test_ctrl_c_is_passed_on_and_the_command_takes_the_time_it_needs(tmp_path, set_sigint):
    set_sigint(signal.default_int_handler)
    file = tmp_path / "result"
    script = (
        "import signal, sys, time, pathlib\n"
        "def end(*_):\n time.sleep(1); pathlib.Path(sys.argv[1]).write_text('cleaned up'); sys.exit(130)\n"
        "signal.signal(signal.SIGINT, end); signal.pause()"
    )
    threading.Timer(0.7, os.kill, [os.getpid(), signal.SIGINT]).start()
    assert run_in_foreground([sys.executable, "-c", script, str(file)]) == 130
    assert file.read_text() == "cleaned up"


def test_ctrl_c_stays_off_where_a_shell_switched_it_off_and_kill_ends_the_command(tmp_path, set_sigint):
    set_sigint(signal.SIG_IGN)
    threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
    assert run_in_foreground(["sleep", "1"]) == 0
    threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGTERM]).start()
    assert run_in_foreground(["sleep", "600"]) == 128 + signal.SIGTERM


def test_a_long_command_says_how_to_stop_it(set_sigint):
    set_sigint(signal.default_int_handler)
    assert how_to_stop("it") == "Ctrl-C stops it."
    set_sigint(signal.SIG_IGN)
    assert how_to_stop("it").endswith(f"background job. To stop it: kill {os.getpid()}")


def test_a_command_that_is_killed_says_so():
    with pytest.raises(ResourceError, match=r"was killed by signal 9(.|\n)*run it again"):
        run_in_foreground(["bash", "-c", "kill -9 $$"])


def test_a_program_that_ignores_the_signal_is_killed_with_its_children(tmp_path):
    script = "trap '' TERM; sleep 602 & wait; wait; sleep 602"
    process = start(Program("stubborn", ["bash", "-c", script], tmp_path / "a.log"))
    time.sleep(0.3)
    stop(process, patience=0.5)
    assert process.returncode == -signal.SIGKILL
    time.sleep(0.1)
    assert not [1 for process in Path("/proc").glob("[0-9]*/cmdline") if process.read_bytes() == b"sleep\0602\0"]


def test_the_demo_asks_unseen_questions_of_different_kinds(home):
    store = ArtifactStore(load_settings().home / "artifacts")
    pair = QAPair(id="0", question="What is a?", answer="An a.", kind="default", document_id="d", chunk_id="c")
    items = [
        SplitItem(replace(pair, id="train"), "train", "k"),
        SplitItem(replace(pair, id="1"), "test", "k"),
        SplitItem(replace(pair, id="2"), "test", "k"),
        SplitItem(replace(pair, id="3", kind="returns"), "test", "k"),
        SplitItem(replace(pair, id="4", answerable=False, kind="none"), "test", "k"),
    ]
    store.set_current(store.write_records("qa_splits", items))
    ids = [pair.id for pair in demo.demo_questions(load_settings())]
    assert sorted(ids[:2]) == ["1", "3"], "first one question of each kind"
    assert ids[2] == "2"


def test_the_report_shows_scores_with_n_and_interval_and_the_decision(home, capsys, monkeypatch):
    settings = load_settings()
    warehouse = Warehouse(settings.home / "warehouse.duckdb")
    warehouse.append([SCORE, replace(SCORE, model="base", precision="bf16", value=0.17, low=0.12, high=0.22)])
    warehouse.append(
        [
            replace(
                DECISION, out_of_domain_gain=-0.1, out_of_domain_low=-0.2, out_of_domain_high=0.01, out_of_domain_n=48
            )
        ]
    )
    monkeypatch.setattr(demo.out, "width", 200)
    demo.report(settings)
    text = capsys.readouterr().out
    assert "0.750 [0.700, 0.800]" in text
    assert "0.170 [0.120, 0.220]" in text
    assert "n=160" in text
    assert "Promoted: the interval excludes zero" in text
    assert "the smallest gain that this test can detect is 0.050" in text
    assert "something else: -0.100 [-0.200, +0.010], n=48" in text


def test_ctrl_c_in_an_index_says_what_is_kept_and_how_to_go_on(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(2000):  # more than can be read before the signal arrives
        (folder / f"{number}.md").write_text(f"# Page {number}\n\nSome text.\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "ragtune_serving.cli", "index", "--source", f"folder:{folder}"],
        env=child_environment(RAGTUNE_HOME=str(tmp_path / "home")),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr
    assert process.stderr.readline().startswith("reading folder:")
    process.send_signal(signal.SIGINT)
    last_line = process.communicate(timeout=60)[1].splitlines()[-1]
    assert process.returncode == 130
    assert last_line == f"Stopped by Ctrl-C. {documents.INDEX_KEPT}"


def test_ctrl_c_has_the_words_of_its_command_after_typer_made_an_exit_of_it():
    small = typer.Typer()

    @small.command()
    def work() -> None:
        with stoppable("Half of it is kept."):
            raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        small([])
    assert words_of_interrupt(end.value) == "Stopped by Ctrl-C. Half of it is kept."


def test_an_exit_that_no_ctrl_c_caused_says_nothing_about_one():
    assert words_of_interrupt(SystemExit(130)) is None
