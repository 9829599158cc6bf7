#!/usr/bin/env python3
"""llama.cpp as a peer: obtained, built, given a checkpoint of ours, timed.

Its source travels in llama-cpp-python's source package; it is built for this machine's processor, with its own CMake defaults, in ten minutes
on two cores. As a program, llama.py SOURCE [arguments of convert_hf_to_gguf.py] is llama.cpp's converter without a vocabulary, which a cut with
random weights has none of.
"""

import json
import os
import pathlib
import sys
import tarfile

import process

PACKAGE = "llama-cpp-python==0.3.36"
OPTIONS = {"CMAKE_BUILD_TYPE": "Release", "GGML_NATIVE": "ON", "BUILD_SHARED_LIBS": "OFF", "LLAMA_OPENSSL": "OFF", "LLAMA_BUILD_SERVER": "OFF",
           "LLAMA_BUILD_APP": "OFF", "LLAMA_BUILD_TESTS": "OFF", "LLAMA_BUILD_EXAMPLES": "OFF"}


def obtain_source(folder):
    """folder/source, made unless it is there."""
    source = folder / "source"
    if not source.exists():
        print(f"downloading llama.cpp ({PACKAGE})", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        process.run([sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--dest", folder, PACKAGE])
        with tarfile.open(next(folder.glob("llama_cpp_python-*.tar.gz"))) as package:
            package.extractall(folder, filter="data")
        next(folder.glob("llama_cpp_python-*/vendor/llama.cpp")).rename(source)
    return source


def build(folder, target):
    print(f"building llama.cpp: {target}", file=sys.stderr)
    options = (f"-D{name}={value}" for name, value in OPTIONS.items())
    process.run(["cmake", "-S", obtain_source(folder), "-B", folder / "build", *options])
    process.run(["cmake", "--build", folder / "build", "--parallel", os.cpu_count(), "--target", target])


def obtain(folder):
    """folder/build/bin/llama-bench, made unless it is there."""
    bench = folder / "build/bin/llama-bench"
    if not bench.exists():
        build(folder, "llama-bench")
    return bench


def obtain_judge(folder, source):
    """The program of the C++ file `source`, linked with llama.cpp's library; made unless it is there and newer."""
    program, library = folder / source.stem, folder / "build/src/libllama.a"
    if not library.exists():
        build(folder, "llama")
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        parts = [folder / f"build/ggml/src/{name}.a" for name in ("libggml", "libggml-cpu", "libggml-base")]
        includes = [f"-I{folder / 'source/include'}", f"-I{folder / 'source/ggml/include'}"]
        process.run(["c++", "-O2", "-std=c++17", *includes, source, "-o", program, library, *parts, "-fopenmp", "-ldl"])
    return program


def convert(folder, model, kind, out):
    """Writes a GGUF with the experts in MXFP4, bit for bit, and other matrices in bf16 or q8_0."""
    process.run([sys.executable, __file__, folder / "source", model, "--outtype", kind, "--outfile", out])
    return out


def prompt_rate(bench, model, settings, num_tokens, repetitions, threads):
    """llama-bench's samples of a prompt's tokens a second, after its warm-up, and peak resident memory in bytes."""
    given = [part for name, value in settings.items() for part in (f"--{name}", value)]
    command = [bench, "-m", model, "-p", num_tokens, "-n", 0, "-t", threads, "-r", repetitions, "-o", "json", *given]
    ran = process.run(command, cores=threads)
    (said,) = json.loads(ran.output)
    return {"samples": said["samples_ts"], "peak_bytes": ran.peak_bytes, "others_share": ran.others_share, "commit": said["build_commit"]}


def main():
    source = pathlib.Path(sys.argv.pop(1))
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    import convert_hf_to_gguf
    from conversion.gpt_oss import GptOssModel

    def set_vocab(model):
        model.gguf_writer.add_tokenizer_model("none")
        model.gguf_writer.add_vocab_size(model.hparams["vocab_size"])

    GptOssModel.set_vocab = set_vocab
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    main()
