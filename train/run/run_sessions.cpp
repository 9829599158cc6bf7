#include "train/run/run_sessions.h"

#include <sched.h>
#include <unistd.h>

#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include <ATen/Parallel.h>

#include "train/run/append_file.h"
#include "train/run/log_line.h"
#include "train/run/version.h"

namespace ossature {
namespace {

constexpr const char* kFile = "sessions.jsonl";
using Json = nlohmann::ordered_json;

std::string now() {
  const std::time_t seconds = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  char text[32];
  const std::size_t length = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return {text, length};
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "";
}

std::int64_t usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : ::sysconf(_SC_NPROCESSORS_ONLN);
}

}  // namespace

RunSession this_session(std::int64_t first_step) {
  RunSession session;
  session.first_step = first_step;
  session.started = now();
  session.version = version_text();
  session.processor = processor_name();
  session.processors = usable_processors();
  session.threads = at::get_num_threads();
  session.memory_bytes = static_cast<std::int64_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
  return session;
}

void append_session(const std::filesystem::path& run_dir, const RunSession& session) {
  const Json line = {{"first_step", session.first_step},    {"started", session.started},
                     {"version", session.version},          {"processor", session.processor},
                     {"processors", session.processors},    {"threads", session.threads},
                     {"memory_bytes", session.memory_bytes}};
  AppendFile(run_dir / kFile).append(line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
}

std::vector<RunSession> read_sessions(const std::filesystem::path& run_dir) {
  std::vector<RunSession> sessions;
  for_each_log_line(run_dir / kFile, [&](const nlohmann::json& line) {
    sessions.push_back({log_count(line, "first_step"), log_text(line, "started"), log_text(line, "version"),
                        log_text(line, "processor"), log_count(line, "processors"), log_count(line, "threads"),
                        log_count(line, "memory_bytes")});
  });
  return sessions;
}

}  // namespace ossature
