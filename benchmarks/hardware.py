"""What a measurement was taken on."""

import os
import platform
import time
from pathlib import Path

import torch

from runtime.provenance import git_revision


def describe() -> dict:
    """Processor, units, threads, memory, versions, commit, time."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = fields.get("flags", "").split()
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in flags]
    return {
        "processor": fields.get("model name", platform.processor() or platform.machine()),
        "units": units,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "git": git_revision(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def hardware_line(here: dict) -> str:
    """What a table was taken on, in one line."""
    units = ", ".join(here["units"])
    return (
        f"{here['processor']} ({units}), {here['cores']} cores, threads {here['threads']},"
        f" {here['device']}, torch {here['torch']}:"
    )
