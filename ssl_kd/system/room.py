"""How much memory a file may come to, asked before any of it is taken: a few bytes can claim any size."""

import re
import zipfile
from pathlib import Path

from ssl_kd.errors import InputError
from ssl_kd.system.reading import opened

SHARE = 0.5  # of the memory that is left, for what one file comes to
SMALL = 64 << 20  # bytes that are never too many


def available_memory() -> int | None:
    """Bytes that this process may still take; None where the system does not say."""
    found = []
    try:
        text = Path("/proc/meminfo").read_text()
        found.append(int(re.search(r"MemAvailable:\s+(\d+) kB", text)[1]) * 1024)  # type: ignore[index]
    except (OSError, TypeError):
        pass
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit.isdigit():
            found.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return max(0, min(found)) if found else None


def check_room(needed: int, what: str, way_out: str) -> None:
    """Raises InputError where `needed` bytes are more than SHARE of the memory that is left."""
    if needed <= SMALL:
        return
    free = available_memory()
    if free is not None and needed > SHARE * free:
        raise InputError(
            f"{what} would take {needed / 2**30:,.2f} GiB of memory, and {free / 2**30:,.2f} GiB are left, "
            f"of which half may go there; {way_out}"
        )


def check_tensor_file(path: str | Path) -> None:
    """Refuses a file of tensors that memory cannot hold, or whose members are larger than the file.

    torch.save compresses nothing, and no two members share their bytes; so a file that comes to more than
    its size was made to fill memory. Raises InputError, OSError for what is no file, and what zipfile does.
    """
    with opened(path) as file:
        size = file.seek(0, 2)
        check_room(size, str(path), "take a smaller file, or a machine with more memory")
        file.seek(0)
        if file.read(4) != b"PK\3\4":
            return
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    if any(one.compress_type != zipfile.ZIP_STORED for one in members):
        raise InputError(f"{path} is a compressed archive, which torch.save never writes; save it again")
    if sum(one.file_size for one in members) > size:
        raise InputError(f"{path} claims to hold more bytes than it has; save it again")
