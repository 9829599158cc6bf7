// Attention by tiles against LibTorch's flash kernel, forward and backward, in bfloat16 at gpt-oss's shape (64 query
// heads, 8 key heads, head dimension 64, window 128), and LibTorch's product of square matrices as the roofline. They run
// by turns; medians. FLOP counted: what is visible, two products of a forward pass and five of a backward pass.
//   attention_benchmark [TOKENS of the longest case] [FILE for the figures as JSON]
#include <array>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <nlohmann/json.hpp>

#include "model/layers/attention_kernels.h"

namespace {

using namespace ossature;

constexpr std::int64_t kQueryHeads = 64, kKeyHeads = 8, kHeadDim = 64, kWindow = 128;

struct Case {
  std::string name;
  std::int64_t samples, length;
  bool sliding;
};

double visible_pairs(const Case& c) {
  double pairs = 0;
  for (std::int64_t t = 0; t < c.length; ++t) pairs += static_cast<double>(c.sliding ? std::min(t + 1, kWindow) : t + 1);
  return pairs * static_cast<double>(c.samples * kQueryHeads);
}

template <typename F>
double milliseconds(const F& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

/// Milliseconds.
struct Times {
  double ours, peer, product;
};

constexpr std::int64_t kProductSize = 1024;
constexpr double kProductFlop = 2.0 * kProductSize * kProductSize * kProductSize;

/// Medians, run by turns for at least `rounds` rounds and two seconds.
template <typename F, typename G>
Times by_turns(int rounds, const F& ours, const G& peer) {
  const at::Tensor a = at::randn({kProductSize, kProductSize}).to(at::kBFloat16), b = at::randn_like(a);
  const auto product = [&] { (void)at::mm(a, b); };
  std::array<std::vector<double>, 3> times;
  double total = 0;
  ours(), peer(), product();
  while (static_cast<int>(times[0].size()) < rounds || (total < 2000 && times[0].size() < 200)) {
    times[0].push_back(milliseconds(ours));
    times[1].push_back(milliseconds(peer));
    times[2].push_back(milliseconds(product));
    for (const auto& each : times) total += each.back();
  }
  const auto median = [](std::vector<double>& x) {
    std::nth_element(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2), x.end());
    return x[x.size() / 2];
  };
  return {median(times[0]), median(times[1]), median(times[2])};
}

nlohmann::json figures = nlohmann::json::array();

void report(const Case& c, const char* pass, double products, const Times& times) {
  const double flop = products * 2 * static_cast<double>(kHeadDim) * visible_pairs(c);
  const double ours = flop / times.ours * 1e-6, peer = flop / times.peer * 1e-6,
               roofline = kProductFlop / times.product * 1e-6;
  std::printf("%-22s %-8s %10.2f ms %7.0f GF/s %10.2f ms %7.0f GF/s   %5.2fx  %7.0f GF/s %4.0f %%\n", c.name.c_str(), pass,
              times.ours, ours, times.peer, peer, times.peer / times.ours, roofline, 100 * ours / roofline);
  std::fflush(stdout);
  figures.push_back({{"case", c.name},
                     {"pass", pass},
                     {"milliseconds", times.ours},
                     {"gflop_per_second", ours},
                     {"peer_milliseconds", times.peer},
                     {"peer_gflop_per_second", peer},
                     {"ratio", times.peer / times.ours},
                     {"roofline_gflop_per_second", roofline}});
}

void run(const Case& c) {
  const auto num_tokens = c.samples * c.length;
  std::vector<std::int64_t> offsets;
  for (std::int64_t s = 0; s <= c.samples; ++s) offsets.push_back(s * c.length);
  const SequenceLayout layout(offsets, kWindow);
  const auto make = [&](std::int64_t heads) { return at::randn({num_tokens, heads, kHeadDim}).to(at::kBFloat16); };
  const AttentionInputs in{
      make(kQueryHeads), make(kKeyHeads), make(kKeyHeads), at::randn({kQueryHeads}), layout, c.sliding, 0.125};
  const at::Tensor grad = make(kQueryHeads);
  const int rounds = num_tokens > 16384 ? 1 : 3;
  report(c, "forward", 2, by_turns(rounds, [&] { (void)tiled_forward(in); }, [&] { (void)flash_forward(in); }));
  const AttentionResult result = tiled_forward(in);
  report(c, "backward", 5, by_turns(rounds, [&] { (void)tiled_backward(in, result, grad); },
                                    [&] { (void)flash_backward(in, result, grad); }));
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<Case> cases{{"1024 full", 1, 1024, false},    {"1024 sliding", 1, 1024, true},
                                {"16 x 64 full", 16, 64, false},  {"16 x 64 sliding", 16, 64, true},
                                {"8192 full", 1, 8192, false},    {"8192 sliding", 1, 8192, true},
                                {"32768 full", 1, 32768, false}, {"32768 sliding", 1, 32768, true}};
  at::NoGradGuard none;
  at::manual_seed(1);
  const std::int64_t longest = argc > 1 ? std::stoll(argv[1]) : 32768;
  std::printf(
      "%d threads; tiles, LibTorch's flash kernel, how many times faster tiles are, LibTorch's products and tiles' share of "
      "their rate\n",
      at::get_num_threads());
  for (const Case& c : cases) {
    if (c.length <= longest) run(c);
  }
  if (argc > 2) {
    std::ofstream file(argv[2]);
    file << figures.dump(1) << "\n";
    if (!file.flush()) {
      std::fprintf(stderr, "attention_benchmark: %s cannot be written\n", argv[2]);
      return 5;
    }
  }
}
