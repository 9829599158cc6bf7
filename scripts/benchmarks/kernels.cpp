// Kernels of a layer at gpt-oss-20b's shape, each beside LibTorch's way to the same result. FLOP counted: products with
// the weights; the low-rank pairs, of rank 8, come on top (1 %).
#include <benchmark/benchmark.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/layers/experts_kernels.h"
#include "model/layers/linear_tiled.h"
#include "model/kernels/mxfp4.h"
#include "model/layers/rms_norm.h"

namespace ossature {
namespace {

constexpr std::int64_t kTokens = 1024, kHidden = 2880, kIntermediate = 2880, kQuerySize = 4096;
constexpr std::int64_t kExperts = 32, kExpertsPerToken = 4, kRank = 8;

void count_flop(benchmark::State& state, double flop) {
  state.counters["GFLOP/s"] =
      benchmark::Counter(flop * 1e-9 * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

at::Tensor random_bfloat16(at::IntArrayRef sizes) {
  return at::randn(sizes).to(at::kBFloat16);
}

/// LibTorch's product of a size like the layers' own, in the dtype that is the faster: what the others are held against.
void Roofline(benchmark::State& state) {
  const auto dtype = state.range(0) == 0 ? at::kBFloat16 : at::kFloat;
  const at::Tensor x = at::randn({kTokens, kHidden}).to(dtype), weight = at::randn({kQuerySize, kHidden}).to(dtype);
  for (auto _ : state) benchmark::DoNotOptimize(at::linear(x, weight));
  count_flop(state, 2.0 * kTokens * kHidden * kQuerySize);
}
BENCHMARK(Roofline)->ArgName("float32")->Arg(0)->Arg(1)->UseRealTime()->Unit(benchmark::kMillisecond);

enum Way { kTiled, kSerial };
enum Routed { kSpread, kAlike };

struct ExpertLayer {
  Experts experts;
  at::Tensor x = random_bfloat16({kTokens, kHidden}), grad = random_bfloat16({kTokens, kHidden}).mul_(0.01);

  ExpertLayer() {
    at::NoGradGuard no_grad;
    const auto packed = [](std::int64_t out, std::int64_t in) {
      return Mxfp4Tensor{at::randint(0, 256, {kExperts, out, in / kMxfp4BlockSize, kMxfp4BlockBytes}, at::kByte),
                         at::full({kExperts, out, in / kMxfp4BlockSize}, 120, at::kByte)};
    };
    const auto pair = [](std::int64_t out, std::int64_t in) {
      return LowRank{at::randn({kExperts, kRank, in}).mul_(0.02), at::randn({kExperts, out, kRank}).mul_(0.02)};
    };
    experts.gate_up.packed = packed(2 * kIntermediate, kHidden);
    experts.gate_up_bias = random_bfloat16({kExperts, 2 * kIntermediate});
    experts.gate_up_low_rank = pair(2 * kIntermediate, kHidden);
    experts.down.packed = packed(kHidden, kIntermediate);
    experts.down_bias = random_bfloat16({kExperts, kHidden});
    experts.down_low_rank = pair(kHidden, kIntermediate);
  }
  static const ExpertLayer& shared() {
    static const ExpertLayer layer;
    return layer;
  }
};

/// A forward and a backward pass: twice the forward pass's products, where nothing is computed again. Spread: random
/// routing; alike: all tokens take the same four experts.
void ExpertsForwardBackward(benchmark::State& state) {
  at::NoGradGuard no_grad;
  const ExpertLayer& layer = ExpertLayer::shared();
  const bool tiled = state.range(0) == kTiled;
  at::Tensor logits = at::randn({kTokens, kExperts});
  if (state.range(1) == kAlike) logits.narrow(1, 0, kExpertsPerToken).add_(100.0);
  const Routing routing = route(logits, kExpertsPerToken);
  const Assignments assigned = assign(routing.indices, kExperts);
  const Experts& e = layer.experts;
  const ExpertsPass pass{e,
                         assigned,
                         layer.x,
                         routing.weights.reshape(-1).index_select(0, assigned.order),
                         e.gate_up_low_rank.a,
                         e.gate_up_low_rank.b,
                         e.down_low_rank.a,
                         e.down_low_rank.b,
                         7.0,
                         {}};
  for (auto _ : state) {
    ExpertsKept kept;
    benchmark::DoNotOptimize((tiled ? tiled_forward : serial_forward)(pass, true, &kept));
    benchmark::DoNotOptimize((tiled ? tiled_backward : serial_backward)(pass, kept, layer.grad, true).x);
  }
  count_flop(state, 2 * 2.0 * kTokens * kExpertsPerToken * 3 * kHidden * kIntermediate);
}
BENCHMARK(ExpertsForwardBackward)
    ->ArgNames({"serial", "alike"})
    ->ArgsProduct({{kTiled, kSerial}, {kSpread, kAlike}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

void LinearProduct(benchmark::State& state) {
  const at::Tensor x = random_bfloat16({kTokens, kHidden}), weight = random_bfloat16({kQuerySize, kHidden});
  const at::Tensor out = at::empty({kTokens, kQuerySize}, at::kBFloat16);
  const bool tiled = state.range(0) == kTiled;
  for (auto _ : state) {
    if (tiled) {
      tiled_product(x, weight, out);
    } else {
      benchmark::DoNotOptimize(at::linear(x, weight));
    }
  }
  count_flop(state, 2.0 * kTokens * kHidden * kQuerySize);
}
BENCHMARK(LinearProduct)->ArgName("libtorch")->Arg(0)->Arg(1)->UseRealTime()->Unit(benchmark::kMillisecond);

void LinearGradient(benchmark::State& state) {
  const at::Tensor grad = random_bfloat16({kTokens, kQuerySize}), weight = random_bfloat16({kQuerySize, kHidden});
  const at::Tensor out = at::empty({kTokens, kHidden}, at::kBFloat16);
  const bool tiled = state.range(0) == kTiled;
  for (auto _ : state) {
    if (tiled) {
      tiled_gradient(grad, weight, out);
    } else {
      benchmark::DoNotOptimize(at::matmul(grad, weight));
    }
  }
  count_flop(state, 2.0 * kTokens * kHidden * kQuerySize);
}
BENCHMARK(LinearGradient)->ArgName("libtorch")->Arg(0)->Arg(1)->UseRealTime()->Unit(benchmark::kMillisecond);

/// One expert's gate_up_proj on one thread, by each kernel that the processor has (mxfp4_kernels()).
void Mxfp4Decode(benchmark::State& state) {
  const auto kernels = mxfp4_kernels();
  const auto kernel = static_cast<std::size_t>(state.range(0));
  if (kernel >= kernels.size()) return state.SkipWithError("no such kernel here");
  const Mxfp4Tensor& weight = ExpertLayer::shared().experts.gate_up.packed;
  std::vector<std::uint16_t> out(static_cast<std::size_t>(2 * kIntermediate * kHidden));
  for (auto _ : state) {
    mxfp4_decode_rows(weight.blocks.const_data_ptr<std::uint8_t>(), weight.scales.const_data_ptr<std::uint8_t>(), 0,
                      2 * kIntermediate, kHidden / kMxfp4BlockSize, out.data(), kernels[kernel]);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(out.size() * sizeof(std::uint16_t)));
}
BENCHMARK(Mxfp4Decode)->ArgName("kernel")->DenseRange(0, 2)->Unit(benchmark::kMillisecond);

void RmsNorm(benchmark::State& state) {
  at::NoGradGuard no_grad;
  const at::Tensor x = at::randn({kTokens, kHidden}), weight = random_bfloat16({kHidden});
  const at::Tensor wide = weight.to(at::kFloat);
  for (auto _ : state) {
    benchmark::DoNotOptimize(state.range(0) == 0
                                 ? rms_norm(x, weight, 1e-5, at::kBFloat16)
                                 : (x * (x.square().mean(-1, true) + 1e-5).rsqrt() * wide).to(at::kBFloat16));
  }
  state.SetBytesProcessed(state.iterations() * kTokens * kHidden * 6);
}
BENCHMARK(RmsNorm)->ArgName("libtorch")->Arg(0)->Arg(1)->UseRealTime()->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace ossature

BENCHMARK_MAIN();
