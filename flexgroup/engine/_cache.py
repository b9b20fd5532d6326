"""Results that are worth keeping between processes, by content: entries on disk that may vanish but never lie.

An entry is a file named by kind and key in one flat folder, and starts with the SHA-256 of the rest. It is written
under a temporary name and renamed, so that processes that write the same entry at once do not disturb each other; what
does not match its checksum counts as absent. Nothing here raises because of the disk: a cache that cannot be read or
written is a cache that is empty.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

LIMIT = 256 << 20  # bytes in the folder
LARGEST = LIMIT // 4  # bytes of one entry: none may push out most of the others
VARIABLE = "FLEXGROUP_CACHE"

_SUFFIX, _PARTIAL = ".entry", ".partial"
_DIGEST_BYTES = hashlib.sha256().digest_size
_ABANDONED = 3600.0  # seconds after which a temporary file has no writer any more
_STARTED = time.time()


@dataclass(frozen=True)
class Cache:
    """Entries in ``folder``, the least recently used removed beyond ``limit`` bytes; without a folder, none."""

    folder: Path | None
    limit: int = LIMIT

    def get(self, kind: str, key: str) -> bytes | None:
        """The entry, or None where there is none, or a damaged one."""
        if self.folder is None:
            return None
        path = self._path(self.folder, kind, key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        data = content[_DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != content[:_DIGEST_BYTES]:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # what was used last is removed last
        return data

    def put(self, kind: str, key: str, data: bytes) -> None:
        """Keep ``data``, unless it is too large or the folder cannot be written."""
        if self.folder is None or len(data) > min(LARGEST, self.limit):
            return
        temporary = None
        try:
            handle, temporary = tempfile.mkstemp(suffix=_PARTIAL, dir=self.folder)
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(data).digest())
                file.write(data)
            os.replace(temporary, self._path(self.folder, kind, key))
        except OSError:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def discard(self, kind: str, key: str) -> None:
        """Forget an entry."""
        if self.folder is not None:
            with contextlib.suppress(OSError):
                self._path(self.folder, kind, key).unlink()

    def trim(self) -> None:
        """Remove the least recently used entries beyond ``limit`` bytes, and what killed writers left behind."""
        if self.folder is None:
            return
        entries: list[tuple[float, int, str]] = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as found:
            for file in found:
                with contextlib.suppress(OSError):
                    status = file.stat(follow_symlinks=False)
                    if file.name.endswith(_SUFFIX):
                        entries.append((status.st_mtime, status.st_size, file.path))
                    elif file.name.endswith(_PARTIAL) and status.st_mtime < time.time() - _ABANDONED:
                        os.unlink(file.path)
        excess = sum(size for _, size, _ in entries) - self.limit
        for _, size, path in sorted(entries):
            if excess <= 0:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            excess -= size

    @staticmethod
    def _path(folder: Path, kind: str, key: str) -> Path:
        return folder / f"{kind}-{key}{_SUFFIX}"


def this_cache() -> Cache:
    """The cache of this user: in the folder ``FLEXGROUP_CACHE`` (``off``: none), else where the platform keeps caches.

    The folder is made if need be. It holds machine code that is run, so one that other users may write to is not used.
    """
    named = os.environ.get(VARIABLE, "")
    if named.lower() == "off":
        return Cache(None)
    try:
        folder = Path(named).expanduser() if named else _platform_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Cache(folder if _is_private(folder) else None)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return Cache(None)


def _platform_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "flexgroup"
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return base / "flexgroup"


def _is_private(folder: Path) -> bool:
    status = folder.stat()
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & stat.S_IWOTH


def content_key(parts: Iterable[str]) -> str:
    """A key that differs wherever one of ``parts`` does."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


@lru_cache(maxsize=32)
def source_digest(*places: str) -> str | None:
    """A digest of files and folders of this package, such as ``"kernels"`` and ``"engine/_runner.py"``.

    None where they cannot be read, or have changed since this process started, so that they may not be what runs.
    """
    package = Path(__file__).resolve().parents[1]
    parts = []
    try:
        for place in places:
            path = package / place
            for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
                if file.stat().st_mtime > _STARTED:
                    return None
                parts += [file.relative_to(package).as_posix(), file.read_text(encoding="utf-8")]
    except (OSError, UnicodeDecodeError):
        return None
    return content_key(parts) if parts else None
