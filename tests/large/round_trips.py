#!/usr/bin/env python3
"""Every layout to every other and back on a cut of gpt-oss-20b's real shape: every tensor has the same bytes again.

    scripts/test --large [--program FILE] [--layers 4] [--packed-only] [--dir DIR] [--tokenizer DIR]

Makes a checkpoint of random weights in a scratch folder, 4.3 GB with 4 layers; what has been compared goes before the next is written, so that
13 GB are taken at most where experts are in MXFP4, and 18 GB where they are in bfloat16. Digests are of each tensor's name, dtype, shape and
bytes; of GGUF files, of the whole file.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHUNK = 1 << 24


def digest(file, size):
    found = hashlib.sha256()
    while size > 0:
        part = file.read(min(CHUNK, size))
        if not part:
            raise AssertionError(f"{file.name} ends early")
        found.update(part)
        size -= len(part)
    return found.hexdigest()


def digests(checkpoint):
    """Of a folder's tensors, by name; of a GGUF file, of itself."""
    if checkpoint.is_file():
        with open(checkpoint, "rb") as file:
            return {"the file": digest(file, checkpoint.stat().st_size)}
    found = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        with open(path, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            begin = file.tell()
            for name, tensor in header.items():
                if name == "__metadata__":
                    continue
                first, end = tensor["data_offsets"]
                file.seek(begin + first)
                assert name not in found, f"{name} is in two files of {checkpoint}"
                found[name] = (tensor["dtype"], tensor["shape"], digest(file, end - first))
    return found


def size_of(checkpoint):
    return checkpoint.stat().st_size if checkpoint.is_file() else sum(path.stat().st_size for path in checkpoint.iterdir())


def remove(checkpoint):
    if checkpoint.is_file():
        checkpoint.unlink()
    else:
        shutil.rmtree(checkpoint)


class Exporter:
    """Checkpoints by the name of their kind, each in a folder `model`, after which a GGUF file calls itself."""

    def __init__(self, program, folder):
        self.program, self.folder, self.differences = program, folder, 0

    def path(self, kind):
        return self.folder / kind / ("model.gguf" if kind.startswith("gguf") else "model")

    def export(self, source, kind, layout, experts="mxfp4"):
        """From the kind `source`; returns digests."""
        out = self.path(kind)
        begin = time.perf_counter()
        command = [self.program, "export", "--model", self.path(source), "--format", layout, "--experts", experts, "--out", out]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
        print(f"{source:>12} -> {kind:<20} {size_of(out) / 1e9:5.1f} GB in {seconds:5.1f} s", flush=True)
        return digests(out)

    def drop(self, *kinds):
        for kind in kinds:
            remove(self.path(kind))

    def expect(self, what, found, expected):
        different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        self.differences += len(different)
        print(f"    {what}: {len(expected)} digests, {len(different)} differ" + "".join(f"\n        {name}" for name in different[:5]), flush=True)


def round_trips(exporter):
    hf = digests(exporter.path("hf"))
    openai = exporter.export("hf", "openai", "openai")
    exporter.expect("hf -> openai -> hf", exporter.export("openai", "hf-again", "hf"), hf)
    exporter.drop("hf-again")

    gguf = exporter.export("openai", "gguf-of-openai", "gguf")
    exporter.expect("openai -> gguf -> openai", exporter.export("gguf-of-openai", "openai-again", "openai"), openai)
    exporter.drop("gguf-of-openai", "openai-again", "openai")

    exporter.expect("the GGUF file of hf and that of openai", exporter.export("hf", "gguf", "gguf"), gguf)
    exporter.expect("hf -> gguf -> hf", exporter.export("gguf", "hf-again", "hf"), hf)
    exporter.drop("gguf", "hf-again")


def bf16_round_trips(exporter):
    """Each from what the one before came back to. Blocks and scales may tell the same values otherwise, so it is those that are compared."""
    bf16 = exporter.export("hf", "bf16", "hf", "bf16")
    exporter.drop("hf")
    for kind, layout, experts in [("gguf-bf16", "gguf", "bf16"), ("hf-of-bf16", "hf", "mxfp4"), ("openai-of-bf16", "openai", "mxfp4")]:
        exporter.export("bf16", kind, layout, experts)
        exporter.drop("bf16")
        exporter.expect(f"bf16 -> {kind} -> bf16", exporter.export(kind, "bf16", "hf", "bf16"), bf16)
        exporter.drop(kind)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/ossature")
    parser.add_argument("--preset", default="gpt-oss-20b")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--packed-only", action="store_true", help="no experts in bfloat16")
    parser.add_argument("--dir", type=pathlib.Path, help="where the scratch folder is made")
    parser.add_argument("--tokenizer", type=pathlib.Path, help="folder whose tokenizer the checkpoint gets")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ossature-large-", dir=options.dir) as scratch:
        exporter = Exporter(options.program, pathlib.Path(scratch))
        tokenizer = ["--tokenizer", options.tokenizer] if options.tokenizer else []
        command = [options.program, "init", options.preset, "--layers", options.layers, *tokenizer, "--out", exporter.path("hf")]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        round_trips(exporter)
        if not options.packed_only:
            bf16_round_trips(exporter)
    print(f"{exporter.differences} digests differ" if exporter.differences else "all the same")
    return 1 if exporter.differences else 0


if __name__ == "__main__":
    sys.exit(main())
