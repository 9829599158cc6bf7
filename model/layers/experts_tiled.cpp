#include <vector>

#include "model/layers/experts_kernels.h"
#include "model/layers/swiglu_math.h"
#include "model/layers/tiled_parts.h"

namespace ossature {
namespace {

using tiles::BFloat16;
using tiles::Buffer;

/// Up to token_block() assignments of one expert, packed together.
struct Block {
  std::int64_t expert;
  std::int64_t first;   // assignment
  std::int64_t count;   // assignments
  std::int64_t width;   // columns of the packed operand
  std::int64_t column;  // columns of all blocks before
};

std::vector<Block> blocks_of(const Assignments& assigned) {
  std::vector<Block> blocks;
  std::int64_t column = 0;
  for (std::int64_t e = 0; e < assigned.num_experts(); ++e) {
    for (auto first = assigned.first(e); first < assigned.first(e + 1); first += tiles::token_block()) {
      const auto count = std::min(tiles::token_block(), assigned.first(e + 1) - first);
      const auto width = tiles::round_up(count, tiles::kBlockUnit);
      blocks.push_back({e, first, count, width, column});
      column += width;
    }
  }
  return blocks;
}

/// c [rows, width] + bias: gate and up rows alternate, rows a multiple of 4. Activations as the [rows / 2, width]
/// operand of the next product, in pairs order. u is rounded to bfloat16 first, as it is kept.
struct Activate {
  OSSATURE_INLINE static void run(const float* c, const float* bias, std::int64_t rows, std::int64_t width, float limit,
                                  BFloat16* out) {
    using namespace swiglu_math;
    auto* pairs = reinterpret_cast<std::uint32_t*>(out);
    for (std::int64_t row = 0; row < rows; row += 4, pairs += width) {
      const float* u = c + row * width;
#pragma omp simd
      for (std::int64_t t = 0; t < width; ++t) {
        const float first = activation(rounded(u[t] + bias[row]), rounded(u[width + t] + bias[row + 1]), limit);
        const float second =
            activation(rounded(u[2 * width + t] + bias[row + 2]), rounded(u[3 * width + t] + bias[row + 3]), limit);
        pairs[t] = rounded_bits(first) >> 16 | rounded_bits(second);
      }
    }
  }
};

/// A packed operand [features, width] of assignments whose rows in their expert begin at `row`, with the mask applied.
void drop(const BFloat16* packed, std::int64_t features, std::int64_t width, std::int64_t row, const DropoutMask& mask,
          BFloat16* out) {
  for (std::int64_t k = 0; k < features; ++k) {
    for (std::int64_t t = 0; t < width; ++t) {
      const auto place = (k / 2 * width + t) * 2 + k % 2;
      out[place] =
          static_cast<float>(packed[place]) * mask.factor(static_cast<std::uint64_t>((row + t) * features + k));
    }
  }
}

/// A pair's inner products A x for the tokens of a block.
class Reduction {
 public:
  /// `packed`: the rank made even x columns of all blocks, in pairs order by block, times the pair's scale. `kept`
  /// [N, R], may be null.
  Reduction(const tiles::PairTensors& pair, std::int64_t features, const ExpertsPass& pass, int projection,
            BFloat16* packed, BFloat16* kept)
      : pair_(pair),
        features_(features),
        pass_(pass),
        projection_(projection),
        packed_(packed),
        kept_(kept),
        product_(pair.rank * tiles::token_block()),
        dropped_(pair.dropout != 0.0 ? features * tiles::token_block() : 0) {}

  /// `input` [features, width] in pairs order.
  void run(const Block& block, const BFloat16* input) const {
    const auto rank = pair_.rank, width = block.width;
    const auto row = block.first - pass_.assigned.first(block.expert);
    const DropoutMask mask(pair_.dropout, expert_key(pass_.dropout, block.expert, projection_));
    if (mask.active()) {
      drop(input, features_, width, row, mask, dropped_.data());
      input = dropped_.data();
    }
    tiles::multiply(rank, width, features_, pair_.a_of(block.expert), features_, input, product_.data(), width, false);
    for (std::int64_t k = 0; k < rank; ++k) {
      for (std::int64_t t = 0; t < width; ++t) {
        const float value = product_.data()[k * width + t];
        packed_[block.column * rank + (k / 2 * width + t) * 2 + k % 2] = value * pair_.scale;
        if (kept_ != nullptr && t < block.count) kept_[(block.first + t) * rank + k] = value;
      }
    }
  }

 private:
  const tiles::PairTensors& pair_;
  std::int64_t features_;
  const ExpertsPass& pass_;
  int projection_;
  BFloat16* packed_;
  BFloat16* kept_;
  Buffer<float> product_;
  Buffer<BFloat16> dropped_;
};

/// The products of all blocks with rows `row` .. `row + rows` of a weight of every expert, `use(block, c)` of each.
class TileProducts {
 public:
  TileProducts(const Mxfp4Tensor& weight, const tiles::PairTensors& pair, const std::vector<Block>& blocks,
               const BFloat16* input, const BFloat16* reduced)
      : weight_(weight),
        pair_(pair),
        blocks_(blocks),
        input_(input),
        reduced_(reduced),
        tile_(tiles::kWeightRows * weight.in_features()),
        product_(tiles::kWeightRows * tiles::token_block()) {}

  template <typename Use>
  void run(std::int64_t row, std::int64_t rows, const Use& use) const {
    const auto features = weight_.in_features();
    std::int64_t decoded = -1;
    for (const Block& block : blocks_) {
      if (decoded != block.expert) {
        decoded = block.expert;
        const tiles::PackedExpert expert(weight_, decoded);
        mxfp4_decode_rows(expert.blocks, expert.scales, row, rows, expert.num_blocks,
                          reinterpret_cast<std::uint16_t*>(tile_.data()));
      }
      const auto width = block.width;
      tiles::multiply(rows, width, features, tile_.data(), features, input_ + block.column * features, product_.data(),
                      width, false);
      if (pair_.rank > 0) {
        tiles::multiply(rows, width, pair_.rank, pair_.b_of(block.expert) + row * pair_.rank, pair_.rank,
                        reduced_ + block.column * pair_.rank, product_.data(), width, true);
      }
      use(block, product_.data());
    }
  }

 private:
  const Mxfp4Tensor& weight_;
  const tiles::PairTensors& pair_;
  const std::vector<Block>& blocks_;
  const BFloat16* input_;
  const BFloat16* reduced_;
  Buffer<BFloat16> tile_;
  Buffer<float> product_;
};

}  // namespace

bool takes_tiles(const Experts& experts, const at::Tensor& x) {
  return x.device().is_cpu() && x.scalar_type() == at::kBFloat16 && experts.gate_up.is_packed() &&
         experts.down.is_packed();
}

at::Tensor tiled_forward(const ExpertsPass& pass, bool needs_output, ExpertsKept* kept) {
  const auto hidden = pass.hidden(), inner = pass.intermediate();
  const auto num_assignments = pass.assigned.tokens.size(0);
  const std::vector<Block> blocks = blocks_of(pass.assigned);
  const auto columns = blocks.empty() ? 0 : blocks.back().column + blocks.back().width;
  const tiles::PairTensors gate_up(pass.gate_up_a, pass.gate_up_b, pass.experts.gate_up_low_rank);
  const tiles::PairTensors down(pass.down_a, pass.down_b, pass.experts.down_low_rank);
  const at::Tensor gate_up_bias = pass.experts.gate_up_bias.to(at::kFloat).contiguous();
  const at::Tensor down_bias = pass.experts.down_bias.to(at::kFloat).contiguous();
  const auto limit = static_cast<float>(pass.swiglu_limit);

  BFloat16 *u = nullptr, *gate_up_kept = nullptr, *down_kept = nullptr;
  if (kept != nullptr) {
    kept->u = at::empty({num_assignments + kSpareRows, 2 * inner}, pass.x.options());
    u = kept->u.data_ptr<BFloat16>();
    const auto keep = [&](const tiles::PairTensors& pair, at::Tensor& to) -> BFloat16* {
      if (pair.rank == 0) return nullptr;
      to = at::empty({num_assignments, pair.rank}, pass.x.options());
      return to.data_ptr<BFloat16>();
    };
    gate_up_kept = keep(gate_up, kept->gate_up_reduced);
    down_kept = keep(down, kept->down_reduced);
  }
  const Buffer<BFloat16> packed_x(columns * hidden), packed_h(columns * inner);
  const Buffer<BFloat16> gate_up_reduced(columns * gate_up.rank), down_reduced(columns * down.rank);
  const auto num_blocks = static_cast<std::int64_t>(blocks.size());
  const auto* x = tiles::data_of(pass.x);
  const auto* tokens = pass.assigned.tokens.const_data_ptr<std::int64_t>();

  tiles::for_each_task(num_blocks, [&] {
    return [&, reduction = Reduction(gate_up, hidden, pass, 0, gate_up_reduced.data(), gate_up_kept)](std::int64_t n) {
      const Block& block = blocks[static_cast<std::size_t>(n)];
      const BFloat16* rows[tiles::kMaxTokenBlock];
      for (std::int64_t t = 0; t < block.count; ++t) rows[t] = x + tokens[block.first + t] * hidden;
      BFloat16* packed = packed_x.data() + block.column * hidden;
      tiles::pack_tokens(rows, block.count, hidden, block.width, packed);
      if (gate_up.rank > 0) reduction.run(block, packed);
    };
  });

  const auto tiles_of = [](std::int64_t rows) { return (rows + tiles::kWeightRows - 1) / tiles::kWeightRows; };
  tiles::for_each_task(tiles_of(2 * inner), [&] {
    return [&, products = TileProducts(pass.experts.gate_up.packed, gate_up, blocks, packed_x.data(),
                                       gate_up_reduced.data())](std::int64_t n) {
      const auto row = n * tiles::kWeightRows, rows = std::min(tiles::kWeightRows, 2 * inner - row);
      products.run(row, rows, [&](const Block& block, const float* c) {
        const float* bias = gate_up_bias.const_data_ptr<float>() + block.expert * 2 * inner + row;
        vector_math::run_fastest<Activate>(c, bias, rows, block.width, limit,
                                           packed_h.data() + block.column * inner + row / 2 * block.width);
        for (std::int64_t i = 0; u != nullptr && i < rows; i += 16) {
          for (std::int64_t t = 0; t < block.count; t += 16) {
            tiles::store_transposed(c + i * block.width + t, block.width, bias + i,
                                    std::min<std::int64_t>(16, block.count - t),
                                    u + (block.first + t) * 2 * inner + row + i, 2 * inner);
          }
        }
      });
    };
  });

  if (down.rank > 0) {
    tiles::for_each_task(num_blocks, [&] {
      return [&, reduction = Reduction(down, inner, pass, 1, down_reduced.data(), down_kept)](std::int64_t n) {
        const Block& block = blocks[static_cast<std::size_t>(n)];
        reduction.run(block, packed_h.data() + block.column * inner);
      };
    });
  }

  at::Tensor out = at::zeros(pass.x.sizes(), pass.x.options().dtype(at::kFloat));
  if (!needs_output) return out;
  auto* sums = out.data_ptr<float>();
  const auto* factors = pass.factors.const_data_ptr<float>();
  tiles::for_each_task(tiles_of(hidden), [&] {
    return [&, products = TileProducts(pass.experts.down.packed, down, blocks, packed_h.data(), down_reduced.data())](
               std::int64_t n) {
      const auto row = n * tiles::kWeightRows, rows = std::min(tiles::kWeightRows, hidden - row);
      products.run(row, rows, [&](const Block& block, const float* c) {
        const float* bias = down_bias.const_data_ptr<float>() + block.expert * hidden + row;
        for (std::int64_t t = 0; t < block.count; t += 16) {
          const auto present = std::min<std::int64_t>(16, block.count - t);
          for (std::int64_t i = 0; i < rows; i += 16) {
            float* to[16];
            for (std::int64_t j = 0; j < present; ++j) to[j] = sums + tokens[block.first + t + j] * hidden + row + i;
            tiles::add_transposed(c + i * block.width + t, block.width, bias + i, present, factors + block.first + t,
                                  to);
          }
        }
      });
    };
  });
  return out;
}

}  // namespace ossature
