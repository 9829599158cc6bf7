// Text generation: a key-value cache and sampling. Shapes: T tokens, V vocabulary.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/network/transformer.h"

namespace ossature {

/// Keys and values of one layer's past tokens, the newest `limit` of them (0: all).
class KeyValueCache {
 public:
  explicit KeyValueCache(std::int64_t limit) : limit_(limit) {}

  /// Appends the newest tokens, [T, num_key_value_heads, head_dim] each.
  void append(const KeyValue& newest);
  [[nodiscard]] std::int64_t size() const { return last_ - first_; }
  /// What is kept, oldest first; a view that lasts until the next append.
  [[nodiscard]] KeyValue view() const;
  /// Forgets all but the oldest `size` tokens.
  void truncate(std::int64_t size) { last_ = first_ + size; }

 private:
  void make_room(const KeyValue& newest);

  std::int64_t limit_;
  std::int64_t first_ = 0, last_ = 0;  // kept rows of the buffers
  KeyValue buffer_;
};

/// Predicts the next token of one sequence that grows.
class Decoder {
 public:
  /// `transformer` must live longer.
  explicit Decoder(const Transformer& transformer);

  /// Appends `tokens` (at least one) and returns the logits after the last of them, float32 [V] on the CPU.
  [[nodiscard]] at::Tensor feed(std::span<const std::int32_t> tokens);
  [[nodiscard]] std::int64_t num_tokens() const { return num_tokens_; }

  /// A place to come back to: what sliding layers will have forgotten by then.
  struct Mark {
    std::int64_t num_tokens = 0;
    std::vector<KeyValue> windows;  // of sliding layers, in order
  };
  [[nodiscard]] Mark mark() const;
  /// Forgets the tokens after `mark`, which must be of this decoder and not after another place it has gone back to.
  void rewind(const Mark& mark);

 private:
  [[nodiscard]] at::Tensor attend(std::int64_t layer, const at::Tensor& x, const Pass& pass);

  const Transformer& transformer_;
  std::vector<KeyValueCache> caches_;  // one a layer
  std::int64_t num_tokens_ = 0;
};

struct SamplingOptions {
  double temperature = 0.0;  // 0: the most probable token
  std::int64_t top_k = 0;    // only the k most probable; 0: all
  double top_p = 1.0;        // only the most probable that together reach p
};

/// Draws a token from softmax(logits / temperature), restricted as `options` says. Equal generators draw equal tokens.
[[nodiscard]] std::int32_t sample_token(const at::Tensor& logits, const SamplingOptions& options,
                                        std::mt19937_64& generator);

}  // namespace ossature
