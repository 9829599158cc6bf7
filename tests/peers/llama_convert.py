"""llama.cpp's own converters, from a llama.cpp source folder: llama_convert.py model|lora SOURCE [arguments of theirs].

A tokenizer is recognized by the ids that it gives a text, so one with another vocabulary but o200k's splits is not; for these tests it is taken
for what it is. A checkpoint without a tokenizer is converted without one.
"""

import pathlib
import runpy
import sys


def main():
    kind, source = sys.argv[1], pathlib.Path(sys.argv[2])
    del sys.argv[1:3]
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    from conversion.base import TextModel
    from conversion.gpt_oss import GptOssModel

    set_vocab = GptOssModel.set_vocab

    def set_vocab_or_none(model):
        if (model.dir_model / "tokenizer.json").exists():
            set_vocab(model)
        else:
            model.gguf_writer.add_tokenizer_model("none")
            model.gguf_writer.add_vocab_size(model.hparams["vocab_size"])

    GptOssModel.set_vocab = set_vocab_or_none
    TextModel.get_vocab_base_pre = lambda model, tokenizer: "gpt-4o"
    script = {"model": "convert_hf_to_gguf.py", "lora": "convert_lora_to_gguf.py"}[kind]
    runpy.run_path(str(source / script), run_name="__main__")


if __name__ == "__main__":
    main()
