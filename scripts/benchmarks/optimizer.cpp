// Times an optimizer step of the parameters of a whole adapter with the moments stored in each way, by turns.
//   optimizer_benchmark ROUNDS            prints JSON
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <ATen/ATen.h>

#include "train/optimizer/optimizer.h"

namespace ossature {
namespace {

/// gpt-oss-20b with r = 8 on attention and experts. Of each layer and rank: in and out of gate_up_proj and down_proj of
/// 32 experts, of q_proj, of k_proj and v_proj, of o_proj.
constexpr std::int64_t kNumel =
    std::int64_t{24} * 8 * (32 * (2880 + 5760 + 2880 + 2880) + (2880 + 4096) + 2 * (2880 + 512) + (4096 + 2880));

template <typename Work>
double milliseconds(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> times) {
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

void run(int rounds) {
  ParameterSet parameters({{"adapter", {kNumel}, true}}, at::kCPU);
  const at::Tensor gradients = at::randn({kNumel});
  const std::vector<std::pair<const char*, OptimizerState>> states = {{"float32", OptimizerState::kFloat32},
                                                                      {"bfloat16", OptimizerState::kBFloat16},
                                                                      {"8bit", OptimizerState::k8Bit}};
  std::vector<AdamW> optimizers;
  for (const auto& [name, state] : states) optimizers.emplace_back(parameters, AdamWOptions{.state = state});
  std::vector<std::vector<double>> times(states.size());
  std::vector<double> scaling;
  for (int round = 0; round <= rounds; ++round) {  // the first touches the memory
    for (std::size_t i = 0; i < states.size(); ++i) {
      parameters.gradients().copy_(gradients);
      const double time = milliseconds([&] { optimizers[i].step(1e-4, 1.0); });
      if (round > 0) times[i].push_back(time);
    }
    at::Tensor values = parameters.values();
    const double time = milliseconds([&] { values.mul_(0.999); });
    if (round > 0) scaling.push_back(time);
  }
  std::printf("{\"parameters\": %lld, \"memory_gb_per_s\": %.1f, \"states\": [", static_cast<long long>(kNumel),
              8e-6 * static_cast<double>(kNumel) / median(scaling));
  for (std::size_t i = 0; i < states.size(); ++i) {
    const TrainedBytes bytes = trained_bytes(kNumel, states[i].second);
    std::printf("%s{\"state\": \"%s\", \"milliseconds\": %.1f, \"moment_bytes\": %lld, \"other_bytes\": %lld}",
                i == 0 ? "" : ", ", states[i].first, median(times[i]), static_cast<long long>(bytes.moments),
                static_cast<long long>(bytes.values + bytes.gradients));
  }
  std::printf("]}\n");
}

}  // namespace
}  // namespace ossature

int main(int argc, char** argv) {
  ossature::run(argc > 1 ? std::atoi(argv[1]) : 9);
  return 0;
}
