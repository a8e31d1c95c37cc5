"""Where networks run: the CPU, or a CUDA device; never silently another one than was asked for."""

from __future__ import annotations

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
        name = torch.cuda.get_device_name(0)
        return torch.device("cuda"), f"cuda ({name})" if wanted == "cuda" else f"cuda ({name}; chosen by auto)"
    return torch.device("cpu"), "cpu (chosen by auto: there is no CUDA device)"
