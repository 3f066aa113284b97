"""The workspace: one folder that holds everything, and the few safe ways to write into it.

The disk is the truth. Small files are replaced atomically, folders appear whole (built beside, then renamed), and
names from users are checked before they become paths, so no name can leave the workspace.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixcpt.errors import BadInput, Damaged, TooLittle

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check_name(name: str, what: str = "name") -> str:
    """Return `name` when it may become a folder name.

    Raises:
        BadInput: it is empty, too long, or holds anything but lower-case letters, digits, '.', '_' and '-'.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"The {what} {name!r} cannot be used: take 1 to 64 lower-case letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit."
        )
    return name


def write_atomic(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` (UTF-8) so that a reader sees the old or the new whole, never a part."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`, as `write_atomic` does."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of `value` as indented JSON; NaN and infinity are refused, for no other reader takes them."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises Damaged when the file is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged ({error}): mend it, or move it away.") from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` (made if missing); waits for whoever holds it. Freed by the kernel
    when the process dies, so it cannot go stale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def building(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`; when the block ends well it becomes `target`, else it is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".building-{target.name}-{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            old = target.with_name(f".old-{target.name}-{secrets.token_hex(4)}")
            os.replace(target, old)
            os.replace(temporary, target)
            shutil.rmtree(old)
        else:
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def new_id(prefix: str) -> str:
    """A fresh id that sorts by time: prefix-YYYYMMDD-HHMMSS-mmmmmx (UTC; mmmmm are the microseconds in hex)."""
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    day = time.strftime("%Y%m%d-%H%M%S", time.gmtime(seconds))
    return f"{prefix}-{day}-{microseconds:05x}{secrets.token_hex(1)[0]}"


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Workspace:
    """The folder named by `root`, else by $MIXCPT_HOME, else ~/mixcpt."""

    def __init__(self, root: Path | str | None = None):
        self.root = Path(root or os.environ.get("MIXCPT_HOME") or Path.home() / "mixcpt").expanduser().absolute()
        if self.root.exists() and not self.root.is_dir():
            raise BadInput(
                f"{self.root} is a file, but the workspace must be a folder: set MIXCPT_HOME to another path."
            )
        for folder in (self.corpora, self.models, self.experiments, self.jobs, self.runs):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def corpora(self) -> Path:
        return self.root / "corpora"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def experiments(self) -> Path:
        return self.root / "experiments"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def teacher_cache(self) -> Path:
        """Made by the first who writes into it."""
        return self.root / "teacher-cache"

    def require_disk(self, needed_bytes: int, what: str) -> None:
        """Raises TooLittle when the workspace's disk has less than `needed_bytes` free."""
        free = shutil.disk_usage(self.root).free
        if free < needed_bytes:
            raise TooLittle(
                f"{what} needs {needed_bytes / 1e9:.1f} GB of disk, but {self.root} has {free / 1e9:.1f} GB free: "
                "free some space or set MIXCPT_HOME to a larger disk."
            )
