"""What a table of results says of the machine that made it."""

import datetime
import os
import pathlib
import platform


def described() -> str:
    """The processor's name where the system tells it, and how many there are."""
    name = platform.processor() or platform.machine()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores"


def today_on_it() -> str:
    return f"{datetime.date.today().isoformat()}, {described()}"
