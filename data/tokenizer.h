// Byte-level byte-pair encoding as tokenizer.json of a gpt-oss checkpoint describes it.
// Format: huggingface.co/docs/tokenizers; byte alphabet: OpenAI's GPT-2 (bytes shown as printable code points).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/data_error.h"

namespace ossature {

/// Immutable once loaded and safe to share between threads. Copies share everything.
class Tokenizer {
 public:
  /// `path` is a tokenizer.json or the folder that has one. Throws DataError if it is unreadable, or of another kind
  /// than a byte-level BPE whose words are cut by one regular expression.
  [[nodiscard]] static Tokenizer load(const std::filesystem::path& path);

  /// Ordinary text to ids: text that spells a special token is text. Throws DataError if `text` is not valid UTF-8.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text) const;
  /// As encode(), appended to `ids`.
  void encode(std::string_view text, std::vector<std::int32_t>& ids) const;

  /// The bytes of all ids; special tokens give their name. A part of a character may be cut off at either end.
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const;
  /// The bytes of one id, valid as long as the tokenizer; empty for an id that has no token.
  [[nodiscard]] std::string_view bytes_of(std::int32_t id) const;
  /// The id of "<|start|>" and its like.
  [[nodiscard]] std::optional<std::int32_t> special(std::string_view name) const;

  /// The largest id plus 1 (201,088 rows of gpt-oss's embedding are more than its 200,019 ids).
  [[nodiscard]] std::int64_t vocab_size() const;
  /// Of tokenizer.json, in hexadecimal.
  [[nodiscard]] const std::string& sha256() const;

 private:
  struct Contents;
  explicit Tokenizer(std::shared_ptr<const Contents> contents) : contents_(std::move(contents)) {}
  std::shared_ptr<const Contents> contents_;
};

}  // namespace ossature
