#!/usr/bin/env python3
"""`ossature eval` against llama.cpp's prompt rate and against the machine's matrix product: the same weights, the same cores, by turns.

Both read rows of so many random tokens through a cut of gpt-oss's shape with random weights. llama-bench computes logits of a row's last token
only, so ours gets rows with one learned token; its rate with every token learned, as evaluation has it, is given besides. Ours is the whole
command, which starts, maps the weights and computes one row at once; llama-bench loads and warms up before it counts. llama.cpp multiplies the
experts in MXFP4 by activations that it rounds to 8 bits; other matrices it has in bfloat16 or in 8 bits (q8_0, as its published files of
gpt-oss have them). The fastest of its settings in trials before the first turn is used.
"""

import argparse
import itertools
import json
import pathlib
import statistics
import sys

import cut
import llama
import process
import roofline

KINDS = ["bf16", "q8_0"]
SETTINGS = [{"flash-attn": flash, "ubatch-size": ubatch} for flash, ubatch in itertools.product(["on", "off"], [512, 1024])]


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench eval", description=__doc__.split("\n")[0])
    cut.add_arguments(parser, num_layers=4, row="a row")
    parser.add_argument("--rows", type=int, default=4, help="of a run (4)")
    parser.add_argument("--llama", type=pathlib.Path, default=cut.ROOT / ".peers/llama.cpp", help="folder with llama.cpp, or where to make it")
    options = parser.parse_args()
    if options.tokens < 2 or options.rows < 1 or options.repeats < 1:
        parser.error("--tokens must be at least 2, --rows and --repeats at least 1")
    return options


def ossature(options, data):
    command = [options.program, "eval", "--model", options.model, "--device", "cpu", "--max-tokens", options.tokens, "--json", "--data", data]
    ran = process.run(command, cores=options.threads)
    said = json.loads(ran.output)
    return {"tokens_per_second": said["tokens"] / ran.seconds, "seconds": ran.seconds, "peak_bytes": ran.peak_bytes,
            "others_share": ran.others_share, "loss": said["loss"]}


def fastest(options, bench, scratch):
    """The GGUF and the settings with which llama.cpp is fastest, and every trial."""
    trials = []
    for kind in KINDS:
        path = llama.convert(options.llama, options.model, kind, scratch / f"{kind}.gguf")
        for settings in SETTINGS:
            rate = max(llama.prompt_rate(bench, path, settings, options.tokens, 2, options.threads)["samples"])
            trials.append({"kind": kind, **settings, "tokens_per_second": rate})
            print(f"bench: trial of llama.cpp: {trials[-1]}", file=sys.stderr)
    best = max(trials, key=lambda trial: trial["tokens_per_second"])
    return scratch / f"{best['kind']}.gguf", {name: best[name] for name in SETTINGS[0]}, best["kind"], trials


def measure(options, scratch):
    vocab_size = json.loads((options.model / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    tokens = [cut.random_tokens(options.tokens, seed) for seed in range(options.rows)]
    cut.write_token_file(scratch / "last.h5", tokens, 1, vocab_size)
    cut.write_token_file(scratch / "all.h5", tokens, options.tokens - 1, vocab_size)
    runs = {"ossature": [], "ossature_all_learned": [], "peer": [], "roofline": []}
    chosen = {}
    if not options.no_peer:
        bench = llama.obtain(options.llama)
        gguf, settings, kind, trials = fastest(options, bench, scratch)
        chosen = {"kind": kind, **settings, "trials": trials}
    for repeat in range(options.repeats):
        before = roofline.measure(options.threads)
        runs["ossature"].append(ossature(options, scratch / "last.h5"))
        runs["ossature_all_learned"].append(ossature(options, scratch / "all.h5"))
        runs["roofline"].append(max(before, roofline.measure(options.threads)))
        if not options.no_peer:
            said = llama.prompt_rate(bench, gguf, settings, options.tokens, options.rows, options.threads)
            runs["peer"].append({**said, "tokens_per_second": statistics.median(said["samples"])})
        rates = [f"{name} {each[-1]['tokens_per_second']:.1f}" for name, each in runs.items() if each and name != "roofline"]
        print(f"bench: {repeat + 1} of {options.repeats}: {', '.join(rates)} tokens/s", file=sys.stderr)
    return runs, chosen


def summary(options, runs):
    """Medians over the turns; ratios are of the same turn, then their median."""
    made = {"roofline_gflop_per_second": statistics.median(runs["roofline"])}
    made["others_share"] = max(each["others_share"] for name in ("ossature", "ossature_all_learned", "peer") for each in runs[name])
    for name, num_logits in [("ossature", 1), ("ossature_all_learned", options.tokens - 1), ("peer", 1)]:
        if runs[name]:
            rate = statistics.median(each["tokens_per_second"] for each in runs[name])
            gflop = cut.forward_gflop(options.model, options.tokens, num_logits) / options.tokens
            made[name] = {
                "tokens_per_second": rate,
                "gflop_per_token": gflop,
                "gflop_per_second": gflop * rate,
                "share_of_roofline": statistics.median(
                    gflop * each["tokens_per_second"] / best for each, best in zip(runs[name], runs["roofline"], strict=True)
                ),
                "peak_bytes": max(each["peak_bytes"] for each in runs[name]),
            }
    if runs["peer"]:
        for name, key in [("ossature", "rate_ratio"), ("ossature_all_learned", "rate_ratio_all_learned")]:
            pairs = zip(runs[name], runs["peer"], strict=True)
            made[key] = statistics.median(our["tokens_per_second"] / their["tokens_per_second"] for our, their in pairs)
        made["memory_ratio"] = made["ossature"]["peak_bytes"] / min(each["peak_bytes"] for each in runs["peer"])
    return made


def show(options, made, chosen):
    config = json.loads((options.model / "config.json").read_text(encoding="utf-8"))
    print(f"{config['num_hidden_layers']} layers of {config['num_local_experts']} experts, rows of {options.tokens} tokens, "
          f"{options.threads} threads, median of {options.repeats} by turns")
    print(f"{'':44}{'tokens/s':>10}{'GFLOP/s':>9}{'of peak':>9}{'peak MB':>9}")
    names = {"ossature": "ossature eval, a row's last token learned", "ossature_all_learned": "ossature eval, all learned"}
    if chosen:
        names["peer"] = f"llama.cpp, {chosen['kind']}, flash {chosen['flash-attn']}, ubatch {chosen['ubatch-size']}"
    for name, title in names.items():
        row = made[name]
        print(f"{title:44}{row['tokens_per_second']:10.1f}{row['gflop_per_second']:9.0f}{row['share_of_roofline']:9.1%}"
              f"{row['peak_bytes'] / 1e6:9.0f}")
    products = "LibTorch's products"
    print(f"{products:44}{'':10}{made['roofline_gflop_per_second']:9.0f}")
    print(f"other processes used at most {made['others_share']:.0%} of the cores during a run")
    if chosen:
        print(f"ratio {made['rate_ratio']:.2f} in tokens/s ({made['rate_ratio_all_learned']:.2f} with all learned), "
              f"{made['memory_ratio']:.2f} in peak memory")


def main():
    options = arguments()
    with cut.scratch(options) as scratch:
        runs, chosen = measure(options, scratch)
        made = summary(options, runs)
        show(options, made, chosen)
    if options.json:
        cut.write_figures(options, {**made, "peer_settings": chosen, "runs": runs})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
