"""A driver module that starts a thread when it is imported. It is imported by a conformance check only."""

from __future__ import annotations

import threading

threading.Thread(target=threading.Event().wait, args=(5.0,), name="poller", daemon=True).start()
