"""Where networks run: the CPU, or a CUDA device; never silently another one than was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from orchestrator.errors import SurrogateError

Device = Literal["auto", "cpu", "cuda"]


def choose(wanted: Device) -> tuple[torch.device, str]:
    """Choose the device.

    Args:
        wanted: ``auto`` takes CUDA where there is one.

    Returns:
        The device, and a line for people that says what was chosen and why.

    Raises:
        SurrogateError: ``cuda`` was asked for and there is none.
    """
    if wanted == "cpu":
        return torch.device("cpu"), "cpu"
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        message = (
            f"device: cuda was asked for, but PyTorch {torch.__version__} sees no CUDA device; install a CUDA build of"
            " PyTorch and a driver, or write device: auto"
        )
        raise SurrogateError(message)
    if available:
        device = torch.device("cuda")
        name = torch.cuda.get_device_name(0)
        precision = "trains in bfloat16" if has_bfloat16(device) else "trains in single precision"
        chosen = "" if wanted == "cuda" else "; chosen by auto"
        return device, f"cuda ({name}, {precision}{chosen})"
    return torch.device("cpu"), "cpu (chosen by auto: there is no CUDA device)"


def has_bfloat16(device: torch.device) -> bool:
    """Say whether a device computes bfloat16 in hardware; a CPU counts as not: there single precision is repeatable."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Add up in the same order every time where several threads work, on a CPU.

    The gradient of ``x[index]`` is summed by whichever thread comes first, unless PyTorch is told otherwise; the same
    seed would give other weights on a busy computer.

    Args:
        device: where the work is done; on others nothing changes.
    """
    if device.type != "cpu":
        yield
        return
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)
