#!/usr/bin/env python3
"""Optimizer steps of transformers + peft on one row of tokens, in a process of its own: scripts/benchmarks/train.py runs it.

Reads its options as one JSON object from standard input and prints one: the loss and the seconds of every step, peak resident memory of
the process up to the first step and from there on, in bytes. Saves the untrained adapter where the options say, unless there is one.
"""

import json
import os
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import GptOssForCausalLM, Mxfp4Config


def peak_resident_bytes():
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def forget_peak():
    """Linux then counts VmHWM, the peak, from now on."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def load(options):
    model = GptOssForCausalLM.from_pretrained(
        options["model"],
        dtype=torch.bfloat16,
        attn_implementation="eager",  # sdpa has no sinks, flash kernels need a GPU
        experts_implementation=options["experts"],
        quantization_config=Mxfp4Config(dequantize=True),  # the packed kernels need a GPU
    )
    config = LoraConfig(
        r=options["rank"],
        lora_alpha=2 * options["rank"],
        target_modules=options["target_modules"],
        target_parameters=options["target_parameters"],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config)
    if not os.path.exists(options["initial_adapter"]):
        model.save_pretrained(options["initial_adapter"])
    if options["checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model.train()


def main():
    options = json.load(sys.stdin)
    torch.manual_seed(0)
    torch.set_num_threads(options["threads"])
    model = load(options)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options["learning_rate"], weight_decay=0.0)
    row = torch.tensor([options["tokens"]])
    loading = peak_resident_bytes()
    forget_peak()
    losses, seconds = [], []
    for _ in range(options["steps"]):
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=row, labels=row, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begin)
        print(f"peft: step {len(losses)}: loss {losses[-1]:.4f}, {seconds[-1]:.2f} s", file=sys.stderr)
    print(json.dumps({
        "losses": losses,
        "seconds": seconds,
        "loading_peak_bytes": loading,
        "training_peak_bytes": peak_resident_bytes(),
    }))


if __name__ == "__main__":
    main()
