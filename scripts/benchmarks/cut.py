"""A cut of gpt-oss's shape with random weights, its arithmetic, rows of random tokens for it, and the options of benchmarks on it."""

import contextlib
import json
import pathlib
import random
import shutil
import struct
import tempfile

import h5py
import numpy

import process

ROOT = pathlib.Path(__file__).resolve().parents[2]
NUM_ORDINARY_TOKENS = 199_998  # ids from here on are special


def add_arguments(parser, num_layers, row):
    """Options of both benchmarks; `row` is what --tokens are of."""
    parser.add_argument("--model", type=pathlib.Path, help="MXFP4 checkpoint to use; made in TMPDIR and removed unless given")
    parser.add_argument("--preset", default="gpt-oss-20b", help="shape of the checkpoint that is made (gpt-oss-20b)")
    parser.add_argument("--layers", type=int, default=num_layers, help=f"its layers ({num_layers})")
    parser.add_argument("--tokens", type=int, default=1024, help=f"of {row} (1024)")
    parser.add_argument("--threads", type=int, default=2, help="of both, on as many cores (2)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (3)")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/ossature")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="writes every run's figures")


def write_figures(options, figures):
    """To the file of --json, after the options."""
    settings = {name: str(value) if isinstance(value, pathlib.Path) else value for name, value in vars(options).items()}
    options.json.write_text(json.dumps({"settings": settings, **figures}, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def scratch(options):
    """A folder for what a benchmark writes, removed afterwards, and in it the model, unless options name one."""
    with tempfile.TemporaryDirectory(prefix="ossature-bench-") as folder:
        path = pathlib.Path(folder)
        if not options.model:
            options.model = make(options.program, options.preset, options.layers, path / "model")
        yield path


def make(program, preset, num_layers, directory):
    process.run([program, "init", preset, "--layers", num_layers, "--out", directory])
    return directory


def route_all_alike(model, directory):
    """A copy in which every token takes the same experts: a bias of 100 drowns the logits of random routers, which are below 1."""
    shutil.copytree(model, directory)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    chosen, others = config["num_experts_per_tok"], config["num_local_experts"] - config["num_experts_per_tok"]
    bias = struct.pack("<H", 0x42C8) * chosen + bytes(2 * others)  # bfloat16's 100 and 0
    found = 0
    for path in directory.glob("*.safetensors"):
        with open(path, "r+b") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            for name, tensor in json.loads(file.read(size)).items():
                if name.endswith(".mlp.router.bias"):
                    begin, end = tensor["data_offsets"]
                    assert tensor["dtype"] == "BF16" and end - begin == len(bias), tensor
                    file.seek(8 + size + begin)
                    file.write(bias)
                    found += 1
    assert found == config["num_hidden_layers"], found
    return directory


def active_parameters(model):
    """Of the matrices that a token passes: in all layers (attention, router, its experts), in the head."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    attention = 2 * hidden * config["head_dim"] * (config["num_attention_heads"] + config["num_key_value_heads"])
    experts = 3 * hidden * intermediate * config["num_experts_per_tok"]
    layer = attention + hidden * config["num_local_experts"] + experts
    return layer * config["num_hidden_layers"], hidden * config["vocab_size"]


def forward_gflop(model, num_tokens, num_logits):
    """Of the matrix products with weights; the scores of attention (3 % at 1,024 tokens) and the adapter (1 %) are left out."""
    layers, head = active_parameters(model)
    return 2e-9 * (layers * num_tokens + head * num_logits)


def random_tokens(number, seed=0):
    generator = random.Random(seed)
    return [generator.randrange(NUM_ORDINARY_TOKENS) for _ in range(number)]


def write_token_file(path, rows, num_learned, vocab_size):
    """Rows of equally many tokens, a sample each, of which the last num_learned tokens are learned."""
    weights = numpy.zeros((len(rows), len(rows[0])), dtype=numpy.float32)
    weights[:, -num_learned:] = 1
    with h5py.File(path, "w") as file:
        file.attrs["format"] = "ossature-tokens"
        file.attrs["version"] = 1
        file.attrs["vocab_size"] = vocab_size
        file.attrs["tokenizer_sha256"] = ""
        file["tokens"] = numpy.array(rows, dtype=numpy.int32).reshape(-1)
        file["loss_weights"] = weights.reshape(-1)
        file["sample_offsets"] = numpy.arange(len(rows) + 1, dtype=numpy.int64) * len(rows[0])
