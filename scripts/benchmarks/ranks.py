#!/usr/bin/env python3
"""Two ranks of `ossature train` over a slow network: the share of a step that they wait for it, and what the model of train/plan/step_time.h predicts.

The ranks live in two network namespaces, with a host name each, joined by a link of the given rate and delay (network_link.cpp, a cable in software)
as two machines would be; mpirun reaches the second through a stand-in for ssh. Each computes on one thread of its own core. A cut of gpt-oss-20b
gets adapters of as many bytes as all of gpt-oss-20b with r 8: the rank grows as the layers get fewer. Before, the same two ranks run side by side
on one machine, joined by memory; what a micro-batch takes there is all that the prediction knows of this machine.

Memory: the proportional set size (shared pages counted once) of one rank, and of two on one machine, mapped weights included.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import cut
import process

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]
PARAMETERS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
LAYERS_OF_20B, RANK = 24, 8
SPACES = ["ossature-a", "ossature-b"]
ADDRESSES = ["10.99.0.1", "10.99.0.2"]
MPIRUN = ["mpirun", "--allow-run-as-root", "-n", "2", "--bind-to", "none"]


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench ranks", description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, help="MXFP4 checkpoint to use; made in TMPDIR and removed unless given")
    parser.add_argument("--layers", type=int, default=4, help="its layers (4)")
    parser.add_argument("--tokens", type=int, default=1024, help="of a micro-batch (1024)")
    parser.add_argument("--micro-batches", type=int, default=4, help="of a step, of both ranks (4)")
    parser.add_argument("--steps", type=int, default=4, help="of a run; the first is not counted (4)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (3)")
    parser.add_argument("--rate", default="1Gbit", help="of the link (1Gbit)")
    parser.add_argument("--delay", type=float, default=1.0, help="of the link, one way, in milliseconds (1)")
    parser.add_argument("--targets", choices=["attention", "all", "both"], default="both")
    parser.add_argument("--program", type=pathlib.Path, default=cut.ROOT / "build/ossature")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="writes every run's figures")
    parser.set_defaults(preset="gpt-oss-20b")
    return parser.parse_args()


def bits_per_second(rate):
    units = {"Gbit": 1e9, "Mbit": 1e6}
    return float(rate[:-4]) * units[rate[-4:]]


def inside(space, command):
    return ["ip", "netns", "exec", space, *command]


@contextlib.contextmanager
def linked(options, scratch):
    link = scratch / "network_link"
    subprocess.run(["g++", "-O2", "-std=c++20", "-pthread", pathlib.Path(__file__).with_name("network_link.cpp"), "-o", link], check=True)
    for space in SPACES:
        subprocess.run(["ip", "netns", "delete", space], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "netns", "add", space], check=True)
    cable = subprocess.Popen([link, *SPACES, str(bits_per_second(options.rate)), str(options.delay / 1e3)], stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL)
    try:
        cable.stdout.readline()
        for space, address in zip(SPACES, ADDRESSES, strict=True):
            for words in [["addr", "add", f"{address}/24", "dev", "link0"], ["link", "set", "link0", "mtu", "9000", "txqueuelen", "2000"],
                          ["link", "set", "link0", "up"], ["link", "set", "lo", "up"]]:
                subprocess.run(inside(space, ["ip", *words]), check=True)
        shell = scratch / "remote_shell"  # mpirun's ssh: HOST COMMAND...
        shell.write_text("#!/bin/sh\nshift\nexec ip netns exec " + SPACES[1] + " unshare --uts sh -c 'hostname machine-b; exec sh -c \"$1\"' sh \"$*\"\n",
                         encoding="utf-8")
        shell.chmod(0o755)
        yield inside(SPACES[0], ["unshare", "--uts", "sh", "-c", "hostname machine-a; exec \"$@\"", "sh", *MPIRUN, "--host", ",".join(ADDRESSES),
                                 "--mca", "plm_rsh_agent", str(shell), "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "link0",
                                 "--mca", "oob_tcp_if_include", "link0"])
    finally:
        cable.kill()
        for space in SPACES:
            subprocess.run(["ip", "netns", "delete", space], check=False)


def shared_once(program, stop, peaks):
    """The proportional set sizes of all processes of the program together, the highest seen."""
    while not stop.wait(1.0):
        total = 0
        for entry in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and os.path.samefile(entry / "exe", program):
                    rollup = (entry / "smaps_rollup").read_text(encoding="ascii").split("\n")
                    total += sum(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:"))
        peaks.append(total)


def train(options, launcher, recipe, folder):
    command = [*launcher, str(options.program), "train", str(recipe), f"output_dir={folder}"]
    stop, peaks = threading.Event(), [0]
    watcher = threading.Thread(target=shared_once, args=(options.program, stop, peaks))
    watcher.start()
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
    stop.set()
    watcher.join()
    if ran.returncode != 0:
        raise SystemExit(f"bench: {' '.join(command)} ended with {ran.returncode}:\n{ran.stderr[-3000:]}")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line][1:]
    result = {"seconds": statistics.median(step["seconds"] for step in steps), "losses": [step["loss"] for step in steps], "peak_bytes": max(peaks)}
    if "ranks" in steps[0]:
        for key in ["slowest_seconds", "network_seconds"]:
            result[key] = statistics.median(step["ranks"][key] for step in steps)
    return result


def predict(options, recipe, micro_batch_seconds):
    command = [options.program, "estimate", recipe, "--no-probe", "--ranks", "2", "--network", options.rate, "--latency", str(options.delay),
               "--micro-batch-seconds", str(micro_batch_seconds), "--json"]
    return json.loads(process.run(command).output)


def measure(options, scratch, targets):
    modules, parameters = MODULES, PARAMETERS if targets == "all" else []
    data = scratch / "tokens.h5"
    recipe = scratch / f"{targets}.yaml"
    recipe.write_text(json.dumps({  # JSON is YAML
        "base_model": str(options.model), "output_dir": str(scratch / "run"), "device": "cpu",
        "lora": {"r": RANK * LAYERS_OF_20B // options.layers, "target_modules": modules, "target_parameters": parameters},
        "data": {"train": str(data), "sequence_length": options.tokens},
        "train": {"micro_batch_size": 1, "gradient_accumulation_steps": options.micro_batches, "epochs": 1000, "max_steps": options.steps,
                  "lr_scheduler": "constant", "warmup_steps": 0, "threads": 1, "memory_limit": 20},
        "evaluation": {"every_steps": None}, "checkpoint": {"every_steps": None},
    }), encoding="utf-8")
    turns = []
    for repeat in range(options.repeats):
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            folder = pathlib.Path(folder)
            beside = train(options, MPIRUN, recipe, folder / "beside")
            one = train(options, [], recipe, folder / "one") if repeat == 0 else turns[0]["one"]
            with linked(options, folder) as launcher:
                apart = train(options, launcher, recipe, folder / "apart")
        micro_batch = beside["slowest_seconds"] / (options.micro_batches / 2)
        predicted = predict(options, recipe, micro_batch)
        turn = {"one": one, "beside": beside, "apart": apart, "micro_batch_seconds": micro_batch, "predicted": predicted,
                "network_share": apart["network_seconds"] / apart["seconds"], "same_losses": apart["losses"] == beside["losses"]}
        turns.append(turn)
        print(f"bench: {targets} {repeat + 1} of {options.repeats}: step {apart['seconds']:.2f} s, predicted {predicted['step_seconds']:.2f} s; "
              f"network {100 * turn['network_share']:.1f} %, predicted {100 * predicted['network_share']:.1f} %; "
              f"side by side {beside['seconds']:.2f} s; one rank {one['seconds']:.2f} s", file=sys.stderr)
    return turns


def main():
    options = arguments()
    options.program = options.program.resolve()
    with cut.scratch(options) as scratch:
        vocab_size = json.loads((options.model / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        rows = [cut.random_tokens(options.tokens, seed) for seed in range(4 * options.micro_batches)]
        cut.write_token_file(scratch / "tokens.h5", rows, options.tokens, vocab_size)
        figures = {targets: measure(options, scratch, targets) for targets in (["attention", "all"] if options.targets == "both" else [options.targets])}
    print(f"{'adapter':<12} {'bytes':>12} {'step, s':>9} {'predicted':>9} {'waiting':>9} {'predicted':>9} {'memory of 2 / 1':>16}")
    for targets, turns in figures.items():
        def median(value, turns=turns):
            return statistics.median(value(turn) for turn in turns)
        print(f"{targets:<12} {4 * turns[0]['predicted']['trained_parameters']:>12,} {median(lambda t: t['apart']['seconds']):>9.2f} "
              f"{median(lambda t: t['predicted']['step_seconds']):>9.2f} {100 * median(lambda t: t['network_share']):>7.1f} % "
              f"{100 * median(lambda t: t['predicted']['network_share']):>7.1f} % "
              f"{median(lambda t: t['beside']['peak_bytes'] / t['one']['peak_bytes']):>16.2f}")
        print(f"  predicted / measured step by turn: {', '.join('%.3f' % (t['predicted']['step_seconds'] / t['apart']['seconds']) for t in turns)}")
    if options.json:
        cut.write_figures(options, figures)


if __name__ == "__main__":
    main()
