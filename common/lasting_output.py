"""Standard output and error that last: a closed terminal, a pipe whose reader has ended or a full disk end no run."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

_NOBODY_READS = (errno.EPIPE, errno.EIO, errno.EBADF)  # a pipe without reader, a closed terminal, a closed file


def make_output_last() -> None:
    """From now on, writes of this process to stdout and stderr never raise. What nobody can read is discarded.

    Streams that somebody else has put in their place, as a test does, stay as they are.
    """
    for name in ("stdout", "stderr"):
        real = getattr(sys, f"__{name}__")
        if real is None or isinstance(getattr(real, "buffer", None), _LastingBuffer):
            continue
        real.flush()
        raw = _LastingFile(real.fileno(), "wb", closefd=False)
        lasting = io.TextIOWrapper(
            _LastingBuffer(raw), real.encoding, "backslashreplace", line_buffering=real.line_buffering or name == "stderr"
        )
        if getattr(sys, name) is real:
            setattr(sys, name, lasting)
        setattr(sys, f"__{name}__", lasting)


class _LastingBuffer(io.BufferedWriter):
    """A buffer over a `_LastingFile`; its type tells that a stream lasts already."""


class _LastingFile(io.FileIO):
    """A file whose writes never fail."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in _NOBODY_READS:
                self._discard_from_now_on()
            return len(memoryview(data).cast("B"))

    def _discard_from_now_on(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
