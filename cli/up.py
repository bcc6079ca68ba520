"""`infermesh up`: the whole stack on one machine, in the foreground."""

import argparse
import asyncio
import fcntl
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli import keys
from cli.models.catalogue import CHAT_MODEL, too_large
from cli.models.default import default_model
from cli.models.locate import UnknownModelError, locate
from cli.models.memory import available_bytes
from cli.models.store import FOLDER_VARIABLE, Store, StoreError, default_folder
from cli.plan import Options, Plan, PlanError, plan
from cli.replica import Replica
from cli.servers import MissingServerError
from cli.supervisor import Supervisor
from cli.table import Lines, screen

FOLDER = Path(".infermesh")
DEV_KEY = FOLDER / "dev-key"
ADMIN_KEY = FOLDER / "admin-key"
# beyond what a service gives itself to drain
KILL_AFTER_S = 5.0


class AlreadyUpError(Exception):
    """Another `infermesh up` works in this folder."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `infermesh up`."""
    parser.add_argument("--generators", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--tokenizers", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--retrievers", type=int, default=1, metavar="1", help="its store has one writer"
    )
    parser.add_argument(
        "--port", type=int, help="the gateway's; default: INFERMESH_GATEWAY_PORT or 8080"
    )
    parser.add_argument(
        "--model",
        help="a checkpoint's folder, a GGUF file, or the name of a pulled model;"
        f" default: INFERMESH_MODEL, else {CHAT_MODEL} where it is, else infermesh-tiny",
    )
    parser.add_argument(
        "--quantization",
        choices=("int8", "int4", "fp8"),
        help="round the weights; default: as they are",
    )


def run(arguments: argparse.Namespace) -> int:
    """Return when everything has stopped: 0, or 2 where nothing could be started."""
    try:
        model = _model(arguments.model or os.environ.get("INFERMESH_MODEL", ""))
    except (UnknownModelError, StoreError) as error:
        print(f"infermesh up: --model: {error}", file=sys.stderr)
        return 2
    options = Options(
        folder=FOLDER,
        generators=arguments.generators,
        tokenizers=arguments.tokenizers,
        retrievers=arguments.retrievers,
        port=arguments.port,
        model=model,
        quantization=arguments.quantization,
    )
    try:
        with _alone(FOLDER):
            dev_key = keys.ensure(DEV_KEY, os.environ.get("INFERMESH_GATEWAY_DEV_KEY", ""))
            admin_key = keys.ensure(ADMIN_KEY, os.environ.get("INFERMESH_GATEWAY_ADMIN_KEY", ""))
            environ = {k: v for k, v in os.environ.items() if k != FOLDER_VARIABLE}
            planned = plan(options, environ, dev_key, admin_key)
            asyncio.run(_supervise(planned, dev_key))
    except PlanError as error:
        print("\n".join(f"infermesh up: {p}" for p in error.problems), file=sys.stderr)
        return 2
    except (AlreadyUpError, MissingServerError) as error:
        print(f"infermesh up: {error}", file=sys.stderr)
        return 2
    return 0


def _model(name: str) -> Path:
    """Return where the model lies; raises UnknownModelError, also where it is known not to fit."""
    store, free_bytes = Store(default_folder(os.environ)), available_bytes()
    if not name:
        location, notice = default_model(store, free_bytes)
        if notice is not None:
            print(f"infermesh up: {notice}", file=sys.stderr)
    else:
        location = locate(name, store)
    if location.entry is not None:
        problem = too_large(location.entry, free_bytes)
        if problem is not None:
            raise UnknownModelError(problem)
    return location.path


async def _supervise(planned: Plan, dev_key: str) -> None:
    logs = _folders(planned)
    with screen(planned.external) as shown:

        def report(replica: Replica, detail: str) -> None:
            shown.changed(replica, detail)
            shown.show(supervisor.replicas)

        def interrupt() -> None:
            if supervisor.interrupt():
                shown.say("stopping; once more to kill what is left")

        supervisor = Supervisor(
            planned.stages, logs, report, lambda: _announce(shown, planned, dev_key)
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # under nohup a lost terminal is no reason to stop
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, interrupt)
        await supervisor.run(planned.drain_s + KILL_AFTER_S)


def _announce(shown: Lines, planned: Plan, dev_key: str) -> None:
    shown.say(f"\nready: {planned.url}\ndevelopment key: {dev_key}  (in {DEV_KEY})\n")
    shown.say(curl(planned.url, dev_key, planned.model_id) + "\n")


def curl(url: str, key: str, model_id: str) -> str:
    """One line for a shell: a streaming chat completion."""
    message = {"role": "user", "content": "Hello! Who are you?"}
    body = json.dumps({"model": model_id, "stream": True, "messages": [message]})
    return (
        f'curl -N {url}/v1/chat/completions -H "Authorization: Bearer {key}"'
        f" -H 'Content-Type: application/json' -d {shlex.quote(body)}"
    )


def _folders(planned: Plan) -> Path:
    """Make the folders of the stack's data; logs of the last run go."""
    for name in ("nats", "redis", "retriever", "logs"):
        (FOLDER / name).mkdir(exist_ok=True)
    logs = FOLDER / "logs"
    for service in (service for stage in planned.stages for service in stage):
        (logs / f"{service.label}.log").unlink(missing_ok=True)
    return logs


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel frees it however this process ends."""
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise AlreadyUpError(
                f"another one runs in {Path.cwd()} (pid {lock.read().strip() or 'unknown'})"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
