// Checkpoints with results that the peers computed (transformers, peft), see tests/golden/README.md.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "model/adapter/adapter.h"
#include "model/checkpoint/checkpoint.h"
#include "model/files/safetensors.h"
#include "model/network/backpropagation.h"

namespace ossature::testing {

/// One directory of goldens.
class Golden {
 public:
  explicit Golden(std::filesystem::path dir)
      : dir_(std::move(dir)), file_(SafetensorsFile::open(dir_ / "golden.safetensors")) {
    const at::Tensor ids = tensor("input_ids"), labels = tensor("labels");
    num_rows_ = ids.size(0);
    length_ = ids.size(1);
    for (std::int64_t i = 0; i < ids.numel(); ++i) {
      tokens_.push_back(static_cast<std::int32_t>(ids.const_data_ptr<std::int64_t>()[i]));
      weights_.push_back(labels.const_data_ptr<std::int64_t>()[i] == -100 ? 0.0f : 1.0f);
    }
    for (std::int64_t row = 0; row <= num_rows_; ++row) offsets_.push_back(row * length_);
  }

  [[nodiscard]] const std::filesystem::path& dir() const { return dir_; }
  [[nodiscard]] at::Tensor tensor(const std::string& name) const {
    const TensorInfo* info = file_->find(name);
    if (info == nullptr) throw std::runtime_error("golden has no " + name);
    return wrap(file_, *info);
  }
  [[nodiscard]] bool has(const std::string& name) const { return file_->find(name) != nullptr; }

  /// All rows as samples of one flat axis.
  [[nodiscard]] TokenRows rows() const { return {tokens_, weights_, offsets_}; }
  /// Row `n` alone.
  [[nodiscard]] TokenRows row(std::int64_t n) const {
    const auto first = static_cast<std::size_t>(n * length_), count = static_cast<std::size_t>(length_);
    return {std::span(tokens_).subspan(first, count), std::span(weights_).subspan(first, count),
            std::span(offsets_).first(2)};
  }
  [[nodiscard]] std::int64_t num_rows() const { return num_rows_; }

  /// Golden logits of that name as log-probabilities, [rows * length, V] float32.
  [[nodiscard]] at::Tensor log_probs(const std::string& name) const {
    return at::log_softmax(tensor(name).flatten(0, 1), -1);
  }

 private:
  std::filesystem::path dir_;
  std::shared_ptr<const SafetensorsFile> file_;
  std::vector<std::int32_t> tokens_;
  std::vector<float> weights_;
  std::vector<std::int64_t> offsets_;
  std::int64_t num_rows_ = 0, length_ = 0;
};

/// Our own goldens, and those beside the repository where they exist.
inline std::vector<std::string> golden_dirs() {
  const std::filesystem::path source = OSSATURE_SOURCE_DIR;
  std::vector<std::string> dirs{(source / "tests/golden/small").string()};
  for (const char* name : {"tiny-a", "tiny-b"}) {
    const auto dir = source / "../shared/golden" / name;
    if (std::filesystem::exists(dir / "golden.safetensors")) dirs.push_back(dir.string());
  }
  return dirs;
}

/// Names a parameterized test after its golden: letters and digits only.
inline std::string golden_test_name(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = std::filesystem::path(info.param).filename().string();
  std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
  return name;
}

/// Largest |found - expected| in relation to the norm of expected: ||found - expected|| / ||expected||.
inline double relative_error(const at::Tensor& found, const at::Tensor& expected) {
  const at::Tensor wanted = expected.to(at::kDouble);
  return ((found.to(at::kDouble) - wanted).norm() / wanted.norm().clamp_min(1e-30)).item<double>();
}

/// The golden's gradient or trained value ("grad." or "trained.") of a target's A or B, in our layout.
inline at::Tensor golden_a(const Golden& golden, const std::string& prefix, const LoraTarget& target, bool both) {
  const std::string key = peft_key(target, both).substr(std::string("base_model.model.").size());
  return from_peft_a(golden.tensor(prefix + key + ".lora_A.weight"), target);
}
inline at::Tensor golden_b(const Golden& golden, const std::string& prefix, const LoraTarget& target, bool both) {
  const std::string key = peft_key(target, both).substr(std::string("base_model.model.").size());
  return from_peft_b(golden.tensor(prefix + key + ".lora_B.weight"), target);
}

}  // namespace ossature::testing
