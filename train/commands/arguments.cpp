#include "train/commands/arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <charconv>
#include <chrono>
#include <fstream>
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

std::string_view mark_of(OutputFile::Replaces replaces) {
  return replaces == OutputFile::Replaces::kHdf5   ? "\x89HDF\r\n\x1a\n"
         : replaces == OutputFile::Replaces::kHtml ? "<!doctype html"
                                                   : "";
}

bool begins_with(const std::filesystem::path& file, std::string_view mark) {
  std::string found(mark.size(), '\0');
  std::ifstream(file, std::ios::binary).read(found.data(), static_cast<std::streamsize>(found.size()));
  const auto same = [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) == std::tolower(static_cast<unsigned char>(b));
  };
  return std::equal(found.begin(), found.end(), mark.begin(), same);
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

OutputFile::OutputFile(const std::filesystem::path& file, Replaces replaces) : folders_(file.parent_path()) {
  if (std::filesystem::is_directory(file)) throw DataError(file.string() + ": is a directory; name a file to write");
  const std::filesystem::path parent = file.has_parent_path() ? file.parent_path() : ".";
  std::error_code ignored;
  if (!std::filesystem::is_directory(parent, ignored))
    throw DataError(file.string() + ": cannot be written, as " + parent.string() + " is not a directory");
  if (!std::filesystem::is_regular_file(file, ignored) || std::filesystem::file_size(file, ignored) == 0) return;
  const std::string_view mark = mark_of(replaces);
  if (!mark.empty() && begins_with(file, mark)) return;
  throw DataError(file.string() + ": already exists" +
                  (replaces == Replaces::kHdf5   ? " and is no HDF5 file, which would be replaced"
                   : replaces == Replaces::kHtml ? " and is no HTML page, which would be replaced"
                                                 : "") +
                  "; remove it or give another file");
}

}  // namespace ossature
