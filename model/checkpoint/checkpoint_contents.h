// What a checkpoint's files hold, behind Checkpoint: one class a kind of files. For this folder's sources alone.
#pragma once

#include <filesystem>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "model/checkpoint/checkpoint.h"

namespace ossature {

/// Opened and checked. Names are transformers'; members mean what Checkpoint's of the same name do.
class CheckpointContents {
 public:
  virtual ~CheckpointContents() = default;

  [[nodiscard]] virtual Layout layout() const = 0;
  [[nodiscard]] virtual at::Tensor tensor(const std::string& name) const = 0;
  [[nodiscard]] virtual at::ScalarType expert_dtype(const std::string& name) const = 0;
  [[nodiscard]] virtual ExpertWeight expert_weight(const std::string& name) const = 0;
  virtual void check_scales() const = 0;
  virtual void release(const std::string& name) const = 0;
  [[nodiscard]] virtual std::vector<StoredTensor> stored_tensors() const = 0;
  [[nodiscard]] virtual std::vector<MappedPart> layer_parts(std::int64_t n) const = 0;
  virtual void write_companions(const std::filesystem::path& to) const = 0;
  [[nodiscard]] virtual GgufKeyValues gguf_tokenizer() const = 0;

  std::filesystem::path dir;
  ModelConfig config;
};

/// The files of a directory in transformers' or OpenAI's layout, and a GGUF file.
[[nodiscard]] std::shared_ptr<const CheckpointContents> open_safetensors_contents(const std::filesystem::path& dir);
[[nodiscard]] std::shared_ptr<const CheckpointContents> open_gguf_contents(const std::filesystem::path& file);

/// How a message begins that says that the tensor `name` is missing and of which shape it should be.
[[noreturn]] void fail_on_missing(const std::filesystem::path& where, const std::string& name,
                                  const std::vector<std::int64_t>& shape);
/// Throws CheckpointError if scale bytes whose largest is `largest` are not ones that a checkpoint may carry.
void check_largest_scale(int largest, const std::filesystem::path& file, const std::string& name);

}  // namespace ossature
