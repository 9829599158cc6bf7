#include "model/export/export_gguf.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "model/checkpoint/checkpoint_writer.h"
#include "model/checkpoint/gguf_config.h"
#include "model/checkpoint/gguf_names.h"
#include "model/export/merged_experts.h"
#include "model/files/free_space.h"
#include "model/files/gguf_writer.h"
#include "model/files/made_folders.h"
#include "model/files/staging_directory.h"
#include "model/kernels/mxfp4_ggml.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

constexpr std::uint32_t kFileTypeAllF32 = 0, kFileTypeBf16 = 32, kFileTypeMxfp4 = 38;  // llama.h, enum llama_ftype
constexpr std::uint32_t kQuantizationVersion = 2;                                      // ggml.h, GGML_QNT_VERSION

/// A tensor to be written, and who makes its bytes when its turn comes.
struct Planned {
  GgufTensor info;
  std::function<void(const ByteSink&)> write;
};

/// Of a tensor whose rows (its dimension 1) are gate's and up's by turns: one of the two, or all of any other tensor.
struct Part {
  std::int64_t first = 0;
  std::int64_t step = 1;

  [[nodiscard]] at::Tensor of(const at::Tensor& tensor) const {
    return step == 1 ? tensor : tensor.slice(1, first, std::nullopt, step);
  }
};

/// Expert `e` alone.
ExpertWeight expert(const ExpertWeight& weight, Part part, std::int64_t e) {
  const auto alone = [&](const at::Tensor& tensor) { return part.of(tensor.narrow(0, e, 1)).contiguous(); };
  if (weight.is_packed()) return {{alone(weight.packed.blocks), alone(weight.packed.scales)}, {}};
  return {{}, alone(weight.dense)};
}

void write_packed(const Mxfp4Tensor& weight, const ByteSink& sink) {
  const at::Tensor blocks = weight.blocks.contiguous(), scales = weight.scales.contiguous();
  std::vector<std::uint8_t> out(static_cast<std::size_t>(scales.numel() * kGgmlMxfp4BlockBytes));
  at::parallel_for(0, scales.numel(), 4096, [&](std::int64_t begin, std::int64_t end) {
    mxfp4_to_ggml(blocks.const_data_ptr<std::uint8_t>() + begin * kMxfp4BlockBytes,
                  scales.const_data_ptr<std::uint8_t>() + begin, end - begin,
                  out.data() + begin * kGgmlMxfp4BlockBytes);
  });
  sink(std::as_bytes(std::span(out)));
}

class Plan {
 public:
  Plan(const Checkpoint& base, const Merger& merger, const ExportOptions& options)
      : base_(base), merger_(merger), replacements_(options.replacements) {
    const std::set<std::string> dense = dense_expert_weights(dense_layers(base, merger, options.experts));
    for (const TensorShape& tensor : tensor_shapes(base.config())) {
      if (merger.pair(tensor.name).defined()) ++merged_;
      const std::vector<std::string> names = gguf_names(tensor.name);
      const auto count = std::ssize(names);
      for (std::int64_t i = 0; i < count; ++i) {
        std::vector<std::int64_t> shape = tensor.shape;
        if (count > 1) shape[1] /= count;
        const std::string& name = names[static_cast<std::size_t>(i)];
        if (!tensor.is_expert_weight) {
          add_dense(name, shape, tensor.name, {i, count});
        } else if (dense.count(tensor.name) == 0) {
          add_packed_experts(name, shape, tensor.name, {i, count});
        } else {
          add_dense_experts(name, shape, tensor.name, {i, count});
        }
      }
    }
    if (merged_ != std::ssize(merger.pairs())) throw std::logic_error("export: a pair of the adapter was not merged");
  }

  [[nodiscard]] const std::vector<Planned>& tensors() const { return tensors_; }

 private:
  void add_dense(const std::string& name, const std::vector<std::int64_t>& shape, const std::string& source,
                 Part part) {
    const bool is_f32 = gguf_is_always_f32(name) || base_.tensor(source).scalar_type() == at::kFloat;
    const auto dtype = is_f32 ? at::kFloat : at::kBFloat16;
    tensors_.push_back(
        {{name, is_f32 ? GgmlType::kF32 : GgmlType::kBF16, shape}, [this, source, part, dtype](const ByteSink& sink) {
           write_tensor(part.of(dense(source, dtype)), sink);
           base_.release(source);
         }});
  }

  void add_dense_experts(const std::string& name, const std::vector<std::int64_t>& shape, const std::string& source,
                         Part part) {
    const bool is_f32 = base_.expert_dtype(source) == at::kFloat;
    const auto dtype = is_f32 ? at::kFloat : at::kBFloat16;
    tensors_.push_back(
        {{name, is_f32 ? GgmlType::kF32 : GgmlType::kBF16, shape}, [this, source, part, dtype](const ByteSink& sink) {
           const ExpertWeight weight = base_.expert_weight(source);
           const at::Tensor upper = chosen_neighbours(replacements_, source);
           for (std::int64_t e = 0; e < weight.num_experts(); ++e) {
             const ExpertWeight alone = expert(weight, part, e);
             const LowRank pair = pair_of(source, part, e);
             if (!alone.is_packed() && !pair.defined()) {
               write_tensor(alone.dense, sink);
             } else if (dtype == at::kBFloat16) {
               const at::Tensor chosen = upper.defined() ? part.of(upper.narrow(0, e, 1)).contiguous() : upper;
               write_tensor(merged_bfloat16(alone, pair, 0, source, chosen), sink);
             } else {
               write_tensor(merged_float(alone, pair, 0, source), sink);
             }
           }
           base_.release(source);
         }});
  }

  void add_packed_experts(const std::string& name, const std::vector<std::int64_t>& shape, const std::string& source,
                          Part part) {
    tensors_.push_back(
        {{name, GgmlType::kMxfp4, shape}, [this, source, part](const ByteSink& sink) {
           const Mxfp4Tensor* replaced = replaced_experts(replacements_, source);
           const ExpertWeight weight = replaced != nullptr ? ExpertWeight{*replaced, {}} : base_.expert_weight(source);
           for (std::int64_t e = 0; e < weight.num_experts(); ++e) {
             const LowRank pair = replaced != nullptr ? LowRank{} : pair_of(source, part, e);
             write_packed(packed(expert(weight, part, e), pair, source), sink);
           }
           base_.release(source);
         }});
  }

  /// One expert, merged where there is a pair, rounded as the other formats round it.
  static Mxfp4Tensor packed(const ExpertWeight& alone, const LowRank& pair, const std::string& name) {
    if (!alone.is_packed()) return mxfp4_encode(merge_expert(alone, pair, 0));
    if (!pair.defined()) return alone.packed;
    return {merged_blocks(alone.packed, pair, 0, name), alone.packed.scales};
  }

  /// A tensor that is no expert weight.
  [[nodiscard]] at::Tensor dense(const std::string& name, at::ScalarType dtype) const {
    if (const at::Tensor* replaced = replaced_tensor(replacements_, name)) return replaced->to(dtype);
    const LowRank pair = merger_.pair(name);
    const at::Tensor stored = base_.tensor(name);
    return pair.defined() ? merged_as(stored, pair, dtype, name) : stored.to(dtype);
  }

  /// The pair of expert `e` alone, of the rows of `part`; undefined if there is none.
  [[nodiscard]] LowRank pair_of(const std::string& source, Part part, std::int64_t e) const {
    LowRank pair = merger_.pair(source);
    if (!pair.defined()) return pair;
    pair.a = pair.a.narrow(0, e, 1).contiguous();
    pair.b = part.of(pair.b.narrow(0, e, 1)).contiguous();
    return pair;
  }

  const Checkpoint& base_;
  const Merger& merger_;
  const Replacements* replacements_;
  std::int64_t merged_ = 0;  // pairs that the plan has
  std::vector<Planned> tensors_;
};

/// "8x1.3M": the number of experts and the parameters that a token sees one expert's share of (llama.cpp,
/// gguf-py/gguf/utility.py, size_label).
std::string size_label(const std::vector<Planned>& tensors, std::int64_t num_experts) {
  double parameters = 0;
  for (const Planned& tensor : tensors) {
    double size = 1;
    for (const std::int64_t length : tensor.info.shape) size *= static_cast<double>(length);
    const bool is_expert = tensor.info.shape.size() == 3;
    parameters += is_expert ? size / static_cast<double>(num_experts) : size;
  }
  constexpr std::pair<double, char> kUnits[] = {{1e12, 'T'}, {1e9, 'B'}, {1e6, 'M'}, {0, 'K'}};
  const auto unit = *std::ranges::find_if(kUnits, [&](const auto& candidate) { return parameters > candidate.first; });
  const double scaled = parameters / (unit.second == 'K' ? 1e3 : unit.first);
  const int decimals = std::nearbyint(scaled) < 1 ? 2 : std::nearbyint(scaled) < 10 ? 1 : 0;
  char text[64];
  std::snprintf(text, sizeof text, "%ldx%.*f%c", static_cast<long>(num_experts), decimals, scaled, unit.second);
  return text;
}

std::string model_name(const fs::path& dir) {
  if (dir.extension() == ".gguf") return dir.stem();
  const fs::path whole = fs::absolute(dir / "").lexically_normal().parent_path();
  return whole.filename() == "original" ? whole.parent_path().filename() : whole.filename();
}

GgufKeyValues key_values(const Checkpoint& base, const Plan& plan) {
  std::uint32_t file_type = kFileTypeAllF32;
  for (const Planned& tensor : plan.tensors()) {
    if (tensor.info.type == GgmlType::kBF16) file_type = std::max(file_type, kFileTypeBf16);
    if (tensor.info.type == GgmlType::kMxfp4) file_type = kFileTypeMxfp4;
  }
  GgufKeyValues values;
  values.emplace_back("general.architecture", std::string(kGgufArchitecture));
  values.emplace_back("general.type", std::string("model"));
  values.emplace_back("general.name", model_name(base.dir()));
  values.emplace_back("general.size_label", size_label(plan.tensors(), base.config().num_local_experts));
  for (auto& value : gguf_config(base.config())) values.push_back(std::move(value));
  values.emplace_back("general.file_type", file_type);
  values.emplace_back("general.quantization_version", kQuantizationVersion);
  for (auto& value : base.gguf_tokenizer()) values.push_back(std::move(value));
  return values;
}

}  // namespace

void export_gguf(const Checkpoint& base, const Merger& merger, const ExportOptions& options, const fs::path& out,
                 const std::function<void(std::int64_t, std::int64_t)>& progress) {
  const bool is_file = out.extension() == ".gguf";
  if (is_file && fs::exists(out))
    throw CheckpointError(out.string() + ": already exists; remove it or give another file");
  const Plan plan(base, merger, options);
  std::vector<GgufTensor> infos;
  std::int64_t total = 0, written = 0;
  for (const Planned& tensor : plan.tensors()) {
    infos.push_back(tensor.info);
    std::uint64_t bytes = 0;
    (void)byte_count(tensor.info.type, tensor.info.shape, bytes);
    total += static_cast<std::int64_t>(bytes);
  }
  std::optional<StagingDirectory> staging;
  if (!is_file) staging.emplace(out);
  const MadeFolders above(is_file ? out.parent_path() : fs::path());
  check_free_space(out, static_cast<std::uint64_t>(total));
  GgufWriter writer(is_file ? out : staging->path() / "model.gguf", key_values(base, plan), infos);
  for (const Planned& tensor : plan.tensors()) {
    tensor.write([&](std::span<const std::byte> bytes) {
      writer.write(bytes);
      written += static_cast<std::int64_t>(bytes.size());
    });
    if (progress) progress(written, total);
  }
  writer.finish();
  if (!staging) return;
  if (!options.model_card.empty()) write_text_file(staging->path() / "README.md", options.model_card);
  staging->commit();
}

}  // namespace ossature
