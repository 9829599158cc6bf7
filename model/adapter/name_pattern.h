// PEFT's regular expressions over module and parameter names. They come with files of strangers, so they are bounded in
// length and matched in polynomial time.
#pragma once

#include <cstddef>
#include <optional>
#include <regex>
#include <string>
#include <vector>

namespace ossature {

/// Longer expressions are refused: the standard library's parser recurses.
inline constexpr std::size_t kMaxPatternBytes = 256;

/// One expression (ECMAScript's syntax, which agrees with Python's in what names need).
class NamePattern {
 public:
  /// Throws CheckpointError beginning with `key` if `pattern` is too long, is no regular expression or uses what the
  /// polynomial matcher has not got (back references, look-around).
  NamePattern(const std::string& key, const std::string& pattern);

  /// Whether the whole of `name` matches.
  [[nodiscard]] bool matches(const std::string& name) const;
  /// Whether the end of `name`, from its beginning or after a dot, does: re.match(rf"(.*\.)?({pattern})$", name).
  [[nodiscard]] bool matches_end(const std::string& name) const;

 private:
  std::regex whole_;
  std::regex end_;
};

class NamePatterns {
 public:
  NamePatterns(const std::string& key, const std::vector<std::string>& patterns);

  /// Which pattern is the first whose match ends `name`.
  [[nodiscard]] std::optional<std::size_t> first_match(const std::string& name) const;

 private:
  std::vector<NamePattern> patterns_;
};

}  // namespace ossature
