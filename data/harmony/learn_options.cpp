#include "data/harmony/learn_options.h"

#include <array>
#include <charconv>
#include <set>
#include <string>
#include <utility>

namespace ossature {
namespace {

constexpr std::array<std::pair<std::string_view, float LearnOptions::*>, 8> kParts = {{
    {"analysis", &LearnOptions::analysis},
    {"commentary", &LearnOptions::commentary},
    {"final", &LearnOptions::final},
    {"tool_calls", &LearnOptions::tool_calls},
    {"system", &LearnOptions::system},
    {"developer", &LearnOptions::developer},
    {"user", &LearnOptions::user},
    {"tool", &LearnOptions::tool},
}};

[[noreturn]] void fail(std::string_view assignment, const std::string& why) {
  throw DataError("\"" + std::string(assignment) + "\": " + why +
                  "; expected NAME=FACTOR, with a factor from 0 to 1000 and a name of analysis, commentary, final, "
                  "tool_calls, system, developer, user, tool");
}

}  // namespace

LearnOptions learn_options(std::string_view assignments) {
  LearnOptions options;
  std::set<std::string_view> named;
  while (true) {
    const std::string_view assignment = assignments.substr(0, assignments.find(','));
    const auto equals = assignment.find('=');
    if (equals == std::string_view::npos) fail(assignment, "has no \"=\"");
    const std::string_view name = assignment.substr(0, equals), value = assignment.substr(equals + 1);
    float LearnOptions::*part = nullptr;
    for (const auto& [known, member] : kParts) {
      if (known == name) part = member;
    }
    if (part == nullptr) fail(assignment, "nothing of that name is learned");
    if (!named.insert(name).second) fail(assignment, "is named twice");
    float factor = -1;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), factor);
    if (error != std::errc() || end != value.data() + value.size() || !(factor >= 0 && factor <= 1000)) {
      fail(assignment, "is no such factor");
    }
    options.*part = factor;
    if (assignment.size() == assignments.size()) return options;
    assignments.remove_prefix(assignment.size() + 1);
  }
}

}  // namespace ossature
