#!/usr/bin/env python3
"""Makes tests/golden/small: a small random gpt-oss in every public layout, PEFT adapters, and what the peers compute with them.

    make_goldens.py                      write tests/golden/small (the same bytes every time: everything is seeded)
    make_goldens.py --check DIR...       recompute an existing directory of this kind with the peers and compare

Needs torch 2.13, transformers 5.18, peft 0.21 and safetensors: the judges, never the product. A fixture holds

    hf/ hf-sharded/ hf-bf16/ openai/     one model in four layouts; expert weights lie on the MXFP4 grid, the rest is bfloat16
    adapter/ adapter-trained/            LoRA on attention and experts, before and after five AdamW steps
    adapter-gate-up/ adapter-down/       only one of the two expert parameters is targeted (PEFT then drops `base_layer.` from the keys)
    adapter-patterns/                    q_proj and v_proj of layers 0 and 2, rsLoRA, rank_pattern and alpha_pattern
    golden.safetensors                   everything below, float32 unless said otherwise

        input_ids, labels [2, T] int64      -100 = not learned; not shifted (transformers shifts)
        logits [2, T, V]                    the base model
        hidden_states [L, 2, T, H]          input of every layer (the embedding first)
        adapter.logits, adapter.loss [1]    with adapter/; grad.* are the gradients of that loss
        train.losses [5], trained.*         five steps from adapter/, both rows in one batch; trained.* is adapter-trained/
        merged.logits [2, T, V]             adapter-trained/ added to the float32 weights
        gate_up.logits, down.logits, patterns.logits   with the adapter of that name
        bf16.mean_distance [1]              how far transformers in bfloat16 is from float32 on the base model: the mean over all
                                            next-token positions of all rows of |log p_bf16(next token) - log p_f32(next token)|
"""

import argparse
import json
import pathlib
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GptOssForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
T, VOCAB, HIDDEN, INTERMEDIATE, LAYERS, EXPERTS, TOP_K = 40, 128, 32, 64, 3, 4, 2
HEADS, KV_HEADS, HEAD_DIM, WINDOW = 4, 2, 16, 8
PEFT_PREFIX = "base_model.model."
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
GATE_UP, DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"


def encode_mxfp4(weight):
    """Rounds [..., K] to the nearest grid point: blocks uint8 [..., K/32, 16], scales uint8 [..., K/32]."""
    groups = weight.float().unflatten(-1, (-1, 32))
    exponent = torch.floor(torch.log2(groups.abs().amax(-1))) - 2
    codes = (groups[..., None] / torch.exp2(exponent)[..., None, None] - E2M1).abs().argmin(-1).to(torch.uint8)
    return codes[..., 0::2] | codes[..., 1::2] << 4, (exponent + 127).to(torch.uint8)


def decode_mxfp4(blocks, scales):
    codes = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2)
    return (E2M1[codes.long()] * torch.exp2(scales.float() - 127)[..., None]).flatten(-2).to(torch.bfloat16)


def random_weights(generator):
    """The model under OpenAI's names: the layout that all others are derived from."""

    def normal(*shape, std, mean=0.0):
        return (torch.randn(*shape, generator=generator) * std + mean).to(torch.bfloat16)

    def experts(rows, columns, std):
        # Rows of different size, so that the block scales differ.
        size = std * torch.exp2(torch.randint(-2, 3, (EXPERTS, rows, 1), generator=generator).float())
        return encode_mxfp4(torch.randn(EXPERTS, rows, columns, generator=generator) * size)

    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    tensors = {
        "embedding.weight": normal(VOCAB, HIDDEN, std=1.0),
        "norm.scale": normal(HIDDEN, std=0.2, mean=1.0),
        "unembedding.weight": normal(VOCAB, HIDDEN, std=0.25),
    }
    for n in range(LAYERS):
        p = f"block.{n}."
        tensors |= {
            p + "attn.norm.scale": normal(HIDDEN, std=0.2, mean=1.0),
            p + "attn.qkv.weight": normal(q + 2 * kv, HIDDEN, std=0.2),
            p + "attn.qkv.bias": normal(q + 2 * kv, std=0.2),
            p + "attn.sinks": normal(HEADS, std=1.0),
            p + "attn.out.weight": normal(HIDDEN, q, std=0.15),
            p + "attn.out.bias": normal(HIDDEN, std=0.1),
            p + "mlp.norm.scale": normal(HIDDEN, std=0.2, mean=1.0),
            p + "mlp.gate.weight": normal(EXPERTS, HIDDEN, std=0.3),
            p + "mlp.gate.bias": normal(EXPERTS, std=0.3),
            p + "mlp.mlp1_bias": normal(EXPERTS, 2 * INTERMEDIATE, std=0.5),
            p + "mlp.mlp2_bias": normal(EXPERTS, HIDDEN, std=0.1),
        }
        for name, value in [("mlp1", experts(2 * INTERMEDIATE, HIDDEN, 0.25)), ("mlp2", experts(HIDDEN, INTERMEDIATE, 0.15))]:
            tensors[p + f"mlp.{name}_weight.blocks"], tensors[p + f"mlp.{name}_weight.scales"] = value
    return tensors


def transformers_layout(openai, decoded):
    """The same tensors under transformers' names; with `decoded` the experts in bfloat16, [E, in, out]."""
    names = {
        "attn.norm.scale": "input_layernorm.weight",
        "attn.sinks": "self_attn.sinks",
        "attn.out.weight": "self_attn.o_proj.weight",
        "attn.out.bias": "self_attn.o_proj.bias",
        "mlp.norm.scale": "post_attention_layernorm.weight",
        "mlp.gate.weight": "mlp.router.weight",
        "mlp.gate.bias": "mlp.router.bias",
        "mlp.mlp1_bias": GATE_UP + "_bias",
        "mlp.mlp2_bias": DOWN + "_bias",
    }
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    out = {
        "model.embed_tokens.weight": openai["embedding.weight"],
        "model.norm.weight": openai["norm.scale"],
        "lm_head.weight": openai["unembedding.weight"],
    }
    for n in range(LAYERS):
        source, target = f"block.{n}.", f"model.layers.{n}."
        out |= {target + new: openai[source + old] for old, new in names.items()}
        for kind in ["weight", "bias"]:
            parts = openai[source + "attn.qkv." + kind].split([q, kv, kv])
            out |= {f"{target}self_attn.{name}_proj.{kind}": part.contiguous() for name, part in zip("qkv", parts)}
        for old, new in [("mlp.mlp1_weight", GATE_UP), ("mlp.mlp2_weight", DOWN)]:
            blocks, scales = openai[source + old + ".blocks"], openai[source + old + ".scales"]
            if decoded:
                out[target + new] = decode_mxfp4(blocks, scales).transpose(1, 2).contiguous()
            else:
                out[target + new + "_blocks"], out[target + new + "_scales"] = blocks, scales
    return out


def transformers_config(packed):
    config = {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": VOCAB - 1,
        "pad_token_id": VOCAB - 2,
        "experts_per_token": TOP_K,
        "hidden_act": "silu",
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "layer_types": [["sliding_attention", "full_attention"][n % 2] for n in range(LAYERS)],
        "max_position_embeddings": 131072,
        "output_router_logits": False,
        "rms_norm_eps": 1e-05,
        "rope_theta": 150000,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "router_aux_loss_coef": 0.9,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": TOP_K,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "sliding_window": WINDOW,
        "vocab_size": VOCAB,
    }
    if packed:
        kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
        config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": kept}
    return config


OPENAI_CONFIG = {
    "num_hidden_layers": LAYERS,
    "num_experts": EXPERTS,
    "experts_per_token": TOP_K,
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "swiglu_limit": 7.0,
    "head_dim": HEAD_DIM,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "sliding_window": WINDOW,
    "initial_context_length": 4096,
    "rope_theta": 150000,
    "rope_scaling_factor": 32.0,
    "rope_ntk_alpha": 1,
    "rope_ntk_beta": 32,
}


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_checkpoints(out, weights):
    packed = transformers_layout(weights, decoded=False)
    write_json(out / "hf/config.json", transformers_config(packed=True))
    save_file(packed, out / "hf/model.safetensors")

    # As the published checkpoints: numbered from 00000, layers in the order of their names as text, no metadata.
    write_json(out / "hf-sharded/config.json", transformers_config(packed=True))
    names = [name for n in range(LAYERS) for name in sorted(packed) if f".layers.{n}." in name]
    names += ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    total = sum(packed[name].nbytes for name in names)
    shards, size = [[]], 0
    for name in names:
        if size > total / 3 and len(shards) < 3:
            shards, size = shards + [[]], 0
        shards[-1].append(name)
        size += packed[name].nbytes
    weight_map = {}
    for i, shard in enumerate(shards):
        file = f"model-{i:05}-of-{len(shards) - 1:05}.safetensors"
        save_file({name: packed[name] for name in shard}, out / "hf-sharded" / file)
        weight_map |= {name: file for name in shard}
    write_json(
        out / "hf-sharded/model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
    )

    write_json(out / "hf-bf16/config.json", transformers_config(packed=False))
    save_file(transformers_layout(weights, decoded=True), out / "hf-bf16/model.safetensors", metadata={"format": "pt"})
    write_json(out / "openai/config.json", OPENAI_CONFIG)
    save_file(weights, out / "openai/model.safetensors")


def load_base(directory, dtype=torch.float32):
    return GptOssForCausalLM.from_pretrained(
        directory / "hf-bf16", dtype=dtype, attn_implementation="eager", experts_implementation="eager"
    ).eval()


def new_adapter(base, generator, std_b, **keys):
    model = get_peft_model(base, LoraConfig(lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", **keys))
    for name, value in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            bound = value.shape[1] ** -0.5
            fresh = torch.empty_like(value.data)
            if ".lora_A." in name:
                fresh.uniform_(-bound, bound, generator=generator)
            else:
                fresh.normal_(0, std_b, generator=generator)
            value.data = fresh
    return model


def save_adapter(model, directory):
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    config = json.loads((directory / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = None  # PEFT writes the local path
    for key in ["target_modules", "target_parameters"]:  # sets: their order changes from run to run
        if config.get(key):
            config[key] = sorted(config[key])
    write_json(directory / "adapter_config.json", config)


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()


def adapter_tensors(model, gradient=False):
    """Adapter tensors under the names of PEFT's files, less their common prefix."""
    out = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            name = name.replace(".default.", ".").removeprefix(PEFT_PREFIX)
            out[name] = (value.grad if gradient else value.detach()).clone().contiguous()
    return out


def next_token_logprobs(logits, ids):
    return logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]


def compute(directory, ids, labels):
    """Everything that the peers say about a fixture directory; returns the tensors and the trained PEFT model."""
    base = load_base(directory)
    with torch.no_grad():
        result = base(input_ids=ids, output_hidden_states=True, use_cache=False)
    out = {"input_ids": ids, "labels": labels, "logits": result.logits}
    out["hidden_states"] = torch.stack(result.hidden_states[:-1])
    rounded = logits_of(load_base(directory, torch.bfloat16), ids)
    distance = next_token_logprobs(rounded, ids) - next_token_logprobs(result.logits, ids)
    out["bf16.mean_distance"] = distance.abs().mean().reshape(1)

    model = PeftModel.from_pretrained(base, directory / "adapter", is_trainable=True)
    result = model(input_ids=ids, labels=labels, use_cache=False)
    result.loss.backward()
    out["adapter.logits"], out["adapter.loss"] = result.logits.detach(), result.loss.detach().reshape(1)
    out |= {"grad." + name: value for name, value in adapter_tensors(model, gradient=True).items()}

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
    out["train.losses"] = torch.tensor(losses)
    out |= {"trained." + name: value for name, value in adapter_tensors(model).items()}
    return out, model


EXTRA = {
    "gate_up": dict(r=2, lora_alpha=8, target_modules=[], target_parameters=[GATE_UP]),
    "down": dict(r=2, lora_alpha=8, target_modules=[], target_parameters=[DOWN]),
    "patterns": dict(
        r=4,
        lora_alpha=3,
        use_rslora=True,
        target_modules=["q_proj", "v_proj"],
        layers_to_transform=[0, 2],
        rank_pattern={"layers.2.self_attn.q_proj": 2, "v_proj": 3},
        alpha_pattern={"layers.0.self_attn.v_proj": 5},
    ),
}


def make(out):
    torch.manual_seed(0)  # PEFT draws its first adapter values from the global generator; new_adapter overwrites them
    generator = torch.Generator().manual_seed(20)
    write_checkpoints(out, random_weights(generator))
    ids = torch.randint(0, VOCAB, (2, T), generator=generator)
    labels = ids.clone()
    labels[0, :10] = -100
    labels[1, -8:] = -100

    keys = dict(r=2, lora_alpha=4, target_modules=ATTENTION, target_parameters=[GATE_UP, DOWN])
    save_adapter(new_adapter(load_base(out), generator, 0.05, **keys), out / "adapter")
    tensors, trained = compute(out, ids, labels)
    save_adapter(trained, out / "adapter-trained")
    merged = PeftModel.from_pretrained(load_base(out), out / "adapter-trained").merge_and_unload()
    tensors["merged.logits"] = logits_of(merged, ids)
    for name, keys in EXTRA.items():
        model = new_adapter(load_base(out), generator, 0.1, **keys)
        save_adapter(model, out / f"adapter-{name.replace('_', '-')}")
        tensors[name + ".logits"] = logits_of(model, ids)
    save_file({name: value.contiguous() for name, value in tensors.items()}, out / "golden.safetensors")
    print(f"{out}: bf16.mean_distance {tensors['bf16.mean_distance'].item():.4f}, losses {tensors['train.losses'].tolist()}")


def check(directory):
    """Recomputes what the file holds. Returns whether every tensor is within 1e-4 of it (gradients: 1e-4 of their largest)."""
    golden = load_file(directory / "golden.safetensors")
    tensors, _ = compute(directory, golden["input_ids"], golden["labels"])
    if "merged.logits" in golden:
        merged = PeftModel.from_pretrained(load_base(directory), directory / "adapter-trained").merge_and_unload()
        tensors["merged.logits"] = logits_of(merged, golden["input_ids"])
    for name in EXTRA:
        adapter = directory / f"adapter-{name.replace('_', '-')}"
        if adapter.exists():
            tensors[name + ".logits"] = logits_of(PeftModel.from_pretrained(load_base(directory), adapter), golden["input_ids"])
    worst = {}
    for name, value in golden.items():
        if name not in tensors:
            continue
        scale = max(1.0, value.abs().max().item()) if name.startswith(("grad.", "hidden_states")) else 1.0
        group = name.split(".model.")[0]
        worst[group] = max(worst.get(group, 0.0), (tensors[name].double() - value.double()).abs().max().item() / scale)
    print(f"{directory}: bf16.mean_distance {tensors['bf16.mean_distance'].item():.4f}")
    for group, difference in worst.items():
        print(f"  {group:20} {difference:.1e}")
    return all(difference <= 1e-4 for difference in worst.values())


def main():
    parser = argparse.ArgumentParser(description="Makes or checks the golden fixtures.")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/golden/small")
    parser.add_argument("--check", type=pathlib.Path, nargs="+", metavar="DIR")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the sums in the same order on every machine
    if arguments.check:
        sys.exit(0 if all([check(directory) for directory in arguments.check]) else 1)
    make(arguments.out)


if __name__ == "__main__":
    main()
