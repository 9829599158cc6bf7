#!/usr/bin/env python3
"""What a longer sample costs: `ossature train` on one sample of each length, in a cut of gpt-oss-20b with random weights.

Every layer runs again in the backward pass, so that memory is that of one layer and grows with nothing but the length. GFLOP a token are
counted: products with weights, which do not depend on the length, and attention's scores, which in half of the layers grow with it and in the
others stop at the window. A rate of GFLOP that stays says that the cost grows by full attention's share and by nothing else.
"""

import argparse
import json
import sys

import cut
import train as training

MOST_TOKENS_TWICE = 8192  # of a longer sample the first step counts, as the touch of the weights is little beside it


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench lengths", description=__doc__.split("\n")[0])
    cut.add_arguments(parser, num_layers=4, row="the last length; --lengths has all")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 32768])
    parser.add_argument("--rank", type=int, default=8)
    options = parser.parse_args()
    options.targets, options.set = "all", ["train.recompute=on"]
    return options


def scores_gflop(model, length):
    """Of all layers for a token of such a sample: queries with keys and weights with values, forward, and their four in the backward pass, which
    computes the first of the two again: 7 products; and those of the run again: 9."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    window = config["sliding_window"]
    keys = {"full_attention": (length + 1) / 2, "sliding_attention": min((length + 1) / 2, window)}
    pairs = sum(keys[kind] for kind in config["layer_types"])
    return 9 * 2e-9 * config["num_attention_heads"] * config["head_dim"] * pairs


def measure(options, scratch, length):
    options.tokens, options.steps = length, 1 if length > MOST_TOKENS_TWICE else 2
    data = scratch / f"{length}.h5"
    vocabulary = json.loads((options.model / "config.json").read_text())["vocab_size"]
    cut.write_token_file(data, [cut.random_tokens(length)], length - 1, vocabulary)
    ran = training.ossature(options, data, options.threads)
    rate = length / ran["seconds"][-1]
    weights = 3 * cut.forward_gflop(options.model, length, 0) / length + 2 * cut.forward_gflop(options.model, 0, length - 1) / length
    scores = scores_gflop(options.model, length)
    return {"tokens": length, "tokens_per_second": rate, "seconds": ran["seconds"][-1], "peak_bytes": ran["peak_bytes"], "gflop_per_token": weights + scores,
            "scores_share": scores / (weights + scores), "gflop_per_second": rate * (weights + scores), "loss": ran["losses"][0], "others_share": ran["others_share"]}


def main():
    options = arguments()
    with cut.scratch(options) as scratch:
        print(f"{'tokens':>8}{'tokens/s':>10}{'GFLOP a token':>15}{'of it scores':>14}{'GFLOP/s':>9}{'cost':>7}{'counted':>9}{'peak MB':>9}{'bytes a token':>15}", flush=True)
        rows = []
        for length in options.lengths:
            row = measure(options, scratch, length)
            rows.append(row)
            first, last = rows[0], rows[-2] if len(rows) > 1 else None
            slope = f"{(row['peak_bytes'] - last['peak_bytes']) / (length - last['tokens']):15.0f}" if last else ""
            print(f"{length:8}{row['tokens_per_second']:10.1f}{row['gflop_per_token']:15.2f}{row['scores_share']:14.1%}{row['gflop_per_second']:9.0f}"
                  f"{first['tokens_per_second'] / row['tokens_per_second']:7.2f}{row['gflop_per_token'] / first['gflop_per_token']:9.2f}"
                  f"{row['peak_bytes'] / 1e6:9.0f}{slope}", flush=True)
        print(f"cost, counted: a token's time and its GFLOP, in units of the first row's; other processes used at most "
              f"{max(row['others_share'] for row in rows):.0%} of the cores")
    if options.json:
        cut.write_figures(options, {"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
