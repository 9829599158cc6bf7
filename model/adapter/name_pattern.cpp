#include "model/adapter/name_pattern.h"

#include "model/files/checkpoint_error.h"
#include "model/files/safetensors_header.h"

namespace ossature {
namespace {

#ifdef __GLIBCXX__
// Breadth first: the default matcher takes time exponential in the name for patterns such as (.*)*x.
constexpr auto kSyntax = std::regex_constants::ECMAScript | std::regex_constants::__polynomial;
#else
constexpr auto kSyntax = std::regex_constants::ECMAScript;
#endif

std::regex compiled(const std::string& key, const std::string& pattern, const std::string& expression) {
  const std::string found = key + ": the pattern " + escaped(pattern);
  if (pattern.size() > kMaxPatternBytes) {
    throw CheckpointError(found + " has " + std::to_string(pattern.size()) + " bytes; expected at most " +
                          std::to_string(kMaxPatternBytes) + "; write several patterns or plain names");
  }
  try {
    return std::regex(expression, kSyntax);
  } catch (const std::regex_error&) {
    throw CheckpointError(found + " cannot be read; expected a regular expression without back references and " +
                          "look-around; write plain names");
  }
}

}  // namespace

NamePattern::NamePattern(const std::string& key, const std::string& pattern)
    : whole_(compiled(key, pattern, pattern)), end_(compiled(key, pattern, "(.*\\.)?(" + pattern + ")")) {}

bool NamePattern::matches(const std::string& name) const {
  return std::regex_match(name, whole_);
}
bool NamePattern::matches_end(const std::string& name) const {
  return std::regex_match(name, end_);
}

NamePatterns::NamePatterns(const std::string& key, const std::vector<std::string>& patterns) {
  patterns_.reserve(patterns.size());
  for (const std::string& pattern : patterns) patterns_.emplace_back(key, pattern);
}

std::optional<std::size_t> NamePatterns::first_match(const std::string& name) const {
  for (std::size_t i = 0; i < patterns_.size(); ++i) {
    if (patterns_[i].matches_end(name)) return i;
  }
  return std::nullopt;
}

}  // namespace ossature
