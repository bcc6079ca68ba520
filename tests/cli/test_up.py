"""`infermesh up` as a command; the whole stack behind it is tested end to end."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cli import servers
from cli.main import main
from cli.plan import ROOT
from cli.up import AlreadyUpError, _alone, curl


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a checkpoint that no service can load."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path


def test_the_curl_line_is_one_line_that_a_shell_reads() -> None:
    """Its body is JSON that asks for a stream."""
    line = curl("http://127.0.0.1:8080", "sk-a_b-c", "it's-tiny")
    assert "\n" not in line
    words = shlex.split(line)
    assert words[:3] == ["curl", "-N", "http://127.0.0.1:8080/v1/chat/completions"]
    assert "Authorization: Bearer sk-a_b-c" in words
    body = json.loads(words[-1])
    assert (body["model"], body["stream"]) == ("it's-tiny", True)


def test_a_busy_port_is_named_before_anything_starts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, and no process was started."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert main(["up", "--port", str(port), "--model", "model"]) == 2
    error = capsys.readouterr().err
    assert error == f"infermesh up: port {port} is busy; the gateway needs it (see --port)\n"
    assert not (folder / ".infermesh" / "logs").exists()


@pytest.mark.parametrize("name", ["no-such-model", "smollm2-135m-instruct", "org/name", "."])
def test_a_model_that_is_not_here_is_named(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2 with what would help, and no process was started."""
    monkeypatch.setenv("INFERMESH_MODELS", str(folder / "models"))
    assert main(["up", "--model", name]) == 2
    error = capsys.readouterr().err
    assert error.startswith("infermesh up: --model:") and name in error
    assert ("infermesh pull" in error) == (name in ("smollm2-135m-instruct", "org/name"))


def test_the_small_model_stands_in_where_the_chat_model_is_not(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says so and how to get the other; nothing is fetched."""
    monkeypatch.setenv("INFERMESH_MODELS", str(folder / "models"))
    monkeypatch.delenv("INFERMESH_MODEL", raising=False)
    assert main(["up", "--generators", "0"]) == 2
    notice, refusal = capsys.readouterr().err.splitlines()
    assert notice == (
        "infermesh up: serving infermesh-tiny: smollm2-135m-instruct is not here:"
        " infermesh pull smollm2-135m-instruct"
    )
    assert "--generators" in refusal
    assert not (folder / "models").exists()


def test_a_folder_has_one_stack(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second is told who holds it; afterwards the folder is free."""
    with _alone(folder / ".infermesh"):
        assert main(["up", "--model", "model"]) == 2
        error = capsys.readouterr().err
        assert error == f"infermesh up: another one runs in {folder} (pid {os.getpid()})\n"
        with pytest.raises(AlreadyUpError), _alone(folder / ".infermesh"):
            pass
    with _alone(folder / ".infermesh"):
        pass


def test_a_second_retriever_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the reason."""
    assert main(["up", "--retrievers", "2", "--model", "model"]) == 2
    assert "one writer" in capsys.readouterr().err


@pytest.fixture
def with_terminal() -> Iterator[None]:
    """Let children hear SIGHUP, which they ignore where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("with_terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_no_process(folder: Path, number: int) -> None:
    """Also while services fail and restart; keys lie there, private, before anything is ready."""
    elsewhere = dict.fromkeys(
        ("INFERMESH_TOKENIZER_URL", "INFERMESH_RETRIEVER_URL", "INFERMESH_CACHE_URL"), "127.0.0.1:9"
    )
    command = [sys.executable, "-m", "cli.main", "up", "--model", "model"]
    with subprocess.Popen(
        [*command, "--port", str(servers.free_port())],
        env={**os.environ, **elsewhere, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as up:
        assert up.stdout is not None
        lines = []
        while not any(line.startswith("nats-0") and "ready" in line for line in lines):
            lines.append(up.stdout.readline())
        children = psutil.Process(up.pid).children(recursive=True)
        assert len(children) >= 2
        assert (folder / ".infermesh" / "dev-key").stat().st_mode & 0o777 == 0o600
        up.send_signal(number)
        rest, _ = up.communicate(timeout=60)
    assert up.returncode == 0
    assert not psutil.wait_procs(children, timeout=0)[1]
    stopped = [line.split()[0] for line in rest.splitlines() if " stopped " in line]
    assert stopped[:2] == ["gateway-0", "generator-0"]
    assert sorted(stopped[2:]) == ["nats-0", "redis-0"]


def test_without_a_command_the_commands_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """As argparse does it."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("up", "ingest", "chat"))
