"""GGUF files against llama.cpp: what its own converter makes of the same checkpoint, and what its library computes with our files.

Run by tests/peers/run. OSSATURE_LLAMA is a folder with llama.cpp, or where to make it (scripts/benchmarks/llama.py). llama.cpp rounds YaRN's
bounds to whole numbers, so its log-probabilities are compared with those of a checkpoint that says truncate: true. It multiplies weights in
MXFP4 and bfloat16 by activations that it rounds to 8 bits and bfloat16; so the exact comparison is one with all weights in float32, and the
files as they are written are held to the loss.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

import numpy
from safetensors.torch import load_file, save_file

import test_peers
from test_peers import FIXTURES, ROOT, ossature, rows_of

sys.path.insert(0, str(ROOT / "scripts/benchmarks"))
import llama

LLAMA = pathlib.Path(os.environ.get("OSSATURE_LLAMA", ROOT / ".peers/llama.cpp"))
SOURCE = llama.obtain_source(LLAMA)
sys.path.insert(0, str(SOURCE / "gguf-py"))
import gguf

SHARED_TOKENIZER = ROOT.parent / "shared/tokenizer"
# The converter makes a title of the folder's name; we take it as it is. A checkpoint without a tokenizer, which it refuses unless it is
# patched, still has ids that end a text.
EXPECTED_DIFFERENCES = {"general.name"}
EXPECTED_WITHOUT_TOKENIZER = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.padding_token_id"}


def convert(kind, *arguments):
    command = [sys.executable, pathlib.Path(__file__).with_name("llama_convert.py"), kind, SOURCE, *arguments]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise AssertionError(ran.stdout + ran.stderr)


def contents(path):
    """Key-values with their types; tensors with type, shape and bytes."""
    reader = gguf.GGUFReader(path)
    values = {key: (field.types, field.contents()) for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    tensors = {t.name: (t.tensor_type.name, tuple(map(int, t.shape)), t.data.tobytes()) for t in reader.tensors}
    return values, tensors


def logprobs(model, rows, adapter=None):
    program = llama.obtain_judge(LLAMA, pathlib.Path(__file__).with_name("llama_logprobs.cpp"))
    text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
    ran = subprocess.run([str(part) for part in (program, model, adapter) if part], input=text, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise AssertionError(ran.stderr)
    return [numpy.array(line.split(), dtype=numpy.float64) for line in ran.stdout.splitlines()]


def mean_loss(rows):
    return -numpy.concatenate([row[1:] for row in rows]).mean()


class GgufTest(test_peers.PeersTest):
    def setUp(self):
        super().setUp()
        self.serial = 0

    def path(self, name):
        self.serial += 1
        return self.scratch / f"{self.serial}-{name}"

    def export(self, model, *options, format="gguf", name="ours.gguf"):
        out = self.path(name)
        ossature("export", "--model", model, "--format", format, "--out", out, *options)
        return out

    def truncated(self, model, widened=False):
        """A copy whose config.json rounds YaRN's bounds; `widened`: every tensor in float32, none in MXFP4."""
        copy = self.path("model")
        shutil.copytree(model, copy)
        config = json.loads((copy / "config.json").read_text())
        (config.get("rope_parameters") or config["rope_scaling"])["truncate"] = True
        (copy / "config.json").write_text(json.dumps(config))
        if widened:
            tensors = load_file(copy / "model.safetensors")
            save_file({name: tensor.float() for name, tensor in tensors.items()}, copy / "model.safetensors")
        return copy

    def assert_converted_alike(self, model, *options):
        ours, theirs = self.export(model, *options), self.path("theirs.gguf")
        convert("model", model, "--outtype", "bf16", "--outfile", theirs)
        (our_values, our_tensors), (their_values, their_tensors) = contents(ours), contents(theirs)
        self.assertEqual(sorted(our_tensors), sorted(their_tensors))
        for name, tensor in their_tensors.items():
            self.assertEqual(our_tensors[name][:2], tensor[:2], name)
            self.assertTrue(our_tensors[name][2] == tensor[2], f"{name}: other bytes")
        different = {key for key in our_values.keys() | their_values.keys() if our_values.get(key) != their_values.get(key)}
        without = set() if (model / "tokenizer.json").exists() else EXPECTED_WITHOUT_TOKENIZER
        self.assertLessEqual(different, EXPECTED_DIFFERENCES | without)

    def test_is_what_their_converter_makes(self):
        for fixture in FIXTURES:
            for layout, options in [("hf", []), ("hf-sharded", []), ("hf-bf16", ["--experts", "bf16"])]:
                with self.subTest(fixture=fixture.name, layout=layout):
                    self.assert_converted_alike(fixture / layout, *options)

    def test_tokenizer_is_what_their_converter_makes(self):
        self.assert_converted_alike(ROOT / "recipes/embedded/model")
        if not SHARED_TOKENIZER.exists():
            self.skipTest("o200k_harmony needs ../shared/tokenizer")
        shape = json.loads((FIXTURES[0] / "hf/config.json").read_text())
        shape.update(vocab_size=201088, eos_token_id=200002, pad_token_id=199999)
        config, model = self.path("config.json"), self.path("o200k")
        config.write_text(json.dumps(shape))
        ossature("init", config, "--out", model, "--tokenizer", SHARED_TOKENIZER)
        self.assert_converted_alike(model)
        back = self.export(self.export(model), format="hf", name="back")
        self.assertEqual((back / "tokenizer.json").read_bytes(), (SHARED_TOKENIZER / "tokenizer.json").read_bytes())
        self.assertEqual((back / "chat_template.jinja").read_bytes(), (SHARED_TOKENIZER / "chat_template.jinja").read_bytes())

    def test_attention_adapter_is_what_their_converter_makes(self):
        for fixture in FIXTURES:
            with self.subTest(fixture=fixture.name):
                adapter, theirs = self.path("adapter"), self.path("theirs.gguf")
                shutil.copytree(fixture / "adapter-trained", adapter)
                tensors = load_file(adapter / "adapter_model.safetensors")
                save_file({n: t for n, t in tensors.items() if ".self_attn." in n}, adapter / "adapter_model.safetensors")
                config = json.loads((adapter / "adapter_config.json").read_text())
                (adapter / "adapter_config.json").write_text(json.dumps({**config, "target_parameters": None}))
                ours = self.export(fixture / "hf", "--adapter", adapter, format="gguf-adapter")
                convert("lora", "--base", fixture / "hf", "--outtype", "f32", "--outfile", theirs, adapter)
                (our_values, our_tensors), (their_values, their_tensors) = contents(ours), contents(theirs)
                self.assertEqual(our_tensors, their_tensors)
                for key in ["general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"]:
                    self.assertEqual(our_values[key], their_values[key])

    def test_their_log_probabilities_are_ours(self):
        for fixture in FIXTURES:
            rows = rows_of(fixture)
            with self.subTest(fixture=fixture.name):
                model = self.truncated(fixture / "hf-bf16", widened=True)
                base = self.export(model, "--experts", "bf16")
                self.assert_same(self.evaluate(model, rows), logprobs(base, rows))
                for adapter in sorted(fixture.glob("adapter*")):
                    with self.subTest(adapter=adapter.name):
                        pairs = self.export(model, "--adapter", adapter, format="gguf-adapter")
                        self.assert_same(self.evaluate(model, rows, adapter), logprobs(base, rows, pairs))
                merged = self.export(model, "--adapter", fixture / "adapter-trained", "--experts", "bf16", "--no-verify")
                self.assert_same(self.evaluate(model, rows, fixture / "adapter-trained"), logprobs(merged, rows))

    def test_their_loss_is_ours(self):
        for fixture in FIXTURES:
            rows = rows_of(fixture)
            model = self.truncated(fixture / "hf")
            adapter = fixture / "adapter-trained"
            cases = {"base": [], "mxfp4": ["--adapter", adapter], "mixed": ["--adapter", adapter, "--experts", "mixed"]}
            for name, options in cases.items():
                with self.subTest(fixture=fixture.name, export=name):
                    out = self.export(model, *options, *(["--no-verify"] if options else []))
                    ours, theirs = mean_loss(self.evaluate_file(out, model, rows)), mean_loss(logprobs(out, rows))
                    self.assertLessEqual(abs(ours - theirs), 0.01 * ours)

    def evaluate_file(self, file, model, rows):
        """`ossature eval` of a GGUF file, which has no config.json that tells the vocabulary's size."""
        data, out = self.path("data.h5"), self.path("logprobs.h5")
        test_peers.judges.write_token_file(data, rows, test_peers.vocab_size(model))
        ossature("eval", "--model", file, "--data", data, "--dtype", "float32", "--logprobs", out)
        return test_peers.judges.read_logprobs(out, rows)


if __name__ == "__main__":
    unittest.main(verbosity=2)
