// A regular expression that cuts text into pieces, by PCRE2 with Unicode properties. Internal to data/.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace ossature {

class SplitRegex {
 public:
  /// Throws std::invalid_argument saying why `pattern` does not compile.
  explicit SplitRegex(const std::string& pattern);

  /// Calls `piece` for every match and for every text between matches, in order (behaviour "Isolated"). Thread-safe.
  /// Throws DataError if `text` is not UTF-8.
  void split(std::string_view text, const std::function<void(std::string_view)>& piece) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
};

}  // namespace ossature
