#include "train/text/number_text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace ossature {

std::string number_text(const char* format, double value) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), format, value);
  return text.data();
}

std::string duration_text(double seconds) {
  constexpr double kLongest = 1e9;
  const auto total = std::isfinite(seconds) ? std::llround(std::clamp(seconds, 0.0, kLongest)) : 0;
  const auto two_digits = [](long long value) { return (value < 10 ? "0" : "") + std::to_string(value); };
  const long long hours = total / 3600;
  const long long minutes = total / 60 % 60;
  return (hours > 0 ? std::to_string(hours) + ":" + two_digits(minutes) : std::to_string(minutes)) + ":" +
         two_digits(total % 60);
}

}  // namespace ossature
