// Writes large token files and measures how fast, and in how much memory, they are read back in training's order.
//   loader_benchmark write FILE BYTES              until the file has about BYTES bytes
//   loader_benchmark read FILE SECONDS WORKERS     opens, verifies, loads for SECONDS; prints figures
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "data/batches/loader.h"

namespace ossature {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Of all threads: on a busy machine the rate a second of processor is the steadier figure.
double processor_seconds() {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(use.ru_utime) + seconds(use.ru_stime);
}

/// "12.3 million tokens/s (14.5 a second of processor)"
std::string rate(std::int64_t tokens, double seconds, double processor) {
  char text[96];
  const double millions = static_cast<double>(tokens) / 1e6;
  std::snprintf(text, sizeof(text), "%.1f million tokens/s (%.1f a second of processor)", millions / seconds,
                millions / processor);
  return text;
}

/// Of this program, as Linux counts it, in MB.
double peak_megabytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    double kibibytes = 0;
    if (word == "VmHWM:" && status >> kibibytes) return kibibytes * 1024 / 1e6;
  }
  return 0;
}

void write(const std::filesystem::path& path, std::uintmax_t bytes) {
  constexpr std::int64_t kVocabSize = 201'088;
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> uniform;
  std::vector<std::int32_t> pool(std::size_t{1} << 24);  // samples are parts of it
  for (auto& token : pool) token = static_cast<std::int32_t>(std::exp(uniform(random) * std::log(kVocabSize))) - 1;
  std::lognormal_distribution<double> lengths(std::log(600.0) - 0.5, 1.0);  // mean 600
  const auto start = Clock::now();
  const double processor = processor_seconds();
  TokenFileWriter writer(path, kVocabSize, "");
  std::filesystem::path temporary;
  for (const auto& entry : std::filesystem::directory_iterator(path.parent_path())) {
    if (entry.path().string().starts_with(path.string() + ".partial-")) temporary = entry.path();
  }
  std::int64_t tokens = 0, samples = 0;
  std::vector<float> weights;
  for (; samples % 10'000 != 0 || std::filesystem::file_size(temporary) < bytes; ++samples) {
    const auto length = static_cast<std::size_t>(std::clamp(std::llround(lengths(random)), 1LL, 4096LL));
    weights.assign(length, 1.0f);
    std::fill_n(weights.begin(), random() % length, 0.0f);
    writer.add(std::span(pool).subspan(random() % (pool.size() - length), length), weights, "chats.jsonl:1");
    tokens += static_cast<std::int64_t>(length);
  }
  writer.finish();
  const double seconds = seconds_since(start);
  std::printf("wrote %lld samples, %lld tokens, %.2f GB in %.1f s: %s\n", static_cast<long long>(samples),
              static_cast<long long>(tokens), static_cast<double>(std::filesystem::file_size(path)) / 1e9, seconds,
              rate(tokens, seconds, processor_seconds() - processor).c_str());
}

void read(const std::filesystem::path& path, double seconds, std::int64_t workers) {
  auto start = Clock::now();
  double processor = 0;
  const auto file = std::make_shared<const TokenFileReader>(path);
  std::printf("opened in %.2f s: %lld samples, %lld tokens; peak memory %.0f MB\n", seconds_since(start),
              static_cast<long long>(file->num_samples()), static_cast<long long>(file->num_tokens()),
              peak_megabytes());
  start = Clock::now();
  processor = processor_seconds();
  file->verify();
  std::printf("verified in %.2f s, %s; peak memory %.0f MB\n", seconds_since(start),
              rate(file->num_tokens(), seconds_since(start), processor_seconds() - processor).c_str(),
              peak_megabytes());
  Loader loader(file, {.sequence_length = 4096, .seed = 1, .num_workers = workers});
  std::printf("packing efficiency %.3f %%, %lld rows\n", 100 * loader.packing_efficiency(),
              static_cast<long long>(loader.epoch_size().rows));
  start = Clock::now();
  std::int64_t tokens = static_cast<std::int64_t>(loader.next().tokens.size());
  std::printf("first batch after %.2f s\n", seconds_since(start));
  for (const std::int64_t epoch : {0, 1}) {  // the second is made while the first is held
    if (epoch == 1) loader.seek({1, 0});
    tokens = 0;
    (void)loader.next();
    start = Clock::now();
    processor = processor_seconds();
    while (seconds_since(start) < seconds) tokens += static_cast<std::int64_t>(loader.next().tokens.size());
    std::printf("epoch %lld, %lld workers: %s; peak memory %.0f MB\n", static_cast<long long>(epoch),
                static_cast<long long>(workers),
                rate(tokens, seconds_since(start), processor_seconds() - processor).c_str(), peak_megabytes());
  }
}

}  // namespace
}  // namespace ossature

int main(int argc, char** argv) {
  if (argc == 4 && std::strcmp(argv[1], "write") == 0) {
    ossature::write(argv[2], std::strtoull(argv[3], nullptr, 10));
  } else if (argc == 5 && std::strcmp(argv[1], "read") == 0) {
    ossature::read(argv[2], std::strtod(argv[3], nullptr), std::strtoll(argv[4], nullptr, 10));
  } else {
    std::fprintf(stderr, "usage: loader_benchmark write FILE BYTES | read FILE SECONDS WORKERS\n");
    return 2;
  }
}
