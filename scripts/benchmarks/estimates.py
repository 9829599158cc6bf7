#!/usr/bin/env python3
"""`ossature estimate` against the peak resident memory of the runs that it tells of: five recipes from the embedded model to gpt-oss-20b.

Each is estimated first, from headers alone, and then trained for some steps; weights are random but for the embedded model's, whose recipe is
the quickstart's. Fails if an estimate is further than a tenth from the peak. The whole of gpt-oss-20b needs 14 GB in TMPDIR.
"""

import argparse
import json
import pathlib
import shutil
import sys
import tempfile

import cut
import process
import train as training

EMBEDDED = cut.ROOT / "recipes/embedded"
# Layers of gpt-oss-20b, targets, tokens of a row, steps, train.memory_limit in GiB.
CUTS = [(2, "attention", 1024, 3, None), (2, "all", 1024, 3, None), (2, "all", 4096, 2, None), (24, "all", 1024, 2, 18)]
MOST = 0.1


def embedded(options, scratch):
    """The quickstart's recipe, given for 100 steps."""
    changed = [f"output_dir={scratch / 'run'}", "train.max_steps=100"]
    for name, key in [("train", "train"), ("validation", "validation")]:
        tokens = scratch / f"{name}.h5"
        process.run([options.program, "prepare", EMBEDDED / f"conversations-{name}.jsonl", "--tokenizer", EMBEDDED / "model", "--date", "none", "--out", tokens])
        changed.append(f"data.{key}={tokens}")
    return "the embedded model, the quickstart's recipe", EMBEDDED / "quickstart.yaml", changed


def cut_recipe(options, scratch, layers, targets, tokens, steps, limit):
    model = scratch / f"{layers}-layers"
    if not model.exists():
        for other in scratch.glob("*-layers"):
            shutil.rmtree(other)
        cut.make(options.program, "gpt-oss-20b", layers, model)
    options.targets, options.tokens, options.steps = targets, tokens, steps
    data, path = scratch / "train.h5", scratch / "recipe.yaml"
    data.unlink(missing_ok=True)
    cut.write_token_file(data, [cut.random_tokens(tokens)], tokens - 1, json.loads((model / "config.json").read_text())["vocab_size"])
    path.write_text(json.dumps(training.recipe(options, model, data, scratch / "run", scratch / "none")), encoding="utf-8")
    name = f"{layers} layers of gpt-oss-20b, r {options.rank} on {'attention and experts' if targets == 'all' else targets}, {tokens} tokens"
    return name, path, [f"train.threads={options.threads}", *([f"train.memory_limit={limit}"] if limit else [])]


def measure(options, scratch, name, recipe, changed):
    shutil.rmtree(scratch / "run", ignore_errors=True)
    said = json.loads(process.run([options.program, "estimate", "--no-probe", "--json", recipe, *changed]).output)
    ran = process.run([options.program, "train", recipe, *changed])
    estimated = said["memory_bytes"]
    row = {"recipe": name, "estimated_bytes": estimated, "peak_bytes": ran.peak_bytes, "off": estimated / ran.peak_bytes - 1}
    print(f"{name:70}{estimated / 1e9:8.2f}{ran.peak_bytes / 1e9:8.2f}{row['off']:+8.1%}", flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench estimates", description=__doc__.split("\n")[0])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--largest", type=int, default=24, help="layers of the largest cut that is tried (24)")
    parser.add_argument("--program", type=pathlib.Path, default=cut.ROOT / "build/ossature")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="writes every figure")
    options = parser.parse_args()
    print(f"{'GB resident':70}{'told':>8}{'seen':>8}{'off':>8}")
    with tempfile.TemporaryDirectory(prefix="ossature-bench-") as folder:
        scratch = pathlib.Path(folder)
        rows = [measure(options, scratch, *embedded(options, scratch))]
        for layers, *others in CUTS:
            if layers <= options.largest:
                rows.append(measure(options, scratch, *cut_recipe(options, scratch, layers, *others)))
    if options.json:
        cut.write_figures(options, {"rows": rows})
    return 1 if any(abs(row["off"]) > MOST for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
