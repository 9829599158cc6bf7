// How often something happened to the data, and where first.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace ossature {

struct Occurrences {
  static constexpr std::size_t kListed = 5;

  std::int64_t count = 0;
  std::vector<std::string> first;  // at most kListed, in order: "chats.jsonl:12: 5000 tokens"

  void add(std::string what) {
    ++count;
    if (first.size() < kListed) first.push_back(std::move(what));
  }
  /// Those that came after these.
  void append(const Occurrences& later) {
    count += later.count;
    for (const std::string& what : later.first) {
      if (first.size() < kListed) first.push_back(what);
    }
  }
};

}  // namespace ossature
