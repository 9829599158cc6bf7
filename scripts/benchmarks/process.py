"""A command in a process of its own, and what it took."""

import os
import subprocess
import tempfile
import time
from typing import NamedTuple


class Run(NamedTuple):
    output: bytes
    seconds: float
    cpu_seconds: float  # of all its threads
    peak_bytes: int  # resident, mapped files included
    others_share: float  # of all cores' time, used by other processes (and other guests of the host, where Linux knows) meanwhile


def run(command, environment=None, stdin=b"", cores=None):
    """Runs it, on so many cores if given. If it fails, this program ends with what it said."""
    command = list(map(str, command))
    if cores:
        command = ["taskset", "--cpu-list", ",".join(map(str, first_cores(cores))), *command]
    begin, busy, total = time.perf_counter(), *processor_ticks()
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        given.write(stdin)
        given.seek(0)
        process = subprocess.Popen(command, stdin=given, stdout=out, stderr=errors, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds, cpu = time.perf_counter() - begin, usage.ru_utime + usage.ru_stime
        busy, total = (now - then for now, then in zip(processor_ticks(), (busy, total), strict=True))
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()
            raise SystemExit(f"bench: {' '.join(command)} ended with {process.returncode}:\n{said[-2000:]}")
        out.seek(0)
        others = max(0.0, busy - cpu * os.sysconf("SC_CLK_TCK")) / max(1, total)
        return Run(out.read(), seconds, cpu, usage.ru_maxrss * 1024, others)


def processor_ticks():
    """Of all cores since the machine started: busy, and all."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait


def first_cores(number):
    cores = sorted(os.sched_getaffinity(0))
    if number > len(cores):
        raise SystemExit(f"bench: {number} threads: found {len(cores)} cores for this process; give at most as many threads")
    return cores[:number]
