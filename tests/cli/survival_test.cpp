// What ends a run in its middle, and that what goes on ends in the bytes of a run that nothing ended: kills at random
// moments, damaged checkpoints, a full disk. What only the clock and the machine decide stands in the fields
// `seconds`, `bookkeeping_seconds`, `tokens_per_second` and `peak_rss_bytes` of metrics.jsonl; all else of it must be
// equal.
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "tests/cli/workspace.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// metrics.jsonl without what only the clock and the machine decide.
std::string decided(const fs::path& run_dir) {
  std::string text;
  std::ifstream file(run_dir / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    auto object = nlohmann::ordered_json::parse(line);
    for (const char* key : {"seconds", "bookkeeping_seconds", "tokens_per_second", "peak_rss_bytes"}) object.erase(key);
    text += object.dump() + "\n";
  }
  return text;
}

std::vector<fs::path> checkpoints_of(const fs::path& run_dir) {
  std::vector<fs::path> found;
  if (!fs::exists(run_dir / "checkpoints")) return found;
  for (const auto& entry : fs::directory_iterator(run_dir / "checkpoints")) found.push_back(entry.path());
  return found;
}

std::uint64_t bytes_in(const fs::path& dir) {
  std::uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(dir))
    if (entry.is_regular_file()) bytes += entry.file_size();
  return bytes;
}

/// A run with dropout, shuffling, validation, sample replies and checkpoints, and what it leaves when nothing ends it.
class Survival : public testing::Test {
 protected:
  void begin(int steps) {
    const std::string model = workspace_.small_model(), tokens = workspace_.tokens(24);
    recipe_ = workspace_.write(
        "recipe.yaml", "base_model: " + model + "\noutput_dir: " + whole_.string() + "\ndata: {train: " + tokens +
                           ", validation: " + tokens +
                           ", sequence_length: 128}\n"
                           "lora: {r: 4, lora_dropout: 0.1}\n"
                           "train: {micro_batch_size: 2, gradient_accumulation_steps: 2, epochs: 100, "
                           "learning_rate: 1.0e-2, warmup_steps: 5, seed: 3, threads: 1, max_steps: " +
                           std::to_string(steps) +
                           "}\n"
                           "evaluation: {every_steps: 15, sample_prompts: [\"Who are you?\", \"Count to\\nthree.\"], "
                           "sample_tokens: 12}\n"
                           "checkpoint: {every_steps: 2, keep: 2}\n");
    const auto start = Clock::now();
    output_of({"train", recipe_});
    whole_seconds_ = std::chrono::duration<double>(Clock::now() - start).count();
    ASSERT_FALSE(decided(whole_).empty());
  }

  [[nodiscard]] ProgramResult run(const fs::path& dir, const ProgramOptions& options = {}) const {
    return run_program({"train", recipe_, "output_dir=" + dir.string(), "--resume"}, options);
  }

  void expect_as_whole(const fs::path& dir) const {
    EXPECT_EQ(decided(dir), decided(whole_));
    EXPECT_EQ(read_bytes(dir / "samples.jsonl"), read_bytes(whole_ / "samples.jsonl"));
    for (const char* file : {"adapter/adapter_model.safetensors", "adapter/adapter_config.json"})
      EXPECT_TRUE(read_bytes(dir / file) == read_bytes(whole_ / file)) << file;
  }

  Workspace workspace_;
  fs::path whole_ = workspace_.path("whole");
  std::string recipe_;
  double whole_seconds_ = 0;
};

TEST_F(Survival, KilledAtTwentyRandomMoments) {
  begin(60);
  const auto seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> delay(0.0, 0.4 * whole_seconds_);
  const fs::path dir = workspace_.path("killed");
  int kills = 0, runs = 0;
  while (kills < 20 || fs::exists(dir)) {
    const auto at = Clock::now() + std::chrono::duration<double>(delay(random));
    ProgramOptions options;
    options.signal = random() % 2 == 0 ? SIGKILL : SIGTERM;
    if (kills < 20) options.interrupt_when = [at] { return Clock::now() >= at; };
    SCOPED_TRACE("seed " + std::to_string(seed) + ", kill " + std::to_string(kills));
    const ProgramResult result = run(dir, options);
    if (result.exit_code == 0) {
      expect_as_whole(dir);
      fs::remove_all(dir);
      ++runs;
      continue;
    }
    const int by_signal = 128 + options.signal;
    ASSERT_TRUE(result.exit_code == by_signal || (options.signal == SIGTERM && result.exit_code == 130))
        << result.exit_code << "\n"
        << result.err;
    EXPECT_EQ(result.err.find("damaged"), std::string::npos) << result.err;
    ++kills;
    if (HasFailure()) return;
  }
  std::cout << kills << " kills, " << runs << " runs that ended\n";
  EXPECT_GE(runs, 1);
}

TEST_F(Survival, EachFileOfTheNewestCheckpointTruncated) {
  begin(6);
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(whole_ / "checkpoints/step-6")) {
    if (!entry.is_regular_file()) continue;
    const std::uint64_t size = entry.file_size();
    for (const std::uint64_t left : {std::uint64_t{0}, size - 2}) {
      const fs::path dir = workspace_.path("run"), file = dir / fs::relative(entry.path(), whole_);
      SCOPED_TRACE(file.string() + " of " + std::to_string(left) + " bytes");
      fs::copy(whole_, dir, fs::copy_options::recursive);
      fs::resize_file(file, left);
      const ProgramResult result = run(dir);
      EXPECT_EQ(result.exit_code, 0) << result.err;
      EXPECT_NE(result.err.find("passing over a damaged checkpoint: " + file.string()), std::string::npos)
          << result.err;
      EXPECT_NE(result.err.find("going on after step 4"), std::string::npos) << result.err;
      expect_as_whole(dir);
      fs::remove_all(dir);
      ++files;
    }
  }
  EXPECT_EQ(files, 2 * 2) << "the tensors and the position";
}

/// A file system in memory.
class SmallDisk {
 public:
  SmallDisk(fs::path dir, std::uint64_t bytes) : dir_(std::move(dir)) {
    fs::create_directories(dir_);
    const std::string size = "size=" + std::to_string(bytes);
    error_ = ::mount("tmpfs", dir_.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, size.c_str()) == 0 ? 0 : errno;
  }
  ~SmallDisk() {
    if (error_ == 0) ::umount2(dir_.c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  [[nodiscard]] int error() const { return error_; }
  /// Everything but `bytes` taken by one file; 0 gives all back.
  void leave(std::uint64_t bytes) const {
    fs::remove(dir_ / "ballast");
    if (bytes == 0) return;
    const std::uint64_t free = fs::space(dir_).free;
    ASSERT_GT(free, bytes);
    std::ofstream(dir_ / "ballast", std::ios::binary) << std::string(free - bytes, 'x');
  }

 private:
  fs::path dir_;
  int error_ = 0;
};

TEST_F(Survival, DiskThatFillsUp) {
  const fs::path mounted = workspace_.path("disk");
  const SmallDisk disk(mounted, 32 << 20);
  if (disk.error() != 0) GTEST_SKIP() << "no file system can be mounted here: " << std::strerror(disk.error());
  begin(12);
  const std::uint64_t checkpoint = bytes_in(whole_ / "checkpoints/step-12");
  ASSERT_LT(6 * checkpoint, std::uint64_t{32} << 20);
  const fs::path dir = mounted / "run";
  // Too little for the first checkpoint, for the second beside the first, and for a third before the first may go.
  for (const std::uint64_t room : {std::uint64_t{40'000}, checkpoint * 3 / 2, checkpoint * 5 / 2}) {
    SCOPED_TRACE(room);
    disk.leave(room);
    const ProgramResult full = run(dir);
    EXPECT_EQ(full.exit_code, 5) << full.err;
    EXPECT_NE(full.err.find("\nossature: error: " + dir.string()), std::string::npos) << full.err;
    EXPECT_NE(full.err.find("No space left on device"), std::string::npos) << full.err;
    EXPECT_FALSE(fs::exists(dir / "adapter"));
    const auto kept = checkpoints_of(dir);
    EXPECT_EQ(kept.size(), room / checkpoint);

    const ProgramResult again = run(dir);  // still full: no worse
    EXPECT_EQ(again.exit_code, 5) << again.err;
    EXPECT_EQ(checkpoints_of(dir).size(), kept.size());

    disk.leave(0);
    const ProgramResult resumed = run(dir);
    EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
    EXPECT_EQ(resumed.err.find("going on after step ") != std::string::npos, !kept.empty()) << resumed.err;
    EXPECT_EQ(resumed.err.find("damaged"), std::string::npos) << resumed.err;
    expect_as_whole(dir);
    fs::remove_all(dir);
  }
}

}  // namespace
}  // namespace ossature
