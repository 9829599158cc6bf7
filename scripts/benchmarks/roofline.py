#!/usr/bin/env python3
"""The rate of LibTorch's bfloat16 matrix products on this machine: roofline.py THREADS prints it as JSON.

The best of several runs of torch.nn.functional.linear on large shapes, the expert layer's among them. On a shared machine it changes from
minute to minute, so shares of it are taken within a turn.
"""

import json
import pathlib
import sys
import time

import process

SHAPES = [(2048, 2880, 5760), (4096, 2880, 2880), (4096, 4096, 4096)]  # rows, features in, features out
REPETITIONS = 8


def measure(threads):
    """GFLOP/s, in a process of its own on as many cores."""
    return json.loads(process.run([sys.executable, pathlib.Path(__file__), threads], cores=threads).output)["gflop_per_second"]


def main():
    import torch

    torch.set_num_threads(int(sys.argv[1]))
    best = {}
    with torch.no_grad():
        for rows, features, out in SHAPES:
            x, weight = torch.randn(rows, features).bfloat16(), torch.randn(out, features).bfloat16()
            torch.nn.functional.linear(x, weight)
            seconds = []
            for _ in range(REPETITIONS):
                begin = time.perf_counter()
                torch.nn.functional.linear(x, weight)
                seconds.append(time.perf_counter() - begin)
            best[rows, features, out] = 2e-9 * rows * features * out / min(seconds)
    shape = max(best, key=best.get)
    print(json.dumps({"gflop_per_second": best[shape], "shape": shape}))


if __name__ == "__main__":
    main()
