"""A real pseudo-terminal in place of stderr."""

import os
import re
import sys
import threading
import time
from types import TracebackType

CODES = re.compile(r"\x1b\[[?\d;]*[a-zA-Z]")
PIECES = re.compile(r"\x1b\[(\d*)A|(\x1b\[2K)|\x1b\[[?\d;]*[a-zA-Z]|(\r)|(\n)|([^\x1b\r\n]+)")


class Terminal:
    """Stands in for `sys.stderr` while the block lasts; then `text` is what was written to it."""

    def __init__(self) -> None:
        self.text = ""

    def __enter__(self) -> "Terminal":
        self._primary, secondary = os.openpty()
        self._stream = os.fdopen(secondary, "w")
        self._parts: list[bytes] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._before, sys.stderr = sys.stderr, self._stream
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stderr = self._before
        self._stream.close()
        self._reader.join()
        os.close(self._primary)
        self.text = b"".join(self._parts).decode()

    def wait_for(self, text: str, limit_s: float = 30) -> None:
        """Waits until some text was written."""
        end = time.monotonic() + limit_s
        while text not in b"".join(self._parts).decode(errors="replace"):
            assert time.monotonic() < end, f"no {text}"
            time.sleep(0.01)

    def _read(self) -> None:
        try:
            while part := os.read(self._primary, 65536):
                self._parts.append(part)
        except OSError:  # the other end is closed
            pass

    @property
    def lines(self) -> list[str]:
        """What was written, without the terminal's codes and empty lines."""
        return [line for line in re.split(r"[\r\n]+", CODES.sub("", self.text)) if line.strip()]

    @property
    def shown(self) -> list[str]:
        """What is left on the screen: lines of any length, by the codes for going up and for clearing a line."""
        rows, row, column = [""], 0, 0
        for up, clear, back, down, text in PIECES.findall(self.text):
            if text:
                rows[row] = rows[row][:column].ljust(column) + text + rows[row][column + len(text) :]
                column += len(text)
            elif clear:
                rows[row] = ""
            elif back:
                column = 0
            elif down:
                row += 1
                rows += [""] * (row == len(rows))
            elif up:
                row = max(0, row - int(up))
        return [line.rstrip() for line in rows if line.strip()]
