"""Raw results as files named by their SHA-256, durable before anything else is said about them.

A file is written beside its place, synced, renamed and the folder synced: at every moment a name stands for its whole
content or for nothing. `keep_folder` does the same for a folder of files, such as a fit.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from pathlib import Path

from orchestrator.domain import canonical_json, sha256
from orchestrator.errors import Damaged, StoreError
from orchestrator.record.crash_points import reached
from orchestrator.record.database import said_plainly

_HASH = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = ".tmp-"
_STALE_S = 3600.0
"""A temporary file of this age belongs to a dead process: writing one takes seconds."""


class RawStore:
    """Files in one folder, each named by the SHA-256 of its content.

    Args:
        folder: made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, content: bytes) -> str:
        """Store content durably; storing it twice is harmless.

        Args:
            content: any bytes.

        Returns:
            Its SHA-256, by which `get` finds it.

        Raises:
            StoreError: the disk is full.
        """
        digest = sha256(content)
        path = self.folder / digest
        with said_plainly():
            if not _holds(path, content):
                temporary = self.folder / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
                try:
                    _write(temporary, content)
                    temporary.replace(path)
                finally:
                    temporary.unlink(missing_ok=True)
                reached("raw.renamed")
            sync_folder(self.folder)  # also for a file that is there: its writer may have died before this line
        return digest

    def get(self, digest: str) -> bytes:
        """Return stored content.

        Args:
            digest: from `put`.

        Raises:
            Damaged: the file is missing or has other content.
        """
        if not _HASH.fullmatch(digest):
            message = f"{digest!r} is not a SHA-256 of 64 hexadecimal digits"
            raise StoreError(message)
        try:
            content = (self.folder / digest).read_bytes()
        except FileNotFoundError as error:
            message = f"raw file {digest} is missing from {self.folder}; restore it from a backup"
            raise Damaged(message) from error
        if sha256(content) != digest:
            message = f"raw file {digest} in {self.folder} was changed after it was stored; restore it from a backup"
            raise Damaged(message)
        return content

    def sweep(self) -> None:
        """Remove what processes that died while writing left behind."""
        limit = time.time() - _STALE_S
        for path in self.folder.glob(f"{_TEMPORARY}*"):
            try:
                if path.stat().st_mtime < limit:
                    path.unlink()
            except FileNotFoundError:
                continue  # another process swept it


def keep_folder(source: Path, shelf: Path) -> str:
    """Copy a folder durably under the hash of its content.

    Args:
        source: folder of ordinary files; links are refused.
        shelf: where the copy is put, as ``shelf/HASH``.

    Returns:
        The hash.

    Raises:
        StoreError: the folder is empty, holds a link, or the disk is full.
    """
    digest = folder_sha256(source)
    target = shelf / digest
    with said_plainly():
        if target.is_dir() and folder_sha256(target) == digest:
            return digest
        temporary = shelf / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
        try:
            shutil.copytree(source, temporary)
            for path in sorted(temporary.rglob("*")):
                sync_folder(path)  # files too: what counts is the descriptor
            sync_folder(temporary)
            if target.exists():  # damaged: keep it for whoever looks into it
                target.rename(shelf / f"{digest}.damaged-{secrets.token_hex(4)}")
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_folder(shelf)
    return digest


def folder_sha256(folder: Path) -> str:
    """Return the hash of a folder's content: the names and hashes of its files, sorted.

    Raises:
        StoreError: the folder is missing or empty, or holds something that is no ordinary file.
    """
    files: list[tuple[str, str]] = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            message = f"{path} is a link or a special file; a stored folder holds ordinary files only"
            raise StoreError(message)
        if path.is_file():
            files.append((path.relative_to(folder).as_posix(), sha256(path.read_bytes())))
    if not files:
        message = f"folder {folder} is missing or empty; there is nothing to store"
        raise StoreError(message)
    return sha256(canonical_json(files))


def sync_folder(path: Path) -> None:
    """Make the content of a folder, or of a file, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    try:
        rest = memoryview(content)
        while rest:  # a disk that fills up takes a part and reports no error (measured)
            rest = rest[os.write(descriptor, rest) :]
        reached("raw.tmp_written")
        os.fsync(descriptor)
        reached("raw.fsynced")
    finally:
        os.close(descriptor)
