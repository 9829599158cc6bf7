#!/usr/bin/env python3
"""The rate of LibTorch's matrix products on this machine: roofline.py THREADS prints it as JSON.

The best of several runs of torch.nn.functional.linear on large shapes, the expert layer's among them, in bfloat16 and in float32, which is
the faster of the two where the processor multiplies no bfloat16. On a shared machine it changes from
minute to minute, so shares of it are taken within a turn.
"""

import json
import pathlib
import sys
import time

import process

SHAPES = [(2048, 2880, 5760), (4096, 2880, 2880), (4096, 4096, 4096)]  # rows, features in, features out
REPETITIONS = 8
MOST_SECONDS = 3  # of one shape and dtype


def measure(threads):
    """GFLOP/s, in a process of its own on as many cores."""
    return json.loads(process.run([sys.executable, pathlib.Path(__file__), threads], cores=threads).output)["gflop_per_second"]


def main():
    import torch

    torch.set_num_threads(int(sys.argv[1]))
    best = {}
    with torch.no_grad():
        for dtype in (torch.bfloat16, torch.float32):
            for rows, features, out in SHAPES:
                x, weight = torch.randn(rows, features).to(dtype), torch.randn(out, features).to(dtype)
                torch.nn.functional.linear(x, weight)
                seconds = []
                for _ in range(REPETITIONS):
                    if sum(seconds) > MOST_SECONDS:
                        break
                    begin = time.perf_counter()
                    torch.nn.functional.linear(x, weight)
                    seconds.append(time.perf_counter() - begin)
                best[str(dtype), rows, features, out] = 2e-9 * rows * features * out / min(seconds)
    dtype, *shape = max(best, key=best.get)
    print(json.dumps({"gflop_per_second": best[dtype, *shape], "dtype": dtype, "shape": shape}))


if __name__ == "__main__":
    main()
