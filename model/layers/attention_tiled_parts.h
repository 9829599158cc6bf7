// Attention by tiles: how the work is cut, and the packed keys and values, for both directions. Internal to model/.
#pragma once

#include <vector>

#include "model/kernels/attention_tiled_rows.h"
#include "model/layers/attention_kernels.h"
#include "model/layers/tiled_parts.h"

namespace ossature::tiles {

/// Rows and keys of a tile come in multiples of this.
inline constexpr std::int64_t kTileUnit = 32;
/// Keys of a block, counted from the start of their sample.
inline constexpr std::int64_t kKeyBlock = 128;
/// Rows, each a query and a head, of a chunk: with a block of keys the tiles of the backward pass fill half of a
/// second-level cache of 1 MiB.
inline constexpr std::int64_t kChunkRows = 256;

inline std::int64_t whole_units(std::int64_t count) {
  return round_up(count, kTileUnit);
}

/// A range of keys of one block that a chunk is multiplied with.
struct KeyRange {
  std::int64_t first, count;  // keys of the sample; count a multiple of kTileUnit, past its last key too
  std::int64_t block;         // place of the block's first key on the padded key axis
  std::int64_t width;         // of the block, a multiple of kTileUnit
  std::int64_t column;        // of `first` in the block
};

/// Consecutive queries of one sample.
struct Chunk {
  std::int64_t id;            // later chunks of a sample come before it
  bool follows;               // the chunk id - 1 is of the same sample
  std::int64_t sample;        // first token of the sample
  std::int64_t sample_place;  // the same on the padded key axis, where samples are whole units long
  std::int64_t sample_width;  // tokens of the sample, in whole units
  std::int64_t first, count;  // queries, counted from the start of the sample
  std::int64_t first_key;     // that any of them is multiplied with
};

/// How attention is cut into chunks and blocks; the same for all heads.
class AttentionPlan {
 public:
  explicit AttentionPlan(const AttentionInputs& in);

  [[nodiscard]] std::int64_t group() const { return group_; }
  [[nodiscard]] std::int64_t key_heads() const { return key_heads_; }
  [[nodiscard]] std::int64_t query_heads() const { return key_heads_ * group_; }
  [[nodiscard]] std::int64_t head_dim() const { return head_dim_; }
  [[nodiscard]] std::int64_t max_rows() const { return whole_units(chunk_queries_ * group_); }
  /// Longest first, and a sample's last one before the others of it.
  [[nodiscard]] const std::vector<Chunk>& chunks() const { return chunks_; }
  /// Length of the key axis on which each sample is made whole units long.
  [[nodiscard]] std::int64_t padded_keys() const { return padded_keys_; }

  /// Calls f(range) for the keys of a chunk, first to last.
  template <typename F>
  void for_each_range(const Chunk& chunk, F f) const {
    const auto end = whole_units(chunk.first + chunk.count);
    for (auto key = chunk.first_key; key < end;) {
      const auto block = key / kKeyBlock * kKeyBlock, width = std::min(kKeyBlock, chunk.sample_width - block);
      const auto stop = std::min(end, block + width);
      f(KeyRange{key, stop - key, chunk.sample_place + block, width, key - block});
      key = stop;
    }
  }
  /// What a chunk's rows see of a range, and whether that is not all of it for all of them.
  [[nodiscard]] Visible visible(const Chunk& chunk, const KeyRange& range) const {
    return {chunk.first - range.first, group_, window_, 0};
  }
  [[nodiscard]] bool masked(const Chunk& chunk, const KeyRange& range) const {
    return range.first + range.count > chunk.first + 1 || range.first <= chunk.first + chunk.count - 1 - window_;
  }

  /// Calls f(head, first token, tokens, place of the first on the padded key axis) for each key head and block of keys,
  /// in parallel.
  template <typename F>
  void for_each_key_block(const F& f) const {
    const auto count = static_cast<std::int64_t>(blocks_.size());
    at::parallel_for(0, count * key_heads_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (auto task = begin; task < end; ++task) {
        const auto& block = blocks_[static_cast<std::size_t>(task % count)];
        f(task / count, block.token, block.count, block.place);
      }
    });
  }
  /// Values of a packed array of all key heads, and where one's block at `place` begins in it.
  [[nodiscard]] std::int64_t packed_size() const { return key_heads_ * padded_keys_ * head_dim_; }
  [[nodiscard]] std::int64_t packed_offset(std::int64_t head, std::int64_t place) const {
    return (head * padded_keys_ + place) * head_dim_;
  }

 private:
  struct Block {
    std::int64_t token, count, place;
  };

  std::int64_t key_heads_, group_, head_dim_, window_, chunk_queries_;
  std::int64_t padded_keys_ = 0;
  std::vector<Chunk> chunks_;
  std::vector<Block> blocks_;
};

/// Rows [tokens of a block, head_dim] of a key head of x [T, Hk, D] as the [head_dim, width] operand in pairs order,
/// zeros past the last token.
void pack_transposed(const at::Tensor& x, std::int64_t head, std::int64_t token, std::int64_t count, BFloat16* out);
/// The same as the [width, head_dim] operand.
void pack_natural(const at::Tensor& x, std::int64_t head, std::int64_t token, std::int64_t count, BFloat16* out);

/// The rows of a chunk of x [T, Hq, D] for key head `head`, one after the other; zeros up to a whole unit.
void copy_rows(const BFloat16* x, const AttentionPlan& plan, const Chunk& chunk, std::int64_t head, BFloat16* out);

}  // namespace ossature::tiles
