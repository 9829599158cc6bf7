#!/usr/bin/env python3
"""Training a checkpoint larger than memory: gpt-oss-120b with random weights, LoRA on attention.

Each step is held against what it cannot be faster than: the bytes that it reads at the rate at which the disk gives them, or its arithmetic at
the rate of LibTorch's products, whichever takes longer. Both rates are measured in the same run, before and after the steps, and the higher one
counts; the disk's is of a part of each file, past the page cache. Resident memory is watched five times a second: of the run's own (anonymous), and with the pages
of the checkpoint that are mapped. Needs 65 GB in TMPDIR.
"""

import argparse
import json
import mmap
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time

import cut
import roofline
import train as training

PIECE, AT_ONCE = 16 << 20, 3
SAMPLE = 6 << 30  # bytes that are read for the disk's rate


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench paging", description=__doc__.split("\n")[0])
    cut.add_arguments(parser, num_layers=36, row="a micro-batch")
    parser.set_defaults(preset="gpt-oss-120b")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--targets", choices=training.TARGETS, default="attention")
    parser.add_argument("--steps", type=int, default=4, help="the first is not counted (4)")
    parser.add_argument("--micro-batches", type=int, default=1, help="of a step (1)")
    parser.add_argument("--memory-limit", type=float, default=12, help="train.memory_limit, GiB (12)")
    return parser.parse_args()


def disk_rate(model):
    """Bytes a second from the disk: a part of each shard, past the page cache, a few pieces at a time."""
    shards = sorted(model.glob("*.safetensors"))
    files = [os.open(shard, os.O_RDONLY | os.O_DIRECT) for shard in shards]
    pieces = [(file, begin) for file, shard in zip(files, shards) for begin in range(0, min(SAMPLE // len(shards), shard.stat().st_size - PIECE), PIECE)]

    def read(first):
        with mmap.mmap(-1, PIECE) as memory:
            for file, begin in pieces[first::AT_ONCE]:
                os.preadv(file, [memory], begin)

    try:
        begin = time.perf_counter()
        threads = [threading.Thread(target=read, args=(first,)) for first in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return PIECE * len(pieces) / (time.perf_counter() - begin)
    finally:
        for file in files:
            os.close(file)


def fields(path):
    """The numbers of a file of "name: value" lines, which may have a unit."""
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return {name: int(value.split()[0]) for name, _, value in lines if value.strip() and value.split()[0].isdecimal()}


def watch(process, metrics):
    """Most memory, and the bytes that had been read when each step was written down."""
    folder, most, reads = pathlib.Path(f"/proc/{process.pid}"), {"RssAnon": 0, "VmRSS": 0}, []
    while process.poll() is None:
        try:
            status, read = fields(folder / "status"), fields(folder / "io")["read_bytes"]
        except (OSError, KeyError):
            break  # it ended meanwhile
        most = {name: max(value, 1024 * status.get(name, 0)) for name, value in most.items()}
        steps = metrics.read_text().count("\n") if metrics.exists() else 0
        reads += [read] * (steps - len(reads))
        time.sleep(0.2)
    return most, reads


def run(options, scratch):
    """The figures of each step after the first."""
    data, folder = scratch / "train.h5", scratch / "run"
    rows = [cut.random_tokens(options.tokens, seed) for seed in range(options.micro_batches)]
    cut.write_token_file(data, rows, options.tokens - 1, json.loads((options.model / "config.json").read_text())["vocab_size"])
    recipe = training.recipe(options, options.model, data, folder, scratch / "none")
    recipe["train"] |= {"gradient_accumulation_steps": options.micro_batches, "threads": options.threads, "memory_limit": options.memory_limit}
    path = scratch / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    with open(scratch / "said", "w+b") as said:
        process = subprocess.Popen([options.program, "train", path], stderr=said)
        most, reads = watch(process, folder / "metrics.jsonl")
        if process.wait() != 0:
            raise SystemExit(f"bench: train ended with {process.returncode}:\n{(scratch / 'said').read_text()[-2000:]}")
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    if len(reads) < len(steps):
        reads += [reads[-1]] * (len(steps) - len(reads))
    return most, [{"seconds": step["seconds"], "bytes_read": now - before, "loss": step["loss"]} for step, now, before in zip(steps[1:], reads[1:], reads)]


def main():
    options = arguments()
    with cut.scratch(options) as scratch:
        os.sync()  # what was just written
        stored = sum(path.stat().st_size for path in options.model.glob("*.safetensors"))
        disk, products = [disk_rate(options.model)], [roofline.measure(options.threads)]
        most, steps = run(options, scratch)
        disk.append(disk_rate(options.model))
        products.append(roofline.measure(options.threads))
        gflop = 2 * options.micro_batches * cut.forward_gflop(options.model, options.tokens, options.tokens - 1)
        for step in steps:
            step["least_seconds"] = max(step["bytes_read"] / max(disk), gflop / max(products))
            step["ratio"] = step["seconds"] / step["least_seconds"]
            print(f"step of {options.micro_batches} x {options.tokens} tokens: {step['seconds']:.1f} s, {step['bytes_read'] / 1e9:.1f} GB read "
                  f"({step['bytes_read'] / step['seconds'] / 1e9:.2f} GB/s), at least {step['least_seconds']:.1f} s: {step['ratio']:.2f} times")
        print(f"checkpoint {stored / 1e9:.1f} GB; disk {', '.join(f'{rate / 1e9:.2f}' for rate in disk)} GB/s before and after; "
              f"LibTorch's products {', '.join(f'{rate:.0f}' for rate in products)} GFLOP/s for {gflop:.0f} GFLOP a step")
        print(f"resident at most {most['VmRSS'] / 1e9:.2f} GB, {most['RssAnon'] / 1e9:.2f} GB of it the run's own; "
              f"median {statistics.median(step['ratio'] for step in steps):.2f} times the least")
    if options.json:
        cut.write_figures(options, {"steps": steps, "disk_bytes_per_second": disk, "products_gflop_per_second": products, "peak_bytes": most, "gflop_per_step": gflop})
    return 0


if __name__ == "__main__":
    sys.exit(main())
