// The byte-level byte-pair encoder of a tokenizer.json as gpt-oss carries it (o200k_harmony, or a smaller one of the
// same kind).
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

/// Immutable; encode and decode may be called from several threads. Copies share the tables.
class Tokenizer {
 public:
  /// Reads `path`, or tokenizer.json in the directory `path`. Throws DataError if it is not a byte-level BPE tokenizer
  /// of this kind.
  [[nodiscard]] static Tokenizer load(const std::filesystem::path& path);

  /// Ids of `text`. Text that looks like a special token is ordinary text: what a user writes cannot end a message.
  /// Throws DataError if `text` is not UTF-8.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text) const;
  /// The same, appended to `out`.
  void encode(std::string_view text, std::vector<std::int32_t>& out) const;

  /// The bytes of all ids, one after the other; special tokens by their name. Ids without meaning are left out.
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const;
  /// The bytes of one id: of ordinary tokens not always whole characters. Empty if the id has no meaning.
  [[nodiscard]] std::string_view bytes_of(std::int32_t id) const;

  /// The id of a special token such as "<|start|>"; nullopt if there is none of that name.
  [[nodiscard]] std::optional<std::int32_t> special(std::string_view name) const;
  [[nodiscard]] bool is_special(std::int32_t id) const;

  /// One more than the largest id.
  [[nodiscard]] std::int64_t vocab_size() const;
  /// SHA-256 of the file, in hexadecimal.
  [[nodiscard]] const std::string& sha256() const;

 private:
  struct Tables;
  explicit Tokenizer(std::shared_ptr<const Tables> tables) : tables_(std::move(tables)) {}
  std::shared_ptr<const Tables> tables_;
};

}  // namespace ossature
