// What numbers an option takes: for CLI::Option::check. What is no number, NaN included, is refused as what is out of
// range is.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>
#include <sstream>
#include <string>
#include <type_traits>

namespace ossature {

/// A number of type T from `least` to `most`; `range` says so in help and errors: "a whole number from 1 on".
template <typename T>
[[nodiscard]] CLI::Validator number_within(T least, T most, const std::string& range) {
  return {[=](const std::string& text) {
            T value{};
            // CLI11 reads "-1" as the largest number without a sign.
            const bool has_sign = std::is_unsigned_v<T> && text.starts_with('-');
            const bool is_within =
                !has_sign && CLI::detail::lexical_cast(text, value) && value >= least && value <= most;
            return is_within ? std::string() : text + " is not " + range;
          },
          ""};
}

[[nodiscard]] inline CLI::Validator whole_number_from(std::uint64_t least) {
  return number_within(least, std::numeric_limits<std::uint64_t>::max(),
                       "a whole number from " + std::to_string(least) + " on");
}

[[nodiscard]] inline CLI::Validator whole_number_within(std::int64_t least, std::int64_t most) {
  return number_within(least, most, "a whole number from " + std::to_string(least) + " to " + std::to_string(most));
}

[[nodiscard]] inline CLI::Validator number_within(double least, double most) {
  std::ostringstream range;
  range << "a number from " << least << " to " << most;
  return number_within<double>(least, most, range.str());
}

[[nodiscard]] inline CLI::Validator number_from(double least) {
  std::ostringstream range;
  range << "a number from " << least << " on";
  return number_within<double>(least, std::numeric_limits<double>::max(), range.str());
}

[[nodiscard]] inline CLI::Validator number_above_zero() {
  return number_within<double>(std::numeric_limits<double>::denorm_min(), std::numeric_limits<double>::max(),
                               "a number above 0");
}

}  // namespace ossature
