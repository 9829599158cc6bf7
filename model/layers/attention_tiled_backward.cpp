#include <atomic>
#include <limits>
#include <numbers>

#include "model/layers/attention_tiled_parts.h"

namespace ossature {
namespace {

using tiles::BFloat16;
using tiles::Buffer;
using tiles::Chunk;
using tiles::KeyRange;

/// Rows that are taken through the tiles at once.
constexpr std::int64_t kTileRows = 128;

/// Buffers of one thread.
struct Workspace {
  Buffer<BFloat16> queries, grads;                        // [rows, D]
  Buffer<BFloat16> queries_transposed, grads_transposed;  // [D, rows]
  Buffer<BFloat16> pairs;                                 // [D, rows] in pairs order
  Buffer<float> scores, grad_weights;                     // a tile each
  Buffer<BFloat16> weight_pairs, gradients, gradient_pairs;
  Buffer<float> grad_queries;  // [rows, D]
  Buffer<float> lse, delta;    // [rows]
  std::vector<const BFloat16*> rows;

  explicit Workspace(const tiles::AttentionPlan& plan)
      : Workspace(plan.max_rows(), plan.max_rows() * plan.head_dim(), kTileRows * tiles::kKeyBlock) {}

 private:
  Workspace(std::int64_t num_rows, std::int64_t size, std::int64_t tile)
      : queries(size),
        grads(size),
        queries_transposed(size),
        grads_transposed(size),
        pairs(size),
        scores(tile),
        grad_weights(tile),
        weight_pairs(tile),
        gradients(tile),
        gradient_pairs(tile),
        grad_queries(size),
        lse(num_rows),
        delta(num_rows),
        rows(static_cast<std::size_t>(num_rows)) {}
};

/// How far the chunks of one sample and head have come. Each adds to the gradients of the keys it sees only once the
/// chunk before it in AttentionPlan's order has, so that the order of the sums does not depend on the threads. Tasks
/// are taken in that order too, so whoever is waited for is at work.
class Progress {
 public:
  explicit Progress(std::int64_t tasks) : done_(static_cast<std::size_t>(tasks)) {}

  /// Waits until `task` is through with the keys of its sample before `key`.
  void wait(std::int64_t task, std::int64_t key) const {
    const auto& done = done_[static_cast<std::size_t>(task)];
    for (auto seen = done.load(std::memory_order_acquire); seen < key; seen = done.load(std::memory_order_acquire)) {
      done.wait(seen, std::memory_order_acquire);
    }
  }
  void set(std::int64_t task, std::int64_t key) {
    auto& done = done_[static_cast<std::size_t>(task)];
    done.store(key, std::memory_order_release);
    done.notify_all();
  }

 private:
  std::vector<std::atomic<std::int64_t>> done_;
};

class Backward {
 public:
  Backward(const AttentionInputs& in, const AttentionResult& result, const at::Tensor& grad)
      : in_(in),
        result_(result),
        grad_(grad),
        plan_(in),
        keys_transposed_(packed(in.q.options())),
        keys_(packed(in.q.options())),
        values_(packed(in.q.options())),
        grad_keys_(packed(in.q.options().dtype(at::kFloat))),
        grad_values_(packed(in.q.options().dtype(at::kFloat))),
        progress_(static_cast<std::int64_t>(plan_.chunks().size()) * plan_.key_heads()),
        found_{at::empty(in.q.sizes(), in.q.options()), at::empty(in.k.sizes(), in.k.options()),
               at::empty(in.v.sizes(), in.v.options())} {}

  AttentionGradients run() {
    pack();
    const auto heads = plan_.key_heads(), count = static_cast<std::int64_t>(plan_.chunks().size());
    // Made before the tasks begin: a thread that failed with a task in hand would be waited for.
    std::vector<Workspace> workspaces;
    for (int i = 0; i < at::get_num_threads(); ++i) workspaces.emplace_back(plan_);
    tiles::for_each_task(count * heads, [&] {
      return [&, &space = workspaces[static_cast<std::size_t>(at::get_thread_num())]](std::int64_t task) {
        through_chunk(plan_.chunks()[static_cast<std::size_t>(task / heads)], task % heads, space);
      };
    });
    store_keys();
    return found_;
  }

 private:
  [[nodiscard]] at::Tensor packed(const at::TensorOptions& options) const {
    return at::empty({plan_.packed_size()}, options);
  }

  void pack() {
    auto* keys_transposed = keys_transposed_.data_ptr<BFloat16>();
    auto* keys = keys_.data_ptr<BFloat16>();
    auto* values = values_.data_ptr<BFloat16>();
    auto* grad_keys = grad_keys_.data_ptr<float>();
    auto* grad_values = grad_values_.data_ptr<float>();
    plan_.for_each_key_block([&](std::int64_t head, std::int64_t token, std::int64_t count, std::int64_t place) {
      const auto offset = plan_.packed_offset(head, place), size = tiles::whole_units(count) * plan_.head_dim();
      tiles::pack_transposed(in_.k, head, token, count, keys_transposed + offset);
      tiles::pack_natural(in_.k, head, token, count, keys + offset);
      tiles::pack_transposed(in_.v, head, token, count, values + offset);
      std::fill_n(grad_keys + offset, size, 0.0f);
      std::fill_n(grad_values + offset, size, 0.0f);
    });
  }

  void through_chunk(const Chunk& chunk, std::int64_t head, Workspace& space) {
    const auto task = chunk.id * plan_.key_heads() + head;
    load(chunk, head, space);
    plan_.for_each_range(chunk, [&](const KeyRange& range) {
      if (chunk.follows) progress_.wait(task - plan_.key_heads(), range.first + range.count);
      through_range(chunk, range, head, space);
      progress_.set(task, range.first + range.count);
    });
    progress_.set(task, std::numeric_limits<std::int64_t>::max());
    store_queries(chunk, head, space);
  }

  [[nodiscard]] std::int64_t row_of(const Chunk& chunk, std::int64_t query, std::int64_t head) const {
    return (chunk.sample + chunk.first + query) * plan_.query_heads() + head * plan_.group();
  }

  void load(const Chunk& chunk, std::int64_t head, Workspace& space) const {
    const auto group = plan_.group(), size = plan_.head_dim(), rows = tiles::whole_units(chunk.count * group);
    const auto load_operand = [&](const at::Tensor& x, BFloat16* natural, BFloat16* transposed) {
      tiles::copy_rows(x.const_data_ptr<BFloat16>(), plan_, chunk, head, natural);
      for (std::int64_t r = 0; r < rows; ++r) space.rows[static_cast<std::size_t>(r)] = natural + r * size;
      tiles::pack_tokens(space.rows.data(), rows, size, rows, space.pairs.data());
      tiles::unpack_pairs(space.pairs.data(), size, rows, transposed);
    };
    load_operand(in_.q, space.queries.data(), space.queries_transposed.data());
    load_operand(grad_, space.grads.data(), space.grads_transposed.data());
    std::fill_n(space.grad_queries.data(), rows * size, 0.0f);

    // Rows past the last have no gradient and so add nothing.
    std::fill_n(space.lse.data(), rows, 0.0f);
    std::fill_n(space.delta.data(), rows, 0.0f);
    const float* lse = result_.lse.const_data_ptr<float>();
    const auto* out = result_.out.const_data_ptr<BFloat16>();
    for (std::int64_t i = 0; i < chunk.count; ++i) {
      const auto row = row_of(chunk, i, head);
      for (std::int64_t g = 0; g < group; ++g) {
        const auto r = i * group + g;
        space.lse.data()[r] = lse[row + g] * static_cast<float>(std::numbers::log2e);
        space.delta.data()[r] = tiles::inner_product(space.grads.data() + r * size, out + (row + g) * size, size) *
                                static_cast<float>(in_.scale);
      }
    }
  }

  void through_range(const Chunk& chunk, const KeyRange& range, std::int64_t head, Workspace& space) const {
    const auto size = plan_.head_dim(), rows = tiles::whole_units(chunk.count * plan_.group());
    const auto columns = range.count, width = range.width;
    const auto offset = plan_.packed_offset(head, range.block);
    const BFloat16* keys_transposed = keys_transposed_.const_data_ptr<BFloat16>() + offset + range.column * 2;
    const BFloat16* values = values_.const_data_ptr<BFloat16>() + offset + range.column * 2;
    const BFloat16* keys = keys_.const_data_ptr<BFloat16>() + offset + range.column * size;
    float* grad_keys = grad_keys_.data_ptr<float>() + offset + range.column;
    float* grad_values = grad_values_.data_ptr<float>() + offset + range.column;
    auto visible = plan_.visible(chunk, range);
    const bool masked = plan_.masked(chunk, range);
    for (std::int64_t r = 0; r < rows; r += kTileRows) {
      const auto tile_rows = std::min(kTileRows, rows - r);
      visible.first = r;
      tiles::multiply(tile_rows, columns, size, space.queries.data() + r * size, size, keys_transposed, width,
                      space.scores.data(), columns, false);
      tiles::multiply(tile_rows, columns, size, space.grads.data() + r * size, size, values, width,
                      space.grad_weights.data(), columns, false);
      tiles::gradient_tile(space.scores.data(), space.grad_weights.data(), tile_rows, columns,
                           static_cast<float>(in_.scale * std::numbers::log2e), static_cast<float>(in_.scale),
                           masked ? &visible : nullptr, {space.lse.data() + r, space.delta.data() + r},
                           space.weight_pairs.data(), space.gradients.data(), space.gradient_pairs.data());
      tiles::multiply(tile_rows, size, columns, space.gradients.data(), columns, keys,
                      space.grad_queries.data() + r * size, size, true);
      tiles::multiply(size, columns, tile_rows, space.queries_transposed.data() + r, rows, space.gradient_pairs.data(),
                      grad_keys, width, true);
      tiles::multiply(size, columns, tile_rows, space.grads_transposed.data() + r, rows, space.weight_pairs.data(),
                      grad_values, width, true);
    }
  }

  void store_queries(const Chunk& chunk, std::int64_t head, const Workspace& space) const {
    const auto length = plan_.group() * plan_.head_dim();
    auto* out = found_.q.data_ptr<BFloat16>();
    for (std::int64_t i = 0; i < chunk.count; ++i) {
      tiles::round_row(space.grad_queries.data() + i * length, length, out + row_of(chunk, i, head) * plan_.head_dim());
    }
  }

  /// From [D, width] a block to rows of tokens.
  void store_keys() const {
    const auto size = plan_.head_dim(), stride = plan_.key_heads() * size;
    const float no_bias[16] = {};
    plan_.for_each_key_block([&](std::int64_t head, std::int64_t token, std::int64_t count, std::int64_t place) {
      const auto offset = plan_.packed_offset(head, place), width = tiles::whole_units(count);
      const auto store = [&](const at::Tensor& from, const at::Tensor& to) {
        const float* values = from.const_data_ptr<float>() + offset;
        auto* rows = to.data_ptr<BFloat16>() + token * stride + head * size;
        for (std::int64_t key = 0; key < count; key += 16) {
          for (std::int64_t d = 0; d < size; d += 16) {
            tiles::store_transposed(values + d * width + key, width, no_bias, std::min<std::int64_t>(16, count - key),
                                    rows + key * stride + d, stride);
          }
        }
      };
      store(grad_keys_, found_.k);
      store(grad_values_, found_.v);
    });
  }

  const AttentionInputs& in_;
  const AttentionResult& result_;
  const at::Tensor& grad_;
  tiles::AttentionPlan plan_;
  // Packed by key head and block: [D, keys], [keys, D] and [D, keys] in pairs order; gradients [D, keys] as they lie.
  at::Tensor keys_transposed_, keys_, values_;
  at::Tensor grad_keys_, grad_values_;
  Progress progress_;
  AttentionGradients found_;
};

}  // namespace

AttentionGradients tiled_backward(const AttentionInputs& in, const AttentionResult& result, const at::Tensor& grad) {
  return Backward(in, result, grad).run();
}

}  // namespace ossature
