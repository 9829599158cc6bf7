#include <vector>

#include "model/layers/experts_kernels.h"
#include "model/layers/swiglu_math.h"
#include "model/layers/tiled_parts.h"

namespace ossature {
namespace {

using tiles::BFloat16;
using tiles::Buffer;

/// Gradients [count, rows of a weight] times the weight of one expert and its pair, for a panel of its columns.
class PanelProduct {
 public:
  PanelProduct(const Mxfp4Tensor& weight, const tiles::PairTensors& pair, std::int64_t max_count)
      : weight_(weight),
        pair_(pair),
        strip_(tiles::kPanelRows * tiles::kStripColumns),
        pairs_(pair.rank * tiles::kPanelColumns),
        product_(tiles::round_up(max_count, kSpareRows) * tiles::kPanelColumns),
        masked_(pair.dropout != 0.0 ? tiles::round_up(max_count, kSpareRows) * tiles::kPanelColumns : 0) {}

  /// Returns [count, width], rows `width` apart. `grad` [count, out] and `reduced` [count, R], the scaled grad B, may
  /// be read up to kSpareRows - 1 rows past `count`. `mask` is that of the pair's input.
  float* run(std::int64_t e, const BFloat16* grad, const BFloat16* reduced, const DropoutMask& mask, std::int64_t count,
             std::int64_t column, std::int64_t width) const {
    const tiles::PackedExpert expert(weight_, e);
    const auto features = weight_.out_features();
    float* c = product_.data();
    for (std::int64_t row = 0; row < features; row += tiles::kPanelRows) {
      const auto rows = std::min(tiles::kPanelRows, features - row);
      for (std::int64_t j = 0; j < width; j += tiles::kStripColumns) {
        const auto columns = std::min(tiles::kStripColumns, width - j);
        mxfp4_decode_row_pairs(expert.blocks, expert.scales, row, rows, expert.num_blocks,
                               (column + j) / kMxfp4BlockSize, columns / kMxfp4BlockSize,
                               reinterpret_cast<std::uint16_t*>(strip_.data()));
        multiply(count, columns, rows, grad + row, features, strip_.data(), c + j, width, row > 0);
      }
    }
    if (pair_.rank == 0) return c;
    const auto columns = weight_.in_features();
    tiles::pack_row_pairs(pair_.a_of(e) + column, columns, pair_.rank, pair_.rank, width, pairs_.data());
    if (!mask.active()) {
      multiply(count, width, pair_.rank, reduced, pair_.rank, pairs_.data(), c, width, true);
    } else {
      multiply(count, width, pair_.rank, reduced, pair_.rank, pairs_.data(), masked_.data(), width, false);
      tiles::drop_panel(masked_.data(), count, width, column, columns, mask);
      tiles::add_row(masked_.data(), count * width, c);
    }
    return c;
  }

 private:
  static void multiply(std::int64_t count, std::int64_t width, std::int64_t k, const BFloat16* a, std::int64_t lda,
                       const BFloat16* b, float* c, std::int64_t ldc, bool add) {
    for (std::int64_t m = 0; m < count; m += tiles::kProductRows) {
      const auto rows = tiles::round_up(std::min(tiles::kProductRows, count - m), kSpareRows);
      tiles::multiply(rows, width, k, a + m * lda, lda, b, c + m * ldc, ldc, add);
    }
  }

  const Mxfp4Tensor& weight_;
  const tiles::PairTensors& pair_;
  Buffer<BFloat16> strip_, pairs_;
  Buffer<float> product_, masked_;
};

/// Scaled grad B of all assignments, [N + kSpareRows, R] bfloat16.
at::Tensor reduce_gradient(const Assignments& assigned, const BFloat16* grad, const tiles::PairTensors& pair) {
  const auto features = pair.b.size(1), rank = pair.rank;
  at::Tensor reduced = at::empty({assigned.tokens.size(0) + kSpareRows, rank}, at::kBFloat16);
  auto* out = reduced.data_ptr<BFloat16>();
  tiles::for_each_task(assigned.num_experts(), [&] {
    return [&, pairs = Buffer<BFloat16>(features * rank),
            product = Buffer<float>(tiles::kProductRows * rank)](std::int64_t e) {
      if (assigned.count(e) == 0) return;
      tiles::pack_row_pairs(pair.b_of(e), rank, features, tiles::even(features), rank, pairs.data());
      for (auto n = assigned.first(e); n < assigned.first(e + 1); n += tiles::kProductRows) {
        const auto rows = std::min(tiles::kProductRows, assigned.first(e + 1) - n);
        tiles::multiply(tiles::round_up(rows, kSpareRows), rank, features, grad + n * features, features, pairs.data(),
                        product.data(), rank, false);
        for (std::int64_t i = 0; i < rows * rank; ++i) out[n * rank + i] = product.data()[i] * pair.scale;
      }
    };
  });
  return reduced;
}

/// One row of a panel: the gradient of h (before the routing weight, `factor`) becomes that of u, in place of u; h
/// itself, rounded, goes to `h`. Returns their inner product, the routing weight's own gradient.
struct ThroughActivation {
  OSSATURE_INLINE static float run(const float* grad_h, float factor, float limit, std::int64_t width, BFloat16* u,
                                   BFloat16* h) {
    using namespace swiglu_math;
    float gate[tiles::kPanelColumns], up[tiles::kPanelColumns];
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) {
      gate[j] = load(u[2 * j]);
      up[j] = load(u[2 * j + 1]);
    }
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j < width; ++j) {
      float grad_gate, grad_up, value;
      gradient(gate[j], up[j], limit, grad_h[j] * factor, grad_gate, grad_up, value);
      sum += grad_h[j] * rounded(value);
      store(value, h + j);
      gate[j] = grad_gate;
      up[j] = grad_up;
    }
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) {
      store(gate[j], u + 2 * j);
      store(up[j], u + 2 * j + 1);
    }
    return sum;
  }
};

struct InnerProduct {
  OSSATURE_INLINE static float run(const BFloat16* a, const float* b, std::int64_t size) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j < size; ++j) sum += vector_math::load(a[j]) * b[j];
    return sum;
  }
};

/// sum[j] += factor * row[j]
struct AddScaled {
  OSSATURE_INLINE static void run(const BFloat16* row, float factor, std::int64_t size, float* sum) {
#pragma omp simd
    for (std::int64_t j = 0; j < size; ++j) sum[j] += factor * vector_math::load(row[j]);
  }
};

std::int64_t panels_of(std::int64_t columns) {
  return (columns + tiles::kPanelColumns - 1) / tiles::kPanelColumns;
}

/// The whole backward pass; its steps are methods in the order in which they run.
class Backward {
 public:
  Backward(const ExpertsPass& pass, const ExpertsKept& kept, const at::Tensor& grad, bool needs_x)
      : pass_(pass),
        kept_(kept),
        assigned_(pass.assigned),
        needs_x_(needs_x),
        hidden_(pass.hidden()),
        inner_(pass.intermediate()),
        gate_up_(pass.gate_up_a, pass.gate_up_b, pass.experts.gate_up_low_rank),
        down_(pass.down_a, pass.down_b, pass.experts.down_low_rank),
        num_assignments_(assigned_.tokens.size(0)),
        grad_(at::empty({num_assignments_ + kSpareRows, hidden_}, grad.options())),
        tokens_(assigned_.tokens.const_data_ptr<std::int64_t>()),
        factors_(pass.factors.const_data_ptr<float>()) {
    at::Tensor rows = grad_.narrow(0, 0, num_assignments_);
    at::index_select_out(rows, grad, 0, assigned_.tokens);
    for (std::int64_t e = 0; e < assigned_.num_experts(); ++e) most_ = std::max(most_, assigned_.count(e));
  }

  ExpertsGradients run() {
    ExpertsGradients result = zero_gradients(pass_, needs_x_);
    at::Tensor down_reduced;
    if (down_.rank > 0) down_reduced = reduce_gradient(assigned_, tiles::data_of(grad_), down_);
    result.factors = through_down(down_reduced, result.down_a);
    if (result.gate_up_bias.defined()) sum_bias(kept_.u, false, result.gate_up_bias);
    if (result.down_bias.defined()) sum_bias(grad_, true, result.down_bias);
    at::Tensor gate_up_reduced;
    if (gate_up_.rank > 0) {
      gate_up_reduced = reduce_gradient(assigned_, tiles::data_of(kept_.u), gate_up_);
      sum_b(gate_up_, kept_.gate_up_reduced, kept_.u, false, result.gate_up_b);
    }
    if (down_.rank > 0) sum_b(down_, kept_.down_reduced, grad_, true, result.down_b);
    if (needs_x_ || gate_up_.rank > 0) through_gate_up(gate_up_reduced, result.x, result.gate_up_a);
    return result;
  }

 private:
  [[nodiscard]] DropoutMask mask_of(const tiles::PairTensors& pair, std::int64_t e, int projection) const {
    return {pair.dropout, expert_key(pass_.dropout, e, projection)};
  }

  /// The scaled grad B of expert `e`; null without a pair.
  [[nodiscard]] const BFloat16* rows_of(const at::Tensor& reduced, const tiles::PairTensors& pair,
                                        std::int64_t e) const {
    return pair.rank > 0 ? tiles::data_of(reduced) + assigned_.first(e) * pair.rank : nullptr;
  }

  /// grad_a [E, r, in] of expert `e`, columns `column` .. `column + width`, from `sum` [R, width].
  static void store_panel(const float* sum, std::int64_t width, std::int64_t e, std::int64_t column,
                          const at::Tensor& grad_a) {
    const auto rank = grad_a.size(1), features = grad_a.size(2);
    for (std::int64_t k = 0; k < rank; ++k) {
      std::copy_n(sum + k * width, width, grad_a.data_ptr<float>() + (e * rank + k) * features + column);
    }
  }

  /// Turns kept.u into its own gradient. Returns the gradient of the routing weights, and adds that of down's A.
  at::Tensor through_down(const at::Tensor& reduced, const at::Tensor& grad_a) const {
    const auto panels = panels_of(inner_);
    const auto rank = down_.rank;
    // <grad, y> = <grad W2, h> + <grad, b2>, so y itself is not needed; a panel's part each.
    at::Tensor parts = at::empty({panels + 1, num_assignments_}, at::kFloat);
    auto* part_values = parts.data_ptr<float>();
    auto* u = kept_.u.data_ptr<BFloat16>();
    const auto limit = static_cast<float>(pass_.swiglu_limit);
    const BFloat16* reduced_values = rank > 0 ? tiles::data_of(reduced) : nullptr;
    const tiles::TokenSums sums(assigned_.offsets, rank, [&](std::int64_t n, std::int64_t k) {
      return static_cast<float>(reduced_values[n * rank + k]) * factors_[n];
    });
    tiles::for_each_task(panels, [&] {
      return [&, product = PanelProduct(pass_.experts.down.packed, down_, most_),
              h = Buffer<BFloat16>(most_ * tiles::kPanelColumns),
              pairs = Buffer<BFloat16>(tiles::kSumTokens * tiles::kPanelColumns),
              sum = Buffer<float>(rank * tiles::kPanelColumns)](std::int64_t panel) {
        const auto column = panel * tiles::kPanelColumns, width = std::min(tiles::kPanelColumns, inner_ - column);
        for (std::int64_t e = 0; e < assigned_.num_experts(); ++e) {
          const auto first = assigned_.first(e), count = assigned_.count(e);
          if (count == 0) continue;
          const DropoutMask mask = mask_of(down_, e, 1);
          const float* c = product.run(e, tiles::data_of(grad_) + first * hidden_, rows_of(reduced, down_, e), mask,
                                       count, column, width);
          for (std::int64_t m = 0; m < count; ++m) {
            const auto n = first + m;
            part_values[panel * num_assignments_ + n] = vector_math::run_fastest<ThroughActivation>(
                c + m * width, factors_[n], limit, width, u + (n * inner_ + column) * 2, h.data() + m * width);
          }
          if (rank == 0) continue;
          if (mask.active()) tiles::drop_panel(h.data(), count, width, column, inner_, mask);
          sums.sum(e, h.data(), width, count, width, pairs.data(), sum.data());
          store_panel(sum.data(), width, e, column, grad_a);
        }
      };
    });
    const at::Tensor bias = pass_.experts.down_bias.to(at::kFloat).contiguous();
    for (std::int64_t e = 0; e < assigned_.num_experts(); ++e) {
      for (auto n = assigned_.first(e); n < assigned_.first(e + 1); ++n) {
        part_values[panels * num_assignments_ + n] = vector_math::run_fastest<InnerProduct>(
            tiles::data_of(grad_) + n * hidden_, bias.const_data_ptr<float>() + e * hidden_, hidden_);
      }
    }
    return parts.sum(0);
  }

  /// grad_b [E, out, r] = scale * grad^T (A input), `grad` [N, out], times the routing weight if `weighted`.
  void sum_b(const tiles::PairTensors& pair, const at::Tensor& reduced, const at::Tensor& grad, bool weighted,
             const at::Tensor& grad_b) const {
    const auto rank = pair.rank, features = grad.size(1);
    const BFloat16* reduced_values = tiles::data_of(reduced);
    const tiles::TokenSums sums(assigned_.offsets, rank, [&](std::int64_t n, std::int64_t k) {
      return static_cast<float>(reduced_values[n * rank + k]) * (weighted ? factors_[n] : 1.0f);
    });
    tiles::for_each_task(panels_of(features), [&] {
      return [&, pairs = Buffer<BFloat16>(tiles::kSumTokens * tiles::kPanelColumns),
              sum = Buffer<float>(rank * tiles::kPanelColumns)](std::int64_t panel) {
        const auto column = panel * tiles::kPanelColumns, width = std::min(tiles::kPanelColumns, features - column);
        for (std::int64_t e = 0; e < assigned_.num_experts(); ++e) {
          if (assigned_.count(e) == 0) continue;
          sums.sum(e, tiles::data_of(grad) + assigned_.first(e) * features + column, features, assigned_.count(e),
                   width, pairs.data(), sum.data());
          const auto r = grad_b.size(2);
          float* out = grad_b.data_ptr<float>() + (e * features + column) * r;
          for (std::int64_t j = 0; j < width; ++j) {
            for (std::int64_t k = 0; k < r; ++k) out[j * r + k] = sum.data()[k * width + j] * pair.scale;
          }
        }
      };
    });
  }

  /// grad_bias [E, out]: the sum of each expert's rows of `grad` [N, out], times the routing weight if `weighted`.
  void sum_bias(const at::Tensor& grad, bool weighted, const at::Tensor& grad_bias) const {
    const auto features = grad.size(1);
    auto* sums = grad_bias.data_ptr<float>();
    tiles::for_each_task(panels_of(features), [&] {
      return [&](std::int64_t panel) {
        const auto column = panel * tiles::kPanelColumns, width = std::min(tiles::kPanelColumns, features - column);
        for (std::int64_t e = 0; e < assigned_.num_experts(); ++e) {
          for (auto n = assigned_.first(e); n < assigned_.first(e + 1); ++n) {
            vector_math::run_fastest<AddScaled>(tiles::data_of(grad) + n * features + column,
                                                weighted ? factors_[n] : 1.0f, width, sums + e * features + column);
          }
        }
      };
    });
  }

  /// From the gradient of u (in kept.u) to those of x and of gate_up's A.
  void through_gate_up(const at::Tensor& reduced, const at::Tensor& grad_x, const at::Tensor& grad_a) const {
    const auto rank = gate_up_.rank;
    const BFloat16* reduced_values = rank > 0 ? tiles::data_of(reduced) : nullptr;
    const tiles::TokenSums sums(assigned_.offsets, rank, [&](std::int64_t n, std::int64_t k) {
      return static_cast<float>(reduced_values[n * rank + k]);
    });
    const auto* x = tiles::data_of(pass_.x);
    tiles::for_each_task(panels_of(hidden_), [&] {
      return [&, product = PanelProduct(pass_.experts.gate_up.packed, gate_up_, needs_x_ ? most_ : 0),
              rows = Buffer<BFloat16>(rank > 0 ? most_ * tiles::kPanelColumns : 0),
              pairs = Buffer<BFloat16>(tiles::kSumTokens * tiles::kPanelColumns),
              sum = Buffer<float>(rank * tiles::kPanelColumns)](std::int64_t panel) {
        const auto column = panel * tiles::kPanelColumns, width = std::min(tiles::kPanelColumns, hidden_ - column);
        for (std::int64_t e = 0; e < assigned_.num_experts(); ++e) {
          const auto first = assigned_.first(e), count = assigned_.count(e);
          if (count == 0) continue;
          const DropoutMask mask = mask_of(gate_up_, e, 0);
          if (needs_x_) {
            const float* c = product.run(e, tiles::data_of(kept_.u) + first * 2 * inner_, rows_of(reduced, gate_up_, e),
                                         mask, count, column, width);
            for (std::int64_t m = 0; m < count; ++m) {
              tiles::add_row(c + m * width, width, grad_x.data_ptr<float>() + tokens_[first + m] * hidden_ + column);
            }
          }
          if (rank == 0) continue;
          for (std::int64_t m = 0; m < count; ++m) {
            std::copy_n(x + tokens_[first + m] * hidden_ + column, width, rows.data() + m * width);
          }
          if (mask.active()) tiles::drop_panel(rows.data(), count, width, column, hidden_, mask);
          sums.sum(e, rows.data(), width, count, width, pairs.data(), sum.data());
          store_panel(sum.data(), width, e, column, grad_a);
        }
      };
    });
  }

  const ExpertsPass& pass_;
  const ExpertsKept& kept_;
  const Assignments& assigned_;
  bool needs_x_;
  std::int64_t hidden_, inner_;
  tiles::PairTensors gate_up_, down_;
  std::int64_t num_assignments_, most_ = 0;
  at::Tensor grad_;  // [N + kSpareRows, H]
  const std::int64_t* tokens_;
  const float* factors_;
};

}  // namespace

ExpertsGradients tiled_backward(const ExpertsPass& pass, const ExpertsKept& kept, const at::Tensor& grad,
                                bool needs_x) {
  return Backward(pass, kept, grad, needs_x).run();
}

}  // namespace ossature
