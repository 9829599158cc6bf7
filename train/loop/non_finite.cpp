#include "train/loop/non_finite.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/network/placed_rows.h"

namespace ossature {
namespace {

bool is_finite(const at::Tensor& tensor) {
  return tensor.isfinite().all().item<bool>();
}

/// "" if the last layer's output is finite.
std::string find_in_forward(const Transformer& transformer, const TokenRows& rows,
                            const BackpropagationOptions& options) {
  const at::NoGradGuard no_grad;
  const PlacedRows placed(transformer, rows);
  const Pass pass{placed.layout, placed.rope, rows.dropout_seed, false, options.experts_on_grid};
  at::Tensor x = transformer.embed(placed.tokens);
  if (!is_finite(x)) return "the embedding of the tokens";
  const auto num_layers = static_cast<std::int64_t>(transformer.layers().size());
  for (std::int64_t n = 0; n < num_layers; ++n) {
    transformer.enter(n, std::min(n + 1, num_layers - 1));
    x = transformer.run_layer(n, x, pass);
    if (!is_finite(x)) return "the output of layer " + std::to_string(n);
  }
  return "";
}

/// The backward pass goes from the last layer to the first, as parameters are listed the other way round.
std::string find_in_gradients(const ParameterSet& parameters) {
  for (std::size_t i = parameters.specs().size(); i-- > 0;) {
    if (!is_finite(parameters.tensor(i).grad())) return "the gradient of " + parameters.specs()[i].name;
  }
  return "";
}

}  // namespace

std::optional<NonFinite> find_non_finite(const Transformer& transformer, ParameterSet& parameters,
                                         std::span<const TokenRows> micro_batches,
                                         const BackpropagationOptions& options) {
  std::optional<NonFinite> found;
  for (std::size_t i = 0; i < micro_batches.size() && !found; ++i) {
    std::string tensor = find_in_forward(transformer, micro_batches[i], options);
    if (tensor.empty()) {
      parameters.gradients().zero_();
      const LossSum sum = backpropagate(transformer, micro_batches[i], options);
      tensor = std::isfinite(sum.loss) ? find_in_gradients(parameters) : "the loss";
    }
    if (!tensor.empty()) found = {std::move(tensor), i};
  }
  parameters.gradients().zero_();
  return found;
}

Culprit first_culprit(Ranks& ranks, const std::optional<Culprit>& own) {
  nlohmann::json found;
  if (own) found = {own->number, own->tensor, own->samples};
  Culprit first{kNoMicroBatch, "", ""};
  for (const std::string& text : ranks.gather(found.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))) {
    const auto other = nlohmann::json::parse(text);
    if (other.is_null() || (!first.tensor.empty() && other.at(0) >= first.number)) continue;
    first = {other.at(0), other.at(1), other.at(2)};
  }
  return first;
}

std::string sources_of(const Batch& batch, const std::vector<WeightedFile>& files) {
  constexpr std::size_t kMostShown = 8;
  std::string text;
  for (std::size_t s = 0; s < std::min(batch.sample_ids.size(), kMostShown); ++s) {
    const TokenFileReader& file = *files[static_cast<std::size_t>(batch.sample_files[s])].file;
    text += (s == 0 ? "" : ", ") + file.path().string() + " (" + file.sample_source(batch.sample_ids[s]) + ")";
  }
  if (batch.sample_ids.size() > kMostShown)
    text += " and " + std::to_string(batch.sample_ids.size() - kMostShown) + " more";
  return text;
}

}  // namespace ossature
