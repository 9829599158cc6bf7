#include "train/commands/arguments.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <chrono>
#include <string_view>

#include "data/data_error.h"
#include "data/harmony/harmony.h"

namespace ossature {
namespace {

std::optional<int> number(std::string_view digits) {
  int value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size() || value < 0) return std::nullopt;
  return value;
}

bool is_day(std::string_view text) {
  if (text.size() != 10 || text[4] != '-' || text[7] != '-') return false;
  const auto year = number(text.substr(0, 4)), month = number(text.substr(5, 2)), day = number(text.substr(8));
  if (!year || !month || !day) return false;
  return std::chrono::year_month_day(std::chrono::year(*year), std::chrono::month(static_cast<unsigned>(*month)),
                                     std::chrono::day(static_cast<unsigned>(*day)))
      .ok();
}

}  // namespace

void add_date_option(CLI::App& command, std::string& date) {
  date = "today";
  command.add_option("--date", date, "Date in the system message: 2026-01-15, today, or none")
      ->check(CLI::Validator(
          [](const std::string& text) {
            if (text == "today" || text == "none" || is_day(text)) return std::string();
            return "\"" + text + "\" is not a date; expected one like 2026-01-15, today, or none";
          },
          ""))
      ->capture_default_str();
}

std::optional<std::string> date_of(const std::string& date) {
  if (date == "none") return std::nullopt;
  return date == "today" ? today() : date;
}

OutputFile::OutputFile(const std::filesystem::path& file) : folders_(file.parent_path()) {
  if (std::filesystem::is_directory(file)) throw DataError(file.string() + ": is a directory; name a file to write");
  const std::filesystem::path parent = file.has_parent_path() ? file.parent_path() : ".";
  std::error_code ignored;
  if (!std::filesystem::is_directory(parent, ignored))
    throw DataError(file.string() + ": cannot be written, as " + parent.string() + " is not a directory");
}

}  // namespace ossature
