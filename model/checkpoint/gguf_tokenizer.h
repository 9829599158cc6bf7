// A checkpoint's tokenizer as the key-values "tokenizer.*" of a GGUF file, and back. llama.cpp splits texts by code of
// its own, chosen by a name; it has one for o200k ("gpt-4o"), so that is the only tokenizer that is translated.
#pragma once

#include <filesystem>

#include "model/checkpoint/config.h"
#include "model/files/gguf.h"

namespace ossature {

/// From tokenizer.json, tokenizer_config.json and chat_template.jinja of the checkpoint directory `dir`, with
/// `config`'s vocabulary and special tokens: ids that the tokenizer has no token for are named "[PAD<id>]". Without a
/// tokenizer.json the file says that it has none, and llama.cpp takes token ids only. Reads the whole of
/// tokenizer.json: gpt-oss's takes 0.3 GB of memory meanwhile. Throws CheckpointError if the files are broken or of
/// another kind of tokenizer.
[[nodiscard]] GgufKeyValues gguf_tokenizer(const std::filesystem::path& dir, const ModelConfig& config);

/// Writes tokenizer.json, tokenizer_config.json and chat_template.jinja into `dir`, as far as `file` has what they
/// hold. Throws CheckpointError if its tokenizer's lists do not fit together.
void write_gguf_tokenizer(const GgufFile& file, const std::filesystem::path& dir);

}  // namespace ossature
