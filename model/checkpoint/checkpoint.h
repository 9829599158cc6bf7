// Read-only view of a gpt-oss checkpoint directory in any public layout: transformers MXFP4 (what the hub carries),
// transformers bfloat16, transformers with layers of both, OpenAI's original, and a GGUF file of llama.cpp's. All are
// presented under transformers' names and shapes, without copying: tensors are views of the memory-mapped files. Not so
// of a GGUF file: experts lie in it in another order (gate and up apart, other nibbles together), so they are put
// together anew whenever they are asked for, and held by whoever asked. Shapes: E experts, O output features, I input
// features, G = I / 32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/checkpoint/config.h"
#include "model/files/gguf.h"
#include "model/files/mapped_file.h"
#include "model/files/safetensors.h"
#include "model/kernels/mxfp4.h"

namespace ossature {

/// How a checkpoint names its tensors.
enum class Layout { kHf, kOpenAi, kGguf };

/// How a checkpoint stores its expert weights: all packed, all dense (bfloat16, or float32), or packed in some layers
/// and dense in others.
enum class ExpertStorage { kMxfp4, kBf16, kMixed };

/// A weight of all experts of a layer: either MXFP4 or dense [E, O, I] (for transformers' bfloat16 layout, which stores
/// [E, I, O], a transposed view).
struct ExpertWeight {
  Mxfp4Tensor packed;  // defined if the layer's experts are stored in MXFP4
  at::Tensor dense;    // defined otherwise

  [[nodiscard]] bool is_packed() const { return packed.blocks.defined(); }
  [[nodiscard]] std::int64_t num_experts() const { return is_packed() ? packed.num_experts() : dense.size(0); }
  [[nodiscard]] std::int64_t out_features() const { return is_packed() ? packed.out_features() : dense.size(1); }
  [[nodiscard]] std::int64_t in_features() const { return is_packed() ? packed.in_features() : dense.size(2); }
};

/// A tensor as it lies in a file.
struct StoredTensor {
  std::filesystem::path file;
  std::string name;             // the layout's own
  std::string dtype;            // "BF16", "F32", "MXFP4"; "" of scales that lie apart
  std::int64_t parameters = 0;  // an MXFP4 weight counts once; its scales not
  std::int64_t bytes = 0;
};

class CheckpointContents;

/// Maps the files and checks names, shapes and dtypes of every tensor against the configuration when opened; touches no
/// tensor bytes. Copies share the mappings. Safe to share between threads.
class Checkpoint {
 public:
  /// `dir` holds config.json and *.safetensors (one file, or shards with model.safetensors.index.json). OpenAI's layout
  /// may also lie in `dir`/original. Or it is a file FILE.gguf, or holds model.gguf and no config.json. Throws
  /// CheckpointError on anything missing, unknown, misshapen or given twice.
  explicit Checkpoint(const std::filesystem::path& dir);

  /// The directory that holds the files, or the GGUF file.
  [[nodiscard]] const std::filesystem::path& dir() const;
  [[nodiscard]] const ModelConfig& config() const;
  [[nodiscard]] Layout layout() const;
  [[nodiscard]] ExpertStorage experts() const;
  /// Bytes of all tensors as stored.
  [[nodiscard]] std::int64_t stored_bytes() const;
  /// Number of weights (an MXFP4 weight counts once; its scales not).
  [[nodiscard]] std::int64_t num_parameters() const;

  /// A tensor that is not an expert weight, by transformers' name ("model.layers.0.self_attn.q_proj.weight",
  /// "model.layers.0.mlp.experts.gate_up_proj_bias", ...). As stored (bfloat16 or float32), on the CPU, not copied;
  /// keeps the mapping alive and must not be written to. Of a GGUF file, in which norms, biases, sinks and router are
  /// float32 whatever they were: a copy in bfloat16 where that holds every value. Throws CheckpointError if absent.
  [[nodiscard]] at::Tensor tensor(std::string_view name) const;

  /// "model.layers.N.mlp.experts.gate_up_proj" or "...down_proj", [E, O, I] once decoded.
  /// Throws CheckpointError if absent. Scale bytes are checked by check_scales.
  [[nodiscard]] ExpertWeight expert_weight(std::string_view name) const;
  /// How it is stored: kByte stands for MXFP4. Reads nothing.
  [[nodiscard]] at::ScalarType expert_dtype(std::string_view name) const;

  /// Throws CheckpointError if an MXFP4 scale byte is over kMxfp4MaxScale. Reads all scales (1/17 of the experts).
  void check_scales() const;

  /// Every tensor of every file, in the order in which the files were opened.
  [[nodiscard]] std::vector<StoredTensor> stored_tensors() const;

  /// Lets the pages of a tensor or an expert weight leave the resident memory; they are read again when needed.
  void release(std::string_view name) const;

  /// The tensors of layer `n`, as they lie in the files.
  [[nodiscard]] std::vector<MappedPart> layer_parts(std::int64_t n) const;

  /// Writes tokenizer, chat template and generation settings into `to`: copies of the files that lie beside the
  /// weights, or files made of what a GGUF file says.
  void write_companions(const std::filesystem::path& to) const;
  /// The tokenizer as a GGUF file has it (gguf_tokenizer.h).
  [[nodiscard]] GgufKeyValues gguf_tokenizer() const;

 private:
  std::shared_ptr<const CheckpointContents> contents_;
};

/// Names (transformers') and shapes of every tensor that `config` has, expert weights as [E, O, I] under their plain
/// name. In the order of the hub's files: layers by name, then embedding, norm, head.
struct TensorShape {
  std::string name;
  std::vector<std::int64_t> shape;
  bool is_expert_weight = false;
};
[[nodiscard]] std::vector<TensorShape> tensor_shapes(const ModelConfig& config);

/// The names of the two expert weights of layer `n`, gate_up first.
[[nodiscard]] std::vector<std::string> expert_weight_names(std::int64_t n);

/// A tensor that wraps `bytes` of `file` without copying and keeps the file alive.
[[nodiscard]] at::Tensor wrap(const std::shared_ptr<const SafetensorsFile>& file, const TensorInfo& info);

}  // namespace ossature
