"""Files that are whole or absent: written under a temporary name, then renamed. Locks that end with their process."""

import errno
import fcntl
import json
import os
import platform
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PATIENCE = 10.0  # seconds to wait for a lock: a process that is told to end saves its work first
ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room for it"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "make its folder writable, or choose another, for data and results by MINCONV_HOME",
    ),
}
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # of some network file systems


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; on success it is synced and renamed to ``path``, on failure removed.

    What a process that was killed while it wrote ``path`` has left behind is removed by the next one that writes it.
    Where the disk is full or the folder read-only, OSError names ``path`` and says what to do.
    """
    path = Path(path)
    with _advice(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        prefix = f".{path.stem}-{platform.node()}-{os.getpid()}-"
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner reads
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _advice(path: Path) -> Iterator[None]:
    """Errors that the user can mend, told with the file that is wanted and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        why = os.strerror(error.errno).lower()
        raise OSError(error.errno, f"{path} could not be written ({why}); {ADVICE[error.errno]}") from error


def _sweep(path: Path) -> None:
    """Removes temporary files of ``path`` whose process on this machine is gone; those of other machines stay."""
    prefix, suffix = re.escape(f".{path.stem}-{platform.node()}-"), re.escape(path.suffix)
    for file in path.parent.iterdir():
        if (owner := re.fullmatch(rf"{prefix}(\d+)-\w{{8}}{suffix}", file.name)) and not _alive(int(owner[1])):
            file.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Removes what any process has left behind in ``folder``; for one that knows that nobody else writes there."""
    for file in folder.iterdir():
        if re.fullmatch(r"\..+-\d+-\w{8}(\.\w+)?", file.name):
            file.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def keep(path: Path, other: Path) -> None:
    """Makes ``other`` a second name of the file ``path`` as it is now; a copy where there are no hard links."""
    with atomic(other) as temporary:
        temporary.unlink()
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)


@contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Holds the lock file ``path``, which is there as long as it is held; a process that is killed lets go of it.

    Raises BlockingIOError, naming the folder and the process that holds it, when it is not free within ``PATIENCE``.
    """
    path = Path(path)
    end = time.monotonic() + PATIENCE
    while (handle := _taken(path)) is None:
        if time.monotonic() > end:
            raise BlockingIOError(
                f"{path.parent} is in use by {_holder(path)}, which holds {path}; wait for it to end, or end it"
            )
        time.sleep(0.1)
    try:
        with _advice(path):
            os.truncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {platform.node()}".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def remove_stale_lock(path: Path) -> None:
    """Removes the lock file that a process which was killed has left, if it can be."""
    with suppress(OSError):
        if path.exists() and (handle := _taken(path)) is not None:
            path.unlink()
            os.close(handle)


def _taken(path: Path) -> int | None:
    """The open lock file, or None where another process holds it."""
    with _advice(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.stat(path)):  # else it was let go of, and removed, in between
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(handle)
            raise
        warnings.warn(f"{path.parent} cannot be locked; see to it that one process at a time uses it", stacklevel=4)
        return handle
    os.close(handle)
    return None


def _holder(path: Path) -> str:
    try:
        return path.read_text() or "another process"
    except OSError:
        return "another process"


def claim_room(path: Path, size: int) -> None:
    """Raises OSError unless ``size`` bytes, and some more, can be written to ``path``, of which it leaves nothing.

    For HDF5, which crashes where a disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, size * 9 // 8 + (1 << 20))
            file.truncate()


def write_json(path: str | Path, content: Any) -> None:
    """Writes ``content`` as indented JSON, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads JSON; raises FileNotFoundError, or ValueError naming the file when it is not whole JSON."""
    try:
        return json.loads(Path(path).read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole JSON file: {error}") from error
