"""Ossature against its peers, through files alone: each test hands the same files to both and compares log-probabilities.

Run by tests/peers/run. OSSATURE_PROGRAM is the program, OSSATURE_GPT_OSS a directory that holds the package gpt_oss.
"""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import numpy
import torch
from safetensors.torch import load_file

import judges

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ["OSSATURE_PROGRAM"]
TOLERANCE = 1e-4

FIXTURES = [ROOT / "tests/golden/small"]
FIXTURES += [path for path in [ROOT.parent / "shared/golden/tiny-a", ROOT.parent / "shared/golden/tiny-b"] if path.exists()]
LAYOUTS = ["hf", "hf-sharded", "hf-bf16", "openai"]


def ossature(*arguments):
    command = [PROGRAM, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise AssertionError(f"{' '.join(command)}\nexit code {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


def rows_of(fixture):
    """The fixture's own rows, then short ones: up to the window and a little past it, and a lone token."""
    ids = load_file(fixture / "golden.safetensors")["input_ids"].tolist()
    return ids + [ids[0][:9], ids[1][3:5], ids[1][-1:]]


def vocab_size(directory):
    return json.loads((directory / "config.json").read_text())["vocab_size"]


class PeersTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="ossature-peers-")
        self.addCleanup(scratch.cleanup)
        self.scratch = pathlib.Path(scratch.name)

    def evaluate(self, model, rows, adapter=None):
        """`ossature eval` in float32 on a token file that h5py wrote."""
        data, out = self.scratch / "data.h5", self.scratch / "logprobs.h5"
        judges.write_token_file(data, rows, vocab_size(model))
        out.unlink(missing_ok=True)
        extra = [] if adapter is None else ["--adapter", adapter]
        ossature("eval", "--model", model, *extra, "--data", data, "--dtype", "float32", "--logprobs", out)
        return judges.read_logprobs(out, rows)

    def assert_same(self, ours, theirs):
        self.assertEqual(len(ours), len(theirs))
        for row, (our, their) in enumerate(zip(ours, theirs)):
            self.assertEqual(our.shape, their.shape)
            self.assertTrue(numpy.isnan(our[0]), f"row {row}: the first token has no context, yet has {our[0]}")
            self.assertTrue(numpy.isfinite(our[1:]).all(), f"row {row}: {our}")
            if len(our) > 1:
                worst = numpy.abs(our[1:] - their[1:]).argmax() + 1
                self.assertLessEqual(abs(our[worst] - their[worst]), TOLERANCE, f"row {row}, position {worst}")

    def export(self, fixture, *options):
        """The merge of adapter-trained, from the MXFP4 layout; tells it apart from the base before returning it."""
        out = self.scratch / "exported"
        ossature("export", "--model", fixture / "hf", "--adapter", fixture / "adapter-trained", "--out", out, *options)
        rows = rows_of(fixture)
        merged, base = self.evaluate(out, rows), self.evaluate(fixture / "hf", rows)
        change = max(numpy.abs(m[1:] - b[1:]).max() for m, b in zip(merged, base) if len(m) > 1)
        self.assertGreater(change, 0.1, "the export ignores the adapter")
        return out, merged

    def recipe(self, fixture, **sections):
        """A recipe for a fixture's two rows, float32; writes their token file."""
        golden = load_file(fixture / "golden.safetensors")
        ids, labels = golden["input_ids"].tolist(), golden["labels"]
        weights = (labels != -100).float()
        weights[:, 0] = 0
        data = self.scratch / "train.h5"
        judges.write_token_file(data, ids, vocab_size(fixture / "hf"), weights.tolist())
        recipe = {
            "base_model": str(fixture / "hf"),
            "output_dir": str(self.scratch / "run"),
            "device": "cpu",
            "dtype": "float32",
            "data": {"train": str(data), "sequence_length": len(ids[0]), "shuffle": False},
            **sections,
        }
        path = self.scratch / "recipe.yaml"
        path.write_text(json.dumps(recipe, indent=2))  # JSON is YAML
        return path


class EvalTest(PeersTest):
    def test_every_layout_as_transformers_does(self):
        for fixture in FIXTURES:
            rows = rows_of(fixture)
            theirs = judges.transformers_logprobs(fixture / "hf-bf16", rows)
            for layout in LAYOUTS:
                with self.subTest(fixture=fixture.name, layout=layout):
                    self.assert_same(self.evaluate(fixture / layout, rows), theirs)

    def test_adapters_as_peft_does(self):
        for fixture in FIXTURES:
            rows = rows_of(fixture)
            for adapter in sorted(fixture.glob("adapter*")):
                with self.subTest(fixture=fixture.name, adapter=adapter.name):
                    theirs = judges.transformers_logprobs(fixture / "hf-bf16", rows, adapter)
                    self.assert_same(self.evaluate(fixture / "hf", rows, adapter), theirs)


class TrainTest(PeersTest):
    def test_peft_loads_our_adapter(self):
        targets = {
            "both": {},
            "gate_up": {"target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj"]},
            "down": {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"]},
            "attention": {"target_parameters": [], "use_rslora": True, "target_modules": ["q_proj", "o_proj"]},
        }
        for fixture in FIXTURES:
            for name, lora in targets.items():
                with self.subTest(fixture=fixture.name, targets=name):
                    train = {"learning_rate": 1e-2, "warmup_steps": 0, "gradient_accumulation_steps": 1, "max_steps": 4, "epochs": 4}
                    recipe = self.recipe(fixture, lora={"r": 3, "lora_alpha": 6, **lora}, train=train)
                    run = self.scratch / f"{fixture.name}-{name}"
                    ossature("train", recipe, f"output_dir={run}")
                    adapter, rows = run / "adapter", rows_of(fixture)
                    theirs = judges.transformers_logprobs(fixture / "hf-bf16", rows, adapter)
                    base = judges.transformers_logprobs(fixture / "hf-bf16", rows)
                    self.assertGreater(numpy.abs(theirs[0][1:] - base[0][1:]).max(), 1e-2, "the adapter changes nothing")
                    self.assert_same(self.evaluate(fixture / "hf", rows, adapter), theirs)

    def test_five_steps_as_torch_takes_them(self):
        for fixture in FIXTURES:
            for micro_batch_size in [2, 1]:
                with self.subTest(fixture=fixture.name, micro_batch_size=micro_batch_size):
                    config = json.loads((fixture / "adapter/adapter_config.json").read_text())
                    lora = {key: config[key] for key in ["r", "lora_alpha", "target_modules", "target_parameters"]}
                    train = {
                        "micro_batch_size": micro_batch_size,
                        "gradient_accumulation_steps": 2 // micro_batch_size,
                        "epochs": 5,
                        "max_steps": 5,
                        "learning_rate": 1e-2,
                        "lr_scheduler": "constant",
                        "warmup_steps": 0,
                        "weight_decay": 0.01,
                    }
                    recipe = self.recipe(fixture, lora={**lora, "init_from": str(fixture / "adapter")}, train=train)
                    run = self.scratch / f"{fixture.name}-{micro_batch_size}"
                    ossature("train", recipe, f"output_dir={run}")
                    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
                    losses = [line["loss"] for line in lines if "loss" in line]
                    golden = load_file(fixture / "golden.safetensors")
                    numpy.testing.assert_allclose(losses, golden["train.losses"].numpy(), rtol=0, atol=1e-3)
                    ours = load_file(run / "adapter/adapter_model.safetensors")
                    theirs = load_file(fixture / "adapter-trained/adapter_model.safetensors")
                    self.assertEqual(sorted(ours), sorted(theirs))
                    for key, value in theirs.items():
                        self.assertLessEqual((ours[key] - value).abs().max(), 1e-2 * value.abs().max(), key)


class AdapterTest(PeersTest):
    """`ossature adapter`: its files in peft, and what peft itself makes of the same adapters."""

    def combine(self, fixture, adapters, *options):
        out = self.scratch / f"combined-{len(list(self.scratch.iterdir()))}"
        terms = [f"{adapter}={weight}" for adapter, weight in adapters]
        ossature("adapter", "combine", *terms, "--model", fixture / "hf", "--out", out, *options)
        return out

    def attention_adapters(self, fixture):
        """Two trained adapters of all projections."""
        adapters = []
        for seed in [1, 2]:
            run = self.scratch / f"{fixture.name}-seed-{seed}"
            lora = {"r": 3, "lora_alpha": 6, "target_parameters": []}
            train = {"learning_rate": 2e-2, "warmup_steps": 0, "gradient_accumulation_steps": 1, "epochs": 4, "seed": seed}
            ossature("train", self.recipe(fixture, lora=lora, train=train), f"output_dir={run}")
            adapters.append(run / "adapter")
        return adapters

    def test_cat_is_what_peft_merges_one_after_the_other(self):
        for fixture in FIXTURES:
            with self.subTest(fixture=fixture.name):
                rows = rows_of(fixture)
                adapters = [(fixture / "adapter-trained", 0.75), (fixture / "adapter", -0.5)]
                out = self.combine(fixture, adapters, "--combination-type", "cat")
                theirs = judges.merged_logprobs(fixture / "hf-bf16", rows, adapters)
                base = judges.transformers_logprobs(fixture / "hf-bf16", rows)
                self.assertGreater(numpy.abs(theirs[0][1:] - base[0][1:]).max(), 1e-2, "the adapters change nothing")
                self.assert_same(judges.transformers_logprobs(fixture / "hf-bf16", rows, out), theirs)
                self.assert_same(self.evaluate(fixture / "hf", rows, out), theirs)

    def test_combinations_are_those_of_peft(self):
        for fixture in FIXTURES:
            rows = rows_of(fixture)
            adapters = list(zip(self.attention_adapters(fixture), [1.5, -0.5]))
            found = []
            for options, theirs in [
                (["--combination-type", "cat"], {"combination_type": "cat"}),
                (["--combination-type", "linear"], {"combination_type": "linear"}),
                (["--combination-type", "svd"], {"combination_type": "svd"}),
                (["--svd-rank", "1"], {"combination_type": "svd", "svd_rank": 1}),
            ]:
                with self.subTest(fixture=fixture.name, combination=theirs):
                    expected = judges.combined_logprobs(fixture / "hf-bf16", rows, adapters, **theirs)
                    out = self.combine(fixture, adapters, *options)
                    self.assert_same(judges.transformers_logprobs(fixture / "hf-bf16", rows, out), expected)
                    found.append(expected[0][1:])
            for a, b in [(0, 1), (0, 3), (1, 3)]:
                self.assertGreater(numpy.abs(found[a] - found[b]).max(), 1e-3, "the combinations are all alike")

    def test_resized_to_mixed_ranks(self):
        for fixture in FIXTURES:
            with self.subTest(fixture=fixture.name):
                rows, out = rows_of(fixture), self.scratch / f"{fixture.name}-resized"
                command = ["adapter", "resize", fixture / "adapter-trained", "--energy", "0.6", "--model", fixture / "hf"]
                report = json.loads(ossature(*command, "--out", out, "--json"))
                self.assertGreater(len({row["r"] for row in report["weights"]}), 1)
                theirs = judges.transformers_logprobs(fixture / "hf-bf16", rows, out)
                self.assert_same(self.evaluate(fixture / "hf", rows, out), theirs)


class ExportTest(PeersTest):
    def test_transformers_loads_our_export(self):
        for fixture in FIXTURES:
            for experts in ["bf16", "mxfp4"]:
                with self.subTest(fixture=fixture.name, experts=experts):
                    out, merged = self.export(fixture, "--format", "hf", "--experts", experts)
                    self.assert_same(merged, judges.transformers_logprobs(out, rows_of(fixture)))
                    out.rename(self.scratch / f"{fixture.name}-{experts}")

    def test_transformers_loads_experts_of_both_kinds(self):
        # Layer 1 is bfloat16, since its experts are adapted, all others stay in MXFP4.
        for fixture in FIXTURES:
            with self.subTest(fixture=fixture.name):
                lora = {"r": 3, "lora_alpha": 6, "target_modules": [], "target_parameters": ["1.mlp.experts.gate_up_proj", "1.mlp.experts.down_proj"]}
                train = {"learning_rate": 3e-2, "warmup_steps": 0, "gradient_accumulation_steps": 1, "max_steps": 8, "epochs": 8}
                run, out, rows = self.scratch / f"{fixture.name}-run", self.scratch / f"{fixture.name}-mixed", rows_of(fixture)
                ossature("train", self.recipe(fixture, lora=lora, train=train), f"output_dir={run}")
                ossature("export", "--model", fixture / "hf", "--adapter", run / "adapter", "--experts", "mixed", "--out", out, "--no-verify")
                excepted = json.loads((out / "config.json").read_text())["quantization_config"]["modules_to_not_convert"]
                self.assertIn("model.layers.1.mlp.experts", excepted)
                self.assertNotIn("model.layers.0.mlp.experts", excepted)
                mixed, base = self.evaluate(out, rows), self.evaluate(fixture / "hf", rows)
                self.assertGreater(max(numpy.abs(m[1:] - b[1:]).max() for m, b in zip(mixed, base) if len(m) > 1), 1e-2)
                self.assert_same(mixed, judges.transformers_logprobs(out, rows))

    def test_bf16_export_is_the_adapter(self):
        # Only bfloat16's rounding of the merged weights lies between them; routing that nearly ties makes single tokens jump.
        for fixture in FIXTURES:
            with self.subTest(fixture=fixture.name):
                out, merged = self.export(fixture, "--format", "hf", "--experts", "bf16")
                rows = rows_of(fixture)
                adapted = self.evaluate(fixture / "hf", rows, fixture / "adapter-trained")
                distance = numpy.concatenate([numpy.abs(m[1:] - a[1:]) for m, a in zip(merged, adapted)])
                self.assertLess(numpy.median(distance), 0.02)
                out.rename(self.scratch / fixture.name)

    def test_openai_reference_loads_our_export(self):
        for fixture in FIXTURES:
            data = self.scratch / "calibration.h5"
            judges.write_token_file(data, rows_of(fixture)[:2], vocab_size(fixture / "hf"))
            for rounding in [["nearest"], ["calibrated", "--calibration", data]]:
                with self.subTest(fixture=fixture.name, rounding=rounding[0]):
                    out, merged = self.export(fixture, "--format", "openai", "--experts", "mxfp4", "--rounding", *rounding, "--no-verify")
                    self.assert_same(merged, judges.openai_logprobs(out, rows_of(fixture)))
                    out.rename(self.scratch / f"{fixture.name}-{rounding[0]}")


class InitTest(PeersTest):
    def test_transformers_loads_what_we_make(self):
        out = self.scratch / "tiny"
        ossature("init", "tiny", "--out", out, "--seed", "3")
        generator = torch.Generator().manual_seed(0)
        rows = [torch.randint(vocab_size(out), (length,), generator=generator).tolist() for length in [48, 7]]
        self.assert_same(self.evaluate(out, rows), judges.transformers_logprobs(out, rows))


class JudgesTest(unittest.TestCase):
    """The judges themselves: they agree with the golden values and with each other."""

    def test_transformers_and_openai_agree_with_the_golden_logits(self):
        for fixture in FIXTURES:
            golden = load_file(fixture / "golden.safetensors")
            rows = golden["input_ids"].tolist()
            expected = [judges.score(logits, row) for logits, row in zip(golden["logits"], rows)]
            for name, found in {
                "decoded": judges.transformers_logprobs(fixture / "hf-bf16", rows),
                "packed": judges.transformers_logprobs(fixture / "hf", rows),
                "sharded": judges.transformers_logprobs(fixture / "hf-sharded", rows),
                "openai": judges.openai_logprobs(fixture / "openai", rows),
            }.items():
                with self.subTest(fixture=fixture.name, judge=name):
                    for a, b in zip(found, expected):
                        self.assertLessEqual(numpy.abs(a[1:] - b[1:]).max(), TOLERANCE)


if __name__ == "__main__":
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    unittest.main(verbosity=2)
