#include "model/layers/linear_tiled.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/layers/tiled_parts.h"

namespace ossature {
namespace {

using tiles::BFloat16;
using tiles::Buffer;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Tokens packed at once, and those of one task of the gradient: its float32 sums share a second-level cache with a
/// panel of the weight.
constexpr std::int64_t kPackedTokens = 4096;
constexpr std::int64_t kTaskTokens = 512;
/// Rows of one product.
constexpr std::int64_t kRows = 128;
/// The narrowest block that pays.
constexpr std::int64_t kFewestTokens = tiles::kBlockUnit;

/// What a pair adds to a product with tokens; all null without one.
struct PairTerm {
  const BFloat16* values = nullptr;  // of each token, [T, R], scaled
  const BFloat16* weight = nullptr;  // forward: B [O, R]; backward: A [R, I]
  std::int64_t rank = 0;
};

/// Columns of a panel: wide enough for fast products, and such that no thread has much less to do than another.
std::int64_t panel_width(std::int64_t features, std::int64_t token_groups) {
  const std::int64_t threads = at::get_num_threads();
  std::int64_t best = 32;
  double best_share = 0.0;
  for (std::int64_t width = 192; width >= 32; width -= 32) {
    const auto tasks = (features + width - 1) / width * token_groups;
    const auto rounds = (tasks + threads - 1) / threads;
    const double busy = static_cast<double>(features * token_groups) / static_cast<double>(rounds * threads * width);
    const double share = busy * (1.0 - 6.0 / static_cast<double>(width));  // what a panel costs besides its products
    if (share > best_share) {
      best_share = share;
      best = width;
    }
  }
  return best;
}

/// out [T, O] = x W^T + bias, and the pair's term.
void product(const BFloat16* x, std::int64_t num_tokens, const at::Tensor& weight, const float* bias,
             const PairTerm& pair, BFloat16* out) {
  const auto outputs = weight.size(0), inputs = weight.size(1);
  const auto block_size = tiles::token_block();
  const auto num_blocks = (num_tokens + block_size - 1) / block_size;
  const Buffer<BFloat16> packed(num_blocks * block_size * inputs);
  const Buffer<BFloat16> packed_pair(num_blocks * block_size * pair.rank);
  const auto count_of = [&](std::int64_t block) { return std::min(block_size, num_tokens - block * block_size); };
  const auto width_of = [&](std::int64_t block) { return tiles::round_up(count_of(block), tiles::kBlockUnit); };
  tiles::for_each_task(num_blocks, [&] {
    return [&](std::int64_t block) {
      const auto first = block * block_size, count = count_of(block);
      const BFloat16* rows[tiles::kMaxTokenBlock];
      const auto pack = [&](const BFloat16* values, std::int64_t features, BFloat16* to) {
        for (std::int64_t t = 0; t < count; ++t) rows[t] = values + (first + t) * features;
        tiles::pack_tokens(rows, count, features, width_of(block), to + first * features);
      };
      pack(x, inputs, packed.data());
      if (pair.rank > 0) pack(pair.values, pair.rank, packed_pair.data());
    };
  });
  const std::vector<float> zeros(bias == nullptr ? tiles::kWeightRows : 0);
  const auto* rows = tiles::data_of(weight);
  tiles::for_each_task((outputs + tiles::kWeightRows - 1) / tiles::kWeightRows, [&] {
    return [&, c = Buffer<float>(tiles::kWeightRows * block_size)](std::int64_t tile) {
      const auto row = tile * tiles::kWeightRows, num_rows = std::min(tiles::kWeightRows, outputs - row);
      const float* tile_bias = bias == nullptr ? zeros.data() : bias + row;
      for (std::int64_t block = 0; block < num_blocks; ++block) {
        const auto first = block * block_size, width = width_of(block);
        tiles::multiply(num_rows, width, inputs, rows + row * inputs, inputs, packed.data() + first * inputs, c.data(),
                        width, false);
        if (pair.rank > 0) {
          tiles::multiply(num_rows, width, pair.rank, pair.weight + row * pair.rank, pair.rank,
                          packed_pair.data() + first * pair.rank, c.data(), width, true);
        }
        for (std::int64_t t = 0; t < count_of(block); t += 16) {
          for (std::int64_t i = 0; i < num_rows; i += 16) {
            tiles::store_transposed(c.data() + i * width + t, width, tile_bias + i,
                                    std::min<std::int64_t>(16, count_of(block) - t),
                                    out + (first + t) * outputs + row + i, outputs);
          }
        }
      }
    };
  });
}

void product_in_chunks(const at::Tensor& x, const at::Tensor& weight, const float* bias, PairTerm pair,
                       const at::Tensor& out) {
  const auto num_tokens = x.size(0);
  for (std::int64_t first = 0; first < num_tokens; first += kPackedTokens) {
    product(tiles::data_of(x) + first * x.size(1), std::min(kPackedTokens, num_tokens - first), weight, bias, pair,
            out.data_ptr<BFloat16>() + first * out.size(1));
    if (pair.rank > 0) pair.values += kPackedTokens * pair.rank;
  }
}

/// c [count, width] (+)= a [count, k] b; b in pairs order.
void multiply_rows(std::int64_t count, std::int64_t width, std::int64_t k, const BFloat16* a, std::int64_t lda,
                   const BFloat16* b, float* c, std::int64_t ldc, bool add) {
  for (std::int64_t m = 0; m < count; m += kRows) {
    tiles::multiply(std::min(kRows, count - m), width, k, a + m * lda, lda, b, c + m * ldc, ldc, add);
  }
}

/// out [T, I] = grad [T, O] W + mask * (pair's values times A).
void gradient(const at::Tensor& grad, const at::Tensor& weight, const PairTerm& pair, const DropoutMask& mask,
              const at::Tensor& out) {
  const auto num_tokens = grad.size(0), outputs = weight.size(0), inputs = weight.size(1);
  const auto groups = (num_tokens + kTaskTokens - 1) / kTaskTokens;
  const auto group_size = tiles::round_up((num_tokens + groups - 1) / groups, 16);
  const auto width = panel_width(inputs, groups), panels = (inputs + width - 1) / width;
  tiles::for_each_task(panels * groups, [&] {
    return [&, pairs = Buffer<BFloat16>(std::max(tiles::kPanelRows * tiles::kStripColumns, pair.rank * width)),
            c = Buffer<float>(group_size * width),
            masked = Buffer<float>(mask.active() ? group_size * width : 0)](std::int64_t task) {
      const auto column = task / groups * width, columns = std::min(width, inputs - column);
      const auto first = task % groups * group_size, count = std::min(group_size, num_tokens - first);
      for (std::int64_t row = 0; row < outputs; row += tiles::kPanelRows) {
        const auto rows = std::min(tiles::kPanelRows, outputs - row);
        for (std::int64_t j = 0; j < columns; j += tiles::kStripColumns) {
          const auto width_here = std::min(tiles::kStripColumns, columns - j);
          tiles::pack_row_pairs(tiles::data_of(weight) + row * inputs + column + j, inputs, rows, rows, width_here,
                                pairs.data());
          multiply_rows(count, width_here, rows, tiles::data_of(grad) + first * outputs + row, outputs, pairs.data(),
                        c.data() + j, columns, row > 0);
        }
      }
      if (pair.rank > 0) {
        tiles::pack_row_pairs(pair.weight + column, inputs, pair.rank, pair.rank, columns, pairs.data());
        float* sum = mask.active() ? masked.data() : c.data();
        multiply_rows(count, columns, pair.rank, pair.values + first * pair.rank, pair.rank, pairs.data(), sum, columns,
                      !mask.active());
        if (mask.active()) {
          tiles::drop_panel(masked.data(), count, columns, first * inputs + column, inputs, mask);
          tiles::add_row(masked.data(), count * columns, c.data());
        }
      }
      for (std::int64_t t = 0; t < count; ++t) {
        tiles::round_row(c.data() + t * columns, columns, out.data_ptr<BFloat16>() + (first + t) * inputs + column);
      }
    };
  });
}

/// values [T, K] times right [K, R] in pairs order: rounded in `plain`, and times `scale` in `scaled`, both [T, R].
void reduce(const at::Tensor& values, const BFloat16* right, std::int64_t rank, float scale, BFloat16* plain,
            BFloat16* scaled) {
  const auto num_tokens = values.size(0), features = values.size(1);
  tiles::for_each_task((num_tokens + kRows - 1) / kRows, [&] {
    return [&, c = Buffer<float>(kRows * rank)](std::int64_t task) {
      const auto first = task * kRows, count = std::min(kRows, num_tokens - first);
      tiles::multiply(count, rank, features, tiles::data_of(values) + first * features, features, right, c.data(), rank,
                      false);
      for (std::int64_t i = 0; i < count * rank; ++i) {
        if (plain != nullptr) plain[first * rank + i] = c.data()[i];
        scaled[first * rank + i] = c.data()[i] * scale;
      }
    };
  });
}

/// sums [R, K] = coefficients^T values, values [T, K]; `store(column, columns, sums of the panel)`.
template <typename Store>
void sum_over_tokens(const at::Tensor& coefficients, const at::Tensor& values, const Store& store) {
  const auto num_tokens = values.size(0), features = values.size(1), rank = coefficients.size(1);
  const auto* factors = tiles::data_of(coefficients);
  const tiles::TokenSums sums(
      {0, num_tokens}, rank, [&](std::int64_t n, std::int64_t k) { return static_cast<float>(factors[n * rank + k]); });
  tiles::for_each_task((features + tiles::kPanelColumns - 1) / tiles::kPanelColumns, [&] {
    return [&, pairs = Buffer<BFloat16>(tiles::kSumTokens * tiles::kPanelColumns),
            sum = Buffer<float>(rank * tiles::kPanelColumns)](std::int64_t panel) {
      const auto column = panel * tiles::kPanelColumns, columns = std::min(tiles::kPanelColumns, features - column);
      sums.sum(0, tiles::data_of(values) + column, features, num_tokens, columns, pairs.data(), sum.data());
      store(column, columns, sum.data());
    };
  });
}

tiles::PairTensors pair_tensors(const at::Tensor& a, const at::Tensor& b, const LowRank& pair) {
  if (!a.defined()) return {{}, {}, pair};
  return {a.unsqueeze(0), b.unsqueeze(0), pair};
}

class TiledLinear : public torch::autograd::Function<TiledLinear> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_any, at::TensorList ab, const Linear* linear,
                            DropoutKey* key) {
    const at::Tensor x = x_any.contiguous();
    const tiles::PairTensors pair =
        ab.empty() ? pair_tensors({}, {}, linear->low_rank) : pair_tensors(ab[0], ab[1], linear->low_rank);
    const auto num_tokens = x.size(0), inputs = x.size(1);
    PairTerm term;
    at::Tensor reduced, scaled;
    if (pair.rank > 0) {
      const at::Tensor input = dropout(x, pair.dropout, *key);
      const Buffer<BFloat16> right(inputs * pair.rank);
      pack_transposed(pair.a_of(0), pair.rank, inputs, right.data());
      reduced = at::empty({num_tokens, pair.rank}, x.options());
      scaled = at::empty_like(reduced);
      reduce(input, right.data(), pair.rank, pair.scale, reduced.data_ptr<BFloat16>(), scaled.data_ptr<BFloat16>());
      term = {tiles::data_of(scaled), pair.b_of(0), pair.rank};
    }
    const at::Tensor bias = linear->bias.defined() ? linear->bias.to(at::kFloat).contiguous() : at::Tensor();
    at::Tensor out = at::empty({num_tokens, linear->weight.size(0)}, x.options());
    product_in_chunks(x, linear->weight, bias.defined() ? bias.const_data_ptr<float>() : nullptr, term, out);
    if (pair.rank > 0) context->save_for_backward({x, reduced, ab[0], ab[1]});
    context->saved_data["linear"] = reinterpret_cast<std::int64_t>(linear);
    context->saved_data["seed"] = static_cast<std::int64_t>(key->seed);
    context->saved_data["place"] = static_cast<std::int64_t>(key->place);
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto* linear = reinterpret_cast<const Linear*>(context->saved_data["linear"].toInt());
    const DropoutKey key{static_cast<std::uint64_t>(context->saved_data["seed"].toInt()),
                         static_cast<std::uint64_t>(context->saved_data["place"].toInt())};
    const at::Tensor grad = grads[0].to(at::kBFloat16).contiguous();
    const bool has_pair = !saved.empty();
    const tiles::PairTensors pair =
        has_pair ? pair_tensors(saved[2], saved[3], linear->low_rank) : pair_tensors({}, {}, linear->low_rank);
    const DropoutMask mask(pair.dropout, key);
    variable_list result(1);
    PairTerm term;
    at::Tensor reduced_grad;
    if (has_pair) {
      const at::Tensor &x = saved[0], &reduced = saved[1];
      const auto outputs = grad.size(1), rank = pair.rank, r = saved[2].size(0);
      const Buffer<BFloat16> right(tiles::round_up(outputs, 2) * rank);
      tiles::pack_row_pairs(pair.b_of(0), rank, outputs, tiles::round_up(outputs, 2), rank, right.data());
      reduced_grad = at::empty({grad.size(0), rank}, grad.options());
      reduce(grad, right.data(), rank, pair.scale, nullptr, reduced_grad.data_ptr<BFloat16>());
      term = {tiles::data_of(reduced_grad), pair.a_of(0), rank};
      at::Tensor grad_a = at::empty(saved[2].sizes(), at::kFloat), grad_b = at::empty(saved[3].sizes(), at::kFloat);
      sum_over_tokens(reduced_grad, dropout(x, pair.dropout, key),
                      [&](std::int64_t column, std::int64_t columns, const float* sums) {
                        for (std::int64_t k = 0; k < r; ++k) {
                          std::copy_n(sums + k * columns, columns, grad_a.data_ptr<float>() + k * x.size(1) + column);
                        }
                      });
      sum_over_tokens(reduced, grad, [&](std::int64_t column, std::int64_t columns, const float* sums) {
        for (std::int64_t j = 0; j < columns; ++j) {
          for (std::int64_t k = 0; k < r; ++k) {
            grad_b.data_ptr<float>()[(column + j) * r + k] = sums[k * columns + j] * pair.scale;
          }
        }
      });
      result.insert(result.end(), {grad_a, grad_b});
    }
    if (context->needs_input_grad(0)) {
      result[0] = at::empty({grad.size(0), linear->weight.size(1)}, grad.options());
      gradient(grad, linear->weight, term, mask, result[0]);
    }
    result.resize(result.size() + 2);  // linear, key
    return result;
  }

 private:
  /// a [R, I], R even, as the [I, R] operand in pairs order.
  static void pack_transposed(const BFloat16* a, std::int64_t rank, std::int64_t inputs, BFloat16* out) {
    auto* pairs = reinterpret_cast<std::uint32_t*>(out);
    for (std::int64_t k = 0; k < rank; ++k) {
      const auto* row = reinterpret_cast<const std::uint32_t*>(a + k * inputs);
      for (std::int64_t i = 0; i < inputs / 2; ++i) pairs[i * rank + k] = row[i];
    }
  }
};

}  // namespace

bool takes_tiles(const at::Tensor& weight, const at::Tensor& x) {
  return x.device().is_cpu() && x.scalar_type() == at::kBFloat16 && weight.scalar_type() == at::kBFloat16 &&
         weight.is_contiguous() && !weight.requires_grad() && weight.size(0) % 16 == 0 && weight.size(1) % 32 == 0 &&
         x.size(0) >= kFewestTokens;
}

void tiled_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& out) {
  product_in_chunks(x, weight, nullptr, {}, out);
}

void tiled_gradient(const at::Tensor& grad, const at::Tensor& weight, const at::Tensor& out) {
  gradient(grad, weight, {}, DropoutMask(0.0, {}), out);
}

at::Tensor tiled_apply(const Linear& linear, const at::Tensor& x, DropoutKey key) {
  std::vector<at::Tensor> pair;
  if (linear.low_rank.defined()) pair = {linear.low_rank.a, linear.low_rank.b};
  return TiledLinear::apply(x, at::TensorList(pair), &linear, &key);
}

}  // namespace ossature
