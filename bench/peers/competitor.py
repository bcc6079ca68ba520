"""One subject made ready for one checkpoint, and what is asked of it."""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bench.peers import environment
from bench.peers.cached_folder import STAMP, cached_folder
from bench.peers.catalogue import Subject
from bench.peers.process import WorkerProcess
from bench.peers.protocol import Prompts, Timeline

PREPARE_LIMIT_S = 1800.0
LOAD_LIMIT_S = 600.0
RUN_LIMIT_S = 900.0


@dataclass(frozen=True)
class Place:
    """Where a comparison keeps its things, and how large its requests become."""

    checkpoint: Path
    peers_folder: Path
    max_num_seqs: int
    max_num_tokens: int


class Competitor:
    """A subject's running worker; a context manager that ends it. All methods raise PeerError."""

    def __init__(self, name: str, subject: Subject, place: Place, dtype: str = "bfloat16") -> None:
        self.name = name
        self.subject = subject
        self.startup_s = 0.0
        self._place = place
        self._options = {**subject.options, "dtype": dtype}
        self._threads = len(os.sched_getaffinity(0))
        self._scratch = tempfile.TemporaryDirectory()
        python = sys.executable
        if subject.environment is not None:
            python = str(environment.ensure(subject.environment, place.peers_folder))
        self._command = [python, "-m", f"bench.peers.{subject.module}"]
        model = self._converted() if subject.converts else place.checkpoint
        self.worker = self._start()
        try:
            self.versions: dict[str, str] = self._load(model)
        except BaseException:
            self.close()
            raise

    def start_up(self, prompts: Prompts) -> None:
        """Serve the first request; `startup_s` is from the start of the process to its token."""
        self.startup_s = self.run(prompts, 2).times_s[0][0] - self.worker.started_s

    def run(self, prompts: Prompts, max_tokens: int) -> Timeline:
        """Serve the prompts together, greedily, past every end-of-sequence token."""
        question = {"do": "run", "prompts": prompts, "max_tokens": max_tokens}
        return Timeline(**self.worker.ask(question, RUN_LIMIT_S))

    def memory(self) -> dict[str, int]:
        """Return resident bytes now and at their peak."""
        status = self.worker.status()
        names = {"rss_bytes": "VmRSS", "peak_rss_bytes": "VmHWM"}
        return {name: int(status[key].split()[0]) * 1024 for name, key in names.items()}

    def close(self) -> None:
        """End the worker."""
        self.worker.close()
        self._scratch.cleanup()

    def __enter__(self) -> "Competitor":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> WorkerProcess:
        environ = {
            "OMP_NUM_THREADS": str(self._threads),
            "HF_HUB_OFFLINE": "1",
            **self.subject.environ,
        }
        return WorkerProcess(self._command, Path(self._scratch.name) / "stderr.log", environ)

    def _load(self, model: Path) -> dict[str, str]:
        question = {
            "do": "load",
            "model": str(model),
            "options": self._options,
            "threads": self._threads,
            "max_num_seqs": self._place.max_num_seqs,
            "max_num_tokens": self._place.max_num_tokens,
        }
        versions: dict[str, str] = self.worker.ask(question, LOAD_LIMIT_S)["versions"]
        return versions

    def _converted(self) -> Path:
        """Return the checkpoint in the engine's own form, kept beside it while nothing changes."""
        folder = self._place.checkpoint.parent / self.name
        worker = Path(__file__).parent / f"{self.subject.module}.py"
        own = self.subject.environment
        pins = "" if own is None else environment.requirements(own)
        source = (self._place.checkpoint / STAMP).read_text()
        recipe = "\n".join([worker.read_text(), pins, source, str(self._options)])
        return cached_folder(folder, recipe, lambda: self._convert(folder))

    def _convert(self, folder: Path) -> None:
        print(f"converting the checkpoint for {self.name}", flush=True)
        question = {
            "do": "prepare",
            "checkpoint": str(self._place.checkpoint),
            "folder": str(folder),
            "options": self._options,
        }
        worker = self._start()
        try:
            worker.ask(question, PREPARE_LIMIT_S)
        finally:
            worker.close()
