"""One row in words, as it comes."""

from collections.abc import Mapping
from typing import Any

NAME_WIDTH = 56


def line(row: Mapping[str, Any]) -> str:
    """Return the row's name and what was found."""
    name = f"{row['name']:<{NAME_WIDTH}} "
    if "failed" in row:
        return f"{name}FAILED: {row['failed']}"
    if "absent" in row:
        return f"{name}not measured: {row['absent']}"
    told = {"kernel": _kernel, "gate": _gate, "decode": _decode, "workload": _workload}
    return name + told[row["kind"]](row)


def _kernel(row: Mapping[str, Any]) -> str:
    others = [
        f"{name} {row[key]:.1f} us" if key in row else f"{name} failed: {row[reason]}"
        for name, key, reason in (
            ("torch", "torch_us", "torch_failed"),
            ("compiled", "compiled_us", "compiled_failed"),
        )
        if key in row or reason in row
    ]
    launched = "" if row["is_recorded"] else " launched by the host,"
    return (
        f"{row['us']:9.1f} us {row['bytes_per_s'] / 1e9:8.0f} GB/s "
        f"{row['flops_per_s'] / 1e12:7.1f} TFLOP/s {row['share']:5.0%} of {row['of']:<10}"
        f"{launched} {', '.join(others)}"
    )


def _gate(row: Mapping[str, Any]) -> str:
    parts = [
        f"{name}: {each['tokens']} tokens, {each['other_tokens']} near ties"
        for name, each in row.items()
        if isinstance(each, Mapping)
    ]
    return "; ".join(parts)


def _decode(row: Mapping[str, Any]) -> str:
    told = (
        f"{row['tokens_per_s']:9.0f} tokens/s, {row['share']:.0%} of the floor's "
        f"{row['floor_tokens_per_s']:.0f}; a step {row['step_ms']:.2f} ms"
    )
    device = row["device"]
    if device is None:
        return told
    if "failed" in device:
        return f"{told}, no profile: {device['failed']}"
    return f"{told}, of which the device works {device['busy_ms']:.2f}"


def _workload(row: Mapping[str, Any]) -> str:
    return f"{row['tokens_per_s']:9.0f} tokens/s, {row['output_tokens']} in {row['wall_s']:.1f} s"
