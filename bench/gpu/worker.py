"""The process that has the device: answers one question a line, and tells why it cannot.

It keeps the engine of one shape between questions.
"""

import gc
import importlib.util
import json
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import torch

from bench.gpu.cases import cases
from bench.gpu.engine.decode import DecodePlan, measure_decode
from bench.gpu.engine.gate import gate
from bench.gpu.engine.random_engine import MAX_BATCHED_TOKENS, load_random_engine
from bench.gpu.engine.shapes import GATE_SHAPES, SHAPES
from bench.gpu.engine.workload import Workload, num_kv_tokens, serve
from bench.gpu.kernel_row import Ceilings, measured
from bench.gpu.timing import copied_bytes_per_s, multiplied_flops_per_s
from services.generator.engine import Engine

TRACE_LINES, REASON_LENGTH = 40, 300
SMALL_COPY_BYTES, SMALL_PRODUCT_SIZE = 2**26, 512


class Faults(logging.Handler):
    """Keeps the last traceback that was logged: the engine survives a fault and only logs it."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it if it has a traceback."""
        if record.exc_info and record.exc_info[1] is not None:
            self.lines = _lines(record.exc_info[1])


class Worker:
    """Carries out questions; each method raises whatever fails."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._engine_key: object = None

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to one question, by its `do`."""
        answer: dict[str, Any] = getattr(self, f"do_{question['do']}")(question)
        return answer

    def do_ceilings(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Tell what the device is, and what it copies and multiplies in a second."""
        device, repeats = question["device"], question["repeats"]
        if device == "cpu":
            return {
                "device": "cpu",
                "copy_bytes_per_s": copied_bytes_per_s(device, repeats, SMALL_COPY_BYTES),
                "product_flops_per_s": multiplied_flops_per_s(device, repeats, SMALL_PRODUCT_SIZE),
            }
        properties = torch.cuda.get_device_properties(0)
        return {
            "device": properties.name,
            "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "copy_bytes_per_s": copied_bytes_per_s(device, repeats),
            "product_flops_per_s": multiplied_flops_per_s(device, repeats),
        }

    def do_names(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Tell the kernels' cases."""
        return {"names": [case.name for case in cases()]}

    def do_case(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Measure one case."""
        torch.cuda.empty_cache()
        torch.manual_seed(0)
        case = next(case for case in cases() if case.name == question["name"])
        ceilings = Ceilings(question["copy_bytes_per_s"], question["product_flops_per_s"])
        return measured(case, question["device"], question["repeats"], ceilings)

    def do_gate(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Hold the device's tokens against the CPU's."""
        self._drop_engine()
        config = GATE_SHAPES[question["shape"]]
        return gate(config, question["dtype"], question["device"], question["lengths"])

    def do_decode(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Measure one batch; the engine has room for the largest of `batches`."""
        config, plan = SHAPES[question["shape"]], DecodePlan(**question["plan"])
        batches, key = question["batches"], ("decode", question["shape"])
        if self._engine is None or key != self._engine_key:
            self._drop_engine()
            plans = [DecodePlan(**{**question["plan"], "batch": batch}) for batch in batches]
            self._engine = load_random_engine(
                config,
                device=question["device"],
                max_num_seqs=max(batches),
                num_tokens=max(each.num_tokens(MAX_BATCHED_TOKENS) for each in plans),
            )
            self._engine_key = key
            _freeze()
        return measure_decode(self._engine, config, plan, question["copy_bytes_per_s"])

    def do_workload(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Serve the workload on an engine that has served one of other tokens before."""
        self._drop_engine()
        config, device = SHAPES[question["shape"]], question["device"]
        workload = Workload(**question["workload"], vocab_size=int(config["vocab_size"]))
        requests, warm_up = workload.requests(0), workload.requests(1)
        num_tokens = max(map(num_kv_tokens, (requests, warm_up)))
        if question["engine"] == "transformers":
            if importlib.util.find_spec("transformers") is None:
                return {"absent": "transformers is not installed"}
            from bench.gpu.engine import transformers_peer as peer

            model = peer.load_model(config, device, torch.bfloat16)
            return peer.compare(model, warm_up, requests, num_tokens if device == "cpu" else None)
        engine = load_random_engine(
            config, device=device, max_num_seqs=len(requests), num_tokens=num_tokens
        )
        _freeze()
        serve(engine, warm_up)
        return serve(engine, requests)

    def _drop_engine(self) -> None:
        self._engine = self._engine_key = None
        # an engine's parts know each other
        gc.unfreeze()
        gc.collect()
        torch.cuda.empty_cache()


def main() -> None:
    """Answer on the real stdout until stdin ends; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    faults = Faults()
    logging.basicConfig(level=logging.INFO)
    logging.getLogger().addHandler(faults)
    worker = Worker()
    for line in sys.stdin:
        faults.lines = []
        try:
            answer = worker.answer(json.loads(line))
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            answer = {
                "failed": reason[:REASON_LENGTH],
                "trace": _lines(error),
                "logged": faults.lines,
            }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _freeze() -> None:
    """Spare what is there from further collections, as the service does once it has loaded."""
    gc.collect()
    gc.freeze()


def _lines(error: BaseException) -> list[str]:
    return "".join(traceback.format_exception(error)).splitlines()[-TRACE_LINES:]


if __name__ == "__main__":
    main()
