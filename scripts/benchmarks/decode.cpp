// Decoding token by token, against a plain read of memory by as many threads in the same turn.
// decode_benchmark MODEL TOKENS ROUNDS THREADS DTYPE prints JSON.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "model/network/generate.h"
#include "model/network/head.h"
#include "model/adapter/loaded_model.h"
#include "model/kernels/vector_math.h"

namespace ossature {
namespace {

double seconds_of(const auto& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// The exclusive or of all words: as few operations as reading can have.
OSSATURE_INLINE std::uint64_t fold(const std::uint64_t* words, std::int64_t count) {
  std::uint64_t all = 0;
#pragma omp simd reduction(^ : all)
  for (std::int64_t i = 0; i < count; ++i) all ^= words[i];
  return all;
}
OSSATURE_WIDE std::uint64_t fold_wide(const std::uint64_t* words, std::int64_t count) {
  return fold(words, count);
}
OSSATURE_AVX2 std::uint64_t fold_avx2(const std::uint64_t* words, std::int64_t count) {
  return fold(words, count);
}
std::uint64_t fold_plain(const std::uint64_t* words, std::int64_t count) {
  return fold(words, count);
}

/// Bytes a second, the best of three reads of 1 GiB.
double stream_rate(const at::Tensor& buffer) {
  const auto kernel = vector_math::fastest(fold_wide, fold_avx2, fold_plain);
  const auto words = buffer.numel();
  double best = 0.0;
  for (int n = 0; n < 3; ++n) {
    std::atomic<std::uint64_t> all{0};
    const double seconds = seconds_of([&] {
      at::parallel_for(0, words, 1 << 16, [&](std::int64_t begin, std::int64_t end) {
        all ^= kernel(reinterpret_cast<const std::uint64_t*>(buffer.const_data_ptr<std::int64_t>()) + begin,
                      end - begin);
      });
    });
    best = std::max(best, 8.0 * static_cast<double>(words) / seconds);
  }
  return best;
}

std::int64_t bytes_of(const Linear& linear) {
  return static_cast<std::int64_t>(linear.weight.nbytes() + linear.bias.nbytes());
}

/// Of all weights that a token passes.
struct ActiveBytes {
  std::int64_t attention = 0, experts = 0, head = 0;

  explicit ActiveBytes(const Transformer& transformer) : head(static_cast<std::int64_t>(transformer.lm_head.nbytes())) {
    const auto& config = transformer.config();
    for (const Layer& layer : transformer.layers()) {
      for (const Linear* linear : {&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj, &layer.router})
        attention += bytes_of(*linear);
      for (const ExpertWeight* weight : {&layer.experts.gate_up, &layer.experts.down}) {
        const auto all = weight->is_packed() ? weight->packed.blocks.nbytes() + weight->packed.scales.nbytes()
                                             : weight->dense.nbytes();
        experts += static_cast<std::int64_t>(all) / weight->num_experts() * config.num_experts_per_tok;
      }
    }
  }
  [[nodiscard]] std::int64_t all() const { return attention + experts + head; }
};

struct Part {
  const char* name;
  std::int64_t bytes;
  std::vector<double> seconds;
};

}  // namespace
}  // namespace ossature

int main(int argc, char** argv) {
  using namespace ossature;
  if (argc != 6) return 2;
  const std::int64_t tokens = std::stoll(argv[2]);
  at::set_num_threads(std::stoi(argv[4]));
  at::NoGradGuard no_grad;
  const auto dtype = std::string(argv[5]) == "float32" ? at::kFloat : at::kBFloat16;
  const LoadedModel model = load_model(argv[1], std::nullopt, dtype);
  const Transformer& transformer = model.transformer;
  const ModelConfig& config = transformer.config();
  const ActiveBytes bytes(transformer);
  const at::Tensor buffer = at::ones({(std::int64_t{1} << 30) / 8}, at::kLong);

  std::mt19937 generator(1);
  const auto random_token = [&] {
    return static_cast<std::int32_t>(generator() % static_cast<std::uint32_t>(config.vocab_size));
  };
  std::vector<std::int32_t> prompt;
  for (int n = 0; n < 128; ++n) prompt.push_back(random_token());
  Decoder decoder(transformer);
  (void)decoder.feed(prompt);
  for (int n = 0; n < 32; ++n) {  // reads the files: tokens take different experts
    const std::int32_t token = random_token();
    (void)decoder.feed({&token, 1});
  }

  std::vector<double> streams, shares;
  Part token{"token", bytes.all(), {}}, head{"head", bytes.head, {}}, experts{"experts", bytes.experts, {}},
      projections{"attention's products and router", bytes.attention, {}};
  const at::Tensor hidden = at::randn({1, config.hidden_size}), narrow = hidden.to(dtype),
                   attended = at::randn({1, config.query_size()}).to(dtype);
  for (int round = 0; round < std::stoi(argv[3]); ++round) {
    streams.push_back(stream_rate(buffer));
    token.seconds.push_back(seconds_of([&] {
                              for (std::int64_t n = 0; n < tokens; ++n) {
                                const std::int32_t next = random_token();
                                (void)decoder.feed({&next, 1});
                              }
                            }) /
                            static_cast<double>(tokens));
    shares.push_back(static_cast<double>(bytes.all()) / token.seconds.back() / streams.back());
    head.seconds.push_back(seconds_of([&] { (void)head_logits(transformer, hidden); }));
    projections.seconds.push_back(seconds_of([&] {
      for (const Layer& layer : transformer.layers()) {
        for (const Linear* linear : {&layer.q_proj, &layer.k_proj, &layer.v_proj}) (void)apply(*linear, narrow);
        (void)apply(layer.o_proj, attended);
        (void)apply(layer.router, hidden);
      }
    }));
    std::vector<Routing> routings;
    for (std::size_t n = 0; n < transformer.layers().size(); ++n)
      routings.push_back(route(at::randn({1, config.num_local_experts}), config.num_experts_per_tok));
    ExpertsOptions options;
    options.swiglu_limit = config.swiglu_limit;
    experts.seconds.push_back(seconds_of([&] {
      for (std::size_t n = 0; n < routings.size(); ++n)
        (void)apply(transformer.layers()[n].experts, narrow, routings[n], options);
    }));
  }

  nlohmann::ordered_json parts = nlohmann::ordered_json::array();
  for (const Part* part : {&token, &projections, &experts, &head}) {
    const double seconds = median(part->seconds);
    parts.push_back({{"part", part->name},
                     {"bytes", part->bytes},
                     {"milliseconds", seconds * 1e3},
                     {"gb_per_second", static_cast<double>(part->bytes) / seconds * 1e-9}});
  }
  const nlohmann::ordered_json result = {{"threads", at::get_num_threads()},
                                         {"layers", config.num_hidden_layers},
                                         {"tokens_per_second", 1.0 / median(token.seconds)},
                                         {"stream_gb_per_second", median(streams) * 1e-9},
                                         {"share_of_stream", median(shares)},
                                         {"shares", shares},
                                         {"parts", std::move(parts)}};
  std::cout << result.dump() << "\n";
}
