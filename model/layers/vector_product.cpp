#include "model/layers/vector_product.h"

#include <atomic>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "model/kernels/vector_math.h"
#include "model/layers/swiglu.h"

namespace ossature {
namespace {

using vector_math::load;
using vectors::Vectors;

/// Rows of weights that a thread takes at once: 46 to 368 KiB of gpt-oss's.
constexpr std::int64_t kTaskRows = 32;

/// Calls work(first, count) for pieces of `rows` rows, on all threads; one that is held up holds up no other.
template <typename Work>
void for_rows(std::int64_t rows, const Work& work) {
  std::atomic<std::int64_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](std::int64_t, std::int64_t) {
    for (std::int64_t first; (first = next.fetch_add(kTaskRows)) < rows;)
      work(first, std::min(kTaskRows, rows - first));
  });
}

struct Dot {
  OSSATURE_INLINE static float run(const float* a, const float* b, std::int64_t size) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < size; ++i) sum += a[i] * b[i];
    return sum;
  }
};

/// What is added to a row of products: bias and low-rank pair of one weight.
struct Additions {
  const float* bias = nullptr;     // [O]
  const float* b = nullptr;        // [O, r]
  const float* reduced = nullptr;  // [n, r], A x of each vector that is multiplied
  std::int64_t rank = 0;
  float scale = 1.0f;

  [[nodiscard]] float at(std::int64_t row, std::int64_t n) const {
    const float added = bias != nullptr ? bias[row] : 0.0f;
    return rank == 0 ? added : added + scale * Dot::run(b + row * rank, reduced + n * rank, rank);
  }
};

/// A x of `count` vectors: x [count, I], a [r, I] -> out [count, r].
void reduce(const at::Tensor& a, const float* x, std::int64_t count, float* out) {
  const auto rank = a.size(0), size = a.size(1);
  const float* rows = a.const_data_ptr<float>();
  at::parallel_for(0, count * rank, 4, [&](std::int64_t begin, std::int64_t end) {
    for (auto n = begin; n < end; ++n)
      out[n] = vector_math::run_fastest<Dot>(rows + n % rank * size, x + n / rank * size, size);
  });
}

at::Tensor as_float(const at::Tensor& x) {
  return x.defined() ? x.detach().to(at::kFloat).contiguous() : x;
}

vectors::Kernel kernel_or_fastest(std::optional<vectors::Kernel> kernel) {
  static const vectors::Kernel fastest = vectors::kernels().front();
  return kernel.value_or(fastest);
}

Vectors vectors_of(const at::Tensor& wide, vectors::Packed packed, std::optional<vectors::Kernel> kernel) {
  return {wide.const_data_ptr<float>(), wide.size(0), wide.size(1), packed, kernel_or_fastest(kernel)};
}

bool has_whole_rows(const at::Tensor& weight) {
  return weight.scalar_type() == at::kBFloat16 && weight.is_contiguous() && weight.size(-1) % vectors::kGroup == 0;
}

bool is_vector_weight(const ExpertWeight& weight) {
  return weight.is_packed() ? weight.packed.blocks.is_contiguous() && weight.packed.scales.is_contiguous()
                            : has_whole_rows(weight.dense);
}

/// One expert's rows times some of the vectors.
void multiply(const ExpertWeight& weight, std::int64_t e, std::int64_t row, std::int64_t rows, const Vectors& x,
              std::int64_t first, std::int64_t count, float* sums) {
  const auto above = e * weight.out_features() + row, width = weight.in_features();
  if (!weight.is_packed()) {
    return x.multiply(weight.dense.const_data_ptr<at::BFloat16>() + above * width, rows, first, count, sums);
  }
  const auto groups = width / kMxfp4BlockSize;
  x.multiply(weight.packed.blocks.const_data_ptr<std::uint8_t>() + above * groups * kMxfp4BlockBytes,
             weight.packed.scales.const_data_ptr<std::uint8_t>() + above * groups, rows, first, count, sums);
}

/// All experts' products with their assignments' vectors x [N, I]. store(e, row, n, value) gets each of them, those of
/// a row from one thread, experts in order.
template <typename Store>
void multiply_assigned(const ExpertsPass& pass, const ExpertWeight& weight, const at::Tensor& bias, const at::Tensor& a,
                       const at::Tensor& b, double scale, const at::Tensor& x, std::optional<vectors::Kernel> kernel,
                       const Store& store) {
  const at::Tensor wide = as_float(x);
  const auto packed = !weight.is_packed()                ? vectors::Packed::kNone
                      : x.scalar_type() == at::kBFloat16 ? vectors::Packed::kNarrow
                                                         : vectors::Packed::kWide;
  const Vectors prepared = vectors_of(wide, packed, kernel);
  const auto rank = a.defined() ? a.size(1) : 0;
  std::vector<float> reduced(static_cast<std::size_t>(x.size(0) * rank));
  std::vector<std::pair<std::int64_t, Additions>> used;  // experts with assignments
  std::vector<at::Tensor> biases;
  for (std::int64_t e = 0; e < pass.assigned.num_experts(); ++e) {
    if (pass.assigned.count(e) == 0) continue;
    const auto first = pass.assigned.first(e);
    biases.push_back(as_float(bias[e]));
    Additions added{biases.back().const_data_ptr<float>()};
    if (rank > 0) {
      float* own = reduced.data() + first * rank;
      reduce(a[e], wide.const_data_ptr<float>() + first * wide.size(1), pass.assigned.count(e), own);
      added.b = b.const_data_ptr<float>() + e * weight.out_features() * rank;
      added.reduced = own;
      added.rank = rank;
      added.scale = static_cast<float>(scale);
    }
    used.emplace_back(e, added);
  }
  for_rows(weight.out_features(), [&](std::int64_t row, std::int64_t rows) {
    std::vector<float> sums;
    for (const auto& [e, added] : used) {
      const auto first = pass.assigned.first(e), count = pass.assigned.count(e);
      sums.resize(static_cast<std::size_t>(rows * count));
      multiply(weight, e, row, rows, prepared, first, count, sums.data());
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t n = 0; n < count; ++n) {
          store(row + r, first + n, sums[static_cast<std::size_t>(r * count + n)] + added.at(row + r, n));
        }
      }
    }
  });
}

}  // namespace

bool takes_vectors(const at::Tensor& weight, const at::Tensor& x) {
  return !at::GradMode::is_enabled() && x.device().is_cpu() && x.dim() == 2 && x.size(0) > 0 &&
         x.size(0) < kFewTokens && has_whole_rows(weight);
}

bool takes_vectors(const Linear& linear, const at::Tensor& x, DropoutKey key) {
  return takes_vectors(linear.weight, x) && !DropoutMask(linear.low_rank.dropout, key).active();
}

bool takes_vectors(const ExpertsPass& pass) {
  const auto active = [&](const LowRank& pair) { return DropoutMask(pair.dropout, pass.dropout).active(); };
  return pass.x.device().is_cpu() && pass.x.size(0) > 0 && pass.x.size(0) < kFewTokens &&
         is_vector_weight(pass.experts.gate_up) && is_vector_weight(pass.experts.down) &&
         !active(pass.experts.gate_up_low_rank) && !active(pass.experts.down_low_rank);
}

at::Tensor vector_apply(const Linear& linear, const at::Tensor& x, at::ScalarType dtype,
                        std::optional<vectors::Kernel> kernel) {
  const at::Tensor wide = as_float(x), bias = as_float(linear.bias), b = as_float(linear.low_rank.b);
  const Vectors prepared = vectors_of(wide, vectors::Packed::kNone, kernel);
  const auto count = x.size(0), size = linear.weight.size(0);
  std::vector<float> reduced;
  Additions added{bias.defined() ? bias.const_data_ptr<float>() : nullptr};
  if (linear.low_rank.defined()) {
    added.rank = linear.low_rank.a.size(0);
    reduced.resize(static_cast<std::size_t>(count * added.rank));
    reduce(as_float(linear.low_rank.a), wide.const_data_ptr<float>(), count, reduced.data());
    added.b = b.const_data_ptr<float>();
    added.reduced = reduced.data();
    added.scale = static_cast<float>(linear.low_rank.scale);
  }
  const at::Tensor out = at::empty({count, size}, at::kFloat);
  auto* values = out.data_ptr<float>();
  const auto* weights = linear.weight.const_data_ptr<at::BFloat16>();
  for_rows(size, [&](std::int64_t row, std::int64_t rows) {
    float sums[kTaskRows * kFewTokens];
    prepared.multiply(weights + row * x.size(1), rows, 0, count, sums);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t t = 0; t < count; ++t) {
        values[t * size + row + r] = sums[r * count + t] + added.at(row + r, t);
      }
    }
  });
  return out.to(dtype);
}

at::Tensor vector_forward(const ExpertsPass& pass, std::optional<vectors::Kernel> kernel) {
  const Experts& experts = pass.experts;
  const auto width = experts.gate_up.out_features(), hidden = pass.hidden();
  const at::Tensor u = at::empty({pass.assigned.order.size(0), width}, at::kFloat);
  auto* gate_up = u.data_ptr<float>();
  multiply_assigned(pass, experts.gate_up, experts.gate_up_bias, pass.gate_up_a, pass.gate_up_b,
                    experts.gate_up_low_rank.scale, pass.x.index_select(0, pass.assigned.tokens), kernel,
                    [&](std::int64_t row, std::int64_t n, float value) { gate_up[n * width + row] = value; });
  const at::Tensor h = swiglu_forward(u.to(pass.x.scalar_type()), pass.swiglu_limit);

  const at::Tensor out = at::zeros({pass.x.size(0), hidden}, at::kFloat);
  auto* sums = out.data_ptr<float>();
  const auto* tokens = pass.assigned.tokens.const_data_ptr<std::int64_t>();
  const auto* factors = pass.factors.const_data_ptr<float>();
  multiply_assigned(
      pass, experts.down, experts.down_bias, pass.down_a, pass.down_b, experts.down_low_rank.scale, h, kernel,
      [&](std::int64_t row, std::int64_t n, float value) { sums[tokens[n] * hidden + row] += factors[n] * value; });
  return out;
}

}  // namespace ossature
