"""The device that networks run on, and the precision that it is good at."""

import torch


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision_of(setting: str, target: torch.device) -> str:
    """`fp32`, `tf32` or `bf16`: a recipe's setting, with `auto` resolved for the device.

    `auto` is bf16 where the hardware multiplies bfloat16: Nvidia's GPUs since Ampere, CPUs with AVX512-BF16 or AMX.
    """
    if setting != "auto":
        return setting
    if target.type == "cuda":
        native = torch.cuda.get_device_capability(target) >= (8, 0)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return "bf16" if native else "fp32"
