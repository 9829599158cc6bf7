#!/usr/bin/env python3
"""`ossature train` against transformers + peft and against the machine's matrix product: the same row of tokens, the same cores, by turns.

A cut of gpt-oss's shape with random weights learns every token of one row a step, in bfloat16. Rates are those of the steps after the first.
The peer holds the experts decoded to bfloat16, since its packed kernels want a GPU, and computes them by grouped_mm, the fastest of its ways
on a processor (eager takes three times as long; batched_mm copies an expert for every token). Memory is the peak of the whole process,
mapped files included; of the peer also while it trains, where loading needs more. GFLOP counts the products with weights in the forward pass
and as much for the gradients of their inputs; what is computed again counts as nothing.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile

import cut
import process
import roofline

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]
PARAMETERS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
TARGETS = {"all": (MODULES, PARAMETERS), "attention": (MODULES, []), "experts": ([], PARAMETERS)}
LEARNING_RATE = 2e-4
TOLERANCE = 0.02  # of the first loss, of about 12.8: ten times what two ways of computing it in bfloat16 differ by


def recipe(options, model, data, folder, initial):
    modules, parameters = TARGETS[options.targets]
    return {
        "base_model": str(model),
        "output_dir": str(folder),
        "device": "cpu",
        "lora": {"r": options.rank, "lora_alpha": 2 * options.rank, "target_modules": modules, "target_parameters": parameters,
                 "init_from": str(initial) if initial.exists() else None},
        "data": {"train": str(data), "sequence_length": options.tokens},
        "train": {
            "micro_batch_size": 1, "gradient_accumulation_steps": 1, "epochs": options.steps, "learning_rate": LEARNING_RATE,
            "lr_scheduler": "constant", "warmup_steps": 0,
        },
        "evaluation": {"every_steps": None},
        "checkpoint": {"every_steps": None},
    }


def ossature(options, data, threads, model=None):
    with tempfile.TemporaryDirectory(dir=data.parent) as scratch:
        path, folder = pathlib.Path(scratch) / "recipe.yaml", pathlib.Path(scratch) / "run"
        path.write_text(json.dumps(recipe(options, model or options.model, data, folder, initial_adapter(data))), encoding="utf-8")  # JSON is YAML
        given = [f"train.threads={threads}", *options.set]
        ran = process.run([options.program, "train", path, *given], cores=threads)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line]
    made = result(options, ran, [line["loss"] for line in steps], [line["seconds"] for line in steps], ran.peak_bytes)
    later = steps[1:] or steps
    made["bookkeeping_share"] = sum(line["bookkeeping_seconds"] for line in later) / sum(line["seconds"] for line in later)
    return made


def initial_adapter(data):
    """The peer saves it in its first run, so that both start from the same values."""
    return data.with_name("initial-adapter")


def transformers(options, data, tokens):
    modules, parameters = TARGETS[options.targets]
    given = {
        "model": str(options.model), "experts": options.peer_experts, "checkpointing": options.peer_checkpointing, "rank": options.rank,
        "target_modules": modules, "target_parameters": parameters, "learning_rate": LEARNING_RATE, "threads": options.threads,
        "steps": options.steps, "tokens": tokens, "initial_adapter": str(initial_adapter(data)),
    }
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, pathlib.Path(__file__).with_name("peft_training.py")]
    ran = process.run(command, environment, json.dumps(given).encode(), cores=options.threads)
    said = json.loads(ran.output)
    peak = max(said["loading_peak_bytes"], said["training_peak_bytes"])  # the process forgot that of loading
    return {**said, **result(options, ran, said["losses"], said["seconds"], peak)}


def result(options, ran, losses, seconds, peak):
    later = seconds[1:] or seconds
    return {
        "losses": losses, "seconds": seconds, "tokens_per_second": options.tokens * len(later) / sum(later), "peak_bytes": peak,
        "others_share": ran.others_share,
    }


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench train", description=__doc__.split("\n")[0])
    cut.add_arguments(parser, num_layers=2, row="a step")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--targets", choices=TARGETS, default="all")
    parser.add_argument("--steps", type=int, default=3, help="of a run; the first is not counted (3)")
    parser.add_argument("--scaling", action="store_true", help="each turn also ours with one thread on one core")
    parser.add_argument("--one-expert", action="store_true", help="each turn also ours with every token routed to the same experts")
    parser.add_argument("--peer-experts", choices=["grouped_mm", "eager"], default="grouped_mm", help="how the peer computes experts")
    parser.add_argument("--peer-checkpointing", action="store_true", help="the peer recomputes layers: slower, less memory")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of our recipe, such as train.recompute=on")
    options = parser.parse_args()
    if options.steps < 2 or options.repeats < 1 or options.tokens < 2:
        parser.error("--steps and --tokens must be at least 2, --repeats at least 1")
    return options


def measure(options, data, tokens):
    runs = {"ossature": [], "ossature_one_thread": [], "ossature_one_expert": [], "peer": [], "roofline": [], "roofline_one_thread": []}
    alike = cut.route_all_alike(options.model, data.with_name("alike")) if options.one_expert else None
    for repeat in range(options.repeats):
        if not options.no_peer:
            runs["peer"].append(transformers(options, data, tokens))
        for threads, suffix in [(options.threads, "")] + [(1, "_one_thread")] * options.scaling:
            before = roofline.measure(threads)
            runs["ossature" + suffix].append(ossature(options, data, threads))
            runs["roofline" + suffix].append(max(before, roofline.measure(threads)))
        if alike:
            runs["ossature_one_expert"].append(ossature(options, data, options.threads, alike))
        rates = [f"{name} {each[-1]['tokens_per_second']:.1f}" for name, each in runs.items() if each and isinstance(each[-1], dict)]
        print(f"bench: {repeat + 1} of {options.repeats}: {', '.join(rates)} tokens/s", file=sys.stderr)
    return runs


def summary(options, runs):
    """Medians over the turns; ratios are of the same turn, then their median."""
    gflop = 2 * cut.forward_gflop(options.model, options.tokens, options.tokens - 1) / options.tokens
    made = {"gflop_per_token": gflop}
    for name, peak in [("ossature", "roofline"), ("peer", "roofline"), ("ossature_one_thread", "roofline_one_thread"),
                       ("ossature_one_expert", "roofline")]:
        if runs[name]:
            rate = statistics.median(each["tokens_per_second"] for each in runs[name])
            made[name] = {
                "tokens_per_second": rate,
                "gflop_per_second": gflop * rate,
                "share_of_roofline": statistics.median(
                    gflop * each["tokens_per_second"] / best for each, best in zip(runs[name], runs[peak], strict=True)
                ),
                "first_step_seconds": statistics.median(each["seconds"][0] for each in runs[name]),
                "peak_bytes": max(each["peak_bytes"] for each in runs[name]),
                "first_loss": runs[name][0]["losses"][0],
                "last_loss": runs[name][0]["losses"][-1],
            }
    made["roofline_gflop_per_second"] = statistics.median(runs["roofline"])
    made["bookkeeping_share"] = statistics.median(each["bookkeeping_share"] for each in runs["ossature"])
    made["others_share"] = max(each["others_share"] for name in runs if name.startswith(("ossature", "peer")) for each in runs[name])
    if runs["peer"]:
        made["peer"]["training_peak_bytes"] = max(each["training_peak_bytes"] for each in runs["peer"])
        pairs = list(zip(runs["ossature"], runs["peer"], strict=True))
        made["rate_ratio"] = statistics.median(our["tokens_per_second"] / their["tokens_per_second"] for our, their in pairs)
        made["memory_ratio"] = made["ossature"]["peak_bytes"] / min(each["peak_bytes"] for each in runs["peer"])
        made["same_first_loss"] = all(abs(our["losses"][0] - their["losses"][0]) < TOLERANCE for our, their in pairs)
    if runs["ossature_one_thread"]:
        pairs = zip(runs["ossature"], runs["ossature_one_thread"], strict=True)
        made["scaling"] = statistics.median(our["tokens_per_second"] / alone["tokens_per_second"] for our, alone in pairs)
        pairs = zip(runs["roofline"], runs["roofline_one_thread"], strict=True)
        made["roofline_scaling"] = statistics.median(best / alone for best, alone in pairs)
    if runs["ossature_one_expert"]:
        pairs = zip(runs["ossature_one_expert"], runs["ossature"], strict=True)
        made["one_expert_ratio"] = statistics.median(alike["tokens_per_second"] / our["tokens_per_second"] for alike, our in pairs)
    return made


def show(options, made):
    config = json.loads((options.model / "config.json").read_text(encoding="utf-8"))
    print(f"{config['num_hidden_layers']} layers of {config['num_local_experts']} experts, {options.tokens} tokens a step, LoRA r {options.rank} "
          f"on {options.targets}, {options.threads} threads, median of {options.repeats} by turns, {made['gflop_per_token']:.2f} GFLOP a token")
    print(f"{'':32}{'tokens/s':>10}{'GFLOP/s':>9}{'of peak':>9}{'first step s':>14}{'peak MB':>9}{'first loss':>12}{'last loss':>11}")
    names = {"ossature": "ossature train", "ossature_one_thread": "ossature train, one thread", "ossature_one_expert": "ossature train, same experts",
             "peer": f"transformers + peft, {options.peer_experts}"}
    for name, title in names.items():
        if name in made:
            row = made[name]
            print(f"{title:32}{row['tokens_per_second']:10.1f}{row['gflop_per_second']:9.0f}{row['share_of_roofline']:9.1%}"
                  f"{row['first_step_seconds']:14.1f}{row['peak_bytes'] / 1e6:9.0f}{row['first_loss']:12.4f}{row['last_loss']:11.4f}")
    products = "LibTorch's products"
    print(f"{products:32}{'':10}{made['roofline_gflop_per_second']:9.0f}")
    print(f"norms, counts, metrics, events and checkpoints took ossature train {made['bookkeeping_share']:.2%} of the time of its steps")
    print(f"other processes used at most {made['others_share']:.0%} of the cores during a run")
    if "peer" in made:
        print(f"ratio {made['rate_ratio']:.2f} in tokens/s, {made['memory_ratio']:.3f} in peak memory; the peer's peak while it trains "
              f"{made['peer']['training_peak_bytes'] / 1e6:.0f} MB; same first loss: {made['same_first_loss']}")
    if "scaling" in made:
        print(f"from 1 to {options.threads} threads: {made['scaling']:.2f} times the rate; LibTorch's products {made['roofline_scaling']:.2f} times")
    if "one_expert_ratio" in made:
        print(f"every token to the same experts: {made['one_expert_ratio']:.2f} times the rate of random routing")


def main():
    options = arguments()
    with cut.scratch(options) as scratch:
        tokens = cut.random_tokens(options.tokens)
        data = scratch / "train.h5"
        cut.write_token_file(data, [tokens], options.tokens - 1, json.loads((options.model / "config.json").read_text())["vocab_size"])
        runs = measure(options, data, tokens)
        made = summary(options, runs)
        show(options, made)
    if options.json:
        cut.write_figures(options, {**made, "runs": runs})
    return 0 if made.get("same_first_loss", True) else 1


if __name__ == "__main__":
    raise SystemExit(main())
