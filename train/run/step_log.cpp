#include "train/run/step_log.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace ossature {
namespace {

namespace fs = std::filesystem;

fs::path keep_steps(const fs::path& file, std::int64_t steps_done, std::string_view undone) {
  fs::create_directories(file.parent_path());
  const fs::path rest = file.string() + ".partial";
  fs::remove(rest);
  {
    AppendFile out(rest);
    std::ifstream in(file);
    std::string line;
    while (steps_done > 0 && std::getline(in, line) && !in.eof()) {
      const auto object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (!object.is_object() || !object.contains("step") || !object["step"].is_number_integer()) continue;
      const bool is_undone = object["step"] == steps_done && !undone.empty() && object.contains(undone);
      if (object["step"] <= steps_done && !is_undone) out.append(line + "\n");
    }
  }
  fs::rename(rest, file);
  return file;
}

}  // namespace

StepLog::StepLog(const fs::path& file, std::int64_t steps_done, std::string_view undone)
    : lines_(keep_steps(file, steps_done, undone)) {}

void StepLog::append(std::string_view line) {
  lines_.append(std::string(line) + "\n");
}

}  // namespace ossature
