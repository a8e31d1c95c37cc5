"""How much memory the process holds at most while something happens.

On Linux the kernel's high-water mark of resident memory is set back before and read after, which costs microseconds and
sees torch and BLAS, unlike a tracer of Python objects. Elsewhere the mark cannot be set back, and the highest of the
whole process is told.
"""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK = re.compile(r"^VmHWM:\s*(\d+) kB", re.MULTILINE)
KIBIBYTE, MEBIBYTE = 1024, 1024**2


def start_peak() -> bool:
    """Set the high-water mark back to what is held now; say whether that was possible."""
    try:
        RESET.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_mib() -> float:
    """Return the high-water mark of resident memory, in MiB."""
    try:
        found = PEAK.search(STATUS.read_text(encoding="ascii"))
    except OSError:
        found = None
    if found is not None:
        return int(found.group(1)) * KIBIBYTE / MEBIBYTE
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / MEBIBYTE if sys.platform == "darwin" else most * KIBIBYTE / MEBIBYTE
