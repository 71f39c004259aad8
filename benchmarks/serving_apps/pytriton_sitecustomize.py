"""For PyTriton's Python, which is older than the standard library it finds: its C lock lacks `_recursion_count`."""

import threading
from multiprocessing import resource_tracker
from typing import Any, cast

if not hasattr(threading.RLock(), "_recursion_count"):
    # There is no public way.
    tracker, locks = cast("Any", resource_tracker), cast("Any", threading)
    tracker._resource_tracker._lock = locks._PyRLock()  # noqa: SLF001
