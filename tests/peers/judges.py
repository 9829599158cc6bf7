"""What the peers say: log-probabilities by transformers, peft and OpenAI's torch reference, and the files that carry them.

A row is a list of token ids. Every judge returns, for a list of rows, one float64 array a row: log p(token | the row so far), NaN for the
first token, computed in float32 unless a dtype is given. Rows are computed one at a time, so nothing is ever padded.
"""

import json
import os
import pathlib
import sys

import h5py
import numpy
import torch
from peft import PeftModel
from transformers import GptOssForCausalLM, Mxfp4Config


def write_token_file(path, rows, vocab_size, loss_weights=None):
    """A token file as anyone may write one with h5py: no chunks, no filters, no checksums. Weights default to 1 but for first tokens."""
    offsets = numpy.cumsum([0] + [len(row) for row in rows])
    if loss_weights is None:
        loss_weights = [[0.0] + [1.0] * (len(row) - 1) for row in rows if row]
    with h5py.File(path, "w") as file:
        file.attrs["format"] = "ossature-tokens"
        file.attrs["version"] = 1
        file.attrs["vocab_size"] = vocab_size
        file.attrs["tokenizer_sha256"] = ""
        file["tokens"] = numpy.array([token for row in rows for token in row], dtype=numpy.int32)
        file["loss_weights"] = numpy.array([weight for row in loss_weights for weight in row], dtype=numpy.float32)
        file["sample_offsets"] = offsets.astype(numpy.int64)


def read_logprobs(path, rows):
    """/logprobs cut into the rows that the token file was written from."""
    with h5py.File(path) as file:
        values = file["logprobs"]
        if values.dtype != numpy.float32 or values.shape != (sum(map(len, rows)),):
            raise AssertionError(f"{path}: /logprobs is {values.dtype} {values.shape}")
        values = values[()].astype(numpy.float64)
    return numpy.split(values, numpy.cumsum([len(row) for row in rows])[:-1])


def score(logits, row):
    ids = torch.tensor(row)
    out = logits.double()[:-1].log_softmax(-1).gather(-1, ids[1:, None])[:, 0]
    return numpy.concatenate([[numpy.nan], out.numpy()])


def load_transformers(directory, dtype=torch.float32):
    """A checkpoint in one of transformers' layouts; MXFP4 experts are decoded."""
    packed = "quantization_config" in json.loads((pathlib.Path(directory) / "config.json").read_text())
    extra = {"quantization_config": Mxfp4Config(dequantize=True)} if packed else {}
    model = GptOssForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager", experts_implementation="eager", **extra
    )
    return model.to(dtype).eval()  # the decoder always yields bfloat16


@torch.no_grad()
def transformers_logprobs(directory, rows, adapter=None, dtype=torch.float32):
    model = load_transformers(directory, dtype)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    return [score(model(input_ids=torch.tensor([row]), use_cache=False).logits[0], row) for row in rows]


@torch.no_grad()
def merged_logprobs(directory, rows, adapters):
    """Adapters, given as (directory, weight), that peft merges into the weights one after the other."""
    model = load_transformers(directory)
    for adapter, weight in adapters:
        model = PeftModel.from_pretrained(model, adapter)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(weight)
        model = model.merge_and_unload()
    return [score(model(input_ids=torch.tensor([row]), use_cache=False).logits[0], row) for row in rows]


@torch.no_grad()
def combined_logprobs(directory, rows, adapters, **options):
    """Adapters of projections, given as (directory, weight), under peft's add_weighted_adapter, which knows no others."""
    model = None
    for n, (adapter, _) in enumerate(adapters):
        if model is None:
            model = PeftModel.from_pretrained(load_transformers(directory), adapter, adapter_name=str(n))
        else:
            model.load_adapter(adapter, adapter_name=str(n))
    names = [str(n) for n in range(len(adapters))]
    model.add_weighted_adapter(names, [weight for _, weight in adapters], "combined", **options)
    model.set_adapter("combined")
    model.eval()
    return [score(model(input_ids=torch.tensor([row]), use_cache=False).logits[0], row) for row in rows]


@torch.no_grad()
def openai_logprobs(directory, rows):
    """OpenAI's torch reference on a checkpoint in its own layout. Its weights are bfloat16 by declaration: widened after loading."""
    sys.path.insert(0, os.environ["OSSATURE_GPT_OSS"])
    try:
        from gpt_oss.torch.model import Transformer
    finally:
        sys.path.pop(0)
    model = Transformer.from_checkpoint(str(directory), device="cpu").float()
    return [score(model(torch.tensor(row)), row) for row in rows]
