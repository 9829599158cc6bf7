#include "train/loop/gradient_sum.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string_view>

#include <ATen/core/Tensor.h>

namespace ossature {
namespace {

/// Of "model.layers.3.self_attn.q_proj.lora_A" 3; -1 of a parameter of no layer.
std::int64_t layer_of(std::string_view name) {
  constexpr std::string_view kPrefix = "model.layers.";
  return name.starts_with(kPrefix) ? std::strtoll(name.data() + kPrefix.size(), nullptr, 10) : -1;
}

}  // namespace

GradientSum::GradientSum(Ranks& ranks, const ParameterSet& parameters) : ranks_(ranks), parameters_(parameters) {
  std::int64_t first = 0;
  for (std::size_t i = 0; i < parameters.specs().size(); ++i) {
    const std::int64_t count = parameters.tensor(i).numel(), layer = layer_of(parameters.specs()[i].name);
    if (!pieces_.empty() && pieces_.back().layer == layer) {
      pieces_.back().count += count;
    } else {
      pieces_.push_back({layer, first, count});
    }
    first += count;
  }
  std::stable_sort(pieces_.begin(), pieces_.end(), [](const Piece& a, const Piece& b) { return a.layer > b.layer; });
}

void GradientSum::layer_done(std::int64_t n) {
  if (ranks_.size() == 1) return;
  auto* gradients = parameters_.gradients().data_ptr<float>();
  for (; next_ < pieces_.size() && pieces_[next_].layer >= n; ++next_) {
    const Piece& piece = pieces_[next_];
    ranks_.begin_sum({gradients + piece.first, static_cast<std::size_t>(piece.count)});
  }
}

double GradientSum::finish() {
  const auto start = std::chrono::steady_clock::now();
  layer_done(-1);
  ranks_.wait();
  next_ = 0;
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace ossature
