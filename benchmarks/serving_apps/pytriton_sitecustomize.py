"""For PyTriton's Python, which is older than the standard library it finds: its C lock lacks `_recursion_count`."""

import threading
from multiprocessing import resource_tracker

if not hasattr(threading.RLock(), "_recursion_count"):
    resource_tracker._resource_tracker._lock = threading._PyRLock()  # noqa: SLF001  (there is no public way)
