#include <cmath>
#include <numbers>

#include "model/layers/attention_tiled_parts.h"

namespace ossature {
namespace tiles {

AttentionPlan::AttentionPlan(const AttentionInputs& in)
    : key_heads_(in.k.size(1)),
      group_(in.q.size(1) / in.k.size(1)),
      head_dim_(in.q.size(2)),
      window_(in.sliding ? in.layout.window() : in.layout.num_tokens()),
      chunk_queries_(std::max<std::int64_t>(1, kChunkRows / group_)) {
  const auto& offsets = in.layout.offsets();
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
    const auto sample = offsets[s], length = offsets[s + 1] - sample, width = whole_units(length);
    for (std::int64_t key = 0; key < length; key += kKeyBlock) {
      blocks_.push_back({sample + key, std::min(kKeyBlock, length - key), padded_keys_ + key});
    }
    for (auto end = length; end > 0;) {
      const auto first = (end - 1) / chunk_queries_ * chunk_queries_;
      const auto first_key = std::max<std::int64_t>(0, first - window_ + 1) / kTileUnit * kTileUnit;
      const auto id = static_cast<std::int64_t>(chunks_.size());
      chunks_.push_back({id, end < length, sample, padded_keys_, width, first, end - first, first_key});
      end = first;
    }
    padded_keys_ += width;
  }
  std::stable_sort(chunks_.begin(), chunks_.end(), [](const Chunk& a, const Chunk& b) { return a.first > b.first; });
}

namespace {

const BFloat16* row_of(const at::Tensor& x, std::int64_t token, std::int64_t head) {
  return x.const_data_ptr<BFloat16>() + token * x.stride(0) + head * x.stride(1);
}

}  // namespace

void pack_transposed(const at::Tensor& x, std::int64_t head, std::int64_t token, std::int64_t count, BFloat16* out) {
  const BFloat16* rows[kKeyBlock];
  for (std::int64_t i = 0; i < count; ++i) rows[i] = row_of(x, token + i, head);
  pack_tokens(rows, count, x.size(2), whole_units(count), out);
}

void pack_natural(const at::Tensor& x, std::int64_t head, std::int64_t token, std::int64_t count, BFloat16* out) {
  pack_row_pairs(row_of(x, token, head), x.stride(0), count, whole_units(count), x.size(2), out);
}

void copy_rows(const BFloat16* x, const AttentionPlan& plan, const Chunk& chunk, std::int64_t head, BFloat16* out) {
  const auto length = plan.group() * plan.head_dim(), stride = plan.query_heads() * plan.head_dim();
  const BFloat16* from = x + (chunk.sample + chunk.first) * stride + head * length;
  for (std::int64_t i = 0; i < chunk.count; ++i) std::copy_n(from + i * stride, length, out + i * length);
  const auto rows = chunk.count * plan.group();
  std::fill_n(out + rows * plan.head_dim(), (whole_units(rows) - rows) * plan.head_dim(), BFloat16(0.0f));
}

}  // namespace tiles

namespace {

using tiles::BFloat16;
using tiles::Buffer;

/// Rows that are taken through a tile of scores at once, so that it stays in a first-level cache.
constexpr std::int64_t kTileRows = 64;

class Forward {
 public:
  explicit Forward(const AttentionInputs& in)
      : in_(in),
        plan_(in),
        keys_(at::empty({plan_.packed_size()}, in.q.options())),
        values_(at::empty({plan_.packed_size()}, in.q.options())),
        all_{at::empty(in.q.sizes(), in.q.options()),
             at::empty({in.q.size(0), in.q.size(1)}, in.q.options().dtype(at::kFloat))} {}

  AttentionResult run() {
    pack();
    const auto heads = plan_.key_heads(), count = static_cast<std::int64_t>(plan_.chunks().size());
    tiles::for_each_task(count * heads, [&] {
      return [&, worker = Worker(plan_)](std::int64_t task) {
        attend(plan_.chunks()[static_cast<std::size_t>(task / heads)], task % heads, worker);
      };
    });
    return all_;
  }

 private:
  struct Worker {
    Buffer<BFloat16> queries, weights;
    Buffer<float> scores, out, top, sum;

    explicit Worker(const tiles::AttentionPlan& plan)
        : queries(plan.max_rows() * plan.head_dim()),
          weights(kTileRows * tiles::kKeyBlock),
          scores(kTileRows * tiles::kKeyBlock),
          out(plan.max_rows() * plan.head_dim()),
          top(plan.max_rows()),
          sum(plan.max_rows()) {}
  };

  void pack() {
    auto* keys = keys_.data_ptr<BFloat16>();
    auto* values = values_.data_ptr<BFloat16>();
    plan_.for_each_key_block([&](std::int64_t head, std::int64_t token, std::int64_t count, std::int64_t place) {
      const auto offset = plan_.packed_offset(head, place);
      tiles::pack_transposed(in_.k, head, token, count, keys + offset);
      tiles::pack_natural(in_.v, head, token, count, values + offset);
    });
  }

  void attend(const tiles::Chunk& chunk, std::int64_t head, const Worker& worker) const {
    const auto group = plan_.group(), size = plan_.head_dim(), rows = chunk.count * group;
    const auto whole_rows = tiles::whole_units(rows);
    const auto scale = static_cast<float>(in_.scale * std::numbers::log2e);
    tiles::copy_rows(in_.q.const_data_ptr<BFloat16>(), plan_, chunk, head, worker.queries.data());
    // The sink is a score whose value is zero.
    const float* sinks = in_.sinks.const_data_ptr<float>() + head * group;
    for (std::int64_t r = 0; r < whole_rows; ++r) {
      worker.top.data()[r] = sinks[r % group] * static_cast<float>(std::numbers::log2e);
    }
    std::fill_n(worker.sum.data(), whole_rows, 1.0f);
    std::fill_n(worker.out.data(), whole_rows * size, 0.0f);

    plan_.for_each_range(chunk, [&](const tiles::KeyRange& range) {
      const auto offset = plan_.packed_offset(head, range.block);
      const BFloat16* keys = keys_.const_data_ptr<BFloat16>() + offset + range.column * 2;
      const BFloat16* values = values_.const_data_ptr<BFloat16>() + offset + range.column * size;
      auto visible = plan_.visible(chunk, range);
      const bool masked = plan_.masked(chunk, range);
      for (std::int64_t r = 0; r < whole_rows; r += kTileRows) {
        const auto tile_rows = std::min(kTileRows, whole_rows - r);
        visible.first = r;
        float* out = worker.out.data() + r * size;
        tiles::multiply(tile_rows, range.count, size, worker.queries.data() + r * size, size, keys, range.width,
                        worker.scores.data(), range.count, false);
        tiles::softmax_tile(worker.scores.data(), tile_rows, range.count, scale, masked ? &visible : nullptr,
                            {worker.top.data() + r, worker.sum.data() + r}, out, size, worker.weights.data());
        tiles::multiply(tile_rows, size, range.count, worker.weights.data(), range.count, values, out, size, true);
      }
    });
    store(chunk, head, worker);
  }

  void store(const tiles::Chunk& chunk, std::int64_t head, const Worker& worker) const {
    const auto group = plan_.group(), size = plan_.head_dim();
    auto* out = all_.out.data_ptr<BFloat16>();
    auto* lse = all_.lse.data_ptr<float>();
    for (std::int64_t i = 0; i < chunk.count; ++i) {
      const auto row = (chunk.sample + chunk.first + i) * plan_.query_heads() + head * group;
      const float* top = worker.top.data() + i * group;
      const float* sum = worker.sum.data() + i * group;
      tiles::divide_by_sum(worker.out.data() + i * group * size, group, size, sum, out + row * size);
      for (std::int64_t g = 0; g < group; ++g) {
        lse[row + g] = (top[g] + std::log2(sum[g])) / static_cast<float>(std::numbers::log2e);
      }
    }
  }

  const AttentionInputs& in_;
  tiles::AttentionPlan plan_;
  at::Tensor keys_, values_;  // packed: [D, keys] and [keys, D] in pairs order, by key head and block
  AttentionResult all_;
};

}  // namespace

bool tiled_fits(const at::Tensor& q) {
  return q.device().is_cpu() && q.scalar_type() == at::kBFloat16 && q.size(-1) % 16 == 0;
}

AttentionResult tiled_forward(const AttentionInputs& in) {
  return Forward(in).run();
}

}  // namespace ossature
