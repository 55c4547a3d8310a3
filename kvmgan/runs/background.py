"""Writing that work doesn't wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable


class BackgroundWriter:
    """Does one thing at a time in a thread; what goes wrong there is raised by the next call."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def start(self, write: Callable[[], object]) -> None:
        """Begin ``write`` once the one before it is done.

        Raises:
            Exception: what that one raised; ``write`` isn't begun then.
        """
        self.finish()
        # Not a daemon: a process that ends waits for what it has begun to write.
        self._thread = threading.Thread(target=self._run, args=(write,), name="writer")
        self._thread.start()

    def finish(self) -> None:
        """Wait until all is written.

        Raises:
            Exception: what the last ``write`` raised.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self, write: Callable[[], object]) -> None:
        try:
            write()
        except Exception as error:
            self._failure = error
