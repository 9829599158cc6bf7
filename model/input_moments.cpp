#include "model/input_moments.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/native/CPUBlas.h>

namespace ossature {
namespace {

constexpr std::int64_t kTile = 480;   // rows and columns of a task of the second moment
constexpr std::int64_t kChunk = 256;  // tokens of a product
constexpr std::int64_t kStep = 32;    // to a multiple of which they are filled up with zeros: few shapes of products

/// Tokens of one expert, at most kChunk.
struct Chunk {
  std::int64_t first, count;
};

/// Scaled tokens chunk by chunk, as rows [kChunk, I] and as columns [I, kChunk], zeros past the chunk's tokens.
struct Packed {
  at::Tensor rows, columns;

  Packed(const at::Tensor& tokens, const at::Tensor& p, const std::vector<Chunk>& chunks) {
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

}  // namespace

MomentSums::MomentSums(std::int64_t num_experts, std::int64_t features)
    : features_(features),
      squares_(at::zeros({num_experts, features, features}, at::kFloat)),
      sums_(at::zeros({num_experts, features}, at::kDouble)),
      weights_(static_cast<std::size_t>(num_experts)),
      counts_(static_cast<std::size_t>(num_experts)) {}

void MomentSums::add(const at::Tensor& rows, const at::Tensor& p, const Assignments& assigned) {
  at::NoGradGuard no_grad;
  pooled_.reset();
  std::vector<Chunk> chunks;
  std::vector<std::size_t> first_chunk{0};  // of each expert
  for (std::int64_t e = 0; e < assigned.num_experts(); ++e) {
    const auto last = assigned.first(e) + assigned.count(e);
    for (auto n = assigned.first(e); n < last; n += kChunk) chunks.push_back({n, std::min(kChunk, last - n)});
    first_chunk.push_back(chunks.size());
  }
  const Packed packed(rows, p, chunks);
  const float* by_token = packed.rows.const_data_ptr<float>();
  const float* by_feature = packed.columns.const_data_ptr<float>();
  const float* factors = p.const_data_ptr<float>();
  const auto num_tiles = (features_ + kTile - 1) / kTile, num_pairs = num_tiles * (num_tiles + 1) / 2;
  std::vector<std::pair<std::int64_t, std::int64_t>> pairs;
  for (std::int64_t i = 0; i < num_tiles; ++i) {
    for (std::int64_t j = i; j < num_tiles; ++j) pairs.emplace_back(i * kTile, j * kTile);
  }
  auto* squares = squares_.data_ptr<float>();
  auto* sums = sums_.data_ptr<double>();
  at::parallel_for(0, assigned.num_experts() * num_pairs, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto task = begin; task < end; ++task) {
      const auto e = task / num_pairs;
      const auto [row, column] = pairs[static_cast<std::size_t>(task % num_pairs)];
      const auto height = std::min(kTile, features_ - row), width = std::min(kTile, features_ - column);
      float* square = squares + (e * features_ + row) * features_ + column;
      for (auto i = first_chunk[static_cast<std::size_t>(e)]; i < first_chunk[static_cast<std::size_t>(e) + 1]; ++i) {
        const auto offset = static_cast<std::int64_t>(i) * kChunk * features_;
        const auto depth = (chunks[i].count + kStep - 1) / kStep * kStep;
        at::native::cpublas::brgemm(height, width, depth, kChunk, features_, features_, /*add_C=*/true,
                                    by_feature + offset + row * kChunk, by_token + offset + column, square,
                                    /*is_vnni=*/false);
      }
    }
  });
  at::parallel_for(0, assigned.num_experts(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto e = begin; e < end; ++e) {
      double* sum = sums + e * features_;
      for (auto i = first_chunk[static_cast<std::size_t>(e)]; i < first_chunk[static_cast<std::size_t>(e) + 1]; ++i) {
        const auto [first, count] = chunks[i];
        for (std::int64_t n = 0; n < count; ++n) {
          const float* token = by_token + (static_cast<std::int64_t>(i) * kChunk + n) * features_;
          const double factor = factors[first + n];
          for (std::int64_t j = 0; j < features_; ++j) sum[j] += factor * token[j];
          weights_[static_cast<std::size_t>(e)] += factor * factor;
        }
      }
      counts_[static_cast<std::size_t>(e)] += assigned.count(e);
    }
  });
}

InputMoments MomentSums::own(std::int64_t e) const {
  const double weight = weights_[static_cast<std::size_t>(e)];
  if (weight == 0.0) return {at::zeros({features_, features_}), at::zeros({features_})};
  const at::Tensor mean = sums_[e] / weight;
  // Whole tiles below the diagonal are missing.
  at::Tensor covariance = at::triu(squares_[e]) / weight;
  covariance += at::triu(covariance, 1).t();
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
