#include "model/export/input_moments.h"

#include <algorithm>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/native/CPUBlas.h>

namespace ossature {
namespace {

constexpr std::int64_t kTile = 480;   // rows and columns of a task of the second moment, at most
constexpr std::int64_t kChunk = 256;  // tokens of a product
constexpr std::int64_t kStep = 32;    // to a multiple of which they are filled up with zeros: few shapes of products
constexpr std::size_t kPackedChunks = 32;  // packed at once, unless a single expert has more

/// Tokens of one expert, at most kChunk.
struct Chunk {
  std::int64_t first, count;
};

}  // namespace

/// Scaled tokens chunk by chunk, as rows [kChunk, I] and as columns [I, kChunk], zeros past the chunk's tokens.
struct MomentSums::Packed {
  std::vector<Chunk> chunks;             // of several experts
  std::vector<std::size_t> first_chunk;  // of each of them, and the number of all
  at::Tensor rows, columns;

  Packed(const at::Tensor& tokens, const at::Tensor& p, std::vector<Chunk> of, std::vector<std::size_t> first_of)
      : chunks(std::move(of)), first_chunk(std::move(first_of)) {
    const auto number = static_cast<std::int64_t>(chunks.size()), features = tokens.size(1);
    rows = at::empty({number, kChunk, features}, at::kFloat);
    columns = at::empty({number, features, kChunk}, at::kFloat);
    at::parallel_for(0, number, 1, [&](std::int64_t begin, std::int64_t end) {
      at::NoGradGuard no_grad;
      for (auto i = begin; i < end; ++i) {
        const auto [first, count] = chunks[static_cast<std::size_t>(i)];
        at::Tensor chunk = rows[i];
        chunk.narrow(0, count, kChunk - count).zero_();
        chunk.narrow(0, 0, count).copy_(tokens.narrow(0, first, count)).mul_(p.narrow(0, first, count).unsqueeze(1));
        columns[i].copy_(chunk.t());
      }
    });
  }
};

MomentSums::MomentSums(std::int64_t num_experts, std::int64_t features)
    : features_(features),
      tile_(std::min(kTile, features)),
      sums_(at::zeros({num_experts, features}, at::kDouble)),
      weights_(static_cast<std::size_t>(num_experts)),
      counts_(static_cast<std::size_t>(num_experts)) {
  for (std::int64_t row = 0; row < features; row += tile_) {
    for (auto column = row; column < features; column += tile_) tiles_.emplace_back(row, column);
  }
  squares_ = at::zeros({num_experts, static_cast<std::int64_t>(tiles_.size()), tile_, tile_}, at::kFloat);
}

void MomentSums::add(const at::Tensor& rows, const at::Tensor& p, const Assignments& assigned) {
  at::NoGradGuard no_grad;
  pooled_.reset();
  const auto num_experts = assigned.num_experts();
  for (std::int64_t first = 0; first < num_experts;) {
    std::vector<Chunk> chunks;
    std::vector<std::size_t> first_chunk{0};  // of each of these experts
    auto end = first;
    for (; end < num_experts; ++end) {
      const auto number = static_cast<std::size_t>((assigned.count(end) + kChunk - 1) / kChunk);
      if (end > first && chunks.size() + number > kPackedChunks) break;
      const auto last = assigned.first(end) + assigned.count(end);
      for (auto n = assigned.first(end); n < last; n += kChunk) chunks.push_back({n, std::min(kChunk, last - n)});
      first_chunk.push_back(chunks.size());
    }
    if (!chunks.empty()) add_experts(first, Packed(rows, p, std::move(chunks), std::move(first_chunk)), p);
    first = end;
  }
  for (std::int64_t e = 0; e < num_experts; ++e) counts_[static_cast<std::size_t>(e)] += assigned.count(e);
}

void MomentSums::add_experts(std::int64_t first_expert, const Packed& packed, const at::Tensor& p) {
  const float* by_token = packed.rows.const_data_ptr<float>();
  const float* by_feature = packed.columns.const_data_ptr<float>();
  const float* factors = p.const_data_ptr<float>();
  const auto num_experts = static_cast<std::int64_t>(packed.first_chunk.size()) - 1;
  const auto num_tiles = static_cast<std::int64_t>(tiles_.size());
  auto* squares = squares_.data_ptr<float>() + first_expert * num_tiles * tile_ * tile_;
  auto* sums = sums_.data_ptr<double>() + first_expert * features_;
  at::parallel_for(0, num_experts * num_tiles, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto task = begin; task < end; ++task) {
      const auto [row, column] = tiles_[static_cast<std::size_t>(task % num_tiles)];
      const auto height = std::min(tile_, features_ - row), width = std::min(tile_, features_ - column);
      const auto e = static_cast<std::size_t>(task / num_tiles);
      for (auto i = packed.first_chunk[e]; i < packed.first_chunk[e + 1]; ++i) {
        const auto offset = static_cast<std::int64_t>(i) * kChunk * features_;
        const auto depth = (packed.chunks[i].count + kStep - 1) / kStep * kStep;
        at::native::cpublas::brgemm(height, width, depth, kChunk, features_, tile_, /*add_C=*/true,
                                    by_feature + offset + row * kChunk, by_token + offset + column,
                                    squares + task * tile_ * tile_,
                                    /*is_vnni=*/false);
      }
    }
  });
  at::parallel_for(0, num_experts, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto e = begin; e < end; ++e) {
      double* sum = sums + e * features_;
      for (auto i = packed.first_chunk[static_cast<std::size_t>(e)];
           i < packed.first_chunk[static_cast<std::size_t>(e) + 1]; ++i) {
        const auto [first, count] = packed.chunks[i];
        for (std::int64_t n = 0; n < count; ++n) {
          const float* token = by_token + (static_cast<std::int64_t>(i) * kChunk + n) * features_;
          const double factor = factors[first + n];
          for (std::int64_t j = 0; j < features_; ++j) sum[j] += factor * token[j];
          weights_[static_cast<std::size_t>(first_expert + e)] += factor * factor;
        }
      }
    }
  });
}

InputMoments MomentSums::own(std::int64_t e) const {
  const double weight = weights_[static_cast<std::size_t>(e)];
  if (weight == 0.0) return {at::zeros({features_, features_}), at::zeros({features_})};
  const at::Tensor mean = sums_[e] / weight;
  at::Tensor covariance = at::empty({features_, features_});
  for (std::size_t i = 0; i < tiles_.size(); ++i) {
    const auto [row, column] = tiles_[i];
    const auto height = std::min(tile_, features_ - row), width = std::min(tile_, features_ - column);
    at::Tensor square = squares_[e][static_cast<std::int64_t>(i)].narrow(0, 0, height).narrow(1, 0, width);
    if (row == column) square = at::triu(square) + at::triu(square, 1).t();  // to the last bit symmetric
    covariance.narrow(0, row, height).narrow(1, column, width).copy_(square);
    if (row != column) covariance.narrow(0, column, width).narrow(1, row, height).copy_(square.t());
  }
  covariance.div_(weight);
  const at::Tensor narrow = mean.to(at::kFloat);
  covariance.sub_(at::outer(narrow, narrow));
  return {covariance, narrow};
}

InputMoments MomentSums::moments(std::int64_t e) {
  at::NoGradGuard no_grad;
  if (!pooled_.defined()) {
    pooled_ = at::zeros({features_, features_});
    double total = 0.0;
    for (const double weight : weights_) total += weight;
    for (std::size_t i = 0; i < weights_.size() && total > 0.0; ++i) {
      if (weights_[i] == 0.0) continue;
      pooled_.add_(own(static_cast<std::int64_t>(i)).covariance, weights_[i] / total);
    }
  }
  InputMoments result = own(e);
  const auto tokens = static_cast<double>(num_tokens(e)), pooled = kPooledTokens * static_cast<double>(features_);
  result.covariance.mul_(tokens / (tokens + pooled)).add_(pooled_, pooled / (tokens + pooled));
  return result;
}

}  // namespace ossature
