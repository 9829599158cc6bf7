#!/usr/bin/env python3
"""`ossature prepare` against the tokenizers library's batch encoder: the same texts, the same cores, by turns.

Ours is the whole command: it starts, reads the tokenizer and the JSON lines, renders, tokenizes and writes the token file. Of the library
only the calls of encode_batch or encode_batch_fast count, whichever of them is the faster on the first texts: the texts are in its memory
before, and its ids are thrown away.
"""

import argparse
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import process

ROOT = pathlib.Path(__file__).resolve().parents[2]


def texts_of(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def encode_with_library(options):
    """In a process of its own: RAYON_NUM_THREADS counts from the start. Prints seconds, tokens and the method."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(options.tokenizer / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # their names in a text are text, as they are to us
    texts = texts_of(options.text)

    def seconds_of(encode, part):
        begin, tokens = time.perf_counter(), 0
        for first in range(0, len(part), 1000):
            tokens += sum(len(encoding.ids) for encoding in encode(part[first : first + 1000], add_special_tokens=False))
        return time.perf_counter() - begin, tokens

    methods = [tokenizer.encode_batch, tokenizer.encode_batch_fast]
    trial = texts[: len(texts) // 50]
    method = min(methods, key=lambda encode: min(seconds_of(encode, trial)[0] for _ in range(2)))
    cpu = time.process_time()
    seconds, tokens = seconds_of(method, texts)
    print(json.dumps({"seconds": seconds, "cpu_seconds": time.process_time() - cpu, "tokens": tokens, "method": method.__name__}))


def prepare(options, out, threads):
    command = [options.program, "prepare", options.text, "--tokenizer", options.tokenizer, "--format", "text", "--date", "none"]
    ran = process.run([*command, "--threads", threads, "--out", out, "--json"])
    tokens = json.loads(ran.output)["train"]["tokens"]
    return {"seconds": ran.seconds, "cpu_seconds": ran.cpu_seconds, "memory_bytes": ran.peak_bytes, "tokens": tokens}


def library(options):
    command = [sys.executable, __file__, "--tokenizer", options.tokenizer, "--text", options.text, "--library-alone"]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "true"}
    ran = process.run(command, environment)
    return {**json.loads(ran.output), "memory_bytes": ran.peak_bytes}


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench prepare", description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True, help="directory with tokenizer.json")
    parser.add_argument("--text", type=pathlib.Path, help="JSON lines, {\"text\": ...} each; collected (collect_text.py) unless given")
    parser.add_argument("--threads", type=int, default=2, help="of both, on as many cores (2)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/ossature")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--library-alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.library_alone:
        return encode_with_library(options)
    if not options.text:
        options.text = ROOT / ".peers/benchmarks/text.jsonl"
        if not options.text.exists():
            options.text.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run([sys.executable, ROOT / "scripts/benchmarks/collect_text.py", "--out", options.text], check=True)
    os.sched_setaffinity(0, process.first_cores(options.threads))
    megabytes = sum(len(text.encode()) for text in texts_of(options.text)) / 1e6

    ours, theirs = [], []
    with tempfile.TemporaryDirectory(prefix="ossature-bench-") as scratch:
        out = pathlib.Path(scratch) / "out.h5"
        for repetition in range(options.repetitions):
            ours.append(prepare(options, out, options.threads))
            theirs.append(library(options))
            print(f"bench: {repetition + 1} of {options.repetitions}: {ours[-1]['seconds']:.1f} s, library {theirs[-1]['seconds']:.1f} s",
                  file=sys.stderr)
        several = digest(out)
        alone = prepare(options, out, 1)
        is_identical = digest(out) == several

    def median(runs, key):
        return statistics.median(each[key] for each in runs)

    def row(runs):
        seconds = median(runs, "seconds")
        return {"seconds": seconds, "megabytes_per_second": megabytes / seconds, "tokens_per_second": runs[0]["tokens"] / seconds,
                "cpu_seconds": median(runs, "cpu_seconds"), "peak_memory_bytes": max(each["memory_bytes"] for each in runs)}

    result = {
        "megabytes": megabytes, "tokens": ours[0]["tokens"], "same_number_of_tokens": ours[0]["tokens"] == theirs[0]["tokens"],
        "threads": options.threads, "repetitions": options.repetitions, "ossature": row(ours), "ossature_one_thread": row([alone]),
        "tokenizers": {**row(theirs), "method": theirs[0]["method"]},
        "ratio": statistics.median(their["seconds"] / our["seconds"] for our, their in zip(ours, theirs)),
        "cpu_ratio": statistics.median(their["cpu_seconds"] / our["cpu_seconds"] for our, their in zip(ours, theirs)),
        "same_bytes_with_one_thread": is_identical,
    }
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{megabytes:.1f} MB of text, {result['tokens']} tokens, {options.threads} threads, median of {options.repetitions} by turns")
    print(f"{'':34}{'s':>8}{'MB/s':>8}{'M tokens/s':>12}{'CPU s':>8}{'peak MB':>9}")
    for name, each in [("ossature prepare", result["ossature"]), ("ossature prepare --threads 1", result["ossature_one_thread"]),
                       (f"tokenizers {result['tokenizers']['method']}", result["tokenizers"])]:
        print(f"{name:34}{each['seconds']:8.1f}{each['megabytes_per_second']:8.1f}{each['tokens_per_second'] / 1e6:12.2f}"
              f"{each['cpu_seconds']:8.1f}{each['peak_memory_bytes'] / 1e6:9.0f}")
    print(f"ratio {result['ratio']:.1f} (of CPU time {result['cpu_ratio']:.1f}); same number of tokens: {result['same_number_of_tokens']}; "
          f"same bytes with one thread: {is_identical}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
